"""The state of a source file: size, modification time and SHA-256, read in one pass."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gfprestore.errors import PhotoError
from gfprestore.files import open_without_waiting

if TYPE_CHECKING:
    from gfprestore.photo.photo import Photo


@dataclass(frozen=True)
class SourceState:
    """State of an original: SHA-256 in hex digits, size in bytes, and modification time in nanoseconds."""

    sha256: str
    size: int
    modified_ns: int


def read_source_state(path: Path) -> SourceState:
    """Read an original once and return its state.

    Raises:
        PhotoError: It cannot be read, or it changed while it was read.
    """
    digest = hashlib.sha256()
    try:
        with os.fdopen(open_without_waiting(path), "rb") as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise PhotoError(f"{path} is not a regular file. Exclude it with --exclude.")
            while chunk := file.read(1 << 20):
                digest.update(chunk)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise PhotoError(f"{path} cannot be read: {error.strerror or error}. Check the file and run again.") from None
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise PhotoError(f"{path} changed while it was read. Run again when no other program is writing to it.")
    return SourceState(digest.hexdigest(), after.st_size, after.st_mtime_ns)


def check_unchanged(source: Path, state: SourceState, photo: Photo) -> None:
    """Check that the decoded original is the one that was hashed for the journal.

    An original that was deleted after decoding is accepted.

    Raises:
        PhotoError: The file was changed after its hash was taken or while it was decoded.
    """
    times = photo.metadata.file_times
    changed = times is not None and times[1] != state.modified_ns
    with contextlib.suppress(OSError):
        status = source.stat()
        changed = changed or (status.st_size, status.st_mtime_ns) != (state.size, state.modified_ns)
    if changed:
        raise PhotoError(f"{source} changed while it was read. Run again when no other program is writing to it.")
