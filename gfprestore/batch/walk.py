"""Search for photos in the folders and patterns on the command line."""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
import stat
import unicodedata
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from gfprestore.batch.found_photos import FoundPhotos
from gfprestore.batch.names import natural_key
from gfprestore.batch.output_folder import real_path, reason_of
from gfprestore.batch.system_folders import is_system_folder
from gfprestore.errors import FolderError
from gfprestore.photo.kinds import HEAD_BYTES, advice_for, image_kind

SYSTEM_FOLDER = "a system or trash folder"
UNSUPPORTED_IMAGE, UNSUPPORTED_FILE = "unsupported type of image", "not an image"
SIDECAR = "a sidecar that is not copied"
BACKUP = "a backup or an unfinished copy"
_BACKUP_ENDINGS = ("_original", "~", ".bak", ".tmp", ".part", ".crdownload")
JOURNAL_NAME = ".gfprestore.jsonl"  # defined here because a folder with a journal is a result, not a source

Identity = tuple[int, int] | Path  # device and inode; the real path on file systems without inodes


@dataclass(frozen=True)
class Skipped:
    """A skipped path and its reason: a rule (hidden, unsupported, excluded), or an error if `is_problem` is set.

    `kind` is that of an image, such as `HEIC`, `folder`, or the suffix of another file.
    """

    path: Path
    reason: str
    is_problem: bool = False
    kind: str = "folder"

    @property
    def described(self) -> str:
        """The reason, with the kind of an unsupported image and what to do about it."""
        if self.reason != UNSUPPORTED_IMAGE:
            return self.reason
        return f"{self.reason}: {self.kind}. {advice_for(self.kind)}"


@dataclass
class InputRoot:
    """A mirrored folder with the inputs inside it and the photos found there."""

    folder: Path  # as given by the user
    real: Path
    is_folder_input: bool
    targets: list[tuple[Path, PurePath]] = field(default_factory=list)  # (path as given, path within the root)
    found: FoundPhotos = field(default_factory=FoundPhotos)
    output: Path = Path()
    label: PurePath = PurePath()  # the subfolder of `output` that mirrors this root


