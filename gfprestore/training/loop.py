"""The loop around a recipe: batches, log, samples, checkpoints, resuming, stopping, and going back after a NaN.

A recipe knows networks and losses; the loop knows steps and files. Every step draws its random numbers from
(seed, step, process) and its pictures from their place in an endless stream, so that a training that was stopped goes
on as if it never had been: bit for bit on the CPU.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gfprestore.device import face_seed, is_out_of_memory
from gfprestore.errors import DeviceError, FolderError, TrainingDivergedError, TrainingInterruptedError, UsageError
from gfprestore.tensors import signed_to_pixels
from gfprestore.training.checkpoint import (
    CHECKPOINT_NAME,
    Checkpoint,
    Sizes,
    read_checkpoint,
    write_checkpoint,
    write_whole,
)
from gfprestore.training.config import TrainConfig
from gfprestore.training.dataset import Sample, StreamSampler, collate, single_threaded
from gfprestore.training.distributed import World

LOG_NAME = "log.jsonl"
SAMPLES_FOLDER = "samples"
SAMPLE_FACES = 4

EXPLODED = 10.0
"""A reconstruction loss of this many times its running mean is taken for a training that fell apart."""

MOST_RETURNS = 5
"""How often a training goes back to one and the same checkpoint before it gives up."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Batch:
    """Pictures that are computed together.

    Attributes:
        sample: The pictures, batched.
        seeds: One a picture, of whatever is drawn for it; they depend on its place in the stream alone.
    """

    sample: Sample
    seeds: list[int]


