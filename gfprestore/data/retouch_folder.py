"""Makes retouched/original pairs, as deepFRR has them, from any folder of aligned faces.

A set is a folder: `lq/NAME.png` (retouched), `gt/NAME.png` (original), `retouch.csv` with everything that was done, and
`set.json` with the options. A pair depends on the seed, the face's name and the number of the variant alone, so that a
part of a folder gives the same files. By default both images are cut anew by the landmarks that a detector finds on the
*retouched* face, with some jitter, as a face arrives when a retouched photo is restored: pairs cut by the original's
landmarks would reveal how much a face was shrunk.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore._version import __version__
from gfprestore.batch.journal import Journal
from gfprestore.batch.output_folder import prepare_output
from gfprestore.batch.walk import Skipped
from gfprestore.data.dlib_landmarks import FindLandmarks
from gfprestore.data.image_folders import TABLE_NAME, table_error, table_rows
from gfprestore.data.images import Pixels, image_name, read_pixels, sha256_of
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
from gfprestore.data.retouched_pairs import PAIRS_NAME, RetouchedPair, header, line_of, read_retouched_pairs
from gfprestore.data.retouching import RECIPE_VERSION, limit_levels, retouch
from gfprestore.data.retouching_geometry import Points, retouched_places
from gfprestore.data.retouching_levels import draw_levels, generator_of
from gfprestore.errors import FolderError, GfprestoreError, PhotoError, UsageError
from gfprestore.faces.alignment import FFHQ_TEMPLATE, TEMPLATE_SIZE, align_face, cropped
from gfprestore.faces.detection import DetectedFace, Detector, select_faces
from gfprestore.faces.geometry import rescaled, transformed
from gfprestore.files import append, write_whole
from gfprestore.pixels import resized

SMALLEST_SIDE = 64
LARGEST_MISS = 0.5  # of the eye distance: a face found further from where the retouched one lies is another face


@dataclass(frozen=True)
class RetouchOptions:
    """What a set is made with.

    Attributes:
        seed: Random seed, 0 or more.
        preset: `deepfrr`, `mixed` or `single-OPERATION-LEVEL`, see `retouching_levels`.
        variants: Number of pairs made of each face.
        size: Side of the images; None for each face's own. Larger faces are retouched at their own size and cut to it.
        split: Take only the rows of the source's `index.csv` with this `split`; None takes every image.
        exclude: Shell patterns of names and paths to leave out.
        keep_alignment: Leave the faces where the original lies, and look for none.
        untouched: Share of pairs that the preset `mixed` leaves as they are.
        jitter: Standard deviation of what is added to the found landmarks, in pixels of a 512-pixel crop.

    Raises:
        UsageError: A value is unknown or out of range.
    """

    seed: int
    preset: str = "deepfrr"
    variants: int = 1
    size: int | None = None
    split: str | None = None
    exclude: tuple[str, ...] = ()
    keep_alignment: bool = False
    untouched: float = 0.25
    jitter: float = 2.4

    def __post_init__(self) -> None:
        try:
            draw_levels(self.preset, np.random.default_rng(0))
        except ValueError as error:
            raise UsageError(f"--preset: {error}.") from None
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed} is negative; use 0 or more.")
        if self.variants < 1:
            raise UsageError(f"--variants {self.variants} is below 1.")
        if self.size is not None and self.size < SMALLEST_SIDE:
            raise UsageError(f"--size {self.size} is below {SMALLEST_SIDE} pixels.")
        if not 0 <= self.untouched <= 1:
            raise UsageError(f"The share of untouched pairs is {self.untouched}; use 0 to 1.")
        if not 0 <= self.jitter <= 20:
            raise UsageError(f"The jitter is {self.jitter} pixels; use 0 to 20.")


def retouch_folder(
    source: Path,
    output: Path,
    options: RetouchOptions,
    detector: Detector | None = None,
    find_landmarks: FindLandmarks | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    workers: int = 2,
) -> SetReport:
    """Make a set of pairs; what is made already is kept, so that an interrupted run resumes.

    Args:
        source: A folder of aligned square faces, flat or nested; never written to. Their landmarks come from its
            `index.csv`; without that, they are those of the FFHQ template.
        output: The set; another folder, not within the source.
        options: What to make.
        detector: Finds the retouched faces; not needed where the alignment is kept.
        find_landmarks: Gives 68 landmarks of an aligned face, for better jaws and brows.
        on_progress: Called with the number of finished pairs and their total.
        workers: Threads.

    Raises:
        FolderError: A folder cannot be used, has no images, or holds a set made with other options.
        UsageError: The source has no table of splits, or none of the requested split; or there is no detector.
    """
    if detector is None and not options.keep_alignment:
        raise UsageError("Without a face detector pairs cannot be aligned on the retouched face. Use --keep-alignment.")
    paths = find_sources(source, options.split, options.exclude)
    landmarks = _known_landmarks(source)
    check_apart(source, output)
    prepare_output(output)
    with Journal.open(output):  # as a lock: two runs must not write into one set
        description = check_description(output, _description(options, detector, find_landmarks))
        known = {pair.name: pair for pair in read_retouched_pairs(output)}
        maker = _Maker(source, output, options, landmarks, detector, find_landmarks, known)
        tasks = list(_tasks(paths, source, options.variants))
        # Anew: an incomplete last line may hold an open quotation mark, which would swallow the next row.
        write_whole(output / PAIRS_NAME, header() + b"".join(line_of(pair) for pair in known.values()))
        failed: list[Skipped] = []
        made = kept = 0
        with contextlib.closing(worked_ahead(maker.make, tasks, workers)) as results:
            for number, result in enumerate(results, start=1):
                if isinstance(result, Skipped):
                    failed.append(result)
                elif known.get(result.name) is result:
                    kept += 1
                else:
                    append(output / PAIRS_NAME, line_of(result), b"\n")
                    made += 1
                if on_progress is not None:
                    on_progress(number, len(tasks))
        pairs = sorted(read_retouched_pairs(output), key=lambda pair: pair.name)
        write_whole(output / PAIRS_NAME, header() + b"".join(line_of(pair) for pair in pairs))
        write_description(output, {**description, "count": len(pairs)})
    return SetReport(made, kept, tuple(failed))


@dataclass(frozen=True)
class _Task:
    """One pair to make: its name in the set, its original with its own name, and the number of the variant."""

    name: str
    path: Path
    source_name: str
    variant: int


def _tasks(paths: list[Path], source: Path, variants: int) -> Iterator[_Task | Skipped]:
    """All pairs; the first variant has the original's name. Where two have one name, the later is a problem."""
    taken: dict[str, Path] = {}
    for path in paths:
        own = image_name(path, source)
        for variant in range(variants):
            name = own if variant == 0 else f"{own}-v{variant + 1}"
            first = taken.setdefault(folded(name), path)
            yield _Task(name, path, own, variant) if first is path else taken_name(path, first)


