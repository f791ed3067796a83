"""Shared layers, mostly of StyleGAN2 (Karras et al., CVPR 2020): equalized weights, FIR filter, activation.

Tensors are (B, C, H, W) float, fastest in channels-last. All are twice differentiable, as R1 and path length require.
Pure torch: opens no file, chooses no device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAK = 0.2
ACTIVATION_GAIN = math.sqrt(2)

LUMA = (0.299, 0.587, 0.114)
"""Luma weights of red, green and blue (ITU-R BT.601)."""


def luma(images: Tensor, weights: tuple[float, float, float] = LUMA) -> Tensor:
    """Convert RGB images (B, 3, H, W) to luma (B, 1, H, W), or to gray with other `weights` of red, green and blue."""
    return (images * torch.tensor(weights, device=images.device).view(3, 1, 1)).sum(1, keepdim=True)


def stored_number(state: Mapping[str, Tensor], name: str) -> float:
    """Read a number that is stored in the weights in addition to the layers; 0 if it is missing.

    Raises:
        ValueError: It is not a single finite number.
    """
    tensor = state.get(name)
    if tensor is None:
        return 0.0
    if tensor.numel() != 1 or not math.isfinite(tensor.item()):
        raise ValueError(f"{name} must be a single finite number")
    return float(tensor.item())


def box_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over the square of `radius` pixels around each position, clipped to x: the same shape as x, (B, C, H, W)."""
    side = 2 * radius + 1
    rows = F.avg_pool2d(x, (side, 1), 1, (radius, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), 1, (0, radius), count_include_pad=False)


class EqualizedLinear(nn.Module):
    """A linear layer whose weights are scaled at run time, so that all layers learn alike (StyleGAN2, sec. 2)."""

    def __init__(self, in_features: int, out_features: int, *, bias_value: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.rate = rate
        self.gain = rate / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / rate)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_value)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_features) -> (B, out_features)."""
        return F.linear(x * self.gain, self.weight, self.bias * self.rate)


class EqualizedActivatedLinear(EqualizedLinear):
    """A linear layer with its bias, then leaky ReLU times sqrt(2)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_features) -> (B, out_features)."""
        return F.leaky_relu_(super().forward(x) * ACTIVATION_GAIN, LEAK)


class EqualizedConv2d(nn.Module):
    """A convolution whose weights are scaled at run time by 1 / sqrt(fan in)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        bias_value: float | None = None,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = kernel_size // 2 if padding is None else padding
        self.gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = None if bias_value is None else nn.Parameter(torch.full((out_channels,), float(bias_value)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        return F.conv2d(x, self.weight * self.gain, self.bias, stride=self.stride, padding=self.padding)


class ScaledLeakyReLU(nn.Module):
    """Leaky ReLU times sqrt(2), which keeps the variance."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return F.leaky_relu_(x * ACTIVATION_GAIN, LEAK)


class BiasedActivation(nn.Module):
    """Bias, then leaky ReLU times sqrt(2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return F.leaky_relu_((x + self.bias.view(1, -1, 1, 1)).mul_(ACTIVATION_GAIN), LEAK)


class FirFilter(nn.Module):
    """Smoothing of every channel with the separable kernel [1, 3, 3, 1], zero padding and a stride."""

    kernel: Tensor

    def __init__(self, *, gain: float = 1.0, padding: int = 0, stride: int = 1) -> None:
        super().__init__()
        self.padding = padding
        self.stride = stride
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", (gain * torch.outer(taps, taps)).view(1, 1, 4, 4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W') with H' = (H + 2 padding - 4) // stride + 1."""
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, 4, 4)
        with torch.autocast(x.device.type, enabled=False):  # images stay float32
            return F.conv2d(x, kernel, stride=self.stride, padding=self.padding, groups=channels)


def activated_convolution(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Equalized convolution, bias, activation: (B, in, H, W) -> (B, out, H, W)."""
    return nn.Sequential(EqualizedConv2d(in_channels, out_channels, kernel_size), BiasedActivation(out_channels))


def activated_down_convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    """Smoothing, equalized 3 x 3 convolution of stride 2, bias, activation: (B, in, H, W) -> (B, out, H/2, W/2)."""
    return nn.Sequential(
        FirFilter(padding=2),
        EqualizedConv2d(in_channels, out_channels, 3, stride=2, padding=0),
        BiasedActivation(out_channels),
    )


class EqualizedDownBlock(nn.Module):
    """Residual block to half the size with FIR resampling, for the discriminator and the U-Net of GFP-GAN's paper."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = activated_convolution(in_channels, in_channels, 3)
        self.conv2 = activated_down_convolution(in_channels, out_channels)
        self.skip = nn.Sequential(FirFilter(padding=1, stride=2), EqualizedConv2d(in_channels, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/2, W/2)."""
        inner: Tensor = self.conv2(self.conv1(x))
        skip: Tensor = self.skip(x)
        return (inner + skip).div_(math.sqrt(2))
