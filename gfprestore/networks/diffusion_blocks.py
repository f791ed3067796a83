"""Layers of diffusion U-Nets (Dhariwal and Nichol, NeurIPS 2021, sections 2.2 and 3), with the official tensor names.

Tensors are (B, C, H, W) float, fastest in channels-last. Pure torch: opens no file, chooses no device.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_PERIOD = 10000
"""Longest period of the timestep embedding, in timesteps over 2 pi."""


def timestep_embedding(timesteps: Tensor, channels: int) -> Tensor:
    """Sinusoidal embedding of timesteps, first all cosines, then all sines.

    Args:
        timesteps: (B,).
        channels: Length of the embedding, even.

    Returns:
        (B, channels) float32.
    """
    half = channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps.float().view(-1, 1) * torch.exp(-math.log(MAX_PERIOD) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], 1)


class Stage(nn.ModuleList):
    """Layers one after the other; residual blocks also get the embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, in, H, W) and (B, E) -> (B, out, H', W')."""
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResidualBlock) else layer(x)
        return x


class ResidualBlock(nn.Module):
    """Two convolutions; the embedding scales and shifts the second normalization (adaptive group normalization)."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups, in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, in, H, W) and (B, E) -> (B, out, H, W)."""
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, 1)
        inner = self.out_layers[0](self.in_layers(x)) * (1 + scale) + shift
        for layer in self.out_layers[1:]:
            inner = layer(inner)
        result: Tensor = self.skip_connection(x) + inner
        return result


class AttentionBlock(nn.Module):
    """Self-attention over all pixels, added to the input.

    The output channels of `qkv` are ordered by head first, then query, key, value: the `legacy` order, in which all
    checkpoints with the official defaults are.
    """

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        batch, channels, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, H W, C)
        qkv = F.linear(tokens, self.qkv.weight.squeeze(-1), self.qkv.bias)
        split = qkv.view(batch, height * width, self.heads, 3, channels // self.heads)
        query, key, value = split.permute(3, 0, 2, 1, 4)  # each (B, heads, H W, C / heads)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        added = F.linear(attended, self.proj_out.weight.squeeze(-1), self.proj_out.bias)  # (B, H W, C)
        return x + added.transpose(1, 2).view(batch, channels, height, width)


class Downsample(nn.Module):
    """A convolution to half the side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2)."""
        halved: Tensor = self.op(x)
        return halved


class Upsample(nn.Module):
    """Repeated pixels and a convolution, to twice the side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        doubled: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return doubled


def zeroed(layer: nn.Conv1d | nn.Conv2d) -> nn.Conv1d | nn.Conv2d:
    """Sets weights and bias to 0, so that a block starts as the identity."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
