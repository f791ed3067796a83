"""StyleGAN2's generator (Karras et al., CVPR 2020), the face prior of GFP-GAN, in the two layouts of its weights.

`paper`: equalized weights, FIR resampling with [1, 3, 3, 1], bias and activation as one layer.
`clean`: plain weights with the gains folded in, bilinear resampling.

Tensors are (B, C, H, W) float, fastest in channels-last; style codes are (B, D). Modulation and demodulation are
computed in float32 for any type of the weights. Pure torch: opens no file, chooses no device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfprestore.networks.configs import Layout
from gfprestore.networks.layers import (
    ACTIVATION_GAIN,
    LEAK,
    BiasedActivation,
    EqualizedActivatedLinear,
    EqualizedLinear,
    FirFilter,
)

DEMODULATION_EPSILON = 1e-8


@dataclass(frozen=True)
class StyleGAN2Config:
    """Sizes of a generator.

    Attributes:
        layout: Layout of the weights.
        channels: Features at 4, 8, 16, ... up to the image's size.
        style_dim: Length of z and w.
        mlp_layers: Layers of the style network.
    """

    layout: Layout
    channels: tuple[int, ...]
    style_dim: int
    mlp_layers: int

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return 2 << len(self.channels)


def config_from_state(state: Mapping[str, Tensor]) -> StyleGAN2Config | None:
    """Derive the sizes of a generator from the shapes of its tensors.

    Returns:
        None if the names are not those of a StyleGAN2 generator.

    Raises:
        KeyError: A required tensor is missing.
        IndexError: A tensor has too few dimensions.
    """
    if "constant_input.weight" not in state or "style_conv1.modulated_conv.weight" not in state:
        return None
    channels = [state["constant_input.weight"].shape[1]]
    while (name := f"style_convs.{2 * len(channels) - 2}.modulated_conv.weight") in state:
        channels.append(state[name].shape[1])  # (1, out, in, 3, 3)
    return StyleGAN2Config(
        layout="clean" if "style_conv1.bias" in state else "paper",
        channels=tuple(channels),
        style_dim=state["style_conv1.modulated_conv.modulation.weight"].shape[1],
        mlp_layers=sum(name.startswith("style_mlp.") and name.endswith(".weight") for name in state),
    )


class Upsample(nn.Module):
    """Upsampling by 2: FIR (zero padding) in the paper's layout, bilinear (repeated edges) in the clean one."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.filter = FirFilter(gain=4.0, padding=1) if layout == "paper" else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        if self.filter is None:
            return upsample_bilinear(x)
        batch, channels, height, width = x.shape
        spread = x.new_zeros(batch, channels, 2 * height + 1, 2 * width + 1)
        spread[:, :, 1::2, 1::2] = x
        smooth: Tensor = self.filter(spread)
        return smooth


class UpsampledConvolution(nn.Module):
    """Compute a 3 x 3 convolution of features at twice their size on their original size.

    Upsampling inserts zeros and then smooths. Smoothing and convolution commute, and a convolution of features with
    inserted zeros is a transposed convolution, which needs a quarter of the multiplications. Bilinear upsampling
    repeats the edge pixels where the convolution has zero padding, so the contribution of the repeated pixels is
    subtracted again. Small features, for which that costs more than it saves, are upsampled first.
    """

    SMALLEST = 32

    def __init__(self, mode: Literal["fir", "bilinear"]) -> None:
        super().__init__()
        self.mode = mode
        self.filter = FirFilter(gain=4.0, padding=1 if mode == "fir" else 0)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """(B, in, H, W) and (out, in, 3, 3) -> (B, out, 2H, 2W)."""
        result: Tensor
        if self.mode == "fir":
            result = self.filter(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
            return result
        if min(x.shape[2:]) < self.SMALLEST:
            return F.conv2d(upsample_bilinear(x), weight, padding=1)
        mirrored = weight.flip(2, 3).transpose(0, 1)  # a transposed convolution flips its kernel
        spread = F.conv_transpose2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), mirrored, stride=2, padding=1)
        result = self.filter(spread)  # (B, out, 2H + 3, 2W + 3) -> (B, out, 2H, 2W)
        return _without_repeated_edges(result, x, weight)


