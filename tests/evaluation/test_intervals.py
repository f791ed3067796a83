"""Intervals against closed forms and published values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gfprestore.evaluation.intervals import (
    grouped_share_interval,
    mean_interval,
    ratio_interval,
    wilson_interval,
)


def test_the_bootstrap_of_a_mean_has_the_width_of_its_standard_error() -> None:
    sample = np.random.default_rng(3).normal(2, 1, 400)
    found = mean_interval(sample.tolist())
    assert found is not None and found.value == pytest.approx(sample.mean()) and found.count == 400
    error = sample.std() / math.sqrt(400)
    assert found.low == pytest.approx(sample.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(sample.mean() + 1.96 * error, abs=0.1 * error)
    assert mean_interval(sample.tolist()) == found
    assert mean_interval([1.0]) is None
    constant = mean_interval([3.0, 3.0, 3.0])
    assert constant is not None and (constant.low, constant.high) == (3, 3)


def test_the_ratio_is_that_of_the_means() -> None:
    found = ratio_interval([1, 2, 3], [2, 4, 6])
    assert found is not None and (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    assert ratio_interval([1, 2], [0, 0]) is None
    with pytest.raises(ValueError, match="do not pair"):
        ratio_interval([1, 2], [1])


def test_wilsons_interval_has_its_published_values() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for hits, trials, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611),
                                    (1, 29, 0.0061, 0.1718)):  # fmt: skip
        found = wilson_interval(hits, trials)
        assert found is not None and (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(0, 0) is None
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson_interval(3, 2)


def test_groups_that_agree_within_widen_the_interval() -> None:
    single = wilson_interval(50, 100)
    grouped = grouped_share_interval([10, 0] * 5, [10] * 10)
    assert single is not None and grouped is not None and grouped.value == 0.5
    assert grouped.high - grouped.low > 1.5 * (single.high - single.low)
    assert grouped_share_interval([1, 0], [1, 0]) is None
