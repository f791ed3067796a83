"""The loop around a recipe: batches, log, samples, checkpoints, resuming, stopping, and going back after a NaN.

A recipe knows networks and losses; the loop knows steps and files. Every step draws its random numbers from
(seed, step, process) and its images from their place in an endless stream, so that a training that was stopped goes
on as if it never had been: bit for bit on the CPU.
"""

from __future__ import annotations

import contextlib
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
from gfprestore.training.recipe import Recipe, Tell
from gfprestore.training.training_state import (
    CHECKPOINT_NAME,
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)

SAMPLES_FOLDER = "samples"
SAMPLE_FACES = 4

EXPLODED = 10.0
"""A reconstruction loss of this many times its running mean is taken for a training that fell apart."""

MAX_ROLLBACKS = 5
"""How often a training goes back to one and the same checkpoint before it gives up."""


@dataclass(frozen=True)
class Progress:
    """Where a training is.

    Attributes:
        step: Steps done.
        steps: Steps in all.
        losses: By name, of this step.
        images_per_second: Since the last report.
        seconds_left: At this pace.
    """

    step: int
    steps: int
    losses: Mapping[str, float]
    images_per_second: float
    seconds_left: float

    @property
    def line(self) -> str:
        """One line for people."""
        losses = ", ".join(f"{name} {value:.4g}" for name, value in self.losses.items())
        return (
            f"step {self.step}/{self.steps}: {losses}; {self.images_per_second:.3g} images/s, "
            f"{_duration(self.seconds_left)} left"
        )


