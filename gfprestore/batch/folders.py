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

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePath

from gfprestore.batch.output_folder import (
    check_writable,
    create_folder_within,
    is_within,
    leads_elsewhere,
    longest_name,
    shortened,
)
from gfprestore.batch.walk import (
    FolderWalk,
    InputRoot,
    Skipped,
    existing_inputs,
    file_identity,
    folded_name,
    natural_key,
)
from gfprestore.errors import FolderError

PREVIEW_FOLDERS = ("_compare", "_faces")  # names in an output folder that no mirrored folder or photo gets


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
    roots = _group(existing_inputs(inputs))
    _place(roots, output)
    walk = FolderWalk(
        suffixes, tuple(exclude), {identity for root in roots if (identity := file_identity(root.output))}
    )
    for root in roots:
        walk.collect(root)
    if not any(root.found for root in roots):
        raise FolderError(_nothing_found(roots, walk.skipped))
    tasks = _assign_outputs(roots, rename, walk.skipped)
    _refuse_originals(tasks)
    return Plan(tuple(tasks), tuple(walk.skipped))


def create_folder_of(task: PhotoTask) -> None:
    """Creates the folder of a task's output within the output folder, just before the result is written.

    Raises:
        FolderError: The output folder itself is gone.
        PhotoError: The folder cannot be created, or a link leads it out of the output folder.
    """
    create_folder_within(task.output.parent, task.folder)


def _group(paths: Sequence[Path]) -> list[InputRoot]:
    """Inputs by the folder that is mirrored: the outermost input folder around each, else a file's own folder."""
    folder_inputs: dict[Path, Path] = {}  # real path -> as first given
    for path in paths:
        if path.is_dir():
            folder_inputs.setdefault(path.resolve(), path)
    real_parents: dict[Path, Path] = {}  # a shell expands `*.jpg` to many files of one folder
    roots: dict[Path, InputRoot] = {}
    for path in paths:
        if path.is_dir():
            own, name = path.resolve(), PurePath()
        else:
            if path.parent not in real_parents:
                real_parents[path.parent] = path.parent.resolve()
            own, name = real_parents[path.parent], PurePath(path.name)
        real = next((around for around in reversed([own, *own.parents]) if around in folder_inputs), own)
        root = roots.setdefault(real, InputRoot(folder_inputs.get(real, path.parent), real, real in folder_inputs))
        root.targets.append((path, own.relative_to(real) / name))
    return list(roots.values())


def _place(roots: Sequence[InputRoot], output: Path | None) -> None:
    """Gives every root its output folder and, where several share one, its sub-folder.

    Raises:
        FolderError: The output folder is an input folder, or it cannot be created or written.
    """
    labels = _labels(roots) if output is not None and _need_subfolders(roots) else [PurePath()] * len(roots)
    identities = {identity for root in roots if (identity := file_identity(root.real))}
    for root, label in zip(roots, labels, strict=True):
        root.output = output if output is not None else _default_output(root)
        root.label = label
        for place in (root.output, root.output / label):
            if file_identity(place) in identities:
                raise FolderError(
                    f"The output folder {place} is an input folder as well, and originals are never written to. "
                    "Name another folder with --output."
                )
        check_writable(root.output)


def _default_output(root: InputRoot) -> Path:
    folder = root.folder if root.folder.name not in ("", "..") else root.real
    if not folder.name:
        raise FolderError(f"{folder} has no folder beside it for the results. Name one with --output.")
    return folder.with_name(f"{folder.name}-restored")


def _need_subfolders(roots: Sequence[InputRoot]) -> bool:
    if len(roots) == 1:
        return False
    names = [folded_name(path.name) for root in roots for path, _within in root.targets]
    return any(root.is_folder_input for root in roots) or len(set(names)) < len(names)


def _labels(roots: Sequence[InputRoot]) -> list[PurePath]:
    """The last parts of each root's path, as few as tell all of them apart."""
    parts = [root.real.parts[1:] or ("root",) for root in roots]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = [PurePath(*root_parts[-depth:]) for root_parts in parts]
        if len({folded_name(label.as_posix()) for label in labels}) == len(labels):
            break
    return labels


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
        marked = (shortened(stem, f"~{digest[:length]}{suffix}", self.longest) for length in range(8, len(digest) + 1))
        names = [f"{stem}{suffix}" for stem, suffix in wanted]
        fitting = (name for name in names if len(os.fsencode(name)) <= self.longest)
        return next(name for name in chain(fitting, marked) if self.take(parent, name))

    def take(self, parent: PurePath, name: str) -> bool:
        """Gives a name away; False where it is given away already."""
        key = (parent, folded_name(name))
        is_free = key not in self.taken
        self.taken.add(key)
        return is_free


def _assign_outputs(
    roots: Sequence[InputRoot], rename: Callable[[Path], str], skipped: list[Skipped]
) -> list[PhotoTask]:
    """One task a photo, each with an output of its own; photos whose output would leave the folder are skipped.

    Folders take their names first, then the photos whose name does not change, then the others: `a.jpg` beside `a.png`
    becomes `a.jpg.png` where all become PNG.
    """
    names = {root.output: _Names(longest_name(root.output)) for root in roots}
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
    sources = {identity for task in tasks if (identity := file_identity(task.source))}
    for task in tasks:
        if file_identity(task.output) in sources:
            raise FolderError(
                f"The result of {task.source} would be written over the original {task.output}. "
                "Name another folder with --output."
            )


def _kept_spelling(source: Path, suffix: str) -> str:
    """`.JPG` stays `.JPG` where the format stays."""
    return source.suffix if suffix.lower() == source.suffix.lower() else suffix


def _what_blocks(parent: Path, folder: Path) -> str | None:
    """Why results cannot be written to `parent` within the output folder; None where they can."""
    if not is_within(parent, folder):
        return leads_elsewhere(parent, folder)
    for place in (parent, *parent.parents):
        if place == folder:
            break
        if os.path.lexists(place) and not place.is_dir():
            return f"a file is in the way at {place}"
    return None


def _nothing_found(roots: Sequence[InputRoot], skipped: Sequence[Skipped]) -> str:
    places = ", ".join(str(path) for root in roots for path, _within in root.targets)
    shown = next((entry for entry in skipped if entry.is_problem), skipped[0] if skipped else None)
    if shown is None:
        return f"{places} holds no photos: it is empty. Name a folder with photos."
    return (
        f"{places} holds no photos that can be restored. Left out: {len(skipped)}, "
        f"such as {shown.path} ({shown.reason}). Name a folder with photos, or one of its folders or files directly."
    )
