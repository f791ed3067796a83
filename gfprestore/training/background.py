"""The recipe of the background stage: a small network learns to enlarge as a large one does.

The student is a SRVGGNetCompact, whose convolutions all work at the input's size; the teacher is Real-ESRGAN (Wang et
al., ICCVW 2021). What the teacher makes of noise and JPEG blocks is part of what the student copies. Images are
(B, 3, H, W) RGB, in [-1, 1] for the losses and in [0, 1] for the networks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfprestore._version import __version__
from gfprestore.errors import WeightsMismatchError
from gfprestore.networks.layers import box_mean
from gfprestore.networks.rrdbnet import RRDBNet
from gfprestore.networks.srvgg import SRVGGConfig, SRVGGNetCompact
from gfprestore.restoration.background import Background, NetworkBackground
from gfprestore.training.config import TrainConfig
from gfprestore.training.distributed import World
from gfprestore.training.loss_networks import LossNetworks
from gfprestore.training.losses import perceptual_loss, reconstruction_loss
from gfprestore.training.optimizers import Optimizers, all_finite, place, update_average
from gfprestore.training.presets import Distillation
from gfprestore.training.recipe import Batch, MeanLosses
from gfprestore.training.training_state import Sizes, write_weights
from gfprestore.weights.checkpoints import LoadedNetwork, load_network
from gfprestore.weights.store import WeightsStore

BACKGROUND_NAME = "background.safetensors"

COLOR_GAIN = 0.5
"""Of the first layer's features that are a pixel's color."""

MIXING = 0.1
"""Share of random weights in the inner layers at the start."""

PRELU_SLOPE = 0.25
"""Negative slope that the PReLU layers start with."""


class BackgroundRecipe:
    """A student that copies the teacher's images.

    Args:
        config: The training.
        start: A student to go on from; None starts from random weights.
        loss networks: The fixed networks of the losses in use.
        device: Where to compute.
        dtype: What to compute in; weights are float32.
        world: The processes that train together.
    """

    def __init__(
        self,
        config: TrainConfig,
        start: LoadedNetwork | None,
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
        torch.manual_seed(config.seed)  # the random weights to start from
        self.generator = SRVGGNetCompact(self.network)
        if start is None:
            prepare_to_learn(self.generator)
        else:
            self.generator.load_state_dict(start.module.state_dict())
        place(self.generator, device)
        self.average = SRVGGNetCompact(self.network).eval().requires_grad_(False)
        self.average.load_state_dict(self.generator.state_dict())
        place(self.average, device)
        self.loss_networks = loss_networks
        if loss_networks.perceptual is not None:
            place(loss_networks.perceptual, device)
        self.optimizers = Optimizers(device, dtype, world or World())
        self.optimizers.add(
            "generator", [(list(self.generator.parameters()), self.preset.learning_rate)], self.preset.betas
        )

    def step(self, batches: Sequence[Batch], step: int, learning_rate_scale: float) -> dict[str, Tensor]:
        """Learns from one step's images; see `Recipe.step`."""
        mean_losses = MeanLosses(len(batches))
        self.optimizers.clear("generator")
        weights = self.losses.used()
        for batch in batches:
            with self.optimizers.autocast():
                losses = self.losses_of(batch, step)
            for name, value in losses.items():
                mean_losses.add(name, value)
            weighted = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
            self.optimizers.backward(weighted / mean_losses.parts)
        self.optimizers.apply("generator", self.preset.learning_rate_factor(step) * learning_rate_scale)
        self.optimizers.finish()
        update_average(self.average, self.generator, step, self.preset.ema_half_life)
        return mean_losses.values

    def losses_of(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The losses that count at `step` by name, unweighted."""
        gt = toned(batch.sample.gt, batch.sample.lq, self.network.tone_radius)
        enlarged = self._enlarged(self.generator, batch)
        losses = {}
        if self.losses.reconstruction > 0:
            losses["reconstruction"] = reconstruction_loss(enlarged, gt)
        network, layer_weights = self.loss_networks.perceptual, self.loss_networks.layer_weights
        if network is not None and layer_weights is not None and step > self.distillation.perceptual_start_step:
            enlarged, gt = _same_piece(enlarged, gt, self.preset.perceptual_crop)
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
        return float(self.optimizers.optimizers["generator"].param_groups[0]["lr"])

    def images(self, batch: Batch) -> list[Tensor]:
        """The patch resampled bicubically, what the moving average makes of it, and what the teacher makes of it."""
        resampled = F.interpolate(batch.sample.lq, scale_factor=float(self.network.scale), mode="bicubic")
        with torch.no_grad(), self.optimizers.autocast():
            enlarged = self._enlarged(self.average, batch)
        return [resampled.clamp(-1, 1), enlarged.float().clamp(-1, 1), batch.sample.gt]

    def export(self, folder: Path, step: int) -> Path:
        """Writes the moving average as `background.safetensors`, in half precision, ready for `run`."""
        path = folder / BACKGROUND_NAME
        metadata = {
            "network": "srvgg",
            **{name: json.dumps(value) for name, value in self.sizes().items()},
            "preset": self.config.preset_name,
            "teacher": teacher_name(self.config),
            "step": str(step),
            "trained_with": f"gfprestore {__version__}",
        }
        write_weights(self.average.state_dict(), metadata, path, torch.float16)
        return path

    def _enlarged(self, module: SRVGGNetCompact, batch: Batch) -> Tensor:
        """What a student makes of the patches: (B, 3, S, S) in [-1, 1] to (B, 3, S * scale, S * scale)."""
        enlarged: Tensor = module((batch.sample.lq + 1) / 2)
        return enlarged * 2 - 1


def toned(gt: Tensor, lq: Tensor, radius: int) -> Tensor:
    """The teacher's image with the tones of the patch, where the student keeps them.

    The teacher makes patches lighter or darker, some by ten levels; a student that cannot would see little else in L1.

    Args:
        gt: (B, 3, S * scale, S * scale).
        lq: (B, 3, S, S).
        radius: Pixels of the lq over which tones are kept; 0 for none.

    Returns:
        `gt` less the mean of what it changed, over the square of `radius` around each pixel of the lq: as the student
        frees its own detail of its mean.
    """
    if radius <= 0:
        return gt
    scale = gt.shape[2] // lq.shape[2]
    change = box_mean(F.avg_pool2d(gt, scale) - lq, radius)
    return gt - F.interpolate(change, scale_factor=float(scale), mode="nearest")


def prepare_to_learn(student: SRVGGNetCompact) -> None:
    """Sets random weights from which a plain stack of convolutions learns at once; drawn from torch's generator.

    The usual random weights lose the image within some ten layers, and its mean lightness hides its detail. Here the
    first layer sees differences between neighbors and the colors of a pixel, each with both signs, so that what one
    feature loses at zero another keeps; the inner layers hand on what they get, with some of everything mixed in; the
    last one adds nothing to the repeated pixels yet.
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
    """The student that `--weights` names; None to start from random weights.

    Raises:
        WeightsMissingError: There is no such file.
        WeightsDamagedError: The file is damaged.
        WeightsUnsafeError: It holds pickled code.
        WeightsMismatchError: It is no SRVGGNetCompact, or one of other sizes.
    """
    if config.weights is None:
        return None
    network = load_network(config.weights, "background")
    wanted = student_config(config)
    if network.config != wanted:
        raise WeightsMismatchError(
            f"{config.weights} is {network.name} with {network.config}, and the training is of {wanted}. "
            "Start from a file of the same sizes, or leave out --weights."
        )
    return network


def open_teacher(config: TrainConfig, store: WeightsStore, device: torch.device) -> Background:
    """The network that is copied, as `run` uses it.

    Raises:
        WeightsError: Its weights are missing, damaged or of another network.
    """
    name = teacher_name(config)
    module = store.load(name).module
    assert isinstance(module, (RRDBNet, SRVGGNetCompact))
    return NetworkBackground(module, name, device)


def student_config(config: TrainConfig) -> SRVGGConfig:
    """The sizes of the network that learns."""
    distillation = config.preset.distillation
    assert distillation is not None
    return SRVGGConfig(
        distillation.scale,
        distillation.features,
        distillation.convolutions,
        tone_radius=distillation.tone_radius,
    )


def teacher_name(config: TrainConfig) -> str:
    """The name of the network that is copied."""
    assert config.preset.distillation is not None
    return config.preset.distillation.teacher


def _same_piece(enlarged: Tensor, gt: Tensor, side: int | None) -> tuple[Tensor, Tensor]:
    """A square of both batches at the same random place; drawn from torch's generator."""
    if side is None or side >= gt.shape[2]:
        return enlarged, gt
    top, left = torch.randint(gt.shape[2] - side + 1, (2,)).tolist()
    place = (slice(None), slice(None), slice(top, top + side), slice(left, left + side))
    return enlarged[place], gt[place]
