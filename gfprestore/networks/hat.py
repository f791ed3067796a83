"""HAT, the hybrid attention transformer for super-resolution (Chen et al., CVPR 2023): FRRffusion's second stage, HFDG.

Every group has window attention beside channel attention (section 3.2), and ends in attention from each window to a
larger one around it (section 3.3). The tensor names are the official ones, so released weights of HAT-S, HAT and HAT-L
load.

Images are (B, 3, H, W) float RGB in [-1, 1], in and out. The official network takes [0, 1] and subtracts a mean; the
change of range is folded into that one step. Feature maps inside are (B, H, W, C). Pure torch: opens no file, chooses
no device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfprestore.networks.configs import HATConfig
from gfprestore.networks.hat_attention import (
    HybridAttentionBlock,
    OverlappingAttentionBlock,
    overlapping_position_index,
    window_position_index,
)

RGB_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean color in [0, 1] of the DIV2K training images, which the network subtracts. Not part of the state dict."""

INIT_STD = 0.02


class HAT(nn.Module):
    """Enlarges by `scale`.

    Args:
        config: Sizes.
        drop_path: Stochastic depth while training: the probability that a branch of the last block is left out for an
            image. It rises from 0 at the first block.
    """

    def __init__(self, config: HATConfig, *, drop_path: float = 0.1) -> None:
        super().__init__()
        self.config = config
        dim, features = config.embed_dim, config.features
        window, overlap = config.window_size, config.overlap_window_size
        self.register_buffer("relative_position_index_SA", window_position_index(window))
        self.register_buffer("relative_position_index_OCA", overlapping_position_index(window, overlap))
        self.conv_first = nn.Conv2d(3, dim, 3, padding=1)
        self.patch_embed = PatchEmbedding(dim)
        blocks = sum(config.depths)
        rates = [drop_path * index / max(blocks - 1, 1) for index in range(blocks)]
        self.layers = nn.ModuleList()
        for group, depth in enumerate(config.depths):
            before = sum(config.depths[:group])
            self.layers.append(ResidualGroup(config, rates[before : before + depth]))
        self.norm = nn.LayerNorm(dim)
        self.conv_after_body = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv_before_upsample = nn.Sequential(nn.Conv2d(dim, features, 3, padding=1), nn.LeakyReLU(inplace=True))
        factors = [3] if config.scale == 3 else [2] * (config.scale.bit_length() - 1)
        upsample: list[nn.Module] = []
        for factor in factors:
            upsample += [nn.Conv2d(features, factor**2 * features, 3, padding=1), nn.PixelShuffle(factor)]
        self.upsample = nn.Sequential(*upsample)
        self.conv_last = nn.Conv2d(features, 3, 3, padding=1)
        self.apply(_initialize)

    def forward(self, lq: Tensor) -> Tensor:
        """Enlarges images.

        Sides that are not multiples of the window are padded by mirroring, and the result is cropped.

        Args:
            lq: (B, 3, H, W) in [-1, 1].

        Returns:
            (B, 3, scale * H, scale * W) float32, about [-1, 1], not clipped.
        """
        height, width = lq.shape[-2:]
        mean = torch.tensor(RGB_MEAN, device=lq.device).view(1, 3, 1, 1)
        x = 0.5 * _padded(lq.float(), self.config.window_size) + (0.5 - mean)
        shallow = self.conv_first(x.to(self.conv_first.weight.dtype))
        tokens = self.patch_embed(shallow.permute(0, 2, 3, 1))
        for group in self.layers:
            tokens = group(tokens, self.relative_position_index_SA, self.relative_position_index_OCA)
        deep = self.conv_after_body(self.norm(tokens).permute(0, 3, 1, 2)) + shallow
        enlarged = self.conv_last(self.upsample(self.conv_before_upsample(deep))).float()
        cropped: Tensor = enlarged[..., : height * self.config.scale, : width * self.config.scale]
        return 2 * cropped + (2 * mean - 1)

    def forward_in_tiles(self, lq: Tensor, *, tile: int = 64, overlap: int = 16) -> Tensor:
        """Enlarges images tile by tile, so that the memory for features depends on the tile only.

        Neighbors fade into each other where they overlap. The result differs a little from that of the whole image: a
        tile's channel attention averages over the tile.

        Args:
            lq: (B, 3, H, W) in [-1, 1].
            tile: Side of a tile in input pixels, a multiple of the window.
            overlap: Input pixels that neighbors share, a multiple of the window and at most half of the tile.

        Returns:
            (B, 3, scale * H, scale * W) float32, about [-1, 1], not clipped.

        Raises:
            ValueError: The tile or the overlap is invalid.
        """
        window = self.config.window_size
        if tile < window or tile % window or overlap % window or not 0 <= 2 * overlap <= tile:
            raise ValueError(
                f"tile and overlap must be multiples of {window}, the overlap at most half of the tile; "
                f"not {tile} and {overlap}"
            )
        scale = self.config.scale
        height, width = lq.shape[-2:]
        result = torch.zeros(len(lq), 3, scale * height, scale * width, device=lq.device)
        for top, bottom in tile_spans(height, tile, overlap):
            for left, right in tile_spans(width, tile, overlap):
                enlarged = self(lq[..., top:bottom, left:right])
                rows = _fading(top, bottom, height, overlap, scale, lq.device)
                columns = _fading(left, right, width, overlap, scale, lq.device)
                enlarged = enlarged * rows.view(-1, 1) * columns
                result[..., scale * top : scale * bottom, scale * left : scale * right] += enlarged
        return result


