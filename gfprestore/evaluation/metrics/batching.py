"""Shared steps of the metrics: finding weights, checking images, batching them for a network, averaging."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from gfprestore.device import is_out_of_memory, release_memory
from gfprestore.errors import MetricUnavailable, UsageError
from gfprestore.evaluation.metrics.specs import MetricSpec, Pixels
from gfprestore.tensors import pixels_to_signed
from gfprestore.weights.store import WeightsStore

Item = TypeVar("Item")

PIXELS_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 22}
"""Pixels per batch by device type; features of VGG-16 take about 1 kB per pixel."""


def released_weights(spec: MetricSpec, store: WeightsStore, name: str) -> Path:
    """Find the weights of a metric, without a download.

    Raises:
        MetricUnavailable: The weights are missing.
        WeightsDamagedError: The weights are damaged.
    """
    path = store.find(name)
    if path is None:
        raise MetricUnavailable(
            spec.label,
            f"{name} was not found in {', '.join(map(str, store.folders))}.",
            f"Run `gfprestore weights fetch {name}`.",
        )
    return path


def images(spec: MetricSpec, given: Sequence[Pixels]) -> Sequence[Pixels]:
    """Check that all images are (H, W, 3) uint8 and return them.

    Raises:
        UsageError: One is not.
    """
    for number, image in enumerate(given, 1):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UsageError(
                f"{spec.label} needs 8-bit RGB images (height, width, 3); image {number} of {len(given)} is "
                f"{image.shape} {image.dtype}."
            )
    return given


def pairs(spec: MetricSpec, restored: Sequence[Pixels], gt: Sequence[Pixels] | None) -> list[tuple[Pixels, Pixels]]:
    """Check the images and pair each restored image with its gt.

    Raises:
        UsageError: A gt is missing or differs in size from its image, or an image is not (H, W, 3) uint8.
    """
    if gt is None or len(gt) != len(restored):
        raise UsageError(f"{spec.label} needs one gt per image: {len(restored)} images, {len(gt or ())} gt.")
    both = list(zip(images(spec, restored), images(spec, gt), strict=True))
    for number, (one, other) in enumerate(both, 1):
        if one.shape != other.shape:
            raise UsageError(
                f"{spec.label} needs images of the same size as their gt; image {number} of {len(both)} is "
                f"{one.shape[1]} x {one.shape[0]}, its gt {other.shape[1]} x {other.shape[0]}. "
                "Resize one of them and state it with the score."
            )
    return both


class Averaged:
    """A metric whose score of a set is the mean of its images."""

    def summarize(self, scores: Sequence[float]) -> float:
        """Mean without NaN."""
        return mean_score(scores)


def mean_score(scores: Sequence[float]) -> float:
    """Mean without NaN; NaN if nothing is left, infinity if any score is infinite."""
    numbers = [score for score in scores if not math.isnan(score)]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def signed_batch(given: Sequence[Pixels], device: torch.device) -> Tensor:
    """Convert images of one size to (B, 3, H, W) in [-1, 1] on the device, channels-last."""
    tensors = torch.cat([pixels_to_signed(image, device) for image in given])
    return tensors.contiguous(memory_format=torch.channels_last)


def runs_of_one_size(both: Sequence[tuple[Pixels, Pixels]]) -> Iterator[Sequence[tuple[Pixels, Pixels]]]:
    """Consecutive pairs of one size, in order."""
    start = 0
    for index in range(1, len(both) + 1):
        if index == len(both) or both[index][0].shape != both[start][0].shape:
            yield both[start:index]
            start = index


def in_batches(
    function: Callable[[Sequence[Item]], Tensor], items: Sequence[Item], pixels_each: int, device: torch.device
) -> Tensor:
    """Apply a network to items of one size in batches; batches become smaller if memory runs out.

    Args:
        function: Maps B items to a tensor (B, ...) without gradients.
        items: At least one.
        pixels_each: Pixels per item, which determine the batch size.
        device: Device of the function.

    Returns:
        (N, ...) float32 on the CPU.
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
    """Disable gradients and TF32, which changes features on GPUs in the third digit."""
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
