"""`gfprestore train`: opens what a training needs and runs it, or tells what it would do.

Opens no network connection: weights that are not at hand are an error that names the command to fetch them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from gfprestore.data.face_dataset import FaceDataset
from gfprestore.device import choose_device, choose_precision
from gfprestore.training.background import BackgroundRecipe, open_student, open_teacher
from gfprestore.training.config import TrainConfig
from gfprestore.training.distillation import (
    DistilledPairs,
    make_pairs,
    pairs_folder,
    read_pairs,
)
from gfprestore.training.distributed import World, joined_world
from gfprestore.training.gfpgan import RestorationRecipe
from gfprestore.training.initial_weights import open_initial_weights
from gfprestore.training.loop import Progress, TrainReport, fit
from gfprestore.training.loss_networks import open_loss_networks
from gfprestore.training.presets import LOSSES
from gfprestore.training.prior import PriorRecipe
from gfprestore.training.recipe import Recipe, Tell
from gfprestore.training.training_state import CHECKPOINT_NAME
from gfprestore.weights.store import WeightsStore


def train(
    config: TrainConfig,
    tell: Tell,
    progress: Callable[[Progress], None] = lambda progress: None,
    store: WeightsStore | None = None,
) -> TrainReport:
    """Trains as the config says; goes on from the output folder's checkpoint if it holds one.

    Under `torchrun` every process calls this; the first one writes and talks.

    Args:
        config: What to train.
        tell: Takes lines for people.
        progress: Takes what is to be shown, at every logged step.
        store: Where weights are looked for.

    Raises:
        UsageError: The batch cannot be shared by the processes.
        DeviceError: The device is not here, cannot compute in the precision, or has too little memory for the batch.
        FolderError: The data or the output folder cannot be used.
        WeightsError: What to start from, a loss's network or the checkpoint is missing, damaged or does not fit.
        TrainingDivergedError: The losses are no numbers, also at lower rates.
        TrainingInterruptedError: SIGINT or SIGTERM came; the checkpoint is written.
    """
    with joined_world(choose_device(config.device)) as (world, device):
        dtype = training_precision(config.precision, device)
        heard = tell if world.is_main_process else lambda line: None
        store = store or WeightsStore()
        dataset = open_stream(config, store, device, world, heard)
        recipe = open_recipe(config, store, device, dtype, world, heard)
        with _settings_for_training(device):
            return fit(recipe, dataset, config, device, world=world, tell=tell, progress=progress)


def open_stream(
    config: TrainConfig, store: WeightsStore, device: torch.device, world: World, tell: Tell
) -> FaceDataset | DistilledPairs:
    """The stream of images of the config's stage; for the background, the teacher makes what is missing first.

    Raises:
        FolderError: The data or the output folder cannot be used.
        WeightsError: The teacher is needed and missing, damaged or of another network.
    """
    if config.stage != "background":
        dataset = open_data(config)
        tell(f"{dataset.count} images in {config.data}.")
        return dataset
    make_pairs(config, lambda: open_teacher(config, store, device), tell, world)
    world.any(False, device)  # all wait until the pairs are there
    pairs = read_pairs(config)
    tell(f"{pairs.count} pairs in {pairs_folder(config)}.")
    return pairs


def open_data(config: TrainConfig) -> FaceDataset:
    """The stream of faces.

    Raises:
        FolderError: The folder cannot be read, has no images, or knows nothing of eyes and mouths that a loss needs.
    """
    needs_boxes = config.stage == "restoration" and config.preset.losses.components > 0
    preset = config.preset
    degradation = None if config.stage == "prior" else preset.degradation
    return FaceDataset(config.data, preset.size, degradation, config.seed, boxes=needs_boxes, jitter=preset.jitter)


def open_recipe(
    config: TrainConfig,
    store: WeightsStore,
    device: torch.device,
    dtype: torch.dtype,
    world: World,
    tell: Tell,
) -> Recipe:
    """The networks and losses of the config's stage; says what is left out and what is started from.

    Raises:
        WeightsError: What to start from or a loss's network is missing, damaged or does not fit.
    """
    for name in config.left_out:
        tell(f"Without the loss {name!r} ({LOSSES[name]}), as asked.")
    resumes = has_checkpoint(config)
    if config.stage == "background":
        student = open_student(config)
        if student is not None and not resumes:
            tell(f"Starting from {student.path}.")
        return BackgroundRecipe(config, student, open_loss_networks(config, store), device, dtype, world)
    start = open_initial_weights(config, store)
    if start.path is not None and not resumes:
        tell(f"Starting from {start}.")
    if config.stage == "prior":
        return PriorRecipe(config, start, device, dtype, world)
    return RestorationRecipe(config, start, open_loss_networks(config, store), device, dtype, world)


def training_precision(name: str, device: torch.device) -> torch.dtype:
    """What the networks compute in; `auto` is bfloat16 on CUDA where the card has it, else float16, float32 elsewhere.

    Raises:
        DeviceError: The name is unknown, or the device cannot compute in it.
    """
    if name == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return choose_precision(name, device)


def has_checkpoint(config: TrainConfig) -> bool:
    """Whether the output folder holds a checkpoint to resume from."""
    return (config.output / CHECKPOINT_NAME).exists()


@contextlib.contextmanager
def _settings_for_training(device: torch.device) -> Iterator[None]:
    """Lets cuDNN choose its algorithms by trying; sizes never change here. Puts the setting back."""
    previous = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = previous
