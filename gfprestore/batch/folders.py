"""Plan of a run: the photos to read and the path of each result, from the inputs on the command line.

The plan mirrors each input folder. Planning only reads: it creates nothing, and an original is never an output.
A plan depends only on file names, not on the file system's order or case sensitivity, so the same folder gives the same
plan on every machine. Output paths:

- Without an output folder: `<folder>-restored` beside each input folder. A single file goes to
  `<its folder>-restored`, as in a run over its whole folder.
- With an output folder: directly in it. Several input folders get a subfolder each, named after the input folder; files
  from several folders get subfolders only if their names clash.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from gfprestore.batch.names import folded_name
from gfprestore.batch.output_folder import check_writable, create_folder_within
from gfprestore.batch.output_names import assign_outputs
from gfprestore.batch.task_list import PhotoTask, TaskList
from gfprestore.batch.walk import UNSUPPORTED_IMAGE, FolderWalk, InputRoot, Skipped, existing_inputs, file_identity
from gfprestore.errors import FolderError


@dataclass(frozen=True)
class Plan:
    """All tasks in natural order of their names, input by input, and the skipped files.

    Attributes:
        tasks: one per photo.
        skipped: files and folders that are left out.
        mirrored: each output folder with the input folder that it mirrors; several may share one.
    """

    tasks: TaskList
    skipped: tuple[Skipped, ...]
    mirrored: tuple[tuple[Path, Path], ...] = ()

    @property
    def output_folders(self) -> tuple[Path, ...]:
        """Output folders in the order of their first task; each holds its own journal."""
        return self.tasks.folders

    @property
    def problems(self) -> tuple[Skipped, ...]:
        """Skipped files that make the run incomplete because they could not be read or written."""
        return tuple(entry for entry in self.skipped if entry.is_problem)


def plan_photos(
    inputs: Sequence[Path | str],
    output: Path | None,
    *,
    suffixes: frozenset[str],
    rename: Callable[[Path], str],
    exclude: Sequence[str] = (),
    kinds: frozenset[str] = frozenset(),
    system_folders: bool = False,
) -> Plan:
    """Find the photos and choose the path of each result; creates and changes nothing.

    Args:
        inputs: photos, folders and unexpanded globs.
        output: the output folder; None for `<folder>-restored` beside each input folder.
        suffixes: suffixes of photos in lower case with their dot, such as `.jpg`.
        rename: the suffix of the result for a source, such as `.png`.
        exclude: shell patterns; files and folders are skipped if a pattern matches their name, their path within the
            input folder or their path as given.
        kinds: kinds of images that are read (`image_kind`), which are taken in whatever their suffix.
        system_folders: take in system and trash folders too (`is_system_folder`); one that is named always is.

    Raises:
        FolderError: An input does not exist or cannot be read, no photo was found, or the output folder is not usable.
    """
    skipped: list[Skipped] = []
    roots = _group(existing_inputs(inputs, skipped, system_folders=system_folders))
    _place(roots, output)
    outputs = {identity for root in roots if (identity := file_identity(root.output))}
    walk = FolderWalk(suffixes, tuple(exclude), outputs, kinds=kinds, system_folders=system_folders)
    walk.skipped += skipped
    for root in roots:
        walk.collect(root)
    if not any(len(root.found) for root in roots):
        raise FolderError(_nothing_found(roots, walk.skipped))
    tasks = TaskList(assign_outputs(roots, rename, walk.skipped))
    _refuse_originals(tasks)
    return Plan(tasks, tuple(walk.skipped), tuple((root.output, root.folder) for root in roots))


def find_photos(
    inputs: Sequence[Path | str],
    *,
    suffixes: frozenset[str],
    exclude: Sequence[str] = (),
    kinds: frozenset[str] = frozenset(),
    system_folders: bool = False,
) -> tuple[list[Path], list[Skipped]]:
    """Find the photos of all inputs, at least one, and the skipped files; see `plan_photos`.

    Raises:
        FolderError: An input does not exist or cannot be read, or no photo was found.
    """
    skipped: list[Skipped] = []
    roots = _group(existing_inputs(inputs, skipped, system_folders=system_folders))
    walk = FolderWalk(suffixes, tuple(exclude), set(), kinds=kinds, system_folders=system_folders)
    walk.skipped += skipped
    for root in roots:
        walk.collect(root)
    found = [row.source / name for root in roots for row in root.found.rows() for name in row.names]
    if not found:
        raise FolderError(_nothing_found(roots, walk.skipped))
    return found, walk.skipped


def create_folder_of(task: PhotoTask) -> None:
    """Create the folder of a task's output before it is written, open to no more people than its source's.

    Raises:
        FolderError: The output folder no longer exists.
        PhotoError: The folder cannot be created, or a link points outside the output folder.
    """
    create_folder_within(task.output.parent, task.folder, task.source.parent)


def _group(paths: Sequence[Path]) -> list[InputRoot]:
    """Group inputs by mirrored folder: the outermost input folder around each, or else a file's own folder."""
    folder_inputs: dict[Path, Path] = {}  # real path -> as first given
    for path in paths:
        if path.is_dir():
            folder_inputs.setdefault(path.resolve(), path)
    real_parents: dict[Path, Path] = {}  # cached, because a shell expands `*.jpg` to many files of one folder
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
    """Assign each root its output folder and, if several roots share one, a subfolder.

    Raises:
        FolderError: The output folder is also an input folder, or it cannot be created or written.
    """
    labels = _labels(roots) if output is not None and _need_subfolders(roots) else [PurePath()] * len(roots)
    identities = {identity for root in roots if (identity := file_identity(root.real))}
    for root, label in zip(roots, labels, strict=True):
        root.output = output if output is not None else _default_output(root)
        root.label = label
        for place in (root.output, root.output / label):
            if file_identity(place) in identities:
                raise FolderError(
                    f"The output folder {place} is also an input folder. Originals are never overwritten. "
                    "Choose another folder with --output."
                )
        check_writable(root.output)


