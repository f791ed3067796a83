"""Names of the results in the output folders: unique in each, also where case and Unicode form do not count."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path, PurePath

from gfprestore.batch.found_photos import SEPARATOR, PhotoRow
from gfprestore.batch.names import folded_name
from gfprestore.batch.output_folder import is_within, longest_name, outside_link_message, shortened
from gfprestore.batch.task_list import TaskRow
from gfprestore.batch.walk import InputRoot, Skipped

PREVIEW_FOLDERS = ("_compare", "_faces")  # reserved names in an output folder


class _Names:
    """Names in use in one output folder, compared without case and Unicode form as some file systems do."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.taken: dict[PurePath, set[str]] = {PurePath(): set(PREVIEW_FOLDERS)}
        self.folders: dict[PurePath, PurePath] = {PurePath(): PurePath()}

    def folder(self, relative: PurePath) -> PurePath:
        """Output subfolder for a mirrored folder."""
        if relative not in self.folders:
            parent = self.folder(relative.parent)
            self.folders[relative] = parent / self.claim(parent, relative, [(relative.name, "")])
        return self.folders[relative]

    def claim(self, parent: PurePath, relative: PurePath, wanted: Sequence[tuple[str, str]]) -> str:
        """Claim the first free name (stem, suffix) in `parent`, or else one marked with the hash of `relative`."""
        digest = hashlib.sha256(os.fsencode(relative.as_posix())).hexdigest()
        stem, suffix = wanted[0]
        marked = (shortened(stem, f"~{digest[:length]}{suffix}", self.longest) for length in range(8, len(digest) + 1))
        names = [f"{stem}{suffix}" for stem, suffix in wanted]
        fitting = (name for name in names if len(os.fsencode(name)) <= self.longest)
        return next(name for name in chain(fitting, marked) if self.take(parent, name))

    def take(self, parent: PurePath, name: str) -> bool:
        """Reserve a name; False if it is already in use."""
        taken, key = self.taken.setdefault(parent, set()), folded_name(name)
        is_free = key not in taken
        taken.add(key)
        return is_free


def assign_outputs(roots: Sequence[InputRoot], rename: Callable[[Path], str], skipped: list[Skipped]) -> list[TaskRow]:
    """Give each photo a unique output; photos whose output would leave the folder are skipped.

    Folders claim their names first, then photos whose name does not change, then the others: `a.jpg` beside `a.png`
    becomes `a.jpg.png` if all results are PNG.

    Returns:
        The photos in the order of the roots, each in natural order.
    """
    names = {root.output: _Names(longest_name(root.output)) for root in roots}
    found = [(root, _Row(root.label / row.within, row)) for root in roots for row in root.found.rows()]
    groups: dict[tuple[Path, PurePath], list[_Row]] = {}
    for root, row in found:
        names[root.output].folder(row.relative)
        groups.setdefault((root.output, row.relative), []).append(row)
    for (output, relative), rows in groups.items():
        _claim_names(names[output], relative, rows, rename)

    blocked: dict[Path, str | None] = {}
    tasks = []
    for root, row in found:
        parent = root.output / names[root.output].folders[row.relative]
        if parent not in blocked:
            blocked[parent] = _blocking_reason(parent, root.output)
        kept: list[tuple[str, str]] = []
        for name, output_name in row.pairs():
            output = parent / output_name
            reason = blocked[parent] or (f"{output} is an existing folder" if output.is_dir() else None)
            if reason:
                source = row.source / name
                skipped.append(Skipped(source, reason, is_problem=True, kind=source.suffix.lower()))
            else:
                kept.append((name, output_name))
        if kept:
            names_of_photos, names_of_results = (SEPARATOR.join(column) for column in zip(*kept, strict=True))
            same = names_of_results == names_of_photos
            tasks.append(
                TaskRow(
                    row.source, parent, row.relative, root.output, names_of_photos, "" if same else names_of_results
                )
            )
    return tasks


class _Row:
    """A row of photos with the names of their results."""

    def __init__(self, relative: PurePath, row: PhotoRow) -> None:
        self.relative = relative
        self.source = row.source
        self.names = SEPARATOR.join(row.names)
        self.outputs = ""  # those of the photos

    def pairs(self) -> list[tuple[str, str]]:
        """Names of the photos and of their results."""
        names = self.names.split(SEPARATOR)
        return list(zip(names, (self.outputs or self.names).split(SEPARATOR), strict=True))


def _claim_names(given: _Names, relative: PurePath, rows: Sequence[_Row], rename: Callable[[Path], str]) -> None:
    """Claim names for the photos of one folder, those whose name does not change first."""
    parent = given.folders[relative]
    photos = [(row, name, row.source / name) for row in rows for name in row.names.split(SEPARATOR)]
    suffixes = [_kept_spelling(source, rename(source)) for _row, _name, source in photos]
    outputs: list[str] = [""] * len(photos)
    order = sorted(range(len(photos)), key=lambda index: suffixes[index] != photos[index][2].suffix)  # a stable sort
    for index in order:
        _row, name, source = photos[index]
        wanted = [(source.stem, suffixes[index])]
        if suffixes[index] != source.suffix:
            wanted.append((source.name, suffixes[index]))
        outputs[index] = given.claim(parent, relative / name, wanted)
    given.taken.pop(parent, None)  # no other photo's result is in this folder
    start = 0
    for row in rows:
        count = row.names.count(SEPARATOR) + 1
        packed = SEPARATOR.join(outputs[start : start + count])
        row.outputs = "" if packed == row.names else packed
        start += count


def _kept_spelling(source: Path, suffix: str) -> str:
    """Suffix of the result; `.JPG` stays `.JPG` if the format does not change."""
    return source.suffix if suffix.lower() == source.suffix.lower() else suffix


def _blocking_reason(parent: Path, folder: Path) -> str | None:
    """Reason why results cannot be written to `parent` in the output folder; None if they can."""
    if not is_within(parent, folder):
        return outside_link_message(parent, folder)
    for place in (parent, *parent.parents):
        if place == folder:
            break
        if os.path.lexists(place) and not place.is_dir():
            return f"{place} is a file, not a folder"
    return None
