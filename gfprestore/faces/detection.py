"""Faces and their five landmarks: the embedded MTCNN (no download) and RetinaFace (facexlib's network).

Photos are (H, W, 3) RGB uint8 or uint16, upright. Landmarks are (x, y) of pixel centers, so that (0, 0) is the center
of the first pixel; boxes are edges, so that a box over the whole photo is (0, 0, W, H). Both detectors look at a copy
whose longer side is bounded, and map what they find back, so that their time and memory do not grow with the scan.

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

# Sideways scans: what a turned photo must score before it is believed, since an empty photo gets three more chances.
TURNED_SCORE = 0.97


@dataclass(frozen=True)
class DetectedFace:
    """One face of a photo.

    Attributes:
        box: (4,) float32 left, top, right, bottom edge, in photo pixels.
        landmarks: (5, 2) float32 x, y of left eye, right eye, nose, left and right mouth corner as seen in the image.
        score: The detector's confidence, 0 to 1.
    """

    box: Floats
    landmarks: Floats
    score: float


class Detector(Protocol):
    """Whatever finds faces. `default_threshold` is the score below which its faces are too often none."""

    name: str
    default_threshold: float

    def detect(self, pixels: NDArray[Any]) -> list[DetectedFace]:
        """Faces of a photo (H, W, 3) RGB uint8 or uint16, from left to right, doubtful ones included."""
        ...


def select_faces(
    faces: Sequence[DetectedFace], size: tuple[int, int], *, only_center: bool, min_face: float, threshold: float
) -> list[DetectedFace]:
    """The faces worth restoring, in the order given.

    Args:
        faces: Faces of one photo.
        size: Width and height of the photo.
        only_center: Keep one face: the one whose box lies nearest to the center of the image (the larger of equals).
        min_face: Smallest face to keep: the shorter side of its box, in photo pixels.
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

    def remoteness(face: DetectedFace) -> tuple[float, float]:
        return float(np.linalg.norm((face.box[:2] + face.box[2:]) / 2 - center)), -_area(face.box)

    return [min(kept, key=remoteness)]


def is_plausible(face: DetectedFace) -> bool:
    """Whether the five points lie as on a face: eyes, nose, mouth in this order from the top, in the face's own tilt.

    A face that is none would get a face painted on, so a detection has to look like one in its geometry too. Profiles
    pass: there the eyes come close together and the points leave the box a little.
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


def merge_overlapping(faces: Sequence[DetectedFace]) -> list[DetectedFace]:
    """One detection a face, from left to right (then top to bottom), whatever order they came in.

    Of two boxes that share more than 40 % of their union or 65 % of the smaller one (a face found inside a face), the
    surer stays; where both are equally sure, the larger.
    """
    best_first = sorted(faces, key=lambda face: (-round(face.score, 2), -_area(face.box), *face.box.tolist()))
    kept: list[DetectedFace] = []
    for face in best_first:
        if not any(_same_face(face.box, other.box) for other in kept):
            kept.append(face)
    return sorted(kept, key=lambda face: (float(face.box[0] + face.box[2]), float(face.box[1] + face.box[3])))


class BoundedDetector(ABC):
    """What both detectors share: the bounded copy, sideways scans, merging, plausibility, coordinates mapped back."""

    name: str
    default_threshold: float

    def __init__(self, longest_side: int, shortest_side: int) -> None:
        self._longest_side = longest_side
        self._shortest_side = shortest_side

    @abstractmethod
    def _candidates(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        """All that may be a face in an RGB image (H, W, 3) uint8."""

    def detect(self, pixels: NDArray[Any]) -> list[DetectedFace]:
        """Faces of a photo, from left to right, doubtful ones included.

        A photo in which no upright face is found is looked at in the three other orientations (scans laid in sideways).

        Args:
            pixels: (H, W, 3) RGB uint8 or uint16.
        """
        image = self._bounded_copy(pixels)
        height, width = image.shape[:2]
        faces = self._faces(image)
        if not any(face.score >= self.default_threshold for face in faces):
            faces = max([faces, *(self._turned_faces(image, turns) for turns in (1, 2, 3))], key=_total_score)
        scale = np.array([width / pixels.shape[1], height / pixels.shape[0]], np.float32)
        return [
            DetectedFace((face.box.reshape(2, 2) / scale).reshape(4), (face.landmarks + 0.5) / scale - 0.5, face.score)
            for face in faces
        ]

    def _faces(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        """Plausible faces of the bounded copy, each once."""
        return merge_overlapping([face for face in self._candidates(image) if is_plausible(face)])

    def _turned_faces(self, image: NDArray[np.uint8], turns: int) -> list[DetectedFace]:
        """Sure faces of the copy turned `turns` quarter turns to the left, in coordinates of the unturned copy."""
        turned = np.ascontiguousarray(np.rot90(image, turns))
        faces = [face for face in self._faces(turned) if face.score >= TURNED_SCORE]
        size = np.array(turned.shape[1::-1], np.float32)
        for _ in range(turns):
            faces = [_turn_right(face, float(size[1])) for face in faces]
            size = size[::-1]
        return merge_overlapping(faces)

    def _bounded_copy(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """The photo as uint8, shrunk to the longest side or enlarged (at most twice) toward the shortest side."""
        height, width = pixels.shape[:2]
        enlargement = max(1.0, min(2.0, self._shortest_side / min(height, width)))
        scale = min(self._longest_side / max(height, width), enlargement)
        copy = pixels
        if scale != 1:
            copy = resized(pixels, max(1, round(width * scale)), max(1, round(height * scale)))
        return np.ascontiguousarray(to_8_bit(copy))


def _same_face(first: Floats, second: Floats) -> bool:
    """Whether two boxes overlap so much that they are one face."""
    shared = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    if (shared <= 0).any():
        return False
    common = float(shared[0] * shared[1])
    areas = _area(first), _area(second)
    return common > 0.4 * (sum(areas) - common) or common > 0.65 * min(areas)


def _area(box: Floats) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _total_score(faces: Sequence[DetectedFace]) -> float:
    return sum(face.score for face in faces)


def _turn_right(face: DetectedFace, height: float) -> DetectedFace:
    """The face in an image of this height, after the image is turned a quarter turn to the right."""
    left, top, right, bottom = face.box
    box = np.array([height - bottom, left, height - top, right], np.float32)
    landmarks = np.stack([height - 1 - face.landmarks[:, 1], face.landmarks[:, 0]], axis=1)
    return DetectedFace(box, landmarks.astype(np.float32), face.score)
