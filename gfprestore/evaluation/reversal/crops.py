"""Pairs as they are compared: aligned crops, the same at 256 pixels, and the photos at 256 pixels.

Where the retouched photos lie in the frame of the originals, each face is found on the *retouched* photo, as it would
be in use, and both images are cut by the same transform. An alignment by the original's landmarks would reveal how much
the face was shrunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gfprestore.data.images import Pixels, read_pixels, sha256_of
from gfprestore.errors import FaceError, FolderError, GfprestoreError, PhotoError
from gfprestore.evaluation.metrics.reversal import FacePlace
from gfprestore.evaluation.reversal.kept import Kept, key_of
from gfprestore.evaluation.reversal.retouched_set import Case
from gfprestore.faces.alignment import FaceCrop, align_face
from gfprestore.faces.detection import Detector, select_faces
from gfprestore.faces.geometry import aligned, inverse_matrix, transformed
from gfprestore.pixels import resized

SMALL = 256
SMALLEST_FACE = 16.0  # pixels, as in `gfprestore run`
FOLDER = "pairs"
LQ_CROP, GT_CROP, LQ_SMALL, GT_SMALL, LQ_PHOTO, GT_PHOTO = (
    *("crop-retouched", "crop-original", "crop-256-retouched", "crop-256-original"),
    *("photo-256-retouched", "photo-256-original"),
)

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pair:
    """A pair, cut.

    Attributes:
        case: The pair as it was given.
        lq: The retouched crop (S, S).
        gt: The original crop (S, S).
        lq_small: The retouched crop at 256 pixels.
        gt_small: The original crop at 256 pixels.
        side: S in pixels.
        face: Place of the face in the original crop.
        photo_to_crop: (2, 3) from the photo to the crop; None if the images were aligned already.
        lq_photo: The whole retouched photo at 256 pixels wide; None likewise.
        gt_photo: The whole original photo at 256 pixels wide; None likewise.
        photo_face: Place of the face in the original photo; None likewise.
    """

    case: Case
    lq: Path
    gt: Path
    lq_small: Path
    gt_small: Path
    side: int
    face: FacePlace
    photo_to_crop: Matrix | None = None
    lq_photo: Path | None = None
    gt_photo: Path | None = None
    photo_face: FacePlace | None = None

    @property
    def name(self) -> str:
        """Name of the case."""
        return self.case.name


def cut_pairs(
    cases: Sequence[Case], root: Path, detector: Detector | None, detector_key: str, on_progress: Callable[[int], None]
) -> tuple[list[Pair], dict[str, str]]:
    """Cut all pairs; what is cut already is kept.

    Args:
        cases: The pairs.
        root: Output folder of the evaluation, which exists.
        detector: Finds the faces on the retouched photos; None if the images are aligned already.
        detector_key: What identifies the detector and its weights.
        on_progress: Called with the number of finished pairs.

    Returns:
        The pairs, and the errors of the others by name.

    Raises:
        FolderError: The output folder cannot be written.
    """
    kept = Kept(root / FOLDER, root)
    pairs, failed = [], {}
    for number, case in enumerate(cases, 1):
        try:
            key = key_of("pairs", 1, None if detector is None else detector_key, sha256_of(case.lq), sha256_of(case.gt))
            if not kept.is_done(case.name, key):
                _cut(case, key, kept, detector)
            pairs.append(_pair_of(case, kept))
        except FolderError:
            raise
        except GfprestoreError as error:
            failed[case.name] = str(error)
        on_progress(number)
    return pairs, failed


def found_crop(pixels: Pixels, detector: Detector, side: int, path: Path) -> FaceCrop:
    """Cut the face nearest the center of a photo (H, W, 3) to (side, side, 3).

    Raises:
        FaceError: No face was found.
    """
    size = (pixels.shape[1], pixels.shape[0])
    faces = select_faces(
        detector.detect(pixels),
        size,
        only_center=True,
        min_face=min(SMALLEST_FACE, side / 8),
        threshold=detector.default_threshold,
    )
    if not faces:
        raise FaceError(f"{path}: {detector.name} found no face.")
    return align_face(pixels, faces[0], side)


def cut_like(pixels: Pixels, matrix: Matrix, side: int) -> Pixels:
    """The square (side, side, 3) that `matrix` cuts from a photo, 8 bits, as `align_face` cuts it."""
    return np.rint(np.clip(aligned(pixels, matrix, side), 0, 255)).astype(np.uint8)


def small(pixels: Pixels) -> Pixels:
    """An image at 256 pixels wide."""
    height, width = pixels.shape[:2]
    return np.asarray(resized(pixels, SMALL, max(1, round(SMALL * height / width))), np.uint8)


def _cut(case: Case, key: str, kept: Kept, detector: Detector | None) -> None:
    lq, gt = (read_pixels(path).pixels for path in (case.lq, case.gt))
    if lq.shape != gt.shape:
        sizes = " and ".join(f"{pixels.shape[1]} x {pixels.shape[0]}" for pixels in (lq, gt))
        raise PhotoError(f"{case.lq} and its original {case.gt} differ in size: {sizes} pixels.")
    height, width = lq.shape[:2]
    images: dict[str, Pixels] = {}
    data: dict[str, object] = {"side": width, "width": width}
    if detector is None:
        if height != width:
            raise PhotoError(f"{case.lq} is {width} x {height} pixels, and an aligned face is square.")
    else:
        side = min(width, height)
        crop = found_crop(lq, detector, side, case.lq)
        images |= {LQ_PHOTO: small(lq), GT_PHOTO: small(gt)}
        lq, gt = np.asarray(crop.pixels, np.uint8), cut_like(gt, crop.photo_to_crop, side)
        images |= {LQ_CROP: lq, GT_CROP: gt}
        data |= {"side": side, "photo_to_crop": crop.photo_to_crop.tolist()}
    kept.put(case.name, key, {**images, LQ_SMALL: small(lq), GT_SMALL: small(gt)}, data)


def _pair_of(case: Case, kept: Kept) -> Pair:
    data = kept.data(case.name)
    side, width = int(data["side"]), int(data["width"])

    def path(part: str) -> Path:
        return kept.path(part, case.name)

    if "photo_to_crop" not in data:
        face = case.face or FacePlace.on_template(side)
        return Pair(case, case.lq, case.gt, path(LQ_SMALL), path(GT_SMALL), side, face)
    matrix = np.array(data["photo_to_crop"], np.float64)
    template = FacePlace.on_template(side)
    photo_face = case.face or FacePlace(transformed(inverse_matrix(matrix), template.landmarks), width)
    in_photo = photo_face.at(width)
    points = None if in_photo.points is None else transformed(matrix, in_photo.points)
    return Pair(
        case=case,
        lq=path(LQ_CROP),
        gt=path(GT_CROP),
        lq_small=path(LQ_SMALL),
        gt_small=path(GT_SMALL),
        side=side,
        face=FacePlace(transformed(matrix, in_photo.landmarks), side, points),
        photo_to_crop=matrix,
        lq_photo=path(LQ_PHOTO),
        gt_photo=path(GT_PHOTO),
        photo_face=photo_face,
    )
