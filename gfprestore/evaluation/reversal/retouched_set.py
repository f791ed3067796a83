"""Sets of retouched photos and their originals, from any of three kinds of folders.

- A set that `gfprestore retouch` made: `lq/`, `gt/` and `retouch.csv`.
- The folders of the FRRffusion authors: `rawimage/N` and `deimage/faceN`.
- A folder of aligned faces with an `index.csv`, whose held-out part (`split` is `test`) is retouched here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from gfprestore.data.dlib_landmarks import FindLandmarks
from gfprestore.data.image_folders import TABLE_NAME
from gfprestore.data.pair_folders import GT, LQ, image_path, read_description
from gfprestore.data.retouch_folder import RetouchOptions, retouch_folder
from gfprestore.data.retouched_pairs import (
    ORIGINAL_FOLDER,
    PAIRS_NAME,
    RETOUCHED_FOLDER,
    read_frr_pairs,
    read_retouched_pairs,
)
from gfprestore.data.retouching import RECIPE_VERSION
from gfprestore.data.retouching_levels import Levels
from gfprestore.data.test_sets import default_folder, listed
from gfprestore.errors import FolderError
from gfprestore.evaluation.metrics.reversal import FacePlace

NAME = "deepfrr"
OWN_FOLDER = "set"
HELD_OUT = "test"
OWN_SEED, OWN_PRESET = 0, "deepfrr"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Case:
    """One pair.

    Attributes:
        name: Name in tables, without suffix.
        lq: The retouched image.
        gt: The original.
        levels: Levels of the retouching; None if unknown.
        face: Place of the face in the original; None if unknown.
    """

    name: str
    lq: Path
    gt: Path
    levels: Levels | None = None
    face: FacePlace | None = None


@dataclass(frozen=True)
class RetouchedSet:
    """Pairs to evaluate.

    Attributes:
        title: Kind of the set, for reports.
        folder: Folder of the set.
        cases: The pairs, in natural order.
        arrives: The retouched images lie in the frame of the originals, and the face is to be found on them. Otherwise
            both are crops that are aligned already.
        description: Options the set was made with, if known.
        warnings: Problems of the set.
    """

    title: str
    folder: Path
    cases: tuple[Case, ...]
    arrives: bool
    description: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()


def open_retouched_set(
    data: Path | None, output: Path, find_landmarks: FindLandmarks | None = None, on_progress: Progress | None = None
) -> RetouchedSet:
    """Find the pairs of a folder; a folder of faces is retouched first.

    Args:
        data: One of the three kinds of folders; None for the default folder of test sets.
        output: Output folder of the evaluation, which receives the retouched set.
        find_landmarks: Gives 68 landmarks of an aligned face, for better jaws and brows.
        on_progress: Called with the number of retouched faces and their total.

    Raises:
        FolderError: The folder is missing, of none of the three kinds, empty or unreadable.
        UsageError: The table of a folder of faces has no split `test`.
    """
    folder = data or default_folder(NAME)
    if not folder.is_dir():
        raise FolderError(
            f"{folder} does not exist. deepFRR, the data set of the FRRffusion paper, is not public. "
            f"Use --data with a set of `gfprestore retouch`, with the authors' folders {ORIGINAL_FOLDER} and "
            f"{RETOUCHED_FOLDER}, or with a folder of aligned faces and its {TABLE_NAME}."
        )
    if (folder / PAIRS_NAME).is_file():
        return _own_set(folder)
    if (folder / ORIGINAL_FOLDER).is_dir() or (folder / RETOUCHED_FOLDER).is_dir():
        return _authors_set(folder)
    if (folder / TABLE_NAME).is_file():
        return _made_set(folder, output / OWN_FOLDER, find_landmarks, on_progress)
    raise FolderError(
        f"{folder} is not a set of retouched faces: it has neither {PAIRS_NAME}, nor the folders {ORIGINAL_FOLDER} and "
        f"{RETOUCHED_FOLDER}, nor {TABLE_NAME}. Make a set with `gfprestore retouch`."
    )


def _own_set(folder: Path) -> RetouchedSet:
    pairs = read_retouched_pairs(folder)
    if not pairs:
        raise FolderError(f"{folder / PAIRS_NAME} has no intact row. Make the set again with `gfprestore retouch`.")
    outside = [pair.name for pair in pairs if PurePath(pair.name).is_absolute() or ".." in PurePath(pair.name).parts]
    if outside:
        raise FolderError(f"{folder / PAIRS_NAME} names a file outside the set: {outside[0]}. Correct the table.")
    description = read_description(folder)
    known = description or {}
    arrives = known.get("keep_alignment") is True
    cases = tuple(
        Case(
            pair.name,
            image_path(folder, LQ, pair.name),
            image_path(folder, GT, pair.name),
            pair.levels,
            FacePlace(pair.original_landmarks, pair.size, pair.original_points),
        )
        for pair in pairs
    )
    recipes, seeds = sorted({pair.recipe for pair in pairs}), sorted({pair.seed for pair in pairs})
    title = f"synthetic, recipe v{_all(recipes)}, seed {_all(seeds)}, preset {known.get('preset', 'unknown')}"
    expected, warnings = known.get("count"), []
    if isinstance(expected, int) and expected != len(cases):
        warnings.append(f"{folder} has {len(cases)} pairs, but {expected} were made.")
    return RetouchedSet(title, folder, cases, arrives, description, tuple(warnings))


def _authors_set(folder: Path) -> RetouchedSet:
    pairs, problems = read_frr_pairs(folder)
    cases = tuple(Case(pair.name, pair.retouched, pair.original) for pair in pairs)
    warnings = [f"{len(problems)} images have no partner: {listed(entry.path.name for entry in problems)}."]
    title = f"the authors' folders {ORIGINAL_FOLDER} and {RETOUCHED_FOLDER}, levels unknown"
    return RetouchedSet(title, folder, cases, True, None, tuple(warnings if problems else ()))


def _made_set(
    source: Path, folder: Path, find_landmarks: FindLandmarks | None, on_progress: Progress | None
) -> RetouchedSet:
    """Retouch the held-out part of a folder of faces, in the frame of the originals."""
    options = RetouchOptions(seed=OWN_SEED, preset=OWN_PRESET, split=HELD_OUT, keep_alignment=True)
    report = retouch_folder(source, folder, options, None, find_landmarks, on_progress)
    found = _own_set(folder)
    failed = tuple(f"{entry.path} was not retouched: {entry.reason}" for entry in report.failed)
    title = f"synthetic, recipe v{RECIPE_VERSION}, seed {OWN_SEED}"
    return RetouchedSet(title, folder, found.cases, True, found.description, (*found.warnings, *failed))


def _all(numbers: list[int]) -> str:
    return " and ".join(map(str, numbers))
