"""Detect faces and their five landmarks: what MTCNN and RetinaFace have in common.

Photos are (H, W, 3) RGB uint8 or uint16, upright. Landmarks are (x, y) of pixel centers, so that (0, 0) is the center
of the first pixel; boxes refer to pixel edges, so that a box over the whole photo is (0, 0, W, H). Both detectors use a
copy with a bounded longer side and map the result back, so that their time and memory do not grow with the photo.
MTCNN is embedded (no download); RetinaFace is facexlib's network.

MTCNN: Zhang et al., "Joint face detection and alignment using multitask cascaded convolutional networks", 2016.
RetinaFace: Deng et al., "RetinaFace: single-shot multi-level face localization in the wild", CVPR 2020.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gfprestore.pixels import resized, to_8_bit

Floats = NDArray[np.float32]

TURNED_SCORE = 0.96
"""Minimum score of the best face of an orientation other than upright, to take it for that of the photo."""

MIXED_SCORE = 0.99
"""Minimum score of a face in another orientation than the photo's, as on album pages."""

TURNED_SIDE = 1000
"""Longest side of the copy in which the three other orientations are searched."""

FILLING_SHARE, FILLING_SCORE = 1 / 3, 0.99
"""A face with at least this share of the photo's shorter side, and this score, leaves no room for turned ones."""


@dataclass(frozen=True)
class DetectedFace:
    """A face in a photo.

    Attributes:
        box: (4,) float32 left, top, right, bottom edge, in photo pixels.
        landmarks: (5, 2) float32 x, y of left eye, right eye, nose, left and right mouth corner as seen in the image.
        score: The detector's confidence, 0 to 1.
    """

    box: Floats
    landmarks: Floats
    score: float


class Detector(Protocol):
    """A face detector. Below the score `default_threshold` too many of its detections are false."""

    name: str
    default_threshold: float

    def detect(self, pixels: NDArray[Any]) -> list[DetectedFace]:
        """Detect the faces of a photo (H, W, 3) RGB uint8 or uint16, from left to right, including uncertain ones."""
        ...


def select_faces(
    faces: Sequence[DetectedFace], size: tuple[int, int], *, only_center: bool, min_face: float, threshold: float
) -> list[DetectedFace]:
    """Select the faces to restore, in the given order.

    Args:
        faces: Faces of one photo.
        size: Width and height of the photo.
        only_center: Keep only the face whose box is nearest to the center of the image (on a tie, the larger one).
        min_face: Smallest shorter side of a box to keep, in photo pixels.
        threshold: Smallest score to keep.
    """
    kept = [
        face
        for face in faces
        if face.score >= threshold and min(face.box[2] - face.box[0], face.box[3] - face.box[1]) >= min_face
    ]
    if not only_center or not kept:
        return kept
    center = np.asarray(size, np.float32) / 2

    def distance_and_size(face: DetectedFace) -> tuple[float, float]:
        return float(np.linalg.norm((face.box[:2] + face.box[2:]) / 2 - center)), -_area(face.box)

    return [min(kept, key=distance_and_size)]


def is_plausible(face: DetectedFace) -> bool:
    """Whether the five points are arranged as in a face: eyes, nose, mouth from top to bottom along the face's tilt.

    Restoring a false detection would paint a face onto it, so the geometry of a detection is checked too. Profiles
    pass: their eyes are close together and their points may lie slightly outside the box.
    """
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks.astype(np.float64)
    across = right_eye - left_eye
    eye_distance = float(np.hypot(*across))
    width, height = (face.box[2:] - face.box[:2]).astype(np.float64)
    if not np.isfinite(face.landmarks).all() or eye_distance < 3 or not 0.08 < eye_distance / max(width, height) < 0.85:
        return False
    across /= eye_distance
    down = np.array([-across[1], across[0]])
    between_eyes = (left_eye + right_eye) / 2
    to_nose = float((nose - between_eyes) @ down)
    to_mouth = float(((left_mouth + right_mouth) / 2 - between_eyes) @ down)
    mouth_width = float((right_mouth - left_mouth) @ across)
    margin = 0.15 * max(width, height)
    inside = (face.landmarks >= face.box[:2] - margin).all() and (face.landmarks <= face.box[2:] + margin).all()
    return bool(inside and 0 < to_nose < to_mouth and to_mouth > 0.2 * height and mouth_width > 0)


def quarter_turns(face: DetectedFace) -> int:
    """Quarter turns to the left, 0 to 3, by which a face is turned, from its eyes and the corners of its mouth."""
    left_eye, right_eye, _nose, left_mouth, right_mouth = face.landmarks.astype(np.float64)
    x, y = right_eye - left_eye + right_mouth - left_mouth
    return round(float(-np.degrees(np.arctan2(y, x))) / 90) % 4


