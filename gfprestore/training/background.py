"""The recipe of the background stage: a small upscaling network is distilled from a large one.

The student is an SRVGGNetCompact, whose convolutions all work at the size of the input. The teacher is Real-ESRGAN
(Wang et al., ICCVW 2021). The student also learns how the teacher removes noise and JPEG blocks. Images are
(B, 3, H, W) RGB, in [-1, 1] for the losses and in [0, 1] for the networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfprestore.errors import WeightsMismatchError
from gfprestore.networks.layers import box_mean
from gfprestore.networks.rrdbnet import RRDBNet
from gfprestore.networks.srvgg import SRVGGConfig, SRVGGNetCompact
from gfprestore.restoration.background import Background, NetworkBackground
from gfprestore.training.config import TrainConfig
from gfprestore.training.distributed import World
from gfprestore.training.loss_networks import LossNetworks
from gfprestore.training.losses import perceptual_loss, reconstruction_loss
from gfprestore.training.optimizers import Optimizers, all_finite, initialize_average, move_to_device, update_average
from gfprestore.training.presets import Distillation
from gfprestore.training.recipe import Batch, MeanLosses, weighted_sum
from gfprestore.training.training_state import Sizes, weights_metadata, write_weights
from gfprestore.weights.checkpoints import LoadedNetwork, load_network
from gfprestore.weights.store import WeightsStore

BACKGROUND_NAME = "background.safetensors"

COLOR_GAIN = 0.5
"""Initial gain of the features of the first layer that hold the color of a pixel."""

MIXING = 0.1
"""Initial share of random weights in the inner layers."""

PRELU_SLOPE = 0.25
"""Initial negative slope of the PReLU layers."""


class BackgroundRecipe:
    """Training of a student on the images of its teacher.

    Args:
        config: Configuration of the training.
        initial_network: Network with the initial weights; None starts from random weights.
        loss_networks: The fixed networks of the losses in use.
        device: Device of the computation.
        dtype: Precision of the computation; the weights are float32.
        world: The processes that train together.
    """

    def __init__(
        self,
        config: TrainConfig,
        initial_network: LoadedNetwork | None,
        loss_networks: LossNetworks,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        world: World | None = None,
    ) -> None:
        self.config = config
        self.preset = config.preset
        self.losses = config.preset.losses
        self.device = device
        self.distillation = config.preset.distillation or Distillation()
        self.network = student_config(config)
        torch.manual_seed(config.seed)  # for the random initial weights
        self.generator = SRVGGNetCompact(self.network)
        if initial_network is None:
            initialize_student(self.generator)
        else:
            self.generator.load_state_dict(initial_network.module.state_dict())
        move_to_device(self.generator, device)
        self.average = SRVGGNetCompact(self.network)
        initialize_average(self.average, self.generator, device)
        self.loss_networks = loss_networks
        if loss_networks.perceptual is not None:
            move_to_device(loss_networks.perceptual, device)
        self.optimizers = Optimizers(device, dtype, world or World())
        self.optimizers.add(
            "generator", [(list(self.generator.parameters()), self.preset.learning_rate)], self.preset.betas
        )

    def step(self, batches: Sequence[Batch], step: int, learning_rate_scale: float) -> dict[str, Tensor]:
        """See `Recipe.step`."""
        mean_losses = MeanLosses(len(batches))
        self.optimizers.clear("generator")
        weights = self.losses.used()
        for batch in batches:
            with self.optimizers.autocast():
                losses = self.losses_of(batch, step)
            mean_losses.add_all(losses)
            self.optimizers.backward(weighted_sum(losses, weights) / mean_losses.parts)
        self.optimizers.apply("generator", self.preset.learning_rate_factor(step) * learning_rate_scale)
        self.optimizers.finish()
        update_average(self.average, self.generator, step, self.preset.ema_half_life)
        return mean_losses.values

    def losses_of(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Unweighted losses in use at `step`, by name."""
        gt = toned(batch.sample.gt, batch.sample.lq, self.network.tone_radius)
        enlarged = self._enlarged(self.generator, batch)
        losses = {}
        if self.losses.reconstruction > 0:
            losses["reconstruction"] = reconstruction_loss(enlarged, gt)
        network, layer_weights = self.loss_networks.perceptual, self.loss_networks.layer_weights
        if network is not None and layer_weights is not None and step > self.distillation.perceptual_start_step:
            enlarged, gt = _random_crops(enlarged, gt, self.preset.perceptual_crop)
            with torch.no_grad():
                gt_features = network(gt)
            losses["perceptual"] = perceptual_loss(network(enlarged), gt_features, layer_weights)
        return losses

    def state(self) -> dict[str, Any]:
        """See `Recipe.state`."""
        return {
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "updates": self.optimizers.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Recipe.load_state`."""
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])
        self.optimizers.load_state(state["updates"])

    def sizes(self) -> Sizes:
        """See `Recipe.sizes`."""
        return {
            "stage": "background",
            "scale": self.network.scale,
            "features": self.network.features,
            "convolutions": self.network.convolutions,
            "tone_radius": self.network.tone_radius,
        }

    def is_finite(self) -> bool:
        """See `Recipe.is_finite`."""
        return all_finite(self.generator)

    def learning_rate(self) -> float:
        """See `Recipe.learning_rate`."""
        return self.optimizers.learning_rate("generator")

    def images(self, batch: Batch) -> list[Tensor]:
        """The patch enlarged bicubically, by the moving average of the student, and by the teacher."""
        resampled = F.interpolate(batch.sample.lq, scale_factor=float(self.network.scale), mode="bicubic")
        with torch.no_grad(), self.optimizers.autocast():
            enlarged = self._enlarged(self.average, batch)
        return [resampled.clamp(-1, 1), enlarged.float().clamp(-1, 1), batch.sample.gt]

    def export(self, folder: Path, step: int) -> Path:
        """Write the moving average as `background.safetensors`, in float16, ready for `run`."""
        path = folder / BACKGROUND_NAME
        more = {"teacher": teacher_name(self.config)}
        metadata = weights_metadata("srvgg", self.sizes(), self.config.preset_name, step, more)
        write_weights(self.average.state_dict(), metadata, path, torch.float16)
        return path

    def _enlarged(self, module: SRVGGNetCompact, batch: Batch) -> Tensor:
        """Enlarge the patches of a batch: (B, 3, S, S) in [-1, 1] to (B, 3, S * scale, S * scale)."""
        enlarged: Tensor = module((batch.sample.lq + 1) / 2)
        return enlarged * 2 - 1


def toned(gt: Tensor, lq: Tensor, radius: int) -> Tensor:
    """Give the image of the teacher the local mean tones of the patch, as the student keeps them.

    The teacher makes patches lighter or darker, some by ten levels. For a student that keeps the tones, this difference
    would dominate the L1 loss.

    Args:
        gt: Image of the teacher, (B, 3, S * scale, S * scale).
        lq: Patch, (B, 3, S, S).
        radius: Radius in pixels of the lq over which the tones are averaged; 0 leaves `gt` unchanged.

    Returns:
        `gt` minus the local mean of its difference from `lq`. The student subtracts the local mean of its own detail in
        the same way.
    """
    if radius <= 0:
        return gt
    scale = gt.shape[2] // lq.shape[2]
    change = box_mean(F.avg_pool2d(gt, scale) - lq, radius)
    return gt - F.interpolate(change, scale_factor=float(scale), mode="nearest")


def initialize_student(student: SRVGGNetCompact) -> None:
    """Set random initial weights with which a plain stack of convolutions trains quickly.

    The usual random weights lose the image within about ten layers, and its mean brightness hides its detail. Here the
    first layer holds differences between neighboring pixels and the colors of a pixel. Each appears with both signs,
    so that one of the two features passes the activation. The inner layers are the identity plus some random mixing.
    The last layer is zero, so the student starts by repeating pixels. Random numbers come from torch's global
    generator.
    """
    convolutions = [layer for layer in student.body if isinstance(layer, nn.Conv2d)]
    first, *inner, last = convolutions
    with torch.no_grad():
        for convolution in convolutions:
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        half = first.out_channels - first.out_channels // 2
        kernels = torch.randn(half, *first.weight.shape[1:])
        kernels -= kernels.mean((1, 2, 3), keepdim=True)
        kernels /= kernels.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        for channel in range(min(half, first.in_channels)):
            kernels[channel] = 0
            kernels[channel, channel, 1, 1] = COLOR_GAIN
        first.weight.copy_(torch.cat([kernels, -kernels])[: first.out_channels])
        for convolution in inner:
            mixed = nn.init.kaiming_normal_(torch.empty_like(convolution.weight), PRELU_SLOPE)
            convolution.weight.copy_(nn.init.dirac_(torch.empty_like(convolution.weight)) + MIXING * mixed)
        nn.init.zeros_(last.weight)


def open_student(config: TrainConfig) -> LoadedNetwork | None:
    """Load the network of `--weights`; None if the student starts from random weights.

    Raises:
        WeightsMissingError: The file does not exist.
        WeightsDamagedError: The file is damaged.
        WeightsUnsafeError: The file holds pickled code.
        WeightsMismatchError: The file is not an SRVGGNetCompact, or has other sizes.
    """
    if config.weights is None:
        return None
    network = load_network(config.weights, "background")
    wanted = student_config(config)
    if network.config != wanted:
        raise WeightsMismatchError(
            f"{config.weights} is {network.name} with {network.config}, but the training needs {wanted}. "
            "Use a file of the same sizes, or omit --weights."
        )
    return network


def open_teacher(config: TrainConfig, store: WeightsStore, device: torch.device) -> Background:
    """Load the teacher, as `run` uses it.

    Raises:
        WeightsError: The weights are missing, damaged or made for another network.
    """
    name = teacher_name(config)
    module = store.load(name).module
    assert isinstance(module, (RRDBNet, SRVGGNetCompact))
    return NetworkBackground(module, name, device)


def student_config(config: TrainConfig) -> SRVGGConfig:
    """Sizes of the student."""
    distillation = config.preset.distillation
    assert distillation is not None
    return SRVGGConfig(
        distillation.scale,
        distillation.features,
        distillation.convolutions,
        tone_radius=distillation.tone_radius,
    )


def teacher_name(config: TrainConfig) -> str:
    """Name of the teacher."""
    assert config.preset.distillation is not None
    return config.preset.distillation.teacher


def _random_crops(enlarged: Tensor, gt: Tensor, side: int | None) -> tuple[Tensor, Tensor]:
    """Cut a square out of both batches at the same random position, drawn from torch's global generator."""
    if side is None or side >= gt.shape[2]:
        return enlarged, gt
    top, left = torch.randint(gt.shape[2] - side + 1, (2,)).tolist()
    place = (slice(None), slice(None), slice(top, top + side), slice(left, left + side))
    return enlarged[place], gt[place]
