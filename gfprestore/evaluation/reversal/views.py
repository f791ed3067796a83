"""The frames of the comparison, each with the rows that exist in it.

- `crops-256`: aligned crops at 256 pixels, the size of the first stage.
- `crops-full`: aligned crops at the original's own size above 256 pixels, for the second stage.
- `photos-256`: whole photos at 256 pixels wide, with the faces pasted back: images as they arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gfprestore.data.images import read_pixels
from gfprestore.data.images import sha256_of as hash_of
from gfprestore.data.test_sets import TestSet
from gfprestore.errors import FolderError, GfprestoreError
from gfprestore.evaluation.metrics.reversal import FacePlace
from gfprestore.evaluation.report import MethodReport
from gfprestore.evaluation.reversal.comparisons import CONSTANT, RETOUCHED
from gfprestore.evaluation.reversal.crops import SMALL, Pair, cut_like, small
from gfprestore.evaluation.reversal.kept import Kept, key_of
from gfprestore.evaluation.reversal.rows import AT_256, AT_1024, IN_PHOTO, Network, Row, Work
from gfprestore.evaluation.scoring import Subject
from gfprestore.pixels import resized

CROPS, FULL, PHOTOS = "crops-256", "crops-full", "photos-256"
TITLES = {
    PHOTOS: "Images as they arrive: the photo at 256 pixels",
    CROPS: "Aligned crops at 256 pixels",
    FULL: "Aligned crops at the original's own size",
}
RULES = {
    PHOTOS: "Each face is found on the retouched photo by {detector}, aligned, reversed and pasted back with the usual "
    "mask, by both stages where the network has both. The whole photo is compared with the original at 256 pixels "
    "wide (area averaging).",
    CROPS: "Original and retouched face are cut by the same transform, from the landmarks that {detector} finds on the "
    "retouched face, and reduced to 256 pixels (area averaging).",
    FULL: "The same crops at the original's size, where that is above 256 pixels. A result of 1024 pixels is resized "
    "to it. The ceiling is the second stage on the original reduced to 256 pixels.",
}
ALIGNED = "the set itself"
BICUBIC = "bicubic from the reduced original"
ESTIMATED, GIVEN = "levels estimated", "levels given"


@dataclass
class Rows:
    """Images of all methods by name of the method, then of the image.

    Attributes:
        networks: Results of the networks.
        ceilings: The second stage on the reduced originals, by network.
        constant: The constant inverse; None without training pairs.
        bicubic: The reduced originals enlarged.
        given: Images of other methods.
    """

    networks: dict[str, Row] = field(default_factory=dict)
    ceilings: dict[str, Row] = field(default_factory=dict)
    constant: Row | None = None
    bicubic: Row | None = None
    given: dict[str, Row] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of the comparison, before it is scored.

    Attributes:
        key: One of `CROPS`, `FULL` and `PHOTOS`.
        test_set: Its inputs and originals.
        methods: Its rows.
        faces: Place of the face in each original.
    """

    key: str
    test_set: TestSet
    methods: tuple[MethodReport, ...]
    faces: Mapping[str, FacePlace]


def row_name(network: Network, *, with_levels: bool) -> str:
    """Name of a network's row."""
    if not network.takes_levels:
        return network.label
    return f"{network.label}, {GIVEN if with_levels else ESTIMATED}"


def for_study(frames: Sequence[Frame]) -> tuple[Frame, list[MethodReport]]:
    """The frame and the rows that a user study shows: results for a photo as it arrives, at the largest size.

    The rows are the networks with estimated levels, other methods, and the retouched images.
    """
    frame = next((frame for frame in frames if frame.key == FULL), frames[-1])
    beside = (CONSTANT, BICUBIC)
    endings = (f", {GIVEN}", ", first stage alone", ", ceiling")
    return frame, [
        method for method in frame.methods if method.name not in beside and not method.name.endswith(endings)
    ]


def frames_of(title: str, pairs: Sequence[Pair], rows: Rows, sha256_of: Callable[[Path], str]) -> list[Frame]:
    """Arrange the rows by frame; a frame without pairs is left out.

    Args:
        title: Kind of the set.
        pairs: The pairs.
        rows: Images of all methods.
        sha256_of: SHA-256 of a file.
    """
    photos = [pair for pair in pairs if pair.gt_photo is not None]
    large = [pair for pair in pairs if pair.side > SMALL]
    frames = []
    for key, used, methods in (
        (PHOTOS, photos, _photo_methods(rows)),
        (CROPS, list(pairs), _crop_methods(rows)),
        (FULL, large, _full_methods(rows)),
    ):
        if used:
            frames.append(_frame(key, title, used, methods, sha256_of))
    return frames