def merge_overlapping(faces: Sequence[DetectedFace]) -> list[DetectedFace]:
    """Merge detections of the same face; sorted from left to right (then top to bottom) for any input order.

    If two boxes share more than 40 % of their union or 65 % of the smaller one (a face inside a face), the one with
    the higher score is kept; on a tie, the larger one.
    """
    best_first = sorted(faces, key=lambda face: (-round(face.score, 2), -_area(face.box), *face.box.tolist()))
    kept: list[DetectedFace] = []
    for face in best_first:
        if not any(_same_face(face.box, other.box) for other in kept):
            kept.append(face)
    return sorted(kept, key=lambda face: (float(face.box[0] + face.box[2]), float(face.box[1] + face.box[3])))


class BoundedDetector(ABC):
    """Base class of both detectors: bounded copy, turned faces, merging, plausibility, mapping of coordinates."""

    name: str
    default_threshold: float

    def __init__(self, longest_side: int, shortest_side: int) -> None:
        self._longest_side = longest_side
        self._shortest_side = shortest_side

    @abstractmethod
    def _candidates(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        """All face candidates in an RGB image (H, W, 3) uint8."""

    def detect(self, pixels: NDArray[Any]) -> list[DetectedFace]:
        """Detect the faces of a photo, from left to right, including uncertain ones.

        All four orientations are searched, for sideways scans and for album pages with faces in several directions. The
        orientation with the most and surest faces is the photo's; faces in another one must be very sure.

        Args:
            pixels: (H, W, 3) RGB uint8 or uint16.
        """
        size = (pixels.shape[1], pixels.shape[0])
        image = self._bounded_copy(pixels, self._longest_side)
        upright = self._faces_in(image, 0, size)
        if _fills(upright, size):
            return upright
        smaller = image if max(image.shape[:2]) <= TURNED_SIDE else self._bounded_copy(pixels, TURNED_SIDE)
        by_turns = [upright, *(self._faces_in(smaller, turns, size) for turns in (1, 2, 3))]
        scores = [
            sum(face.score for face in faces if face.score >= self.default_threshold)
            if turns == 0 or any(face.score >= TURNED_SCORE for face in faces)
            else 0.0
            for turns, faces in enumerate(by_turns)
        ]
        main = int(np.argmax(scores))
        if main and smaller is not image:
            by_turns[main] = self._faces_in(image, main, size)
        others = [faces for turns, faces in enumerate(by_turns) if turns != main]
        return merge_overlapping(
            [*by_turns[main], *(face for faces in others for face in faces if face.score >= MIXED_SCORE)]
        )

    def _faces_in(self, image: NDArray[np.uint8], turns: int, size: tuple[int, int]) -> list[DetectedFace]:
        """Plausible faces in an image that is rotated left by `turns` quarter turns first, without duplicates.

        Their coordinates are those of the unrotated photo with the given width and height.
        """
        image = np.ascontiguousarray(np.rot90(image, turns))
        faces = merge_overlapping([face for face in self._candidates(image) if is_plausible(face)])
        height, width = image.shape[:2]
        for _ in range(turns):
            faces = [_rotated_right(face, height) for face in faces]
            height, width = width, height
        scale = np.array([width / size[0], height / size[1]], np.float32)
        faces = [
            DetectedFace((face.box.reshape(2, 2) / scale).reshape(4), (face.landmarks + 0.5) / scale - 0.5, face.score)
            for face in faces
        ]
        return merge_overlapping(faces) if turns else faces

    def _bounded_copy(self, pixels: NDArray[Any], longest_side: int) -> NDArray[np.uint8]:
        """The photo as uint8, shrunk to the longest side or enlarged (at most twice) toward the shortest side."""
        height, width = pixels.shape[:2]
        enlargement = max(1.0, min(2.0, self._shortest_side / min(height, width)))
        scale = min(longest_side / max(height, width), enlargement)
        copy = pixels
        if scale != 1:
            copy = resized(pixels, max(1, round(width * scale)), max(1, round(height * scale)))
        return np.ascontiguousarray(to_8_bit(copy))


def _fills(faces: Sequence[DetectedFace], size: tuple[int, int]) -> bool:
    """Whether one of the faces fills the photo of the given width and height."""
    least = FILLING_SHARE * min(size)
    return any(face.score >= FILLING_SCORE and min(face.box[2:] - face.box[:2]) >= least for face in faces)


def _same_face(first: Floats, second: Floats) -> bool:
    """Whether two boxes overlap so much that they show the same face."""
    shared = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    if (shared <= 0).any():
        return False
    common = float(shared[0] * shared[1])
    areas = _area(first), _area(second)
    return common > 0.4 * (sum(areas) - common) or common > 0.65 * min(areas)


def _area(box: Floats) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _rotated_right(face: DetectedFace, height: int) -> DetectedFace:
    """Rotate a face with its image, of the given height, a quarter turn to the right."""
    left, top, right, bottom = face.box
    box = np.array([height - bottom, left, height - top, right], np.float32)
    landmarks = np.stack([height - 1 - face.landmarks[:, 1], face.landmarks[:, 0]], axis=1)
    return DetectedFace(box, landmarks.astype(np.float32), face.score)