def upsample_bilinear(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W), pixel centers aligned, edges repeated."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _without_repeated_edges(convolved: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Subtract, in place, the contribution of the repeated edges from the outermost pixels."""
    height, width = convolved.shape[2:]
    for edge in (0, -1):
        tap = edge % 3
        row = F.interpolate(x[:, :, edge, None], size=(1, width), mode="bilinear", align_corners=False)
        row = F.pad(row, (1, 1, 0, 0), mode="replicate")  # the corners are handled with the rows
        convolved[:, :, edge, None].sub_(F.conv2d(row, weight[:, :, tap, None]))
        column = F.interpolate(x[..., edge, None], size=(height, 1), mode="bilinear", align_corners=False)
        convolved[..., edge, None].sub_(F.conv2d(column, weight[..., tap, None], padding=(1, 0)))
    return convolved


class ModulatedConv2d(nn.Module):
    """Convolution with input channels scaled by a style and an output normalized to unit variance.

    The scales differ per sample, the weights are shared: scaling the input, convolving with the shared weights and
    scaling the output is the same as a convolution with each sample's own weights (StyleGAN2, section 2.2, equations 1
    to 3).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        style_dim: int,
        layout: Layout,
        *,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        weight = torch.randn(out_channels, in_channels, kernel_size, kernel_size)
        gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.weight = nn.Parameter(weight if layout == "paper" else weight * gain)
        self.gain = gain if layout == "paper" else 1.0
        self.padding = kernel_size // 2
        self.modulation = _modulation(style_dim, in_channels, layout)
        mode: Literal["fir", "bilinear"] = "fir" if layout == "paper" else "bilinear"
        self.upsampled = UpsampledConvolution(mode) if upsample else None

    def input_scale(self, style: Tensor) -> Tensor:
        """Scale of each input channel, (B, D) -> (B, in) float32, including the equalizing gain."""
        with torch.autocast(style.device.type, enabled=False):
            layer = self.modulation
            gain, rate = (layer.gain, layer.rate) if isinstance(layer, EqualizedLinear) else (1.0, 1.0)
            return F.linear(style.float() * gain, layer.weight.float(), layer.bias.float() * rate) * self.gain

    def forward(self, x: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve without the final scaling, which the caller combines with other operations.

        Args:
            x: (B, in, H, W).
            style: (B, D).

        Returns:
            The features (B, out, H', W') and the demodulation factors (B, out) float32 to multiply them with.
        """
        scale = self.input_scale(style)
        with torch.autocast(x.device.type, enabled=False):
            power = self.weight.float().square().sum((2, 3))  # (out, in)
            demodulation = torch.rsqrt(F.linear(scale.square(), power) + DEMODULATION_EPSILON)
        # Half precision: inputs are scaled by at most one, and the remaining factor is applied in float32.
        largest = scale.detach().abs().amax(1, keepdim=True).clamp_min(DEMODULATION_EPSILON) / self.gain
        x = x * (scale / largest).to(x.dtype)[:, :, None, None]
        if self.upsampled is None:
            return F.conv2d(x, self.weight, padding=self.padding), demodulation * largest
        return self.upsampled(x, self.weight), demodulation * largest

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Save weights as in official files: with a leading dimension of 1, which channels-last does not allow."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = destination[f"{prefix}weight"][None]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load weights with that leading dimension."""
        weight = state_dict.get(f"{prefix}weight")
        if weight is not None and weight.ndim == 5 and len(weight) == 1:
            state_dict[f"{prefix}weight"] = weight[0]
        super()._load_from_state_dict(state_dict, prefix, *args)


