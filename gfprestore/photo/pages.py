"""Pages of a file: which of its smaller images are pages, and which are copies of a larger one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfprestore.photo import decoding, tiff
from gfprestore.photo.containers import Container, FileContentError
from gfprestore.pixels import resized

Pixels = NDArray[Any]

_COMPARED_SIDE = 256
_FLAT = 8.0
_SAME_LEVEL = 16.0
_SAME_CONTENT = 0.9


def with_sure_pages(container: Container, max_pixels: int) -> Container:
    """Decide on the doubtful images of a TIFF by their pixels: a copy looks like the page before or after it.

    Args:
        container: The file; its data hold all pages.
        max_pixels: Images with more pixels are not compared, and count as pages.

    Raises:
        FileContentError: An image is damaged or unsupported.
    """
    if all(page.sure for page in container.pages):
        return container
    kept, copies = [], 0
    for index, page in enumerate(container.pages):
        before = next((other for other in reversed(container.pages[:index]) if other.sure), None)
        after = next((other for other in container.pages[index + 1 :] if other.sure), None)
        small = None if page.sure else _thumbnail(container, page.offset, max_pixels)
        nearby = [other for other in (before, after) if other is not None]
        if small is not None and any(
            _is_copy(small, large)
            for other in nearby
            if (large := _thumbnail(container, other.offset, max_pixels)) is not None
        ):
            copies += 1
            continue
        kept.append(replace(page, sure=True))
    found = container if len(kept) == 1 else tiff.read(container.data, kept[0].offset)
    if copies and tiff.COPIES_DROPPED not in found.metadata.warnings:
        found = replace(found, metadata=found.metadata.warned(tiff.COPIES_DROPPED))
    return replace(found, pages=tuple(kept), frames=len(kept))


def _thumbnail(container: Container, offset: int, max_pixels: int) -> NDArray[np.float32] | None:
    """A small copy (h, w, 3) of an image of the file, as stored, in 8-bit levels; None if it has too many pixels."""
    found = tiff.read(container.data, offset)
    width, height = found.metadata.size
    if width * height > max_pixels:
        return None
    try:
        pixels = decoding.decode(found).pixels
    except FileContentError:
        return None
    scale = min(1.0, _COMPARED_SIDE / max(width, height))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    levels = np.asarray(resized(pixels, *size), np.float32)
    levels *= 255 / np.iinfo(pixels.dtype).max
    return np.broadcast_to(levels.reshape(size[1], size[0], -1), (size[1], size[0], 3))


def _is_copy(small: NDArray[np.float32], large: NDArray[np.float32]) -> bool:
    """Whether two small images show the same: they have the same mean color, and correlate or are flat."""
    size = (min(small.shape[1], large.shape[1]), min(small.shape[0], large.shape[0]))
    one, two = (resized(np.ascontiguousarray(image), *size) for image in (small, large))
    if np.abs(one.mean(axis=(0, 1)) - two.mean(axis=(0, 1))).max() > _SAME_LEVEL:
        return False
    one, two = one.mean(axis=2), two.mean(axis=2)
    if one.std() < _FLAT or two.std() < _FLAT:
        return bool(one.std() < _FLAT and two.std() < _FLAT)
    return bool(np.corrcoef(one.ravel(), two.ravel())[0, 1] > _SAME_CONTENT)