@dataclass
class _Maker:
    """Maker of pairs, one after the other, in any number of threads."""

    source: Path
    output: Path
    options: RetouchOptions
    landmarks: dict[str, Points]
    detector: Detector | None
    find_landmarks: FindLandmarks | None
    known: dict[str, RetouchedPair]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def make(self, task: _Task | Skipped) -> RetouchedPair | Skipped:
        """Make a pair, or find it made; an image that cannot be used is reported, the others continue.

        Raises:
            FolderError: The set cannot be written.
        """
        if isinstance(task, Skipped):
            return task
        try:
            digest = sha256_of(task.path)
            done = self.known.get(task.name)
            if done is not None and done.source_sha256 == digest and self._is_whole(done):
                return done
            return self._made(task, digest)
        except FolderError:
            raise
        except GfprestoreError as error:
            return Skipped(task.path, str(error), is_problem=True)

    def _is_whole(self, pair: RetouchedPair) -> bool:
        return is_whole(self.output, pair.name, {LQ: pair.lq_sha256, GT: pair.gt_sha256})

    def _made(self, task: _Task, digest: str) -> RetouchedPair:
        """Retouch a face, cut the pair and write it.

        Raises:
            PhotoError: The image cannot be used, or no face is found on it once it is retouched.
        """
        original = self._square(task.path)
        landmarks = self._landmarks_of(task.path, len(original))
        points = self._points_of(original)
        random = generator_of(self.options.seed, task.source_name, task.variant)
        levels = limit_levels(draw_levels(self.options.preset, random, self.options.untouched), landmarks)
        try:
            retouched = retouch(original, landmarks, levels, points)
        except ValueError as error:
            raise PhotoError(f"{task.path} cannot be retouched: {error}. Correct its landmarks.") from None
        moved = retouched_places(landmarks, levels, landmarks, points)
        size = self.options.size or len(original)
        if self.options.keep_alignment:
            matrix = _enlargement(size / len(original))
            lq, gt = (
                resized(pixels, size, size) if len(pixels) != size else pixels for pixels in (retouched, original)
            )
        else:
            moved = self._found(retouched, moved, task.path)
            shaken = moved + random.normal(0, self.options.jitter * len(original) / TEMPLATE_SIZE, moved.shape)
            crop = align_face(retouched, _face(shaken), size)
            matrix, lq, gt = crop.photo_to_crop, crop.pixels, cropped(original, crop.photo_to_crop, size)
        hashes = {part: write_part(pixels, self.output, part, task.name) for part, pixels in ((GT, gt), (LQ, lq))}
        return RetouchedPair(
            name=task.name,
            source=task.path.relative_to(self.source).as_posix(),
            variant=task.variant,
            seed=self.options.seed,
            levels=levels,
            size=size,
            landmarks=transformed(matrix, moved),
            original_landmarks=transformed(matrix, landmarks),
            original_points=None if points is None else transformed(matrix, points),
            source_to_crop=matrix,
            recipe=RECIPE_VERSION,
            source_sha256=digest,
            lq_sha256=hashes[LQ],
            gt_sha256=hashes[GT],
        )

    def _square(self, path: Path) -> Pixels:
        """An aligned face, 8 bits, at its own size.

        Raises:
            PhotoError: It is damaged, not square, or too small.
        """
        pixels = read_pixels(path).pixels
        height, width = pixels.shape[:2]
        least = self.options.size or SMALLEST_SIDE
        if height != width:
            raise PhotoError(f"{path} is {width} x {height} pixels, and an aligned face is square. Use `prepare`.")
        if height < least:
            raise PhotoError(f"{path} is {height} pixels a side, and at least {least} are needed. Use larger faces.")
        return pixels

    def _landmarks_of(self, path: Path, size: int) -> Points:
        known = self.landmarks.get(path.relative_to(self.source).as_posix())
        return rescaled(FFHQ_TEMPLATE, size / TEMPLATE_SIZE) if known is None else known

    def _points_of(self, original: Pixels) -> Points | None:
        if self.find_landmarks is None:
            return None
        with self.lock:
            return self.find_landmarks(original)

    def _found(self, retouched: Pixels, expected: Points, path: Path) -> Points:
        """Five landmarks as the detector finds them on the retouched face.

        Raises:
            PhotoError: It finds no face, or another one.
        """
        assert self.detector is not None
        with self.lock:
            faces = self.detector.detect(retouched)
        least = self.detector.default_threshold
        faces = select_faces(faces, retouched.shape[1::-1], only_center=True, min_face=0, threshold=least)
        if not faces:
            raise PhotoError(f"No face was found on {path} after retouching. Remove it, or use --keep-alignment.")
        found = faces[0].landmarks.astype(np.float64)
        eye_distance = float(np.hypot(*(expected[1] - expected[0])))
        if np.abs(found - expected).mean() > LARGEST_MISS * eye_distance:
            raise PhotoError(
                f"The face found on {path} after retouching lies elsewhere than its landmarks. Check its landmarks in "
                f"{TABLE_NAME}, or use --keep-alignment."
            )
        return found


