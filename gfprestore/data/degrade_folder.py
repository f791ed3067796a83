"""Makes a test set like CelebA-Test from any folder of aligned faces (Wang et al., CVPR 2021, section 4.1).

A set is a folder: `lq/NAME.png`, `gt/NAME.png`, `degradation.jsonl` with every number that was drawn for each image,
and `set.json` with the options. An image's degradation depends on the seed and its name alone (its path within the
source without the suffix), never on the other images, on their order or on the number of workers, so that the same
command gives the same bytes; with other versions of the libraries that compress JPEG and PNG they may differ.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import unicodedata
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore._version import __version__
from gfprestore.batch.journal import Journal
from gfprestore.batch.output_folder import create_folder_within, prepare_output
from gfprestore.batch.walk import Skipped
from gfprestore.data.capture import gray_of
from gfprestore.data.degradation import CELEBA_TEST, HEAVY, OFFICIAL, OLD_PRINTS, PAPER, DegradationOptions, degrade
from gfprestore.data.image_folders import TABLE_NAME, images_in, table_rows
from gfprestore.data.images import Pixels, image_name, read_pixels, sha256_of, write_png
from gfprestore.errors import FolderError, GfprestoreError, PhotoError, UsageError
from gfprestore.files import append, write_whole

PRESETS: dict[str, DegradationOptions] = {
    "celeba-test": CELEBA_TEST,
    "paper": PAPER,
    "official": OFFICIAL,
    "heavy": HEAVY,
    "old-prints": OLD_PRINTS,
}

LQ, GT = "lq", "gt"
SET_NAME = "set.json"
PARAMETERS_NAME = "degradation.jsonl"


@dataclass(frozen=True)
class DegradeOptions:
    """What a set is made with.

    Attributes:
        seed: Of everything random, 0 or more.
        preset: A key of `PRESETS`.
        size: Side of the images; larger faces are made smaller, smaller ones refused.
        split: Take only the rows of the source's `index.csv` with this `split`; None takes every image.
        exclude: Shell patterns of names and paths to leave out.

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
            raise UsageError(f"--preset {self.preset} is unknown; use one of {', '.join(PRESETS)}.")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed} is negative; use 0 or more.")
        if self.size < 16:
            raise UsageError(f"--size {self.size} is below 16 pixels.")


@dataclass(frozen=True)
class DegradeReport:
    """What came of it: images made now, images that were there already, and those that could not be used."""

    made: int
    done_before: int
    failed: tuple[Skipped, ...]


@dataclass(frozen=True)
class DegradedPair:
    """One image of a set; the fields are those of a line of `degradation.jsonl`.

    Attributes:
        name: Its name in `lq` and `gt`, without the suffix.
        source: Its path within the source folder.
        source_sha256: Of the source's bytes.
        lq_sha256: Of the low-quality file.
        gt_sha256: Of the gt's file.
        parameters: What was drawn, as `gfprestore.data.degradation` names it; a step that was not done has no entry.
    """

    name: str
    source: str
    source_sha256: str
    lq_sha256: str
    gt_sha256: str
    parameters: dict[str, float]


def degrade_folder(
    source: Path,
    output: Path,
    options: DegradeOptions,
    on_progress: Callable[[int, int], None] | None = None,
    workers: int = 2,
) -> DegradeReport:
    """Makes a test set; what is made already is kept, so that an interrupted run goes on where it was.

    Args:
        source: A folder of aligned faces, flat or nested; never written to.
        output: The set; another folder, not within the source.
        options: What to make.
        on_progress: Told how many of how many images are done.
        workers: Threads.

    Raises:
        FolderError: A folder cannot be used, has no images, or holds a set made with other options.
        UsageError: The source has no table of splits, or none of the split that was asked for.
    """
    sources = _sources(source, options)
    _check_apart(source, output)
    prepare_output(output)
    with Journal.open(output):  # as a lock: two runs must not write into one set
        description = _check_description(output, options)
        known = {pair.name: pair for pair in read_pairs(output)}
        failed: list[Skipped] = []
        made = kept = 0
        with contextlib.closing(_made(source, output, sources, options, known, workers)) as results:
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
        description = {**description, "count": len(pairs)}
        write_whole(output / SET_NAME, _document(description))
    return DegradeReport(made, kept, tuple(failed))


