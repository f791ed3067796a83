"""Images of an evaluation: read as 8-bit RGB with notes on conversions, written atomically.

The name of an image is its path within its folder without the suffix, so `lq/a.png`, `gt/a.jpg` and
`restored/a.webp` have the same name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfprestore.batch.source_state import read_source_state
from gfprestore.errors import PhotoError
from gfprestore.photo.metadata import Metadata
from gfprestore.photo.photo import Photo
from gfprestore.photo.reading import read_photo
from gfprestore.photo.writing import write_photo
from gfprestore.pixels import resized, to_8_bit

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ReadImage:
    """An image as the metrics see it.

    Attributes:
        pixels: Pixels (H, W, 3) sRGB.
        gray: Whether the file has a single channel, which was repeated.
        notes: Conversions: `16 bit`, `alpha`.
    """

    pixels: Pixels
    gray: bool
    notes: tuple[str, ...] = ()


def read_pixels(path: Path) -> ReadImage:
    """Read an image as 8-bit RGB; 16-bit levels are rounded and transparency is discarded.

    Raises:
        PhotoError: The file is missing, damaged, or of an unsupported type.
    """
    photo = read_photo(path)
    notes = []
    pixels = photo.pixels
    if pixels.dtype != np.uint8:
        notes.append("16 bit")
        pixels = to_8_bit(pixels)
    if photo.alpha is not None:
        notes.append("alpha")
    return ReadImage(np.asarray(pixels, np.uint8), photo.gray, tuple(notes))


def square_face(path: Path, pixels: NDArray[Any], size: int, need: str) -> NDArray[Any]:
    """Downscale an aligned face (S, S, 3) of any pixel type to (size, size, 3).

    Args:
        path: File of the face, for the messages.
        pixels: The face.
        size: Side of the result.
        need: What requires this size, for the message: "the set needs".

    Raises:
        PhotoError: The image is not square, or smaller than `size`.
    """
    height, width = pixels.shape[:2]
    if height != width:
        raise PhotoError(
            f"{path} is not square ({width} x {height} pixels). Run `gfprestore prepare` to align the faces."
        )
    if height < size:
        raise PhotoError(f"{path} is too small: it has {height} pixels a side, but {need} {size}. Use --size {height}.")
    return pixels if height == size else resized(pixels, size, size)


def image_name(path: Path, folder: Path) -> str:
    """Name of an image: its path within its folder, with forward slashes and without the suffix."""
    return path.relative_to(folder).with_suffix("").as_posix()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as hexadecimal digits.

    Raises:
        PhotoError: The file cannot be read.
    """
    return read_source_state(path).sha256


def write_png(path: Path, pixels: Pixels) -> None:
    """Write RGB pixels (H, W, 3), or gray ones (H, W), as PNG without metadata; the folder must exist.

    Raises:
        PhotoError: The file cannot be written.
    """
    metadata = Metadata("PNG", (pixels.shape[1], pixels.shape[0]))
    gray = pixels.ndim == 2
    pixels = np.repeat(pixels[..., None], 3, axis=2) if gray else pixels
    write_photo(Photo(path.with_name(f"{path.name}.none"), pixels, None, metadata, gray=gray), path)
