"""Align faces: from landmarks to upright crops on the FFHQ template.

The crop follows FFHQ's five-point template (Karras et al., CVPR 2019, as GFP-GAN uses it). Pixels are RGB uint8 or
uint16. All coordinates refer to pixel centers: (0, 0) is the center of the first pixel, and in an image enlarged by s
the same point lies at (x + 0.5) * s - 0.5. A low-pass before downscaling prevents aliasing; upscaling is cubic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.faces.detection import DetectedFace
from gfprestore.faces.geometry import Matrix, aligned, fit_similarity, rescaled, transformed
from gfprestore.pixels import nearest_levels

TEMPLATE_SIZE = 512
FFHQ_TEMPLATE: Matrix = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)

FACE_ON_TEMPLATE = (120, 160, 392, 432)
"""Left, top, right and bottom of a face on the template of 512: the box in which dlib looks for landmarks."""

FACE_ITSELF = (0.205, 0.234, 0.795, 0.879)
"""Left, top, right and bottom of the face without hair and background, as fractions of the crop."""


@dataclass(frozen=True)
class FaceCrop:
    """An upright face crop of the template's size.

    Attributes:
        pixels: (S, S, 3) RGB of the photo's type.
        photo_to_crop: (2, 3) float64, transform from photo to crop coordinates, both of pixel centers.
    """

    pixels: NDArray[Any]
    photo_to_crop: Matrix

    @property
    def side_in_photo(self) -> float:
        """Side length of the crop in photo pixels."""
        return float(len(self.pixels) / np.hypot(*self.photo_to_crop[:, 0]))


def align_face(pixels: NDArray[Any], face: DetectedFace, size: int) -> FaceCrop:
    """Crop a face, rotated and scaled onto the template in one interpolation.

    If the crop extends beyond the photo, the photo is mirrored at its border.

    Args:
        pixels: The photo (H, W, 3) RGB uint8 or uint16.
        face: The face, with landmarks in photo pixels.
        size: Side length of the crop.
    """
    template = rescaled(FFHQ_TEMPLATE, size / TEMPLATE_SIZE)
    photo_to_crop = fit_landmarks(face.landmarks.astype(np.float64), template)
    return FaceCrop(cropped(pixels, photo_to_crop, size), photo_to_crop)


def cropped(pixels: NDArray[Any], photo_to_crop: Matrix, size: int) -> NDArray[Any]:
    """The crop (size, size, 3) of a photo (H, W, 3) uint8 or uint16 that `photo_to_crop` maps to, in the same type."""
    return nearest_levels(aligned(pixels, photo_to_crop, size), pixels.dtype)


def face_turn(landmarks: NDArray[Any]) -> float:
    """Turn of a face with five landmarks (5, 2): offset of the nose from the middle of the eyes, in eye distances."""
    left_eye, right_eye, nose = np.asarray(landmarks[:3], np.float64)
    across = right_eye - left_eye
    return float((nose - (left_eye + right_eye) / 2) @ across / max(float(across @ across), 1e-6))


def crop_sharpness(pixels: NDArray[Any]) -> float:
    """Ratio of the finest detail of a crop (S, S, 3) to its coarser detail: 0.3 is blurred, 0.7 is sharp.

    The ratio of the standard deviations of two bands of the luma of the face itself: between Gaussian blurs of 1 and 2
    pixels, and of 2 and 4.
    """
    size = len(pixels)
    left, top, right, bottom = (round(share * size) for share in FACE_ITSELF)
    face = np.ascontiguousarray(pixels[top:bottom, left:right]).astype(np.float32)
    luma = np.asarray(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), np.float32)
    fine, middle, coarse = (np.asarray(cv2.GaussianBlur(luma, (0, 0), sigma)) for sigma in (1.0, 2.0, 4.0))
    return float((fine - middle).std() / max(float((middle - coarse).std()), 1e-6))


def fit_landmarks(landmarks: Matrix, template: Matrix) -> Matrix:
    """Fit a similarity from five landmarks (5, 2) to the template (5, 2), robust to one misplaced point.

    If four points fit the template several times better than all five, the fifth is considered misplaced and ignored.
    A face that is turned away has a similar error at all points, so all are used.
    """
    everyone = np.ones(len(template))
    matrix = fit_similarity(landmarks, template, everyone)
    misfit = _misfit(matrix, landmarks, template, everyone)
    if misfit < 0.08 * float(np.hypot(*(template[1] - template[0]))):
        return matrix
    without_one = []
    for index in range(len(template)):
        weights = everyone.copy()
        weights[index] = 0
        fitted = fit_similarity(landmarks, template, weights)
        without_one.append((_misfit(fitted, landmarks, template, weights), index, fitted))
    best = min(without_one)
    return best[2] if best[0] < 0.3 * misfit else matrix


def _misfit(matrix: Matrix, landmarks: Matrix, template: Matrix, weights: Matrix) -> float:
    """Root mean square distance of the weighted points from the template."""
    squares = ((transformed(matrix, landmarks) - template) ** 2).sum(axis=1)
    return float(np.sqrt((weights * squares).sum() / weights.sum()))