class StyleConv(nn.Module):
    """Modulated convolution, noise, bias, leaky ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, style_dim: int, layout: Layout, *, upsample: bool = False
    ) -> None:
        super().__init__()
        self.modulated_conv = ModulatedConv2d(in_channels, out_channels, 3, style_dim, layout, upsample=upsample)
        self.weight = nn.Parameter(torch.zeros(1))  # strength of the noise
        self.activate: nn.Module
        if layout == "paper":
            self.activate = BiasedActivation(out_channels)
        else:
            self.bias = nn.Parameter(torch.zeros(1, out_channels, 1, 1))
            self.activate = nn.LeakyReLU(LEAK, inplace=True)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        """(B, in, H, W), (B, D) and noise (1 or B, 1, H', W') -> (B, out, H', W')."""
        x, demodulation = self.modulated_conv(x, style)
        # sqrt(2) of the activation multiplies noise and bias in the paper's layout, the convolution alone in the clean.
        gain = 1.0
        if isinstance(self.activate, BiasedActivation):
            gain, bias = ACTIVATION_GAIN, self.activate.bias.view(1, -1, 1, 1)
        else:
            bias = self.bias
        x = x.mul_((demodulation * ACTIVATION_GAIN).to(x.dtype)[:, :, None, None])
        x = x.add_((self.weight * gain * noise).to(x.dtype)).add_((bias * gain).to(x.dtype))
        return F.leaky_relu_(x, LEAK)


class ToRGB(nn.Module):
    """Features to RGB by a modulated 1 x 1 convolution without demodulation, added to the smaller scale's image."""

    def __init__(self, in_channels: int, style_dim: int, layout: Layout, *, upsample: bool = True) -> None:
        super().__init__()
        self.modulated_conv = ModulatedConv2d(in_channels, 3, 1, style_dim, layout)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.upsample = Upsample(layout) if upsample else None

    def forward(self, x: Tensor, style: Tensor, smaller: Tensor | None = None) -> Tensor:
        """(B, C, H, W), (B, D) and RGB (B, 3, H/2, W/2) -> RGB (B, 3, H, W) float32."""
        batch, channels, height, width = x.shape
        scale = self.modulated_conv.input_scale(style)  # (B, C)
        kernel = self.modulated_conv.weight[:, :, 0, 0].float() * scale[:, None]  # (3, C) * (B, 1, C) -> (B, 3, C)
        # Three outputs cost less with each sample's own kernel than a scaled copy of all features would.
        pixels = x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        rgb = torch.bmm(pixels, kernel.transpose(1, 2).to(x.dtype)).view(batch, height, width, 3).permute(0, 3, 1, 2)
        rgb = rgb.float() + self.bias.float()
        if smaller is None or self.upsample is None:
            return rgb
        rgb += self.upsample(smaller)
        return rgb


class StyleNormalization(nn.Module):
    """Normalization of style codes to unit mean square."""

    def forward(self, z: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)


class EqualizedStyleLayer(EqualizedActivatedLinear):
    """A layer of the style network: equalized, with a hundredth of the learning rate, with activation."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, rate=0.01)


class ConstantInput(nn.Module):
    """Learned 4 x 4 features from which every image is generated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, channels, 4, 4))

    def forward(self, batch: int) -> Tensor:
        """Repeat the features: (batch, C, 4, 4), channels-last."""
        return self.weight.expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)