class Recipe(Protocol):
    """Networks, losses and optimisers of one stage."""

    def step(self, batches: Sequence[Batch], step: int, rate_scale: float) -> dict[str, Tensor]:
        """Learns from one step's pictures, given in parts; returns scalars by name, `step` 1 being the first."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that learnt, as tensors and plain values."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes over what `state` gave."""
        ...

    def sizes(self) -> Sizes:
        """What must be the same for a state to fit."""
        ...

    def is_finite(self) -> bool:
        """Whether all weights are numbers."""
        ...

    def rate(self) -> float:
        """The generator's learning rate of the last step."""
        ...

    def pictures(self, batch: Batch) -> list[Tensor]:
        """Columns of the sample picture: (B, 3, S, S) RGB in [-1, 1] each."""
        ...

    def export(self, folder: Path, step: int) -> Path:
        """Writes the weights that are worth using; returns the file."""
        ...


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
        returns: How often it went back after losses that were no numbers.
        workers: Processes that loaded pictures.
        data_wait: Share of the time spent waiting for pictures.
    """

    step: int
    steps_now: int
    weights: Path
    losses: dict[str, float]
    images_per_second: float
    returns: int
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
        dataset: An endless stream of pictures, by position.
        config: How long, how often, where to.
        device: Where the pictures are to be.
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
    training = _Training(recipe, dataset, config, device, world, tell if world.leads else lambda line: None, progress)
    with _stop_signals() as is_stopped:
        try:
            return training.run(is_stopped)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise DeviceError(
                f"{device} has too little memory for {training.feed.share} pictures at once. Use a smaller "
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
        self.rate_scale = 1.0
        self.returns = 0
        self.saved_step = -1
        self.returns_to_saved = 0
        self.feed = _Feed(dataset, config, device, world, self.tell)
        self.log: _Log | None = None

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
        self.log = log = _Log(self.config.output, self.step) if self.world.leads else None
        feed = self.feed
        meter = _Meter(self.config.preset.batch_size)
        losses: dict[str, float] = {}
        watch = _Watch()
        try:
            while self.step < steps:
                batches = feed.batches(self.position)
                _reseed(self.config.seed, self.step + 1, self.world.rank)
                start = time.perf_counter()
                found = self.recipe.step(batches, self.step + 1, self.rate_scale)
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
        weights = self.recipe.export(self.config.output, self.step) if self.world.leads else self.config.output
        return TrainReport(
            step=self.step,
            steps_now=self.step - first_step,
            weights=weights,
            losses=losses,
            images_per_second=meter.total_pace,
            returns=self.returns,
            workers=feed.workers,
            data_wait=meter.total_wait,
        )

    def _prepare_folder(self) -> None:
        try:
            (self.config.output / SAMPLES_FOLDER).mkdir(parents=True, exist_ok=True)
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
        self.step, self.position, self.rate_scale = checkpoint.step, checkpoint.position, checkpoint.rate_scale
        self.saved_step = self.step
        return True

    def _save(self) -> None:
        if self.world.leads:
            checkpoint = Checkpoint(self.step, self.position, self.rate_scale, self.recipe.sizes(), self.recipe.state())
            write_checkpoint(checkpoint, self.checkpoint_path)
        if self.step != self.saved_step:
            self.returns_to_saved = 0
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
        self.returns += 1
        self.returns_to_saved += 1
        failed_step = self.step + 1
        if self.returns_to_saved > MOST_RETURNS:
            raise TrainingDivergedError(
                f"{problem} at step {failed_step}, also after going back to step {self.saved_step} "
                f"{MOST_RETURNS} times with ever lower rates. Use --precision fp32, look at the data, or start from "
                "other --weights."
            )
        rate_scale = self.rate_scale / 2
        self._resume()
        self.rate_scale = rate_scale
        self.feed.close()
        if self.log is not None:
            self.log.rewind(self.step)
        self.tell(
            f"{problem} at step {failed_step}: back to step {self.step}, "
            f"learning rates now {rate_scale:g} of the preset's."
        )

    def _report(self, losses: Mapping[str, float], meter: _Meter) -> None:
        steps = self.config.preset.steps
        if self.log is None or (self.step % self.config.log_every and self.step != steps):
            return
        pace, wait = meter.since_last()
        self.log.write({
            "step": self.step, **losses, "rate": self.recipe.rate(), "images_per_second": round(pace, 4),
            "data_wait": round(wait, 4),
        })  # fmt: skip
        left = (steps - self.step) * self.config.preset.batch_size / pace if pace else math.inf
        self.progress(Progress(self.step, steps, losses, pace, left))

    def _keep(self, now: bool) -> None:
        """Writes samples and a checkpoint when it is time; weights that are no numbers are never written."""
        if self.world.leads and (self.step % self.config.sample_every == 0 or self.step == self.config.preset.steps):
            self._write_samples()
        if not now and self.step % self.config.save_every:
            return
        if self.world.any(not self.recipe.is_finite(), self.device):
            self._go_back({})
            return
        self._save()
        if self.world.leads:
            self.recipe.export(self.config.output, self.step)

    def _write_samples(self) -> None:
        sample = collate([self.dataset[position] for position in range(SAMPLE_FACES)])
        columns = self.recipe.pictures(_batch_of(sample, range(SAMPLE_FACES), self.config.seed, self.device))
        picture = torch.cat([torch.cat(list(row), 2) for row in zip(*columns, strict=True)], 1)  # (3, H, W)
        write_png(picture, self.config.output / SAMPLES_FOLDER / f"{self.step:07d}.png")


class _Watch:
    """Notices a training that falls apart in numbers that are still finite: its pictures leave all bounds.

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


