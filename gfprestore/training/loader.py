"""Load batches for the training loop in worker processes."""

from __future__ import annotations

import contextlib
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
from gfprestore.training.recipe import Batch, Tell


class BatchLoader:
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
            batches.append(batch_of(sample, places, self.config.seed, self.device))
        self.waited = time.perf_counter() - start
        return batches

    def _next(self, iterator: Iterator[Sample]) -> Sample:
        """The next images; files that cannot be used are told, each once."""
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
            f"Loading a step's {self.config.preset.batch_size} images takes {self.waited:.3f} s in one process, "
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
        loading: Seconds that one process needs to load a step's images.
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


def batch_of(sample: Sample, places: range, seed: int, device: torch.device) -> Batch:
    """A batch on the device, channels-last, with one random seed per image."""
    on_device = sample.to(device, non_blocking=True)
    lq, gt = (item.contiguous(memory_format=torch.channels_last) for item in (on_device.lq, on_device.gt))
    return Batch(replace(on_device, lq=lq, gt=gt), [face_seed(seed, "training", place) for place in places])
