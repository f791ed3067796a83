"""Restorers: the common protocol of networks that restore degraded face crops.

Crops are (B, 3, S, S) float RGB in [-1, 1] on the FFHQ five-point template. A result never depends on the other
faces in its batch: each face has its own random seed. When memory runs out, the batch is split. A half-precision result
that is NaN, infinite or black (for an input that is not black) is computed again in fp32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gfprestore.device import is_out_of_memory, release_memory
from gfprestore.errors import DeviceError
from gfprestore.networks.gfpgan import GFPGAN

# A crop whose mean is this close to -1 is black; black output for a brighter input means that the network overflowed.
BLACK_LEVEL = -0.98


@dataclass(frozen=True)
class FaceLimits:
    """Measured limits of the faces that a restorer improves; its result is faded out toward the limits.

    Attributes:
        least_side: Side of the crop in photo pixels: weight 0 up to the first number, full weight from the second.
        sharpness: Sharpness of the crop, see `alignment.crop_sharpness`: full weight up to the first number, 0 from the
            second. A face that is already sharp, as large ones are, can only become worse.
        most_share: Full weight: where a face is uncertain, the mean of two guesses is closer to it than either.
    """

    least_side: tuple[float, float] = (0.0, 1e-6)
    sharpness: tuple[float, float] = (1e9, 1e10)
    most_share: float = 1.0

    def share(self, side: float, sharpness: float) -> float:
        """Weight of the restored face, 0 to `most_share`.

        Args:
            side: Side of the crop in photo pixels.
            sharpness: Sharpness of the crop.
        """
        small, large = self.least_side
        blurred, sharp = self.sharpness
        shares = ((side - small) / (large - small), (sharp - sharpness) / (sharp - blurred))
        return self.most_share * min(1.0, max(0.0, min(shares)))


class Restorer(Protocol):
    """Protocol of a network that restores degraded face crops."""

    @property
    def limits(self) -> FaceLimits | None:
        """Limits of the faces that it improves; None: all faces."""

    @property
    def name(self) -> str:
        """Name shown in reports."""

    @property
    def input_size(self) -> int:
        """Side of the input crops in pixels."""

    @property
    def output_size(self) -> int:
        """Side of the restored crops in pixels."""

    def restore(self, crops: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """Restore crops (B, 3, S, S) in [-1, 1] to (B, 3, T, T) in [-1, 1], float32 on the CPU.

        Args:
            crops: Degraded faces on any device.
            seeds: One random seed per face for the network's noise; None uses the noise stored with the weights.

        Returns:
            Restored faces. A face that could not be computed in any precision is NaN.

        Raises:
            DeviceError: The memory is too small for a single face.
        """


class GFPGANRestorer:
    """GFP-GAN (Wang et al., CVPR 2021) behind the Restorer protocol.

    Args:
        module: The network, float32.
        name: Name shown in reports.
        device: Device to compute on.
        dtype: float32, or a half precision that the device supports.
        limits: Limits of the faces that it improves; None: all faces.
    """

    def __init__(
        self,
        module: GFPGAN,
        name: str,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        limits: FaceLimits | None = None,
    ) -> None:
        self.name = name
        self.limits = limits
        self.device = device
        self.dtype = dtype
        self.input_size = self.output_size = module.config.size
        self._module = module.to(memory_format=torch.channels_last).to(device, dtype).eval()
        self._full_precision: GFPGAN | None = module if dtype == torch.float32 else None

    def restore(self, crops: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """See `Restorer.restore`.

        Raises:
            DeviceError: The memory is too small for a single face.
        """

        def compute(part: slice) -> Tensor:
            return self._restore_batch(crops[part], None if seeds is None else list(seeds[part]))

        face = f"one face of {self.input_size} px with {self.name}"
        return in_smaller_batches(compute, len(crops), self.device, face)

    @torch.inference_mode()
    def _restore_batch(self, crops: Tensor, seeds: list[int] | None) -> Tensor:
        lq = crops.to(device=self.device, dtype=self.dtype, memory_format=torch.channels_last)
        restored: Tensor = self._module(lq, noise_seeds=seeds).float().cpu()
        if self.dtype == torch.float32:
            finite = restored.isfinite().flatten(1).all(dim=1)
            return restored.masked_fill(~finite[:, None, None, None], torch.nan)
        again = (~sound_faces(crops, restored)).nonzero().flatten().tolist()
        for index in again:
            seed = None if seeds is None else [seeds[index]]
            single = crops[index : index + 1].to(device=self.device, memory_format=torch.channels_last)
            result = self._full_precision_module()(single, noise_seeds=seed).cpu()[0]
            restored[index] = result if bool(result.isfinite().all()) else torch.nan
        return restored

    def _full_precision_module(self) -> GFPGAN:
        if self._full_precision is None:
            self._full_precision = copy.deepcopy(self._module).float()
        return self._full_precision


def in_smaller_batches(
    compute: Callable[[slice], Tensor], count: int, device: torch.device, face: str, most: int | None = None
) -> Tensor:
    """Compute faces in one batch, and in ever smaller ones while the memory is too small.

    Args:
        compute: Gives the results of some of the faces.
        count: Number of faces, 1 or more.
        device: Device of the computation.
        face: Description of a single face, for the error.
        most: Maximum number of faces in the first batch; None computes all at once.

    Returns:
        The results of all faces, concatenated.

    Raises:
        DeviceError: The memory is too small for a single face.
    """
    results: list[Tensor] = []
    batch = count if most is None else min(most, count)
    start = 0
    while start < count:
        part = slice(start, min(start + batch, count))
        try:
            results.append(compute(part))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if batch == 1:
                raise DeviceError(
                    f"{device} has too little memory for {face}. Close other programs or use --device cpu."
                ) from error
            batch = (batch + 1) // 2
            release_memory(device)
            continue
        start = part.stop
    return torch.cat(results)


def sound_faces(crops: Tensor, restored: Tensor) -> Tensor:
    """Validity (B,) of restored faces (B, 3, T, T): finite, and not black unless the input crop was black."""
    finite = restored.isfinite().flatten(1).all(dim=1)
    black = restored.clamp(-1, 1).flatten(1).mean(dim=1) < BLACK_LEVEL
    dark_input = crops.float().cpu().flatten(1).mean(dim=1) < BLACK_LEVEL + 0.1
    return finite & ~(black & ~dark_input)
