"""From the photos, folders and globs that a user names to a plan: which photo is read, where its result goes.

The plan mirrors each input folder and is made by reading alone: nothing is created, no original is ever an output.
A plan depends on the names only, not on the file system's order or on its idea of upper and lower case, so that the
same folder gives the same plan on every machine. Where results go:

- without an output folder, beside each input folder in `<folder>-restored`; a single file goes to
  `<its folder>-restored`, where a run over its whole folder would put it;
- with one, straight into it. Several input folders get a sub-folder each, named after them; files of several folders
  do so only where their names clash.

Imports errors only.
"""

from __future__ import annotations

import errno
import fnmatch
import glob
import hashlib
import os
import re
import stat
import sys
import tempfile
import unicodedata
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePath

from gfprestore.errors import FolderError, PhotoError

JOURNAL_NAME = ".gfprestore.jsonl"  # stands here because a folder that holds one is a result, not a source
PREVIEW_FOLDERS = ("_compare", "_faces")  # names in an output folder that no mirrored folder or photo gets
LEFTOVER = re.compile(r"\.gfprestore-[0-9a-f]{16}\.part")  # what a photo is called while it is written
LONGEST_NAME = 255  # bytes; the limit of ext4, APFS, NTFS and nearly all others

Identity = tuple[int, int] | Path  # device and inode; the real path on file systems that number nothing


@dataclass(frozen=True)
class PhotoTask:
    """One photo to restore.

    Attributes:
        source: the original, under the name by which the user reaches it.
        output: the final path of the result; lies in `folder`.
        relative: the source's mirrored name, unique in `folder`: the photo's stable name in the journal and in seeds.
        folder: the output folder that `output` is planned in and that holds the journal.
    """

    source: Path
    output: Path
    relative: PurePath
    folder: Path


@dataclass(frozen=True)
class Skipped:
    """Something that is not restored: by a rule (hidden, no photo, excluded), or a fault where `is_problem` is set."""

    path: Path
    reason: str
    is_problem: bool = False


@dataclass(frozen=True)
class Plan:
    """All tasks in natural order of their names, input by input, and what was left out."""

    tasks: tuple[PhotoTask, ...]
    skipped: tuple[Skipped, ...]

    @property
    def output_folders(self) -> tuple[Path, ...]:
        """The output folders in the order of their first task; each holds its own journal."""
        return tuple(dict.fromkeys(task.folder for task in self.tasks))

    @property
    def problems(self) -> tuple[Skipped, ...]:
        """What could not be read or written and so makes the run incomplete."""
        return tuple(entry for entry in self.skipped if entry.is_problem)


def plan_photos(
    inputs: Sequence[Path | str],
    output: Path | None,
    *,
    suffixes: frozenset[str],
    rename: Callable[[Path], str],
    exclude: Sequence[str] = (),
) -> Plan:
    """Finds the photos and decides where each result goes; creates and changes nothing.

    Args:
        inputs: photos, folders and globs that the shell did not expand.
        output: the output folder; None for `<folder>-restored` beside each input folder.
        suffixes: suffixes of photos in lower case with their dot, such as `.jpg`.
        rename: the suffix of the result for a source, such as `.png`.
        exclude: shell patterns; a file or folder whose name, path within its input folder or path as given matches is
            left out.

    Raises:
        FolderError: An input does not exist or cannot be read, no photo was found, or the output folder cannot be used.
    """
    roots = _group(_existing_inputs(inputs))
    _place(roots, output)
    walk = _Walk(suffixes, tuple(exclude), {identity for root in roots if (identity := _identity(root.output))})
    for root in roots:
        walk.collect(root)
    if not any(root.found for root in roots):
        raise FolderError(_nothing_found(roots, walk.skipped))
    tasks = _assign_outputs(roots, rename, walk.skipped)
    _refuse_originals(tasks)
    return Plan(tuple(tasks), tuple(walk.skipped))


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