def degraded_pair(gt: NDArray[np.uint8], options: DegradationOptions, seed: int, name: str) -> tuple[Any, Any, Any]:
    """Degrades one image by the seed of its name.

    Args:
        gt: (S, S, 3) RGB.
        options: The ranges.
        seed: Of the set.
        name: Of the image.

    Returns:
        lq (S, S, 3) uint8, gt (S, S, 3) uint8 (gray where the options say so and the lq lost its colors), and the
        drawn parameters.
    """
    levels = gt.astype(np.float32) / np.float32(255)
    degraded = degrade(levels, options, np.random.default_rng(_seed_of(seed, name)))
    if options.gray_gt and "grey" in degraded.parameters:
        gt = np.rint(gray_of(levels) * 255).astype(np.uint8)
    return np.rint(degraded.lq * 255).astype(np.uint8), gt, degraded.parameters


def read_description(folder: Path) -> dict[str, Any] | None:
    """The options that a set was made with; None where the folder is no set of `gfprestore degrade`.

    Raises:
        FolderError: The description is there and cannot be read.
    """
    path = folder / SET_NAME
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise TypeError("it is no JSON object")
    except (OSError, ValueError, TypeError) as error:
        raise FolderError(f"{path} cannot be read ({error}). Make the set anew in another folder.") from error
    return document


def read_pairs(folder: Path) -> list[DegradedPair]:
    """The images of a set by its `degradation.jsonl`; a line that is torn or damaged is as if never written."""
    path = folder / PARAMETERS_NAME
    found: dict[str, DegradedPair] = {}
    if path.is_file():
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError, TypeError):
                pair = DegradedPair(**json.loads(line))
                found[str(pair.name)] = pair
    return list(found.values())


def _made(
    source: Path,
    output: Path,
    sources: dict[str, Path | Skipped],
    options: DegradeOptions,
    known: dict[str, DegradedPair],
    workers: int,
) -> Generator[DegradedPair | Skipped, None, None]:
    """Each image of the set in the order of the sources; a few are worked on ahead, so that memory stays bounded."""
    threads = ThreadPoolExecutor(max(workers, 1), thread_name_prefix="degrade")
    ahead: list[Future[DegradedPair | Skipped]] = []
    try:
        for name, path in sources.items():
            ahead.append(threads.submit(_make, name, path, source, output, options, known))
            if len(ahead) >= 2 * max(workers, 1):
                yield ahead.pop(0).result()
        for future in ahead:
            yield future.result()
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def _make(
    name: str,
    path: Path | Skipped,
    source: Path,
    output: Path,
    options: DegradeOptions,
    known: dict[str, DegradedPair],
) -> DegradedPair | Skipped:
    """Makes one image, or finds it made; what is wrong with it is told, the others go on."""
    if isinstance(path, Skipped):
        return path
    try:
        digest = sha256_of(path)
        done = known.get(name)
        if done is not None and _is_whole(output, done, digest):
            return done
        gt = _square(path, options.size)
        lq, gt, parameters = degraded_pair(gt, PRESETS[options.preset], options.seed, name)
        hashes = [_write(pixels, output, part, name) for part, pixels in ((GT, gt), (LQ, lq))]
        relative = path.relative_to(source).as_posix()
        return DegradedPair(name, relative, digest, hashes[1], hashes[0], parameters)
    except FolderError:
        raise
    except GfprestoreError as error:
        return Skipped(path, str(error), is_problem=True)


