"""What a training recipe is: batches in, mean losses out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from gfprestore.data.face_dataset import Sample
from gfprestore.training.training_state import (
    Sizes,
)


class MeanLosses:
    """Losses by name, each the mean over the parts of a step."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.values: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor) -> None:
        """Adds one part's loss."""
        share = value.detach() / self.parts
        self.values[name] = self.values[name] + share if name in self.values else share


Tell = Callable[[str], None]


@dataclass(frozen=True)
class Batch:
    """Images that are computed together.

    Attributes:
        sample: The images, batched.
        seeds: One an image, of whatever is drawn for it; they depend on its place in the stream alone.
    """

    sample: Sample
    seeds: list[int]


class Recipe(Protocol):
    """Networks, losses and optimizers of one stage."""

    def step(self, batches: Sequence[Batch], step: int, learning_rate_scale: float) -> dict[str, Tensor]:
        """Learns from one step's images, given in parts; returns scalars by name, `step` 1 being the first."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that learned, as tensors and plain values."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes over what `state` gave."""
        ...

    def sizes(self) -> Sizes:
        """What must be the same for a state to fit."""
        ...

    def is_finite(self) -> bool:
        """Whether all weights are numbers."""
        ...

    def learning_rate(self) -> float:
        """The generator's learning rate of the last step."""
        ...

    def images(self, batch: Batch) -> list[Tensor]:
        """Columns of the sample image: (B, 3, S, S) RGB in [-1, 1] each."""
        ...

    def export(self, folder: Path, step: int) -> Path:
        """Writes the weights that are worth using; returns the file."""
        ...