def _face(landmarks: Points) -> DetectedFace:
    box = np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)])
    return DetectedFace(box.astype(np.float32), landmarks.astype(np.float32), 1.0)


def _enlargement(scale: float) -> NDArray[np.float64]:
    """The map of pixel centers from an image to itself enlarged by `scale`."""
    shift = (scale - 1) / 2
    return np.array([[scale, 0, shift], [0, scale, shift]])


def _known_landmarks(source: Path) -> dict[str, Points]:
    """The landmarks (5, 2) in the source's `index.csv`, by file.

    Raises:
        FolderError: The table cannot be read, or landmarks are not ten finite numbers.
    """
    if not (source / TABLE_NAME).is_file():
        return {}
    known: dict[str, Points] = {}
    for row in table_rows(source):
        text = row.get("landmarks")
        if not text:
            continue
        try:
            points = np.array([float(number) for number in text.split()]).reshape(5, 2)
            if not np.isfinite(points).all():
                raise ValueError(f"the landmarks of {row['file']} are not finite")
        except ValueError as error:
            raise table_error(source, error) from error
        known[row["file"]] = points
    return known


def _description(
    options: RetouchOptions, detector: Detector | None, find_landmarks: FindLandmarks | None
) -> dict[str, Any]:
    """What decides the bytes of a set, for `set.json`."""
    return {
        "made_by": "gfprestore retouch",
        "gfprestore": __version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "recipe": RECIPE_VERSION,
        "seed": options.seed,
        "preset": options.preset,
        "variants": options.variants,
        "size": options.size,
        "split": options.split,
        "exclude": list(options.exclude),
        "keep_alignment": options.keep_alignment,
        "untouched": options.untouched,
        "jitter": options.jitter,
        "detector": None if options.keep_alignment or detector is None else detector.name,
        "landmarks": 5 if find_landmarks is None else 68,
    }
