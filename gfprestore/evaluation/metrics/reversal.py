"""Metrics that say what a reversal of retouching brought back: geometry, tone, texture, landmarks.

Not metrics of the FRRffusion paper. They need no weights, but the place of the face: geometry is measured within the
face, tone and texture on its skin. Images are (H, W, 3) RGB uint8, the image and its gt of the same size.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.data.retouching import face_region, skin_mask
from gfprestore.evaluation.metrics.batching import mean_score, pairs
from gfprestore.evaluation.metrics.specs import MetricSpec, Pixels
from gfprestore.faces.alignment import FFHQ_TEMPLATE, TEMPLATE_SIZE
from gfprestore.faces.detection import Detector, select_faces
from gfprestore.faces.geometry import rescaled
from gfprestore.pixels import resized

Points = NDArray[np.float64]
Floats = NDArray[np.float32]

GEOMETRY_WIDTH = 256
TEXTURE_SIGMA = 2.0  # pixels of the image: what is finer counts as texture
LEAST_ENERGY = 1e-6  # below it an image has no texture
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of linear red, green and blue in sRGB
LEAST_SKIN = 16.0  # summed weight of the skin, in pixels, below which tone and texture have no score


@dataclass(frozen=True, eq=False)
class FacePlace:
    """The place of the face in a gt.

    Attributes:
        landmarks: (5, 2) eyes, nose, mouth corners, in pixels of an image `width` pixels wide.
        width: Width of that image.
        points: (68, 2) landmarks likewise, for a better outline; None uses the mean face.
    """

    landmarks: Points
    width: int
    points: Points | None = None

    @classmethod
    def on_template(cls, width: int) -> FacePlace:
        """The place of a face that is aligned to the FFHQ template, in an image of this width."""
        return cls(rescaled(FFHQ_TEMPLATE, width / TEMPLATE_SIZE), width)

    @property
    def key(self) -> str:
        """Digest for cache keys."""
        parts = [self.landmarks] if self.points is None else [self.landmarks, self.points]
        relative = np.concatenate([(points + 0.5) / self.width for points in parts])
        return hashlib.sha256(np.round(relative, 6).astype("<f8").tobytes()).hexdigest()

    def at(self, width: int) -> FacePlace:
        """The same place in the same image of another width."""
        scale = width / self.width
        points = None if self.points is None else rescaled(self.points, scale)
        return FacePlace(rescaled(self.landmarks, scale), width, points)


@dataclass(frozen=True)
class FaceRegionMetric:
    """A metric of an image and its gt within the face.

    Attributes:
        spec: `geometry`, `tone` or `texture`.
        function: Score of (image, gt, place of the face at their size).
    """

    spec: MetricSpec
    function: Callable[[Pixels, Pixels, FacePlace], float]

    def score_faces(
        self, restored: Sequence[Pixels], gt: Sequence[Pixels] | None, faces: Sequence[FacePlace]
    ) -> list[float]:
        """One score per image; see `FaceMetric`."""
        both = pairs(self.spec, restored, gt)
        return [
            self.function(one, other, face.at(other.shape[1])) for (one, other), face in zip(both, faces, strict=True)
        ]

    def summarize(self, scores: Sequence[float]) -> float:
        """Mean without NaN."""
        return mean_score(scores)


@dataclass(frozen=True)
class LandmarkError:
    """Mean distance of the five landmarks that a detector finds on an image and on its gt, in eye distances.

    Attributes:
        spec: `landmarks`.
        detector: Finds the face nearest the center.
    """

    spec: MetricSpec
    detector: Detector

    def score(self, restored: Sequence[Pixels], gt: Sequence[Pixels] | None) -> list[float]:
        """One distance per image; NaN where no face is found."""
        both = pairs(self.spec, restored, gt)
        return [landmark_error(self._found(one), self._found(other)) for one, other in both]

    def summarize(self, scores: Sequence[float]) -> float:
        """Mean without NaN."""
        return mean_score(scores)

    def _found(self, pixels: Pixels) -> Points | None:
        size = (pixels.shape[1], pixels.shape[0])
        least = self.detector.default_threshold
        faces = select_faces(self.detector.detect(pixels), size, only_center=True, min_face=0, threshold=least)
        return faces[0].landmarks.astype(np.float64) if faces else None


def geometry_error(image: Pixels, gt: Pixels, face: FacePlace) -> float:
    """Mean end-point error within the face: how far each place of the gt lies from its place in the image.

    The dense flow from gt to image is that of DIS (Kroeger et al., ECCV 2016), which does not depend on brightness.

    Args:
        image: (H, W, 3).
        gt: (H, W, 3).
        face: Place of the face in the gt.

    Returns:
        Pixels of the image scaled to a width of 256; NaN if the face lies outside.
    """
    height, width = round(GEOMETRY_WIDTH * gt.shape[0] / gt.shape[1]), GEOMETRY_WIDTH
    grays = [cv2.cvtColor(resized(pixels, width, height), cv2.COLOR_RGB2GRAY) for pixels in (gt, image)]
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = dis.calc(grays[0], grays[1], None)  # (H, W, 2)
    place = face.at(width)
    mask = face_region(place.landmarks, (height, width), place.points)
    return weighted_mean(np.hypot(flow[..., 0], flow[..., 1]), mask)


def tone_error(image: Pixels, gt: Pixels, face: FacePlace) -> float:
    """Absolute difference of the skin's mean lightness L* (0 to 100); NaN without skin."""
    skin = _skin(gt, face)
    means = [weighted_mean(_lightness(pixels), skin) for pixels in (image, gt)]
    return abs(means[0] - means[1])


