"""Update of the StyleGAN2 discriminator, shared by the prior and the restoration stage.

Logistic loss with lazy R1 regularization (Karras et al., CVPR 2020, section 3.1): the penalty is computed once every
`r1_every` steps, and Adam's settings are corrected for it. Pure torch: opens no file, chooses no device.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from gfprestore.training.losses import discriminator_adversarial_loss, r1_penalty
from gfprestore.training.optimizers import Optimizers
from gfprestore.training.presets import Preset
from gfprestore.training.recipe import MeanLosses

DISCRIMINATOR = "discriminator"
"""Name of the discriminator's optimizer and of its loss."""


def lazy_factor(interval: int) -> float:
    """Correction of Adam's learning rate and betas for a penalty that is computed every `interval` steps."""
    return interval / (interval + 1)


def add_discriminator_optimizer(optimizers: Optimizers, discriminator: nn.Module, preset: Preset) -> None:
    """Add the optimizer of the discriminator, corrected for the lazy R1 penalty."""
    lazy = lazy_factor(preset.r1_every)
    groups = [(list(discriminator.parameters()), preset.discriminator_learning_rate * lazy)]
    optimizers.add(DISCRIMINATOR, groups, (0.0, 0.99**lazy))


def update_discriminator(
    discriminator: nn.Module,
    pairs: Iterable[tuple[Tensor, Tensor]],
    optimizers: Optimizers,
    preset: Preset,
    step: int,
    factor: float,
    mean_losses: MeanLosses,
) -> float | None:
    """Run one update of the discriminator.

    Args:
        discriminator: The discriminator.
        pairs: Real and generated images (B, 3, S, S) of each part of the step, without gradient.
        optimizers: The optimizers of the recipe.
        preset: Weight and interval of the R1 penalty.
        step: Number of the step; the first is 1.
        factor: Factor on the learning rate.
        mean_losses: Receives the loss.

    Returns:
        The mean R1 penalty; None in steps without it.
    """
    is_penalized = step % preset.r1_every == 0
    optimizers.clear(DISCRIMINATOR)
    penalties = []
    for real_images, generated in pairs:
        with optimizers.autocast():
            fake_logits = discriminator(generated)
        real = real_images.detach().requires_grad_(is_penalized)
        with optimizers.autocast(enabled=not is_penalized):  # the squared gradient overflows half precision
            real_logits = discriminator(real)
        loss = discriminator_adversarial_loss(real_logits, fake_logits)
        mean_losses.add(DISCRIMINATOR, loss)
        if is_penalized:
            penalty = r1_penalty(real, real_logits)
            penalties.append(penalty)
            loss = loss + preset.r1_gamma / 2 * preset.r1_every * penalty
        optimizers.backward(loss / mean_losses.parts)
    optimizers.apply(DISCRIMINATOR, factor)
    return optimizers.mean(penalties) if is_penalized else None
