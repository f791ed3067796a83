"""Search for photos in the folders and patterns on the command line."""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
import re
import stat
import unicodedata
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from gfprestore.batch.output_folder import real_path, reason_of
from gfprestore.errors import FolderError

JOURNAL_NAME = ".gfprestore.jsonl"  # defined here because a folder with a journal is a result, not a source

Identity = tuple[int, int] | Path  # device and inode; the real path on file systems without inodes


@dataclass(frozen=True)
class Skipped:
    """A skipped path and its reason: a rule (hidden, unsupported, excluded), or an error if `is_problem` is set."""

    path: Path
    reason: str
    is_problem: bool = False


def natural_key(name: str) -> tuple[tuple[str | int, ...], bytes]:
    """Sort key with `scan 2` before `scan 10`, independent of case and Unicode form; the raw name breaks ties."""
    pieces = re.split(r"(\d+)", folded_name(name))
    return tuple(int(piece) if index % 2 else piece for index, piece in enumerate(pieces)), os.fsencode(name)


@dataclass
class InputRoot:
    """A mirrored folder with the inputs inside it and the photos found there."""

    folder: Path  # as given by the user
    real: Path
    is_folder_input: bool
    targets: list[tuple[Path, PurePath]] = field(default_factory=list)  # (path as given, path within the root)
    found: dict[PurePath, Path] = field(default_factory=dict)  # path within the root -> source
    output: Path = Path()
    label: PurePath = PurePath()  # the subfolder of `output` that mirrors this root


def existing_inputs(inputs: Sequence[Path | str]) -> list[Path]:
    """Expand globs as a shell does and check that every named file and folder exists.

    Raises:
        FolderError: One does not exist, or none is named.
    """
    paths: list[Path] = []
    for name in inputs:
        if not str(name):
            raise FolderError("An input has an empty name. Name a photo or a folder (`.` for the current folder).")
        path = Path(name)
        if _exists(path):
            paths.append(path)
        elif any(character in str(name) for character in "*?["):
            matches = sorted(glob.glob(str(name), recursive=True), key=natural_key)  # noqa: PTH207 - Path takes no root
            if not matches:
                raise FolderError(f"No file matches {name}. Check the pattern, or name the folder itself.")
            paths.extend(Path(match) for match in matches)
        else:
            raise FolderError(
                f"{name} does not exist or is not accessible. Check the name and that its drive is connected."
            )
    if not paths:
        raise FolderError("No input was given. Name photos or folders: gfprestore run FOLDER.")
    return paths


class FolderWalk:
    """Collector of the photos of each root and of the skipped paths."""

    def __init__(
        self,
        suffixes: frozenset[str],
        exclude: tuple[str, ...],
        outputs: set[Identity],
        reason_left_out: Callable[[Path], str | None] | None = None,
    ) -> None:
        self.suffixes = suffixes
        self.reason_left_out = reason_left_out or self._reason_by_suffix
        self.exclude = tuple(unicodedata.normalize("NFC", pattern.rstrip("/")) for pattern in exclude)
        self.outputs = outputs
        self.skipped: list[Skipped] = []

    def collect(self, root: InputRoot) -> None:
        """Fill `root.found` from the root's targets, outermost first, so that no photo is collected twice."""
        visited: set[Identity] = set()
        for path, within in sorted(root.targets, key=lambda target: len(target[1].parts)):
            if path.is_dir():
                if within != PurePath() and self._is_excluded(path, within):
                    self._skip(path, "excluded")
                else:
                    self._walk(path, within, root, visited)
            elif within not in root.found:
                self._take(path, within, root, named=True)

    def _walk(self, start: Path, within: PurePath, root: InputRoot, visited: set[Identity]) -> None:
        """Walk each folder once, real folders before linked ones, so that a link never hides a real name."""
        folders, links = deque([(start, within)]), deque[tuple[Path, PurePath]]()
        while folders or links:
            folder, folder_within = folders.popleft() if folders else links.popleft()
            identity = file_identity(folder)
            if identity in visited:
                if folder != start:
                    self._skip(folder, "a link to a folder that is already included")
                continue
            if identity in self.outputs:
                self._skip(folder, "the output folder")
                continue
            visited.update([identity] if identity else [])
            try:
                with os.scandir(folder) as scan:
                    entries = sorted(scan, key=lambda entry: natural_key(entry.name))
            except OSError as error:
                if folder == start:
                    raise FolderError(
                        f"The folder {folder} cannot be read: {reason_of(error)}. Check its permissions."
                    ) from None
                self._skip(folder, f"the folder cannot be read: {reason_of(error)}", is_problem=True)
                continue
            if folder != start and any(entry.name == JOURNAL_NAME for entry in entries):
                self._skip(folder, "results of an earlier run")
                continue
            for entry in entries:
                self._sort_out(entry, folder / entry.name, folder_within / entry.name, root, folders, links)

    def _sort_out(
        self,
        entry: os.DirEntry[str],
        path: Path,
        within: PurePath,
        root: InputRoot,
        folders: deque[tuple[Path, PurePath]],
        links: deque[tuple[Path, PurePath]],
    ) -> None:
        try:
            if _is_hidden(entry):
                self._skip(path, "hidden")
            elif self._is_excluded(path, within):
                self._skip(path, "excluded")
            elif entry.is_dir():
                (links if entry.is_symlink() else folders).append((path, within))
            else:
                self._take(path, within, root, named=False)
        except OSError as error:
            is_circular = error.errno == errno.ELOOP
            reason = "a circular link" if is_circular else f"not accessible: {reason_of(error)}"
            self._skip(path, reason, is_problem=not is_circular or path.suffix.lower() in self.suffixes)

    def _take(self, path: Path, within: PurePath, root: InputRoot, *, named: bool) -> None:
        if named and self._is_excluded(path, within):
            self._skip(path, "excluded")
        elif not path.is_file():
            self._skip_irregular(path, named)
        elif reason := self.reason_left_out(path):
            self._skip(path, reason, is_problem=named)
        else:
            root.found[within] = path

    def _skip_irregular(self, path: Path, named: bool) -> None:
        if path.suffix.lower() not in self.suffixes:
            self._skip(path, "unsupported file type", is_problem=named)
        elif not _exists(path):
            self._skip(path, "a broken link", is_problem=True)
        else:
            self._skip(path, "not a regular file (a device, a pipe or a socket)", is_problem=True)

    def _reason_by_suffix(self, path: Path) -> str | None:
        return None if path.suffix.lower() in self.suffixes else "unsupported file type"

    def _is_excluded(self, path: Path, within: PurePath) -> bool:
        if not self.exclude:
            return False
        names = [unicodedata.normalize("NFC", name) for name in (path.name, within.as_posix(), path.as_posix())]
        return any(fnmatch.fnmatch(name, pattern) for pattern in self.exclude for name in names)

    def _skip(self, path: Path, reason: str, is_problem: bool = False) -> None:
        self.skipped.append(Skipped(path, reason, is_problem))


def folded_name(name: str) -> str:
    """Normalized name, equal for names that many file systems treat as one (case and Unicode form)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def file_identity(path: Path) -> Identity | None:
    """Identity shared by all names of a file or folder; None if it does not exist."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if status.st_ino else real_path(path)


def _is_hidden(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith("."):
        return True
    attributes: int = getattr(entry.stat(follow_symlinks=False), "st_file_attributes", 0)  # Windows only
    return bool(attributes & stat.FILE_ATTRIBUTE_HIDDEN)