def _default_output(root: InputRoot) -> Path:
    folder = root.folder if root.folder.name not in ("", "..") else root.real
    if not folder.name:
        raise FolderError(f"{folder} has no parent folder for the results. Choose an output folder with --output.")
    return folder.with_name(f"{folder.name}-restored")


def _need_subfolders(roots: Sequence[InputRoot]) -> bool:
    if len(roots) == 1:
        return False
    names = [folded_name(path.name) for root in roots for path, _within in root.targets]
    return any(root.is_folder_input for root in roots) or len(set(names)) < len(names)


def _labels(roots: Sequence[InputRoot]) -> list[PurePath]:
    """Shortest path endings that distinguish all roots."""
    parts = [root.real.parts[1:] or ("root",) for root in roots]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = [PurePath(*root_parts[-depth:]) for root_parts in parts]
        if len({folded_name(label.as_posix()) for label in labels}) == len(labels):
            break
    return labels


def _refuse_originals(tasks: Sequence[PhotoTask]) -> None:
    """Refuse a plan that would overwrite an original, as a last check.

    Raises:
        FolderError: A result would overwrite one of the photos to restore.
    """
    sources = _IdentitySet(task.source for task in tasks)
    for task in tasks:
        identity = file_identity(task.output)
        if identity in sources and any(file_identity(other.source) == identity for other in tasks):
            raise FolderError(
                f"The result of {task.source} would overwrite the original {task.output}. "
                "Choose another folder with --output."
            )


class _IdentitySet:
    """Identities of many files as sorted hashes of 8 bytes; very rarely it seems to contain another one."""

    def __init__(self, paths: Iterable[Path]) -> None:
        hashes = array("q", (hash(identity) for path in paths if (identity := file_identity(path))))
        self._hashes = array("q", sorted(hashes))

    def __contains__(self, identity: object) -> bool:
        place = bisect_left(self._hashes, hash(identity))
        return identity is not None and place < len(self._hashes) and self._hashes[place] == hash(identity)


def _nothing_found(roots: Sequence[InputRoot], skipped: Sequence[Skipped]) -> str:
    places = ", ".join(str(path) for root in roots for path, _within in root.targets)
    by_weight = sorted(skipped, key=lambda entry: (not entry.is_problem, entry.reason != UNSUPPORTED_IMAGE))
    shown = next(iter(by_weight), None)
    if shown is None:
        return f"{places} contains no photos: it is empty. Choose a folder with photos."
    return (
        f"{places} contains no photos that can be restored. Skipped: {len(skipped)}, "
        f"such as {shown.path} ({shown.described}). Choose a folder with photos, or name one of its folders or files."
    )