def create_folder_of(task: PhotoTask) -> None:
    """Creates the folder of a task's output within the output folder, just before the result is written.

    Raises:
        FolderError: The output folder itself is gone.
        PhotoError: The folder cannot be created, or a link leads it out of the output folder.
    """
    create_folder_within(task.output.parent, task.folder)


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
        if not _is_within(parent, folder):
            raise PhotoError(_leads_elsewhere(parent, folder))
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PhotoError(
            f"The folder {parent} cannot be created: {_why(error)}. Make room for it and run again."
        ) from None


def name_with(name: str, ending: str, folder: Path) -> str:
    """A name with an ending behind it, shortened and marked by a hash where `folder` takes no name as long."""
    longest = _longest_name(folder)
    if len(os.fsencode(name + ending)) <= longest:
        return name + ending
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()
    return _shortened(name, f"~{digest[:8]}{ending}", longest)


def remove_leftovers(folder: Path) -> list[Path]:
    """Removes unfinished files that a killed run left anywhere in its output folder; follows no links.

    Only for a folder that no other run is writing into.

    Returns:
        What was removed.

    Raises:
        OSError: One cannot be removed.
    """
    removed = []
    for place, _folders, names in os.walk(folder):
        for path in (Path(place, name) for name in names if LEFTOVER.fullmatch(name)):
            path.unlink()
            removed.append(path)
    return removed


def natural_key(name: str) -> tuple[tuple[str | int, ...], bytes]:
    """Sorts `scan 2` before `scan 10`, without regard to case and normal form; the raw name decides between equals."""
    pieces = re.split(r"(\d+)", _fold(name))
    return tuple(int(piece) if index % 2 else piece for index, piece in enumerate(pieces)), os.fsencode(name)


@dataclass
class _Root:
    """A folder that is mirrored as a whole, the inputs that lie in it, and what was found there."""

    folder: Path  # as the user names it
    real: Path
    is_folder_input: bool
    targets: list[tuple[Path, PurePath]] = field(default_factory=list)  # (path as given, path within the root)
    found: dict[PurePath, Path] = field(default_factory=dict)  # path within the root -> source
    output: Path = Path()
    label: PurePath = PurePath()  # the sub-folder of `output` that mirrors this root


def _existing_inputs(inputs: Sequence[Path | str]) -> list[Path]:
    """The named files and folders, with globs expanded as a shell does.

    Raises:
        FolderError: One does not exist, or there are none.
    """
    paths: list[Path] = []
    for name in inputs:
        if not str(name):
            raise FolderError("An empty name was given as input. Name a photo or a folder (`.` for this one).")
        path = Path(name)
        if _exists(path):
            paths.append(path)
        elif any(character in str(name) for character in "*?["):
            matches = sorted(glob.glob(str(name), recursive=True), key=natural_key)  # noqa: PTH207 - Path takes no root
            if not matches:
                raise FolderError(f"Nothing matches {name}. Check the pattern, or name the folder itself.")
            paths.extend(Path(match) for match in matches)
        else:
            raise FolderError(
                f"{name} does not exist or cannot be reached. Check the name, and that its drive is connected."
            )
    if not paths:
        raise FolderError("No photos were named. Name photos or folders: gfprestore run FOLDER.")
    return paths


def _group(paths: Sequence[Path]) -> list[_Root]:
    """Inputs by the folder that is mirrored: the outermost input folder around each, else a file's own folder."""
    folder_inputs: dict[Path, Path] = {}  # real path -> as first given
    for path in paths:
        if path.is_dir():
            folder_inputs.setdefault(path.resolve(), path)
    real_parents: dict[Path, Path] = {}  # a shell expands `*.jpg` to many files of one folder
    roots: dict[Path, _Root] = {}
    for path in paths:
        if path.is_dir():
            own, name = path.resolve(), PurePath()
        else:
            if path.parent not in real_parents:
                real_parents[path.parent] = path.parent.resolve()
            own, name = real_parents[path.parent], PurePath(path.name)
        real = next((around for around in reversed([own, *own.parents]) if around in folder_inputs), own)
        root = roots.setdefault(real, _Root(folder_inputs.get(real, path.parent), real, real in folder_inputs))
        root.targets.append((path, own.relative_to(real) / name))
    return list(roots.values())


