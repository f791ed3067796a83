"""Attention blocks of HAT (Chen et al., CVPR 2023, sections 3.2 and 3.3), with the official tensor names.

Tokens are (B, H, W, C) float, one per pixel; both sides are multiples of the window. Pure torch: opens no file, chooses
no device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVOLUTION_SCALE = 0.01
"""Factor on the convolution branch beside the window attention."""

SEAM_MASK = -100.0
"""Added to the attention between pixels that are neighbors only because the image was rolled."""

INIT_STD = 0.02


def window_position_index(window: int) -> Tensor:
    """Rows of the bias table for every pair of a query and a key of one window.

    Args:
        window: Side of a window.

    Returns:
        (window**2, window**2) int64, from 0 to (2 * window - 1)**2 - 1.
    """
    shifted = window - 1 - _offsets(window, window)
    return shifted[0] * (2 * window - 1) + shifted[1]


def overlapping_position_index(window: int, overlap_window: int) -> Tensor:
    """Rows of the bias table for every pair of a query of a window and a key of the larger window around it.

    The official code adds `window - overlap_window + 1` to the offsets, where `window - 1` would make all of them 0 or
    more. So part of the rows is negative and counts from the end of the table. Every offset still has a row of its own,
    and released weights depend on this order.

    Args:
        window: Side of a window.
        overlap_window: Side of the larger window.

    Returns:
        (window**2, overlap_window**2) int64.
    """
    shifted = _offsets(window, overlap_window) + window - overlap_window + 1
    return shifted[0] * (window + overlap_window - 1) + shifted[1]


class HybridAttentionBlock(nn.Module):
    """Window attention and, beside it, convolutions with channel attention; then a perceptron (section 3.2)."""

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        window: int,
        shift: int,
        compressed: int,
        squeezed: int,
        hidden: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window)
        self.conv_block = ChannelAttentionBlock(dim, compressed, squeezed)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Perceptron(dim, hidden)

    def forward(self, tokens: Tensor, index: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C); `index` is that of `window_position_index`."""
        normalized = self.norm1(tokens)
        convolved = self.conv_block(normalized.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        rolled = normalized.roll((-self.shift, -self.shift), (1, 2)) if self.shift > 0 else normalized
        attended = join_windows(self.attn(split_windows(rolled, self.window), index, self.shift), self.window)
        if self.shift > 0:
            attended = attended.roll((self.shift, self.shift), (1, 2))
        tokens = tokens + self._dropped(attended) + CONVOLUTION_SCALE * convolved
        return tokens + self._dropped(self.mlp(self.norm2(tokens)))

    def _dropped(self, branch: Tensor) -> Tensor:
        """Stochastic depth (Huang et al., ECCV 2016): leaves the branch out for some of the images while training."""
        if not self.training or self.drop_path == 0:
            return branch
        kept = torch.rand(len(branch), 1, 1, 1, device=branch.device) >= self.drop_path
        return branch * (kept.to(branch.dtype) / (1 - self.drop_path))


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a bias for the relative position."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=INIT_STD)

    def forward(self, windows: Tensor, index: Tensor, shift: int) -> Tensor:
        """Attends.

        In a rolled image, windows of the last row and column hold pixels of two opposite borders, which must not attend
        to one another. Windows are computed in four parts, by which of the two they are in, so that one mask per part
        is enough.

        Args:
            windows: (B, rows, columns, window**2, C).
            index: Of `window_position_index`.
            shift: Pixels by which the image was rolled; 0 for none.

        Returns:
            (B, rows, columns, window**2, C).
        """
        qkv = self.qkv(windows)
        bias = position_bias(self.relative_position_bias_table, index)
        if shift == 0:
            return self._projected(self._attend(qkv, bias))
        rows = []
        for bottom, band in _last_apart(qkv, 1):
            parts = []
            for right, part in _last_apart(band, 2):
                mask = seam_mask(self.window, shift, bottom=bottom, right=right).to(bias.device)
                parts.append(self._attend(part, bias + mask))
            rows.append(torch.cat(parts, 2))
        return self._projected(torch.cat(rows, 1))

    def _attend(self, qkv: Tensor, bias: Tensor) -> Tensor:
        query, key, value = qkv.chunk(3, -1)
        return multi_head_attention(query, key, value, bias)

    def _projected(self, attended: Tensor) -> Tensor:
        projected: Tensor = self.proj(attended)
        return projected


class OverlappingAttentionBlock(nn.Module):
    """Attention from every window to the larger window around it, then a perceptron (section 3.3).

    Keys and values beyond the border of the image are 0 and are not masked.
    """

    def __init__(self, dim: int, *, heads: int, window: int, overlap_window: int, hidden: int) -> None:
        super().__init__()
        self.window = window
        self.overlap_window = overlap_window
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.relative_position_bias_table = nn.Parameter(torch.empty((window + overlap_window - 1) ** 2, heads))
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Perceptron(dim, hidden)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=INIT_STD)

    def forward(self, tokens: Tensor, index: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C); `index` is that of `overlapping_position_index`."""
        query, key, value = self.qkv(self.norm1(tokens)).chunk(3, -1)
        attended = multi_head_attention(
            split_windows(query, self.window),
            self._larger_windows(key),
            self._larger_windows(value),
            position_bias(self.relative_position_bias_table, index),
        )
        tokens = tokens + self.proj(join_windows(attended, self.window))
        result: Tensor = tokens + self.mlp(self.norm2(tokens))
        return result

    def _larger_windows(self, tokens: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, rows, columns, overlap_window**2, C), zeros beyond the border."""
        margin = (self.overlap_window - self.window) // 2
        padded = F.pad(tokens, (0, 0, margin, margin, margin, margin))
        windows = padded.unfold(1, self.overlap_window, self.window).unfold(2, self.overlap_window, self.window)
        return windows.permute(0, 1, 2, 4, 5, 3).flatten(3, 4)


