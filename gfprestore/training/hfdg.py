"""The recipe of FRRffusion's second stage, HFDG: HAT (Chen et al., CVPR 2023) enlarges faces by 4, with an L1 loss.

Images are RGB in [-1, 1]: the lq (B, 3, S / 4, S / 4), the gt (B, 3, S, S).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfprestore.networks.configs import FRRffusionConfig
from gfprestore.networks.frrffusion import FRRffusion
from gfprestore.networks.hat import HAT
from gfprestore.training.frrffusion import FRRffusionRecipe
from gfprestore.training.recipe import Batch

MIXING = 0.1
"""Initial share of the random weights where `initialize_enlarging` sets others beside them."""


class HfdgRecipe(FRRffusionRecipe):
    """Training of the transformer."""

    def build(self, network: FRRffusionConfig) -> FRRffusion:
        """See `FRRffusionRecipe.build`."""
        assert network.hfdg is not None
        module = FRRffusion(network)
        module.hfdg = HAT(network.hfdg, drop_path=self.reversal.drop_path)
        if self.reversal.starts_enlarging:
            initialize_enlarging(module.hfdg)
        return module

    def add_optimizers(self) -> None:
        """See `FRRffusionRecipe.add_optimizers`."""
        groups = [(list(self.module.parameters()), self.preset.learning_rate)]
        self.optimizers.add("hfdg", groups, self.preset.betas, self.reversal.weight_decay)

    def losses_of(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """`reconstruction`: the mean absolute error."""
        assert self.module.hfdg is not None
        loss = F.l1_loss(self.module.hfdg(batch.sample.lq), batch.sample.gt)
        return {"reconstruction": loss}, loss

    @torch.no_grad()
    def images(self, batch: Batch) -> list[Tensor]:
        """The patch enlarged bicubically, by the moving average, and the original."""
        assert self.average.hfdg is not None
        resampled = F.interpolate(batch.sample.lq, size=batch.sample.gt.shape[-2:], mode="bicubic")
        with self.optimizers.autocast():
            enlarged = self.average.hfdg(batch.sample.lq)
        return [resampled.clamp(-1, 1), enlarged.float().clamp(-1, 1), batch.sample.gt]


def initialize_enlarging(hat: HAT) -> None:
    """Set initial weights with which a HAT enlarges bilinearly, so that it only has to learn the detail.

    From the usual random weights a small HAT needs most of a short training to pass the colors through. Here some
    channels carry the colors of a pixel. They appear with both signs after the only activation, whose slopes then
    cancel out, and each doubling interpolates between neighbors. The other channels keep their random weights; they
    count little at first.

    Args:
        hat: A HAT that enlarges by a power of two and has 6 features or more.
    """
    slope = 0.01  # of the leaky ReLU
    before, last = hat.conv_before_upsample[0], hat.conv_last
    assert isinstance(before, nn.Conv2d)
    with torch.no_grad():
        for convolution in (hat.conv_first, hat.conv_after_body, before, last):
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
        hat.conv_after_body.weight *= MIXING
        hat.conv_after_body.weight[:3] = 0
        hat.conv_first.weight[:3] = 0
        before.weight[:6] = 0
        last.weight *= MIXING
        last.weight[:, :6] = 0
        for color in range(3):
            hat.conv_first.weight[color, color, 1, 1] = 1
            before.weight[color, color, 1, 1] = 1
            before.weight[color + 3, color, 1, 1] = -1
            last.weight[color, color, 1, 1] = 1 / (1 + slope)
            last.weight[color, color + 3, 1, 1] = -1 / (1 + slope)
        for layer in hat.upsample:
            if isinstance(layer, nn.Conv2d):
                _interpolate(layer, 6)


def _interpolate(convolution: nn.Conv2d, channels: int) -> None:
    """Make the first channels of a convolution before a pixel shuffle by 2 interpolate bilinearly."""
    near, far = 0.75, 0.25
    sides = torch.tensor([[far, near, 0.0], [0.0, near, far]])  # of the first and the second of two new pixels
    assert convolution.bias is not None
    for channel in range(channels):
        rows = slice(4 * channel, 4 * channel + 4)
        convolution.weight[rows] = 0
        convolution.bias[rows] = 0
        kernels = torch.einsum("iy,jx->ijyx", sides, sides).reshape(4, 3, 3)
        convolution.weight[rows, channel] = kernels
