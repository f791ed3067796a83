"""The photos of a plan as a sequence that makes each `PhotoTask` when it is asked for.

A photo costs its file name, and that of its result where it differs; a folder costs its paths once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePath
from typing import overload

from gfprestore.batch.found_photos import SEPARATOR


@dataclass(frozen=True)
class PhotoTask:
    """One photo to restore.

    Attributes:
        source: the original, under the path given by the user.
        output: the final path of the result, inside `folder`.
        relative: the source's mirrored path, unique in `folder`; identifies the photo in the journal and in seeds.
        folder: the output folder, which also holds the journal.
        sidecars: XMP files that describe the source.
        recorded: results are recorded in the journal; not if the output is a single file (`single_file`).
    """

    source: Path
    output: Path
    relative: PurePath
    folder: Path
    sidecars: tuple[Path, ...] = ()
    recorded: bool = True


@dataclass(frozen=True)
class TaskRow:
    """Photos of one source folder with results in one output folder.

    Attributes:
        source: The source folder.
        output: The folder of the results.
        relative: The mirrored path of the source folder.
        folder: The output folder of the run.
        names: File names of the photos, separated by `SEPARATOR`.
        outputs: File names of the results; empty if they are those of the photos.
        recorded: See `PhotoTask`.
    """

    source: Path
    output: Path
    relative: PurePath
    folder: Path
    names: str
    outputs: str = ""
    recorded: bool = True

    def tasks(self) -> Iterator[PhotoTask]:
        """The photos."""
        outputs = (self.outputs or self.names).split(SEPARATOR)
        for name, output in zip(self.names.split(SEPARATOR), outputs, strict=True):
            place = self.source / name, self.output / output, self.relative / name, self.folder
            yield PhotoTask(*place, recorded=self.recorded)


class TaskList(Sequence[PhotoTask]):
    """The photos of a plan, in order.

    Args:
        rows: The photos.
        sidecars: XMP files that describe a photo, by its index; only photos that have some.
    """

    def __init__(self, rows: Iterable[TaskRow], sidecars: Mapping[int, tuple[Path, ...]] | None = None) -> None:
        self.rows = tuple(rows)
        self.sidecars = dict(sidecars or {})
        self._starts = [0]
        for row in self.rows:
            self._starts.append(self._starts[-1] + row.names.count(SEPARATOR) + 1)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Output folders in the order of their first photo."""
        return tuple(dict.fromkeys(row.folder for row in self.rows))

    def by_source(self) -> dict[Path, list[tuple[int, TaskRow]]]:
        """Rows by their source folder, each with the index of its first photo."""
        found: dict[Path, list[tuple[int, TaskRow]]] = {}
        for start, row in zip(self._starts, self.rows, strict=False):
            found.setdefault(row.source, []).append((start, row))
        return found

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[PhotoTask]:
        for start, row in zip(self._starts, self.rows, strict=False):
            for index, task in enumerate(row.tasks(), start):
                yield self._complete(index, task)

    @overload
    def __getitem__(self, index: int) -> PhotoTask: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[PhotoTask, ...]: ...

    def __getitem__(self, index: int | slice) -> PhotoTask | tuple[PhotoTask, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        place = range(len(self))[index]  # raises IndexError
        row = bisect_right(self._starts, place) - 1
        return self._complete(place, next(islice(self.rows[row].tasks(), place - self._starts[row], None)))

    def _complete(self, index: int, task: PhotoTask) -> PhotoTask:
        sidecars = self.sidecars.get(index)
        return replace(task, sidecars=sidecars) if sidecars else task

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskList) and (self.rows, self.sidecars) == (other.rows, other.sidecars)

    def __hash__(self) -> int:
        return hash(self.rows)


def folders_of(tasks: Sequence[PhotoTask]) -> tuple[Path, ...]:
    """Output folders of some photos, in the order of their first photo."""
    return tasks.folders if isinstance(tasks, TaskList) else tuple(dict.fromkeys(task.folder for task in tasks))