class ChannelAttentionBlock(nn.Module):
    """Two convolutions and an attention over channels."""

    def __init__(self, dim: int, compressed: int, squeezed: int) -> None:
        super().__init__()
        self.cab = nn.Sequential(
            nn.Conv2d(dim, compressed, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(compressed, dim, 3, padding=1),
            ChannelAttention(dim, squeezed),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        result: Tensor = self.cab(x)
        return result


class ChannelAttention(nn.Module):
    """Weights channels by a function of their means."""

    def __init__(self, dim: int, squeezed: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(dim, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, dim, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        result: Tensor = x * self.attention(x)
        return result


class Perceptron(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        result: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return result


def split_windows(tokens: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (B, H / window, W / window, window**2, C)."""
    batch, height, width, channels = tokens.shape
    windows = tokens.reshape(batch, height // window, window, width // window, window, channels)
    return windows.transpose(2, 3).flatten(3, 4)


def join_windows(windows: Tensor, window: int) -> Tensor:
    """(B, rows, columns, window**2, C) -> (B, rows * window, columns * window, C)."""
    batch, rows, columns, _, channels = windows.shape
    split = windows.reshape(batch, rows, columns, window, window, channels).transpose(2, 3)
    return split.reshape(batch, rows * window, columns * window, channels)


def position_bias(table: Tensor, index: Tensor) -> Tensor:
    """Looks up the position bias of every pair of a query and a key.

    Args:
        table: (positions, heads).
        index: (queries, keys) rows of the table. Negative ones count from its end.

    Returns:
        (1, heads, queries, keys).
    """
    return table[index].permute(2, 0, 1).unsqueeze(0)


def seam_mask(window: int, shift: int, *, bottom: bool, right: bool) -> Tensor:
    """What is added to the attention in a window of a rolled image.

    Args:
        window: Side of a window.
        shift: Pixels by which the image was rolled.
        bottom: The window is in the last row, so its lower part comes from the top of the image.
        right: The window is in the last column, so its right part comes from the left of the image.

    Returns:
        (window**2, window**2): -100 between parts that are no neighbors, else 0.
    """
    wrapped = torch.arange(window) >= window - shift
    part = (2 * (wrapped & bottom).int().view(-1, 1) + (wrapped & right).int()).flatten()
    return SEAM_MASK * (part.view(-1, 1) != part).float()


def multi_head_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Scaled dot-product attention inside every window.

    Args:
        query: (B, rows, columns, N, C).
        key: (B, rows, columns, M, C).
        value: The same shape as the key.
        bias: (1, heads, N, M), added before the softmax.

    Returns:
        (B, rows, columns, N, C).
    """
    shape, heads = query.shape, bias.shape[1]
    query, key, value = (
        part.reshape(-1, part.shape[-2], heads, part.shape[-1] // heads).transpose(1, 2) for part in (query, key, value)
    )  # each (B * rows * columns, heads, N or M, C / heads)
    bias = bias.to(query.dtype).contiguous()
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).reshape(shape)


def _last_apart(windows: Tensor, dim: int) -> list[tuple[bool, Tensor]]:
    """Splits off the last row or column of windows; tells whether a part is the last. No part is empty."""
    count = windows.shape[dim]
    last = (True, windows.narrow(dim, count - 1, 1))
    return [(False, windows.narrow(dim, 0, count - 1)), last] if count > 1 else [last]


def _offsets(window: int, overlap_window: int) -> Tensor:
    """Rows and columns from every query to every key, each in its own window's coordinates: (2, window**2, ...)."""
    queries = torch.cartesian_prod(torch.arange(window), torch.arange(window)).T  # (2, window**2)
    keys = torch.cartesian_prod(torch.arange(overlap_window), torch.arange(overlap_window)).T
    return keys.unsqueeze(1) - queries.unsqueeze(2)