def _square(path: Path, size: int) -> Pixels:
    """The image at the set's size, 8 bits.

    Raises:
        PhotoError: It is damaged, not square, or too small.
    """
    pixels = read_pixels(path).pixels
    height, width = pixels.shape[:2]
    if height != width:
        raise PhotoError(f"{path} is {width} x {height} pixels, and an aligned face is square. Use `prepare`.")
    if height < size:
        raise PhotoError(f"{path} is {height} pixels a side, and the set is of {size}. Use --size {height}.")
    if height > size:
        pixels = np.asarray(cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    return pixels


def _write(pixels: Pixels, output: Path, part: str, name: str) -> str:
    """Writes an image of the set and gives the SHA-256 of its file."""
    path = _path_of(output, part, name)
    create_folder_within(path.parent, output)
    write_png(path, pixels)
    return sha256_of(path)


def _path_of(output: Path, part: str, name: str) -> Path:
    return output / part / f"{name}.png"


def _is_whole(output: Path, pair: DegradedPair, source_sha256: str) -> bool:
    """Whether an image was made of this very source and both its files are what was written."""
    files = ((LQ, pair.lq_sha256), (GT, pair.gt_sha256))
    try:
        return pair.source_sha256 == source_sha256 and all(
            sha256_of(_path_of(output, part, pair.name)) == digest for part, digest in files
        )
    except PhotoError:
        return False


def _sources(source: Path, options: DegradeOptions) -> dict[str, Path | Skipped]:
    """The images of the source by their name in the set; where two have one name, the later is a problem.

    Raises:
        FolderError: The folder cannot be read or has no images.
        UsageError: There is no such split.
    """
    if not source.is_dir():
        raise FolderError(f"{source} is no folder. Name a folder of aligned faces.")
    found = images_in(source) if options.split is None else _of_split(source, options.split)
    paths = [path for path in found if not _is_excluded(path.relative_to(source), options.exclude)]
    if not paths:
        raise FolderError(f"There are no images to degrade in {source}. Name a folder of aligned faces.")
    named: dict[str, Path | Skipped] = {}
    taken: dict[str, Path] = {}
    for path in paths:
        name = image_name(path, source)
        first = taken.setdefault(unicodedata.normalize("NFC", name).casefold(), path)
        if first is path:
            named[name] = path
        else:
            reason = f"{path} would have the name of {first} in the set. Rename one of them."
            named[path.relative_to(source).as_posix()] = Skipped(path, reason, is_problem=True)
    return named


def _of_split(source: Path, split: str) -> list[Path]:
    if not (source / TABLE_NAME).is_file():
        raise UsageError(f"--split {split} needs a {TABLE_NAME} with a column `split` in {source}; there is none.")
    rows = table_rows(source)
    paths = [source / row["file"] for row in rows if row.get("split") == split]
    if not paths:
        known = sorted({row.get("split") or "" for row in rows} - {""})
        raise UsageError(
            f"No row of {source / TABLE_NAME} has the split {split}. There are: {', '.join(known) or 'none'}."
        )
    return paths


def _is_excluded(relative: Path, patterns: Sequence[str]) -> bool:
    names = (relative.name, relative.as_posix())
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns for name in names)


def _check_apart(source: Path, output: Path) -> None:
    """Raises FolderError where the set would lie in the source or the source in the set."""
    inner, outer = output.resolve(), source.resolve()
    if inner.is_relative_to(outer) or outer in ((inner / LQ).resolve(), (inner / GT).resolve()):
        raise FolderError(
            f"The set {output} would lie within its source {source}, and originals are never written to. "
            "Name another folder with --output."
        )


def _check_description(output: Path, options: DegradeOptions) -> dict[str, Any]:
    """Writes the set's description, or finds that it is the same.

    Raises:
        FolderError: The folder holds a set made with other options, or images that are no set of ours.
    """
    wanted = {
        "made_by": "gfprestore degrade",
        "gfprestore": __version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "seed": options.seed,
        "preset": options.preset,
        "size": options.size,
        "split": options.split,
        "exclude": list(options.exclude),
        "ranges": asdict(PRESETS[options.preset]),
    }
    wanted = json.loads(json.dumps(wanted))
    found = read_description(output)
    if found is None:
        if any((output / part).exists() for part in (LQ, GT)):
            raise FolderError(f"{output} holds images that this command did not make. Name another folder.")
        write_whole(output / SET_NAME, _document(wanted))
        return dict(wanted)
    changed = [key for key, value in wanted.items() if found.get(key) != value]
    if changed:
        raise FolderError(
            f"{output} holds a set made with another {', '.join(changed)}. Name another folder with --output."
        )
    return dict(wanted)


def _seed_of(seed: int, name: str) -> list[int]:
    """What an image's generator starts from; names that look alike on other file systems are the same."""
    digest = hashlib.sha256(unicodedata.normalize("NFC", PurePosixPath(name).as_posix()).encode("utf-8", "replace"))
    return [seed, *(int.from_bytes(digest.digest()[start : start + 4], "big") for start in range(0, 32, 4))]


def _line_of(pair: DegradedPair) -> str:
    return json.dumps(asdict(pair), sort_keys=True) + "\n"


def _document(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode("utf-8")
