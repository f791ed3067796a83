"""Files in an output folder that runs wrote, recognized by their hashes, so that a user's edits are never replaced.

A file that a run wrote has one of the hashes that the journal holds for its path. A file with any other content is the
user's: edited, tagged or replaced after it was written. Opens files of the output folder for reading only.
"""

from __future__ import annotations

import os
import stat
from enum import Enum
from pathlib import Path

from gfprestore.batch.hash_index import HashSet
from gfprestore.batch.source_state import read_source_state
from gfprestore.errors import PhotoError


class FileState(str, Enum):
    """State of the path of a result; the values are those of `state` in `run --dry-run --json`.

    Attributes:
        NEW: There is no file.
        RESTORED: The file is as a run wrote it.
        CHANGED: A run wrote the file, and it was changed afterwards.
        TAKEN: No run wrote the file.
    """

    NEW = "new"
    RESTORED = "restored"
    CHANGED = "changed"
    TAKEN = "taken"


def kept_reason(state: FileState) -> str:
    """Why a file with the state CHANGED or TAKEN is not replaced, as the rest of a sentence about it."""
    if state is FileState.CHANGED:
        return "was changed by you after a run wrote it."
    return "already exists and was not written by a run."


class FileKeptError(PhotoError):
    """A file has the state CHANGED or TAKEN and must not be replaced unasked.

    Args:
        path: The file.
        state: Its state.
        recorded: It is known which files runs wrote into its folder.
    """

    def __init__(self, path: Path, state: FileState, recorded: bool = True) -> None:
        super().__init__(
            f"{path} {kept_reason(state) if recorded else 'already exists.'} Move it, or replace it with --overwrite."
        )
        self.state = state


class WrittenFiles:
    """Hashes of the files that runs wrote into one output folder, in two sets of 12 to 24 bytes an entry."""

    def __init__(self) -> None:
        self._paths = HashSet()
        self._contents = HashSet()

    def add(self, path: str, sha256: str | None, size: int | None) -> None:
        """Add a file as it was written.

        Args:
            path: Its path in the output folder, with forward slashes.
            sha256: Its hash; None in a journal of an earlier version, where the size stands for it.
            size: Its size in bytes.
        """
        self._paths.add(path)
        self._contents.add(_named(path, sha256 or f"{size} bytes"))

    def state_of(self, folder: Path, path: str) -> FileState:
        """State of a file in an output folder; a file that cannot be read counts as changed."""
        place = folder / path
        if not os.path.lexists(place):
            return FileState.NEW
        if path not in self._paths:
            return FileState.TAKEN
        try:
            status = place.lstat()
            if not stat.S_ISREG(status.st_mode):
                return FileState.CHANGED
            if _named(path, f"{status.st_size} bytes") in self._contents:
                return FileState.RESTORED
            is_known = _named(path, read_source_state(place).sha256) in self._contents
        except (OSError, ValueError, PhotoError):
            return FileState.CHANGED
        return FileState.RESTORED if is_known else FileState.CHANGED


def _named(path: str, content: str) -> str:
    return f"{path}\0{content}"
