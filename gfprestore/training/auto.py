"""`train --stage auto`: the restoration stage, after a prior was obtained for it.

The paper's restorer starts from a StyleGAN2 prior. Where the folders of weights have none and none can be downloaded, a
prior is trained first, from small images to large ones, each size with the weights of the one before. Imports no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from gfprestore.errors import WeightsMissingError
from gfprestore.training.config import TrainConfig
from gfprestore.training.requirements import PRIOR_NAME, released_start
from gfprestore.weights.store import WeightsStore

log = logging.getLogger(__name__)

SMALLEST_PRIOR = 32
"""Side in pixels of the images of the first prior."""

MakePrior = Callable[[Path, int, int | None], TrainConfig]
"""Makes the configuration of a prior from its output folder, its size, and its number of steps (None: the preset's)."""


def needs_prior(config: TrainConfig, store: WeightsStore) -> bool:
    """Whether a restoration starts from a prior that is neither named nor on this machine.

    Raises:
        WeightsDamagedError: The file of the released prior is damaged.
    """
    if config.weights is not None or config.prior is not None or config.preset.start != "prior":
        return False
    name = _released(config)
    return name is None or store.find(name) is None


def download_prior(config: TrainConfig, store: WeightsStore, progress: Callable[[int, int | None], None]) -> bool:
    """Download the released prior; False if there is none of these sizes, or it cannot be downloaded.

    Args:
        config: Configuration of the restoration.
        store: Folders with weights; connections are allowed during this call.
        progress: Receives the bytes received and the total.
    """
    name = _released(config)
    if name is None:
        log.info(f"No prior of {config.preset.size} pixels with these channels was released. A prior is trained first.")
        return False
    before, store.offline = store.offline, False
    try:
        store.obtain(name, progress)
    except WeightsMissingError as error:
        log.debug(str(error))
        log.info(f"{name} could not be downloaded. A prior is trained first.")
        return False
    finally:
        store.offline = before
    return True


def prior_plan(config: TrainConfig) -> str:
    """Where the prior of a restoration comes from, for the plan of the training."""
    sizes = ", ".join(map(str, prior_sizes(config)))
    name = _released(config)
    first = "" if name is None else f"{name}, downloaded; if that fails: "
    last = prior_folder(config, config.preset.size)
    return f"{first}trained first with images of {sizes} pixels, the last one in {last}"


def prior_sizes(config: TrainConfig) -> list[int]:
    """Sides of the images of the priors that are trained one after the other."""
    size = config.preset.size
    sizes = [size]
    while sizes[0] > SMALLEST_PRIOR:
        sizes.insert(0, sizes[0] // 2)
    return sizes


def prior_folder(config: TrainConfig, size: int) -> Path:
    """Output folder of the prior of a size, within that of the restoration."""
    return config.output / f"prior-{size}"


def prior_configs(config: TrainConfig, make: MakePrior) -> Iterator[TrainConfig]:
    """Configurations of the priors, smallest first; each starts from the one before and has an equal share of steps.

    Args:
        config: Configuration of the restoration.
        make: Makes the configuration of a prior.
    """
    sizes = prior_sizes(config)
    steps = max(make(prior_folder(config, sizes[-1]), sizes[-1], None).preset.steps // len(sizes), 1)
    weights: Path | None = None
    for size in sizes:
        prior = make(prior_folder(config, size), size, steps)
        yield replace(prior, weights=weights)
        weights = prior.output / PRIOR_NAME


def _released(config: TrainConfig) -> str | None:
    """Name of the released prior; None if none of these sizes was released."""
    try:
        return released_start(config.preset)
    except WeightsMissingError:
        return None
