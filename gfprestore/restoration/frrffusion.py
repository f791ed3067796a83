"""FRRffusion (Applied Soft Computing 2025) behind the Restorer protocol: estimates a face before it was retouched.

A crop of 256 pixels passes through FMAR, a diffusion model, and its result through HFDG, a transformer that enlarges it
to 1024. Beyond the paper, six levels tell FMAR how strongly the face was retouched; they are given or estimated. A face
whose estimated levels are low counts as untouched and is not changed.

Crops are (B, 3, S, S) float RGB in [-1, 1] on the FFHQ five-point template. The noise of a face comes from its own
seed, drawn on the CPU, so that a result depends neither on the batch nor on the device's generator.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gfprestore.device import is_out_of_memory, release_memory
from gfprestore.errors import UsageError
from gfprestore.networks.diffusion_unet import COMPACT_TIMESTEPS, DiffusionUNet
from gfprestore.networks.frrffusion import FRRffusion
from gfprestore.networks.gaussian_diffusion import face_noise
from gfprestore.networks.hat import HAT
from gfprestore.networks.level_estimator import LevelEstimator
from gfprestore.networks.retouching_operations import OPERATIONS
from gfprestore.restoration.options import ReversalOptions
from gfprestore.restoration.restorers import FaceLimits, in_smaller_batches

ESTIMATE_LABEL = (
    "Faces in this photo were estimated by a neural network (face retouching reversal). "
    "They are no evidence of how a person looks."
)
"""Label of written photos."""

DEFAULT_STEPS = 50
"""DDIM steps of a network that paints the whole face, as the paper's does."""

FIXED_LEVEL = 1.0
"""Level of all operations in deepFRR; used where the file has no level estimator."""

UNTOUCHED_MEAN_LEVEL = 0.35
"""A face whose estimated levels have a lower mean counts as untouched; measured, see the model card."""

CHANGE_LEVELS = (4.0, 10.0)
"""Changes by the reversal, in levels of 255, that are not pasted and that are pasted in full outside the face."""

CHANGE_RADIUS = 5
"""Pixels, of 256, by which the changed places grow and are softened."""

CHANGE_BORDER = 0.06
"""Share of the crop's side over which the changed places fade out at its borders."""

LIMITS = FaceLimits(least_side=(64.0, 96.0))
"""Faces that are reversed: a smaller crop shows nothing of what a retouching did."""

HAT_TILE, HAT_OVERLAP = 64, 16
"""Tiles of HFDG in pixels of its input, used where the memory is too small for a whole face."""


@dataclass(frozen=True)
class Reversed:
    """A batch of reversed faces, float32 on the CPU.

    Attributes:
        levels: Levels (B, 6) in [0, 1] that were assumed, in the order of `OPERATIONS`.
        untouched: Faces (B,) that were taken for untouched; they are returned as they came.
        at_256: Result of FMAR (B, 3, 256, 256) in [-1, 1]. A face that could not be computed is NaN.
        at_1024: Result of HFDG (B, 3, 1024, 1024) in [-1, 1], for an untouched face a bicubic enlargement; None without
            HFDG.
    """

    levels: Tensor
    untouched: Tensor
    at_256: Tensor
    at_1024: Tensor | None

    @property
    def restored(self) -> Tensor:
        """The last stage's result (B, 3, T, T)."""
        return self.at_256 if self.at_1024 is None else self.at_1024

    def changed_places(self, crops: Tensor) -> NDArray[np.float32]:
        """Masks (B, T, T) of what changed, see `changed_places`; 0 for a face that could not be computed."""
        masks = changed_places(crops, self.at_256, self.restored.shape[-1])
        return np.asarray(masks.nan_to_num(0), np.float32)


