"""FRRffusion (Applied Soft Computing 2025): the networks of one weights file, for face retouching reversal.

FMAR, a diffusion model, reverses the retouching at 256 pixels; HFDG, a transformer, enlarges its result to 1024. Beyond
the paper, a level estimator tells FMAR how strongly the face was retouched. A file may hold one part or several. Our
files prefix the tensor names with the part's name; a file of the official names alone is one part.

Images are (B, 3, H, W) float RGB in [-1, 1]. Pure torch: opens no file, chooses no device.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from gfprestore.networks import diffusion_unet, hat, level_estimator
from gfprestore.networks.configs import (
    FMAR,
    HFDG,
    LEVEL_ESTIMATOR,
    PARTS,
    FRRffusionConfig,
)
from gfprestore.networks.diffusion_unet import DiffusionUNet
from gfprestore.networks.hat import HAT
from gfprestore.networks.level_estimator import LevelEstimator


class FRRffusion(nn.Module):
    """The parts of FRRffusion; how they work together is in `restoration.frrffusion`.

    Args:
        config: Sizes.
    """

    def __init__(self, config: FRRffusionConfig) -> None:
        super().__init__()
        self.config = config
        self.fmar = None if config.fmar is None else DiffusionUNet(config.fmar)
        self.level_estimator = None if config.level_estimator is None else LevelEstimator(config.level_estimator)
        self.hfdg = None if config.hfdg is None else HAT(config.hfdg)


def prefixed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with the names that `FRRffusion` expects.

    Args:
        state: Tensors by name, of any network.

    Returns:
        The tensors of a single part with its official names get its prefix; others keep their names.
    """
    readers = (diffusion_unet.config_from_state, level_estimator.config_from_state, hat.config_from_state)
    for part, read in zip(PARTS, readers, strict=True):
        if read(state) is not None:
            return {f"{part}.{name}": tensor for name, tensor in state.items()}
    return dict(state)


def part_of(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part without its prefix."""
    prefix = f"{part}."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def config_from_state(state: Mapping[str, Tensor]) -> FRRffusionConfig | None:
    """Recognize FRRffusion by its tensor names and read the sizes from their shapes.

    Args:
        state: Tensors by name, with prefixes; see `prefixed`.

    Returns:
        The configuration to build the network with; None for another network, or where the shapes of a part are
        inconsistent.
    """
    parts = {part: part_of(state, part) for part in PARTS}
    fmar = diffusion_unet.config_from_state(parts[FMAR])
    estimator = level_estimator.config_from_state(parts[LEVEL_ESTIMATOR])
    hfdg = hat.config_from_state(parts[HFDG])
    found = {FMAR: fmar, LEVEL_ESTIMATOR: estimator, HFDG: hfdg}
    if not any(parts.values()) or any(parts[part] and found[part] is None for part in PARTS):
        return None
    return FRRffusionConfig(fmar, estimator, hfdg)
