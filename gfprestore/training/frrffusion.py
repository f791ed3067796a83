"""What the recipes of FRRffusion's two stages share: initial weights, moving average, checkpoint and export.

Each stage trains some parts of a weights file, see `networks.frrffusion`. The other parts of the initial weights are
written to the export as they are, so that the second stage's file holds both stages.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gfprestore.errors import WeightsMismatchError
from gfprestore.networks.configs import PARTS, FRRffusionConfig
from gfprestore.networks.frrffusion import FRRffusion, part_of
from gfprestore.training.config import TrainConfig
from gfprestore.training.distributed import World
from gfprestore.training.module_recipe import ModuleRecipe
from gfprestore.training.optimizers import Optimizers, initialize_average, move_to_device
from gfprestore.training.recipe import Batch
from gfprestore.training.training_state import Sizes, weights_metadata, write_weights
from gfprestore.weights.checkpoints import load_network

FRRFFUSION_NAME = "frrffusion.safetensors"
PART_TITLES = {"fmar": "FMAR", "level_estimator": "level estimator", "hfdg": "HFDG (HAT)"}


@dataclass(frozen=True)
class InitialParts:
    """Weights that a stage of FRRffusion starts from.

    Attributes:
        module: The networks of `--weights`; None without that option.
        path: Its file.
    """

    module: FRRffusion | None = None
    path: Path | None = None


def open_initial_parts(config: TrainConfig) -> InitialParts:
    """Load the networks of `--weights`.

    Raises:
        WeightsMissingError: The file does not exist.
        WeightsDamagedError: The file is damaged.
        WeightsUnsafeError: The file holds pickled code.
        WeightsMismatchError: The file is not FRRffusion, or the part that the stage trains has other sizes.
    """
    if config.weights is None:
        return InitialParts()
    network = load_network(config.weights, "restorer")
    if not isinstance(network.module, FRRffusion):
        raise WeightsMismatchError(
            f"{config.weights} is {network.name}, but the stage {config.stage} needs FRRffusion. "
            "Use a file of the stage fmar or hfdg, or omit --weights."
        )
    found, wanted = network.module.config, config.preset.reversal_network(config.stage)
    for part in wanted.parts:
        in_file, in_training = getattr(found, part), getattr(wanted, part)
        if in_file not in (None, in_training):
            training = asdict(in_training)
            differences = ", ".join(
                f"{name} {_text(value)} instead of {_text(training[name])}"
                for name, value in asdict(in_file).items()
                if value != training[name]
            )
            raise WeightsMismatchError(
                f"The {PART_TITLES[part]} in {config.weights} has other sizes than the training: {differences}. Use "
                "another --preset or --size, or omit --weights."
            )
    return InitialParts(network.module, config.weights)


class FRRffusionRecipe(ModuleRecipe):
    """Training of some parts of FRRffusion. A subclass adds the losses and the sample images.

    Args:
        config: Configuration of the training.
        initial: Initial weights; parts that it lacks start from random weights.
        device: Device of the computation.
        dtype: Precision of the computation; the weights are float32.
        world: The processes that train together.
    """

    def __init__(
        self,
        config: TrainConfig,
        initial: InitialParts,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        world: World | None = None,
    ) -> None:
        assert config.preset.reversal is not None
        self.config = config
        self.preset = config.preset
        self.reversal = config.preset.reversal
        self.device = device
        self.network: FRRffusionConfig = config.preset.reversal_network(config.stage)
        torch.manual_seed(config.seed)  # for the random initial weights
        self.module: FRRffusion = self.build(self.network)
        self.kept: dict[str, Tensor] = {}  # tensors of the parts that this stage does not train
        if initial.module is not None:
            state = initial.module.state_dict()
            for part in PARTS:
                if part not in self.network.parts:
                    self.kept |= {f"{part}.{name}": tensor for name, tensor in part_of(state, part).items()}
                elif getattr(initial.module, part) is not None:
                    getattr(self.module, part).load_state_dict(part_of(state, part))
        move_to_device(self.module, device)
        self.average: FRRffusion = self.build(self.network)
        initialize_average(self.average, self.module, device)
        self.optimizers = Optimizers(device, dtype, world or World())
        self.add_optimizers()

    @abstractmethod
    def build(self, network: FRRffusionConfig) -> FRRffusion:
        """The parts that this stage trains, with random weights."""

    @abstractmethod
    def add_optimizers(self) -> None:
        """Add the optimizers of the parts."""

    @abstractmethod
    def images(self, batch: Batch) -> list[Tensor]:
        """See `Recipe.images`."""

    def sizes(self) -> Sizes:
        """See `Recipe.sizes`."""
        return {"stage": self.config.stage, **_flat_sizes(self.network)}

    def export(self, folder: Path, step: int) -> Path:
        """Write `frrffusion.safetensors`: the moving average and the parts that are not trained, ready for `run`."""
        path = folder / FRRFFUSION_NAME
        metadata = weights_metadata("frrffusion", self.sizes(), self.config.preset_name, step)
        dtype = torch.float16 if self.preset.exports_half else torch.float32
        write_weights({**self.kept, **self.average.state_dict()}, metadata, path, dtype)
        return path


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _flat_sizes(network: FRRffusionConfig) -> Sizes:
    """Sizes of all parts by names such as `fmar.channels`."""
    sizes: Sizes = {}
    for part in network.parts:
        values: Mapping[str, Any] = asdict(getattr(network, part))
        sizes |= {f"{part}.{name}": list(item) if isinstance(item, tuple) else item for name, item in values.items()}
    return sizes