def _place(roots: Sequence[_Root], output: Path | None) -> None:
    """Gives every root its output folder and, where several share one, its sub-folder.

    Raises:
        FolderError: The output folder is an input folder, or it cannot be created or written.
    """
    labels = _labels(roots) if output is not None and _need_subfolders(roots) else [PurePath()] * len(roots)
    identities = {identity for root in roots if (identity := _identity(root.real))}
    for root, label in zip(roots, labels, strict=True):
        root.output = output if output is not None else _default_output(root)
        root.label = label
        for place in (root.output, root.output / label):
            if _identity(place) in identities:
                raise FolderError(
                    f"The output folder {place} is an input folder as well, and originals are never written to. "
                    "Name another folder with --output."
                )
        _check_writable(root.output)


def _default_output(root: _Root) -> Path:
    folder = root.folder if root.folder.name not in ("", "..") else root.real
    if not folder.name:
        raise FolderError(f"{folder} has no folder beside it for the results. Name one with --output.")
    return folder.with_name(f"{folder.name}-restored")


def _need_subfolders(roots: Sequence[_Root]) -> bool:
    if len(roots) == 1:
        return False
    names = [_fold(path.name) for root in roots for path, _within in root.targets]
    return any(root.is_folder_input for root in roots) or len(set(names)) < len(names)


def _labels(roots: Sequence[_Root]) -> list[PurePath]:
    """The last parts of each root's path, as few as tell all of them apart."""
    parts = [root.real.parts[1:] or ("root",) for root in roots]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = [PurePath(*root_parts[-depth:]) for root_parts in parts]
        if len({_fold(label.as_posix()) for label in labels}) == len(labels):
            break
    return labels


def _check_writable(folder: Path) -> None:
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


class _Walk:
    """Collects the photos of each root and notes what it leaves out."""

    def __init__(self, suffixes: frozenset[str], exclude: tuple[str, ...], outputs: set[Identity]) -> None:
        self.suffixes = suffixes
        self.exclude = tuple(unicodedata.normalize("NFC", pattern.rstrip("/")) for pattern in exclude)
        self.outputs = outputs
        self.skipped: list[Skipped] = []

    def collect(self, root: _Root) -> None:
        """Fills `root.found` from the root's targets, the outermost first, so that none is collected twice."""
        visited: set[Identity] = set()
        for path, within in sorted(root.targets, key=lambda target: len(target[1].parts)):
            if path.is_dir():
                if within != PurePath() and self._is_excluded(path, within):
                    self._skip(path, "excluded")
                else:
                    self._walk(path, within, root, visited)
            elif within not in root.found:
                self._take(path, within, root, named=True)

    def _walk(self, start: Path, within: PurePath, root: _Root, visited: set[Identity]) -> None:
        """Walks the real folders first, then those behind links, each folder once: a link never hides a real name."""
        folders, links = deque([(start, within)]), deque[tuple[Path, PurePath]]()
        while folders or links:
            folder, folder_within = folders.popleft() if folders else links.popleft()
            identity = _identity(folder)
            if identity in visited:
                if folder != start:
                    self._skip(folder, "a link to a folder that is walked already")
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
                        f"The folder {folder} cannot be read: {_why(error)}. Check its permissions."
                    ) from None
                self._skip(folder, f"the folder cannot be read: {_why(error)}", is_problem=True)
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
        root: _Root,
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
            is_circle = error.errno == errno.ELOOP
            reason = "a link in a circle" if is_circle else f"cannot be reached: {_why(error)}"
            self._skip(path, reason, is_problem=not is_circle or path.suffix.lower() in self.suffixes)

    def _take(self, path: Path, within: PurePath, root: _Root, *, named: bool) -> None:
        if named and self._is_excluded(path, within):
            self._skip(path, "excluded")
        elif path.suffix.lower() not in self.suffixes:
            self._skip(path, "no photo by its suffix", is_problem=named)
        elif not _exists(path):
            self._skip(path, "a link to nothing", is_problem=True)
        elif not path.is_file():
            self._skip(path, "no regular file (a device, a pipe or a socket)", is_problem=True)
        else:
            root.found[within] = path

    def _is_excluded(self, path: Path, within: PurePath) -> bool:
        if not self.exclude:
            return False
        names = [unicodedata.normalize("NFC", name) for name in (path.name, within.as_posix(), path.as_posix())]
        return any(fnmatch.fnmatch(name, pattern) for pattern in self.exclude for name in names)

    def _skip(self, path: Path, reason: str, is_problem: bool = False) -> None:
        self.skipped.append(Skipped(path, reason, is_problem))


