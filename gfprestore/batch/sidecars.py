"""Sidecars: files beside a photo that describe it. XMP is carried along with the result, other formats are named.

An XMP sidecar is `photo.jpg.xmp` or `photo.xmp`. It is adjusted like XMP in a photo: its claims about orientation,
dimensions and regions are true for the result.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gfprestore.batch.folders import Plan, create_folder_of
from gfprestore.batch.found_photos import SEPARATOR
from gfprestore.batch.journal import Journal
from gfprestore.batch.names import folded_name
from gfprestore.batch.output_folder import reason_of
from gfprestore.batch.task_list import PhotoTask, TaskList
from gfprestore.batch.walk import SIDECAR, UNSUPPORTED_FILE, Skipped, is_excluded
from gfprestore.batch.written_files import FileKeptError
from gfprestore.errors import FolderError, PhotoError
from gfprestore.file_attributes import FileAttributes, attributes_of, creation_mode, give
from gfprestore.files import open_without_waiting, whole_file
from gfprestore.photo.kinds import is_raw_name
from gfprestore.photo.metadata import Metadata, removed_claims_warning
from gfprestore.photo.photo import Photo
from gfprestore.photo.reading import photo_header, photo_size
from gfprestore.photo.xmp_document import XmpError
from gfprestore.photo.xmp_edits import Change, with_true_claims

_XMP = ".xmp"
_OTHERS = (".json", ".aae", ".pp3", ".dop", ".cos", ".cop", ".on1", ".thm", ".vrd", ".arp", ".nksc", ".xml", ".dxo")
_LARGEST = 1 << 26  # bytes of a sidecar that is read


def with_sidecars(plan: Plan, exclude: Sequence[str]) -> Plan:
    """Give each task of a plan its XMP sidecars, and mark sidecars of other formats among the skipped files.

    Args:
        plan: A plan without sidecars.
        exclude: Patterns of files to leave out, for files that the plan does not mention.
    """
    skipped = {entry.path: entry for entry in plan.skipped}
    found: dict[int, tuple[Path, ...]] = {}
    marked: dict[Path, Skipped] = {}
    for folder, rows in plan.tasks.by_source().items():
        beside = _beside(folder)
        if not beside.xmp and not beside.others:
            continue
        photos = [(start + index, name) for start, row in rows for index, name in enumerate(row.names.split(SEPARATOR))]
        found |= _xmp_of(photos, folder, beside, skipped, exclude)
        starts = {folded_name(name) for _, photo in photos for name in (photo, Path(photo).stem)}
        for name in beside.others:
            path = folder / name
            entry = skipped.get(path)
            if entry is None and not name.startswith(".") and not is_excluded(path, path, exclude):
                entry = Skipped(path, UNSUPPORTED_FILE, kind=path.suffix.lower())  # its folder was not walked
            if entry is not None and entry.reason == UNSUPPORTED_FILE and _begins_like(name, starts):
                marked[path] = replace(entry, reason=SIDECAR)
    used = {path for sidecars in found.values() for path in sidecars}
    rest = [marked.pop(entry.path, entry) for entry in plan.skipped if entry.path not in used]
    return replace(plan, tasks=TaskList(plan.tasks.rows, found), skipped=(*rest, *marked.values()))


def _xmp_of(
    photos: Sequence[tuple[int, str]],
    folder: Path,
    beside: _Beside,
    skipped: Mapping[Path, Skipped],
    exclude: Sequence[str],
) -> dict[int, tuple[Path, ...]]:
    """XMP files of the photos of a folder by the photos' index; each belongs to one photo."""
    found: dict[int, tuple[Path, ...]] = {}
    used: set[Path] = set()
    for is_full_name in (True, False):  # a.jpg.xmp before a.xmp
        for index, photo in photos:
            name = photo if is_full_name else Path(photo).stem
            if not is_full_name and folded_name(name) in beside.raw_stems:
                continue  # a.xmp describes a.cr2
            for sidecar in beside.xmp.get(folded_name(name + _XMP), ()):
                path = folder / sidecar
                entry = skipped.get(path)
                is_left = entry.reason != UNSUPPORTED_FILE if entry else is_excluded(path, path, exclude)
                if not is_left and path not in used and path.is_file():
                    used.add(path)
                    found[index] = (*found.get(index, ()), path)
    return found


def sidecar_warning(skipped: Iterable[Skipped]) -> str | None:
    """Message about sidecars that are not carried along; None if there are none."""
    paths = [entry.path for entry in skipped if entry.reason == SIDECAR]
    if not paths:
        return None
    kinds = ", ".join(sorted({path.suffix.lower() for path in paths}))
    what = "1 sidecar is" if len(paths) == 1 else f"{len(paths)} sidecars are"
    return f"{what} not copied to the results ({kinds}), such as {paths[0]}. Only XMP sidecars are."


def carry_sidecars(
    task: PhotoTask, journal: Journal, photo: Photo, result: Photo, *, overwrite: bool
) -> tuple[str, ...]:
    """Write the sidecars of a restored photo beside its result, unless they are there already.

    Args:
        task: The photo.
        journal: Journal of the output folder.
        photo: The photo as it was read.
        result: The restored photo.
        overwrite: Replace files that were changed after a run wrote them or that no run wrote.

    Returns:
        Warnings, one sentence each.

    Raises:
        FolderError: The output folder no longer exists, or the journal cannot be written.
    """
    height, width = result.pixels.shape[:2]
    return _carry_all(task, journal, _pixel_change(photo.metadata, (width, height)), overwrite)


