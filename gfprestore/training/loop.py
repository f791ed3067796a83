"""The training loop: batches, log, samples, checkpoints, resuming, interruption, and rollbacks after divergence.

A recipe handles networks and losses; the loop handles steps and files. Every step derives its random numbers from
(seed, step, process) and takes its images by their position in an endless stream. A resumed training therefore gives
the same result as an uninterrupted one, bit for bit on the CPU.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gfprestore.data.face_dataset import Sample, collate
from gfprestore.device import face_seed, is_out_of_memory
from gfprestore.errors import DeviceError, FolderError, TrainingDivergedError, TrainingInterruptedError
from gfprestore.files import remove_leftovers
from gfprestore.training.config import TrainConfig
from gfprestore.training.distributed import World
from gfprestore.training.loader import BatchLoader, batch_of
from gfprestore.training.logs import SpeedMeter, TrainingLog, write_png
from gfprestore.training.recipe import Recipe
from gfprestore.training.training_state import (
    CHECKPOINT_NAME,
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)

log = logging.getLogger(__name__)

SAMPLES_FOLDER = "samples"
SAMPLE_FACES = 4

EXPLOSION_FACTOR = 10.0
"""A training counts as diverged when the reconstruction loss exceeds its running mean by this factor."""

MAX_ROLLBACKS = 5
"""Maximum number of rollbacks to the same checkpoint."""


@dataclass(frozen=True)
class Progress:
    """Progress of a training.

    Attributes:
        step: Number of finished steps.
        steps: Total number of steps.
        losses: Losses of this step by name.
        images_per_second: Speed since the last report.
        seconds_left: Estimated remaining time.
    """

    step: int
    steps: int
    losses: Mapping[str, float]
    images_per_second: float
    seconds_left: float

    @property
    def line(self) -> str:
        """The progress as one line of text."""
        losses = ", ".join(f"{name} {value:.4g}" for name, value in self.losses.items())
        return (
            f"step {self.step}/{self.steps}: {losses}; {self.images_per_second:.3g} images/s, "
            f"{_duration(self.seconds_left)} left"
        )


@dataclass(frozen=True)
class TrainReport:
    """Result of a training.

    Attributes:
        step: Number of finished steps.
        steps_now: Number of steps that this call ran.
        weights: Path of the exported weights.
        losses: Losses of the last step by name; empty if no step was left to run.
        images_per_second: Mean speed of this call.
        rollbacks: Number of rollbacks to a checkpoint after the training diverged.
        workers: Number of processes that loaded images.
        data_wait: Share of the time spent waiting for images.
    """

    step: int
    steps_now: int
    weights: Path
    losses: dict[str, float]
    images_per_second: float
    rollbacks: int
    workers: int
    data_wait: float


def fit(
    recipe: Recipe,
    dataset: Dataset[Sample],
    config: TrainConfig,
    device: torch.device,
    *,
    world: World | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> TrainReport:
    """Train for the number of steps of the config; resume from the checkpoint in the output folder, if there is one.

    Args:
        recipe: Networks, losses and optimizers.
        dataset: Endless stream of images, by position.
        config: Configuration of the training.
        device: Device of the images.
        world: The processes that train together; all use the same output folder.
        progress: Receives the progress at every logged step.

    Raises:
        FolderError: The output folder is not writable, or the disk is full.
        WeightsDamagedError: The checkpoint is damaged.
        WeightsMismatchError: The checkpoint belongs to another network.
        DeviceError: The memory of the device is too small for the batch.
        TrainingDivergedError: The training diverged again after several rollbacks.
        TrainingInterruptedError: SIGINT or SIGTERM was received; the checkpoint is written.
    """
    world = world or World()
    training = _Training(recipe, dataset, config, device, world, progress)
    with _stop_signals() as is_stopped:
        try:
            return training.run(is_stopped)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise DeviceError(
                f"{device} has too little memory for {training.loader.images_per_part} images at once. Use a smaller "
                f"--batch-size, or use --accumulate {2 * config.accumulate} to compute the same batch in more parts."
            ) from error


class _Training:
    """State of a running training."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset[Sample],
        config: TrainConfig,
        device: torch.device,
        world: World,
        progress: Callable[[Progress], None],
    ) -> None:
        self.recipe = recipe
        self.dataset = dataset
        self.config = config
        self.device = device
        self.world = world
        self.progress = progress
        self.checkpoint_path = config.output / CHECKPOINT_NAME
        self.step = 0
        self.position = 0
        self.learning_rate_scale = 1.0
        self.rollbacks = 0
        self.saved_step = -1
        self.rollbacks_to_saved = 0
        self.loader = BatchLoader(dataset, config, device, world)
        self.training_log: TrainingLog | None = None

    def run(self, is_stopped: Callable[[], bool]) -> TrainReport:
        """Run the remaining steps."""
        steps = self.config.preset.steps
        self._prepare_folder()
        resumed = self._resume()
        first_step = self.step
        if resumed:
            self.world.log(log, f"Resuming from step {self.step} of {steps} ({self.checkpoint_path}).")
        else:
            self._save()  # for rollbacks, and so that a full disk is reported before the first step
        self.training_log = training_log = (
            TrainingLog(self.config.output, self.step) if self.world.is_main_process else None
        )
        loader = self.loader
        meter = SpeedMeter(self.config.preset.batch_size)
        losses: dict[str, float] = {}
        detector = _ExplosionDetector()
        try:
            while self.step < steps:
                batches = loader.batches(self.position)
                _reseed(self.config.seed, self.step + 1, self.world.rank)
                start = time.perf_counter()
                scalars = self.recipe.step(batches, self.step + 1, self.learning_rate_scale)
                losses = self._to_floats(scalars)
                loader.record_step(time.perf_counter() - start)
                meter.add(loader.waited)
                if not all(map(math.isfinite, losses.values())) or detector.has_exploded(losses):
                    self._roll_back(losses)
                    detector = _ExplosionDetector()
                    continue
                self.step += 1
                self.position += self.config.preset.batch_size
                self._report(losses, meter)
                is_stopping = self.world.any(is_stopped(), self.device)
                self._save_if_due(is_stopping or self.step == steps)
                if is_stopping and self.step < steps:
                    raise TrainingInterruptedError(
                        f"Interrupted at step {self.step} of {steps}. The checkpoint {self.checkpoint_path} is "
                        "written. Run the same command again to resume."
                    )
        finally:
            loader.close()
            if training_log:
                training_log.close()
        weights = (
            self.recipe.export(self.config.output, self.step) if self.world.is_main_process else self.config.output
        )
        return TrainReport(
            step=self.step,
            steps_now=self.step - first_step,
            weights=weights,
            losses=losses,
            images_per_second=meter.total_pace,
            rollbacks=self.rollbacks,
            workers=loader.workers,
            data_wait=meter.total_wait,
        )

    def _prepare_folder(self) -> None:
        try:
            (self.config.output / SAMPLES_FOLDER).mkdir(parents=True, exist_ok=True)
            if self.world.is_main_process:
                remove_leftovers(self.config.output)
        except OSError as error:
            raise FolderError(
                f"{self.config.output} cannot be created: {error.strerror or error}. Use another folder with --output."
            ) from error

    def _resume(self) -> bool:
        """Load the checkpoint of the output folder; False if there is none.

        All processes look for the checkpoint before any of them continues. Otherwise a late process would find the
        first checkpoint of this very training and skip the barrier in which the others wait.
        """
        if not self.world.any(self.checkpoint_path.exists(), self.device):
            return False
        checkpoint = read_checkpoint(self.checkpoint_path, self.recipe.sizes())
        self.recipe.load_state(checkpoint.recipe)
        self.step, self.position, self.learning_rate_scale = (
            checkpoint.step,
            checkpoint.position,
            checkpoint.learning_rate_scale,
        )
        self.saved_step = self.step
        return True

    def _save(self) -> None:
        if self.world.is_main_process:
            checkpoint = Checkpoint(
                self.step, self.position, self.learning_rate_scale, self.recipe.sizes(), self.recipe.state()
            )
            write_checkpoint(checkpoint, self.checkpoint_path)
        if self.step != self.saved_step:
            self.rollbacks_to_saved = 0
        self.saved_step = self.step
        self.world.any(False, self.device)  # the other processes wait for the file

    def _to_floats(self, scalars: dict[str, Tensor]) -> dict[str, float]:
        """Scalars as floats, averaged over the processes; one transfer from the device."""
        values = torch.stack([value.detach().float().reshape(()) for value in scalars.values()]).tolist()
        return self.world.mean(dict(zip(scalars, values, strict=True)), self.device)

    def _roll_back(self, losses: Mapping[str, float]) -> None:
        """Load the last checkpoint and halve the learning rates."""
        broken = ", ".join(name for name, value in losses.items() if not math.isfinite(value))
        problem = f"NaN or infinite values in {broken or 'the weights'}"
        if losses and not broken:
            name = _ExplosionDetector.LOSS
            problem = f"{name} is {losses[name]:.3g}, more than {EXPLOSION_FACTOR:g} times its running mean"
        self.rollbacks += 1
        self.rollbacks_to_saved += 1
        failed_step = self.step + 1
        if self.rollbacks_to_saved > MAX_ROLLBACKS:
            raise TrainingDivergedError(
                f"The training diverged at step {failed_step}: {problem}. {MAX_ROLLBACKS} rollbacks to step "
                f"{self.saved_step} with lower learning rates did not help. Use --precision fp32, check the data, or "
                "use other initial --weights."
            )
        learning_rate_scale = self.learning_rate_scale / 2
        self._resume()
        self.learning_rate_scale = learning_rate_scale
        self.loader.close()
        if self.training_log is not None:
            self.training_log.rewind(self.step)
        self.world.log(
            log,
            f"The training diverged at step {failed_step}: {problem}. Rolled back to step {self.step}; the learning "
            f"rates are now {learning_rate_scale:g} times those of the preset.",
        )

    def _report(self, losses: Mapping[str, float], meter: SpeedMeter) -> None:
        steps = self.config.preset.steps
        if self.training_log is None or (self.step % self.config.log_every and self.step != steps):
            return
        pace, wait = meter.since_last()
        self.training_log.write({
            "step": self.step, **losses, "rate": self.recipe.learning_rate(), "images_per_second": round(pace, 4),
            "data_wait": round(wait, 4),
        })  # fmt: skip
        left = (steps - self.step) * self.config.preset.batch_size / pace if pace else math.inf
        self.progress(Progress(self.step, steps, losses, pace, left))

    def _save_if_due(self, now: bool) -> None:
        """Write samples and a checkpoint if they are due; NaN or infinite weights cause a rollback instead."""
        if self.world.is_main_process and (
            self.step % self.config.sample_every == 0 or self.step == self.config.preset.steps
        ):
            self._write_samples()
        if not now and self.step % self.config.save_every:
            return
        if self.world.any(not self.recipe.is_finite(), self.device):
            self._roll_back({})
            return
        self._save()
        if self.world.is_main_process:
            self.recipe.export(self.config.output, self.step)

    def _write_samples(self) -> None:
        sample = collate([self.dataset[position] for position in range(SAMPLE_FACES)])
        columns = self.recipe.images(batch_of(sample, range(SAMPLE_FACES), self.config.seed, self.device))
        image = torch.cat([torch.cat(list(row), 2) for row in zip(*columns, strict=True)], 1)  # (3, H, W)
        write_png(image, self.config.output / SAMPLES_FOLDER / f"{self.step:07d}.png")


