"""The function behind `gfprestore train`: open data, networks and weights, then run the training loop.

Opens no network connection. Missing weights are an error that names the command that downloads them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from gfprestore.data.component_boxes import Boxes
from gfprestore.data.damage_patches import DamagePatches
from gfprestore.data.face_dataset import FaceDataset
from gfprestore.data.retouched_dataset import EnlargementDataset, RetouchedDataset, images_without_partner
from gfprestore.device import choose_device, choose_precision
from gfprestore.restoration.frrffusion import FRRffusionRestorer
from gfprestore.training.background import BackgroundRecipe, open_student, open_teacher
from gfprestore.training.boxes import StageProgress, found_boxes
from gfprestore.training.cascade import reversed_faces
from gfprestore.training.config import TrainConfig
from gfprestore.training.damage import DamageRecipe, open_damage_patches, open_detector
from gfprestore.training.distillation import (
    DistilledPairs,
    make_pairs,
    pairs_folder,
    read_pairs,
)
from gfprestore.training.distributed import World, joined_world
from gfprestore.training.fmar import FmarRecipe
from gfprestore.training.frrffusion import open_initial_parts
from gfprestore.training.gfpgan import RestorationRecipe
from gfprestore.training.hfdg import HfdgRecipe
from gfprestore.training.initial_weights import open_initial_weights
from gfprestore.training.loop import Progress, TrainReport, fit
from gfprestore.training.loss_networks import open_loss_networks
from gfprestore.training.presets import LOSSES
from gfprestore.training.prior import PriorRecipe
from gfprestore.training.recipe import Recipe
from gfprestore.training.training_state import CHECKPOINT_NAME
from gfprestore.weights.store import WeightsStore

log = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    progress: Callable[[Progress], None] = lambda progress: None,
    store: WeightsStore | None = None,
    stages: StageProgress = lambda stage, done, total: None,
) -> TrainReport:
    """Run a training; resume from the checkpoint in the output folder, if there is one.

    With `torchrun`, every process calls this function. Only the main process writes files and messages.

    Args:
        config: Configuration of the training.
        progress: Receives the progress at every logged step.
        store: Folders with weights.
        stages: Receives the progress of work before the first step.

    Raises:
        UsageError: The batch size is not divisible by the number of processes.
        DeviceError: The device is not available, does not support the precision, or has too little memory.
        FolderError: The data or the output folder cannot be used.
        WeightsError: Initial weights, a loss network or the checkpoint are missing, damaged or do not fit.
        TrainingDivergedError: The training diverged again after several rollbacks.
        TrainingInterruptedError: SIGINT or SIGTERM was received; the checkpoint is written.
    """
    with joined_world(choose_device(config.device)) as (world, device):
        dtype = training_precision(config.precision, device)
        store = store or WeightsStore()
        dataset = open_stream(config, store, device, world, stages)
        recipe = open_recipe(config, store, device, dtype, world)
        with _settings_for_training(device):
            return fit(recipe, dataset, config, device, world=world, progress=progress)


Stream = FaceDataset | DistilledPairs | RetouchedDataset | EnlargementDataset | DamagePatches


def open_stream(
    config: TrainConfig,
    store: WeightsStore,
    device: torch.device,
    world: World,
    stages: StageProgress = lambda stage, done, total: None,
) -> Stream:
    """Open the stream of images of a training.

    The stages background and hfdg first compute missing images, the stage restoration missing boxes of eyes and mouths.

    Raises:
        FolderError: The data or the output folder cannot be used.
        WeightsError: The weights of the teacher or of the first stage are needed, and are missing, damaged or made for
            another network.
    """
    if config.stage in ("fmar", "hfdg"):
        alone = images_without_partner(config.data)
        if alone:
            world.log(log, f"{len(alone)} images in {config.data} are skipped. First problem: {alone[0].reason}")
    if config.stage == "fmar":
        retouched = open_retouched(config)
        world.log(log, f"{retouched.count} pairs in {config.data}.")
        return retouched
    if config.stage == "hfdg":
        assert config.preset.reversal is not None
        faces = reversed_faces(config, lambda: first_stage(config, device), device, world)
        share, size = config.preset.reversal.cascade_share, config.preset.size
        patches = EnlargementDataset(config.data, size, config.seed, reversed_faces=faces, reversed_share=share)
        world.log(
            log, f"{patches.count} faces in {config.data}. For {len(faces)} of them, first-stage results are used too."
        )
        return patches
    if config.stage == "damage":
        prints = open_damage_patches(config)
        world.log(log, f"{len(prints.photos)} photos in {config.data}, {prints.count} patches in an epoch.")
        if prints.left_out:
            first = prints.left_out[0].reason
            world.log(log, f"{len(prints.left_out)} photos in {config.data} are skipped. First problem: {first}")
        return prints
    if config.stage != "background":
        boxes = found_boxes(config, store, device, world, stages)
        dataset = open_data(config, boxes)
        if boxes:
            world.log(log, f"Eyes and mouths are known for {len(boxes)} images.")
        world.log(log, f"{dataset.count} images in {config.data}.")
        return dataset
    make_pairs(config, lambda: open_teacher(config, store, device), world)
    world.any(False, device)  # every process waits for the pairs
    pairs = read_pairs(config)
    world.log(log, f"{pairs.count} pairs in {pairs_folder(config)}.")
    return pairs


def open_data(config: TrainConfig, found: Mapping[Path, Boxes] | None = None) -> FaceDataset:
    """Open the stream of faces.

    Args:
        config: Configuration of the training.
        found: Component boxes of images that come without them, see `boxes.found_boxes`.

    Raises:
        FolderError: The folder cannot be read, has no images, or lacks the component boxes that a loss needs.
    """
    needs_boxes = config.stage == "restoration" and config.preset.losses.components > 0
    preset = config.preset
    degradation = None if config.stage == "prior" else preset.degradation
    return FaceDataset(
        config.data, preset.size, degradation, config.seed, boxes=needs_boxes, jitter=preset.jitter, found=found
    )


def open_retouched(config: TrainConfig) -> RetouchedDataset:
    """Open the stream of retouched pairs.

    Raises:
        FolderError: The folder is not a set of pairs, or lacks the levels that the preset trains with.
    """
    network, size = config.preset.reversal_network("fmar"), config.preset.size
    grid = size // network.fmar.unshuffle if network.fmar is not None and network.fmar.warp else None
    needs_levels = network.level_estimator is not None or (network.fmar is not None and network.fmar.levels)
    reversal = config.preset.reversal
    vary = reversal is not None and reversal.only_estimator and reversal.variations
    return RetouchedDataset(config.data, size, grid, config.seed, needs_levels=needs_levels, vary=vary)


def first_stage(config: TrainConfig, device: torch.device) -> FRRffusionRestorer | None:
    """Open FRRffusion's first stage from the initial weights; None if they have none.

    Raises:
        WeightsError: The file is missing, damaged or made for another network.
    """
    initial = open_initial_parts(config)
    if initial.module is None or initial.module.fmar is None:
        return None
    initial.module.hfdg = None  # only the first stage's result is needed
    return FRRffusionRestorer(initial.module, str(initial.path), device)


def open_recipe(
    config: TrainConfig,
    store: WeightsStore,
    device: torch.device,
    dtype: torch.dtype,
    world: World,
) -> Recipe:
    """Create the recipe of a training; report the initial weights and the losses that are switched off.

    Raises:
        WeightsError: Initial weights or a loss network are missing, damaged or do not fit.
    """
    for name in config.disabled_losses:
        world.log(log, f"The loss {name!r} ({LOSSES[name]}) is switched off.")
    resumes = has_checkpoint(config)
    if config.stage == "background":
        student = open_student(config)
        if student is not None and not resumes:
            world.log(log, f"Starting from {student.path}.")
        return BackgroundRecipe(config, student, open_loss_networks(config, store), device, dtype, world)
    if config.stage in ("fmar", "hfdg"):
        parts = open_initial_parts(config)
        if parts.path is not None and not resumes:
            world.log(log, f"Starting from {parts.path}.")
        recipe = FmarRecipe if config.stage == "fmar" else HfdgRecipe
        return recipe(config, parts, device, dtype, world)
    if config.stage == "damage":
        detector = open_detector(config)
        if detector is not None and not resumes:
            world.log(log, f"Starting from {detector.path}.")
        return DamageRecipe(config, detector, device, dtype, world)
    initial = open_initial_weights(config, store)
    if initial.path is not None and not resumes:
        world.log(log, f"Starting from {initial}.")
    if config.stage == "prior":
        return PriorRecipe(config, initial, device, dtype, world)
    return RestorationRecipe(config, initial, open_loss_networks(config, store), device, dtype, world)


def training_precision(name: str, device: torch.device) -> torch.dtype:
    """Precision of the computation; `auto` is bfloat16 or float16 on CUDA, depending on the GPU, and float32 elsewhere.

    Raises:
        DeviceError: The name is unknown, or the device does not support the precision.
    """
    if name == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return choose_precision(name, device)


def has_checkpoint(config: TrainConfig) -> bool:
    """Whether the output folder holds a checkpoint to resume from."""
    return (config.output / CHECKPOINT_NAME).exists()


@contextlib.contextmanager
def _settings_for_training(device: torch.device) -> Iterator[None]:
    """Let cuDNN benchmark its algorithms, since all sizes are constant; restore the setting afterwards."""
    previous = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = previous
