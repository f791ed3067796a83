"""What every metric does with its images: checks them, batches them for a network, sums up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from gfprestore.device import is_out_of_memory, release_memory
from gfprestore.errors import UsageError
from gfprestore.evaluation.metrics.specs import MetricSpec, Pixels
from gfprestore.tensors import pixels_to_signed

Item = TypeVar("Item")

PIXELS_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 22}
"""Of the images of a batch, by kind of device; VGG-16's features take about a kilobyte a pixel."""


def images(spec: MetricSpec, given: Sequence[Pixels]) -> Sequence[Pixels]:
    """The images, checked.

    Raises:
        UsageError: One is no (H, W, 3) uint8.
    """
    for number, image in enumerate(given, 1):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UsageError(
                f"{spec.label} takes RGB images of 8 bits, (height, width, 3); image {number} of {len(given)} is "
                f"{image.shape} {image.dtype}."
            )
    return given


def pairs(spec: MetricSpec, restored: Sequence[Pixels], gt: Sequence[Pixels] | None) -> list[tuple[Pixels, Pixels]]:
    """Each restored image with its gt, checked.

    Raises:
        UsageError: A gt is missing or has another size than its image, or one is no (H, W, 3) uint8.
    """
    if gt is None or len(gt) != len(restored):
        raise UsageError(f"{spec.label} compares with the gt: {len(restored)} images, {len(gt or ())} gt.")
    both = list(zip(images(spec, restored), images(spec, gt), strict=True))
    for number, (one, other) in enumerate(both, 1):
        if one.shape != other.shape:
            raise UsageError(
                f"{spec.label} compares images of one size; image {number} of {len(both)} is "
                f"{one.shape[1]} x {one.shape[0]}, its gt {other.shape[1]} x {other.shape[0]}. "
                "Resize one of them, and say so beside the number."
            )
    return both


def mean_score(scores: Sequence[float]) -> float:
    """The mean without NaN; NaN where nothing is left, infinity where one is infinite."""
    numbers = [score for score in scores if not math.isnan(score)]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def signed_batch(given: Sequence[Pixels], device: torch.device) -> Tensor:
    """Images of one size to (B, 3, H, W) in [-1, 1] on the device, channels-last."""
    tensors = torch.cat([pixels_to_signed(image, device) for image in given])
    return tensors.contiguous(memory_format=torch.channels_last)


def runs_of_one_size(both: Sequence[tuple[Pixels, Pixels]]) -> Iterator[Sequence[tuple[Pixels, Pixels]]]:
    """Neighbors of one size together, in order."""
    start = 0
    for index in range(1, len(both) + 1):
        if index == len(both) or both[index][0].shape != both[start][0].shape:
            yield both[start:index]
            start = index


def in_batches(
    function: Callable[[Sequence[Item]], Tensor], items: Sequence[Item], pixels_each: int, device: torch.device
) -> Tensor:
    """What a network makes of items of one size, some at a time, on the CPU; fewer at a time where memory runs out.

    Args:
        function: From some items to a tensor (B, ...) without gradients.
        items: At least one.
        pixels_each: Pixels of an item, which decide how many make a batch.
        device: Where the function computes.

    Returns:
        (N, ...) float32.
    """
    size = max(PIXELS_AT_ONCE.get(device.type, PIXELS_AT_ONCE["cpu"]) // pixels_each, 1)
    results: list[Tensor] = []
    done = 0
    while done < len(items):
        try:
            with exactly():
                results.append(function(items[done : done + size]).float().cpu())
        except RuntimeError as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            release_memory(device)
            size = max(size // 2, 1)
            continue
        done += size
    return torch.cat(results)


@contextmanager
def exactly() -> Iterator[None]:
    """No gradients, and no convolutions of ten bits: TF32, a GPU's habit, moves features in the third digit."""
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
