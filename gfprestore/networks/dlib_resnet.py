"""dlib's face recognizer (King, 2017; a ResNet-34 of He et al., CVPR 2016, with 29 convolutions and fewer filters).

It describes a face by 128 numbers; the distance between faces of the same person is below 0.6. The network is dlib's
`dlib_face_recognition_resnet_model_v1`, released into the public domain (CC0 1.0) by its author. As a torch module
it provides gradients for the training of restorers. Pure torch: opens no file, chooses no device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 150
EMBEDDING = 128

_LEVELS = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))
"""Filters, number of residual blocks, and whether the first of them halves the image, from the input on."""

_MEAN_COLOR = (122.782, 117.001, 104.298)
_TENSOR_VERSION = 2


class AffineConvolution(nn.Module):
    """A convolution and a learned factor and offset per channel (a folded batch normalization)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0  # dlib's default
        self.stride, self.padding = stride, padding
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.gain = nn.Parameter(torch.ones(out_channels))
        self.offset = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H', W')."""
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        return x * self.gain.view(1, -1, 1, 1) + self.offset.view(1, -1, 1, 1)


class Residual(nn.Module):
    """Residual block: two convolutions added to the input or to its half; missing channels and borders are zero."""

    def __init__(self, in_channels: int, out_channels: int, *, halves: bool) -> None:
        super().__init__()
        self.first = AffineConvolution(in_channels, out_channels, 3, 2 if halves else 1)
        self.second = AffineConvolution(out_channels, out_channels, 3, 1)
        self.halves = halves

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H', W')."""
        inner = self.second(F.relu(self.first(x)))
        beside = F.avg_pool2d(x, 2) if self.halves else x
        return F.relu(_padded(inner, beside) + _padded(beside, inner))


class DlibFaceRecognizer(nn.Module):
    """Face descriptors equal to dlib's `face_recognition_model_v1`; a fixed loss network, created by `from_file`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = AffineConvolution(3, _LEVELS[0][0], 7, 2)
        blocks: list[nn.Module] = []
        channels = _LEVELS[0][0]
        for filters, count, halves in _LEVELS:
            for place in range(count):
                blocks.append(Residual(channels, filters, halves=halves and place == 0))
                channels = filters
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, EMBEDDING, bias=False)

    @classmethod
    def from_file(cls, content: bytes) -> DlibFaceRecognizer:
        """Build the network from a `.dat` file of dlib.

        Args:
            content: Content of the file.

        Raises:
            ValueError: The file is damaged or for another network.
        """
        network = cls()
        layers = _parameters(content)
        try:
            for convolution in (module for module in network.modules() if isinstance(module, AffineConvolution)):
                _fill(next(layers), "con_", convolution.weight, convolution.bias)
                _fill(next(layers), "affine_", convolution.gain, convolution.offset)
            flipped = torch.empty_like(network.head.weight.T)  # dlib stores (inputs, outputs)
            _fill(next(layers), "fc_", flipped)
        except StopIteration:
            raise ValueError("the file of dlib's recognizer is truncated") from None
        network.head.weight.data.copy_(flipped.T)
        if next(layers, None) is not None:
            raise ValueError("the file contains a larger network than dlib's recognizer")
        return network.eval().requires_grad_(False)

    def forward(self, faces: Tensor) -> Tensor:
        """Compute face descriptors.

        Args:
            faces: (B, 3, 150, 150) RGB in [-1, 1], cropped like `dlib.get_face_chip` with padding 0.25.

        Returns:
            (B, 128); distances between them are Euclidean.
        """
        levels = (faces + 1) * 127.5
        x = F.relu(self.stem((levels - faces.new_tensor(_MEAN_COLOR).view(1, 3, 1, 1)) / 256))
        x = self.blocks(F.max_pool2d(x, 3, 2))
        embeddings: Tensor = self.head(x.mean((2, 3)))
        return embeddings


class _Layer(NamedTuple):
    kind: str
    values: Tensor  # flat


def _padded(x: Tensor, other: Tensor) -> Tensor:
    """Pad the first tensor with zeros to the channels, height and width of the other where those are larger."""
    more = [max(0, theirs - ours) for ours, theirs in zip(x.shape[1:], other.shape[1:], strict=True)]
    return F.pad(x, (0, more[2], 0, more[1], 0, more[0])) if any(more) else x


def _fill(layer: _Layer, kind: str, *parameters: Tensor) -> None:
    sizes = [parameter.numel() for parameter in parameters]
    if layer.kind != kind or layer.values.numel() != sum(sizes):
        raise ValueError(f"expected {sum(sizes)} numbers of {kind!r} for dlib's recognizer, but the file has "
                         f"{layer.values.numel()} of {layer.kind!r}")  # fmt: skip
    for parameter, values in zip(parameters, torch.split(layer.values, sizes), strict=True):
        parameter.data.copy_(values.view(parameter.shape))


def _parameters(content: bytes) -> Iterator[_Layer]:
    """Read the layers with parameters from a file of dlib, from the input on.

    A layer consists of its name, some integers and a tensor: version, four sizes and float32 values. For convolutions
    and normalizations the tensor follows the name directly; a fully connected layer has two numbers in between. The
    rest of the file is internal state of dlib.
    """
    position = 0
    while True:
        found = {kind: content.find(_name(kind), position) for kind in ("con_4", "affine_", "fc_2")}
        places = {kind: place for kind, place in found.items() if place >= 0}
        if not places:
            return
        kind = min(places, key=places.__getitem__)
        position = places[kind] + len(_name(kind))
        for _ in range(2 if kind == "fc_2" else 0):
            _, position = _whole_number(content, position)
        version, position = _whole_number(content, position)
        count = 1
        for _ in range(4):
            size, position = _whole_number(content, position)
            count *= size
        if version != _TENSOR_VERSION or not 0 < 4 * count <= len(content) - position:
            raise ValueError(f"the tensor of dlib's layer {kind!r} is truncated or has an unsupported version")
        values = torch.frombuffer(bytearray(content[position : position + 4 * count]), dtype=torch.float32)
        position += 4 * count
        yield _Layer(kind.rstrip("0123456789"), values)


def _name(kind: str) -> bytes:
    return bytes([1, len(kind)]) + kind.encode()


def _whole_number(content: bytes, position: int) -> tuple[int, int]:
    """Read a number and return it with the next position: a byte with length and sign (highest bit), then its bytes."""
    if position >= len(content):
        raise ValueError("the file is truncated")
    control = content[position]
    end = position + 1 + (control & 0x0F)
    value = int.from_bytes(content[position + 1 : end], "little")
    return (-value if control & 0x80 else value), end
