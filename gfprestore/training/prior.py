"""The recipe of the prior stage: StyleGAN2 (Karras et al., CVPR 2020) on the same faces.

Logistic loss, R1 and path length, each penalty every so many steps with the optimizer's rates to match; style mixing.
Tensors have the official names; the file serves as `--weights` of the restoration stage.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gfprestore._version import __version__
from gfprestore.networks.discriminators import StyleGAN2Discriminator
from gfprestore.networks.stylegan2 import StyleGAN2Generator
from gfprestore.training.config import TrainConfig
from gfprestore.training.distributed import World
from gfprestore.training.initial_weights import (
    DISCRIMINATOR_NAME,
    InitialWeights,
    leave_out_noise,
    load_discriminator,
    load_prior,
)
from gfprestore.training.losses import (
    discriminator_adversarial_loss,
    generator_adversarial_loss,
    path_length_penalty,
    r1_penalty,
)
from gfprestore.training.optimizers import Optimizers, all_finite, frozen, place, update_average
from gfprestore.training.recipe import Batch, MeanLosses
from gfprestore.training.training_state import Sizes, write_weights

PRIOR_NAME = "prior.safetensors"

PATH_BATCH_SHARE = 2
"""The path length is measured on a batch smaller by this."""

STYLE_RATE = 0.01
"""Of the style network's learning rate to the others'; the paper's layout has it in its weights."""

SHOWN = 4
"""Images of each face of the sample image."""


