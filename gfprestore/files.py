"""The only module that writes files atomically, appends to them and hashes them.

A file is written under a temporary name in its own folder, forced to the disk, and then moved to its final name. A
process that is killed while it writes leaves at most a temporary file, which `is_leftover` recognizes by its name.
Functions here raise OSError unless they say otherwise; callers turn it into an error of their own. Imports errors only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from gfprestore.errors import FolderError

TEMPORARY_PREFIX = ".gfprestore-"
"""Prefix of the names of unfinished files, which a killed process may leave behind."""

_LEFTOVER = re.compile(re.escape(TEMPORARY_PREFIX) + r"[0-9a-f]{16}\.part")
_BLOCK = 1 << 20


def is_leftover(name: str) -> bool:
    """Whether this is the name of an unfinished file."""
    return _LEFTOVER.fullmatch(name) is not None


@contextlib.contextmanager
def whole_file(
    path: Path,
    times: tuple[int, int] | None = None,
    on_complete: Callable[[Path], object] | None = None,
    mode: int = 0o666,
) -> Iterator[BinaryIO]:
    """Open a stream that becomes `path` if the block ends without an error; otherwise `path` is unchanged.

    Args:
        path: The final name; its folder exists.
        times: Access and modification time in nanoseconds for the file; None leaves the present time.
        on_complete: Called with the temporary name of the complete file before it is moved to `path`; an error it
            raises leaves `path` unchanged.
        mode: Permissions of the file, from which the system takes away the umask.

    Raises:
        OSError: The disk is full, or the folder is gone or locked.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.part")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if times is not None:
            os.utime(temporary, ns=times)
        if on_complete is not None:
            on_complete(temporary)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that appears under its name only when it is complete.

    Raises:
        FolderError: It cannot be written.
    """
    try:
        with whole_file(path) as stream:
            stream.write(data)
    except OSError as error:
        raise _unwritable(path, error) from None


def append(path: Path, data: bytes, line_end: bytes = b"") -> None:
    """Append to a file in one write, after ending an incomplete last line.

    Args:
        path: The file, created where it is missing.
        data: What to add.
        line_end: What a line ends with, for files of lines.

    Raises:
        FolderError: It cannot be written.
    """
    try:
        with path.open("ab+") as stream:
            if line_end and stream.tell():
                stream.seek(-len(line_end), os.SEEK_END)
                if stream.read(len(line_end)) != line_end:
                    data = line_end + data
            stream.write(data)
    except OSError as error:
        raise _unwritable(path, error) from None


def open_without_waiting(path: Path) -> int:
    """Open a file for reading and return its descriptor; a pipe that has taken its place is not waited for.

    Raises:
        OSError: It cannot be opened.
    """
    return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))


def sync_folder(folder: Path) -> None:
    """Make a new file name survive a power failure, if the file system supports it."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as 64 lower-case hexadecimal digits.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove unfinished files that a killed process left anywhere in its output folder; follows no links.

    Only for a folder that no other process is writing into.

    Returns:
        What was removed.

    Raises:
        OSError: One cannot be removed.
    """
    removed = []
    for place, _folders, names in os.walk(folder):
        for path in (Path(place, name) for name in names if is_leftover(name)):
            path.unlink()
            removed.append(path)
    return removed


def _unwritable(path: Path, error: OSError) -> FolderError:
    return FolderError(
        f"{path} cannot be written: {error.strerror or error}. Free some space, or choose another folder with --output."
    )
