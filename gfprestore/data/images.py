"""Images and files of an evaluation: read as 8-bit RGB with a word on what was changed, written whole or not at all.

Every image of a set is called by its path within its folder without the suffix, so that `lq/a.png`, `gt/a.jpg` and
`restored/a.webp` are one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.batch.source_state import read_source_state
from gfprestore.photo.metadata import Metadata
from gfprestore.photo.photo import Photo
from gfprestore.photo.reading import read_photo
from gfprestore.photo.writing import write_photo

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ReadImage:
    """An image as it is measured.

    Attributes:
        pixels: (H, W, 3) RGB, sRGB.
        gray: The file holds one color channel; it was taken three times.
        notes: What was changed on the way: `16 bit`, `alpha`.
    """

    pixels: Pixels
    gray: bool
    notes: tuple[str, ...] = ()


def read_pixels(path: Path) -> ReadImage:
    """Reads an image as 8-bit RGB: 16-bit levels to the nearest, transparency left out.

    Raises:
        PhotoError: It is missing, damaged, or of a kind that is not read.
    """
    photo = read_photo(path)
    notes = []
    pixels = photo.pixels
    if pixels.dtype != np.uint8:
        notes.append("16 bit")
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if photo.alpha is not None:
        notes.append("alpha")
    return ReadImage(np.asarray(pixels, np.uint8), photo.gray, tuple(notes))


def image_name(path: Path, folder: Path) -> str:
    """What an image is called: its path within its folder, with forward slashes, without the suffix."""
    return path.relative_to(folder).with_suffix("").as_posix()


def resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """The image (H, W, 3) at another size: averaged where it becomes smaller, cubic where it grows."""
    shrinks = height <= pixels.shape[0] and width <= pixels.shape[1]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=way), np.uint8)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes in hex digits.

    Raises:
        PhotoError: It cannot be read.
    """
    return read_source_state(path).sha256


def write_png(path: Path, pixels: Pixels) -> None:
    """Writes RGB (H, W, 3) as PNG without metadata; the folder exists.

    Raises:
        PhotoError: It cannot be written.
    """
    metadata = Metadata("PNG", (pixels.shape[1], pixels.shape[0]))
    write_photo(Photo(path.with_name(f"{path.name}.none"), pixels, None, metadata, gray=False), path)
