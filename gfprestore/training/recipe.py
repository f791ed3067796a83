"""The interface of a training recipe: batches in, mean losses out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from gfprestore.data.face_dataset import Sample
from gfprestore.training.training_state import Sizes


class MeanLosses:
    """Losses by name, each averaged over the parts of a step.

    Args:
        parts: Number of parts that the images of a step are split into.
    """

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.values: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor) -> None:
        """Add the loss of one part."""
        share = value.detach() / self.parts
        self.values[name] = self.values[name] + share if name in self.values else share

    def add_all(self, losses: Mapping[str, Tensor]) -> None:
        """Add several losses of one part."""
        for name, value in losses.items():
            self.add(name, value)


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of the losses, each multiplied by its weight; losses without a weight are skipped."""
    return torch.stack([weights[name] * value for name, value in losses.items() if name in weights]).sum()


@dataclass(frozen=True)
class Batch:
    """Images that pass through the networks together.

    Attributes:
        sample: The images, batched.
        seeds: One random seed per image. It depends only on the image's position in the stream.
    """

    sample: Sample
    seeds: list[int]


class Recipe(Protocol):
    """Networks, losses and optimizers of one training stage."""

    def step(self, batches: Sequence[Batch], step: int, learning_rate_scale: float) -> dict[str, Tensor]:
        """Run one training step.

        Args:
            batches: The images of the step, in parts.
            step: Number of the step; the first is 1.
            learning_rate_scale: Factor on all learning rates.

        Returns:
            Scalars to log, by name.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Everything that training changes, as tensors and plain values."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the result of `state`."""
        ...

    def sizes(self) -> Sizes:
        """Values that must be equal for a saved state to fit."""
        ...

    def is_finite(self) -> bool:
        """Whether no weight is NaN or infinite."""
        ...

    def learning_rate(self) -> float:
        """Learning rate of the generator in the last step."""
        ...

    def images(self, batch: Batch) -> list[Tensor]:
        """Columns of the sample image, each (B, 3, S, S) RGB in [-1, 1]."""
        ...

    def export(self, folder: Path, step: int) -> Path:
        """Write the trained weights and return the path of the file."""
        ...
