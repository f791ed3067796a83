"""DamageUNet, our own network that finds the damage of prints: scratches, cracks, tears, dust.

A small U-Net (Ronneberger et al., MICCAI 2015) on pixel-unshuffled input, with residual blocks whose last convolution
starts at zero. It has no normalization, so that a tile's result does not depend on what else the tile shows. Photos are
(B, 3, H, W) float RGB in [0, 1], fastest in channels-last. Pure torch: opens no file, chooses no device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfprestore.networks.configs import DamageUNetConfig

RARE = 0.01
"""Probability of damage that an untrained network gives every pixel."""


class ResidualBlock(nn.Module):
    """Two convolutions whose result is added to the input; at first it is zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        hidden = F.leaky_relu(self.first(F.leaky_relu(x, 0.1)), 0.1)
        changed: Tensor = x + self.second(hidden)
        return changed


class DamageUNet(nn.Module):
    """Network that gives every pixel a logit of damage."""

    def __init__(self, config: DamageUNetConfig) -> None:
        super().__init__()
        self.config = config
        channels, folded = config.channels, config.unshuffle**2
        self.enter = nn.Conv2d(3 * folded, channels[0], 3, padding=1)
        self.encoder = nn.ModuleList(_blocks(count, config.blocks) for count in channels)
        self.down = nn.ModuleList(
            nn.Conv2d(finer, coarser, 3, stride=2, padding=1)
            for finer, coarser in zip(channels, channels[1:], strict=False)
        )
        self.up = nn.ModuleList(
            nn.Conv2d(coarser + finer, finer, 3, padding=1)
            for finer, coarser in zip(channels, channels[1:], strict=False)
        )
        self.decoder = nn.ModuleList(_blocks(count, config.blocks) for count in channels[:-1])
        self.leave = nn.Conv2d(channels[0], folded, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.constant_(self.leave.bias, math.log(RARE / (1 - RARE)))  # type: ignore[arg-type]

    def forward(self, photos: Tensor) -> Tensor:
        """Find damage.

        Args:
            photos: (B, 3, H, W) in [0, 1], sides of any length.

        Returns:
            Logits (B, 1, H, W) float32.
        """
        height, width = photos.shape[-2:]
        stride = self.config.stride
        padding = (0, -width % stride, 0, -height % stride)
        x = F.pad(photos * 2 - 1, padding, mode="replicate").contiguous(memory_format=torch.channels_last)
        x = self.enter(F.pixel_unshuffle(x.to(self.enter.weight.dtype), self.config.unshuffle))
        skipped: list[Tensor] = []
        for level, blocks in enumerate(self.encoder):
            x = blocks(x)
            if level < len(self.down):
                skipped.append(x)
                x = self.down[level](x)
        for level in reversed(range(len(self.up))):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = self.decoder[level](self.up[level](torch.cat([x, skipped[level]], 1)))
        logits = F.pixel_shuffle(self.leave(F.leaky_relu(x, 0.1)), self.config.unshuffle)
        return logits[..., :height, :width].float()


def config_from_state(state: Mapping[str, Tensor]) -> DamageUNetConfig | None:
    """Recognize a DamageUNet and read its sizes; None if `state` belongs to another network.

    Args:
        state: A state dict without prefix.
    """
    enter, leave = state.get("enter.weight"), state.get("leave.weight")
    if enter is None or leave is None or "up.0.weight" not in state or enter.ndim != 4 or leave.ndim != 4:
        return None
    unshuffle = round(leave.shape[0] ** 0.5)
    if unshuffle**2 != leave.shape[0] or enter.shape[1] != 3 * leave.shape[0]:
        return None
    channels: list[int] = []
    while (weight := state.get(f"encoder.{len(channels)}.0.first.weight")) is not None:
        channels.append(len(weight))
    blocks = sum(f"encoder.0.{index}.first.weight" in state for index in range(len(state)))
    return DamageUNetConfig(tuple(channels), blocks, unshuffle) if len(channels) > 1 else None


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))
