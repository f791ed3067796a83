"""Pixels (H, W, 3) as NumPy arrays: rounding to levels, 16 to 8 bits and back, resizing, luma weights, test for gray.

Pixels are RGB uint8 (0..255) or uint16 (0..65535). Imports nothing of ours.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Luma weights of red, green and blue (ITU-R BT.601), as JPEG uses them."""

_BAND_PIXELS = 1 << 18  # compared at once by `is_gray`, so that a large image needs no mask of its own size


def nearest_levels(values: Pixels, dtype: np.dtype[Any] | type[np.uint8 | np.uint16]) -> Pixels:
    """Round values of any shape to the nearest levels of `dtype` (uint8 or uint16) and clip them to its range.

    The values are on the scale of the levels: an image in [0, 1] is multiplied by 255 or 65535 first.
    """
    return np.asarray(np.rint(np.clip(values, 0, np.iinfo(dtype).max)), dtype)


def to_8_bit(pixels: Pixels) -> NDArray[np.uint8]:
    """Convert uint16 levels to the nearest uint8 levels; return uint8 pixels unchanged.

    65535 = 255 * 257, so no level lies halfway between two 8-bit levels: integer and floating-point rounding agree.
    """
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, np.uint8)
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def to_16_bit(levels: Pixels, white: int) -> NDArray[np.uint16]:
    """Stretch levels of any shape from 0..`white` to 0..65535; higher levels, up to 65535, count as `white`."""
    table = np.rint(np.minimum(np.arange(65536), white) * (65535 / white)).astype(np.uint16)
    return np.asarray(table[levels])


def enlarged_size(height: int, width: int, upscale: float) -> tuple[int, int]:
    """Height and width of an image of `height` x `width` enlarged by `upscale`: rounded, at least 1."""
    return max(round(height * upscale), 1), max(round(width * upscale), 1)


def resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """Resize an image (H, W) or (H, W, C): average areas if neither side grows, interpolate with cubics otherwise."""
    shrinks = height <= pixels.shape[0] and width <= pixels.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=interpolation))


def is_gray(pixels: Pixels) -> bool:
    """Whether the three channels (H, W, 3) are equal in every pixel."""
    height, width = pixels.shape[:2]
    rows = max(1, _BAND_PIXELS // max(width, 1))
    for top in range(0, height, rows):
        band = pixels[top : top + rows]
        if (band[..., 0] != band[..., 1]).any() or (band[..., 0] != band[..., 2]).any():
            return False
    return True
