"""Pairs of a retouched face and its original: the table `retouch.csv` of our sets, and the authors' folders.

A row of the table holds what is needed to know what was done to every pixel of the pair without the source: levels,
and the landmarks that the retouching was computed from, in pixels of the crop. Coordinates are of pixel centers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gfprestore.batch.walk import Skipped
from gfprestore.data.image_folders import images_in
from gfprestore.data.images import Pixels
from gfprestore.data.retouching import skin_mask
from gfprestore.data.retouching_geometry import Floats, Points, warp_field
from gfprestore.data.retouching_levels import OPERATIONS, Levels
from gfprestore.errors import FolderError

PAIRS_NAME = "retouch.csv"
RETOUCHED_FOLDER, ORIGINAL_FOLDER = "deimage", "rawimage"
RETOUCHED_PREFIX = "face"
COLUMNS = (
    "file",
    "source",
    "variant",
    "seed",
    *OPERATIONS,
    "size",
    "landmarks",
    "original_landmarks",
    "original_points",
    "source_to_crop",
    "recipe",
    "source_sha256",
    "lq_sha256",
    "gt_sha256",
)


@dataclass(frozen=True, eq=False)
class RetouchedPair:
    """One pair of a set.

    Attributes:
        name: Its name in `lq` and `gt`, without the suffix.
        source: Path of the original within the source folder.
        variant: Number of the variant of that original, from 0.
        seed: Random seed of the set.
        levels: What was done.
        size: Side of both images in pixels.
        landmarks: (5, 2) of the retouched face, in pixels of the images.
        original_landmarks: (5, 2) of the original face, from which the retouching was computed, in pixels of the
            images.
        original_points: (68, 2) likewise; None where the mean face was used.
        source_to_crop: (2, 3) from pixels of the original file to pixels of the images.
        recipe: `RECIPE_VERSION` of the retouching.
        source_sha256: Of the original file.
        lq_sha256: Of the retouched image's file.
        gt_sha256: Of the original image's file.
    """

    name: str
    source: str
    variant: int
    seed: int
    levels: Levels
    size: int
    landmarks: Points
    original_landmarks: Points
    original_points: Points | None
    source_to_crop: Points
    recipe: int
    source_sha256: str
    lq_sha256: str
    gt_sha256: str

    def field(self, size: int | None = None, *, inverse: bool = True) -> Floats:
        """The true backward field of the pair.

        Args:
            size: Side of the field's grid; None for the images' own.
            inverse: The field that undoes the retouching, gt(p) = lq(p + field(p)); else lq(p) = gt(p + field(p)).

        Returns:
            (size, size, 2) float32 x, y in pixels of the grid.
        """
        size = size or self.size
        scale = size / self.size
        points = None if self.original_points is None else _rescaled(self.original_points, scale)
        landmarks = _rescaled(self.original_landmarks, scale)
        return warp_field(landmarks, self.levels, (size, size), points, inverse=inverse)

    def skin(self, gt: Pixels) -> Floats:
        """The skin of the original, where tone and texture are measured.

        Args:
            gt: (S, S, 3) RGB uint8, the pair's original.

        Returns:
            (S, S) float32 in [0, 1].

        Raises:
            ValueError: The image has another size than the pair.
        """
        if gt.shape != (self.size, self.size, 3):
            raise ValueError(f"the pair {self.name} is {self.size} pixels a side, and its image is {gt.shape}")
        return skin_mask(gt, self.original_landmarks, self.original_points)


@dataclass(frozen=True)
class FrrPair:
    """A pair of the authors' layout.

    Attributes:
        name: Of the original, without the suffix.
        retouched: Path of the retouched image.
        original: Path of the original.
    """

    name: str
    retouched: Path
    original: Path


def read_retouched_pairs(folder: Path) -> list[RetouchedPair]:
    """The pairs of a set by its `retouch.csv`; an incomplete or damaged row is ignored.

    Raises:
        FolderError: The table cannot be read.
    """
    path = folder / PAIRS_NAME
    if not path.is_file():
        return []
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error
    found: dict[str, RetouchedPair] = {}
    rows = csv.reader(io.StringIO(text, newline=""))
    while True:
        try:
            pair = _pair_of(next(rows))
        except StopIteration:
            return list(found.values())
        except (ValueError, csv.Error):
            continue
        found[pair.name] = pair


def header() -> bytes:
    """The first line of the table."""
    return _line(COLUMNS)


def line_of(pair: RetouchedPair) -> bytes:
    """A pair as a line of the table."""
    points = "" if pair.original_points is None else _text(pair.original_points)
    return _line(
        (pair.name, pair.source, pair.variant, pair.seed, *astuple(pair.levels), pair.size)
        + (_text(pair.landmarks), _text(pair.original_landmarks), points, _text(pair.source_to_crop))
        + (pair.recipe, pair.source_sha256, pair.lq_sha256, pair.gt_sha256)
    )


def read_frr_pairs(folder: Path) -> tuple[list[FrrPair], list[Skipped]]:
    """The pairs of the authors' layout: `rawimage/N.png` is the original of `deimage/faceN.png`.

    Args:
        folder: The folder that holds both.

    Returns:
        Pairs in natural order, and the images without a partner.

    Raises:
        FolderError: A folder is missing or cannot be read, or there is no pair.
    """
    parts = [folder / name for name in (RETOUCHED_FOLDER, ORIGINAL_FOLDER)]
    missing = [part.name for part in parts if not part.is_dir()]
    if missing:
        raise FolderError(f"{folder} has no folder {' and no folder '.join(missing)}. Name the folder that holds both.")
    retouched, originals = (
        {path.relative_to(part).with_suffix("").as_posix(): path for path in images_in(part)} for part in parts
    )
    pairs, problems = [], []
    for name, path in retouched.items():
        place, last = name.rpartition("/")[::2]
        own = f"{place}/{last.removeprefix(RETOUCHED_PREFIX)}".lstrip("/")
        original = originals.pop(own, None) if last.startswith(RETOUCHED_PREFIX) else None
        if original is None:
            reason = f"{path} has no original in {parts[1]}. Its name should be {RETOUCHED_PREFIX}N for an original N."
            problems.append(Skipped(path, reason, is_problem=True))
        else:
            pairs.append(FrrPair(own, path, original))
    for own, path in originals.items():
        reason = f"{path} has no retouched image {RETOUCHED_PREFIX}{own} in {parts[0]}."
        problems.append(Skipped(path, reason, is_problem=True))
    if not pairs:
        raise FolderError(f"No image of {parts[0]} has its original in {parts[1]}.")
    return pairs, problems


def _pair_of(values: list[str]) -> RetouchedPair:
    """A pair from the values of its line.

    Raises:
        ValueError: A value is missing, damaged or out of range.
    """
    row = dict(zip(COLUMNS, values, strict=True))
    return RetouchedPair(
        name=row["file"],
        source=row["source"],
        variant=int(row["variant"]),
        seed=int(row["seed"]),
        levels=Levels(*(int(row[name]) for name in OPERATIONS)),
        size=int(row["size"]),
        landmarks=_numbers(row["landmarks"], 5, 2),
        original_landmarks=_numbers(row["original_landmarks"], 5, 2),
        original_points=_numbers(row["original_points"], 68, 2) if row["original_points"] else None,
        source_to_crop=_numbers(row["source_to_crop"], 2, 3),
        recipe=int(row["recipe"]),
        source_sha256=row["source_sha256"],
        lq_sha256=row["lq_sha256"],
        gt_sha256=row["gt_sha256"],
    )


def _line(values: Iterable[object]) -> bytes:
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerow(values)
    return stream.getvalue().encode("utf-8", "surrogateescape")


def _text(numbers: NDArray[np.float64]) -> str:
    return " ".join(f"{number:.9g}" for number in numbers.ravel().tolist())


def _numbers(text: str, *shape: int) -> Points:
    """Finite numbers of a shape.

    Raises:
        ValueError: They are fewer or more, or one is not finite.
    """
    numbers = np.array([float(part) for part in text.split()]).reshape(shape)
    if not np.isfinite(numbers).all():
        raise ValueError("a number is not finite")
    return numbers


def _rescaled(points: Points, scale: float) -> Points:
    """Points of an image in the same image enlarged by `scale`."""
    return np.asarray((points + 0.5) * scale - 0.5)
