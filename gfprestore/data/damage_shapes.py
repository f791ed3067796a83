"""Shapes of damage on prints: opacity maps of random curves, cracks, torn edges and specks.

Maps are (H, W) float32 in [0, 1]. Points are (N, 2) x, y in pixels. Lengths are in pixels; a line thinner than a pixel
is fainter instead.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.data.capture import Image

Points = NDArray[np.float64]
Shape = tuple[int, int]


def curve(
    start: Points, direction: float, length: float, bend: float, random: np.random.Generator, step: float = 4.0
) -> Points:
    """A random curve whose curvature changes slowly.

    Args:
        start: First point (2,).
        direction: First direction in radians.
        length: Length in pixels.
        bend: Standard deviation of the total change of direction, in radians.
        random: Random generator.
        step: Distance of the points.
    """
    count = max(2, round(length / step))
    curvature = np.cumsum(random.standard_normal(count))
    curvature *= bend / max(float(np.abs(np.cumsum(curvature)).max()), 1e-9) * abs(random.normal())
    directions = direction + np.cumsum(curvature)
    steps = step * np.stack([np.cos(directions), np.sin(directions)], axis=1)
    return np.asarray(np.vstack([start, start + np.cumsum(steps, axis=0)]))


def jagged(points: Points, roughness: float, random: np.random.Generator) -> Points:
    """A line with its inner points moved at random, by `roughness` times the distance of neighboring points."""
    if len(points) < 3:
        return points
    distance = float(np.hypot(*np.diff(points, axis=0).T).mean())
    moved = points.copy()
    moved[1:-1] += random.normal(0, roughness * distance, (len(points) - 2, 2))
    return np.asarray(moved)


def resampled(points: Points, step: float) -> Points:
    """Points at equal distances along a line."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    places = np.linspace(0, along[-1], max(2, round(along[-1] / step) + 1))
    return np.asarray(np.stack([np.interp(places, along, points[:, axis]) for axis in (0, 1)], axis=1))


def line(shape: Shape, points: Points, widths: NDArray[np.float64] | float) -> Image:
    """A line of constant or varying width.

    Args:
        shape: Height and width of the map.
        points: The line (N, 2).
        widths: Width in pixels, or the widths of the N - 1 pieces.
    """
    if isinstance(widths, float):
        return _strokes(shape, [points], widths)
    opacity = np.zeros(shape, np.float32)
    bins = np.clip(np.ceil(np.log2(np.maximum(widths, 0.25)) * 2), -4, 16).astype(int)  # half octaves
    for value in np.unique(bins):
        pieces = [points[index : index + 2] for index in np.flatnonzero(bins == value)]
        opacity = np.maximum(opacity, _strokes(shape, pieces, float(2 ** (value / 2))))
    return opacity


def _strokes(shape: Shape, lines: list[Points], width: float) -> Image:
    canvas = np.zeros(shape, np.uint8)
    sixteenths = [np.rint(points * 16).astype(np.int32)[:, None] for points in lines]
    cv2.polylines(canvas, sixteenths, False, 255, max(1, round(width)), cv2.LINE_AA, 4)
    return np.asarray(canvas.astype(np.float32) * np.float32(min(1.0, width) / 255))


def area(shape: Shape, points: Points) -> Image:
    """The inside of a closed line."""
    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, [np.rint(points * 16).astype(np.int32)[:, None]], 255, cv2.LINE_AA, 4)
    return np.asarray(canvas.astype(np.float32) / 255)


def broken(points: Points, share: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Factors (N - 1,) in [0, 1] on the width of a line: about `share` of it is interrupted, in runs of pieces."""
    count = len(points) - 1
    waves = smooth_noise(count, max(3, count // 6), random)
    level = np.quantile(waves, share) if share > 0 else -np.inf
    return np.asarray(np.clip((waves - level) * 2.5 + 0.15, 0, 1) * (waves > level))


def smooth_noise(count: int, knots: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Random values (count,), standard normal at `knots` places and linear between them."""
    places = np.linspace(0, 1, max(2, knots))
    return np.interp(np.linspace(0, 1, count), places, random.standard_normal(len(places)))


def clouds(shape: Shape, size: float, random: np.random.Generator, octaves: int = 4) -> Image:
    """Smooth noise (H, W) of mean 0 and standard deviation 1, with details down to a fraction of `size` pixels."""
    height, width = shape
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        cell = max(1.0, size / 2**octave)
        coarse = random.standard_normal((int(height / cell) + 3, int(width / cell) + 3), np.float32)
        larger = cv2.resize(coarse, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
        top, left = (random.integers(0, max(1, larger.shape[axis] - shape[axis])) for axis in (0, 1))
        total += larger[top : top + height, left : left + width] * np.float32(0.55**octave)
    return np.asarray((total - total.mean()) / max(float(total.std()), 1e-6), np.float32)


def crack_lines(
    start: Points, direction: float, length: float, random: np.random.Generator, depth: int = 3
) -> list[tuple[Points, int]]:
    """A crack and its branches, each with its depth: 0 for the crack, 1 for its branches, and so on."""
    trunk = jagged(curve(start, direction, length, 0.7, random, step=5.0), 0.35, random)
    lines = [(trunk, 3 - depth)]
    if depth > 0:
        for _ in range(int(random.poisson(length / 90))):
            place = int(random.integers(1, len(trunk)))
            ahead = trunk[place] - trunk[place - 1]
            side = float(np.arctan2(ahead[1], ahead[0])) + random.choice([-1, 1]) * random.uniform(0.5, 1.4)
            lines += crack_lines(trunk[place], side, length * random.uniform(0.2, 0.6), random, depth - 1)
    return lines


def shifted(opacity: Image, dx: float, dy: float) -> Image:
    """A map moved by a fraction of pixels."""
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float64)
    return np.asarray(cv2.warpAffine(opacity, matrix, opacity.shape[::-1], flags=cv2.INTER_LINEAR))


def blurred(opacity: Image, sigma: float) -> Image:
    """A softened map."""
    return opacity if sigma < 0.2 else np.asarray(cv2.GaussianBlur(opacity, (0, 0), sigma))


def distance_outside(opacity: Image) -> Image:
    """Distance (H, W) in pixels from the places where the map is above one half; 0 inside."""
    outside = (opacity <= 0.5).astype(np.uint8)
    if outside.all():
        return np.full(opacity.shape, 1e6, np.float32)
    return np.asarray(cv2.distanceTransform(outside, cv2.DIST_L2, 3), np.float32)
