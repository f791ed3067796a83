"""SRVGGNetCompact, the small network of Real-ESRGAN's general models (Wang et al., ICCVW 2021, and its releases).

A plain stack of 3x3 convolutions at the input's size; the last one computes the pixels of the enlarged image, which
pixel shuffle arranges; they are added to the input repeated to that size. Tensors are (B, 3, H, W) float RGB in
[0, 1]. The parameter names are those of the released files. Pure torch: opens no file, chooses no device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfprestore.networks.layers import box_mean, stored_number

MOST_TONE_RADIUS = 256
"""Largest plausible value; a file with a larger one is damaged."""


@dataclass(frozen=True)
class SRVGGConfig:
    """Sizes of an SRVGGNetCompact.

    Attributes:
        scale: Output pixels per input pixel along a side.
        features: Channels of every inner convolution.
        convolutions: Inner convolutions, without the first and the last (general-x4v3: 32).
        channels: Channels of the image.
        tone_radius: Radius in input pixels of the squares whose mean is subtracted from the network's detail, so that
            the image keeps its tones (back-projection: Irani and Peleg, CVGIP 1991). 0, as in the released
            networks, disables this. Stored in weights files as the tensor `tone_radius`.

    Raises:
        ValueError: The radius is negative.
    """

    scale: int = 4
    features: int = 64
    convolutions: int = 32
    channels: int = 3
    tone_radius: int = 0

    def __post_init__(self) -> None:
        if self.tone_radius < 0:
            raise ValueError(f"tone_radius must be 0 or more, not {self.tone_radius}")


class SRVGGNetCompact(nn.Module):
    """SRVGGNetCompact, which enlarges by `scale` with convolutions at the input's size only."""

    def __init__(self, config: SRVGGConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = config.scale
        body: list[nn.Module] = [nn.Conv2d(config.channels, config.features, 3, padding=1), nn.PReLU(config.features)]
        for _ in range(config.convolutions):
            body += [nn.Conv2d(config.features, config.features, 3, padding=1), nn.PReLU(config.features)]
        body.append(nn.Conv2d(config.features, config.channels * config.scale**2, 3, padding=1))
        self.body = nn.Sequential(*body)
        if config.tone_radius > 0:
            self.register_buffer("tone_radius", torch.tensor(float(config.tone_radius)))

    def lower_precision(self, dtype: torch.dtype) -> SRVGGNetCompact:
        """Switch to half precision, except for the first and the last convolution."""
        self.body[1:-1].to(dtype)
        return self

    def forward(self, lq: Tensor) -> Tensor:
        """Enlarge images (B, 3, H, W) in [0, 1] to (B, 3, H * scale, W * scale), not clipped."""
        first, inner, last = self.body[0], self.body[1:-1], self.body[-1]
        features = first(lq.contiguous(memory_format=torch.channels_last))
        features = inner(features.to(self.body[1].weight.dtype))
        detail = last(features.to(last.weight.dtype))
        if self.config.tone_radius > 0:
            detail = self._toneless(detail)
        return F.pixel_shuffle(detail, self.scale) + F.interpolate(lq, scale_factor=float(self.scale), mode="nearest")

    def _toneless(self, detail: Tensor) -> Tensor:
        """Subtract the mean over the neighborhood from the detail (B, channels * scale**2, H, W)."""
        batch, _, height, width = detail.shape
        parts = detail.reshape(batch, self.config.channels, self.scale**2, height, width)
        mean = box_mean(parts.mean(2), self.config.tone_radius)
        return (parts - mean.unsqueeze(2)).view(batch, -1, height, width)


def config_from_state(state: Mapping[str, Tensor]) -> SRVGGConfig | None:
    """Recognize an SRVGGNetCompact and read its sizes; None if `state` belongs to another network.

    Args:
        state: A state dict without prefix: `body.0.weight` and so on.
    """
    indices = {int(name.split(".")[1]) for name in state if name.startswith("body.") and name.split(".")[1].isdigit()}
    first, slope = state.get("body.0.weight"), state.get("body.1.weight")
    last = state.get(f"body.{max(indices, default=0)}.weight")
    if first is None or slope is None or last is None or first.ndim != 4 or slope.ndim != 1 or last.ndim != 4:
        return None
    features, channels = first.shape[:2]
    scale = math.isqrt(last.shape[0] // channels)
    if len(indices) % 2 == 0 or scale < 1 or scale**2 * channels != last.shape[0]:
        return None
    try:
        radius = stored_number(state, "tone_radius")
    except ValueError:
        return None
    if not 0 <= radius <= MOST_TONE_RADIUS:
        return None
    return SRVGGConfig(
        scale=scale,
        features=features,
        convolutions=(len(indices) - 3) // 2,
        channels=channels,
        tone_radius=int(radius),
    )
