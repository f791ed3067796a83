"""The recipe of the stage damage: a network finds the damage of prints.

Images are (B, 3, S, S) RGB in [-1, 1], masks (B, 1, S, S) in [0, 1].
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from gfprestore.data.damage_patches import DamagePatches, DamagePatchOptions
from gfprestore.errors import WeightsMismatchError
from gfprestore.networks.damage_unet import DamageUNet
from gfprestore.training.config import TrainConfig
from gfprestore.training.distributed import World
from gfprestore.training.module_recipe import ModuleRecipe
from gfprestore.training.optimizers import Optimizers, initialize_average, move_to_device
from gfprestore.training.recipe import Batch
from gfprestore.training.training_state import Sizes, weights_metadata, write_weights
from gfprestore.weights.checkpoints import LoadedNetwork, load_network

DAMAGE_NAME = "damage.safetensors"

SHOWN = (1.0, -1.0, -1.0)
"""Color of damage in sample images."""


class DamageRecipe(ModuleRecipe):
    """Training of a damage detector.

    Args:
        config: Configuration of the training.
        initial_network: Network with the initial weights; None starts from random weights.
        device: Device of the computation.
        dtype: Precision of the computation; the weights are float32.
        world: The processes that train together.
    """

    def __init__(
        self,
        config: TrainConfig,
        initial_network: LoadedNetwork | None,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        world: World | None = None,
    ) -> None:
        assert config.preset.damage is not None
        self.preset = config.preset
        self.preset_name = config.preset_name
        self.damage = config.preset.damage
        self.network = self.damage.detector
        torch.manual_seed(config.seed)  # for the random initial weights
        self.module: DamageUNet = DamageUNet(self.network)
        if initial_network is not None:
            self.module.load_state_dict(initial_network.module.state_dict())
        move_to_device(self.module, device)
        self.average: DamageUNet = DamageUNet(self.network)
        initialize_average(self.average, self.module, device)
        self.optimizers = Optimizers(device, dtype, world or World())
        groups = [(list(self.module.parameters()), self.preset.learning_rate)]
        self.optimizers.add("detector", groups, self.preset.betas, self.damage.weight_decay)

    def losses_of(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Cross entropy of the pixels, and 1 - Dice coefficient of all masks together (Milletari et al., 3DV 2016)."""
        mask, logits = batch.sample.mask, self._logits(self.module, batch)
        assert mask is not None
        with self.optimizers.autocast(enabled=False):
            probability = logits.sigmoid()
            both = (probability * mask).sum()
            losses = {
                "entropy": F.binary_cross_entropy_with_logits(logits, mask),
                "overlap": 1 - (2 * both + 1) / (probability.sum() + mask.sum() + 1),
            }
            return losses, losses["entropy"] + self.damage.overlap_weight * losses["overlap"]

    def sizes(self) -> Sizes:
        """See `Recipe.sizes`."""
        return {
            "stage": "damage",
            "channels": list(self.network.channels),
            "blocks": self.network.blocks,
            "unshuffle": self.network.unshuffle,
        }

    def images(self, batch: Batch) -> list[Tensor]:
        """The damaged print, what the moving average finds in it, and the true damage."""
        with torch.no_grad(), self.optimizers.autocast():
            found = self._logits(self.average, batch).sigmoid()
        assert batch.sample.mask is not None
        lq = batch.sample.lq
        color = torch.tensor(SHOWN, device=lq.device).view(3, 1, 1)
        return [lq, *(lq * (1 - mask) + color * mask for mask in (found, batch.sample.mask))]

    def export(self, folder: Path, step: int) -> Path:
        """Write the moving average as `damage.safetensors`, in float16."""
        path = folder / DAMAGE_NAME
        metadata = weights_metadata("damage-unet", self.sizes(), self.preset_name, step)
        write_weights(self.average.state_dict(), metadata, path, torch.float16)
        return path

    @staticmethod
    def _logits(module: DamageUNet, batch: Batch) -> Tensor:
        logits: Tensor = module((batch.sample.lq + 1) / 2)
        return logits


def open_damage_patches(config: TrainConfig) -> DamagePatches:
    """Open the stream of damaged patches.

    Raises:
        FolderError: The data cannot be used.
    """
    damage = config.preset.damage
    assert damage is not None
    options = DamagePatchOptions(config.preset.size, damage.clean, damage.lettered, config.preset.degradation)
    return DamagePatches(config.data, options, config.seed)


def open_detector(config: TrainConfig) -> LoadedNetwork | None:
    """Load the detector of `--weights`; None if the training starts from random weights.

    Raises:
        WeightsMissingError: The file does not exist.
        WeightsDamagedError: The file is damaged.
        WeightsUnsafeError: The file holds pickled code.
        WeightsMismatchError: The file is not a DamageUNet, or has other sizes.
    """
    if config.weights is None:
        return None
    assert config.preset.damage is not None
    network = load_network(config.weights, "damage")
    if network.config != config.preset.damage.detector:
        raise WeightsMismatchError(
            f"{config.weights} is {network.name} with {network.config}, but the training needs "
            f"{config.preset.damage.detector}. Use a file of the same sizes, or omit --weights."
        )
    return network