class FRRffusionRestorer:
    """FRRffusion behind the Restorer protocol.

    Args:
        module: The networks, float32; FMAR is required.
        name: Name shown in reports.
        device: Device to compute on.
        dtype: float32, or a half precision that the device supports.
        options: Options of the reversal.

    Attributes:
        takes_levels: Whether FMAR reads levels; otherwise given ones are ignored.

    Raises:
        UsageError: The options ask for something that the networks cannot do.
    """

    limits: FaceLimits | None = LIMITS

    def __init__(
        self,
        module: FRRffusion,
        name: str,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        options: ReversalOptions | None = None,
    ) -> None:
        assert module.fmar is not None
        self.name = name
        self.device = device
        self.dtype = dtype
        self.options = options or ReversalOptions()
        self.input_size = module.fmar.config.size
        self.output_size = self.input_size * (module.hfdg.config.scale if module.hfdg is not None else 1)
        self._diffusion = module.fmar.config.diffusion()
        self._timesteps = _timesteps_of(module.fmar, self.options)
        self.takes_levels = module.fmar.config.levels
        if self.options.levels is not None and not self.takes_levels:
            raise UsageError(f"{name} does not use levels of retouching. Remove --retouch-levels.")
        module = module.to(memory_format=torch.channels_last).to(device, dtype).eval()
        assert module.fmar is not None
        self._fmar: DiffusionUNet = module.fmar
        self._estimator: LevelEstimator | None = module.level_estimator
        self._hfdg: HAT | None = module.hfdg

    def restore(self, crops: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """See `Restorer.restore`.

        Raises:
            DeviceError: The memory is too small for a single face.
        """
        return self.reverse(crops, seeds).restored

    def reverse(self, crops: Tensor, seeds: Sequence[int] | None = None, levels: Tensor | None = None) -> Reversed:
        """Estimate the faces before retouching.

        Args:
            crops: Retouched faces (B, 3, S, S) in [-1, 1], S being `input_size`.
            seeds: One random seed per face; None gives every face the same noise.
            levels: Levels (B, 6) in [0, 1] to use as they are; None uses those of the options, or estimates them.

        Returns:
            The reversed faces, with the levels that were assumed.

        Raises:
            DeviceError: The memory is too small for a single face.
        """
        crops = crops.detach().float().cpu()
        assumed, untouched = self._levels_of(crops, levels)
        touched = (~untouched).nonzero().flatten().tolist()
        at_256 = crops.clone()
        if touched:

            def sample(part: slice) -> Tensor:
                rows = touched[part]
                generators = [torch.Generator().manual_seed(0 if seeds is None else seeds[row]) for row in rows]
                return self._sampled(crops[rows], assumed[rows], generators)

            at_256[touched] = in_smaller_batches(sample, len(touched), self.device, self._one_face)
        at_1024 = None
        if self._hfdg is not None:
            scale = self._hfdg.config.scale
            at_1024 = F.interpolate(at_256, scale_factor=float(scale), mode="bicubic").clamp(-1, 1)
            if touched:
                at_1024[touched] = self.enlarge(at_256[touched])
        return Reversed(assumed, untouched, at_256, at_1024)

    def enlarge(self, faces: Tensor) -> Tensor:
        """Enlarge faces with HFDG alone.

        Args:
            faces: (B, 3, S, S) in [-1, 1].

        Returns:
            (B, 3, scale * S, scale * S) in [-1, 1], float32 on the CPU.

        Raises:
            UsageError: The weights have no HFDG.
            DeviceError: The memory is too small for a tile of one face.
        """
        if self._hfdg is None:
            raise UsageError(f"{self.name} has no second stage (HFDG), which enlarges faces.")
        return torch.cat([self._enlarged(face.unsqueeze(0)) for face in faces])

    @property
    def _one_face(self) -> str:
        return f"one face of {self.input_size} px with {self.name}"

    @torch.inference_mode()
    def _levels_of(self, crops: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
        """Levels (B, 6) and which faces are untouched (B,)."""
        none_untouched = torch.zeros(len(crops), dtype=torch.bool)
        if given is None and self.options.levels is not None:
            given = torch.tensor(self.options.levels).expand(len(crops), -1)
        if given is not None:
            return given.float().cpu(), (given.cpu() <= 0).all(1) if self.takes_levels else none_untouched
        if self._estimator is None or not self.takes_levels:
            return torch.full((len(crops), len(OPERATIONS)), FIXED_LEVEL), none_untouched
        levels = torch.cat([self._estimated(self._estimator, crop.unsqueeze(0)) for crop in crops])
        return levels, levels.mean(1) < UNTOUCHED_MEAN_LEVEL

    def _estimated(self, estimator: LevelEstimator, crop: Tensor) -> Tensor:
        """Levels (1, 6) of one face, the mean of those of the crop and of its mirror image.

        They are computed in float32 where a half precision gives no finite result.
        """
        both = self._on_device(torch.cat([crop, crop.flip(3)]))
        levels: Tensor = estimator(both)
        if not bool(levels.isfinite().all()) and self.dtype != torch.float32:
            levels = copy.deepcopy(estimator).float()(both)
        return levels.mean(0, keepdim=True).cpu()

    @torch.inference_mode()
    def _sampled(self, crops: Tensor, levels: Tensor, generators: list[torch.Generator]) -> Tensor:
        """FMAR's estimate (B, 3, S, S) for crops on the CPU; NaN where no precision gives a finite result."""
        states = [generator.get_state() for generator in generators]
        result = self._sampled_with(self._fmar, crops, levels, generators)
        if self.dtype == torch.float32:
            return result
        broken = (~result.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
        full = copy.deepcopy(self._fmar).float() if broken else self._fmar
        for index in broken:
            generators[index].set_state(states[index])
            rows = slice(index, index + 1)
            result[rows] = self._sampled_with(full, crops[rows], levels[rows], generators[rows])
        return result

    def _sampled_with(
        self, fmar: DiffusionUNet, crops: Tensor, levels: Tensor, generators: list[torch.Generator]
    ) -> Tensor:
        noise = face_noise(generators, self.input_size, self.input_size, self.device)
        retouched = crops.to(self.device, memory_format=torch.channels_last)
        denoiser = fmar.denoiser(retouched, levels.to(self.device) if self.takes_levels else None)
        if self.options.sampler == "ddpm":
            result = self._diffusion.sample_ddpm(denoiser, noise, generators)
        else:
            result = self._diffusion.sample_ddim(
                denoiser, noise, self._timesteps, eta=self.options.eta, generators=generators
            )
        result = result.float().cpu()
        finite = result.isfinite().flatten(1).all(1)
        return result.clamp(-1, 1).masked_fill(~finite[:, None, None, None], torch.nan)

    @torch.inference_mode()
    def _enlarged(self, face: Tensor) -> Tensor:
        assert self._hfdg is not None
        if not bool(face.isfinite().all()):
            scale = float(self._hfdg.config.scale)
            return F.interpolate(face, scale_factor=scale, mode="nearest")
        try:
            result = self._hfdg(face.to(self.device))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            release_memory(self.device)
            result = in_smaller_batches(lambda _: self._in_tiles(face), 1, self.device, self._one_face)
        if not bool(result.isfinite().all()) and self.dtype != torch.float32:
            result = copy.deepcopy(self._hfdg).float()(face.to(self.device))
        enlarged: Tensor = result.float().cpu().clamp(-1, 1)
        return enlarged

    def _in_tiles(self, face: Tensor) -> Tensor:
        assert self._hfdg is not None
        return self._hfdg.forward_in_tiles(face.to(self.device), tile=HAT_TILE, overlap=HAT_OVERLAP)

    def _on_device(self, crops: Tensor) -> Tensor:
        return crops.to(self.device, memory_format=torch.channels_last)


def changed_places(crops: Tensor, at_256: Tensor, size: int) -> Tensor:
    """Masks of what a reversal changed, for pasting.

    A face that becomes wider or taller again covers hair and background outside the usual face-shaped mask, which would
    leave the old contour beside the new one. Where the reversal changed nothing, the photo's own pixels are sharper.

    Args:
        crops: Retouched faces (B, 3, S, S) in [-1, 1].
        at_256: What the first stage made of them, of the same shape.
        size: Side of the masks.

    Returns:
        (B, size, size) float32: 1 where the two differ, softly falling to 0 where they do not and toward the borders.
    """
    difference = (at_256 - crops.float().cpu()).abs().amax(1, keepdim=True) * 127.5
    near = F.max_pool2d(difference, 2 * CHANGE_RADIUS + 1, 1, CHANGE_RADIUS)
    low, high = CHANGE_LEVELS
    mask = ((near - low) / (high - low)).clamp(0, 1)
    mask = F.avg_pool2d(mask, 2 * CHANGE_RADIUS + 1, 1, CHANGE_RADIUS, count_include_pad=False)
    mask = F.interpolate(mask, size=(size, size), mode="bilinear", align_corners=False)
    edge = (torch.arange(size) + 0.5).div(size * CHANGE_BORDER)
    fading = torch.minimum(edge, edge.flip(0)).clamp(0, 1)
    return mask[:, 0] * fading * fading.view(-1, 1)


def _timesteps_of(fmar: DiffusionUNet, options: ReversalOptions) -> int | tuple[int, ...]:
    """Timesteps for the DDIM sampler.

    Raises:
        UsageError: There are not as many.
    """
    config = fmar.config
    if options.sampling_steps is None:
        fits = config.prior_std > 0 and COMPACT_TIMESTEPS[0] < config.timesteps
        return COMPACT_TIMESTEPS if fits else min(DEFAULT_STEPS, config.timesteps)
    if options.sampling_steps > config.timesteps:
        raise UsageError(f"--sampling-steps must be at most {config.timesteps}, not {options.sampling_steps}.")
    return options.sampling_steps
