"""The `Photo` type: upright sRGB pixels with all other data of the file.

Pixels are (H, W, 3) RGB, upright, uint8 or uint16: the type is the bit depth of the file. They are sRGB, converted from
the file's ICC profile where it has one, and are converted back when written. A file is read once into memory and
decoded from there, so later changes to it have no effect; an original is never written to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import features

from gfprestore.photo import encoding
from gfprestore.photo.formats import FORMAT_OF_KIND
from gfprestore.photo.metadata import Metadata

Pixels = NDArray[Any]

DEFAULT_MAX_PIXELS = 500_000_000

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tiff": "TIFF"}
"""Output formats by the value of --format."""

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx", ".jpc", ".j2c"),
    "PNM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
    "PSD": (".psd",),
}
READABLE_FORMATS: frozenset[str] = (
    frozenset({"JPEG", "PNG", "TIFF", "BMP", "GIF", "PNM", "TGA", "PSD"})
    | ({"JPEG2000"} if features.check("jpg_2000") else set())
    | encoding.writable_formats()
)
"""Formats that can be read with the installed packages."""

READABLE_KINDS = frozenset(kind for kind, name in FORMAT_OF_KIND.items() if name in READABLE_FORMATS)
"""Kinds of images (`image_kind`) that can be read with the installed packages."""

PHOTO_SUFFIXES: frozenset[str] = frozenset(suffix for name in READABLE_FORMATS for suffix in SUFFIXES[name])
"""Lower-case suffixes of the files that can be read with the installed packages."""


@dataclass(frozen=True)
class Photo:
    """A photo in memory. Use `dataclasses.replace` to make a restored photo with other pixels of any size.

    Attributes:
        path: The file that it was read from.
        pixels: (H, W, 3) RGB, upright, sRGB, uint8 or uint16; the type is the file's bit depth.
        alpha: (H, W) of the same type and size; None if opaque.
        metadata: All other data of the file.
        gray: The file has one color channel; pixels with equal channels are written as one channel again.
        residual: (h, w, 3), or (h, w, 1) for gray: the part of the file's own colors that sRGB cannot represent, at
            the source's size, in signed levels; None if it is zero.
        pages: Number of pages of the file.
    """

    path: Path
    pixels: Pixels
    alpha: Pixels | None
    metadata: Metadata
    gray: bool
    residual: Pixels | None = None
    pages: int = 1