def update_sidecars(task: PhotoTask, journal: Journal) -> tuple[str, ...]:
    """Write the sidecars of a photo that an earlier run restored, where they are new or changed.

    Returns:
        Warnings, one sentence each.

    Raises:
        FolderError: The output folder no longer exists, or the journal cannot be written.
    """
    if not task.sidecars:
        return ()
    try:
        header, entry = photo_header(task.source), journal.last(task.relative.as_posix())
        if entry is not None and entry.orientation is not None:
            header = _turned_as(header, entry.orientation)
        change = _pixel_change(header, photo_size(task.output))
    except PhotoError as error:
        return (f"its sidecars were not compared: {error}",)
    return _carry_all(task, journal, change, overwrite=False)


def _turned_as(found: Metadata, orientation: int) -> Metadata:
    """Upright metadata of a photo that was turned by another orientation than that of its file (`--auto-rotate`)."""
    is_swapped = (found.orientation >= 5) != (orientation >= 5)
    return replace(found, orientation=orientation, size=found.size[::-1] if is_swapped else found.size)


def _pixel_change(found: Metadata, final: tuple[int, int]) -> Change:
    """What happens to the pixels of a photo with this upright metadata whose result has the size `final`."""
    width, height = found.size
    stored = (height, width) if found.orientation >= 5 else (width, height)
    return Change(found.orientation, stored, found.size, final)


def _carry_all(task: PhotoTask, journal: Journal, change: Change, overwrite: bool) -> tuple[str, ...]:
    warnings: list[str] = []
    for sidecar in task.sidecars:
        try:
            warnings += _carry(task, sidecar, journal, change, overwrite)
        except FolderError:
            raise
        except FileKeptError as kept:
            warnings.append(str(kept))
        except OSError as error:
            warnings.append(f"its sidecar {sidecar} could not be copied: {reason_of(error)}")
    return tuple(warnings)


def sidecar_output(task: PhotoTask, sidecar: Path) -> Path:
    """Path of a sidecar in the output folder: named after the result as it is named after the photo."""
    is_full_name = folded_name(sidecar.stem) == folded_name(task.source.name)
    return task.output.with_name((task.output.name if is_full_name else task.output.stem) + sidecar.suffix)


def _carry(task: PhotoTask, sidecar: Path, journal: Journal, change: Change, overwrite: bool) -> list[str]:
    content, attributes, times = _read(sidecar)
    warnings: list[str] = []
    try:
        content, removed = with_true_claims(content, change)
        if removed:
            warnings.append(f"{sidecar}: {removed_claims_warning(removed)}")
    except XmpError as error:
        warnings.append(f"{sidecar}: {error}; it was copied unchanged")
    output = sidecar_output(task, sidecar)
    if _is_same(output, content):
        return []
    create_folder_of(task)

    def complete(temporary: Path) -> None:
        give(attributes, temporary)
        journal.note_file(output, temporary, overwrite=overwrite)

    with whole_file(output, times, complete, creation_mode(attributes)) as stream:
        stream.write(content)
    return warnings


def _read(path: Path) -> tuple[bytes, FileAttributes, tuple[int, int]]:
    """Content, attributes and times of a sidecar; never waits for a pipe."""
    descriptor = open_without_waiting(path)
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            raise OSError("it is not a regular file or too large")
        attributes = attributes_of(descriptor, status)
        return stream.read(), attributes, (status.st_atime_ns, status.st_mtime_ns)


def _is_same(path: Path, content: bytes) -> bool:
    try:
        status = path.lstat()
        return stat.S_ISREG(status.st_mode) and status.st_size == len(content) and path.read_bytes() == content
    except OSError:
        return False


class _Beside(NamedTuple):
    """Files of a folder that may describe its photos.

    Attributes:
        xmp: Names of XMP files by their folded form.
        others: Names of sidecars of other formats.
        raw_stems: Folded names, without suffix, of RAW files.
    """

    xmp: dict[str, list[str]]
    others: list[str]
    raw_stems: set[str]


def _beside(folder: Path) -> _Beside:
    """What lies in a folder; nothing if it cannot be read."""
    found = _Beside({}, [], set())
    try:
        for name in sorted(path.name for path in folder.iterdir()):
            suffix = Path(name).suffix.lower()
            if suffix == _XMP:
                found.xmp.setdefault(folded_name(name), []).append(name)
            elif suffix in _OTHERS:
                found.others.append(name)
            elif is_raw_name(name):
                found.raw_stems.add(folded_name(Path(name).stem))
    except OSError:
        return _Beside({}, [], set())
    return found


def _begins_like(name: str, photos: Container[str]) -> bool:
    """Whether a name begins with the folded name of a photo: `a.aae`, `a.jpg.suppl.json`."""
    parts = name.split(".")
    return any(folded_name(".".join(parts[:count])) in photos for count in range(1, len(parts)))
