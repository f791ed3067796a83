"""Creation of test sets like CelebA-Test from a folder of aligned faces (Wang et al., CVPR 2021, section 4.1).

A set is a folder with `lq/NAME.png`, `gt/NAME.png`, `degradation.jsonl` with the drawn values of each image, and
`set.json` with the options. The preset `damaged` adds `mask/NAME.png`, white where the print is damaged. The
degradation of an image depends only on the seed and on its name (its path within the source without the suffix), not on
other images, their order or the number of workers. The same command therefore gives the same bytes, unless the versions
of the JPEG or PNG libraries differ. The preset `celeba-test-sr4` draws nothing: it is the setting of 4x face
super-resolution, see `super_resolution`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore._version import __version__
from gfprestore.batch.journal import Journal
from gfprestore.batch.output_folder import prepare_output
from gfprestore.batch.walk import Skipped
from gfprestore.data.capture import gray_of
from gfprestore.data.degradation import (
    CELEBA_TEST,
    DAMAGED,
    HEAVY,
    OFFICIAL,
    OLD_PRINTS,
    PAPER,
    DegradationOptions,
    Degraded,
    degrade,
)
from gfprestore.data.images import image_name, read_pixels, sha256_of, square_face
from gfprestore.data.pair_folders import (
    GT,
    LQ,
    SetReport,
    check_apart,
    check_description,
    find_sources,
    folded,
    is_whole,
    taken_name,
    worked_ahead,
    write_description,
    write_part,
)
from gfprestore.data.super_resolution import SUPER_RESOLUTION_4, SuperResolutionOptions, shrunk_and_enlarged
from gfprestore.errors import FolderError, GfprestoreError, UsageError
from gfprestore.files import append, write_whole
from gfprestore.pixels import nearest_levels

PRESETS: dict[str, DegradationOptions | SuperResolutionOptions] = {
    "celeba-test": CELEBA_TEST,
    "celeba-test-sr4": SUPER_RESOLUTION_4,
    "paper": PAPER,
    "official": OFFICIAL,
    "heavy": HEAVY,
    "old-prints": OLD_PRINTS,
    "damaged": DAMAGED,
}

PARAMETERS_NAME = "degradation.jsonl"
MASK = "mask"


@dataclass(frozen=True)
class DegradeOptions:
    """Options of a test set.

    Attributes:
        seed: Random seed, 0 or more.
        preset: A key of `PRESETS`.
        size: Side of the images; larger faces are downscaled, smaller faces are rejected.
        split: Use only images with this `split` in the `index.csv` of the source; None uses all images.
        exclude: Shell patterns of names and paths to skip.

    Raises:
        UsageError: A value is unknown or out of range.
    """

    seed: int
    preset: str = "celeba-test"
    size: int = 512
    split: str | None = None
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UsageError(f"--preset {self.preset} is unknown. Use one of {', '.join(PRESETS)}.")
        if self.seed < 0:
            raise UsageError(f"--seed must be 0 or more, not {self.seed}.")
        if self.size < 16:
            raise UsageError(f"--size must be 16 or more, not {self.size}.")
        ranges = PRESETS[self.preset]
        if isinstance(ranges, SuperResolutionOptions) and self.size % ranges.factor:
            raise UsageError(f"--size must be a multiple of {ranges.factor} for {self.preset}, not {self.size}.")


@dataclass(frozen=True)
class DegradedPair:
    """One image of a set; the fields are those of a line of `degradation.jsonl`.

    Attributes:
        name: Name in `lq` and `gt`, without the suffix.
        source: Path within the source folder.
        source_sha256: SHA-256 of the source file.
        lq_sha256: SHA-256 of the lq file.
        gt_sha256: SHA-256 of the gt file.
        parameters: Drawn values, as in `gfprestore.data.degradation.Degraded`.
        mask_sha256: SHA-256 of the mask file; None without damage.
    """

    name: str
    source: str
    source_sha256: str
    lq_sha256: str
    gt_sha256: str
    parameters: dict[str, float]
    mask_sha256: str | None = None


def degrade_folder(
    source: Path,
    output: Path,
    options: DegradeOptions,
    on_progress: Callable[[int, int], None] | None = None,
    workers: int = 2,
) -> SetReport:
    """Create a test set; finished images are kept, so that an interrupted run can be resumed.

    Args:
        source: Folder of aligned faces, flat or nested; never modified.
        output: Folder of the set; must not be within the source.
        options: Options of the set.
        on_progress: Receives the number of finished images and the total number.
        workers: Number of threads.

    Raises:
        FolderError: A folder cannot be used, has no images, or holds a set with other options.
        UsageError: The source has no table with splits, or no image of the requested split.
    """
    sources = _sources(source, options)
    check_apart(source, output)
    prepare_output(output)
    with Journal.open(output):  # as a lock: two runs must not write into one set
        description = check_description(output, _description(options))
        known = {pair.name: pair for pair in read_pairs(output)}
        failed: list[Skipped] = []
        made = kept = 0

        def make(item: tuple[str, Path | Skipped]) -> DegradedPair | Skipped:
            return _degrade_one(*item, source, output, options, known)

        with contextlib.closing(worked_ahead(make, sources.items(), workers)) as results:
            for number, result in enumerate(results, start=1):
                if isinstance(result, Skipped):
                    failed.append(result)
                elif known.get(result.name) is result:
                    kept += 1
                else:
                    append(output / PARAMETERS_NAME, _line_of(result).encode("ascii"), b"\n")
                    made += 1
                if on_progress is not None:
                    on_progress(number, len(sources))
        pairs = sorted(read_pairs(output), key=lambda pair: pair.name)
        write_whole(output / PARAMETERS_NAME, "".join(_line_of(pair) for pair in pairs).encode("utf-8"))
        write_description(output, {**description, "count": len(pairs)})
    return SetReport(made, kept, tuple(failed))


def degraded_pair(
    gt: NDArray[np.uint8], options: DegradationOptions | SuperResolutionOptions, seed: int, name: str
) -> tuple[NDArray[np.uint8], Degraded]:
    """Degrade one image with the random numbers of its name; super-resolution has none.

    Args:
        gt: Ground truth (S, S, 3) RGB.
        options: Ranges of the degradation, or the factor of super-resolution.
        seed: Random seed of the set.
        name: Name of the image.

    Returns:
        The gt (S, S, 3), gray if the lq is gray and `gray_gt` is set, and the lq with its parameters and mask.
    """
    levels = gt.astype(np.float32) / np.float32(255)
    if isinstance(options, SuperResolutionOptions):
        return gt, Degraded(shrunk_and_enlarged(levels, options), {"downscale": float(options.factor)})
    degraded = degrade(levels, options, np.random.default_rng(_seed_of(seed, name)))
    if options.gray_gt and "grey" in degraded.parameters:
        gt = np.asarray(nearest_levels(gray_of(levels) * 255, np.uint8), np.uint8)
    return gt, degraded


def read_pairs(folder: Path) -> list[DegradedPair]:
    """Read the images of a set from its `degradation.jsonl`; damaged lines are ignored."""
    path = folder / PARAMETERS_NAME
    found: dict[str, DegradedPair] = {}
    if path.is_file():
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError, TypeError):
                pair = DegradedPair(**json.loads(line))
                found[str(pair.name)] = pair
    return list(found.values())


def _degrade_one(
    name: str,
    path: Path | Skipped,
    source: Path,
    output: Path,
    options: DegradeOptions,
    known: dict[str, DegradedPair],
) -> DegradedPair | Skipped:
    """Create one image unless it exists; a problem with it is returned, so that the other images continue."""
    if isinstance(path, Skipped):
        return path
    try:
        digest = sha256_of(path)
        done = known.get(name)
        if done is not None and done.source_sha256 == digest and _is_complete(output, done):
            return done
        gt = square_face(path, read_pixels(path).pixels, options.size, "the set needs")
        gt, degraded = degraded_pair(gt, PRESETS[options.preset], options.seed, name)
        parts = {GT: gt, LQ: nearest_levels(degraded.lq * 255, np.uint8)}
        if degraded.mask is not None:
            parts[MASK] = degraded.mask.astype(np.uint8) * np.uint8(255)
        hashes = {part: write_part(pixels, output, part, name) for part, pixels in parts.items()}
        relative = path.relative_to(source).as_posix()
        return DegradedPair(name, relative, digest, hashes[LQ], hashes[GT], degraded.parameters, hashes.get(MASK))
    except FolderError:
        raise
    except GfprestoreError as error:
        return Skipped(path, str(error), is_problem=True)


def _is_complete(output: Path, pair: DegradedPair) -> bool:
    """Whether all files of a pair are unchanged."""
    hashes = {LQ: pair.lq_sha256, GT: pair.gt_sha256, MASK: pair.mask_sha256}
    return is_whole(output, pair.name, {part: digest for part, digest in hashes.items() if digest is not None})


def _sources(source: Path, options: DegradeOptions) -> dict[str, Path | Skipped]:
    """Images of the source by their names in the set; if two images have the same name, the second is a problem.

    Raises:
        FolderError: The folder cannot be read or has no images.
        UsageError: The split does not exist.
    """
    paths = find_sources(source, options.split, options.exclude)
    named: dict[str, Path | Skipped] = {}
    taken: dict[str, Path] = {}
    for path in paths:
        name = image_name(path, source)
        first = taken.setdefault(folded(name), path)
        if first is path:
            named[name] = path
        else:
            named[path.relative_to(source).as_posix()] = taken_name(path, first)
    return named


def _description(options: DegradeOptions) -> dict[str, Any]:
    """What `set.json` says about the options and the libraries of a set."""
    ranges = asdict(PRESETS[options.preset])
    if ranges.get("damage") is None:
        ranges.pop("damage", None)  # sets of earlier versions lack it
    return {
        "made_by": "gfprestore degrade",
        "gfprestore": __version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "seed": options.seed,
        "preset": options.preset,
        "size": options.size,
        "split": options.split,
        "exclude": list(options.exclude),
        "ranges": ranges,
    }


def _seed_of(seed: int, name: str) -> list[int]:
    """Seed of the random generator of an image; independent of the Unicode normalization of its name."""
    digest = hashlib.sha256(unicodedata.normalize("NFC", PurePosixPath(name).as_posix()).encode("utf-8", "replace"))
    return [seed, *(int.from_bytes(digest.digest()[start : start + 4], "big") for start in range(0, 32, 4))]


def _line_of(pair: DegradedPair) -> str:
    fields = {name: value for name, value in asdict(pair).items() if value is not None}
    return json.dumps(fields, sort_keys=True) + "\n"
