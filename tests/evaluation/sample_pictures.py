"""Pictures that every machine makes alike: scikit-image's PNG samples, and ways to spoil them in plain arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

CROPS = {
    "astronaut": ("astronaut", (slice(0, 400), slice(60, 460))),
    "chelsea": ("chelsea", (slice(0, 300), slice(0, 451))),
    "coffee": ("coffee", (slice(60, 360), slice(100, 500))),
    "tissue": ("immunohistochemistry", (slice(0, 300), slice(200, 500))),
    "camera": ("camera", (slice(0, 384), slice(100, 388))),
}


def original(name: str) -> Pixels:
    """A crop of a sample, (H, W, 3); grey ones three times."""
    data: Any = pytest.importorskip("skimage.data", exc_type=ImportError)
    sample, crop = CROPS[name]
    pixels = np.asarray(getattr(data, sample)(), np.uint8)
    pixels = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels[crop])


def blurred(pixels: Pixels) -> Pixels:
    """Thrice the mean of neighbours, one two one."""
    values = pixels.astype(np.float64)
    for axis in (0, 1, 0, 1, 0, 1):
        values = (np.roll(values, 1, axis) + 2 * values + np.roll(values, -1, axis)) / 4
    return np.round(values).astype(np.uint8)


def noisy(pixels: Pixels) -> Pixels:
    """Uniform noise of +-24 levels, of a stream that numpy promises not to change."""
    noise = np.random.RandomState(0).randint(-24, 25, pixels.shape)
    return np.clip(pixels.astype(np.int64) + noise, 0, 255).astype(np.uint8)


def coarse(pixels: Pixels) -> Pixels:
    """Every fourth pixel, four times in both directions."""
    rows, columns = np.arange(pixels.shape[0]) // 4 * 4, np.arange(pixels.shape[1]) // 4 * 4
    return np.ascontiguousarray(pixels[rows][:, columns])


def dim(pixels: Pixels) -> Pixels:
    """Less contrast, and each channel shifted by its own."""
    return np.round(pixels * np.array([0.6, 0.7, 0.75]) + np.array([40, 20, 10])).astype(np.uint8)


WAYS: dict[str, Callable[[Pixels], Pixels]] = {
    "original": lambda pixels: pixels,
    "blurred": blurred,
    "noisy": noisy,
    "coarse": coarse,
    "dim": dim,
}


def picture(name: str) -> Pixels:
    """Such as `astronaut-blurred`."""
    sample, way = name.split("-")
    return WAYS[way](original(sample))


def features(name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two sets of correlated features, such as `features-500-64`: so many of so many dimensions."""
    _, count, dimensions = name.split("-")
    stream = np.random.RandomState(int(count))
    shape = (int(count), int(dimensions))
    mixing = np.tril(stream.uniform(-1, 1, (shape[1], shape[1])))
    one = stream.uniform(-1, 1, shape) @ mixing
    other = stream.uniform(-1, 1, shape) @ np.flip(mixing) * 0.8 + 0.3
    return one.astype(np.float32), other.astype(np.float32)