class _Feed:
    """Batches of the stream, loaded by as many processes as it takes not to wait for them.

    Without a number of workers given, the first steps load in this process and are timed.
    """

    MEASURED_STEPS = 2

    def __init__(
        self, dataset: Dataset[Sample], config: TrainConfig, device: torch.device, world: World, tell: Tell
    ) -> None:
        self.dataset = dataset
        self.config = config
        self.device = device
        self.world = world
        self.tell = tell
        self.waited = 0.0
        self.workers = config.workers or 0
        self.measured = 0 if config.workers is None else self.MEASURED_STEPS
        self.iterator: Iterator[Sample] | None = None
        self.told: set[Path] = set()
        share, rest = divmod(config.preset.batch_size, world.size * config.accumulate)
        if rest or not share:
            raise UsageError(
                f"--batch-size {config.preset.batch_size} cannot be shared by {world.size} processes and "
                f"{config.accumulate} parts. Use a multiple of {world.size * config.accumulate}."
            )
        self.share = share
        cores = usable_cores()
        if self.workers > cores:
            tell(f"--workers {self.workers} is more than the {cores} core(s) that this process may use.")

    def batches(self, position: int) -> list[Batch]:
        """The parts of this process of the step that begins at `position`; they follow one another."""
        start = time.perf_counter()
        if self.iterator is None:
            self.iterator = self._open(position)
        batches = []
        for part in range(self.config.accumulate):
            first = position + part * self.share * self.world.size + self.world.rank
            places = range(first, first + self.share * self.world.size, self.world.size)
            sample = self._next(self.iterator)
            batches.append(_batch_of(sample, places, self.config.seed, self.device))
        self.waited = time.perf_counter() - start
        return batches

    def _next(self, iterator: Iterator[Sample]) -> Sample:
        """The next pictures; files that cannot be used are told, each once."""
        try:
            sample = next(iterator)
        except FolderError as error:  # of a worker process it comes with the worker's traceback around it
            raise FolderError(str(error).strip().splitlines()[-1].rpartition("FolderError: ")[2]) from error
        for skipped in sample.skipped:
            if skipped.path not in self.told:
                self.told.add(skipped.path)
                self.tell(f"left out: {skipped.reason}")
        return sample

    def took(self, seconds: float) -> None:
        """Says how long a step took without loading; decides on the workers when enough is known."""
        if self.measured >= self.MEASURED_STEPS:
            return
        self.measured += 1
        if self.measured < self.MEASURED_STEPS:  # the first step also pays for everything that is done once
            return
        cores = max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        self.workers = workers_for(self.waited, seconds, cores, is_cpu=self.device.type == "cpu")
        self.tell(
            f"Loading a step's {self.config.preset.batch_size} pictures takes {self.waited:.3f} s in one process, "
            f"learning from them {seconds:.3f} s: {self.workers or 'no'} worker process(es)."
        )
        self.close()

    def close(self) -> None:
        """Ends the worker processes and forgets what was loaded ahead; the next batches begin where asked for."""
        iterator, self.iterator = self.iterator, None
        if iterator is not None:
            _end_workers(iterator)

    def _open(self, position: int) -> Iterator[Sample]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # that there are few cores was told
            loader = DataLoader(
                self.dataset,
                batch_size=self.share,
                sampler=StreamSampler(position, self.world.rank, self.world.size),
                num_workers=self.workers,
                collate_fn=collate,
                pin_memory=self.device.type == "cuda",
                worker_init_fn=single_threaded if self.workers else None,
                prefetch_factor=4 if self.workers else None,
                generator=torch.Generator(),
            )
            return iter(loader)


def workers_for(loading: float, learning: float, cores: int, *, is_cpu: bool) -> int:
    """How many processes must load so that learning never waits.

    Args:
        loading: Seconds that one process needs to load a step's pictures.
        learning: Seconds of a step without loading.
        cores: That this process may use.
        is_cpu: Whether learning itself needs the cores; then small work is not worth a process.
    """
    needed = loading / max(learning, 1e-6)
    if is_cpu and needed < 0.05:
        return 0
    return max(1, min(math.ceil(1.25 * needed), cores - 1))


