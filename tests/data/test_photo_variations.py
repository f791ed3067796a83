"""Variations of the faces that a level estimator is trained on."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from doubles import smooth
from numpy.typing import NDArray

from gfprestore.data import photo_variations
from gfprestore.data.photo_variations import varied


def photo() -> NDArray[np.uint8]:
    """A smooth photo (128, 128, 3) with a bright disc at column 80, row 50."""
    pixels = np.ascontiguousarray(smooth(128, 128) // 2)
    cv2.circle(pixels, (80, 50), 6, (250, 250, 250), -1)
    return np.asarray(pixels, np.uint8)


def test_variations_are_repeatable_and_differ() -> None:
    pixels = photo()
    kept = pixels.copy()
    results = [varied(pixels, np.random.default_rng(seed)) for seed in range(20)]
    again = [varied(pixels, np.random.default_rng(seed)) for seed in range(20)]
    assert all(result.shape == pixels.shape and result.dtype == np.uint8 for result in results)
    assert all(np.array_equal(first, second) for first, second in zip(results, again, strict=True))
    assert len({result.tobytes() for result in results}) == 20
    assert np.array_equal(pixels, kept)


def test_a_variation_moves_and_lights_the_photo_a_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_variations, "HIDDEN_SHARE", 0.0)
    pixels = photo()
    distances = []
    for seed in range(60):
        gray = varied(pixels, np.random.default_rng(seed)).astype(np.float64).mean(2)
        assert 0.6 < gray.mean() / pixels.mean() < 1.6
        row, column = np.unravel_index(cv2.GaussianBlur(gray, (0, 0), 3).argmax(), gray.shape)
        distances.append(float(np.hypot(row - 50, column - 80)))
    assert max(distances) < 0.08 * 128  # shift, rotation and scale together
    assert np.median(distances) > 1


def test_a_hidden_part_is_of_one_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_variations, "HIDDEN_SHARE", 1.0)
    for name in ("MOVED_SHARE", "GAIN", "GAMMA", "CHANNEL_GAIN", "SATURATION", "LIGHT", "COMPRESSED_SHARE"):
        monkeypatch.setattr(photo_variations, name, 0.0)
    pixels = photo()
    for seed in range(10):
        result = varied(pixels, np.random.default_rng(seed))
        rows, columns = np.nonzero((result.astype(int) - pixels).any(2))
        assert 1 <= len(rows) <= (0.3 * 128 + 1) ** 2
        part = result[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert np.ptp(part, axis=(0, 1)).max() == 0