class _Names:
    """Names already given away in one output folder; two names that some file system takes for one are the same."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.taken = {(PurePath(), name) for name in PREVIEW_FOLDERS}
        self.folders: dict[PurePath, PurePath] = {PurePath(): PurePath()}

    def folder(self, relative: PurePath) -> PurePath:
        """The output's sub-folder for a mirrored one."""
        if relative not in self.folders:
            parent = self.folder(relative.parent)
            self.folders[relative] = parent / self.claim(parent, relative, [(relative.name, "")])
        return self.folders[relative]

    def claim(self, parent: PurePath, relative: PurePath, wanted: Sequence[tuple[str, str]]) -> str:
        """The first wanted name (stem, suffix) that is free in `parent`, else the first marked by `relative`'s hash."""
        digest = hashlib.sha256(os.fsencode(relative.as_posix())).hexdigest()
        stem, suffix = wanted[0]
        marked = (_shortened(stem, f"~{digest[:length]}{suffix}", self.longest) for length in range(8, len(digest) + 1))
        names = [f"{stem}{suffix}" for stem, suffix in wanted]
        fitting = (name for name in names if len(os.fsencode(name)) <= self.longest)
        return next(name for name in chain(fitting, marked) if self.take(parent, name))

    def take(self, parent: PurePath, name: str) -> bool:
        """Gives a name away; False where it is given away already."""
        key = (parent, _fold(name))
        is_free = key not in self.taken
        self.taken.add(key)
        return is_free


def _assign_outputs(roots: Sequence[_Root], rename: Callable[[Path], str], skipped: list[Skipped]) -> list[PhotoTask]:
    """One task a photo, each with an output of its own; photos whose output would leave the folder are skipped.

    Folders take their names first, then the photos whose name does not change, then the others: `a.jpg` beside `a.png`
    becomes `a.jpg.png` where all become PNG.
    """
    names = {root.output: _Names(_longest_name(root.output)) for root in roots}
    outputs: dict[tuple[Path, PurePath], PurePath] = {}
    found = [
        (root, root.label / within, source)
        for root in roots
        for within, source in sorted(root.found.items(), key=lambda item: [natural_key(part) for part in item[0].parts])
    ]
    for root, relative, _source in found:
        names[root.output].folder(relative.parent)
    suffixes = [_kept_spelling(source, rename(source)) for _root, _relative, source in found]
    by_change = sorted(range(len(found)), key=lambda index: suffixes[index] != found[index][2].suffix)  # a stable sort
    for index in by_change:
        root, relative, source = found[index]
        given = names[root.output]
        parent = given.folder(relative.parent)
        wanted = [(source.stem, suffixes[index])]
        if suffixes[index] != source.suffix:
            wanted.append((source.name, suffixes[index]))
        outputs[root.output, relative] = parent / given.claim(parent, relative, wanted)

    blocked: dict[Path, str | None] = {}
    tasks = []
    for root, relative, source in found:
        output = root.output / outputs[root.output, relative]
        if output.parent not in blocked:
            blocked[output.parent] = _what_blocks(output.parent, root.output)
        reason = blocked[output.parent] or (f"a folder is in the way at {output}" if output.is_dir() else None)
        if reason:
            skipped.append(Skipped(source, reason, is_problem=True))
        else:
            tasks.append(PhotoTask(source, output, relative, root.output))
    return tasks


