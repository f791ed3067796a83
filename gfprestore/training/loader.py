"""Loading of batches for the training loop, in worker processes."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from gfprestore.data.face_dataset import Sample, StreamSampler, collate, single_threaded
from gfprestore.device import face_seed
from gfprestore.errors import FolderError, UsageError
from gfprestore.training.config import TrainConfig
from gfprestore.training.distributed import World
from gfprestore.training.recipe import Batch

log = logging.getLogger(__name__)


class BatchLoader:
    """Loader of the batches of the stream in worker processes.

    If the config gives no number of workers, the first steps load in this process and are timed. The loader then
    chooses enough workers to keep up with the training.
    """

    MEASURED_STEPS = 2

    def __init__(self, dataset: Dataset[Sample], config: TrainConfig, device: torch.device, world: World) -> None:
        self.dataset = dataset
        self.config = config
        self.device = device
        self.world = world
        self.waited = 0.0
        self.workers = config.workers or 0
        self.measured = 0 if config.workers is None else self.MEASURED_STEPS
        self.iterator: Iterator[Sample] | None = None
        self.reported: set[Path] = set()
        share, rest = divmod(config.preset.batch_size, world.size * config.accumulate)
        if rest or not share:
            raise UsageError(
                f"--batch-size {config.preset.batch_size} cannot be divided by {world.size} processes and "
                f"{config.accumulate} parts. Use a multiple of {world.size * config.accumulate}."
            )
        self.images_per_part = share
        cores = usable_cores()
        if self.workers > cores:
            world.log(log, f"--workers {self.workers} is more than the {cores} core(s) that this process may use.")

    def batches(self, position: int) -> list[Batch]:
        """Load the parts of a step that this process computes.

        Args:
            position: Position in the stream of the first image of the step.

        Raises:
            FolderError: No image of the data can be used.
        """
        start = time.perf_counter()
        if self.iterator is None:
            self.iterator = self._open(position)
        batches = []
        for part in range(self.config.accumulate):
            images = self.images_per_part * self.world.size
            first = position + part * images + self.world.rank
            places = range(first, first + images, self.world.size)
            sample = self._next(self.iterator)
            batches.append(batch_of(sample, places, self.config.seed, self.device))
        self.waited = time.perf_counter() - start
        return batches

    def _next(self, iterator: Iterator[Sample]) -> Sample:
        """Load the next images; report each unusable file once."""
        try:
            sample = next(iterator)
        except FolderError as error:  # a worker process wraps the message in its traceback
            raise FolderError(str(error).strip().splitlines()[-1].rpartition("FolderError: ")[2]) from error
        for skipped in sample.skipped:
            if skipped.path not in self.reported:
                self.reported.add(skipped.path)
                self.world.log(log, f"Skipped: {skipped.reason}")
        return sample

    def record_step(self, seconds: float) -> None:
        """Record the duration of a step without loading; choose the number of workers after enough steps."""
        if self.measured >= self.MEASURED_STEPS:
            return
        self.measured += 1
        if self.measured < self.MEASURED_STEPS:  # the first step includes one-time costs
            return
        cores = max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        self.workers = workers_for(self.waited, seconds, cores, is_cpu=self.device.type == "cpu")
        self.world.log(
            log,
            f"Loading the {self.config.preset.batch_size} images of a step takes {self.waited:.3f} s, training on them "
            f"takes {seconds:.3f} s: using {self.workers or 'no'} worker process(es).",
        )
        self.close()

    def close(self) -> None:
        """End the worker processes and discard preloaded images; the next call of `batches` starts new ones."""
        iterator, self.iterator = self.iterator, None
        if iterator is not None:
            _end_workers(iterator)

    def _open(self, position: int) -> Iterator[Sample]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # already reported by this class
            loader = DataLoader(
                self.dataset,
                batch_size=self.images_per_part,
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
    """Number of worker processes that keep up with the training.

    Args:
        loading: Seconds that one process needs to load the images of a step.
        learning: Seconds of a step without loading.
        cores: Number of cores that this process may use.
        is_cpu: Whether the training itself runs on the CPU; quick loading then needs no worker.
    """
    needed = loading / max(learning, 1e-6)
    if is_cpu and needed < 0.05:
        return 0
    return max(1, min(math.ceil(1.25 * needed), cores - 1))


def usable_cores() -> int:
    """Number of processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1


def _end_workers(iterator: Iterator[Sample]) -> None:
    """End the worker processes of a DataLoader's iterator, even if they hang.

    A caught error may keep the iterator alive through its traceback, and the interpreter then waits for the workers at
    exit. PyTorch has no public function for this.
    """
    workers = list(getattr(iterator, "_workers", ()))
    if workers:
        with contextlib.suppress(RuntimeError):  # a worker may abort while it exits
            iterator._shutdown_workers()  # type: ignore[attr-defined]  # waits some seconds for each worker
    for worker in workers:
        if worker.is_alive():  # stuck in a read and ignoring SIGTERM, see `single_threaded`
            worker.kill()
            worker.join()


def batch_of(sample: Sample, places: range, seed: int, device: torch.device) -> Batch:
    """Batch on the device, in channels-last layout, with one random seed per image."""
    on_device = sample.to(device, non_blocking=True)
    lq, gt = (item.contiguous(memory_format=torch.channels_last) for item in (on_device.lq, on_device.gt))
    return Batch(replace(on_device, lq=lq, gt=gt), [face_seed(seed, "training", place) for place in places])
