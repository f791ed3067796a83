"""The photos found in a mirrored folder, held so that a photo costs little more than its name.

Imports no heavy module.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from gfprestore.batch.names import natural_key

SEPARATOR = "\0"  # occurs in no file name


@dataclass(frozen=True)
class PhotoRow:
    """Photos of one folder that follow one another in the plan.

    Attributes:
        within: The folder's path within the mirrored folder.
        source: The folder, under the path given by the user.
        names: File names in natural order.
    """

    within: PurePath
    source: Path
    names: list[str]


@dataclass
class _Folder:
    """Photos of one folder: packed names from `source`, and single photos that were named under other paths."""

    source: Path
    packed: str = ""
    others: dict[str, Path] = field(default_factory=dict)  # file name -> its folder as given

    def names(self) -> list[str]:
        return self.packed.split(SEPARATOR) if self.packed else []


class FoundPhotos:
    """Photos by their path within a mirrored folder."""

    def __init__(self) -> None:
        self._folders: dict[PurePath, _Folder] = {}
        self._count = 0
        self._searched: tuple[PurePath, frozenset[str]] = (PurePath(), frozenset())

    def __len__(self) -> int:
        return self._count

    def __contains__(self, within: PurePath) -> bool:
        folder = self._folders.get(within.parent)
        if folder is None:
            return False
        if within.name in folder.others:
            return True
        if self._searched[0] != within.parent or len(self._searched[1]) == 0:
            self._searched = (within.parent, frozenset(folder.names()))
        return within.name in self._searched[1]

    def add(self, within: PurePath, path: Path) -> None:
        """Add one photo, which replaces one of the same path within the mirrored folder."""
        is_new = within not in self
        self._folders.setdefault(within.parent, _Folder(path.parent)).others[within.name] = path.parent
        self._count += is_new

    def add_folder(self, within: PurePath, source: Path, names: list[str]) -> None:
        """Add the photos of a walked folder; its photos that were named before keep their given paths."""
        if not names:
            return
        folder = self._folders.setdefault(within, _Folder(source))
        earlier = dict.fromkeys(folder.names())
        fresh = [name for name in names if name not in folder.others and name not in earlier]
        if folder.source == source:
            folder.packed = SEPARATOR.join([*earlier, *fresh])
        else:
            folder.others.update(dict.fromkeys(fresh, source))
        self._count += len(fresh)
        self._searched = (PurePath(), frozenset())

    def rows(self) -> Iterator[PhotoRow]:
        """All photos in natural order of the parts of their paths, in rows of one folder each."""
        children: dict[PurePath, set[str]] = {}
        for within in self._folders:
            place = within
            while place != PurePath() and place.name not in children.setdefault(place.parent, set()):
                children[place.parent].add(place.name)
                place = place.parent
        waiting: list[Iterator[PhotoRow | PurePath]] = [self._level(PurePath(), children)]
        while waiting:
            step = next(waiting[-1], None)
            if step is None:
                waiting.pop()
            elif isinstance(step, PhotoRow):
                yield step
            else:
                waiting.append(self._level(step, children))

    def _level(self, within: PurePath, children: dict[PurePath, set[str]]) -> Iterator[PhotoRow | PurePath]:
        """Rows of the photos of one folder, and its subfolders, in natural order."""
        folder = self._folders.get(within)
        packed = [] if folder is None else folder.names()
        others = {} if folder is None else folder.others
        subfolders = children.get(within, set())
        row: PhotoRow | None = None
        for name in sorted({*packed, *others, *subfolders}, key=natural_key):
            if name in subfolders:
                if row is not None:
                    yield row
                row = None
                yield within / name
                continue
            assert folder is not None
            source = others.get(name, folder.source)
            if row is None or row.source != source:
                if row is not None:
                    yield row
                row = PhotoRow(within, source, [])
            row.names.append(name)
        if row is not None:
            yield row
