"""Several processes that train one network, over PyTorch's own engine (`torchrun`).

Each process computes its part of the batch and the gradients are averaged once a step, all in one message. That is what
`DistributedDataParallel` does, without its hooks, which a gradient penalty (a backward through a backward) and
parameters that a step leaves out would trip.
"""

from __future__ import annotations

import contextlib
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
        rank: This process's number; 0 writes the files and talks.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes the files and talks."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Gives every process the mean of all processes' gradients; nothing to do for one."""
        if self.size == 1:
            return
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        if not learning:
            return
        present = torch.tensor([float(item.grad is not None) for item in learning], device=learning[0].device)
        gradients = [torch.zeros_like(item) if item.grad is None else item.grad for item in learning]
        together = torch.cat([present, *(gradient.float().flatten() for gradient in gradients)])
        torch.distributed.all_reduce(together)
        used = (together[: len(learning)] > 0).tolist()
        parts = torch.split(together[len(learning) :] / self.size, [item.numel() for item in learning])
        for parameter, part, is_used in zip(learning, parts, used, strict=True):
            if is_used:  # a parameter that no process used keeps no gradient, so that its optimizer leaves it alone
                parameter.grad = torch.empty_like(parameter).copy_(part.view(parameter.shape))

    def mean(self, values: dict[str, float], device: torch.device) -> dict[str, float]:
        """The mean of all processes' values; the names are the same everywhere."""
        if self.size == 1 or not values:
            return values
        together = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float32, device=device)
        torch.distributed.all_reduce(together)
        return dict(zip(sorted(values), (together / self.size).tolist(), strict=True))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process says so."""
        if self.size == 1:
            return flag
        told = torch.tensor([float(flag)], device=device)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        return bool(told.item())


@contextlib.contextmanager
def joined_world(device: torch.device) -> Iterator[tuple[World, torch.device]]:
    """Joins the processes that `torchrun` started; alone where it started none.

    Args:
        device: What was asked for; with CUDA each process takes the card of its local number.

    Yields:
        The world, and this process's device.

    Raises:
        DeviceError: The processes cannot find one another, or there are more of them than cards.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(), device
        return
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise DeviceError(
                f"torchrun started process {local} on this machine, which has {torch.cuda.device_count()} CUDA "
                "device(s). Start one process a device (--nproc-per-node)."
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    try:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise DeviceError(
            f"the {size} processes of WORLD_SIZE cannot be joined: {error}. Start them with torchrun."
        ) from error
    try:
        yield World(torch.distributed.get_rank(), size), device
    finally:
        torch.distributed.destroy_process_group()
