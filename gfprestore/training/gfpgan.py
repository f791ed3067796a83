"""The recipe of the restoration stage (Wang et al., CVPR 2021, sections 3.5 and 4.1).

A step teaches the generator by all losses against discriminators that keep still, then the discriminators by what the
generator just made. Images are (B, 3, S, S) RGB in [-1, 1]. Opens no file but the one it exports.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gfprestore._version import __version__
from gfprestore.networks.discriminators import FacialComponentDiscriminator, StyleGAN2Discriminator
from gfprestore.networks.gfpgan import GFPGAN
from gfprestore.training.config import TrainConfig
from gfprestore.training.distributed import World
from gfprestore.training.initial_weights import (
    COMPONENTS_NAME,
    DISCRIMINATOR_NAME,
    InitialWeights,
    leave_out_noise,
    load_component_discriminators,
    load_discriminator,
    load_initial_weights,
)
from gfprestore.training.loss_networks import LossNetworks
from gfprestore.training.losses import (
    COMPONENTS,
    Component,
    component_adversarial_loss,
    component_discriminator_loss,
    component_matching_loss,
    component_patches,
    component_style_loss,
    discriminator_adversarial_loss,
    generator_adversarial_loss,
    perceptual_loss,
    pyramid_loss,
    r1_penalty,
    random_face_pieces,
    reconstruction_loss,
    style_loss,
)
from gfprestore.training.optimizers import Optimizers, all_finite, frozen, place, update_average
from gfprestore.training.recipe import Batch, MeanLosses
from gfprestore.training.training_state import Sizes, write_weights

RESTORER_NAME = "restorer.safetensors"

Patches = dict[Component, Tensor]


@dataclass(frozen=True)
class GeneratorOutput:
    """What the generator made of one batch, kept for the discriminators.

    Attributes:
        restored: (B, 3, S, S), without gradient.
        gt: (B, 3, S, S).
        patches: The restored components.
        gt_patches: Those of the gt.
    """

    restored: Tensor
    gt: Tensor
    patches: Patches
    gt_patches: Patches


class RestorationRecipe:
    """GFP-GAN against its discriminators.

    Args:
        config: The training.
        start: What the generator starts from.
        loss networks: The fixed networks of the losses in use.
        device: Where to compute.
        dtype: What to compute in; weights are float32.
        world: The processes that train together.

    Raises:
        WeightsMismatchError: The start does not fit the generator.
    """

    def __init__(
        self,
        config: TrainConfig,
        start: InitialWeights,
        loss_networks: LossNetworks,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        world: World | None = None,
    ) -> None:
        self.config = config
        self.preset = config.preset
        self.losses = config.preset.losses
        self.device = device
        self.network = start.network
        torch.manual_seed(config.seed)  # the random weights to start from
        self.generator = GFPGAN(self.network)
        load_initial_weights(self.generator, start)
        self.discriminator = StyleGAN2Discriminator(self.preset.discriminator_channels())
        load_discriminator(self.discriminator, start)
        self.component_discriminators = nn.ModuleDict(
            {component: FacialComponentDiscriminator(self.preset.component_width) for component in COMPONENTS}
        )
        load_component_discriminators(self.component_discriminators, start)
        self.loss_networks = loss_networks
        for module in (self.generator, self.discriminator, self.component_discriminators):
            place(module, device)
        for loss_network in loss_networks.networks():
            place(loss_network, device)
        self._choose_what_learns()
        self.average = GFPGAN(self.network).eval().requires_grad_(False)
        self.average.load_state_dict(self.generator.state_dict())
        place(self.average, device)
        self.optimizers = self._make_updates(dtype, world or World())
        self.last_r1 = 0.0

    def step(self, batches: Sequence[Batch], step: int, learning_rate_scale: float) -> dict[str, Tensor]:
        """Learns from one step's images; see `Recipe.step`."""
        mean_losses = MeanLosses(len(batches))
        factor = self.preset.learning_rate_factor(step) * learning_rate_scale
        made = self._teach_generator(batches, step, factor, mean_losses)
        if step > self.preset.discriminator_warmup:
            update_average(self.average, self.generator, step, self.preset.ema_half_life)
        if self._uses_critics(self.losses.adversarial, step):
            self._teach_discriminator(made, step, factor, mean_losses)
        if self._uses_critics(self.losses.components, step):
            self._teach_component_discriminators(made, factor, mean_losses)
        self.optimizers.finish()
        return mean_losses.values

    def losses_of(self, batch: Batch, step: int) -> tuple[dict[str, Tensor], GeneratorOutput]:
        """All losses of the generator by name and unweighted, and what it made."""
        gt, boxes = batch.sample.gt, batch.sample.boxes
        restored, pyramid = self.generator(batch.sample.lq, batch.seeds, return_pyramid=True)
        losses = self.face_losses(restored, pyramid, gt, step)
        if self.loss_networks.teacher is not None and self.losses.distillation > 0:
            losses["distillation"] = reconstruction_loss(restored, self.loss_networks.taught(batch.sample.lq))
        patches: Patches = {}
        gt_patches: Patches = {}
        if self._uses_critics(self.losses.components, step):
            patches, gt_patches = component_patches(restored, boxes), component_patches(gt, boxes)
            losses |= self.component_losses(patches, gt_patches)
        detached = {component: patch.detach() for component, patch in patches.items()}
        return losses, GeneratorOutput(restored.detach(), gt, detached, gt_patches)

    def weighted(self, losses: dict[str, Tensor]) -> Tensor:
        """What the generator is to make small."""
        weights = self.losses.used()
        return torch.stack([weights[name] * value for name, value in losses.items() if name in weights]).sum()

    def face_losses(self, restored: Tensor, pyramid: Sequence[Tensor], gt: Tensor, step: int) -> dict[str, Tensor]:
        """The losses of whole faces, by name and unweighted (equations 5, 6 and 8)."""
        losses = {"reconstruction": reconstruction_loss(restored, gt)}
        if self._uses_pyramid(step):
            losses["pyramid"] = pyramid_loss(pyramid, gt)
        losses |= self._perceptual_losses(restored, gt)
        if self._uses_critics(self.losses.adversarial, step):
            losses["adversarial"] = generator_adversarial_loss(self.discriminator(restored))
        if self.loss_networks.identity is not None and self.losses.identity > 0:
            losses["identity"] = self.loss_networks.identity.loss(restored, gt)
        return losses

    def component_losses(self, patches: Patches, gt_patches: Patches) -> dict[str, Tensor]:
        """The losses of eyes and mouth, by name and unweighted, summed over the components (equation 7)."""
        weights = self.losses
        terms: dict[str, list[Tensor]] = {"components": [], "component-style": [], "component-matching": []}
        for component in COMPONENTS:
            discriminator = self.component_discriminators[component]
            logits, features = discriminator(patches[component], with_features=True)
            terms["components"].append(component_adversarial_loss(logits))
            if not weights.component_style > 0 and not weights.component_matching > 0:
                continue
            with torch.no_grad():
                _, gt_features = discriminator(gt_patches[component], with_features=True)
            if weights.component_style > 0:
                terms["component-style"].append(component_style_loss(features, gt_features))
            if weights.component_matching > 0:
                terms["component-matching"].append(component_matching_loss(features, gt_features))
        return {name: torch.stack(values).sum() for name, values in terms.items() if values}

    def state(self) -> dict[str, Any]:
        """See `Recipe.state`."""
        return {
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "component_discriminators": self.component_discriminators.state_dict(),
            "updates": self.optimizers.state(),
            "last_r1": self.last_r1,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Recipe.load_state`."""
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.component_discriminators.load_state_dict(state["component_discriminators"])
        self.optimizers.load_state(state["updates"])
        self.last_r1 = float(state["last_r1"])

    def sizes(self) -> Sizes:
        """See `Recipe.sizes`."""
        return {
            "stage": "restoration",
            "layout": self.network.layout,
            "size": self.network.size,
            "channels": list(self.network.channels),
            "style_dim": self.network.style_dim,
            "mlp_layers": self.network.mlp_layers,
            "modulation": self.network.modulation,
            "input_share": self.network.input_share,
            "colour_radius": self.network.color_radius,
            "component_width": self.preset.component_width,
            "train_decoder": self.preset.train_decoder,
            "decoder_noise": self.preset.decoder_noise,
        }

    def is_finite(self) -> bool:
        """See `Recipe.is_finite`."""
        return all_finite(self.generator, self.discriminator, self.component_discriminators)

    def learning_rate(self) -> float:
        """See `Recipe.learning_rate`."""
        return float(self.optimizers.optimizers["generator"].param_groups[0]["lr"])

    def images(self, batch: Batch) -> list[Tensor]:
        """The lq, the U-Net's image, the restored face of the moving average, and the gt."""
        with torch.no_grad(), self.optimizers.autocast():
            restored, pyramid = self.average(batch.sample.lq, batch.seeds, return_pyramid=True)
        return [batch.sample.lq, pyramid[-1], restored, batch.sample.gt]

    def export(self, folder: Path, step: int) -> Path:
        """Writes the moving average as `restorer.safetensors`, ready for `run --weights`, its discriminators beside it.

        Of the discriminators those whose losses are in use; `--weights` takes them up.
        """
        path = folder / RESTORER_NAME
        metadata = {
            "network": "gfpgan",
            **{name: json.dumps(value) for name, value in self.sizes().items()},
            "preset": self.config.preset_name,
            "ablation": self.config.ablation or "",
            "step": str(step),
            "trained_with": f"gfprestore {__version__}",
        }
        dtype = torch.float16 if self.preset.exports_half else torch.float32
        write_weights(self.average.state_dict(), metadata, path, dtype)
        if self.losses.adversarial > 0:
            loss_network = {**metadata, "network": "stylegan2-discriminator"}
            write_weights(self.discriminator.state_dict(), loss_network, folder / DISCRIMINATOR_NAME, dtype)
        if self.losses.components > 0:
            loss_network = {**metadata, "network": "facial-component-discriminators"}
            write_weights(self.component_discriminators.state_dict(), loss_network, folder / COMPONENTS_NAME, dtype)
        return path

    def _choose_what_learns(self) -> None:
        decoder = self.generator.stylegan_decoder
        decoder.requires_grad_(self.preset.train_decoder)
        if not self.preset.decoder_noise:
            leave_out_noise(decoder)
        decoder.style_mlp.requires_grad_(False)  # latents come from the U-Net; it is kept for the file's sake

    def _make_updates(self, dtype: torch.dtype, world: World) -> Optimizers:
        preset = self.preset
        optimizers = Optimizers(self.device, dtype, world)
        learning = [parameter for parameter in self.generator.parameters() if parameter.requires_grad]
        optimizers.add("generator", [(learning, preset.learning_rate)], preset.betas)
        lazy = preset.r1_every / (preset.r1_every + 1)
        optimizers.add(
            "discriminator",
            [(list(self.discriminator.parameters()), preset.discriminator_learning_rate * lazy)],
            (0.0, 0.99**lazy),
        )
        optimizers.add(
            "components",
            [(list(self.component_discriminators.parameters()), preset.component_learning_rate)],
            (0.9, 0.99),
        )
        return optimizers

    def _uses_pyramid(self, step: int) -> bool:
        until = self.preset.pyramid_until
        return self.losses.pyramid > 0 and (until is None or step <= until)

    def _uses_critics(self, weight: float, step: int) -> bool:
        return weight > 0 and step > self.preset.discriminator_start_step

    def _teach_generator(
        self, batches: Sequence[Batch], step: int, factor: float, mean_losses: MeanLosses
    ) -> list[GeneratorOutput]:
        """One update by all losses; in the warm-up of the discriminators the generator only makes their food."""
        is_learning = step > self.preset.discriminator_warmup
        still = self.generator.unet if step <= self.preset.unet_start_step else ()
        self.optimizers.clear("generator")
        made = []
        with frozen(self.discriminator, self.component_discriminators, *still), torch.set_grad_enabled(is_learning):
            for batch in batches:
                with self.optimizers.autocast():
                    losses, part = self.losses_of(batch, step)
                made.append(part)
                for name, value in losses.items():
                    mean_losses.add(name, value)
                if is_learning:
                    self.optimizers.backward(self.weighted(losses) / mean_losses.parts)
        if is_learning:
            self.optimizers.apply("generator", factor, self.preset.max_grad_norm)
        return made

    def _perceptual_losses(self, restored: Tensor, gt: Tensor) -> dict[str, Tensor]:
        network, layer_weights = self.loss_networks.perceptual, self.loss_networks.layer_weights
        if network is None or layer_weights is None:
            return {}
        if self.preset.perceptual_crop is not None:
            restored, gt = random_face_pieces((restored, gt), self.preset.perceptual_crop)
        with torch.no_grad():
            gt_features = network(gt)
        features = network(restored)
        losses = {}
        if self.losses.perceptual > 0:
            losses["perceptual"] = perceptual_loss(features, gt_features, layer_weights)
        if self.losses.style > 0:
            losses["style"] = style_loss(features, gt_features, layer_weights)
        return losses

    def _teach_discriminator(
        self, made: Sequence[GeneratorOutput], step: int, factor: float, mean_losses: MeanLosses
    ) -> None:
        """One update by the logistic loss, with the gradient penalty every so many steps."""
        penalized = step % self.preset.r1_every == 0
        self.optimizers.clear("discriminator")
        penalties = []
        for part in made:
            with self.optimizers.autocast():
                fake_logits = self.discriminator(part.restored)
            real = part.gt.detach().requires_grad_(penalized)
            with self.optimizers.autocast(enabled=not penalized):  # the penalty's square overflows half precision
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
            self.last_r1 = self.optimizers.mean(penalties)
        mean_losses.values["r1"] = torch.tensor(self.last_r1, device=self.device)

    def _teach_component_discriminators(
        self, made: Sequence[GeneratorOutput], factor: float, mean_losses: MeanLosses
    ) -> None:
        """One update of the three of them; restored and real patches go through together."""
        self.optimizers.clear("components")
        for part in made:
            losses = []
            for component in COMPONENTS:
                together = torch.cat([part.patches[component], part.gt_patches[component]])
                with self.optimizers.autocast():
                    logits = self.component_discriminators[component](together)
                fake_logits, real_logits = logits.chunk(2) if len(logits) else (logits, logits)
                losses.append(component_discriminator_loss(real_logits, fake_logits))
            loss = torch.stack(losses).sum()
            mean_losses.add("component-discriminator", loss)
            self.optimizers.backward(loss / mean_losses.parts)
        self.optimizers.apply("components", factor)
