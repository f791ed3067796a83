"""Creation of output folders, write checks, and file names within the length limit."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gfprestore.errors import FolderError, PhotoError
from gfprestore.file_attributes import folder_attributes, give

LONGEST_NAME = 255  # bytes; the limit of ext4, APFS, NTFS and nearly all others


def prepare_output(folder: Path, sources: Sequence[Path] = ()) -> bool:
    """Create an output folder and verify with a temporary file that it is writable.

    Args:
        folder: The output folder.
        sources: Folders that it mirrors; a new folder is open to no more people than these.

    Returns:
        Whether the folder is new.

    Raises:
        FolderError: It cannot be created or written.
    """
    try:
        is_new = not folder.exists()
        if is_new:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _make_folder(folder, sources)
        folder.mkdir(exist_ok=True)  # raises an error if it is a file
        with tempfile.TemporaryFile(dir=folder, prefix=".gfprestore-") as probe:
            probe.write(b"\0")
    except (OSError, ValueError) as error:
        raise FolderError(_unusable_output(folder, error)) from None
    return is_new


def _make_folder(folder: Path, sources: Sequence[Path]) -> None:
    """Create a folder that is open to no more people than the sources.

    Raises:
        OSError: It cannot be created.
    """
    attributes = folder_attributes(sources)
    if attributes is None:
        folder.mkdir(exist_ok=True)
        return
    try:
        folder.mkdir(attributes.mode)
    except FileExistsError:  # another thread made it
        return
    give(attributes, folder)


def create_folder_within(parent: Path, folder: Path, source: Path | None = None) -> None:
    """Create a folder in an output folder, including missing folders in between.

    Args:
        parent: The folder to create.
        folder: The output folder.
        source: The folder or photo that `parent` mirrors. New folders are open to no more people than their
            counterparts, the folders above `source`.

    Raises:
        FolderError: The output folder no longer exists.
        PhotoError: It cannot be created, or a link points outside the output folder.
    """
    if not folder.is_dir():
        raise FolderError(
            f"The output folder {folder} no longer exists. Check that its drive is connected. "
            "Then run the same command again; finished photos are skipped."
        )
    try:
        if not is_within(parent, folder):
            raise PhotoError(outside_link_message(parent, folder))
        counterparts = [] if source is None else [source, *source.absolute().parents]
        missing = [place for place in (parent, *parent.parents) if not os.path.lexists(place)]
        for level in reversed(range(len(missing))):
            _make_folder(missing[level], counterparts[level : level + 1])
        parent.mkdir(parents=True, exist_ok=True)  # raises an error if it is a file
    except OSError as error:
        raise PhotoError(
            f"The folder {parent} cannot be created: {reason_of(error)}. Check the disk space and run again."
        ) from None


def name_with(name: str, ending: str, folder: Path) -> str:
    """Append an ending to a name; the name is shortened and marked with a hash if it is too long for `folder`."""
    longest = longest_name(folder)
    if len(os.fsencode(name + ending)) <= longest:
        return name + ending
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()
    return shortened(name, f"~{digest[:8]}{ending}", longest)


def check_writable(folder: Path) -> None:
    """Check, without creating anything, that a folder exists or can be created and is writable.

    Raises:
        FolderError: It is not, or a file has the same path.
    """
    try:
        standing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        if not standing.is_dir():
            code = errno.EEXIST if standing == folder else errno.ENOTDIR
            raise OSError(code, f"{standing} is not a folder")
        if not os.access(standing, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, f"{standing} is not writable")
    except (OSError, ValueError) as error:
        raise FolderError(_unusable_output(folder, error)) from None


def shortened(stem: str, ending: str, longest: int) -> str:
    """Join `stem` and `ending` in at most `longest` bytes by dropping whole characters of the stem."""
    while stem and len(os.fsencode(stem + ending)) > longest:
        stem = stem[:-1]
    return stem + ending


def longest_name(folder: Path) -> int:
    """Maximum length of a file name in `folder` in bytes; encrypted folders allow fewer than the usual 255."""
    if sys.platform == "win32":
        return LONGEST_NAME
    standing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        return min(LONGEST_NAME, os.pathconf(standing, "PC_NAME_MAX"))
    except OSError:  # a file system that does not report its limit
        return LONGEST_NAME


def is_within(path: Path, folder: Path) -> bool:
    """Whether `path` is inside `folder` after all links are resolved."""
    return real_path(path).is_relative_to(real_path(folder))


def real_path(path: Path) -> Path:
    """Absolute path with all links resolved; unlike `Path.resolve`, accepts a circular link."""
    return Path(os.path.realpath(path))


def _unusable_output(folder: Path, error: OSError | ValueError) -> str:
    return f"The output folder {folder} is not usable: {reason_of(error)}. Choose another folder with --output."


def outside_link_message(parent: Path, folder: Path) -> str:
    """Message about a link that points outside the output folder."""
    return f"a link in {parent} points outside the output folder {folder}; remove the link"


def reason_of(error: OSError | ValueError) -> str:
    """Reason for an error in the operating system's words."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
