"""Confidence intervals of 95 %: paired bootstrap over images, bootstrap over groups, and Wilson's for shares.

The resampling is seeded, so that the same scores give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
AT_ONCE = 1 << 20  # drawn indices in memory
LOW, HIGH = 2.5, 97.5  # percentiles
NORMAL_QUANTILE = 1.959963984540054  # 97.5 % of the standard normal distribution

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: The number for the sample itself.
        low: Lower end.
        high: Upper end.
        count: Size of the sample.
    """

    value: float
    low: float
    high: float
    count: int


def mean_interval(values: Sequence[float]) -> Estimate | None:
    """Mean and its bootstrap interval; None for fewer than two values. For pairs, give their differences."""
    sample = np.asarray(values, np.float64)
    return _bootstrap(len(sample), lambda drawn: np.asarray(sample[drawn].mean(axis=1)))


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate | None:
    """Ratio of the means of paired values and its bootstrap interval.

    None for fewer than two pairs, or if the denominators add up to 0.

    Raises:
        ValueError: The numbers do not pair.
    """
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if len(above) != len(below):
        raise ValueError(f"{len(above)} numerators do not pair with {len(below)} denominators")
    if len(above) < 2 or below.sum() == 0:
        return None

    def ratios(drawn: NDArray[Any]) -> Floats:
        sums = below[drawn].sum(axis=1)
        undefined = np.full(len(drawn), np.nan)
        return np.asarray(np.divide(above[drawn].sum(axis=1), sums, out=undefined, where=sums != 0))

    return _bootstrap(len(above), ratios)


def grouped_share_interval(successes: Sequence[float], trials: Sequence[float]) -> Estimate | None:
    """Share of successes and its interval by bootstrap over groups, whose members need not be independent.

    Args:
        successes: Per group.
        trials: Per group.

    Returns:
        None for fewer than two groups with trials. The count is that of the groups.
    """
    kept = [(hits, total) for hits, total in zip(successes, trials, strict=True) if total > 0]
    return ratio_interval([hits for hits, _ in kept], [total for _, total in kept])


def wilson_interval(successes: int, trials: int) -> Estimate | None:
    """Share of successes and its Wilson score interval (Wilson, 1927) for independent trials; None without trials.

    Raises:
        ValueError: There are more successes than trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    if trials == 0:
        return None
    share, square = successes / trials, NORMAL_QUANTILE**2
    center = (share + square / (2 * trials)) / (1 + square / trials)
    spread = (
        NORMAL_QUANTILE * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2)) / (1 + square / trials)
    )
    low, high = (0.0 if successes == 0 else center - spread), (1.0 if successes == trials else center + spread)
    return Estimate(share, low, high, trials)


def _bootstrap(count: int, statistic: Callable[[NDArray[Any]], Floats]) -> Estimate | None:
    """Percentile interval of a statistic of drawn indices (R, N) -> (R,)."""
    if count < 2:
        return None
    random = np.random.default_rng(0)
    rows = max(1, AT_ONCE // count)
    parts = []
    for start in range(0, RESAMPLES, rows):
        parts.append(statistic(random.integers(0, count, (min(rows, RESAMPLES - start), count))))
    low, high = np.nanpercentile(np.concatenate(parts), (LOW, HIGH)).tolist()
    value = float(statistic(np.arange(count)[None])[0])
    return Estimate(value, low, high, count)
