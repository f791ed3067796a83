"""Turn photos by quarter turns, with everything in the file that depends on their sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gfprestore.photo import metadata
from gfprestore.photo.photo import Photo, Pixels

ORIENTATIONS = (1, 6, 3, 8)
"""EXIF orientation that stands for 0, 1, 2 and 3 quarter turns to the right."""


def turned_right(photo: Photo, turns: int) -> Photo:
    """Turn a photo and its metadata to the right.

    Args:
        photo: The photo, upright according to its metadata.
        turns: Quarter turns, 0 to 3.

    Returns:
        The turned photo. Its `metadata.orientation` is that of the file followed by the turn.
    """
    orientation = ORIENTATIONS[turns]
    return replace(
        photo,
        pixels=pixels_upright(photo.pixels, orientation),
        alpha=None if photo.alpha is None else pixels_upright(photo.alpha, orientation),
        residual=None if photo.residual is None else pixels_upright(photo.residual, orientation),
        metadata=metadata.turned(photo.metadata, orientation, combined(photo.metadata.orientation, orientation)),
    )


def pixels_upright(pixels: Pixels, orientation: int) -> Pixels:
    """Rotate stored pixels (H, W, ...) upright by an EXIF orientation, 1 to 8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def combined(first: int, then: int) -> int:
    """The EXIF orientation that does what two do, one after the other."""
    sample = np.arange(4).reshape(2, 2)
    both = pixels_upright(pixels_upright(sample, first), then)
    return next(each for each in range(1, 9) if np.array_equal(pixels_upright(sample, each), both))
