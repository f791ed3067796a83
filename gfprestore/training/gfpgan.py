"""The recipe of the restoration stage (Wang et al., CVPR 2021, sections 3.5 and 4.1).

A step updates the generator with all losses while the discriminators are frozen, then updates the discriminators on
the generator output. Images are (B, 3, S, S) RGB in [-1, 1]. Opens no files except those it exports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gfprestore.networks.discriminators import FacialComponentDiscriminator, StyleGAN2Discriminator
from gfprestore.networks.gfpgan import GFPGAN
from gfprestore.training.adversarial import add_discriminator_optimizer, update_discriminator
from gfprestore.training.config import TrainConfig
from gfprestore.training.distributed import World
from gfprestore.training.initial_weights import (
    COMPONENTS_NAME,
    DISCRIMINATOR_NAME,
    InitialWeights,
    disable_noise,
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
    generator_adversarial_loss,
    perceptual_loss,
    pyramid_loss,
    random_face_crops,
    reconstruction_loss,
    style_loss,
)
from gfprestore.training.optimizers import (
    Optimizers,
    all_finite,
    frozen,
    initialize_average,
    move_to_device,
    update_average,
)
from gfprestore.training.recipe import Batch, MeanLosses, weighted_sum
from gfprestore.training.training_state import Sizes, weights_metadata, write_weights

RESTORER_NAME = "restorer.safetensors"

Patches = dict[Component, Tensor]


@dataclass(frozen=True)
class GeneratorOutput:
    """Generator output for one batch, kept for the discriminators.

    Attributes:
        restored: Restored faces (B, 3, S, S), without gradient.
        gt: Ground truth (B, 3, S, S).
        patches: Component patches of the restored faces, without gradient.
        gt_patches: Component patches of the ground truth.
    """

    restored: Tensor
    gt: Tensor
    patches: Patches
    gt_patches: Patches


class RestorationRecipe:
    """Training of GFP-GAN against its discriminators.

    Args:
        config: Configuration of the training.
        initial_weights: Initial weights of the generator and the discriminators.
        loss_networks: The fixed networks of the losses in use.
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
        loss_networks: LossNetworks,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        world: World | None = None,
    ) -> None:
        self.config = config
        self.preset = config.preset
        self.losses = config.preset.losses
        self.device = device
        self.network = initial_weights.network
        torch.manual_seed(config.seed)  # for the random initial weights
        self.generator = GFPGAN(self.network)
        load_initial_weights(self.generator, initial_weights)
        self.discriminator = StyleGAN2Discriminator(self.preset.discriminator_channels())
        load_discriminator(self.discriminator, initial_weights)
        self.component_discriminators = nn.ModuleDict(
            {component: FacialComponentDiscriminator(self.preset.component_width) for component in COMPONENTS}
        )
        load_component_discriminators(self.component_discriminators, initial_weights)
        self.loss_networks = loss_networks
        trained = (self.generator, self.discriminator, self.component_discriminators)
        for module in (*trained, *loss_networks.networks()):
            move_to_device(module, device)
        self._freeze_fixed_parts()
        self.average = GFPGAN(self.network)
        initialize_average(self.average, self.generator, device)
        self.optimizers = self._make_optimizers(dtype, world or World())
        self.last_r1 = 0.0

    def step(self, batches: Sequence[Batch], step: int, learning_rate_scale: float) -> dict[str, Tensor]:
        """See `Recipe.step`."""
        mean_losses = MeanLosses(len(batches))
        factor = self.preset.learning_rate_factor(step) * learning_rate_scale
        outputs = self._update_generator(batches, step, factor, mean_losses)
        if step > self.preset.discriminator_warmup:
            update_average(self.average, self.generator, step, self.preset.ema_half_life)
        if self._uses_discriminators(self.losses.adversarial, step):
            self._update_discriminator(outputs, step, factor, mean_losses)
        if self._uses_discriminators(self.losses.components, step):
            self._update_component_discriminators(outputs, factor, mean_losses)
        self.optimizers.finish()
        return mean_losses.values

    def losses_of(self, batch: Batch, step: int) -> tuple[dict[str, Tensor], GeneratorOutput]:
        """All unweighted losses of the generator by name, and its output."""
        gt, boxes = batch.sample.gt, batch.sample.boxes
        restored, pyramid = self.generator(batch.sample.lq, batch.seeds, return_pyramid=True)
        losses = self.face_losses(restored, pyramid, gt, step)
        if self.loss_networks.teacher is not None and self.losses.distillation > 0:
            losses["distillation"] = reconstruction_loss(restored, self.loss_networks.teacher_output(batch.sample.lq))
        patches: Patches = {}
        gt_patches: Patches = {}
        if self._uses_discriminators(self.losses.components, step):
            patches, gt_patches = component_patches(restored, boxes), component_patches(gt, boxes)
            losses |= self.component_losses(patches, gt_patches)
        detached = {component: patch.detach() for component, patch in patches.items()}
        return losses, GeneratorOutput(restored.detach(), gt, detached, gt_patches)

    def weighted(self, losses: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the losses, the objective of the generator."""
        return weighted_sum(losses, self.losses.used())

    def face_losses(self, restored: Tensor, pyramid: Sequence[Tensor], gt: Tensor, step: int) -> dict[str, Tensor]:
        """Unweighted losses of whole faces by name (equations 5, 6 and 8)."""
        losses = {"reconstruction": reconstruction_loss(restored, gt)}
        if self._uses_pyramid(step):
            losses["pyramid"] = pyramid_loss(pyramid, gt)
        losses |= self._perceptual_losses(restored, gt)
        if self._uses_discriminators(self.losses.adversarial, step):
            losses["adversarial"] = generator_adversarial_loss(self.discriminator(restored))
        if self.loss_networks.identity is not None and self.losses.identity > 0:
            losses["identity"] = self.loss_networks.identity.loss(restored, gt)
        return losses

    def component_losses(self, patches: Patches, gt_patches: Patches) -> dict[str, Tensor]:
        """Unweighted losses of eyes and mouth by name, summed over the components (equation 7)."""
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
        return self.optimizers.learning_rate("generator")

    def images(self, batch: Batch) -> list[Tensor]:
        """The lq, the image of the U-Net, the face restored by the moving average, and the gt."""
        with torch.no_grad(), self.optimizers.autocast():
            restored, pyramid = self.average(batch.sample.lq, batch.seeds, return_pyramid=True)
        return [batch.sample.lq, pyramid[-1], restored, batch.sample.gt]

    def export(self, folder: Path, step: int) -> Path:
        """Write the moving average as `restorer.safetensors`, ready for `run --weights`.

        The discriminators whose losses are in use are written beside it. A later training with `--weights` loads them.
        """
        path = folder / RESTORER_NAME
        more = {"ablation": self.config.ablation or ""}
        metadata = weights_metadata("gfpgan", self.sizes(), self.config.preset_name, step, more)
        dtype = torch.float16 if self.preset.exports_half else torch.float32
        write_weights(self.average.state_dict(), metadata, path, dtype)
        if self.losses.adversarial > 0:
            header = {**metadata, "network": "stylegan2-discriminator"}
            write_weights(self.discriminator.state_dict(), header, folder / DISCRIMINATOR_NAME, dtype)
        if self.losses.components > 0:
            header = {**metadata, "network": "facial-component-discriminators"}
            write_weights(self.component_discriminators.state_dict(), header, folder / COMPONENTS_NAME, dtype)
        return path

    def _freeze_fixed_parts(self) -> None:
        decoder = self.generator.stylegan_decoder
        decoder.requires_grad_(self.preset.train_decoder)
        if not self.preset.decoder_noise:
            disable_noise(decoder)
        decoder.style_mlp.requires_grad_(False)  # unused, since the U-Net gives the latents; kept for the file format

    def _make_optimizers(self, dtype: torch.dtype, world: World) -> Optimizers:
        preset = self.preset
        optimizers = Optimizers(self.device, dtype, world)
        trainable = [parameter for parameter in self.generator.parameters() if parameter.requires_grad]
        optimizers.add("generator", [(trainable, preset.learning_rate)], preset.betas)
        add_discriminator_optimizer(optimizers, self.discriminator, preset)
        optimizers.add(
            "components",
            [(list(self.component_discriminators.parameters()), preset.component_learning_rate)],
            (0.9, 0.99),
        )
        return optimizers

    def _uses_pyramid(self, step: int) -> bool:
        last_step = self.preset.pyramid_until
        return self.losses.pyramid > 0 and (last_step is None or step <= last_step)

    def _uses_discriminators(self, weight: float, step: int) -> bool:
        return weight > 0 and step > self.preset.discriminator_start_step

    def _update_generator(
        self, batches: Sequence[Batch], step: int, factor: float, mean_losses: MeanLosses
    ) -> list[GeneratorOutput]:
        """Update the generator with all losses; during the discriminator warm-up only compute its output."""
        is_trained = step > self.preset.discriminator_warmup
        frozen_unet = self.generator.unet if step <= self.preset.unet_start_step else ()
        self.optimizers.clear("generator")
        outputs = []
        fixed = frozen(self.discriminator, self.component_discriminators, *frozen_unet)
        with fixed, torch.set_grad_enabled(is_trained):
            for batch in batches:
                with self.optimizers.autocast():
                    losses, output = self.losses_of(batch, step)
                outputs.append(output)
                mean_losses.add_all(losses)
                if is_trained:
                    self.optimizers.backward(self.weighted(losses) / mean_losses.parts)
        if is_trained:
            self.optimizers.apply("generator", factor, self.preset.max_grad_norm)
        return outputs

    def _perceptual_losses(self, restored: Tensor, gt: Tensor) -> dict[str, Tensor]:
        network, layer_weights = self.loss_networks.perceptual, self.loss_networks.layer_weights
        if network is None or layer_weights is None:
            return {}
        if self.preset.perceptual_crop is not None:
            restored, gt = random_face_crops((restored, gt), self.preset.perceptual_crop)
        with torch.no_grad():
            gt_features = network(gt)
        features = network(restored)
        losses = {}
        if self.losses.perceptual > 0:
            losses["perceptual"] = perceptual_loss(features, gt_features, layer_weights)
        if self.losses.style > 0:
            losses["style"] = style_loss(features, gt_features, layer_weights)
        return losses

    def _update_discriminator(
        self, outputs: Sequence[GeneratorOutput], step: int, factor: float, mean_losses: MeanLosses
    ) -> None:
        pairs = ((output.gt, output.restored) for output in outputs)
        r1 = update_discriminator(self.discriminator, pairs, self.optimizers, self.preset, step, factor, mean_losses)
        if r1 is not None:
            self.last_r1 = r1
        mean_losses.values["r1"] = torch.tensor(self.last_r1, device=self.device)

    def _update_component_discriminators(
        self, outputs: Sequence[GeneratorOutput], factor: float, mean_losses: MeanLosses
    ) -> None:
        """Update the three component discriminators; restored and real patches form one batch."""
        self.optimizers.clear("components")
        for output in outputs:
            losses = []
            for component in COMPONENTS:
                both = torch.cat([output.patches[component], output.gt_patches[component]])
                with self.optimizers.autocast():
                    logits = self.component_discriminators[component](both)
                fake_logits, real_logits = logits.chunk(2) if len(logits) else (logits, logits)
                losses.append(component_discriminator_loss(real_logits, fake_logits))
            loss = torch.stack(losses).sum()
            mean_losses.add("component-discriminator", loss)
            self.optimizers.backward(loss / mean_losses.parts)
        self.optimizers.apply("components", factor)
