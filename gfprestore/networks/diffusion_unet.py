"""Conditional diffusion U-Net of FRRffusion's first stage, FMAR (Applied Soft Computing 2025).

The layers are those of Dhariwal and Nichol (NeurIPS 2021, sections 2.2 and 3), with the official tensor names and
semantics, so that a guided-diffusion checkpoint with 6 input and 3 output channels loads. The input is x_t and the
retouched face, concatenated in this order. Options beyond the paper: pixel-unshuffled input, an estimate of x0 around
the retouched face, a warp head, and the levels of six retouching operations as a second condition.

Images are (B, 3, H, W) float RGB in [-1, 1]; fastest in channels-last. Options that the shapes of the weights do not
determine are kept in the state dict as numbers, where they differ from the official defaults. Pure torch: opens no
file, chooses no device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfprestore.networks.configs import (
    DEFAULT_GROUPS,
    DEFAULT_HEADS,
    DEFAULT_TIMESTEPS,
    DiffusionUNetConfig,
)
from gfprestore.networks.diffusion_blocks import (
    AttentionBlock,
    Downsample,
    ResidualBlock,
    Stage,
    Upsample,
    timestep_embedding,
    zeroed,
)
from gfprestore.networks.gaussian_diffusion import Denoiser, cumulative_alphas
from gfprestore.networks.layers import stored_number
from gfprestore.networks.retouching_operations import OPERATIONS
from gfprestore.networks.retouching_reversal import (
    ResidualPreconditioning,
    WarpHead,
    coordinates,
    level_gate,
    warp,
)

INNERMOST_SIDE = 8
"""Side of the smallest feature map in the official sizes: 64 with 4 levels, 128 with 5, 256 with 6."""


COMPACT_TIMESTEPS = (999, 300, 150, 60)
"""DDIM timesteps that the compact network is sampled with."""


class DiffusionUNet(nn.Module):
    """Denoises a face, given its retouched version.

    Args:
        config: Sizes and options.
        dropout: Share of features dropped in every residual block while training.
    """

    def __init__(self, config: DiffusionUNetConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        channels = config.level_channels
        self.time_embed = _embedding(config.channels, 4 * config.channels)
        if config.levels:
            self.level_embed = _embedding(len(OPERATIONS), 4 * config.channels)
        self._skipping: set[int] = set()  # numbers of the input blocks whose output the decoder gets
        skips = self._build_encoder()
        self.middle_block = Stage(
            [
                self._residual(channels[-1], channels[-1]),
                self._attention(channels[-1]),
                self._residual(channels[-1], channels[-1]),
            ]
        )
        self._build_decoder(skips)
        self.out = nn.Sequential(
            nn.GroupNorm(config.groups, channels[0]),
            nn.SiLU(),
            zeroed(nn.Conv2d(channels[0], 3 * config.unshuffle**2, 3, padding=1)),
        )
        if config.warp:
            self.warp_head = WarpHead(channels[0], config.size, levels=config.levels)
        if config.residual:
            alphas = cumulative_alphas(config.timesteps, config.schedule)
            self._around_base = ResidualPreconditioning(alphas, config.prior_std)
        for name, value in _stored_numbers(config).items():
            self.register_buffer(name, torch.tensor(float(value)))

    def _build_encoder(self) -> list[int]:
        """Builds `input_blocks` and returns the channels of the outputs that the decoder gets."""
        config = self.config
        count = config.level_channels[0]
        folded = 6 * config.unshuffle**2 + (3 if config.coordinates else 0)
        blocks = [Stage([nn.Conv2d(folded, count, 3, padding=1)])]
        skips = []

        def keep() -> None:
            self._skipping.add(len(blocks) - 1)
            skips.append(count)

        if not config.light_decoder:
            keep()
        for level, channels in enumerate(config.level_channels):
            if level > 0:
                blocks.append(Stage([Downsample(count)]))
                if not config.light_decoder:
                    keep()
            for block in range(config.blocks):
                blocks.append(self._stage(level, count))
                count = channels
                if not config.light_decoder or block == config.blocks - 1:
                    keep()
        self.input_blocks = nn.ModuleList(blocks)
        return skips

    def _build_decoder(self, skips: list[int]) -> None:
        """Builds `output_blocks`; each takes one of the skips, last in, first out."""
        config = self.config
        count = config.level_channels[-1]
        blocks = []
        per_level = 1 if config.light_decoder else config.blocks + 1
        for level in reversed(range(len(config.multipliers))):
            for block in range(per_level):
                stage = self._stage(level, count + skips.pop())
                count = config.level_channels[level]
                if level > 0 and block == per_level - 1:
                    stage.append(Upsample(count))
                blocks.append(stage)
        self.output_blocks = nn.ModuleList(blocks)

    def _stage(self, level: int, in_channels: int) -> Stage:
        """A residual block to the level's channels, then attention where the level has it."""
        channels = self.config.level_channels[level]
        stage = Stage([self._residual(in_channels, channels)])
        if self.config.sides[level] in self.config.attention:
            stage.append(self._attention(channels))
        return stage

    def _residual(self, in_channels: int, channels: int) -> ResidualBlock:
        return ResidualBlock(in_channels, channels, 4 * self.config.channels, self.config.groups, self.dropout)

    def _attention(self, channels: int) -> AttentionBlock:
        return AttentionBlock(channels, self.config.heads_of(channels), self.config.groups)

    def denoiser(self, retouched: Tensor, levels: Tensor | None = None) -> Denoiser:
        """The network with its condition, as a sampler or the loss takes it.

        Args:
            retouched: (B, 3, H, W).
            levels: (B, 6) in [0, 1], where the network takes levels.
        """
        return lambda x, timesteps: self(torch.cat([x, retouched.to(x.dtype)], 1), timesteps, levels)

    @overload
    def forward(self, x: Tensor, timesteps: Tensor, levels: Tensor | None = None) -> Tensor: ...

    @overload
    def forward(
        self, x: Tensor, timesteps: Tensor, levels: Tensor | None = None, *, return_field: Literal[True]
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self, x: Tensor, timesteps: Tensor, levels: Tensor | None = None, *, return_field: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Predicts the noise or x0; no face's result depends on the others of the batch.

        Args:
            x: (B, 6, H, W): x_t, then the retouched face.
            timesteps: (B,).
            levels: (B, 6) in [0, 1] in the order of `OPERATIONS`, where the network takes levels.
            return_field: Also return the warp head's backward field, to supervise it.

        Returns:
            (B, 3, H, W) float32, not clipped; with `return_field` also (B, 2, H / unshuffle, W / unshuffle) float32 in
            pixels of the image.

        Raises:
            ValueError: The sides are not multiples of `config.stride`, the levels are missing or not expected, or the
                network has no warp head to return a field of.
        """
        config = self.config
        if x.shape[-2] % config.stride or x.shape[-1] % config.stride:
            raise ValueError(f"sides must be multiples of {config.stride}, not {tuple(x.shape[-2:])}")
        if (levels is not None) != config.levels:
            raise ValueError("this network needs levels" if config.levels else "this network takes no levels")
        if return_field and not config.warp:
            raise ValueError("this network has no warp head")
        features = self._features(x, timesteps, levels)
        output = F.pixel_shuffle(self.out[2](features).float(), config.unshuffle)
        if not config.residual:
            return output
        noisy, retouched = x.float().chunk(2, 1)
        field = self.warp_head(features, levels) if config.warp else None
        base = retouched if field is None else warp(retouched, field)
        gate = None if levels is None else level_gate(levels)
        x0 = self._around_base(base, noisy, output, timesteps, gate)
        if gate is not None:
            x0 = torch.where(gate > 0, x0, retouched)  # resampling without a shift is exact up to rounding only
        if not return_field:
            return x0
        assert field is not None
        return x0, field

    def _features(self, x: Tensor, timesteps: Tensor, levels: Tensor | None) -> Tensor:
        """Encoder and decoder up to the last activation: (B, C, H / unshuffle, W / unshuffle)."""
        dtype = next(self.parameters()).dtype
        embedding = self.time_embed(timestep_embedding(timesteps, self.config.channels).to(dtype))
        if levels is not None:
            embedding = embedding + self.level_embed((2 * levels - 1).to(dtype))
        x = F.pixel_unshuffle(x.to(dtype), self.config.unshuffle)
        if self.config.coordinates:
            x = torch.cat([x, coordinates(x.shape[-2], x.shape[-1], x)], 1)
        skips = []
        for index, block in enumerate(self.input_blocks):
            x = block(x, embedding)
            if index in self._skipping:
                skips.append(x)
        x = self.middle_block(x, embedding)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], 1), embedding)
        activated: Tensor = self.out[1](self.out[0](x))
        return activated


def config_from_state(state: Mapping[str, Tensor]) -> DiffusionUNetConfig | None:
    """Recognizes a conditional diffusion U-Net by its tensor names and reads its sizes from their shapes.

    Options that the shapes do not determine come from the stored numbers, or else are the official defaults.

    Args:
        state: Tensors by name, without prefix.

    Returns:
        The configuration to build the network with; None for another network.
    """
    try:
        return _read_config(state)
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        return None


def _read_config(state: Mapping[str, Tensor]) -> DiffusionUNetConfig:
    """Read sizes and options.

    Raises:
        KeyError: A tensor is missing.
        IndexError: A tensor has too few dimensions.
        ValueError: The sizes contradict one another.
        ZeroDivisionError: A tensor is empty.
    """
    channels = state["time_embed.0.weight"].shape[1]
    unshuffle = math.isqrt(state["out.2.weight"].shape[0] // 3)
    extra = state["input_blocks.0.0.weight"].shape[1] - 6 * unshuffle**2
    if state["out.2.weight"].shape[0] != 3 * unshuffle**2 or extra not in (0, 3):
        raise ValueError("neither 6 input channels nor 3 output channels")
    last = 1 + max(_block_numbers(state, "input_blocks"))
    levels: list[list[tuple[int, bool]]] = [[]]  # per level, per block: channels, attention
    for index in range(1, last):
        if f"input_blocks.{index}.0.op.weight" in state:
            levels.append([])
        else:
            width = state[f"input_blocks.{index}.0.out_layers.3.weight"].shape[0]
            levels[-1].append((width, f"input_blocks.{index}.1.qkv.weight" in state))
    size = int(stored_number(state, "image_size")) or INNERMOST_SIDE * unshuffle << (len(levels) - 1)
    return DiffusionUNetConfig(
        size=size,
        channels=channels,
        multipliers=tuple(level[0][0] // channels for level in levels),
        blocks=len(levels[0]),
        attention=tuple(size // unshuffle >> index for index, level in enumerate(levels) if level[0][1]),
        heads=int(stored_number(state, "heads")) or DEFAULT_HEADS,
        head_channels=int(stored_number(state, "head_channels")),
        groups=int(stored_number(state, "groups")) or DEFAULT_GROUPS,
        unshuffle=unshuffle,
        coordinates=extra == 3,
        light_decoder=1 + max(_block_numbers(state, "output_blocks")) == len(levels),
        prediction="x0" if stored_number(state, "x0_prediction") else "epsilon",
        schedule="cosine" if stored_number(state, "cosine_schedule") else "linear",
        timesteps=int(stored_number(state, "timesteps")) or DEFAULT_TIMESTEPS,
        residual=bool(stored_number(state, "residual")),
        prior_std=round(stored_number(state, "prior_std"), 4),  # half precision may have rounded it
        warp="warp_head.conv.weight" in state,
        levels="level_embed.0.weight" in state,
    )


def _stored_numbers(config: DiffusionUNetConfig) -> dict[str, float]:
    """Options that neither the shapes nor the official defaults determine, by their names in the state dict."""
    numbers = {
        "image_size": (config.size, INNERMOST_SIDE * config.stride),
        "heads": (config.heads, DEFAULT_HEADS),
        "head_channels": (config.head_channels, 0),
        "groups": (config.groups, DEFAULT_GROUPS),
        "x0_prediction": (config.prediction == "x0", False),
        "cosine_schedule": (config.schedule == "cosine", False),
        "timesteps": (config.timesteps, DEFAULT_TIMESTEPS),
        "residual": (config.residual, False),
        "prior_std": (config.prior_std, 0.0),
    }
    return {name: value for name, (value, default) in numbers.items() if value != default}


def _block_numbers(state: Mapping[str, Tensor], prefix: str) -> list[int]:
    return [int(name.split(".")[1]) for name in state if name.startswith(f"{prefix}.")]


def _embedding(in_features: int, out_features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_features, out_features), nn.SiLU(), nn.Linear(out_features, out_features))
