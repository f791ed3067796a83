"""NIQE, the natural image quality evaluator (Mittal, Soundararajan and Bovik, IEEE Signal Processing Letters 2013).

Statistics of blocks at two scales are compared with those of pristine photographs; no gt is needed. Scores equal those
of basicsr's calculate_niqe without border crop, which follows the authors' MATLAB release. Like basicsr, this module
computes in single precision, because flat regions depend on it: their difference from the local mean is exactly zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.evaluation.metrics.specs import Pixels
from gfprestore.weights.checkpoints import load_state

BLOCK = 96
"""Side of a block at full scale, in pixels."""

PRISTINE_FILE = "niqe-pristine.safetensors"

NEIGHBORS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Offsets of the neighbors in the pixel products: right, below and the two diagonals."""

_LUMA = (65.481, 128.553, 24.966)  # of R, G, B in [0, 1]; BT.601 in 16..235
_SHAPES = np.arange(0.2, 10.001, 0.001)


@dataclass(frozen=True)
class Pristine:
    """Gaussian model of the features of pristine photographs.

    Attributes:
        mean: (36,).
        covariance: (36, 36).
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


def load_pristine(path: Path) -> Pristine:
    """Load the parameters that ship with the package.

    Raises:
        WeightsError: The file is missing, damaged or not a parameter file.
    """
    state = load_state(path)
    return Pristine(state["mean"].numpy(), state["covariance"].numpy())


def niqe(pixels: Pixels, pristine: Pristine) -> float:
    """NIQE of an image (H, W, 3) RGB uint8, lower is better; NaN for fewer than two usable blocks."""
    values = luma(pixels)
    rows, columns = values.shape[0] // BLOCK, values.shape[1] // BLOCK
    if rows * columns < 2:
        return math.nan
    values = values[: rows * BLOCK, : columns * BLOCK]
    both = [_block_features(_blocks(normalized(values), BLOCK))]
    smaller = halved(values / np.float32(255)) * np.float32(255)
    both.append(_block_features(_blocks(normalized(smaller), BLOCK // 2)))
    features = np.concatenate(both, axis=1)  # (rows * columns, 36)
    whole = features[~np.isnan(features).any(axis=1)]
    if len(whole) < 2:
        return math.nan
    difference = pristine.mean - np.nanmean(features, axis=0)
    inverse = np.linalg.pinv((pristine.covariance + np.cov(whole, rowvar=False)) / 2)
    return float(np.sqrt(difference @ inverse @ difference))


def luma(pixels: Pixels) -> NDArray[np.float32]:
    """Convert (H, W, 3) RGB uint8 to luma (H, W) in 16..235 rounded to integers, in basicsr's steps and precision.

    `gfprestore.pixels.LUMA` spans 0..255 instead.
    """
    unit = pixels.astype(np.float32) / np.float32(255)
    levels = (unit @ np.array(_LUMA) + 16.0) / 255.0
    return np.asarray(np.round(levels.astype(np.float32) * np.float32(255)), np.float32)


def normalized(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Difference of each pixel from its local mean, divided by the local deviation (equation 1)."""
    mean = _local_means(values)
    variance = _local_means(np.square(values)) - np.square(mean)
    return np.asarray((values - mean) / (np.sqrt(np.abs(variance)) + np.float32(1)), np.float32)


def halved(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Halve the size like MATLAB's imresize: bicubic (a = -0.5) of twice the width, mirrored at the borders."""
    weights = _halving_weights()
    for axis in (0, 1):
        margins = [(3, 3) if axis == other else (0, 0) for other in (0, 1)]
        padded = np.moveaxis(np.pad(values, margins, mode="symmetric"), axis, 0)
        count = values.shape[axis] // 2
        taps = [weight * padded[tap : tap + 2 * count : 2] for tap, weight in enumerate(weights)]
        values = np.moveaxis(np.sum(taps, axis=0, dtype=np.float32), 0, axis)
    return values


def _local_means(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gaussian means over 7 x 7 with sigma 7/6 and replicated borders, summed in double precision."""
    kernel = cv2.getGaussianKernel(7, 7 / 6)
    means = cv2.sepFilter2D(values.astype(np.float64), cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(means, np.float32)


@cache
def _halving_weights() -> NDArray[np.float32]:
    distances = np.abs(np.arange(8) - 3.5) / 2
    near = 1.5 * distances**3 - 2.5 * distances**2 + 1
    far = -0.5 * distances**3 + 2.5 * distances**2 - 4 * distances + 2
    weights = np.where(distances <= 1, near, far)
    return np.asarray(weights / weights.sum(), np.float32)


def _blocks(values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Split (H, W) into blocks (N, side, side)."""
    rows, columns = values.shape[0] // side, values.shape[1] // side
    return np.asarray(values.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side))


def _block_features(blocks: NDArray[np.float32]) -> NDArray[np.float64]:
    """Features (N, 18) of blocks (N, side, side): shape and width of values and of neighbor products."""
    place, left, right = _asymmetric_gaussian(blocks)
    features = [_SHAPES[place], (left + right) / 2]
    for step in NEIGHBORS:
        place, left, right = _asymmetric_gaussian(blocks * np.roll(blocks, step, axis=(1, 2)))
        mean = (right - left) * _shape_tables()["mean"][place]  # equation 8
        features += [_SHAPES[place], mean, left, right]
    return np.stack(features, axis=1)


def _asymmetric_gaussian(
    values: NDArray[np.float32],
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Fit equation 7 to each of (N, h, w) by moments: index of the shape in the table, left and right width."""
    values = values.reshape(len(values), -1)
    squares = np.square(values)
    negative, positive = values < 0, values > 0
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN for a flat block
        left = np.sqrt(_total(squares * negative) / negative.sum(1))
        right = np.sqrt(_total(squares * positive) / positive.sum(1))
        ratio = left / right
        spread = (_total(np.abs(values)) / values.shape[1]) ** 2 / (_total(squares) / values.shape[1])
        sought = spread * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    tables = _shape_tables()
    place = _nearest(tables["ratio"], sought)
    width = tables["width"][place]
    return place, left * width, right * width


def _total(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(values.sum(axis=1, dtype=np.float64))


def _nearest(table: NDArray[np.float64], sought: NDArray[np.float64]) -> NDArray[np.intp]:
    """Index of the nearest entry of an ascending table; 0 for NaN."""
    above = np.clip(np.searchsorted(table, sought), 1, len(table) - 1)
    place = np.where(sought - table[above - 1] <= table[above] - sought, above - 1, above)
    return np.where(np.isnan(sought), 0, place)


@cache
def _shape_tables() -> dict[str, NDArray[np.float64]]:
    """Ratios of gamma functions for each shape."""
    one, two, three = (np.array([math.gamma(times / shape) for shape in _SHAPES]) for times in (1, 2, 3))
    return {"ratio": two**2 / (one * three), "width": np.sqrt(one / three), "mean": two / one}
