"""The open file of a journal: its lock, its last line and its folder."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from gfprestore.errors import FolderError

NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}  # a file system without locks


def lock(descriptor: int, path: Path) -> bool:
    """Lock an open journal for this process; False if the file system does not support locks.

    Raises:
        FolderError: Another process has locked it.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(
                descriptor, 1 << 40, os.SEEK_SET
            )  # far beyond the end: on Windows a locked byte cannot be read by others
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise FolderError(
            f"Another run is writing to {path.parent}. Wait until it ends, or choose another folder with --output."
        ) from None
    return True


def end_last_line(descriptor: int) -> None:
    """End an incomplete last line left by a killed process, so that the next entry starts on its own line."""
    size = os.fstat(descriptor).st_size
    if size:
        os.lseek(descriptor, size - 1, os.SEEK_SET)
        if os.read(descriptor, 1) != b"\n":
            os.write(descriptor, b"\n")


def sync_folder(folder: Path) -> None:
    """Sync the journal's folder to disk if the system supports it; unlike `files.sync_folder`, errors are raised."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        finally:
            os.close(descriptor)
