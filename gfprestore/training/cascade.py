"""Outputs of FRRffusion's first stage, computed once as training data of the second.

The second stage enlarges what the first one made, so it must see the errors of the first in training. The faces are
kept as PNG files in the output folder, and computed only where they are missing.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from gfprestore.data.images import Pixels, sha256_of, write_png
from gfprestore.data.retouched_dataset import ENLARGEMENT, PairFiles, is_pair_set, list_pairs, read_matching
from gfprestore.data.retouched_pairs import PAIRS_NAME
from gfprestore.device import face_seed
from gfprestore.errors import FolderError, PhotoError
from gfprestore.pixels import resized
from gfprestore.restoration.frrffusion import FRRffusionRestorer
from gfprestore.tensors import pixels_to_signed, signed_to_pixels
from gfprestore.training.config import TrainConfig
from gfprestore.training.distributed import World

log = logging.getLogger(__name__)

FACES_PER_BATCH = 4


def reversed_faces(
    config: TrainConfig,
    open_restorer: Callable[[], FRRffusionRestorer | None],
    device: torch.device,
    world: World | None = None,
) -> dict[str, Path]:
    """Compute the first stage's results for pairs of the data folder, as far as they are missing.

    Args:
        config: Configuration of a training of the stage `hfdg`.
        open_restorer: Opens the first stage, if a face is missing; None if the initial weights have none.
        device: Device of the training.
        world: The processes that train together, which share the work.

    Returns:
        Files by the names of the pairs, each a quarter of the original's side; empty without a first stage, or if the
        data folder is not a set of pairs.

    Raises:
        FolderError: The data or the output folder cannot be used.
        DeviceError: The memory is too small for a single face.
    """
    assert config.preset.reversal is not None
    world = world or World()
    if config.weights is None or not is_pair_set(config.data):
        return {}
    folder = config.output / f"first-stage-{_key(config)}"
    pairs = list_pairs(config.data)
    order = np.random.default_rng(config.seed).permutation(len(pairs))
    chosen = [pairs[index] for index in order[: config.preset.reversal.cascade_faces]]
    missing = [pair for pair in chosen if not _path(folder, pair).is_file()]
    if world.any(bool(missing), device):  # no process writes before all have looked
        restorer = open_restorer()
        if restorer is not None:
            _compute_all(missing, folder, config, restorer, world)
        world.any(False, device)  # every process waits for the files
    return {pair.name: path for pair in chosen if (path := _path(folder, pair)).is_file()}


def _compute_all(
    missing: list[PairFiles], folder: Path, config: TrainConfig, restorer: FRRffusionRestorer, world: World
) -> None:
    """Compute this process's share of the faces.

    Raises:
        FolderError: A file cannot be written.
    """
    mine = [pair for number, pair in enumerate(missing) if number % world.size == world.rank]
    world.log(log, f"Computing the first stage for {len(missing)} faces in {folder}.")
    for start in range(0, len(mine), FACES_PER_BATCH):
        _compute(mine[start : start + FACES_PER_BATCH], folder, config, restorer)
        done = start + FACES_PER_BATCH
        if done % (64 * FACES_PER_BATCH) == 0:
            world.log(log, f"{done} of {len(mine)} faces are done.")


def _compute(pairs: list[PairFiles], folder: Path, config: TrainConfig, restorer: FRRffusionRestorer) -> None:
    """Compute and write some faces; a pair that cannot be used is reported and left out.

    Raises:
        FolderError: A file cannot be written.
    """
    usable: list[tuple[PairFiles, Pixels]] = []
    for pair in pairs:
        try:
            usable.append((pair, read_matching(pair)[0]))
        except PhotoError as error:
            log.warning(f"No first-stage result for {pair.name}: {error}")
    if not usable:
        return
    size = restorer.input_size
    crops = torch.cat([pixels_to_signed(resized(pixels, size, size)) for _, pixels in usable])
    seeds = [face_seed(config.seed, pair.name, 0) for pair, _ in usable]
    result = restorer.reverse(crops, seeds, _levels(usable)).at_256
    for (pair, pixels), face in zip(usable, result, strict=True):
        path, side = _path(folder, pair), len(pixels) // ENLARGEMENT
        reduced = resized(signed_to_pixels(face.nan_to_num(0).unsqueeze(0), np.dtype(np.uint8)), side, side)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, cast(Pixels, reduced))
        except (OSError, PhotoError) as error:
            raise FolderError(f"{path} cannot be written: {error}. Use another folder with --output.") from error


def _levels(usable: list[tuple[PairFiles, Pixels]]) -> Tensor | None:
    """True levels (B, 6), if they are known."""
    known = [pair.known.levels for pair, _ in usable if pair.known is not None]
    if len(known) < len(usable):
        return None
    return torch.tensor([levels.shares for levels in known])


def _path(folder: Path, pair: PairFiles) -> Path:
    return folder / f"{pair.name}.png"


def _key(config: TrainConfig) -> str:
    """Depends on everything that the results depend on; the authors' layout has no table of its contents."""
    assert config.weights is not None
    table = config.data / PAIRS_NAME
    values = {
        "weights": sha256_of(config.weights),
        "data": str(config.data.resolve()),
        "pairs": sha256_of(table) if table.is_file() else None,
        "seed": config.seed,
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
