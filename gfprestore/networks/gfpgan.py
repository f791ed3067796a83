"""GFP-GAN (Wang et al., CVPR 2021): a U-Net removes the degradation, a StyleGAN2 face prior adds the detail.

The U-Net (section 3.2) computes a style code for every layer of the prior (3.3) and features at every scale, which
modulate the prior's features (3.4). Both official layouts of the weights are supported, with the official tensor
names: `paper` (GFPGANv1) and `clean` (GFPGANv1Clean: releases 1.2 to 1.4).

Tensors are (B, C, H, W) float, images RGB in [-1, 1]; fastest in channels-last. Pure torch: opens no file, chooses no
device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfprestore.networks.configs import GFPGANConfig, Layout, Modulation
from gfprestore.networks.layers import (
    ACTIVATION_GAIN,
    LEAK,
    BiasedActivation,
    EqualizedConv2d,
    EqualizedDownBlock,
    EqualizedLinear,
    ScaledLeakyReLU,
    activated_convolution,
    box_mean,
    luma,
    stored_number,
)
from gfprestore.networks.stylegan2 import StyleGAN2Generator, UpsampledConvolution, upsample_bilinear


def config_from_state(state: Mapping[str, Tensor]) -> GFPGANConfig | None:
    """Recognize a GFP-GAN by the names of its tensors and read every size from their shapes.

    Args:
        state: Tensors by name, without prefix.

    Returns:
        The configuration with which to build the network, so that a valid state can be loaded strictly; None if this is
        not a GFP-GAN.
    """
    layout = _layout_of(state)
    if layout is None:
        return None
    try:
        return _read_config(state, layout)
    except (KeyError, IndexError, ValueError):
        return None


class GFPGAN(nn.Module):
    """GFP-GAN, which restores aligned faces.

    Args:
        config: Sizes of the network.
    """

    def __init__(self, config: GFPGANConfig) -> None:
        super().__init__()
        self.config = config
        unet = config.unet_channels
        scales = list(zip(unet[:-1], unet[1:], strict=True))  # (smaller, larger) image's channels
        paper = config.layout == "paper"
        down, up = (EqualizedDownBlock, EqualizedUpBlock) if paper else (PlainDownBlock, PlainUpBlock)
        self.conv_body_first = _activated_convolution(3, unet[-1], 1, config.layout)
        self.conv_body_down = nn.ModuleList([down(larger, smaller) for smaller, larger in reversed(scales)])
        self.final_conv = _activated_convolution(unet[0], unet[0], 3, config.layout)
        self.conv_body_up = nn.ModuleList([up(smaller, larger) for smaller, larger in scales])
        self.toRGB = nn.ModuleList([_convolution(channels, 3, 1, config.layout) for channels in unet[1:]])
        latents = 2 * len(unet) if config.different_w else 1
        self.final_linear = _linear(unet[0] * 16, latents * config.style_dim, config.layout)
        self.stylegan_decoder = StyleGAN2Generator(config.channels, config.style_dim, config.mlp_layers, config.layout)
        if config.modulation != "none":
            share = 1 if config.modulation == "split" else 2
            self.condition_scale = nn.ModuleList(
                [_condition(channels, share * channels, 1.0, config.layout) for channels in unet[1:]]
            )
            self.condition_shift = nn.ModuleList(
                [_condition(channels, share * channels, 0.0, config.layout) for channels in unet[1:]]
            )
        self.spatial_modulation = ChannelSplitSFT()
        if config.input_share > 0:
            self.register_buffer("input_share", torch.tensor(config.input_share))
        if config.color_radius > 0:
            self.register_buffer("colour_radius", torch.tensor(float(config.color_radius)))

    @property
    def unet(self) -> tuple[nn.Module, ...]:
        """Modules of the degradation removal, without the ones that connect it to the decoder."""
        return (self.conv_body_first, self.conv_body_down, self.final_conv, self.conv_body_up, self.toRGB)

    @overload
    def forward(self, lq: Tensor, noise_seeds: Sequence[int] | None = None) -> Tensor: ...

    @overload
    def forward(
        self, lq: Tensor, noise_seeds: Sequence[int] | None = None, *, return_pyramid: Literal[True]
    ) -> tuple[Tensor, list[Tensor]]: ...

    def forward(
        self, lq: Tensor, noise_seeds: Sequence[int] | None = None, *, return_pyramid: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Restore faces; each result is independent of the other faces in the batch.

        Args:
            lq: (B, 3, S, S) RGB in [-1, 1].
            noise_seeds: One random seed per face; by default all faces use the noise stored with the weights.
            return_pyramid: Also return the U-Net's images, for the intermediate restoration loss.

        Returns:
            (B, 3, S, S) float32, about [-1, 1], not clamped; with `return_pyramid` also the images at 8, 16, ... S.

        Raises:
            ValueError: The number of seeds is not the number of faces.
        """
        if noise_seeds is not None and len(noise_seeds) != len(lq):
            raise ValueError(f"noise_seeds must have one seed for each of the {len(lq)} faces, not {len(noise_seeds)}")
        latents, features = self.remove_degradation(lq)
        noise = None if noise_seeds is None else self.stylegan_decoder.seeded_noise(noise_seeds)
        restored: Tensor = self.stylegan_decoder(latents, noise, self.modulations(features))
        share = self.config.input_share
        pyramid: list[Tensor] = []
        if return_pyramid or share > 0:
            needed = range(len(features)) if return_pyramid else (-1,)
            pyramid = [self._unet_image(scale, features[scale], lq) for scale in needed]
        if share > 0:
            restored = torch.lerp(restored, pyramid[-1], share)
        if self.config.color_radius > 0:
            restored = self._with_colors_of(lq, restored)
        return (restored, pyramid) if return_pyramid else restored

    def _unet_image(self, scale: int, feature: Tensor, lq: Tensor) -> Tensor:
        """Output image of the U-Net at one of its scales, float32."""
        image: Tensor = self.toRGB[scale](feature).float()
        if self.config.input_share > 0:
            smaller = F.avg_pool2d(lq.float(), lq.shape[-1] // feature.shape[-1])
            image = torch.lerp(image, smaller, self.config.input_share)
        return image

    def _with_colors_of(self, lq: Tensor, restored: Tensor) -> Tensor:
        """Subtract from the restored image its mean color difference to the lq in each neighborhood."""
        difference = restored - lq.float()
        return restored - box_mean(difference - luma(difference), self.config.color_radius)

    def remove_degradation(self, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Apply the U-Net (section 3.2).

        Args:
            lq: (B, 3, S, S) RGB in [-1, 1].

        Returns:
            F_latent as style codes (B, latent count, D), and F_spatial: features at 8, 16, ... S.
        """
        x = self.conv_body_first(lq.to(self.stylegan_decoder.constant_input.weight.dtype))
        skips = []
        for block in self.conv_body_down:
            x = block(x)
            skips.append(x)
        x = self.final_conv(x)
        styles: Tensor = self.final_linear(x.flatten(1))  # in the order (C, H, W), for any memory format
        features = []
        for block in self.conv_body_up:
            x = block(x + skips.pop())
            features.append(x)
        latents = styles.view(len(lq), -1, self.config.style_dim)
        return latents.expand(-1, self.stylegan_decoder.latent_count, -1), features

    def modulations(self, features: Sequence[Tensor]) -> list[Callable[[Tensor], Tensor]]:
        """Modulations of the prior by the U-Net's features at 8, 16, ... S (section 3.4), computed on demand."""
        if self.config.modulation == "none":
            return []
        return [functools.partial(self._modulate, scale, feature) for scale, feature in enumerate(features)]

    def _modulate(self, scale: int, feature: Tensor, prior: Tensor) -> Tensor:
        alpha = self.condition_scale[scale](feature)
        beta = self.condition_shift[scale](feature)
        modulated: Tensor = self.spatial_modulation(prior, alpha, beta)
        return modulated


class ChannelSplitSFT(nn.Module):
    """Half of the prior's channels pass untouched, half are scaled and shifted by the U-Net's features (section 3.4).

    With a scale and shift for all channels this is the plain spatial feature transform.
    """

    def forward(self, prior: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Modulate the last channels, as many as there are scales; in place if gradients are off.

        Args:
            prior: (B, C, H, W).
            scale: (B, C or C/2, H, W).
            shift: The same shape.

        Returns:
            (B, C, H, W).
        """
        kept, modulated = torch.split(prior, [prior.shape[1] - scale.shape[1], scale.shape[1]], dim=1)
        if torch.is_grad_enabled():
            return torch.cat([kept, modulated * scale + shift], dim=1)
        modulated.mul_(scale).add_(shift)
        return prior


class PlainDownBlock(nn.Module):
    """Residual block to half the size: clean layout."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = _plain_convolution(in_channels, in_channels, 3, ACTIVATION_GAIN)
        self.conv2 = _plain_convolution(in_channels, out_channels, 3, 1.0)
        self.skip = _plain_convolution(in_channels, out_channels, 1, 1 / ACTIVATION_GAIN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/2, W/2)."""
        inner = F.leaky_relu_(self.conv1(x), LEAK)
        inner = F.leaky_relu_(self.conv2(F.avg_pool2d(inner, 2)), LEAK)  # bilinear halving averages 2 x 2 pixels
        skip: Tensor = self.skip(F.avg_pool2d(x, 2))
        return inner + skip


class PlainUpBlock(nn.Module):
    """Residual block to twice the size: clean layout."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = _plain_convolution(in_channels, in_channels, 3, ACTIVATION_GAIN)
        self.conv2 = _plain_convolution(in_channels, out_channels, 3, 1.0)
        self.skip = _plain_convolution(in_channels, out_channels, 1, 1 / ACTIVATION_GAIN, bias=False)
        self.upsampled = UpsampledConvolution("bilinear")

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, 2H, 2W)."""
        inner = self.upsampled(F.leaky_relu_(self.conv1(x), LEAK), self.conv2.weight)
        inner = F.leaky_relu_(_add_bias(inner, self.conv2.bias), LEAK)
        return inner + upsample_bilinear(self.skip(x))  # a 1 x 1 convolution costs a quarter before upsampling


class EqualizedUpConvolution(nn.Module):
    """Equalized convolution of bilinearly upsampled features; with an activation the kernel is 3 x 3, else 1 x 1."""

    def __init__(self, in_channels: int, out_channels: int, *, activate: bool) -> None:
        super().__init__()
        size = 3 if activate else 1
        self.gain = 1 / math.sqrt(in_channels * size**2)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, size, size))
        self.activation = BiasedActivation(out_channels) if activate else None
        self.upsampled = UpsampledConvolution("bilinear")

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, 2H, 2W)."""
        weight = self.weight * self.gain
        if self.activation is None:
            return upsample_bilinear(F.conv2d(x, weight))
        activated: Tensor = self.activation(self.upsampled(x, weight))
        return activated


class EqualizedUpBlock(nn.Module):
    """Residual block to twice the size: paper's layout, bilinear resampling."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = _activated_convolution(in_channels, in_channels, 3, "paper")
        self.conv2 = EqualizedUpConvolution(in_channels, out_channels, activate=True)
        self.skip = EqualizedUpConvolution(in_channels, out_channels, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, 2H, 2W)."""
        inner: Tensor = self.conv2(self.conv1(x))
        skip: Tensor = self.skip(x)
        return (inner + skip).div_(math.sqrt(2))


class ActivatedConv2d(nn.Conv2d):
    """Convolution and leaky ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        return F.leaky_relu_(super().forward(x), LEAK)


def _plain_convolution(
    in_channels: int, out_channels: int, kernel_size: int, gain: float, *, bias: bool = True
) -> nn.Conv2d:
    """A convolution of the clean layout.

    `gain` is the factor on the output in the paper's layout, so that both layouts start as the same function.
    """
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
    return _initialized(layer, gain)


def _initialized(layer: nn.Conv2d, gain: float, bias_value: float = 0.0) -> nn.Conv2d:
    fan_in = layer.in_channels * layer.kernel_size[0] ** 2
    nn.init.normal_(layer.weight, std=gain / math.sqrt(fan_in))
    if layer.bias is not None:
        nn.init.constant_(layer.bias, bias_value)
    return layer


def _activated_convolution(in_channels: int, out_channels: int, kernel_size: int, layout: Layout) -> nn.Module:
    if layout == "paper":
        return activated_convolution(in_channels, out_channels, kernel_size)
    layer = ActivatedConv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    return _initialized(layer, ACTIVATION_GAIN)


def _convolution(
    in_channels: int, out_channels: int, kernel_size: int, layout: Layout, *, bias_value: float = 0.0
) -> nn.Module:
    if layout == "paper":
        return EqualizedConv2d(in_channels, out_channels, kernel_size, bias_value=bias_value)
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    return _initialized(layer, 1.0, bias_value)


def _linear(in_features: int, out_features: int, layout: Layout) -> nn.Module:
    if layout == "paper":
        return EqualizedLinear(in_features, out_features)
    layer = nn.Linear(in_features, out_features)
    nn.init.normal_(layer.weight, std=1 / math.sqrt(in_features))
    nn.init.zeros_(layer.bias)
    return layer


def _condition(channels: int, out_channels: int, bias_value: float, layout: Layout) -> nn.Sequential:
    """Convolutions from the U-Net's features to a scale or shift of the prior's; starts around `bias_value`."""
    activation: nn.Module = ScaledLeakyReLU() if layout == "paper" else nn.LeakyReLU(LEAK, inplace=True)
    first = _convolution(channels, channels, 3, layout, bias_value=0.0)
    if isinstance(first, nn.Conv2d):
        _initialized(first, ACTIVATION_GAIN)
    return nn.Sequential(first, activation, _convolution(channels, out_channels, 3, layout, bias_value=bias_value))


def _add_bias(x: Tensor, bias: Tensor | None) -> Tensor:
    """Add a bias per channel, in place."""
    return x if bias is None else x.add_(bias.view(1, -1, 1, 1).to(x.dtype))


def _layout_of(state: Mapping[str, Tensor]) -> Layout | None:
    """Recognize the layout by the tensor names."""
    if "stylegan_decoder.constant_input.weight" not in state or "toRGB.0.weight" not in state:
        return None
    if "conv_body_first.weight" in state and "stylegan_decoder.style_conv1.bias" in state:
        return "clean"
    if "conv_body_first.0.weight" in state and "conv_body_down.0.conv2.1.weight" in state:
        return "paper"
    return None


def _read_config(state: Mapping[str, Tensor], layout: Layout) -> GFPGANConfig:
    """Read the sizes from the shapes of the tensors.

    Raises:
        KeyError: A required tensor is missing.
        IndexError: A tensor has too few dimensions.
        ValueError: The sizes contradict each other.
    """
    prior = "stylegan_decoder."
    channels = [state[f"{prior}constant_input.weight"].shape[1]]
    while (name := f"{prior}style_convs.{2 * len(channels) - 2}.modulated_conv.weight") in state:
        channels.append(state[name].shape[1])
    style_dim = state[f"{prior}style_conv1.modulated_conv.modulation.weight"].shape[1]
    latents = state["final_linear.weight"].shape[0]
    if latents not in (style_dim, 2 * len(channels) * style_dim):
        raise ValueError(f"{latents} is not a valid number of latents")
    modulation: Modulation = "none"
    if "condition_scale.0.2.weight" in state:
        modulation = "all" if state["condition_scale.0.2.weight"].shape[0] == channels[1] else "split"
    return GFPGANConfig(
        layout=layout,
        channels=tuple(channels),
        style_dim=style_dim,
        mlp_layers=sum(name.startswith(f"{prior}style_mlp.") and name.endswith(".weight") for name in state),
        different_w=latents != style_dim,
        modulation=modulation,
        input_share=stored_number(state, "input_share"),
        color_radius=int(stored_number(state, "colour_radius")),
    )
