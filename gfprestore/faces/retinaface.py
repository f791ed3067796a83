"""RetinaFace detector: faces and five landmarks with facexlib's network."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from facexlib.detection.retinaface import RetinaFace
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import nms

from gfprestore.errors import WeightsError
from gfprestore.faces.detection import BoundedDetector, DetectedFace


class RetinaFaceDetector(BoundedDetector):
    """RetinaFace detector with facexlib's network.

    Args:
        state: The released weights without the prefix `module.`; the tensor names tell the backbone, ResNet-50 or
            MobileNet 0.25.
        device: Device to compute on.
        longest_side: Longest side of the photo for detection; larger photos are downscaled.

    Raises:
        WeightsError: The weights are for another network.
    """

    name = "retinaface"
    default_threshold = 0.8

    def __init__(self, state: Mapping[str, Tensor], device: torch.device, longest_side: int = 1600) -> None:
        super().__init__(longest_side, shortest_side=480)
        network = "resnet50" if "body.layer1.0.conv1.weight" in state else "mobile0.25"
        with warnings.catch_warnings():
            # facexlib requests an untrained ResNet with an argument that torchvision has renamed.
            warnings.filterwarnings("ignore", message=".*pretrained.*", category=UserWarning)
            warnings.filterwarnings("ignore", message="Arguments other than a weight enum", category=UserWarning)
            self._network = RetinaFace(network_name=network, device=device)
        try:
            self._network.load_state_dict(dict(state), strict=True)
        except RuntimeError as error:
            raise WeightsError(f"These are not RetinaFace weights: {str(error).splitlines()[-1].strip()}") from None
        self._network.to(device).eval()
        self._device = device

    def _candidates(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        height, width = image.shape[:2]
        bgr = image[:, :, ::-1].astype(np.float32) - np.array(RETINAFACE_MEAN_BGR, np.float32)
        batch = torch.from_numpy(np.ascontiguousarray(bgr.transpose(2, 0, 1)))[None]  # (1, 3, H, W)
        with torch.inference_mode():
            shifts, classes, points = self._network(batch.to(self._device))
        priors = retinaface_priors(height, width)  # (N, 4)
        scores = classes[0, :, 1].cpu()
        passed = scores > RETINAFACE_SCORE
        shifts, points, priors, scores = (
            shifts[0].cpu()[passed],
            points[0].cpu()[passed],
            priors[passed],
            scores[passed],
        )
        centers, sizes = priors[:, :2], priors[:, 2:]
        middle = centers + shifts[:, :2] * 0.1 * sizes
        half = sizes * torch.exp(shifts[:, 2:] * 0.2) / 2
        boxes = torch.cat([middle - half, middle + half], dim=1)
        landmarks = centers[:, None] + points.reshape(-1, 5, 2) * 0.1 * sizes[:, None]
        kept = nms(boxes, scores, 0.4)
        faces = zip(boxes[kept].numpy(), landmarks[kept].numpy(), scores[kept].tolist(), strict=True)
        return [DetectedFace(*face) for face in faces]


RETINAFACE_MEAN_BGR = (104.0, 117.0, 123.0)
RETINAFACE_LEVELS = ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))  # stride, sides of the two anchors
RETINAFACE_SCORE = 0.5


def retinaface_priors(height: int, width: int) -> Tensor:
    """Anchors of RetinaFace for an image of this size: (N, 4) float32 center x, y, width, height in pixels.

    In the network's order: levels from fine to coarse, rows, columns, then the two sides of the level.
    """
    levels = []
    for stride, sides in RETINAFACE_LEVELS:
        y = (torch.arange(-(-height // stride)) + 0.5) * stride
        x = (torch.arange(-(-width // stride)) + 0.5) * stride
        centers = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2)  # (rows, columns, 2)
        centers = centers[:, :, None].expand(-1, -1, len(sides), -1)
        extents = torch.tensor(sides, dtype=torch.float32)[None, None, :, None].expand(*centers.shape)
        levels.append(torch.cat([centers, extents], dim=3).reshape(-1, 4))
    return torch.cat(levels)
