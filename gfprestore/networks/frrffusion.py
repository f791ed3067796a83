"""FRRffusion (Applied Soft Computing 2025): the networks of one weights file, for face retouching reversal.

FMAR, a diffusion model, reverses the retouching at 256 pixels; HFDG, a transformer, enlarges its result to 1024. Beyond
the paper, a level estimator tells FMAR how strongly the face was retouched. A file may hold one part or several. Our
files prefix the tensor names with the part's name; a file of the official names alone is one part.

Images are (B, 3, H, W) float RGB in [-1, 1]. Pure torch: opens no file, chooses no device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from gfprestore.networks import diffusion_unet, hat, level_estimator
from gfprestore.networks.diffusion_unet import DiffusionUNet, DiffusionUNetConfig
from gfprestore.networks.hat import HAT, HATConfig
from gfprestore.networks.level_estimator import LevelEstimator, LevelEstimatorConfig

FMAR, LEVEL_ESTIMATOR, HFDG = PARTS = ("fmar", "level_estimator", "hfdg")
"""Names of the parts, which are also the prefixes of their tensors."""


@dataclass(frozen=True)
class FRRffusionConfig:
    """Sizes of the parts; None for a part that is missing.

    Attributes:
        fmar: The diffusion model of the first stage.
        level_estimator: The estimator of the six levels of retouching.
        hfdg: The transformer of the second stage.

    Raises:
        ValueError: All parts are missing.
    """

    fmar: DiffusionUNetConfig | None = None
    level_estimator: LevelEstimatorConfig | None = None
    hfdg: HATConfig | None = None

    def __post_init__(self) -> None:
        if self.fmar is None and self.level_estimator is None and self.hfdg is None:
            raise ValueError("at least one part is needed")

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that are there."""
        return tuple(name for name in PARTS if getattr(self, name) is not None)


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
