"""Discriminators for training GFP-GAN: StyleGAN2's for faces, and a small one each for eyes and mouth.

StyleGAN2's residual discriminator (Karras et al., CVPR 2020, section 4) with the minibatch standard deviation of
progressive growing; the local discriminators of Wang et al., CVPR 2021, section 3.5. Tensors have the official names.

Images are (B, 3, H, W) float RGB in [-1, 1]; fastest in channels-last. All can be differentiated twice, as R1 requires.
Pure torch: opens no file, chooses no device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import torch
from torch import Tensor, nn

from gfprestore.networks.layers import (
    EqualizedActivatedLinear,
    EqualizedConv2d,
    EqualizedDownBlock,
    EqualizedLinear,
    activated_convolution,
    activated_down_convolution,
)

STDDEV_GROUP = 4
STDDEV_EPSILON = 1e-8


class StyleGAN2Discriminator(nn.Module):
    """StyleGAN2's discriminator of real and generated faces.

    Args:
        channels: Features at 4, 8, 16, ... up to the image's size, as in the generator.

    Raises:
        ValueError: The channels do not lead to a size of 8 or more.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"channels must have at least two numbers, for 4, 8 and so on, not {tuple(channels)}")
        self.size = 2 << len(channels)
        falling = list(reversed(channels))
        self.conv_body = nn.Sequential(
            activated_convolution(3, falling[0], 1),
            *(EqualizedDownBlock(larger, smaller) for larger, smaller in zip(falling[:-1], falling[1:], strict=True)),
        )
        self.final_conv = activated_convolution(channels[0] + 1, channels[0], 3)
        self.final_linear = nn.Sequential(
            EqualizedActivatedLinear(channels[0] * 16, channels[0]),
            EqualizedLinear(channels[0], 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Score how real each image looks.

        Args:
            images: (B, 3, S, S). The images of a batch are compared with each other, see `minibatch_stddev`.

        Returns:
            Logits (B, 1) float32; higher is more real.
        """
        x = self.conv_body(images).float()  # (B, C, 4, 4)
        with torch.autocast(x.device.type, enabled=False):
            x = self.final_conv(torch.cat([x, minibatch_stddev(x)], dim=1))
            logits: Tensor = self.final_linear(x.flatten(1))  # in the order (C, H, W), for any memory format
        return logits


class FacialComponentDiscriminator(nn.Module):
    """Patch discriminator of real and restored facial components, with one output per position.

    Args:
        width: Features at full size; 64 in the paper's networks.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv1 = activated_convolution(3, width, 3)
        self.conv2 = activated_down_convolution(width, 2 * width)
        self.conv3 = activated_convolution(2 * width, 2 * width, 3)
        self.conv4 = activated_down_convolution(2 * width, 4 * width)
        self.conv5 = activated_convolution(4 * width, 4 * width, 3)
        self.final_conv = nn.Sequential(EqualizedConv2d(4 * width, 1, 3, bias_value=0.0))

    @overload
    def forward(self, patches: Tensor, *, with_features: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, patches: Tensor, *, with_features: Literal[True]) -> tuple[Tensor, list[Tensor]]: ...

    def forward(self, patches: Tensor, *, with_features: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Score how real each patch looks.

        Args:
            patches: (B, 3, P, P); B may be 0.
            with_features: Also return the features for the style loss.

        Returns:
            Logits (B, 1, P/4, P/4); higher is more real. With `with_features` also the features at half size,
            (B, 2 width, P/2, P/2), and at quarter size, (B, 4 width, P/4, P/4).
        """
        half: Tensor = self.conv3(self.conv2(self.conv1(patches)))
        quarter: Tensor = self.conv5(self.conv4(half))
        logits: Tensor = self.final_conv(quarter)
        return (logits, [half, quarter]) if with_features else logits


def minibatch_stddev(x: Tensor, group: int = STDDEV_GROUP) -> Tensor:
    """Compute one number per group of images: their mean standard deviation, repeated for all images and positions.

    Groups have the same size, as large as the batch allows, up to `group` images.

    Args:
        x: (B, C, H, W).
        group: Maximum number of images per group.

    Returns:
        (B, 1, H, W).
    """
    batch, _, height, width = x.shape
    size = next(count for count in range(min(group, batch), 0, -1) if batch % count == 0)
    groups = x.reshape(size, batch // size, -1)  # (B, C, H, W) -> (G, B/G, CHW): image i is of group i mod B/G
    stddev = (groups.var(0, unbiased=False) + STDDEV_EPSILON).sqrt().mean(1)  # (B/G,)
    return stddev.repeat(size).view(batch, 1, 1, 1).expand(batch, 1, height, width)
