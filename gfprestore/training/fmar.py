"""The recipe of FRRffusion's first stage, FMAR: a diffusion model conditioned on the retouched face.

The authors' code trains on the mean squared error of the predicted noise. Beyond the paper, the network may predict x0
around the warped retouched face; its field is then trained on the true one, and a level estimator is trained with it.
Images are (B, 3, H, W) RGB in [-1, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gfprestore.data.face_dataset import Sample
from gfprestore.networks.configs import FRRffusionConfig
from gfprestore.networks.diffusion_unet import DiffusionUNet
from gfprestore.networks.frrffusion import FRRffusion
from gfprestore.networks.gaussian_diffusion import GaussianDiffusion, value_at
from gfprestore.training.frrffusion import FRRffusionRecipe
from gfprestore.training.recipe import Batch

EARLY_TIMESTEPS = 0.4
"""Share of the timesteps that count as early, see `Reversal.early_share`."""

LARGEST_WEIGHT = 4.0
"""Largest weight of the L1 loss of x0."""

SAMPLE_STEPS = 10
"""DDIM steps of the sample images."""


class FmarRecipe(FRRffusionRecipe):
    """Training of the diffusion model, and of the level estimator if the preset has one."""

    def build(self, network: FRRffusionConfig) -> FRRffusion:
        """See `FRRffusionRecipe.build`."""
        return FRRffusion(network)

    def add_optimizers(self) -> None:
        """See `FRRffusionRecipe.add_optimizers`."""
        if self.module.fmar is not None:
            groups = [(list(self.module.fmar.parameters()), self.preset.learning_rate)]
            self.optimizers.add("fmar", groups, self.preset.betas, self.reversal.weight_decay)
        if self.module.level_estimator is not None:
            groups = [(list(self.module.level_estimator.parameters()), self.reversal.estimator_learning_rate)]
            self.optimizers.add("level_estimator", groups, self.preset.betas, self.reversal.estimator_weight_decay)

    def losses_of(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """`reconstruction` of the noise or of x0, `field` in pixels, `levels` as mean squared error; and the sum."""
        losses: dict[str, Tensor] = {}
        total = torch.zeros((), device=self.device)
        if self.module.fmar is not None:
            losses, total = self._diffusion_losses(self.module.fmar, batch.sample)
        if self.module.level_estimator is not None:
            assert batch.sample.levels is not None
            losses["levels"] = F.mse_loss(
                self.module.level_estimator(batch.sample.lq, clamp=False), batch.sample.levels
            )
            total = total + losses["levels"]
        return losses, total

    def _diffusion_losses(self, fmar: DiffusionUNet, sample: Sample) -> tuple[dict[str, Tensor], Tensor]:
        """Losses of the diffusion model by name, and their sum."""
        config = fmar.config
        diffusion = config.diffusion()
        timesteps = self._timesteps(len(sample.gt), config.timesteps)
        noise = torch.randn(sample.gt.shape, device=self.device)  # much slower for channels-last tensors
        noisy = diffusion.q_sample(sample.gt, timesteps, noise)
        inputs = torch.cat([noisy, sample.lq], 1)
        levels = sample.levels if config.levels else None
        output, field = (
            fmar(inputs, timesteps, levels, return_field=True)
            if config.warp
            else (fmar(inputs, timesteps, levels), None)
        )
        target = noise if config.prediction == "epsilon" else sample.gt
        if self.reversal.loss == "mse":
            reconstruction = F.mse_loss(output, target)
        else:
            weights = _l1_weights(diffusion, config.prior_std, timesteps, output)
            reconstruction = (weights * (output - target).abs()).mean()
        losses = {"reconstruction": reconstruction}
        total = reconstruction
        if field is not None and sample.field is not None:
            losses["field"] = F.l1_loss(field, sample.field)
            total = total + self.reversal.field_weight * losses["field"]
        return losses, total

    def _timesteps(self, count: int, timesteps: int) -> Tensor:
        """Random timesteps (B,)."""
        if self.reversal.early_share is None:
            return torch.randint(0, timesteps, (count,), device=self.device)
        border = max(1, round(EARLY_TIMESTEPS * timesteps))
        early = torch.randint(0, border, (count,), device=self.device)
        late = torch.randint(min(border, timesteps - 1), timesteps, (count,), device=self.device)
        return torch.where(torch.rand(count, device=self.device) < self.reversal.early_share, early, late)

    @torch.no_grad()
    def images(self, batch: Batch) -> list[Tensor]:
        """The retouched face, the moving average's reversal, and the original."""
        fmar = self.average.fmar
        if fmar is None:
            return [batch.sample.lq, batch.sample.gt]
        levels = batch.sample.levels if fmar.config.levels else None
        diffusion = fmar.config.diffusion()
        with self.optimizers.autocast():
            sampled = diffusion.sample_ddim(
                fmar.denoiser(batch.sample.lq, levels),
                torch.randn_like(batch.sample.lq),
                diffusion.spaced_timesteps(min(SAMPLE_STEPS, diffusion.timesteps)),
            )
        return [batch.sample.lq, sampled.float(), batch.sample.gt]


def _l1_weights(diffusion: GaussianDiffusion, prior_std: float, timesteps: Tensor, like: Tensor) -> Tensor | float:
    """Weights (B, 1, 1, 1) of the L1 loss of x0: higher where the noisy image shows more of it."""
    alphas = diffusion.alphas_cumprod
    gain = (prior_std**2 * alphas + 1 - alphas) / (1 - alphas)
    return value_at((gain**0.5).clip(max=LARGEST_WEIGHT), timesteps, like)
