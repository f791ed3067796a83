"""Creation of a training set from a folder of photos: detect, align and filter faces, and compute component boxes.

Aligned sets with known boxes (FFHQ with its landmark or component file) are only resized. The index records finished
photos, see `prepared_index`. A second run processes only new and changed photos.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.batch.folders import plan_photos
from gfprestore.batch.output_folder import LONGEST_NAME, prepare_output
from gfprestore.batch.task_list import PhotoTask
from gfprestore.batch.walk import Skipped
from gfprestore.data.component_boxes import Boxes, aligned_part, known_boxes, number_of
from gfprestore.data.dlib_landmarks import FindLandmarks, open_landmarks
from gfprestore.data.face_dataset import held_out
from gfprestore.data.found_boxes import consistent_boxes
from gfprestore.data.prepared_index import INDEX_NAME, IndexedFace, IndexedPhoto, line_of, read_index, write_index
from gfprestore.errors import FolderError, PhotoError, PhotoWriteError, UsageError
from gfprestore.faces.alignment import TEMPLATE_SIZE, align_face, face_turn
from gfprestore.faces.detection import DetectedFace, Detector
from gfprestore.faces.geometry import transformed
from gfprestore.files import remove_leftovers
from gfprestore.photo.metadata import Metadata
from gfprestore.photo.photo import PHOTO_SUFFIXES, Photo
from gfprestore.photo.reading import read_photo
from gfprestore.photo.writing import write_photo
from gfprestore.pixels import resized, to_8_bit

log = logging.getLogger(__name__)

NO_FACE = "no face"
TURNED = "turned"
SMALL = "small"
CUT_OFF = "cut off"
BLURRED = "blurred"
REASONS = (NO_FACE, TURNED, SMALL, CUT_OFF, BLURRED)
"""Reasons to reject a face, in the order of the checks."""

FACE_ROWS, FACE_COLUMNS = (0.3, 0.85), (0.25, 0.75)  # relative part of the crop that is mostly face
OUTSIDE_GRID = 33

VERSION = 1  # version of the crops; photos of another version are processed again


@dataclass(frozen=True)
class PrepareOptions:
    """Options of a training set.

    Attributes:
        size: Side of the crops in pixels.
        min_eye_distance: Minimum distance of the eyes in the photo, in pixels; None means a fifth of `size`, which is
            four fifths of the distance in the crop.
        min_sharpness: Minimum variance of the Laplacian of the face in 8-bit levels, for a crop of 512 pixels; the
            limit is proportionally higher for smaller crops.
        max_yaw: Maximum distance of the nose from the middle between the eyes, in eye distances.
        max_outside: Maximum share of the crop that lies outside the photo.
        min_score: Minimum score of the detector; None means the threshold of the detector.
        jpeg_quality: JPEG quality of the crops, without chroma subsampling if the writer supports it; None writes PNG.
        exclude: Shell patterns of photos and folders to skip.
    """

    size: int = 512
    min_eye_distance: float | None = None
    min_sharpness: float = 15.0
    max_yaw: float = 0.45
    max_outside: float = 0.15
    min_score: float | None = None
    jpeg_quality: int | None = None
    exclude: tuple[str, ...] = ()

    def check(self) -> None:
        """Check that all values are in range.

        Raises:
            UsageError: A value is out of range.
        """
        if not 16 <= self.size <= 4096:
            raise UsageError(f"The size must be from 16 to 4096 pixels, not {self.size}.")
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 100:
            raise UsageError(f"The JPEG quality must be from 1 to 100, not {self.jpeg_quality}.")
        limits = (self.min_eye_distance or 0.0, self.min_sharpness, self.max_yaw, self.max_outside, self.min_score or 0)
        if not all(limit >= 0 for limit in limits):
            raise UsageError("The limits of eye distance, sharpness, yaw, outside share and score must be 0 or more.")

    @property
    def suffix(self) -> str:
        """Suffix of the crops."""
        return ".png" if self.jpeg_quality is None else ".jpg"


@dataclass(frozen=True)
class PrepareReport:
    """Result of `prepare`.

    Attributes:
        photos: Number of photos in the source folder.
        done_before: Number of photos that an earlier run had finished.
        faces: Number of crops in the set.
        rejected: Number of rejected faces by reason; for `no face` the number of photos.
        failed: Photos that cannot be used and folders that cannot be read, with reasons.
        index: Path of the index file.
    """

    photos: int
    done_before: int
    faces: int
    rejected: Mapping[str, int]
    failed: tuple[Skipped, ...]
    index: Path


@dataclass(frozen=True)
class _PhotoFaces:
    """Faces of one photo: crops with their entries, and the number of rejected faces by reason."""

    crops: list[tuple[NDArray[np.uint8], IndexedFace]] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)


def prepare(
    source: Path,
    output: Path,
    options: PrepareOptions,
    open_detector: Callable[[], Detector],
    on_progress: Callable[[int, int], None],
) -> PrepareReport:
    """Create a training set from a folder of photos, or resume an interrupted run.

    Args:
        source: Folder of photos, flat or nested; or FFHQ with its landmark or component file. Photos of the split
            `test` in its `index.csv` are skipped.
        output: Folder of the set, with crops in the same subfolders and the index.
        options: Options of the set.
        open_detector: Loads the face detector; called once, or never if all boxes are known.
        on_progress: Receives (finished photos, total photos) after each photo.

    Raises:
        FolderError: A folder cannot be used, the disk is full, or the set has another size.
        UsageError: An option is out of range.
        WeightsError: The detector cannot be loaded.
    """
    options.check()
    numbered = known_boxes(source)
    photo_folder = aligned_part(source)
    plan = plan_photos(
        [photo_folder], output, suffixes=PHOTO_SUFFIXES, rename=lambda _: options.suffix, exclude=options.exclude
    )
    test_photos = held_out(source)
    tasks = [task for task in plan.tasks if task.relative.as_posix() not in test_photos]
    prepare_output(output)
    done = _earlier_work(output, options)
    find_landmarks = open_landmarks()
    preparer = _PhotoPreparer(output, options, numbered, open_detector, find_landmarks)
    if len(tasks) < len(plan.tasks):
        log.info(f"Skipped {len(plan.tasks) - len(tasks)} photos of the split `test`.")
    if not numbered:
        log.info(
            "Computing boxes from 5 landmarks. Install the extra `landmarks` to use 68."
            if find_landmarks is None
            else "Computing boxes from the 68 landmarks of dlib."
        )
    photos: dict[str, IndexedPhoto] = {}
    done_before = 0
    with (output / INDEX_NAME).open("ab") as index:
        for number, task in enumerate(tasks, start=1):
            name = task.relative.as_posix()
            earlier = done.pop(name, None)
            if earlier is not None and preparer.is_done(task, earlier):
                photos[name] = earlier
                done_before += 1
            else:
                photos[name] = preparer.prepare(task, earlier, index)
                if photos[name].error:
                    log.info(photos[name].error)
            on_progress(number, len(tasks))
    # Crops of deleted photos stay in the set.
    all_photos = [*photos.values(), *(photo for photo in done.values() if photo.faces)]
    _write(output, all_photos)
    failed = [Skipped(photo_folder / photo.source, photo.error, is_problem=True) for photo in all_photos if photo.error]
    rejected = sum((Counter(photo.rejected) for photo in all_photos), Counter[str]())
    return PrepareReport(
        photos=len(tasks),
        done_before=done_before,
        faces=sum(len(photo.faces) for photo in all_photos),
        rejected={reason: rejected[reason] for reason in REASONS if rejected[reason]},
        failed=(*failed, *plan.problems),
        index=output / INDEX_NAME,
    )


def face_sharpness(crop: NDArray[Any]) -> float:
    """Variance of the Laplacian of the gray levels in the middle of an aligned crop (S, S, 3) uint8 RGB."""
    size = len(crop)
    rows, columns = (slice(round(start * size), round(end * size)) for start, end in (FACE_ROWS, FACE_COLUMNS))
    gray = np.asarray(cv2.cvtColor(np.ascontiguousarray(crop[rows, columns]), cv2.COLOR_RGB2GRAY), np.float32)
    return float(cv2.Laplacian(gray, cv2.CV_32F).var())


class _PhotoPreparer:
    """Creates the crops of one photo after the other."""

    def __init__(
        self,
        output: Path,
        options: PrepareOptions,
        numbered: Mapping[int, Boxes],
        open_detector: Callable[[], Detector],
        find_landmarks: FindLandmarks | None,
    ) -> None:
        self._output = output
        self._options = options
        self._numbered = numbered
        self._open_detector = open_detector
        self._find_landmarks = find_landmarks
        self._detector: Detector | None = None
        boxes_from = "files" if numbered else "5" if find_landmarks is None else "68"
        self._settings = _settings(options, boxes_from)

    def is_done(self, task: PhotoTask, earlier: IndexedPhoto) -> bool:
        """Whether an earlier run finished this unchanged photo with the same options, and its crops still exist."""
        stamp = _stamp(task.source)
        return (earlier.settings, earlier.bytes, earlier.modified_ns) == (self._settings, *stamp) and all(
            (self._output / face.file).is_file() for face in earlier.faces
        )

    def prepare(self, task: PhotoTask, earlier: IndexedPhoto | None, index: BinaryIO) -> IndexedPhoto:
        """Write the crops of a photo and then its line of the index; remove outdated crops of an earlier run.

        Raises:
            FolderError: The crops or the index cannot be written.
        """
        stamp = _stamp(task.source)
        name = task.relative.as_posix()
        try:
            found = self._find(task)
            photo = IndexedPhoto(
                name, *stamp, self._settings, tuple(face for _, face in found.crops), dict(found.rejected)
            )
        except PhotoError as error:
            found = _PhotoFaces()
            photo = IndexedPhoto(name, *stamp, self._settings, error=str(error))
        try:
            for pixels, face in found.crops:
                self._write_crop(pixels, self._output / face.file, task.source)
            index.write(line_of(photo))
            index.flush()
            os.fsync(index.fileno())
            for face in earlier.faces if earlier is not None else ():
                if face.file not in {kept.file for kept in photo.faces}:
                    (self._output / face.file).unlink(missing_ok=True)
        except PhotoWriteError as error:
            raise FolderError(f"{error} Finished photos are kept.") from error
        except OSError as error:
            raise _unwritable(self._output, error) from error
        return photo

    def _find(self, task: PhotoTask) -> _PhotoFaces:
        """Find the faces of a photo.

        Raises:
            PhotoError: The photo cannot be read, or has known boxes and is not square.
        """
        pixels = read_photo(task.source).pixels
        boxes = self._numbered.get(number_of(task.source))
        return self._detect_faces(task, pixels) if boxes is None else self._aligned_face(task, pixels, boxes)

    def _detect_faces(self, task: PhotoTask, pixels: NDArray[Any]) -> _PhotoFaces:
        if self._detector is None:
            self._detector = self._open_detector()
        threshold = self._options.min_score
        least = self._detector.default_threshold if threshold is None else threshold
        faces = [face for face in self._detector.detect(pixels) if face.score >= least]
        found = _PhotoFaces()
        if not faces:
            found.rejected[NO_FACE] += 1
        for number, face in enumerate(faces, start=1):
            reason, crop, entry = self._crop_face(task, pixels, face, number)
            if reason is None:
                found.crops.append((crop, entry))
            else:
                found.rejected[reason] += 1
        return found

    def _crop_face(
        self, task: PhotoTask, pixels: NDArray[Any], face: DetectedFace, number: int
    ) -> tuple[str | None, NDArray[np.uint8], IndexedFace]:
        """Reason to reject a face (None to accept it), its crop, and its entry of the index."""
        size = self._options.size
        crop = align_face(pixels, face, size)
        points = transformed(crop.photo_to_crop, face.landmarks.astype(np.float64))
        eye_distance = float(np.hypot(*(face.landmarks[1] - face.landmarks[0])))
        levels = to_8_bit(crop.pixels)
        entry = IndexedFace(
            self._file(task, number),
            size,
            _rounded(face.box),
            tuple(_rounded(point) for point in points),
            round(eye_distance, 2),
            round(face_sharpness(levels), 2),
            round(face_turn(points), 4),
            tuple(_rounded(box) for box in self._boxes(levels, points)),
        )
        outside = _share_outside(crop.photo_to_crop, size, pixels.shape)
        return self._reason(entry, outside), levels, entry

    def _boxes(self, crop: NDArray[np.uint8], points: NDArray[np.float64]) -> Boxes:
        """Boxes (3, 4) from 68 landmarks if available and consistent with the five landmarks, else from the five."""
        return consistent_boxes(crop, points, self._find_landmarks)

    def _aligned_face(self, task: PhotoTask, pixels: NDArray[Any], boxes: Boxes) -> _PhotoFaces:
        """Resize an aligned face.

        Raises:
            PhotoError: The image is not square.
        """
        size = self._options.size
        height, width = pixels.shape[:2]
        if height != width:
            raise PhotoError(
                f"{task.source} is not square ({width} x {height} pixels), so it is not an aligned face. Skip it with "
                "--exclude."
            )
        found = _PhotoFaces()
        if height < size:
            found.rejected[SMALL] += 1
            return found
        levels = resized(to_8_bit(pixels), size, size)
        centers = (boxes[:2, :2] + boxes[:2, 2:]) / 2 * height
        entry = IndexedFace(
            self._file(task, 1),
            size,
            (0.0, 0.0, float(width), float(height)),
            (),
            round(float(np.hypot(*(centers[1] - centers[0]))), 2),
            round(face_sharpness(levels), 2),
            0.0,
            tuple(_rounded(box * size) for box in boxes),
        )
        reason = self._reason(entry, 0.0)
        if reason is None:
            found.crops.append((levels, entry))
        else:
            found.rejected[reason] += 1
        return found

    def _reason(self, face: IndexedFace, outside: float) -> str | None:
        options = self._options
        least = options.size / 5 if options.min_eye_distance is None else options.min_eye_distance
        faults = {
            TURNED: abs(face.yaw) > options.max_yaw,
            SMALL: face.eye_px < least,
            CUT_OFF: outside > options.max_outside,
            BLURRED: face.sharpness < options.min_sharpness * TEMPLATE_SIZE / options.size,
        }
        return next((reason for reason, applies in faults.items() if applies), None)

    def _file(self, task: PhotoTask, number: int) -> str:
        """Path of a crop within the set; it contains the complete name of the photo, so that paths are unique."""
        name = task.relative.name
        if len(os.fsencode(name)) > LONGEST_NAME - len("-1000.png"):
            name = f"{name[:40]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
        return task.relative.with_name(f"{name}-{number}{self._options.suffix}").as_posix()

    def _write_crop(self, pixels: NDArray[np.uint8], path: Path, source: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = Metadata("PNG" if self._options.jpeg_quality is None else "JPEG", (pixels.shape[1], len(pixels)))
        write_photo(Photo(source, pixels, None, metadata, gray=False), path, quality=self._options.jpeg_quality)


def _earlier_work(output: Path, options: PrepareOptions) -> dict[str, IndexedPhoto]:
    """Read the results of earlier runs by source; compact the index and remove temporary files.

    Raises:
        FolderError: The index is damaged, or the set has another size.
    """
    if not (output / INDEX_NAME).is_file():
        return {}
    photos = read_index(output)
    other = next((face.size for photo in photos for face in photo.faces if face.size != options.size), None)
    if other is not None:
        raise FolderError(
            f"{output} is a set of {other} pixels, not of {options.size}. Use another folder with --output, or use "
            f"--size {other}."
        )
    _write(output, photos)
    return {photo.source: photo for photo in photos}


def _write(output: Path, photos: list[IndexedPhoto]) -> None:
    try:
        remove_leftovers(output)
        write_index(output, photos)
    except OSError as error:
        raise _unwritable(output, error) from error


def _unwritable(output: Path, error: OSError) -> FolderError:
    reason = error.strerror or str(error)
    return FolderError(f"The set in {output} cannot be written: {reason}. Fix this and run the same command to resume.")


def _settings(options: PrepareOptions, boxes_from: str) -> str:
    """Hash of everything that affects the result for a photo."""
    values = {**asdict(options), "exclude": (), "boxes_from": boxes_from, "version": VERSION}
    return hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()[:12]


def _stamp(path: Path) -> tuple[int, int]:
    """Size and modification time of a file, to detect changes; zeros if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _share_outside(photo_to_crop: NDArray[np.float64], size: int, shape: tuple[int, ...]) -> float:
    """Share of a crop that lies outside the photo."""
    steps = np.linspace(0, size - 1, OUTSIDE_GRID)
    points = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    back = np.linalg.inv(photo_to_crop[:, :2])
    places = (points - photo_to_crop[:, 2]) @ back.T
    inside = (places >= -0.5).all(axis=1) & (places <= np.array([shape[1], shape[0]]) - 0.5).all(axis=1)
    return float(1 - inside.mean())


def _rounded(numbers: NDArray[Any]) -> tuple[float, ...]:
    return tuple(round(float(number), 3) for number in numbers)
