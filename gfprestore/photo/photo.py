"""Photos: read upright in sRGB, written whole or not at all, with everything else of the file.

Pixels are (H, W, 3) RGB, upright, uint8 or uint16: the type is the bit depth of the file. They are sRGB, converted from
the file's ICC profile where it has one, and are converted back when written. A file is read once into memory and
decoded from there, whatever happens to it meanwhile; an original is never written to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gfprestore.photo import encoding
from gfprestore.photo.metadata import Metadata

Pixels = NDArray[Any]

DEFAULT_MAX_PIXELS = 500_000_000

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tiff": "TIFF"}
"""The formats that a user can ask for, by their option word."""

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
}
_READABLE = frozenset({"JPEG", "PNG", "TIFF", "BMP", "GIF"}) | encoding.writable_formats()
PHOTO_SUFFIXES: frozenset[str] = frozenset(suffix for name in _READABLE for suffix in SUFFIXES[name])
"""Suffixes, in lower case, of the files that are taken for photos with what is installed."""


@dataclass(frozen=True)
class Photo:
    """A photo in memory. `dataclasses.replace` with other pixels, of any size, is how a restored one is made.

    Attributes:
        path: The file that it was read from.
        pixels: (H, W, 3) RGB, upright, sRGB, uint8 or uint16; the type is the file's bit depth.
        alpha: (H, W) of the same type and size, None when opaque.
        metadata: Everything else of the file.
        gray: The file holds one color channel; pixels of equal channels are written as one again.
        residual: (h, w, 3), or (h, w, 1) for gray: what sRGB could not hold of the file's own colors, at the source's
            size, in signed levels; None when nothing.
    """

    path: Path
    pixels: Pixels
    alpha: Pixels | None
    metadata: Metadata
    gray: bool
    residual: Pixels | None = None
