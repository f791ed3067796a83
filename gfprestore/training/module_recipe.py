"""What the recipes have in common that train one module with its moving average, all parts in every step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from gfprestore.training.optimizers import Optimizers, all_finite, update_average
from gfprestore.training.presets import Preset
from gfprestore.training.recipe import Batch, MeanLosses


class ModuleRecipe(ABC):
    """Training of one module. A subclass creates the attributes and adds losses, sizes, sample images and export.

    Attributes:
        preset: The preset.
        module: The module, float32.
        average: Its moving average.
        optimizers: Optimizers of the parts of the module, at least one.
    """

    preset: Preset
    module: nn.Module
    average: nn.Module
    optimizers: Optimizers

    @abstractmethod
    def losses_of(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Losses by name, and their weighted sum; called in the precision of the training."""

    def step(self, batches: Sequence[Batch], step: int, learning_rate_scale: float) -> dict[str, Tensor]:
        """See `Recipe.step`."""
        mean_losses = MeanLosses(len(batches))
        names = list(self.optimizers.optimizers)
        self.optimizers.clear(*names)
        for batch in batches:
            with self.optimizers.autocast():
                losses, total = self.losses_of(batch)
            mean_losses.add_all(losses)
            self.optimizers.backward(total / mean_losses.parts)
        factor = self.preset.learning_rate_factor(step) * learning_rate_scale
        for name in names:
            self.optimizers.apply(name, factor, self.preset.max_grad_norm)
        self.optimizers.finish()
        update_average(self.average, self.module, step, self.preset.ema_half_life)
        return mean_losses.values

    def state(self) -> dict[str, Any]:
        """See `Recipe.state`."""
        return {
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "updates": self.optimizers.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Recipe.load_state`."""
        self.module.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimizers.load_state(state["updates"])

    def is_finite(self) -> bool:
        """See `Recipe.is_finite`."""
        return all_finite(self.module)

    def learning_rate(self) -> float:
        """See `Recipe.learning_rate`."""
        return self.optimizers.learning_rate(next(iter(self.optimizers.optimizers)))