def _refuse_originals(tasks: Sequence[PhotoTask]) -> None:
    """The last guard of the originals.

    Raises:
        FolderError: A result would be written over one of the photos that are read.
    """
    sources = {identity for task in tasks if (identity := _identity(task.source))}
    for task in tasks:
        if _identity(task.output) in sources:
            raise FolderError(
                f"The result of {task.source} would be written over the original {task.output}. "
                "Name another folder with --output."
            )


def _kept_spelling(source: Path, suffix: str) -> str:
    """`.JPG` stays `.JPG` where the format stays."""
    return source.suffix if suffix.lower() == source.suffix.lower() else suffix


def _what_blocks(parent: Path, folder: Path) -> str | None:
    """Why results cannot be written to `parent` within the output folder; None where they can."""
    if not _is_within(parent, folder):
        return _leads_elsewhere(parent, folder)
    for place in (parent, *parent.parents):
        if place == folder:
            break
        if os.path.lexists(place) and not place.is_dir():
            return f"a file is in the way at {place}"
    return None


def _shortened(stem: str, ending: str, longest: int) -> str:
    """`stem` and `ending` in at most `longest` bytes; characters of the stem give way whole."""
    while stem and len(os.fsencode(stem + ending)) > longest:
        stem = stem[:-1]
    return stem + ending


def _longest_name(folder: Path) -> int:
    """Bytes that a name in `folder` may have: encrypted folders hold fewer than the usual 255."""
    if sys.platform == "win32":
        return LONGEST_NAME
    standing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        return min(LONGEST_NAME, os.pathconf(standing, "PC_NAME_MAX"))
    except OSError:  # a file system that does not tell
        return LONGEST_NAME


def _fold(name: str) -> str:
    """The same text for names that differ only in case or normal form, which many file systems hold for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def _identity(path: Path) -> Identity | None:
    """The same for all names of one file or folder; None where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if status.st_ino else _real(path)


def _is_within(path: Path, folder: Path) -> bool:
    """Whether `path` stays in `folder` when all links are followed."""
    return _real(path).is_relative_to(_real(folder))


def _real(path: Path) -> Path:
    """The absolute path with all links followed; unlike `Path.resolve` it takes a link that loops."""
    return Path(os.path.realpath(path))


def _is_hidden(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith("."):
        return True
    attributes: int = getattr(entry.stat(follow_symlinks=False), "st_file_attributes", 0)  # Windows only
    return bool(attributes & stat.FILE_ATTRIBUTE_HIDDEN)


def _nothing_found(roots: Sequence[_Root], skipped: Sequence[Skipped]) -> str:
    places = ", ".join(str(path) for root in roots for path, _within in root.targets)
    shown = next((entry for entry in skipped if entry.is_problem), skipped[0] if skipped else None)
    if shown is None:
        return f"{places} holds no photos: it is empty. Name a folder with photos."
    return (
        f"{places} holds no photos that can be restored. Left out: {len(skipped)}, "
        f"such as {shown.path} ({shown.reason}). Name a folder with photos, or one of its folders or files directly."
    )


def _unusable_output(folder: Path, error: OSError | ValueError) -> str:
    return f"The output folder {folder} cannot be used: {_why(error)}. Name another folder with --output."


def _leads_elsewhere(parent: Path, folder: Path) -> str:
    return f"a link leads {parent} out of the output folder {folder}; remove the link"


def _why(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