def existing_inputs(inputs: Sequence[Path | str], skipped: list[Skipped], *, system_folders: bool) -> list[Path]:
    """Expand globs as a shell does and check that every named file and folder exists.

    Args:
        inputs: Files, folders and patterns.
        skipped: Gets the matches of patterns that lead into a system folder that the pattern does not name.
        system_folders: Take these in too.

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
            for match in map(Path, matches):
                folder = _unnamed_system_folder(match, path)
                if folder is None or system_folders:
                    paths.append(match)
                elif all(entry.path != folder for entry in skipped):
                    skipped.append(Skipped(folder, SYSTEM_FOLDER))
        else:
            raise FolderError(
                f"{name} does not exist or is not accessible. Check the name and that its drive is connected."
            )
    if not paths and not skipped:
        raise FolderError("No input was given. Name photos or folders: gfprestore run FOLDER.")
    return paths


def _unnamed_system_folder(match: Path, pattern: Path) -> Path | None:
    """The outermost system folder in the path of a match that its pattern does not name; None if there is none."""
    places = [place for place in (match, *match.parents) if place.name not in pattern.parts]
    return next((place for place in reversed(places) if is_system_folder(place.name) and place.is_dir()), None)


class FolderWalk:
    """Collector of the photos of each root and of the skipped paths."""

    def __init__(
        self,
        suffixes: frozenset[str],
        exclude: tuple[str, ...],
        outputs: set[Identity],
        *,
        kinds: frozenset[str] = frozenset(),
        system_folders: bool = False,
    ) -> None:
        self.suffixes = suffixes
        self.kinds = kinds
        self.system_folders = system_folders
        self.exclude = exclude
        self.outputs = outputs
        self.skipped: list[Skipped] = []

    def collect(self, root: InputRoot) -> None:
        """Fill `root.found` from the root's targets, outermost first, so that no photo is collected twice."""
        visited: set[Identity] = set()
        for path, within in sorted(root.targets, key=lambda target: len(target[1].parts)):
            if path.is_dir():
                if within != PurePath() and is_excluded(path, within, self.exclude):
                    self._skip(path, "excluded")
                else:
                    self._walk(path, within, root, visited)
            elif within not in root.found and self._is_photo(path, within, named=True):
                root.found.add(within, path)

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
            photos = [
                entry.name
                for entry in entries
                if self._sort_out(entry, folder / entry.name, folder_within / entry.name, folders, links)
            ]
            root.found.add_folder(folder_within, folder, photos)

    def _sort_out(
        self,
        entry: os.DirEntry[str],
        path: Path,
        within: PurePath,
        folders: deque[tuple[Path, PurePath]],
        links: deque[tuple[Path, PurePath]],
    ) -> bool:
        """Queue a folder, or note why something is skipped; returns whether it is a photo to restore."""
        try:
            kind = "folder" if entry.is_dir() else _kind_by_name(path)
            is_system = kind == "folder" and is_system_folder(entry.name)
            if is_system and not self.system_folders:
                self._skip(path, SYSTEM_FOLDER)
            elif not is_system and _is_hidden(entry):
                self._skip(path, "hidden", kind=kind)
            elif is_excluded(path, within, self.exclude):
                self._skip(path, "excluded", kind=kind)
            elif entry.is_dir():
                (links if entry.is_symlink() else folders).append((path, within))
            else:
                return self._is_photo(path, within, named=False)
        except OSError as error:
            is_circular = error.errno == errno.ELOOP
            reason = "a circular link" if is_circular else f"not accessible: {reason_of(error)}"
            is_problem = not is_circular or path.suffix.lower() in self.suffixes
            self._skip(path, reason, is_problem, _kind_by_name(path))
        return False

    def _is_photo(self, path: Path, within: PurePath, *, named: bool) -> bool:
        """Whether a file is a photo to restore; otherwise notes why it is skipped."""
        by_name = _kind_by_name(path)
        kind = None if path.suffix.lower() in self.suffixes else _image_kind_of(path)
        if named and is_excluded(path, within, self.exclude):
            self._skip(path, "excluded", kind=by_name)
        elif path.suffix.lower() not in self.suffixes and (reason := self._reason_for(path, kind)):
            self._skip(path, reason, named, kind or by_name)
        elif not _exists(path):
            self._skip(path, "a broken link", True, by_name)
        elif not path.is_file():
            self._skip(path, "not a regular file (a device, a pipe or a socket)", True, by_name)
        else:
            return True
        return False

    def _reason_for(self, path: Path, kind: str | None) -> str | None:
        """Why a file without the suffix of a photo is left out; None if its content is an image that is read."""
        if kind not in self.kinds:
            return UNSUPPORTED_FILE if kind is None else UNSUPPORTED_IMAGE
        return BACKUP if path.name.lower().endswith(_BACKUP_ENDINGS) else None

    def _skip(self, path: Path, reason: str, is_problem: bool = False, kind: str = "folder") -> None:
        self.skipped.append(Skipped(path, reason, is_problem, kind))


def is_excluded(path: Path, within: PurePath, patterns: Iterable[str]) -> bool:
    """Whether a pattern of `--exclude` matches the name of a path, its path within the input folder or as given."""
    names = [unicodedata.normalize("NFC", name) for name in (path.name, within.as_posix(), path.as_posix())]
    normalized = (unicodedata.normalize("NFC", pattern.rstrip("/")) for pattern in patterns)
    return any(fnmatch.fnmatch(name, pattern) for pattern in normalized for name in names)


def _kind_by_name(path: Path) -> str:
    return path.suffix.lower() or "no suffix"


def _image_kind_of(path: Path) -> str | None:
    """Kind of an image by its content; None for other files, and for those that cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as file:
            return image_kind(file.read(HEAD_BYTES), path.suffix)
    except (OSError, ValueError):
        return None


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