class _ExplosionDetector:
    """Detects a training that diverges while its losses are still finite.

    The loss is compared with its running mean. The first steps only build up the mean, also after resuming.
    """

    LOSS = "reconstruction"
    WARMUP_STEPS = 20
    MEAN_UPDATE = 0.05

    def __init__(self) -> None:
        self.mean = 0.0
        self.steps = 0

    def has_exploded(self, losses: Mapping[str, float]) -> bool:
        """Whether the loss of this step is far above the running mean; if not, it updates the mean."""
        value = losses.get(self.LOSS)
        if value is None:
            return False
        if self.steps >= self.WARMUP_STEPS and value > EXPLOSION_FACTOR * self.mean:
            return True
        self.steps += 1
        self.mean += max(self.MEAN_UPDATE, 1 / self.steps) * (value - self.mean)
        return False


def _reseed(seed: int, step: int, rank: int) -> None:
    """Seed all random generators from (seed, step, process)."""
    mixed = face_seed(seed, "step", step * 65_536 + rank)
    torch.manual_seed(mixed)
    np.random.seed(mixed % 2**32)
    random.seed(mixed)


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a flag, so that the current step finishes; a second SIGINT stops immediately."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stopped.set()

    if threading.current_thread() is not threading.main_thread():
        yield stopped.is_set
        return
    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "unknown time"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
