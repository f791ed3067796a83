"""What a teacher makes of patches, computed once, kept beside the training, and drawn from without end.

The teacher is slow, so each patch passes through it once: exactly as `run` enlarges a photo with it. The pairs lie in
parts in a folder of the output whose name says what they depend on; a part appears whole or not at all, and what is
there is not computed again. Training then sees random pieces of them, mirrored and turned, by their position in the
stream.
"""

from __future__ import annotations

import hashlib
import json
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
from gfprestore.data.face_dataset import Sample
from gfprestore.data.scene_patches import PatchOptions, ScenePatches
from gfprestore.errors import FolderError
from gfprestore.restoration.background import Background
from gfprestore.tensors import pixels_to_signed
from gfprestore.training.config import TrainConfig
from gfprestore.training.distributed import World
from gfprestore.training.training_state import write_whole

PART = 16
"""Pairs in a file."""

ABOUT_NAME = "about.json"

_ORDER, _PIECE = 2, 3  # beside those of the patches

Pixels = NDArray[np.uint8]


class DistilledPairs(torch.utils.data.Dataset[Sample]):
    """Random pieces of the teacher's pairs by their position in the endless stream.

    Args:
        lq: The patches (N, P, P, 3).
        gt: What the teacher made of them, (N, P * scale, P * scale, 3).
        size: Side of the pieces of the patches.
        seed: Of order, places, flips and turns.
    """

    def __init__(self, lq: Pixels, gt: Pixels, size: int, seed: int) -> None:
        self.lq = lq
        self.gt = gt
        self.size = size
        self.seed = seed
        self.scale = gt.shape[1] // lq.shape[1]
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    @property
    def count(self) -> int:
        """Pairs in an epoch."""
        return len(self.lq)

    def __getitem__(self, position: int) -> Sample:
        """The piece at a position of the stream: lq (3, size, size) and gt (3, size * scale, size * scale)."""
        random = np.random.default_rng([self.seed, _PIECE, position])
        index, size, scale = self._pair_at(position), self.size, self.scale
        top, left = (int(place) for place in random.integers(self.lq.shape[1] - size, size=2, endpoint=True))
        mirrored, turns = bool(random.integers(2)), int(random.integers(4))
        lq = self.lq[index, top : top + size, left : left + size]
        gt = self.gt[index, scale * top : scale * (top + size), scale * left : scale * (left + size)]
        return Sample(_piece(lq, mirrored, turns), _piece(gt, mirrored, turns), torch.from_numpy(unknown_boxes()))

    def _pair_at(self, position: int) -> int:
        """Which pair stands at a position; each epoch has an order of its own."""
        epoch, place = divmod(position, self.count)
        if self._order[0] != epoch:
            random = np.random.default_rng([self.seed, _ORDER, epoch])
            self._order = (epoch, random.permutation(self.count))
        return int(self._order[1][place])


def make_pairs(
    config: TrainConfig,
    open_teacher: Callable[[], Background],
    tell: Callable[[str], None],
    world: World | None = None,
) -> None:
    """Makes the pairs of a background training that are not here yet; several processes share the work.

    Args:
        config: The training.
        open_teacher: Opens the teacher; called only where pairs are missing.
        tell: Takes lines for people.
        world: The processes that train together.

    Raises:
        FolderError: The data cannot be used, or the output folder cannot be written to.
        WeightsError: The teacher's weights are needed and missing, damaged or of another network.
    """
    world = world or World()
    share = [number for number in missing_parts(config) if number % world.size == world.rank]
    if share:
        _make(config, pairs_folder(config), share, open_teacher(), tell)


def read_pairs(config: TrainConfig) -> DistilledPairs:
    """The pairs that `make_pairs` made.

    Raises:
        FolderError: A part is missing or damaged.
    """
    distillation = config.preset.distillation
    assert distillation is not None
    folder = pairs_folder(config)
    parts = [_read(folder / part_name(number)) for number in range(part_count(config))]
    lq, gt = (np.concatenate([part[index] for part in parts])[: distillation.patches] for index in (0, 1))
    return DistilledPairs(lq, gt, config.preset.size, config.seed)


def pairs_folder(config: TrainConfig) -> Path:
    """Where the pairs lie: another folder for each data folder, seed, teacher and way to make patches."""
    key = hashlib.sha256(json.dumps(_dependencies(config), sort_keys=True).encode()).hexdigest()[:12]
    return config.output / f"pairs-{key}"


def missing_parts(config: TrainConfig) -> list[int]:
    """The numbers of the parts that are not here."""
    folder = pairs_folder(config)
    return [number for number in range(part_count(config)) if not (folder / part_name(number)).is_file()]


def part_count(config: TrainConfig) -> int:
    """Files of pairs in all."""
    assert config.preset.distillation is not None
    return math.ceil(config.preset.distillation.patches / PART)


def part_name(number: int) -> str:
    """The file's name of a part."""
    return f"{number:05d}.npz"


def open_patches(config: TrainConfig) -> ScenePatches:
    """The stream of patches that the teacher sees.

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
    """Everything that decides how the pairs come out."""
    distillation = config.preset.distillation
    assert distillation is not None
    names = ("teacher", "scale", "patch_size", "rim", "shrink", "clean")
    return {
        "data": config.data.name,
        "seed": config.seed,
        **{name: getattr(distillation, name) for name in names},
        "degradation": asdict(config.preset.degradation),
    }


def _make(
    config: TrainConfig, folder: Path, missing: list[int], teacher: Background, tell: Callable[[str], None]
) -> None:
    distillation = config.preset.distillation
    assert distillation is not None
    patches = open_patches(config)
    count = len(missing) * PART
    tell(f"{distillation.teacher} makes {count} pairs from {len(patches.photos)} photos, kept in {folder}.")
    for skipped in patches.skipped:
        tell(f"left out: {skipped.reason}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(
            f"{folder} cannot be made: {error.strerror or error}. Name another folder with --output."
        ) from error
    about = json.dumps(_dependencies(config), indent=2).encode()
    write_whole(folder / ABOUT_NAME, lambda stream: stream.write(about))
    start = time.perf_counter()
    for done, number in enumerate(missing, 1):
        lq, gt = _part(patches, number, teacher, distillation.scale, distillation.rim)
        _write(lq, gt, folder / part_name(number))
        left = (time.perf_counter() - start) / done * (len(missing) - done)
        tell(f"{done} of {len(missing)} parts of pairs; about {left / 60:.0f} min left")


def _part(patches: ScenePatches, number: int, teacher: Background, scale: int, rim: int) -> tuple[Pixels, Pixels]:
    """Pairs of one file; the rim is there for the teacher to see, and cut off."""
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
            f"{path} cannot be read ({type(error).__name__}: {error}). Take it away; the same command makes it anew."
        ) from error


def _piece(pixels: Pixels, mirrored: bool, turns: int) -> Tensor:
    if mirrored:
        pixels = pixels[:, ::-1]
    return pixels_to_signed(np.rot90(pixels, turns))[0].contiguous()  # (S, S, 3) -> (3, S, S)