def given_row(images: Mapping[str, Path], pairs: Sequence[Pair], name: str, work: Work) -> Row:
    """Images of another method in every frame.

    They are results for the set's retouched images. Where these are whole photos, the crops are cut like the pair's.

    Args:
        images: Images by name.
        pairs: The pairs.
        name: Name of the method.
        work: Output folder and progress.

    Raises:
        FolderError: The output folder cannot be written.
    """
    row = Row()
    kept = Kept(work.root / "rows" / f"given-{key_of(name)[:16]}", work.root)
    for number, pair in enumerate(pairs, 1):
        work.on_progress(number)
        path = images.get(pair.name)
        if path is None:
            continue
        if pair.photo_to_crop is None:
            row.small[pair.name] = row.large[pair.name] = path
            continue
        try:
            key = key_of("given", 1, hash_of(path), hash_of(pair.lq_small))
            if not kept.is_done(pair.name, key):
                _cut_given(kept, key, pair, path)
        except FolderError:
            raise
        except GfprestoreError as error:
            row.failed[pair.name] = str(error)
            continue
        row.small[pair.name] = kept.path(AT_256, pair.name)
        row.large[pair.name] = kept.path(AT_1024, pair.name)
        row.photo[pair.name] = kept.path(IN_PHOTO, pair.name)
    return row


def _cut_given(kept: Kept, key: str, pair: Pair, path: Path) -> None:
    assert pair.photo_to_crop is not None and pair.photo_face is not None
    pixels = read_pixels(path).pixels
    original = read_pixels(pair.case.gt).pixels
    height, width = original.shape[:2]
    if pixels.shape != original.shape:
        pixels = resized(pixels, width, height)
    crop = cut_like(pixels, pair.photo_to_crop, pair.side)
    kept.put(pair.name, key, {AT_1024: crop, AT_256: small(crop), IN_PHOTO: small(pixels)})


Images = dict[str, tuple[Mapping[str, Path], Mapping[str, str]]]  # by method: images and errors by name


def _photo_methods(rows: Rows) -> Images:
    found: Images = {}
    if rows.constant is not None:
        found[CONSTANT] = (rows.constant.photo, rows.constant.failed)
    found |= {name: (row.photo, row.failed) for name, row in (rows.networks | rows.given).items()}
    return found


def _crop_methods(rows: Rows) -> Images:
    found: Images = {}
    if rows.constant is not None:
        found[CONSTANT] = (rows.constant.small, rows.constant.failed)
    found |= {name: (row.small, row.failed) for name, row in (rows.networks | rows.given).items()}
    return found


def _full_methods(rows: Rows) -> Images:
    found: Images = {}
    for name, row in rows.networks.items():
        if row.large:
            found[name] = (row.large, row.failed)
        found[f"{name}, first stage alone"] = (row.small, row.failed)
    found |= {name: (row.large, row.failed) for name, row in rows.given.items()}
    for name, row in rows.ceilings.items():
        found[f"{name}, ceiling"] = (row.large, row.failed)
    if rows.bicubic is not None:
        found[BICUBIC] = (rows.bicubic.large, rows.bicubic.failed)
    return found


def _frame(key: str, title: str, pairs: Sequence[Pair], methods: Images, sha256_of: Callable[[Path], str]) -> Frame:
    names = tuple(pair.name for pair in pairs)
    lq = {pair.name: _inputs(pair, key)[0] for pair in pairs}
    gt = {pair.name: _inputs(pair, key)[1] for pair in pairs}
    faces = {pair.name: _face(pair, key) for pair in pairs}
    own: Images = {RETOUCHED: (lq, {})}
    reports = []
    for name, (images, failed) in (own | methods).items():
        present = [image for image in names if image in images]
        subjects = tuple(
            Subject(image, images[image], sha256_of(images[image]), gt[image], sha256_of(gt[image]), faces[image])
            for image in present
        )
        errors = {image: reason for image, reason in failed.items() if image in gt}
        missing = tuple(image for image in names if image not in images and image not in errors)
        folder = images[present[0]].parent if present else Path(name)
        reports.append(MethodReport(name, folder, subjects, unrestored=errors, missing=missing))
    test_set = TestSet(f"deepfrr ({title})", None, names, lq, gt)
    return Frame(key, test_set, tuple(report for report in reports if report.subjects), faces)


def _inputs(pair: Pair, key: str) -> tuple[Path, Path]:
    if key == CROPS:
        return pair.lq_small, pair.gt_small
    if key == FULL:
        return pair.lq, pair.gt
    assert pair.lq_photo is not None and pair.gt_photo is not None
    return pair.lq_photo, pair.gt_photo


def _face(pair: Pair, key: str) -> FacePlace:
    if key != PHOTOS:
        return pair.face
    assert pair.photo_face is not None
    return pair.photo_face