class PatchEmbedding(nn.Module):
    """Normalizes the tokens; a token is a pixel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        normalized: Tensor = self.norm(tokens)
        return normalized


class ResidualGroup(nn.Module):
    """Attention blocks and a convolution, added to the input (section 3.1)."""

    def __init__(self, config: HATConfig, drop_path: list[float]) -> None:
        super().__init__()
        self.residual_group = AttentionBlocks(config, drop_path)
        self.conv = nn.Conv2d(config.embed_dim, config.embed_dim, 3, padding=1)

    def forward(self, tokens: Tensor, index: Tensor, overlapping_index: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C); the indices are those of the position biases."""
        inner = self.residual_group(tokens, index, overlapping_index)
        result: Tensor = tokens + self.conv(inner.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return result


class AttentionBlocks(nn.Module):
    """Hybrid attention blocks, every second one shifted, and an overlapping one."""

    def __init__(self, config: HATConfig, drop_path: list[float]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            HybridAttentionBlock(
                config.embed_dim,
                heads=config.heads,
                window=config.window_size,
                shift=0 if index % 2 == 0 else config.window_size // 2,
                compressed=config.embed_dim // config.compress_ratio,
                squeezed=config.embed_dim // config.squeeze_factor,
                hidden=config.mlp_features,
                drop_path=rate,
            )
            for index, rate in enumerate(drop_path)
        )
        self.overlap_attn = OverlappingAttentionBlock(
            config.embed_dim,
            heads=config.heads,
            window=config.window_size,
            overlap_window=config.overlap_window_size,
            hidden=config.mlp_features,
        )

    def forward(self, tokens: Tensor, index: Tensor, overlapping_index: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C); the indices are those of the position biases."""
        for block in self.blocks:
            tokens = block(tokens, index)
        result: Tensor = self.overlap_attn(tokens, overlapping_index)
        return result


def tile_spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Cut a side into tiles of which neighbors overlap; only the last one may be shorter.

    Args:
        length: Of the side.
        tile: Length of a tile.
        overlap: Length that two neighbors share, less than the tile.

    Returns:
        First index and the one after the last of every tile.
    """
    return [(start, min(start + tile, length)) for start in range(0, max(length - overlap, 1), tile - overlap)]


def config_from_state(state: Mapping[str, Tensor]) -> HATConfig | None:
    """Recognizes a HAT by its tensor names and reads its sizes from their shapes.

    Args:
        state: Tensors by name, without prefix.

    Returns:
        The configuration to build the network with; None for another network.
    """
    try:
        return _read_config(state)
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        return None


def _read_config(state: Mapping[str, Tensor]) -> HATConfig:
    """Read the sizes.

    Raises:
        KeyError: A tensor is missing.
        IndexError: A tensor has too few dimensions.
        ValueError: The sizes contradict one another.
        ZeroDivisionError: A tensor is empty.
    """
    depths: list[int] = []
    while f"layers.{len(depths)}.residual_group.overlap_attn.qkv.weight" in state:
        blocks = f"layers.{len(depths)}.residual_group.blocks."
        depths.append(len({name[len(blocks) :].split(".")[0] for name in state if name.startswith(blocks)}))
    block = "layers.0.residual_group.blocks.0."
    dim = state["conv_first.weight"].shape[0]
    positions, heads = state[f"{block}attn.relative_position_bias_table"].shape
    overlapping = state["layers.0.residual_group.overlap_attn.relative_position_bias_table"].shape[0]
    window = (math.isqrt(positions) + 1) // 2
    features = state["conv_last.weight"].shape[1]
    return HATConfig(
        scale=_scale_of(state, features),
        embed_dim=dim,
        depths=tuple(depths),
        heads=heads,
        window_size=window,
        overlap_window_size=math.isqrt(overlapping) + 1 - window,
        compress_ratio=dim // state[f"{block}conv_block.cab.0.weight"].shape[0],
        squeeze_factor=dim // state[f"{block}conv_block.cab.3.attention.1.weight"].shape[0],
        mlp_ratio=state[f"{block}mlp.fc1.weight"].shape[0] / dim,
        features=features,
    )


def _scale_of(state: Mapping[str, Tensor], features: int) -> int:
    scale = 1
    for name in state:
        if name.startswith("upsample.") and name.endswith(".weight"):
            scale *= math.isqrt(state[name].shape[0] // features)
    return scale


def _padded(image: Tensor, multiple: int) -> Tensor:
    """Pads an image at the right and bottom to multiples of a number: mirrored, or repeated where it is too small."""
    height, width = image.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if bottom == right == 0:
        return image
    fits = bottom < height and right < width
    return F.pad(image, (0, right, 0, bottom), mode="reflect" if fits else "replicate")


def _fading(start: int, stop: int, length: int, overlap: int, scale: int, device: torch.device) -> Tensor:
    """Weights of a tile's output pixels along one side; those of two neighbors add up to 1."""
    weights = torch.ones(scale * (stop - start), device=device)
    zone = scale * overlap
    if zone > 0:
        rising = (torch.arange(zone, device=device) + 0.5) / zone
        if start > 0:
            weights[:zone] = rising
        if stop < length:
            weights[-zone:] = rising.flip(0)
    return weights


def _initialize(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=INIT_STD)
        nn.init.zeros_(layer.bias)
