"""Training of one network by several processes that `torchrun` starts.

Each process computes its part of the batch, and all gradients are averaged once per step in a single message.
`DistributedDataParallel` does the same with hooks. Those fail with a gradient penalty (a backward pass through a
backward pass) and with parameters that a step does not use.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed
from torch import nn

from gfprestore.errors import DeviceError


@dataclass(frozen=True)
class World:
    """The processes of a training.

    Attributes:
        rank: Number of this process; 0 is the main process.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes the files and messages."""
        return self.rank == 0

    def log(self, logger: logging.Logger, message: str) -> None:
        """Log a message once: in the main process."""
        if self.is_main_process:
            logger.info(message)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients of every process by their mean; does nothing for a single process."""
        if self.size == 1:
            return
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        if not trainable:
            return
        present = torch.tensor([float(item.grad is not None) for item in trainable], device=trainable[0].device)
        gradients = [torch.zeros_like(item) if item.grad is None else item.grad for item in trainable]
        packed = torch.cat([present, *(gradient.float().flatten() for gradient in gradients)])
        torch.distributed.all_reduce(packed)
        used = (packed[: len(trainable)] > 0).tolist()
        parts = torch.split(packed[len(trainable) :] / self.size, [item.numel() for item in trainable])
        for parameter, part, is_used in zip(trainable, parts, used, strict=True):
            if is_used:  # without a gradient the optimizer skips a parameter that no process used
                parameter.grad = torch.empty_like(parameter).copy_(part.view(parameter.shape))

    def mean(self, values: dict[str, float], device: torch.device) -> dict[str, float]:
        """Mean of the values of all processes; every process passes the same names."""
        if self.size == 1 or not values:
            return values
        packed = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float32, device=device)
        torch.distributed.all_reduce(packed)
        return dict(zip(sorted(values), (packed / self.size).tolist(), strict=True))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        flags = torch.tensor([float(flag)], device=device)
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        return bool(flags.item())


@contextlib.contextmanager
def joined_world(device: torch.device) -> Iterator[tuple[World, torch.device]]:
    """Connect the processes that `torchrun` started; without `torchrun` the world is this process alone.

    Args:
        device: The requested device; with CUDA each process uses the GPU of its local rank.

    Yields:
        The world, and the device of this process.

    Raises:
        DeviceError: The processes cannot connect, or there are more processes than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(), device
        return
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise DeviceError(
                f"torchrun started process {local} on a machine with {torch.cuda.device_count()} CUDA device(s). "
                "Start one process per device (--nproc-per-node)."
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    try:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise DeviceError(
            f"The {size} processes of WORLD_SIZE cannot connect: {error}. Start them with torchrun."
        ) from error
    try:
        yield World(torch.distributed.get_rank(), size), device
    finally:
        torch.distributed.destroy_process_group()
