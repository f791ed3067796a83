"""Training pairs of the background stage: patches and their enlargements by the teacher, computed once.

The teacher is slow, so each patch passes through it only once, exactly as `run` enlarges a photo. The pairs are stored
in part files in a folder of the output, whose name is a hash of everything that the pairs depend on. Part files are
written atomically, and existing ones are not computed again. Training draws random crops of the pairs, flipped and
rotated, by their position in an endless stream.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils.data
from numpy.typing import NDArray
from torch import Tensor

from gfprestore.data.component_boxes import unknown_boxes
from gfprestore.data.epoch_order import EpochOrder
from gfprestore.data.face_dataset import Sample
from gfprestore.data.scene_patches import PatchOptions, ScenePatches
from gfprestore.errors import FolderError
from gfprestore.restoration.background import Background
from gfprestore.tensors import pixels_to_signed
from gfprestore.training.config import TrainConfig
from gfprestore.training.distributed import World
from gfprestore.training.training_state import write_whole

log = logging.getLogger(__name__)

PART = 16
"""Number of pairs per part file."""

ABOUT_NAME = "about.json"

_ORDER, _CROP = 2, 3  # purposes of random generators, distinct from those of `scene_patches`

Pixels = NDArray[np.uint8]


class DistilledPairs(torch.utils.data.Dataset[Sample]):
    """Random crops of the pairs, by their position in an endless stream.

    Args:
        lq: Patches (N, P, P, 3).
        gt: Patches enlarged by the teacher, (N, P * scale, P * scale, 3).
        size: Side of the crops of the patches.
        seed: Random seed of order, crops, flips and rotations.
    """

    def __init__(self, lq: Pixels, gt: Pixels, size: int, seed: int) -> None:
        self.lq = lq
        self.gt = gt
        self.size = size
        self.seed = seed
        self.scale = gt.shape[1] // lq.shape[1]
        self._order = EpochOrder(seed, _ORDER, len(lq))

    @property
    def count(self) -> int:
        """Number of pairs per epoch."""
        return len(self.lq)

    def __getitem__(self, position: int) -> Sample:
        """The crop at a position of the stream: lq (3, size, size) and gt (3, size * scale, size * scale)."""
        random = np.random.default_rng([self.seed, _CROP, position])
        index, size, scale = self._order.index_at(position), self.size, self.scale
        top, left = (int(place) for place in random.integers(self.lq.shape[1] - size, size=2, endpoint=True))
        mirrored, turns = bool(random.integers(2)), int(random.integers(4))
        lq = self.lq[index, top : top + size, left : left + size]
        gt = self.gt[index, scale * top : scale * (top + size), scale * left : scale * (left + size)]
        lq_tensor, gt_tensor = (_to_tensor(pixels, mirrored, turns) for pixels in (lq, gt))
        return Sample(lq_tensor, gt_tensor, torch.from_numpy(unknown_boxes()))


def make_pairs(
    config: TrainConfig,
    open_teacher: Callable[[], Background],
    world: World | None = None,
) -> None:
    """Compute the missing pairs of a background training; several processes share the work.

    Args:
        config: Configuration of the training.
        open_teacher: Loads the teacher; called only if pairs are missing.
        world: The processes that train together.

    Raises:
        FolderError: The data cannot be used, or the output folder is not writable.
        WeightsError: The weights of the teacher are needed, and are missing, damaged or made for another network.
    """
    world = world or World()
    share = [number for number in missing_parts(config) if number % world.size == world.rank]
    if share:
        _make_parts(config, pairs_folder(config), share, open_teacher(), world)


def read_pairs(config: TrainConfig) -> DistilledPairs:
    """Read the pairs that `make_pairs` computed.

    Raises:
        FolderError: A part file is missing or damaged.
    """
    distillation = config.preset.distillation
    assert distillation is not None
    folder = pairs_folder(config)
    parts = [_read(folder / part_name(number)) for number in range(part_count(config))]
    lq, gt = (np.concatenate([part[index] for part in parts])[: distillation.patches] for index in (0, 1))
    return DistilledPairs(lq, gt, config.preset.size, config.seed)


def pairs_folder(config: TrainConfig) -> Path:
    """Folder of the pairs; its name depends on the data folder, seed, teacher and patch options."""
    key = hashlib.sha256(json.dumps(_dependencies(config), sort_keys=True).encode()).hexdigest()[:12]
    return config.output / f"pairs-{key}"


def missing_parts(config: TrainConfig) -> list[int]:
    """Numbers of the part files that do not exist yet."""
    folder = pairs_folder(config)
    return [number for number in range(part_count(config)) if not (folder / part_name(number)).is_file()]


def part_count(config: TrainConfig) -> int:
    """Total number of part files."""
    assert config.preset.distillation is not None
    return math.ceil(config.preset.distillation.patches / PART)


def part_name(number: int) -> str:
    """File name of a part."""
    return f"{number:05d}.npz"


def open_patches(config: TrainConfig) -> ScenePatches:
    """Open the stream of patches for the teacher.

    Raises:
        FolderError: The data cannot be used.
    """
    distillation = config.preset.distillation
    assert distillation is not None
    options = PatchOptions(
        distillation.patch_size + 2 * distillation.rim,
        distillation.shrink,
        distillation.clean,
        config.preset.degradation,
    )
    return ScenePatches(config.data, options, config.seed)


def _dependencies(config: TrainConfig) -> dict[str, Any]:
    """All values that the pairs depend on."""
    distillation = config.preset.distillation
    assert distillation is not None
    names = ("teacher", "scale", "patch_size", "rim", "shrink", "clean")
    return {
        "data": config.data.name,
        "seed": config.seed,
        **{name: getattr(distillation, name) for name in names},
        "degradation": asdict(config.preset.degradation),
    }


def _make_parts(config: TrainConfig, folder: Path, missing: list[int], teacher: Background, world: World) -> None:
    distillation = config.preset.distillation
    assert distillation is not None
    patches = open_patches(config)
    count = len(missing) * PART
    world.log(
        log, f"Computing {count} pairs with {distillation.teacher} from {len(patches.photos)} photos in {folder}."
    )
    for skipped in patches.skipped:
        world.log(log, f"Skipped: {skipped.reason}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(
            f"{folder} cannot be created: {error.strerror or error}. Use another folder with --output."
        ) from error
    about = json.dumps(_dependencies(config), indent=2).encode()
    write_whole(folder / ABOUT_NAME, lambda stream: stream.write(about))
    start = time.perf_counter()
    for done, number in enumerate(missing, 1):
        lq, gt = _part(patches, number, teacher, distillation.scale, distillation.rim)
        _write(lq, gt, folder / part_name(number))
        left = (time.perf_counter() - start) / done * (len(missing) - done)
        world.log(log, f"{done} of {len(missing)} part files of pairs are done; about {left / 60:.0f} min left.")


def _part(patches: ScenePatches, number: int, teacher: Background, scale: int, rim: int) -> tuple[Pixels, Pixels]:
    """Pairs of one part file; the rim is context for the teacher and is cut off."""
    lq, gt = [], []
    for position in range(number * PART, (number + 1) * PART):
        patch = patches.patch(position)
        enlarged = teacher.enlarge(patch, scale)
        lq.append(patch[rim : len(patch) - rim, rim : len(patch) - rim])
        gt.append(enlarged[scale * rim : len(enlarged) - scale * rim, scale * rim : len(enlarged) - scale * rim])
    return np.stack(lq), np.stack(gt)


def _write(lq: Pixels, gt: Pixels, path: Path) -> None:
    write_whole(path, lambda stream: np.savez(stream, lq=lq, gt=gt))


def _read(path: Path) -> tuple[Pixels, Pixels]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as part:
            return part["lq"], part["gt"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FolderError(
            f"{path} cannot be read ({type(error).__name__}: {error}). Delete it and run the same command again to "
            "compute it again."
        ) from error


def _to_tensor(pixels: Pixels, mirrored: bool, turns: int) -> Tensor:
    if mirrored:
        pixels = pixels[:, ::-1]
    return pixels_to_signed(np.rot90(pixels, turns))[0].contiguous()  # (S, S, 3) -> (3, S, S)