def texture_ratio(image: Pixels, gt: Pixels, face: FacePlace) -> float:
    """Ratio of the image's high-pass energy on the skin to the gt's; NaN without skin or if the gt has no texture.

    1 is right, less is too smooth, more is noise. A ratio of 1 does not prove that the texture is the right one.
    """
    skin = _skin(gt, face)
    energies = [weighted_mean(_high_pass_energy(pixels), skin) for pixels in (image, gt)]
    return energies[0] / energies[1] if energies[1] > LEAST_ENERGY else math.nan


def landmark_error(found: Points | None, expected: Points | None) -> float:
    """Mean distance of five landmarks (5, 2) from the expected ones, in eye distances of the latter.

    NaN if either is missing or the expected eyes lie on one another.
    """
    if found is None or expected is None:
        return math.nan
    eyes = float(np.hypot(*(expected[1] - expected[0])))
    return float(np.hypot(*(found - expected).T).mean()) / eyes if eyes > 0 else math.nan


def weighted_mean(values: NDArray[Any], weights: Floats) -> float:
    """Mean of values (H, W) with weights (H, W); NaN if the weights are too few."""
    total = float(weights.sum(dtype=np.float64))
    if total < LEAST_SKIN:
        return math.nan
    return float((values.astype(np.float64) * weights).sum()) / total


def _skin(gt: Pixels, face: FacePlace) -> Floats:
    place = face.at(gt.shape[1])
    return skin_mask(gt, place.landmarks, place.points)


def _lightness(pixels: Pixels) -> Floats:
    """L* (H, W) of CIELAB, from 0 to 100, exact: OpenCV's conversion is off by up to 0.2."""
    unit = np.arange(256) / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    luminance = linear[pixels] @ LUMINANCE
    root = np.where(luminance > (6 / 29) ** 3, np.cbrt(luminance), luminance * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.asarray(116 * root - 16, np.float32)


def _high_pass_energy(pixels: Pixels) -> Floats:
    """Squared difference to a Gaussian blur, (H, W), mean of the channels."""
    values = pixels.astype(np.float32)
    fine = values - cv2.GaussianBlur(values, (0, 0), TEXTURE_SIGMA, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray((fine * fine).mean(axis=2))