def usable_cores() -> int:
    """Processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1


def _end_workers(iterator: Iterator[Sample]) -> None:
    """Ends the processes that load for a DataLoader's iterator, whatever they are doing.

    Whoever caught an error may hold the iterator in its traceback, and an iterator that lives until the interpreter
    ends leaves workers that are waited for at exit. PyTorch has no public call for this.
    """
    workers = list(getattr(iterator, "_workers", ()))
    if workers:
        with contextlib.suppress(RuntimeError):  # of a worker that aborts on its way out
            iterator._shutdown_workers()  # type: ignore[attr-defined]  # waits some seconds for each
    for worker in workers:
        if worker.is_alive():  # stuck in a read, and deaf to SIGTERM: see `single_threaded`
            worker.kill()
            worker.join()


def _batch_of(sample: Sample, places: range, seed: int, device: torch.device) -> Batch:
    on_device = sample.to(device, non_blocking=True)
    lq, gt = (item.contiguous(memory_format=torch.channels_last) for item in (on_device.lq, on_device.gt))
    return Batch(replace(on_device, lq=lq, gt=gt), [face_seed(seed, "training", place) for place in places])


def _reseed(seed: int, step: int, rank: int) -> None:
    """Makes the step's random numbers depend on nothing but (seed, step, process)."""
    mixed = face_seed(seed, "step", step * 65_536 + rank)
    torch.manual_seed(mixed)
    np.random.seed(mixed % 2**32)
    random.seed(mixed)


class _Meter:
    """Pictures a second and the share of the time spent waiting for them."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.start = self.last = time.perf_counter()
        self.steps = self.steps_since = 0
        self.waited = self.waited_since = 0.0

    def add(self, waited: float) -> None:
        self.steps += 1
        self.steps_since += 1
        self.waited += waited
        self.waited_since += waited

    def since_last(self) -> tuple[float, float]:
        """Pictures a second and the waiting share since this was asked last."""
        now = time.perf_counter()
        seconds = max(now - self.last, 1e-9)
        pace, wait = self.steps_since * self.batch_size / seconds, self.waited_since / seconds
        self.last, self.steps_since, self.waited_since = now, 0, 0.0
        return pace, wait

    @property
    def total_pace(self) -> float:
        """Pictures a second since the start."""
        return self.steps * self.batch_size / max(time.perf_counter() - self.start, 1e-9)

    @property
    def total_wait(self) -> float:
        """Share of the time since the start."""
        return self.waited / max(time.perf_counter() - self.start, 1e-9)


class _Log:
    """`log.jsonl`, one object a logged step, and TensorBoard's files where it is installed.

    Lines of steps that a training went back over are taken out: the log reads as if nothing had happened.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / LOG_NAME
        self.board = _tensorboard(folder / "tensorboard", step)
        self.rewind(step)

    def write(self, values: Mapping[str, float]) -> None:
        """Appends one step."""
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(values) + "\n")
        except OSError as error:
            raise FolderError(
                f"{self.path} cannot be written: {error.strerror or error}. Make room, then run again; the training "
                "goes on from its last checkpoint."
            ) from error
        if self.board is not None:
            for name, value in values.items():
                if name != "step":
                    self.board.add_scalar(name, value, int(values["step"]))

    def rewind(self, step: int) -> None:
        """Takes out the lines after `step`, and torn ones."""
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if 0 < _step_of(line) <= step]
        if kept != lines:
            content = "".join(f"{line}\n" for line in kept).encode()
            write_whole(self.path, lambda stream: stream.write(content))

    def close(self) -> None:
        """Finishes TensorBoard's files."""
        if self.board is not None:
            self.board.close()


def _step_of(line: str) -> int:
    """The step of a line of the log; 0 for a line that is none."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 0


def _tensorboard(folder: Path, step: int) -> Any:
    """TensorBoard's writer, which forgets what comes after `step`; None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


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


def write_png(picture: Tensor, path: Path) -> None:
    """Writes a picture (3, H, W) RGB in [-1, 1].

    Raises:
        FolderError: The disk is full, or the folder is gone or locked.
    """
    pixels = signed_to_pixels(picture[None], np.dtype(np.uint8))
    content = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
    write_whole(path, lambda stream: stream.write(content))


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "unknown time"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
