"""The three networks of MTCNN (Zhang et al., IEEE Signal Processing Letters 2016, section II-B).

Each stage is a small fully convolutional network: the first takes images of any size, the second and third take
patches of 24 and 48 pixels and have one output each. Tensors are (B, 3, H, W) float RGB in [-1, 1]. The weights are
ONNX files that were trained on transposed images; they are transposed when loaded. We do not run them with OpenCV,
because the engine of OpenCV 5.0 pads their pooling on the wrong side, which moves each landmark by a 48th of the face,
and its classic engine crashes when the batch size grows.

Pure torch: opens no file, chooses no device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class StageLayout:
    """A stage of the cascade and the names of its weights in the ONNX file.

    Attributes:
        file: Name of the ONNX file.
        trunk: Name, output channels, kernel size, name of the slopes, and size of the pooling after it (0: none).
        boxes: Name of the head for the box refinement.
        faces: Name of the head for the face score.
        points: Name of the head of the landmarks; only the last stage has one.
    """

    file: str
    trunk: tuple[tuple[str, int, int, str, int], ...]
    boxes: str
    faces: str
    points: str | None = None


PROPOSAL = StageLayout(
    "pnet.onnx",
    (
        ("conv2d", 10, 3, "p_re_lu_initializer", 2),
        ("conv2d_1", 16, 3, "p_re_lu_1_initializer", 0),
        ("conv2d_2", 32, 3, "p_re_lu_2_initializer", 0),
    ),
    boxes="conv2d_4",
    faces="conv2d_3",
)
REFINEMENT = StageLayout(
    "rnet.onnx",
    (
        ("conv2d_5", 28, 3, "p_re_lu_3_initializer", 3),
        ("conv2d_6", 48, 3, "p_re_lu_4_initializer", 3),
        ("conv2d_7", 64, 2, "p_re_lu_5_initializer", 0),
        ("dense", 128, 3, "slope", 0),
    ),
    boxes="dense_2",
    faces="dense_1",
)
OUTPUT = StageLayout(
    "onet.onnx",
    (
        ("conv2d_8", 32, 3, "p_re_lu_7_initializer", 3),
        ("conv2d_9", 64, 3, "p_re_lu_8_initializer", 3),
        ("conv2d_10", 64, 3, "p_re_lu_9_initializer", 2),
        ("conv2d_11", 128, 2, "p_re_lu_10_initializer", 0),
        ("dense_3", 256, 3, "slope", 0),
    ),
    boxes="dense_5",
    faces="dense_4",
    points="dense_6",
)


class CascadeStage(nn.Module):
    """A stage of MTCNN: convolutions with PReLU and max pooling, then a 1 x 1 head for each output."""

    def __init__(self, layout: StageLayout) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for _, wider, kernel, _, pooling in layout.trunk:
            layers += [nn.Conv2d(channels, wider, kernel), nn.PReLU(wider)]
            if pooling:
                layers.append(nn.MaxPool2d(pooling, stride=2, ceil_mode=True))
            channels = wider
        self.trunk = nn.Sequential(*layers)
        self.boxes = nn.Conv2d(channels, 4, 1)
        self.faces = nn.Conv2d(channels, 2, 1)
        self.points = nn.Conv2d(channels, 10, 1) if layout.points else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute the outputs at every position of the window.

        Args:
            images: (B, 3, H, W) RGB in [-1, 1].

        Returns:
            Shifts of the window's four edges (B, 4, H', W') in window sides, face probability (B, H', W'), and
            landmarks (B, 10, H', W') in window sides, first five x, then five y, or None.
        """
        features = self.trunk(images)
        faces = torch.softmax(self.faces(features), dim=1)[:, 1]
        return self.boxes(features), faces, None if self.points is None else self.points(features)


def cascade_stage(layout: StageLayout, onnx_file: bytes) -> CascadeStage:
    """Build a stage with its weights, ready for inference.

    Args:
        layout: Layout of the stage.
        onnx_file: Contents of its ONNX file.

    Raises:
        KeyError: A tensor is missing, because the file is for another network.
        RuntimeError: A tensor has another shape than the stage.
    """
    tensors = onnx_tensors(onnx_file)
    state: dict[str, Tensor] = {}
    index = 0
    for name, _, kernel, slopes, pooling in layout.trunk:
        state[f"trunk.{index}.weight"] = _upright_kernel(tensors[f"{name}/kernel:0"], kernel)
        state[f"trunk.{index}.bias"] = torch.from_numpy(tensors[f"{name}/bias:0"])
        slope = next(value for key, value in tensors.items() if key.startswith(slopes))
        state[f"trunk.{index + 1}.weight"] = torch.from_numpy(slope).reshape(-1)
        index += 3 if pooling else 2
    for head, source in (("boxes", layout.boxes), ("faces", layout.faces), ("points", layout.points)):
        if source:
            state[f"{head}.weight"] = _upright_kernel(tensors[f"{source}/kernel:0"], 1)
            state[f"{head}.bias"] = torch.from_numpy(tensors[f"{source}/bias:0"])
    stage = CascadeStage(layout)
    stage.load_state_dict(state, strict=True)
    return stage.eval().requires_grad_(False)


def _upright_kernel(kernel: NDArray[np.float32], size: int) -> Tensor:
    """Convert a convolution or dense kernel for transposed images to one for upright images (out, in, H, W)."""
    if kernel.ndim == 2:  # dense: (W * H * in, out), as flattened from (W, H, in)
        kernel = kernel.reshape(size, size, -1, kernel.shape[1]).transpose(3, 2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(kernel.transpose(0, 1, 3, 2)))


def onnx_tensors(onnx_file: bytes) -> dict[str, NDArray[np.float32]]:
    """Read the float32 constants of an ONNX file by name, the only part of the format that is needed."""
    tensors: dict[str, NDArray[np.float32]] = {}
    for graph in _values(onnx_file, 7):
        for tensor in _values(graph, 5):
            shape = [dimension for field, dimension in _fields(tensor) if field == 1 and isinstance(dimension, int)]
            packed = b"".join(_values(tensor, 4)) or b"".join(_values(tensor, 9))
            name = b"".join(_values(tensor, 8)).decode()
            tensors[name] = np.frombuffer(packed, "<f4").astype(np.float32).reshape(shape)
    return tensors


def _values(message: bytes, wanted: int) -> Iterator[bytes]:
    """Byte strings (texts, packed numbers, messages) in a field of a protobuf message."""
    for field, value in _fields(message):
        if field == wanted and isinstance(value, bytes):
            yield value


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a protobuf message: integers, or bytes for all other types."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == 0:
            number, position = _varint(message, position)
            yield key >> 3, number
            continue
        if kind == 2:
            length, position = _varint(message, position)
        else:
            length = {1: 8, 5: 4}[kind]
        yield key >> 3, message[position : position + length]
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """A base-128 number and the position after it."""
    number = shift = 0
    while True:
        byte = message[position]
        number |= (byte & 0x7F) << shift
        position += 1
        shift += 7
        if byte < 0x80:
            return number, position
