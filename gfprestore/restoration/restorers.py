"""Restorers: one protocol for every network that turns a degraded face crop into a restored one.

Crops are (B, 3, S, S) float RGB in [-1, 1] on the FFHQ five-point template. A result never depends on who shared its
batch: randomness comes per face as a seed. Out of memory makes the batch smaller; a half-precision result that is not
finite, or black where the input was not, is computed again in fp32.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gfprestore.device import is_out_of_memory, release_memory
from gfprestore.errors import DeviceError
from gfprestore.networks.gfpgan import GFPGAN

# A crop whose mean is this close to -1 is black; a network that turns a brighter input into it has overflowed.
BLACK_LEVEL = -0.98


@dataclass(frozen=True)
class FaceLimits:
    """Which faces a restorer does good, as measured; toward the limits less and less of its image is to be taken.

    Attributes:
        least_side: Side of the crop in pixels of the photo: up to the first number nothing, from the second on all.
        sharpness: Of the crop, see `alignment.crop_sharpness`: up to the first number all, from the second on nothing.
            A face that is sharp already, as large ones are, can only lose.
        most_share: What "all" is: where a face is uncertain, the mean of two guesses is nearer to it than either.
    """

    least_side: tuple[float, float] = (0.0, 1e-6)
    sharpness: tuple[float, float] = (1e9, 1e10)
    most_share: float = 1.0

    def share(self, side: float, sharpness: float) -> float:
        """How much of the restored face to take, 0 to `most_share`.

        Args:
            side: Of the crop in pixels of the photo.
            sharpness: Of the crop.
        """
        small, large = self.least_side
        blurred, sharp = self.sharpness
        shares = ((side - small) / (large - small), (sharp - sharpness) / (sharp - blurred))
        return self.most_share * min(1.0, max(0.0, min(shares)))


class Restorer(Protocol):
    """Turns degraded face crops into restored ones."""

    @property
    def limits(self) -> FaceLimits | None:
        """Which faces it does good; None: all."""

    @property
    def name(self) -> str:
        """The name shown in reports."""

    @property
    def input_size(self) -> int:
        """Side of the square crops that `restore` takes, in pixels."""

    @property
    def output_size(self) -> int:
        """Side of the square crops that `restore` gives, in pixels."""

    def restore(self, crops: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """Crops (B, 3, S, S) in [-1, 1] to restored crops (B, 3, T, T) in [-1, 1], float32 on the CPU.

        Args:
            crops: Degraded faces on any device.
            seeds: One seed a face where the network draws noise; None takes the noise stored with the weights.

        Returns:
            Restored faces. A face that could not be computed in any precision comes back as NaN.

        Raises:
            DeviceError: Memory does not suffice for a single face.
        """


class GFPGANRestorer:
    """GFP-GAN (Wang et al., CVPR 2021) behind the Restorer protocol.

    Args:
        module: The network, float32.
        name: The name shown in reports.
        device: Where to compute.
        dtype: float32, or a half precision that the device computes in.
        limits: Which faces it does good; None: all.
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
            DeviceError: Memory does not suffice for a single face.
        """
        restored: list[Tensor] = []
        batch = len(crops)
        start = 0
        while start < len(crops):
            part = slice(start, min(start + batch, len(crops)))
            try:
                restored.append(self._restore_batch(crops[part], None if seeds is None else list(seeds[part])))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if batch == 1:
                    raise DeviceError(
                        f"{self.device} has too little memory for one face of {self.input_size} px with {self.name}. "
                        "Close other programs, or use --device cpu."
                    ) from error
                batch = (batch + 1) // 2
                release_memory(self.device)
                continue
            start = part.stop
        return torch.cat(restored)

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


def sound_faces(crops: Tensor, restored: Tensor) -> Tensor:
    """Which restored faces (B, 3, T, T) are usable: finite, and not black where the input crop was not; bool (B,)."""
    finite = restored.isfinite().flatten(1).all(dim=1)
    black = restored.clamp(-1, 1).flatten(1).mean(dim=1) < BLACK_LEVEL
    dark_input = crops.float().cpu().flatten(1).mean(dim=1) < BLACK_LEVEL + 0.1
    return finite & ~(black & ~dark_input)