class StyleGAN2Generator(nn.Module):
    """StyleGAN2's generator: a style network from z to w, and a synthesis network from w and noise to an image.

    Args:
        channels: Features at 4, 8, 16, ... up to the image's size.
        style_dim: Length of z and w.
        mlp_layers: Layers of the style network.
        layout: Layout of the weights.
    """

    def __init__(self, channels: Sequence[int], style_dim: int, mlp_layers: int, layout: Layout) -> None:
        super().__init__()
        self.style_dim = style_dim
        self.latent_count = 2 * len(channels)
        self.style_mlp = nn.Sequential(StyleNormalization(), *_style_layers(style_dim, mlp_layers, layout))
        self.constant_input = ConstantInput(channels[0])
        self.style_conv1 = StyleConv(channels[0], channels[0], style_dim, layout)
        self.to_rgb1 = ToRGB(channels[0], style_dim, layout, upsample=False)
        self.style_convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        for smaller, larger in zip(channels[:-1], channels[1:], strict=True):
            self.style_convs.append(StyleConv(smaller, larger, style_dim, layout, upsample=True))
            self.style_convs.append(StyleConv(larger, larger, style_dim, layout))
            self.to_rgbs.append(ToRGB(larger, style_dim, layout))
        self.noise_sizes = [4] + [4 << scale for scale in range(1, len(channels)) for _ in range(2)]
        self.noises = nn.Module()
        for index, size in enumerate(self.noise_sizes):
            self.noises.register_buffer(f"noise{index}", torch.randn(1, 1, size, size))

    @classmethod
    def from_config(cls, config: StyleGAN2Config) -> StyleGAN2Generator:
        """Build a generator with random weights from its sizes."""
        return cls(config.channels, config.style_dim, config.mlp_layers, config.layout)

    def latents(
        self,
        z: Tensor,
        *,
        mixed_z: Tensor | None = None,
        crossover: int | None = None,
        truncation: float = 1.0,
        mean_w: Tensor | None = None,
    ) -> Tensor:
        """Compute the style codes of every layer from Gaussian codes.

        Args:
            z: (B, D).
            mixed_z: (B, D), a second code that is used from layer `crossover` on (style mixing).
            crossover: 1 to latent_count - 1; needed with `mixed_z`.
            truncation: Below 1, moves w toward `mean_w` (less variety, better images).
            mean_w: (1, D), see `mean_latent`; needed with a truncation.

        Returns:
            (B, latent_count, D).

        Raises:
            ValueError: `crossover` or `mean_w` is missing or out of range.
        """
        layers = self._truncated(z, truncation, mean_w)[:, None].expand(-1, self.latent_count, -1)
        if mixed_z is None:
            return layers
        if crossover is None or not 0 < crossover < self.latent_count:
            raise ValueError(f"crossover must be 1 to {self.latent_count - 1}, not {crossover}")
        mixed = self._truncated(mixed_z, truncation, mean_w)[:, None]
        return torch.cat([layers[:, :crossover], mixed.expand(-1, self.latent_count - crossover, -1)], dim=1)

    def mean_latent(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Compute the mean w (1, D) of `count` random codes, drawn on the CPU."""
        z = torch.randn(count, self.style_dim, generator=generator)
        w: Tensor = self.style_mlp(z.to(self.constant_input.weight))
        return w.mean(0, keepdim=True)

    def noise_strengths(self) -> list[nn.Parameter]:
        """Noise strength of each style convolution."""
        return [layer.get_parameter("weight") for layer in (self.style_conv1, *self.style_convs)]

    def stored_noise(self) -> list[Tensor]:
        """Noise stored with the weights: one (1, 1, H, W) per style convolution."""
        return [self.noises.get_buffer(f"noise{index}") for index in range(len(self.noise_sizes))]

    def seeded_noise(self, seeds: Sequence[int]) -> list[Tensor]:
        """Draw noise (B, 1, H, W) for each style convolution; it depends only on the image's seed, on any device."""
        buffer = self.noises.get_buffer("noise0")
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return [
            torch.cat([torch.randn(1, 1, size, size, generator=generator) for generator in generators]).to(buffer)
            for size in self.noise_sizes
        ]

    def forward(
        self,
        latents: Tensor,
        noise: Sequence[Tensor] | None = None,
        modulations: Sequence[Callable[[Tensor], Tensor]] = (),
    ) -> Tensor:
        """Synthesize images.

        Args:
            latents: (B, latent_count, D), see `latents`.
            noise: One (1 or B, 1, H, W) per style convolution; the stored noise by default.
            modulations: Functions of the features at 8, 16, ... between the two convolutions of the scale; each may
                change its argument in place. Scales beyond the last one are not changed.

        Returns:
            RGB (B, 3, S, S) float32, about [-1, 1], not clamped.
        """
        noise = self.stored_noise() if noise is None else noise
        dtype = self.constant_input.weight.dtype
        styles = latents.to(dtype).unbind(1)
        x = self.style_conv1(self.constant_input(latents.shape[0]), styles[0], noise[0])
        rgb: Tensor = self.to_rgb1(x, styles[1])
        for scale, to_rgb in enumerate(self.to_rgbs):
            layer = 2 * scale + 1  # of the first of the scale's two convolutions
            x = self.style_convs[layer - 1](x, styles[layer], noise[layer])
            if scale < len(modulations):
                x = modulations[scale](x)
            x = self.style_convs[layer](x, styles[layer + 1], noise[layer + 1])
            rgb = to_rgb(x, styles[layer + 2], rgb)
        return rgb

    def _truncated(self, z: Tensor, truncation: float, mean_w: Tensor | None) -> Tensor:
        w: Tensor = self.style_mlp(z)
        if truncation == 1.0:
            return w
        if mean_w is None:
            raise ValueError("truncation requires mean_w")
        return torch.lerp(mean_w, w, truncation)


def _modulation(style_dim: int, channels: int, layout: Layout) -> EqualizedLinear | nn.Linear:
    """Linear layer from a style to the scale of each channel; starts around one."""
    if layout == "paper":
        return EqualizedLinear(style_dim, channels, bias_value=1.0)
    layer = nn.Linear(style_dim, channels)
    nn.init.normal_(layer.weight, std=1 / math.sqrt(style_dim))
    nn.init.ones_(layer.bias)
    return layer


def _style_layers(dim: int, count: int, layout: Layout) -> list[nn.Module]:
    """Layers of the style network; both layouts start as the same function."""
    layers: list[nn.Module] = []
    for _ in range(count):
        if layout == "paper":
            layers.append(EqualizedStyleLayer(dim))
            continue
        linear = nn.Linear(dim, dim)
        nn.init.normal_(linear.weight, std=ACTIVATION_GAIN / math.sqrt(dim))
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.LeakyReLU(LEAK)]
    return layers
