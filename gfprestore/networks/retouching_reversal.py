"""Parts of a network that reverses retouching: backward warp, warp head, level gate, residual around the warped face.

Not in the paper of FRRffusion (Applied Soft Computing 2025), whose network paints the whole face. The U-Net of
`diffusion_unet` uses them as options: a backward field moves back what the retouching moved, and the network only adds
what is left. The preconditioning of the residual follows EDM (Karras et al., NeurIPS 2022, section 5).

Images are (B, 3, H, W) float RGB in [-1, 1]. Levels are (B, 6) in [0, 1], in the order of `OPERATIONS`. A field is
(B, 2, h, w): for every place of the result, how far to the right and down to look in the retouched image, in pixels of
that image. Pure torch: opens no file, chooses no device.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfprestore.networks.gaussian_diffusion import Table, value_at

WARPING = slice(2, 5)
"""The operations that move pixels: eyes, slim, shrink."""

FULL_GATE_LEVEL = 0.2
"""From this level on the network's changes count in full."""

BASIS_FIELD_SCALE = 1 / 64
"""An output of 1 moves by this share of the image's side at level 1: 4 pixels of 256."""

FREE_FIELD_LIMIT = 1 / 256
"""Largest shift by the free field, as a share of the image's side: 1 pixel of 256."""

PLAIN_FIELD_SCALE = 1 / 128
"""The same for a network without levels: 2 pixels of 256."""


def level_gate(levels: Tensor) -> Tensor:
    """Factor on everything that a network changes: min(1, highest level / 0.2). 0 leaves a face as it is.

    Args:
        levels: (B, 6).

    Returns:
        (B, 1, 1, 1) float32.
    """
    return (levels.float().amax(1) / FULL_GATE_LEVEL).clamp(0, 1).view(-1, 1, 1, 1)


def coordinates(height: int, width: int, like: Tensor) -> Tensor:
    """Coordinate channels: x and y from -1 to 1 across the image, and the distance from its center.

    Args:
        height: Rows.
        width: Columns.
        like: Tensor whose batch size, dtype and device the result gets.

    Returns:
        (B, 3, height, width).
    """
    y = torch.linspace(-1, 1, height, device=like.device).view(-1, 1).expand(height, width)
    x = torch.linspace(-1, 1, width, device=like.device).view(1, -1).expand(height, width)
    channels = torch.stack([x, y, torch.hypot(x, y)]).to(like.dtype)
    return channels.expand(len(like), -1, -1, -1)


def warp(image: Tensor, field: Tensor) -> Tensor:
    """Resamples an image along a backward field; mirrored at the borders.

    Bicubic without gradients. Bilinear with gradients, whose derivative is cheaper and smoother.

    Args:
        image: (B, 3, H, W).
        field: (B, 2, h, w) in pixels of the image. A coarser one is enlarged bilinearly.

    Returns:
        (B, 3, H, W) float32.
    """
    height, width = image.shape[-2:]
    field = field.float()
    if field.shape[-2:] != image.shape[-2:]:
        field = F.interpolate(field, size=(height, width), mode="bilinear", align_corners=False)
    x = torch.arange(width, device=image.device) + 0.5
    y = (torch.arange(height, device=image.device) + 0.5).view(-1, 1)
    grid = torch.stack([(x + field[:, 0]) * (2 / width) - 1, (y + field[:, 1]) * (2 / height) - 1], -1)  # (B, H, W, 2)
    mode = "bilinear" if torch.is_grad_enabled() else "bicubic"
    return F.grid_sample(image.float(), grid, mode=mode, padding_mode="reflection", align_corners=False)


class WarpHead(nn.Module):
    """Predicts the backward field from a network's last features; starts at no shift.

    With levels the field is the sum of one basis field per warping operation, each times its level, and of a free field
    of at most 1 pixel in 256, times the level gate. So it vanishes where all levels are 0.

    Args:
        channels: Of the features.
        size: Side of the images in pixels.
        levels: Whether levels are given; without them the field is predicted as a whole.
    """

    def __init__(self, channels: int, size: int, *, levels: bool) -> None:
        super().__init__()
        self.size = size
        self.levels = levels
        self.conv = nn.Conv2d(channels, 8 if levels else 2, 3, padding=1)
        nn.init.zeros_(self.conv.weight)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, features: Tensor, levels: Tensor | None = None) -> Tensor:
        """Predicts the field.

        Args:
            features: (B, C, h, w).
            levels: (B, 6), where the head takes levels.

        Returns:
            (B, 2, h, w) float32, in pixels of the image.
        """
        output: Tensor = self.conv(features).float()
        if levels is None:
            assert not self.levels
            return output * (self.size * PLAIN_FIELD_SCALE)
        *basis, free = output.chunk(4, 1)  # 4 x (B, 2, h, w)
        shares = levels.float()[:, WARPING].view(len(levels), -1, 1, 1, 1)
        field = (torch.stack(basis, 1) * shares).sum(1) * (self.size * BASIS_FIELD_SCALE)
        return field + torch.tanh(free) * (self.size * FREE_FIELD_LIMIT) * level_gate(levels)


class ResidualPreconditioning:
    """Combines a base image, x_t and a network's output into an estimate of x0.

    If x0 is normal around the base with standard deviation `prior_std`, then x_t alone determines a best estimate. The
    network's output is added to that estimate, in full at high timesteps and less where x_t already shows x0.

    Args:
        alphas_cumprod: (T,) alpha-bar of the schedule.
        prior_std: Of x0 around the base, in [-1, 1]. With 0 the output is added to the base as it is.
    """

    def __init__(self, alphas_cumprod: Table, prior_std: float) -> None:
        spread = prior_std**2 * alphas_cumprod + 1 - alphas_cumprod
        self.signal: Table = np.sqrt(alphas_cumprod)
        self.from_noisy: Table = prior_std**2 * self.signal / spread
        self.from_output: Table = (
            np.sqrt((1 - alphas_cumprod) / spread) if prior_std > 0 else np.ones_like(alphas_cumprod)
        )

    def __call__(
        self, base: Tensor, x: Tensor, output: Tensor, timesteps: Tensor, gate: Tensor | None = None
    ) -> Tensor:
        """Estimates x0.

        Args:
            base: (B, 3, H, W) float32.
            x: x_t, of the same shape.
            output: Of the network, of the same shape.
            timesteps: (B,).
            gate: (B, 1, 1, 1) factor on all that is added to the base.

        Returns:
            (B, 3, H, W) float32.
        """
        noisy = x - value_at(self.signal, timesteps, x) * base
        added = value_at(self.from_noisy, timesteps, x) * noisy + value_at(self.from_output, timesteps, x) * output
        return base + (added if gate is None else gate * added)
