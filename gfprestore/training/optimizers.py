"""How weights change: Adam for every network, mixed precision, averaging over processes, and the moving average.

What the recipes of both stages share. Pure torch: opens no file, chooses no device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gfprestore.training.distributed import World


class Optimizers:
    """The optimizers of a recipe by name, with the scaler that half precision needs.

    Args:
        device: Where the networks are.
        dtype: What they compute in; their weights are float32.
        world: The processes that train together.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, world: World) -> None:
        self.device = device
        self.dtype = dtype
        self.world = world
        self.optimizers: dict[str, torch.optim.Adam] = {}
        self.rates: dict[str, list[float]] = {}
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def add(
        self, name: str, groups: Sequence[tuple[Sequence[nn.Parameter], float]], betas: tuple[float, float]
    ) -> None:
        """Gives parameters an optimizer; groups are (parameters, learning rate)."""
        settings = [{"params": list(parameters), "lr": rate} for parameters, rate in groups if parameters]
        fused = self.device.type in ("cpu", "cuda")
        self.optimizers[name] = torch.optim.Adam(settings, betas=betas, fused=fused)
        self.rates[name] = [rate for parameters, rate in groups if parameters]

    def autocast(self, enabled: bool = True) -> torch.autocast:
        """The context to run networks in."""
        half = self.dtype if self.dtype != torch.float32 else torch.bfloat16
        return torch.autocast(self.device.type, half, enabled=enabled and self.dtype != torch.float32)

    def clear(self, *names: str) -> None:
        """Forgets the gradients."""
        for name in names:
            self.optimizers[name].zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a loss."""
        torch.autograd.backward(self.scaler.scale(loss))

    def apply(self, name: str, factor: float, limit: float | None = None) -> None:
        """Changes the weights by the mean gradient of all processes, at `factor` of the learning rate.

        Args:
            name: Of the optimizer.
            factor: What its learning rates are multiplied with.
            limit: The largest norm of the whole gradient; a longer one is shortened to it.
        """
        optimizer = self.optimizers[name]
        for group, rate in zip(optimizer.param_groups, self.rates[name], strict=True):
            group["lr"] = rate * factor
        parameters = [item for group in optimizer.param_groups for item in group["params"]]
        self.world.average_gradients(parameters)
        if limit is not None:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, limit)
        self.scaler.step(optimizer)

    def mean(self, values: Sequence[Tensor]) -> float:
        """The mean of some numbers over them and over all processes."""
        here = float(torch.stack([value.detach() for value in values]).mean())
        return self.world.mean({"mean": here}, self.device)["mean"]

    def finish(self) -> None:
        """Ends a step in which at least one optimizer was applied."""
        if self.scaler.is_enabled():
            self.scaler.update()

    def state(self) -> dict[str, Any]:
        """Of all optimizers and the scaler."""
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {"optimisers": optimizers, "scaler": self.scaler.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes over what `state` gave."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimisers"][name])
        if self.scaler.is_enabled() and state["scaler"]:  # a training may go on in another precision
            self.scaler.load_state_dict(state["scaler"])


def place(module: nn.Module, device: torch.device) -> None:
    """Brings a network to the device, its convolutions in channels-last."""
    if any(item.device != device for item in module.state_dict().values()):
        module.to(device)
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


@contextlib.contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Gradients flow through these networks, and their weights get none."""
    learning = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def update_average(average: nn.Module, module: nn.Module, step: int, halflife: float) -> None:
    """Moves the average toward the weights; in the first steps faster, so that random weights are soon forgotten.

    Args:
        average: The same network, never trained itself.
        module: The network that learns.
        step: 1 being the first.
        halflife: Steps after which half of the average is new (the official 0.5 ** (32 / 10000) a step is 312.5).
    """
    decay = min(0.5 ** (1 / halflife), step / (step + 10))
    learning = dict(module.named_parameters())
    pairs = [(old, learning[name]) for name, old in average.named_parameters() if learning[name].requires_grad]
    with torch.no_grad():
        for old, new in pairs:
            old.lerp_(new, 1 - decay)


def all_finite(*modules: nn.Module) -> bool:
    """Whether all weights are numbers."""
    largest = [parameter.detach().abs().amax() for module in modules for parameter in module.parameters()]
    return bool(torch.stack(largest).isfinite().all())