@dataclass(frozen=True)
class TrainReport:
    """What a training did.

    Attributes:
        step: Steps done in all.
        steps_now: Steps done by this call.
        weights: The file for `run --weights`, or of the prior.
        losses: By name, of the last step; empty where nothing was left to do.
        images_per_second: Over this call.
        rollbacks: Number of rollbacks to a checkpoint after losses that were NaN or infinite.
        workers: Processes that loaded images.
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
    tell: Tell = lambda line: None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> TrainReport:
    """Trains until the config's steps are done; goes on from the output folder's checkpoint if it holds one.

    Args:
        recipe: What to train.
        dataset: An endless stream of images, by position.
        config: How long, how often, where to.
        device: Where the images are to be.
        world: The processes that train together; all see the same output folder.
        tell: Takes lines for people.
        progress: Takes what is to be shown, at every logged step.

    Raises:
        FolderError: The output folder cannot be written to, or the disk is full.
        WeightsDamagedError: The checkpoint is damaged.
        WeightsMismatchError: The checkpoint is of another network.
        DeviceError: The device's memory is too small for the batch.
        TrainingDivergedError: Going back with a lower rate did not help.
        TrainingInterruptedError: SIGINT or SIGTERM came; the checkpoint is written.
    """
    world = world or World()
    training = _Training(
        recipe, dataset, config, device, world, tell if world.is_main_process else lambda line: None, progress
    )
    with _stop_signals() as is_stopped:
        try:
            return training.run(is_stopped)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise DeviceError(
                f"{device} has too little memory for {training.feed.share} images at once. Use a smaller "
                f"--batch-size, or --accumulate {2 * config.accumulate} to compute the same batch in more parts."
            ) from error


class _Training:
    """The state of `fit`."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset[Sample],
        config: TrainConfig,
        device: torch.device,
        world: World,
        tell: Tell,
        progress: Callable[[Progress], None],
    ) -> None:
        self.recipe = recipe
        self.dataset = dataset
        self.config = config
        self.device = device
        self.world = world
        self.tell = tell
        self.progress = progress
        self.checkpoint_path = config.output / CHECKPOINT_NAME
        self.step = 0
        self.position = 0
        self.learning_rate_scale = 1.0
        self.rollbacks = 0
        self.saved_step = -1
        self.rollbacks_to_saved = 0
        self.feed = BatchLoader(dataset, config, device, world, self.tell)
        self.log: TrainingLog | None = None

    def run(self, is_stopped: Callable[[], bool]) -> TrainReport:
        """All steps that are left."""
        steps = self.config.preset.steps
        self._prepare_folder()
        resumed = self._resume()
        first_step = self.step
        if resumed:
            self.tell(f"Going on from step {self.step} of {steps} ({self.checkpoint_path}).")
        else:
            self._save()  # a place to go back to, and a disk that is full is told before the first step
        self.log = log = TrainingLog(self.config.output, self.step) if self.world.is_main_process else None
        feed = self.feed
        meter = SpeedMeter(self.config.preset.batch_size)
        losses: dict[str, float] = {}
        watch = _Watch()
        try:
            while self.step < steps:
                batches = feed.batches(self.position)
                _reseed(self.config.seed, self.step + 1, self.world.rank)
                start = time.perf_counter()
                found = self.recipe.step(batches, self.step + 1, self.learning_rate_scale)
                losses = self._values(found)
                feed.took(time.perf_counter() - start)
                meter.add(feed.waited)
                if not all(map(math.isfinite, losses.values())) or watch.sees_explosion(losses):
                    self._go_back(losses)
                    watch = _Watch()
                    continue
                self.step += 1
                self.position += self.config.preset.batch_size
                self._report(losses, meter)
                stopping = self.world.any(is_stopped(), self.device)
                self._keep(stopping or self.step == steps)
                if stopping and self.step < steps:
                    raise TrainingInterruptedError(
                        f"stopped at step {self.step} of {steps}; {self.checkpoint_path} is written. "
                        "The same command goes on from there."
                    )
        finally:
            feed.close()
            if log:
                log.close()
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
            workers=feed.workers,
            data_wait=meter.total_wait,
        )

    def _prepare_folder(self) -> None:
        try:
            (self.config.output / SAMPLES_FOLDER).mkdir(parents=True, exist_ok=True)
            if self.world.is_main_process:
                remove_leftovers(self.config.output)
        except OSError as error:
            raise FolderError(
                f"{self.config.output} cannot be made: {error.strerror or error}. Name another folder with --output."
            ) from error

    def _resume(self) -> bool:
        """Takes over the checkpoint of the output folder; False where there is none.

        No process goes on before all have looked: a late one would find the first checkpoint of this very training, and
        leave out the writing that the others wait in.
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
        self.world.any(False, self.device)  # the others wait until the file is there

    def _values(self, found: dict[str, Tensor]) -> dict[str, float]:
        """Scalars to numbers, in one transfer, averaged over the processes."""
        together = torch.stack([value.detach().float().reshape(()) for value in found.values()]).tolist()
        return self.world.mean(dict(zip(found, together, strict=True)), self.device)

    def _go_back(self, losses: Mapping[str, float]) -> None:
        """Takes over the last checkpoint with half the rate."""
        broken = ", ".join(name for name, value in losses.items() if not math.isfinite(value))
        problem = f"{broken or 'weights'} is no number"
        if losses and not broken:
            problem = f"{_Watch.LOSS} is {losses[_Watch.LOSS]:.3g}, over {EXPLODED:g} times what it was,"
        self.rollbacks += 1
        self.rollbacks_to_saved += 1
        failed_step = self.step + 1
        if self.rollbacks_to_saved > MAX_ROLLBACKS:
            raise TrainingDivergedError(
                f"{problem} at step {failed_step}, also after going back to step {self.saved_step} "
                f"{MAX_ROLLBACKS} times with ever lower rates. Use --precision fp32, look at the data, or start from "
                "other --weights."
            )
        learning_rate_scale = self.learning_rate_scale / 2
        self._resume()
        self.learning_rate_scale = learning_rate_scale
        self.feed.close()
        if self.log is not None:
            self.log.rewind(self.step)
        self.tell(
            f"{problem} at step {failed_step}: back to step {self.step}, "
            f"learning rates now {learning_rate_scale:g} of the preset's."
        )

    def _report(self, losses: Mapping[str, float], meter: SpeedMeter) -> None:
        steps = self.config.preset.steps
        if self.log is None or (self.step % self.config.log_every and self.step != steps):
            return
        pace, wait = meter.since_last()
        self.log.write({
            "step": self.step, **losses, "rate": self.recipe.learning_rate(), "images_per_second": round(pace, 4),
            "data_wait": round(wait, 4),
        })  # fmt: skip
        left = (steps - self.step) * self.config.preset.batch_size / pace if pace else math.inf
        self.progress(Progress(self.step, steps, losses, pace, left))

    def _keep(self, now: bool) -> None:
        """Writes samples and a checkpoint when it is time; weights that are no numbers are never written."""
        if self.world.is_main_process and (
            self.step % self.config.sample_every == 0 or self.step == self.config.preset.steps
        ):
            self._write_samples()
        if not now and self.step % self.config.save_every:
            return
        if self.world.any(not self.recipe.is_finite(), self.device):
            self._go_back({})
            return
        self._save()
        if self.world.is_main_process:
            self.recipe.export(self.config.output, self.step)

    def _write_samples(self) -> None:
        sample = collate([self.dataset[position] for position in range(SAMPLE_FACES)])
        columns = self.recipe.images(batch_of(sample, range(SAMPLE_FACES), self.config.seed, self.device))
        image = torch.cat([torch.cat(list(row), 2) for row in zip(*columns, strict=True)], 1)  # (3, H, W)
        write_png(image, self.config.output / SAMPLES_FOLDER / f"{self.step:07d}.png")


class _Watch:
    """Notices a training that falls apart in numbers that are still finite: its images leave all bounds.

    Knows nothing until it has seen some steps, so a resumed training starts to watch anew.
    """

    LOSS = "reconstruction"
    STEPS_TO_LEARN = 20
    SHARE = 0.05

    def __init__(self) -> None:
        self.mean = 0.0
        self.steps = 0

    def sees_explosion(self, losses: Mapping[str, float]) -> bool:
        """Whether this step's loss is out of all proportion; otherwise it counts for the next ones."""
        value = losses.get(self.LOSS)
        if value is None:
            return False
        if self.steps >= self.STEPS_TO_LEARN and value > EXPLODED * self.mean:
            return True
        self.steps += 1
        self.mean += max(self.SHARE, 1 / self.steps) * (value - self.mean)
        return False


def _reseed(seed: int, step: int, rank: int) -> None:
    """Makes the step's random numbers depend on nothing but (seed, step, process)."""
    mixed = face_seed(seed, "step", step * 65_536 + rank)
    torch.manual_seed(mixed)
    np.random.seed(mixed % 2**32)
    random.seed(mixed)


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Turns SIGINT and SIGTERM into a flag, so that a step is finished first; the second SIGINT ends at once."""
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
