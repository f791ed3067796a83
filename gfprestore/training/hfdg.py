"""The recipe of FRRffusion's second stage, HFDG: HAT (Chen et al., CVPR 2023) enlarges faces by 4, with an L1 loss.

Images are RGB in [-1, 1]: the lq (B, 3, S / 4, S / 4), the gt (B, 3, S, S).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gfprestore.networks.frrffusion import FRRffusion, FRRffusionConfig
from gfprestore.networks.hat import HAT
from gfprestore.training.frrffusion import FRRffusionRecipe
from gfprestore.training.recipe import Batch


class HfdgRecipe(FRRffusionRecipe):
    """Training of the transformer."""

    def build(self, network: FRRffusionConfig) -> FRRffusion:
        """See `FRRffusionRecipe.build`."""
        assert network.hfdg is not None
        module = FRRffusion(network)
        module.hfdg = HAT(network.hfdg, drop_path=self.reversal.drop_path)
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
