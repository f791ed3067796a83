"""Random variations of a photo of a face that keep its retouching recognizable.

A level estimator sees few people many times and soon knows them by heart. It learns more from each image if place,
exposure, colors and compression differ every time, as they do between photos. The ranges are our own choice.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.data.capture import Image, jpeg
from gfprestore.data.degradation import saturated
from gfprestore.data.images import Pixels
from gfprestore.pixels import nearest_levels

MOVED_SHARE = 0.8
"""Share of the images that are moved; the others keep their pixels as they are, which moving blurs a little."""

ROTATION = 4.0
"""Largest rotation in degrees."""

SCALE, ASPECT = 0.05, 0.015
"""Largest change of the size, and of width against height."""

SHIFT = 0.025
"""Largest shift as a share of the side."""

GAIN, GAMMA, CHANNEL_GAIN, SATURATION, LIGHT = 0.12, 0.15, 0.04, 0.2, 0.1
"""Largest changes, as logarithms, of exposure, gamma, a single color channel, saturation, and exposure from one side of
the photo to the other."""

HIDDEN_SHARE, HIDDEN_SIDE = 0.5, 0.3
"""Share of the images with a hidden rectangle, and its largest side as a share of the image's."""

COMPRESSED_SHARE, QUALITY = 0.4, (75, 100)
"""Share of the images that are JPEG-compressed, and the range of qualities."""


def varied(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """A random variation of a photo.

    Args:
        pixels: (S, S, 3) uint8 RGB.
        random: Random generator.

    Returns:
        (S, S, 3) uint8.
    """
    if random.random() < MOVED_SHARE:
        pixels = _moved(pixels, random)
    image = _lit(pixels, random)
    if random.random() < COMPRESSED_SHARE:
        image = jpeg(image, int(random.integers(QUALITY[0], QUALITY[1] + 1)))
    pixels = nearest_levels(image * np.float32(255), np.uint8)
    if random.random() < HIDDEN_SHARE:
        _hide_part(pixels, random)
    return pixels


def _moved(pixels: Pixels, random: np.random.Generator) -> Pixels:
    side = len(pixels)
    center = (side - 1) / 2
    matrix = cv2.getRotationMatrix2D((center, center), random.uniform(-ROTATION, ROTATION), 1.0)
    scale, aspect = np.exp(random.uniform(-SCALE, SCALE)), np.exp(random.uniform(-ASPECT, ASPECT))
    zoom = np.array([[scale * aspect, 0, 0], [0, scale / aspect, 0], [0, 0, 1]])
    zoom[:2, 2] = center - zoom[:2, :2] @ [center, center] + random.uniform(-SHIFT, SHIFT, 2) * side
    whole = zoom @ np.vstack([matrix, [0, 0, 1]])
    moved = cv2.warpAffine(pixels, whole[:2], (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, np.uint8)


def _lit(pixels: Pixels, random: np.random.Generator) -> Image:
    """Other exposure, gamma, colors and light from one side; (S, S, 3) float32 in [0, 1]."""
    image: Image = np.asarray((pixels / 255) ** _factor(GAMMA, random), np.float32)
    image = saturated(image, float(_factor(SATURATION, random)[0]))
    gains = _factor(GAIN, random) * _factor(CHANNEL_GAIN, random, 3)
    angle, strength = random.uniform(0, 2 * np.pi), random.uniform(0, LIGHT)
    place = np.linspace(-0.5, 0.5, len(pixels))
    light = np.exp(strength * np.add.outer(place * np.sin(angle), place * np.cos(angle)))
    lit: Image = np.clip(image * gains.astype(np.float32) * light.astype(np.float32)[..., None], 0, 1)
    return lit


def _factor(largest: float, random: np.random.Generator, count: int = 1) -> NDArray[np.float64]:
    return np.exp(random.uniform(-largest, largest, count))


def _hide_part(pixels: Pixels, random: np.random.Generator) -> None:
    """Fill a rectangle with one color."""
    side = len(pixels)
    height, width = random.integers(max(1, side // 16), max(2, round(HIDDEN_SIDE * side)), 2)
    top, left = random.integers(0, side - height + 1), random.integers(0, side - width + 1)
    pixels[top : top + height, left : left + width] = random.integers(0, 256, 3)
