"""The recipe of the prior stage: StyleGAN2 (Karras et al., CVPR 2020) on the same faces.

Logistic loss, lazy R1 and path length penalties, style mixing. Tensors have the official names. The exported file
serves as `--weights` of the restoration stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gfprestore.networks.discriminators import StyleGAN2Discriminator
from gfprestore.networks.stylegan2 import StyleGAN2Generator
from gfprestore.training.adversarial import add_discriminator_optimizer, lazy_factor, update_discriminator
from gfprestore.training.config import TrainConfig
from gfprestore.training.distributed import World
from gfprestore.training.initial_weights import (
    DISCRIMINATOR_NAME,
    InitialWeights,
    disable_noise,
    load_discriminator,
    load_prior,
)
from gfprestore.training.losses import generator_adversarial_loss, path_length_penalty
from gfprestore.training.optimizers import (
    Optimizers,
    all_finite,
    frozen,
    initialize_average,
    move_to_device,
    update_average,
)
from gfprestore.training.recipe import Batch, MeanLosses
from gfprestore.training.requirements import PRIOR_NAME
from gfprestore.training.training_state import Sizes, weights_metadata, write_weights

PATH_BATCH_SHRINK = 2
"""Factor by which the batch of the path length penalty is smaller."""

STYLE_LEARNING_RATE_FACTOR = 0.01
"""Factor on the learning rate of the style network; the layout of the paper has it in the weights instead."""

SAMPLE_COLUMNS = 4
"""Columns of generated faces in the sample image."""


class PriorRecipe:
    """Training of StyleGAN2's generator against its discriminator.

    Args:
        config: Configuration of the training.
        initial_weights: Initial weights: a prior of the same or a smaller size, or none.
        device: Device of the computation.
        dtype: Precision of the computation; the weights are float32.
        world: The processes that train together.

    Raises:
        WeightsMismatchError: The initial weights do not fit the networks.
    """

    def __init__(
        self,
        config: TrainConfig,
        initial_weights: InitialWeights,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        world: World | None = None,
    ) -> None:
        self.config = config
        self.preset = config.preset
        self.device = device
        self.network = initial_weights.network
        torch.manual_seed(config.seed)  # for the random initial weights
        self.generator = self._make_generator()
        if initial_weights.kind != "nothing":
            load_prior(self.generator, initial_weights)
        if not self.preset.decoder_noise:
            disable_noise(self.generator)
        self.discriminator = StyleGAN2Discriminator(self.preset.discriminator_channels())
        load_discriminator(self.discriminator, initial_weights)
        for module in (self.generator, self.discriminator):
            move_to_device(module, device)
        self.average = self._make_generator()
        initialize_average(self.average, self.generator, device)
        self.mean_path_length = torch.zeros((), device=device)
        self.optimizers = self._make_optimizers(dtype, world or World())
        self.last_penalties: dict[str, float] = {"r1": 0.0, "path": 0.0}

    def step(self, batches: Sequence[Batch], step: int, learning_rate_scale: float) -> dict[str, Tensor]:
        """See `Recipe.step`."""
        mean_losses = MeanLosses(len(batches))
        factor = self.preset.learning_rate_factor(step) * learning_rate_scale
        self._update_discriminator(batches, step, factor, mean_losses)
        if step > self.preset.discriminator_warmup:
            self._update_generator(batches, step, factor, mean_losses)
            update_average(self.average, self.generator, step, self.preset.ema_half_life)
        self.optimizers.finish()
        penalties = {name: torch.tensor(value, device=self.device) for name, value in self.last_penalties.items()}
        return mean_losses.values | penalties

    def losses_of(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of the generator by name, for as many generated images as the batch has."""
        fakes, _ = self._generate(self.generator, _derived_seeds(batch.seeds, 2), self.preset.mixing)
        return {"adversarial": generator_adversarial_loss(self.discriminator(fakes))}

    def state(self) -> dict[str, Any]:
        """See `Recipe.state`."""
        return {
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "updates": self.optimizers.state(),
            "mean_path_length": self.mean_path_length,
            "last": self.last_penalties,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Recipe.load_state`."""
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizers.load_state(state["updates"])
        self.mean_path_length = state["mean_path_length"].to(self.device)
        self.last_penalties = {name: float(value) for name, value in state["last"].items()}

    def sizes(self) -> Sizes:
        """See `Recipe.sizes`."""
        return {
            "stage": "prior",
            "layout": self.network.layout,
            "size": self.network.size,
            "channels": list(self.network.channels),
            "style_dim": self.network.style_dim,
            "mlp_layers": self.network.mlp_layers,
            "decoder_noise": self.preset.decoder_noise,
        }

    def is_finite(self) -> bool:
        """See `Recipe.is_finite`."""
        return all_finite(self.generator, self.discriminator)

    def learning_rate(self) -> float:
        """See `Recipe.learning_rate`."""
        return self.optimizers.learning_rate("generator")

    def images(self, batch: Batch) -> list[Tensor]:
        """Faces generated by the moving average, and a column of real ones."""
        columns = []
        for column in range(SAMPLE_COLUMNS):
            seeds = [seed + column for seed in batch.seeds]
            with torch.no_grad(), self.optimizers.autocast():
                columns.append(self._generate(self.average, seeds, mixing=0.0)[0])
        return [*columns, batch.sample.gt]

    def export(self, folder: Path, step: int) -> Path:
        """Write the moving average as `prior.safetensors`, for `--weights`, and the discriminator beside it."""
        path = folder / PRIOR_NAME
        metadata = weights_metadata("stylegan2", self.sizes(), self.config.preset_name, step)
        write_weights(self.average.state_dict(), metadata, path)
        header = {**metadata, "network": "stylegan2-discriminator"}
        write_weights(self.discriminator.state_dict(), header, folder / DISCRIMINATOR_NAME)
        return path

    def _make_generator(self) -> StyleGAN2Generator:
        sizes = self.network
        return StyleGAN2Generator(sizes.channels, sizes.style_dim, sizes.mlp_layers, sizes.layout)

    def _make_optimizers(self, dtype: torch.dtype, world: World) -> Optimizers:
        preset = self.preset
        optimizers = Optimizers(self.device, dtype, world)
        style = list(self.generator.style_mlp.parameters())
        synthesis = [
            parameter
            for name, parameter in self.generator.named_parameters()
            if parameter.requires_grad and not name.startswith("style_mlp.")
        ]
        lazy = lazy_factor(preset.path_every) if preset.path_weight > 0 else 1.0
        rate = preset.learning_rate * lazy
        style_rate = rate * (STYLE_LEARNING_RATE_FACTOR if self.network.layout == "clean" else 1.0)
        optimizers.add("generator", [(synthesis, rate), (style, style_rate)], (0.0, 0.99**lazy))
        add_discriminator_optimizer(optimizers, self.discriminator, preset)
        return optimizers

    def _generate(self, generator: StyleGAN2Generator, seeds: Sequence[int], mixing: float) -> tuple[Tensor, Tensor]:
        """Generate images (B, 3, S, S) and their style codes (B, L, D); each image depends only on its seed."""
        codes, mixed_codes, crossovers = [], [], []
        for seed in seeds:
            random = torch.Generator().manual_seed(seed)
            codes.append(torch.randn(generator.style_dim, generator=random))
            mixed_codes.append(torch.randn(generator.style_dim, generator=random))
            mixes = torch.rand((), generator=random).double() < mixing
            place = torch.randint(1, generator.latent_count, (), generator=random)
            crossovers.append(torch.where(mixes, place, generator.latent_count))
        first = generator.latents(torch.stack(codes).to(self.device))
        second = generator.latents(torch.stack(mixed_codes).to(self.device)) if mixing > 0 else first
        layers = torch.arange(generator.latent_count, device=self.device)
        takes_second = layers[None, :, None] >= torch.stack(crossovers).to(self.device)[:, None, None]
        latents = torch.where(takes_second, second, first)
        return generator(latents, generator.seeded_noise(seeds)), latents

    def _update_discriminator(
        self, batches: Sequence[Batch], step: int, factor: float, mean_losses: MeanLosses
    ) -> None:
        pairs = ((batch.sample.gt, self._fakes(batch)) for batch in batches)
        r1 = update_discriminator(self.discriminator, pairs, self.optimizers, self.preset, step, factor, mean_losses)
        if r1 is not None:
            self.last_penalties["r1"] = r1

    def _fakes(self, batch: Batch) -> Tensor:
        """Generated images (B, 3, S, S) for the discriminator, without gradient."""
        with torch.no_grad(), self.optimizers.autocast():
            fakes, _ = self._generate(self.generator, _derived_seeds(batch.seeds, 1), self.preset.mixing)
        return fakes

    def _update_generator(self, batches: Sequence[Batch], step: int, factor: float, mean_losses: MeanLosses) -> None:
        self.optimizers.clear("generator")
        with frozen(self.discriminator):
            for batch in batches:
                with self.optimizers.autocast():
                    loss = self.losses_of(batch)["adversarial"]
                mean_losses.add("adversarial", loss)
                self.optimizers.backward(loss / mean_losses.parts)
        if self.preset.path_weight > 0 and step % self.preset.path_every == 0:
            self._add_path_length_penalty(batches, mean_losses)
        self.optimizers.apply("generator", factor)

    def _add_path_length_penalty(self, batches: Sequence[Batch], mean_losses: MeanLosses) -> None:
        """Add the gradients of the path length penalty, in float32: its square overflows half precision."""
        penalties = []
        for batch in batches:
            seeds = _derived_seeds(batch.seeds[: max(1, len(batch.seeds) // PATH_BATCH_SHRINK)], 3)
            images, latents = self._generate(self.generator, seeds, self.preset.mixing)
            directions = torch.stack(
                [torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
            ).to(self.device)
            penalty, self.mean_path_length = path_length_penalty(images, latents, self.mean_path_length, directions)
            penalties.append(penalty)
            weight = self.preset.path_weight * self.preset.path_every
            self.optimizers.backward(weight * penalty / mean_losses.parts)
        self.last_penalties["path"] = self.optimizers.mean(penalties)
        self.mean_path_length.fill_(self.optimizers.mean([self.mean_path_length]))


def _derived_seeds(seeds: Sequence[int], purpose: int) -> list[int]:
    """Independent random seeds of the same images, one set for each purpose from 0 to 15."""
    return [(seed * 16 + purpose) % (1 << 63) for seed in seeds]
