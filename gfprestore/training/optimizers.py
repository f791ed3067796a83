"""Optimizers and the moving average, shared by the recipes of all stages.

Adam for every network, mixed precision, gradients averaged over processes. Pure torch: opens no file, chooses no
device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gfprestore.training.distributed import World


class Optimizers:
    """The optimizers of a recipe by name, with the gradient scaler that float16 needs.

    Args:
        device: Device of the networks.
        dtype: Precision of the computation; the weights are float32.
        world: The processes that train together.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, world: World) -> None:
        self.device = device
        self.dtype = dtype
        self.world = world
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.learning_rates: dict[str, list[float]] = {}
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def add(
        self,
        name: str,
        groups: Sequence[tuple[Sequence[nn.Parameter], float]],
        betas: tuple[float, float],
        weight_decay: float = 0.0,
    ) -> None:
        """Add an Adam optimizer, or AdamW if there is weight decay.

        Args:
            name: Name of the optimizer.
            groups: Pairs of parameters and their learning rate.
            betas: Decay of Adam's two moments.
            weight_decay: Decoupled weight decay, a factor of the learning rate.
        """
        settings = [{"params": list(parameters), "lr": rate} for parameters, rate in groups if parameters]
        fused = self.device.type in ("cpu", "cuda")
        self.optimizers[name] = (
            torch.optim.AdamW(settings, betas=betas, weight_decay=weight_decay, fused=fused)
            if weight_decay > 0
            else torch.optim.Adam(settings, betas=betas, fused=fused)
        )
        self.learning_rates[name] = [rate for parameters, rate in groups if parameters]

    def learning_rate(self, name: str) -> float:
        """Learning rate of the first parameter group in the last step."""
        return float(self.optimizers[name].param_groups[0]["lr"])

    def autocast(self, enabled: bool = True) -> torch.autocast:
        """Context manager that runs networks in the chosen precision."""
        half = self.dtype if self.dtype != torch.float32 else torch.bfloat16
        return torch.autocast(self.device.type, half, enabled=enabled and self.dtype != torch.float32)

    def clear(self, *names: str) -> None:
        """Clear the gradients."""
        for name in names:
            self.optimizers[name].zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        torch.autograd.backward(self.scaler.scale(loss))

    def apply(self, name: str, factor: float, max_grad_norm: float | None = None) -> None:
        """Update the weights with the mean gradient of all processes.

        Args:
            name: Name of the optimizer.
            factor: Factor on its learning rates.
            max_grad_norm: Maximum norm of the gradient; a larger gradient is scaled down to it.
        """
        optimizer = self.optimizers[name]
        for group, rate in zip(optimizer.param_groups, self.learning_rates[name], strict=True):
            group["lr"] = rate * factor
        parameters = [item for group in optimizer.param_groups for item in group["params"]]
        self.world.average_gradients(parameters)
        if max_grad_norm is not None:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        self.scaler.step(optimizer)

    def mean(self, values: Sequence[Tensor]) -> float:
        """Mean of the values over all processes."""
        here = float(torch.stack([value.detach() for value in values]).mean())
        return self.world.mean({"mean": here}, self.device)["mean"]

    def finish(self) -> None:
        """Finish a step in which at least one optimizer was applied."""
        if self.scaler.is_enabled():
            self.scaler.update()

    def state(self) -> dict[str, Any]:
        """State of all optimizers and of the scaler."""
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {"optimisers": optimizers, "scaler": self.scaler.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the result of `state`."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimisers"][name])
        if self.scaler.is_enabled() and state["scaler"]:  # a training may be resumed in another precision
            self.scaler.load_state_dict(state["scaler"])


def move_to_device(module: nn.Module, device: torch.device) -> None:
    """Move a network to the device, with its convolutions in channels-last layout."""
    if any(item.device != device for item in module.state_dict().values()):
        module.to(device)
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


@contextlib.contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Freeze networks within the block: gradients flow through them, but their weights receive none."""
    trainable = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def initialize_average(average: nn.Module, module: nn.Module, device: torch.device) -> None:
    """Turn a network into the frozen moving average of another one.

    Args:
        average: A network of the same sizes; its weights are overwritten.
        module: The network that is trained.
        device: Device of both networks.
    """
    average.eval().requires_grad_(False)
    average.load_state_dict(module.state_dict())
    move_to_device(average, device)


def update_average(average: nn.Module, module: nn.Module, step: int, half_life: float) -> None:
    """Move the average toward the current weights, faster in the first steps so that the random weights fade early.

    Args:
        average: The moving average of `module`.
        module: The network that is trained.
        step: Number of the step; the first is 1.
        half_life: Steps after which half of the average is new. The official decay of 0.5 ** (32 / 10000) per step
            has a half-life of 312.5.
    """
    decay = min(0.5 ** (1 / half_life), step / (step + 10))
    trained = dict(module.named_parameters())
    pairs = [(old, trained[name]) for name, old in average.named_parameters() if trained[name].requires_grad]
    with torch.no_grad():
        for old, new in pairs:
            old.lerp_(new, 1 - decay)


def all_finite(*modules: nn.Module) -> bool:
    """Whether no weight of the networks is NaN or infinite."""
    largest = [parameter.detach().abs().amax() for module in modules for parameter in module.parameters()]
    return bool(torch.stack(largest).isfinite().all())
