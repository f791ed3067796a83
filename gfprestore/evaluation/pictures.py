"""What every metric does with its pictures: checks them, batches them, sums up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gfprestore.errors import UsageError
from gfprestore.evaluation.specs import MetricSpec, Pixels


def pictures(spec: MetricSpec, given: Sequence[Pixels]) -> Sequence[Pixels]:
    """The pictures, checked.

    Raises:
        UsageError: One is no (H, W, 3) uint8.
    """
    for number, picture in enumerate(given, 1):
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise UsageError(
                f"{spec.label} takes RGB pictures of 8 bits, (height, width, 3); picture {number} of {len(given)} is "
                f"{picture.shape} {picture.dtype}."
            )
    return given


def pairs(spec: MetricSpec, restored: Sequence[Pixels], gt: Sequence[Pixels] | None) -> list[tuple[Pixels, Pixels]]:
    """Each restored picture with its gt, checked.

    Raises:
        UsageError: A gt is missing or has another size than its picture, or one is no (H, W, 3) uint8.
    """
    if gt is None or len(gt) != len(restored):
        raise UsageError(f"{spec.label} compares with the gt: {len(restored)} pictures, {len(gt or ())} gt.")
    both = list(zip(pictures(spec, restored), pictures(spec, gt), strict=True))
    for number, (one, other) in enumerate(both, 1):
        if one.shape != other.shape:
            raise UsageError(
                f"{spec.label} compares pictures of one size; picture {number} of {len(both)} is "
                f"{one.shape[1]} x {one.shape[0]}, its gt {other.shape[1]} x {other.shape[0]}. "
                "Resize one of them, and say so beside the number."
            )
    return both


def mean_score(scores: Sequence[float]) -> float:
    """The mean without NaN; NaN where nothing is left, infinity where one is infinite."""
    numbers = [score for score in scores if not math.isnan(score)]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan
