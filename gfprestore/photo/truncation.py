"""Whether all pixels of a photo are in its stream.

A decoder fills what is missing with some level, which a photo may as well have, so the level proves nothing. Here the
stream is decoded a second time with other bytes behind its end: rows that change are not in the stream. A complete
stream is decoded to the same pixels, because decoders skip what follows the last row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gfprestore.photo.containers import Container
from gfprestore.photo.icc import bands
from gfprestore.photo.jpeg import END_MARKER

Pixels = NDArray[Any]

_FILLING = bytes(value % 255 for value in np.random.default_rng(19).integers(0, 255, 4096).tolist())


def missing_jpeg_rows(container: Container, image: Image.Image, load: Callable[[bytes], Image.Image]) -> int:
    """Number of rows from the first incomplete one to the end of a JPEG; 0 if all are in the stream.

    A JPEG with one scan and an end marker is decoded a second time only if its last pixel has the level that libjpeg
    fills in. Arithmetic coding cannot be checked in this way, because its streams may end early.

    Args:
        container: The JPEG.
        image: Its decoded image.
        load: Decodes a stream.
    """
    if container.is_arithmetic:
        return 0 if container.has_end else image.height
    if container.lacks_scans and not (container.has_end and container.metadata.progressive):
        return image.height
    if container.has_end and container.scans == 1 and not _ends_in_filling(image):
        return 0
    filled = container.data[: -len(END_MARKER)] + _FILLING + END_MARKER
    other = load(filled)
    for rows in bands(image.height, image.width):
        area = (0, rows.start, image.width, rows.stop)
        changed = _changed_rows(np.asarray(image.crop(area)), np.asarray(other.crop(area)))
        if changed.any():
            return int(image.height - rows.start - np.argmax(changed))
    return 0


def different_rows(pixels: Pixels, other: Pixels) -> int:
    """Number of rows in which two images (H, W, C) differ."""
    return sum(int(_changed_rows(pixels[rows], other[rows]).sum()) for rows in bands(*pixels.shape[:2]))


def _changed_rows(pixels: Pixels, other: Pixels) -> NDArray[np.bool_]:
    changed: NDArray[np.bool_] = (pixels != other).reshape(len(pixels), -1).any(axis=1)
    return changed


def _ends_in_filling(image: Image.Image) -> bool:
    """Whether the last pixel has the middle level that libjpeg uses for missing data (127 if Pillow inverted it)."""
    last = image.getpixel((image.width - 1, image.height - 1))
    levels = last if isinstance(last, tuple) else (last,)
    return all(level in (127, 128) for level in levels)