class PriorRecipe:
    """StyleGAN2's generator against its discriminator.

    Args:
        config: The training.
        start: A prior to go on from, of the same size or a smaller one, or nothing.
        device: Where to compute.
        dtype: What to compute in; weights are float32.
        world: The processes that train together.

    Raises:
        WeightsMismatchError: The start does not fit.
    """

    def __init__(
        self,
        config: TrainConfig,
        start: InitialWeights,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        world: World | None = None,
    ) -> None:
        self.config = config
        self.preset = config.preset
        self.device = device
        self.network = start.network
        torch.manual_seed(config.seed)  # the random weights to start from
        self.generator = self._make_generator()
        if start.kind != "nothing":
            load_prior(self.generator, start)
        if not self.preset.decoder_noise:
            leave_out_noise(self.generator)
        self.discriminator = StyleGAN2Discriminator(self.preset.discriminator_channels())
        load_discriminator(self.discriminator, start)
        for module in (self.generator, self.discriminator):
            place(module, device)
        self.average = self._make_generator().eval().requires_grad_(False)
        self.average.load_state_dict(self.generator.state_dict())
        place(self.average, device)
        self.mean_path_length = torch.zeros((), device=device)
        self.optimizers = self._make_updates(dtype, world or World())
        self.last: dict[str, float] = {"r1": 0.0, "path": 0.0}

    def step(self, batches: Sequence[Batch], step: int, learning_rate_scale: float) -> dict[str, Tensor]:
        """Learns from one step's images; see `Recipe.step`."""
        mean_losses = MeanLosses(len(batches))
        factor = self.preset.learning_rate_factor(step) * learning_rate_scale
        self._teach_discriminator(batches, step, factor, mean_losses)
        if step > self.preset.discriminator_warmup:
            self._teach_generator(batches, step, factor, mean_losses)
            update_average(self.average, self.generator, step, self.preset.ema_half_life)
        self.optimizers.finish()
        lasting = {name: torch.tensor(value, device=self.device) for name, value in self.last.items()}
        return mean_losses.values | lasting

    def losses_of(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of the generator by name; it sees no image of the batch, and makes as many."""
        fakes, _ = self._generate(self.generator, _other(batch.seeds, 2), self.preset.mixing)
        return {"adversarial": generator_adversarial_loss(self.discriminator(fakes))}

    def state(self) -> dict[str, Any]:
        """See `Recipe.state`."""
        return {
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "updates": self.optimizers.state(),
            "mean_path_length": self.mean_path_length,
            "last": self.last,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Recipe.load_state`."""
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizers.load_state(state["updates"])
        self.mean_path_length = state["mean_path_length"].to(self.device)
        self.last = {name: float(value) for name, value in state["last"].items()}

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
        return float(self.optimizers.optimizers["generator"].param_groups[0]["lr"])

    def images(self, batch: Batch) -> list[Tensor]:
        """Faces out of nothing by the moving average, and a column of real ones."""
        columns = []
        for column in range(SHOWN):
            seeds = [seed + column for seed in batch.seeds]
            with torch.no_grad(), self.optimizers.autocast():
                columns.append(self._generate(self.average, seeds, mixing=0.0)[0])
        return [*columns, batch.sample.gt]

    def export(self, folder: Path, step: int) -> Path:
        """Writes the moving average as `prior.safetensors`, for `--weights`, and the discriminator beside it."""
        path = folder / PRIOR_NAME
        metadata = {
            "network": "stylegan2",
            **{name: json.dumps(value) for name, value in self.sizes().items()},
            "preset": self.config.preset_name,
            "step": str(step),
            "trained_with": f"gfprestore {__version__}",
        }
        write_weights(self.average.state_dict(), metadata, path)
        loss_network = {**metadata, "network": "stylegan2-discriminator"}
        write_weights(self.discriminator.state_dict(), loss_network, folder / DISCRIMINATOR_NAME)
        return path

    def _make_generator(self) -> StyleGAN2Generator:
        sizes = self.network
        return StyleGAN2Generator(sizes.channels, sizes.style_dim, sizes.mlp_layers, sizes.layout)

    def _make_updates(self, dtype: torch.dtype, world: World) -> Optimizers:
        preset = self.preset
        optimizers = Optimizers(self.device, dtype, world)
        style = list(self.generator.style_mlp.parameters())
        synthesis = [
            parameter
            for name, parameter in self.generator.named_parameters()
            if parameter.requires_grad and not name.startswith("style_mlp.")
        ]
        lazy = preset.path_every / (preset.path_every + 1) if preset.path_weight > 0 else 1.0
        rate = preset.learning_rate * lazy
        style_rate = rate * (STYLE_RATE if self.network.layout == "clean" else 1.0)
        optimizers.add("generator", [(synthesis, rate), (style, style_rate)], (0.0, 0.99**lazy))
        lazy = preset.r1_every / (preset.r1_every + 1)
        optimizers.add(
            "discriminator",
            [(list(self.discriminator.parameters()), preset.discriminator_learning_rate * lazy)],
            (0.0, 0.99**lazy),
        )
        return optimizers

    def _generate(self, generator: StyleGAN2Generator, seeds: Sequence[int], mixing: float) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) and their style codes (B, L, D); an image depends on its seed alone."""
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

    def _teach_discriminator(self, batches: Sequence[Batch], step: int, factor: float, mean_losses: MeanLosses) -> None:
        penalized = step % self.preset.r1_every == 0
        self.optimizers.clear("discriminator")
        penalties = []
        for batch in batches:
            with torch.no_grad(), self.optimizers.autocast():
                fakes, _ = self._generate(self.generator, _other(batch.seeds, 1), self.preset.mixing)
            with self.optimizers.autocast():
                fake_logits = self.discriminator(fakes)
            real = batch.sample.gt.detach().requires_grad_(penalized)
            with self.optimizers.autocast(enabled=not penalized):
                real_logits = self.discriminator(real)
            loss = discriminator_adversarial_loss(real_logits, fake_logits)
            mean_losses.add("discriminator", loss)
            if penalized:
                penalty = r1_penalty(real, real_logits)
                penalties.append(penalty)
                loss = loss + self.preset.r1_gamma / 2 * self.preset.r1_every * penalty
            self.optimizers.backward(loss / mean_losses.parts)
        self.optimizers.apply("discriminator", factor)
        if penalized:
            self.last["r1"] = self.optimizers.mean(penalties)

    def _teach_generator(self, batches: Sequence[Batch], step: int, factor: float, mean_losses: MeanLosses) -> None:
        self.optimizers.clear("generator")
        with frozen(self.discriminator):
            for batch in batches:
                with self.optimizers.autocast():
                    loss = self.losses_of(batch)["adversarial"]
                mean_losses.add("adversarial", loss)
                self.optimizers.backward(loss / mean_losses.parts)
        if self.preset.path_weight > 0 and step % self.preset.path_every == 0:
            self._even_out_paths(batches, mean_losses)
        self.optimizers.apply("generator", factor)

    def _even_out_paths(self, batches: Sequence[Batch], mean_losses: MeanLosses) -> None:
        """Adds the gradients of the path length penalty, in float32: its square overflows half precision."""
        penalties = []
        for batch in batches:
            seeds = _other(batch.seeds[: max(1, len(batch.seeds) // PATH_BATCH_SHARE)], 3)
            images, latents = self._generate(self.generator, seeds, self.preset.mixing)
            directions = torch.stack(
                [torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
            ).to(self.device)
            penalty, self.mean_path_length = path_length_penalty(images, latents, self.mean_path_length, directions)
            penalties.append(penalty)
            weight = self.preset.path_weight * self.preset.path_every
            self.optimizers.backward(weight * penalty / mean_losses.parts)
        self.last["path"] = self.optimizers.mean(penalties)
        self.mean_path_length.fill_(self.optimizers.mean([self.mean_path_length]))


def _other(seeds: Sequence[int], purpose: int) -> list[int]:
    """Seeds for another purpose of the same images, 0 to 15."""
    return [(seed * 16 + purpose) % (1 << 63) for seed in seeds]
