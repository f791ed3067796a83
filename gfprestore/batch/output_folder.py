"""Output folders: created, checked for writing, names that fit, leftovers removed."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import tempfile
from pathlib import Path

from gfprestore.errors import FolderError, PhotoError

LONGEST_NAME = 255  # bytes; the limit of ext4, APFS, NTFS and nearly all others


def prepare_output(folder: Path) -> None:
    """Creates an output folder and proves with a short-lived file that it can be written.

    Raises:
        FolderError: It cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix=".gfprestore-") as probe:
            probe.write(b"\0")
    except (OSError, ValueError) as error:
        raise FolderError(_unusable_output(folder, error)) from None


def create_folder_within(parent: Path, folder: Path) -> None:
    """Creates a folder in an output folder, the folders between them too.

    Raises:
        FolderError: The output folder itself is gone.
        PhotoError: It cannot be created, or a link leads it out of the output folder.
    """
    if not folder.is_dir():
        raise FolderError(
            f"The output folder {folder} is gone. Bring it back (was a drive unplugged?) and run again: "
            "what is done is skipped."
        )
    try:
        if not is_within(parent, folder):
            raise PhotoError(leads_elsewhere(parent, folder))
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PhotoError(
            f"The folder {parent} cannot be created: {reason_of(error)}. Make room for it and run again."
        ) from None


def name_with(name: str, ending: str, folder: Path) -> str:
    """A name with an ending behind it, shortened and marked by a hash where `folder` takes no name as long."""
    longest = longest_name(folder)
    if len(os.fsencode(name + ending)) <= longest:
        return name + ending
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()
    return shortened(name, f"~{digest[:8]}{ending}", longest)


def check_writable(folder: Path) -> None:
    """Looks, without creating anything, whether a folder exists or can be created, and can be written.

    Raises:
        FolderError: It cannot, or something that is no folder is in the way.
    """
    try:
        standing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        if not standing.is_dir():
            code = errno.EEXIST if standing == folder else errno.ENOTDIR
            raise OSError(code, f"{standing} is in the way and is no folder")
        if not os.access(standing, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, f"{standing} cannot be written")
    except (OSError, ValueError) as error:
        raise FolderError(_unusable_output(folder, error)) from None


def shortened(stem: str, ending: str, longest: int) -> str:
    """`stem` and `ending` in at most `longest` bytes; characters of the stem give way whole."""
    while stem and len(os.fsencode(stem + ending)) > longest:
        stem = stem[:-1]
    return stem + ending


def longest_name(folder: Path) -> int:
    """Bytes that a name in `folder` may have: encrypted folders hold fewer than the usual 255."""
    if sys.platform == "win32":
        return LONGEST_NAME
    standing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        return min(LONGEST_NAME, os.pathconf(standing, "PC_NAME_MAX"))
    except OSError:  # a file system that does not tell
        return LONGEST_NAME


def is_within(path: Path, folder: Path) -> bool:
    """Whether `path` stays in `folder` when all links are followed."""
    return real_path(path).is_relative_to(real_path(folder))


def real_path(path: Path) -> Path:
    """The absolute path with all links followed; unlike `Path.resolve` it takes a link that loops."""
    return Path(os.path.realpath(path))


def _unusable_output(folder: Path, error: OSError | ValueError) -> str:
    return f"The output folder {folder} cannot be used: {reason_of(error)}. Name another folder with --output."


def leads_elsewhere(parent: Path, folder: Path) -> str:
    """The message for a link that leads out of the output folder."""
    return f"a link leads {parent} out of the output folder {folder}; remove the link"


def reason_of(error: OSError | ValueError) -> str:
    """The operating system's reason for an error, in words."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
