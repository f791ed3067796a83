"""RRDBNet, the network of Real-ESRGAN (Wang et al., ICCVW 2021) with the residual-in-residual dense blocks of ESRGAN.

A trunk of dense blocks works at a quarter of the output's size, and two nearest-neighbor doublings with
convolutions produce the image. For scale 2 and 1 the input is first folded (pixel unshuffle), so the trunk stays at a
quarter. Tensors are (B, 3, H, W) float RGB in [0, 1]. The parameter names are those of the released files. Pure torch:
opens no file, chooses no device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2
"""Negative slope of every leaky ReLU of the network."""

RESIDUAL_SCALE = 0.2
"""Factor on a block's output before it is added to the block's input."""

FOLDING = {1: 4, 2: 2, 4: 1}
"""Scale of the network to the side of the pixel squares that are folded into channels before the trunk."""

STRIP_PIXELS = 32768
"""Trunk pixels in a strip of rows on the CPU. Their largest tensor stays below the size from which the C library
requests new memory from the system each time; those page faults would take a third of the time."""

STRIP_PIXELS_ON_GPU = 1 << 17
"""Trunk pixels in a strip of rows on other devices: enough to keep a GPU busy."""

DENSE_CONTEXT = 5
"""Rows on either side that the five convolutions of a dense block reach."""

ENLARGING_CONTEXT = 2
"""Rows of the trunk on either side that the four last convolutions, two of them at four times the size, reach."""


@dataclass(frozen=True)
class RRDBNetConfig:
    """Sizes of an RRDBNet.

    Attributes:
        scale: Output pixels per input pixel along a side: 4, 2 or 1.
        features: Channels of the trunk.
        growth: Channels that each convolution of a dense block adds.
        blocks: Residual-in-residual dense blocks (x4plus: 23, the anime model: 6).
        channels: Channels of the image.
    """

    scale: int = 4
    features: int = 64
    growth: int = 32
    blocks: int = 23
    channels: int = 3


class DenseBlock(nn.Module):
    """Five convolutions; each takes the block's input and all earlier outputs (ESRGAN, section 3.1)."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(features + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(features + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(features + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(features + 4 * growth, features, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, H, W) to features of the same shape."""
        result = torch.empty_like(features)
        for kept, seen in _strips(features, DENSE_CONTEXT):
            residual = self._residual(features[:, :, seen])[:, :, kept.start - seen.start : kept.stop - seen.start]
            torch.add(features[:, :, kept], residual, alpha=RESIDUAL_SCALE, out=result[:, :, kept])
        return result

    def _residual(self, features: Tensor) -> Tensor:
        seen = features.to(self.conv1.weight.dtype)
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat([seen, F.leaky_relu_(conv(seen), SLOPE)], dim=1)  # (B, C + k * growth, H, W)
        residual: Tensor = self.conv5(seen)
        return residual


class ResidualInResidualDenseBlock(nn.Module):
    """Three dense blocks with a residual connection (ESRGAN, section 3.1)."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(features, growth)
        self.rdb2 = DenseBlock(features, growth)
        self.rdb3 = DenseBlock(features, growth)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, H, W) to features of the same shape."""
        return torch.add(features, self.rdb3(self.rdb2(self.rdb1(features))), alpha=RESIDUAL_SCALE)


class RRDBNet(nn.Module):
    """RRDBNet, which enlarges by `scale`; height and width of the input are multiples of 4 / `scale`."""

    def __init__(self, config: RRDBNetConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = config.scale
        self.folding = FOLDING[config.scale]
        features = config.features
        self.conv_first = nn.Conv2d(config.channels * self.folding**2, features, 3, padding=1)
        self.body = nn.Sequential(
            *(ResidualInResidualDenseBlock(features, config.growth) for _ in range(config.blocks))
        )
        self.conv_body = nn.Conv2d(features, features, 3, padding=1)
        self.conv_up1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv_up2 = nn.Conv2d(features, features, 3, padding=1)
        self.conv_hr = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, config.channels, 3, padding=1)

    def lower_precision(self, dtype: torch.dtype) -> RRDBNet:
        """Switch the convolutions to half precision, except for the first and the last.

        Those two and the sums of the residual branches stay in float32: bfloat16 is too coarse for
        the levels of an image.
        """
        self.body.to(dtype)
        for conv in (self.conv_body, self.conv_up1, self.conv_up2, self.conv_hr):
            conv.to(dtype)
        return self

    def forward(self, lq: Tensor) -> Tensor:
        """Enlarge images (B, 3, H, W) in [0, 1] to (B, 3, H * scale, W * scale), not clipped."""
        folded = F.pixel_unshuffle(lq, self.folding).contiguous(memory_format=torch.channels_last)
        shallow = self.conv_first(folded)
        features = shallow + _convolve(self.conv_body, self.body(shallow))
        return self._enlarge(features)

    def _enlarge(self, features: Tensor) -> Tensor:
        """Convert features (B, C, h, w) to the image (B, 3, 4h, 4w) in strips of rows, as this part has full size."""
        parts = []
        for kept, seen in _strips(features, ENLARGING_CONTEXT):
            part = self._enlarge_strip(features[:, :, seen])
            parts.append(part[:, :, 4 * (kept.start - seen.start) : 4 * (kept.stop - seen.start)])
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _enlarge_strip(self, features: Tensor) -> Tensor:
        for conv in (self.conv_up1, self.conv_up2):
            doubled = F.interpolate(features.to(conv.weight.dtype), scale_factor=2.0, mode="nearest")
            features = F.leaky_relu_(conv(doubled), SLOPE)
        features = F.leaky_relu_(_convolve(self.conv_hr, features), SLOPE)
        return _convolve(self.conv_last, features)


def _strips(features: Tensor, context: int) -> Iterator[tuple[slice, slice]]:
    """Strips of rows that cover features (B, C, H, W): the rows to keep, and the rows with context to compute."""
    height, width = features.shape[2:]
    pixels = STRIP_PIXELS if features.device.type == "cpu" else STRIP_PIXELS_ON_GPU
    count = math.ceil(height / max(pixels // width, 4 * context))
    rows = math.ceil(height / count)
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        yield slice(start, stop), slice(max(start - context, 0), min(stop + context, height))


def _convolve(conv: nn.Module, features: Tensor) -> Tensor:
    """Convolve features in the precision of the convolution."""
    weight: Tensor = conv.get_parameter("weight")
    result: Tensor = conv(features.to(weight.dtype))
    return result


def config_from_state(state: Mapping[str, Tensor]) -> RRDBNetConfig | None:
    """Recognize an RRDBNet and read its sizes; None if `state` belongs to another network.

    Args:
        state: A state dict without prefix: `conv_first.weight`, `body.0.rdb1.conv1.weight` and so on.
    """
    first, dense = state.get("conv_first.weight"), state.get("body.0.rdb1.conv1.weight")
    last = state.get("conv_last.weight")
    if first is None or dense is None or last is None or not first.ndim == dense.ndim == last.ndim == 4:
        return None
    channels = last.shape[0]
    scale = {channels * folding**2: scale for scale, folding in FOLDING.items()}.get(first.shape[1])
    if scale is None:
        return None
    blocks = sum(name.startswith("body.") and name.endswith(".rdb1.conv1.weight") for name in state)
    return RRDBNetConfig(scale=scale, features=first.shape[0], growth=dense.shape[0], blocks=blocks, channels=channels)
