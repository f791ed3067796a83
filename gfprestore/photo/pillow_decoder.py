"""Decoding by exactly one of Pillow's classes, so that a crafted file cannot reach any other of its decoders."""

from __future__ import annotations

import importlib
import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from gfprestore.photo.containers import FileContentError, quietly
from gfprestore.photo.icc import bands

Pixels = NDArray[Any]

_PLUGINS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "PNM": ("PIL.PpmImagePlugin", "PpmImageFile"),
    "JPEG2000": ("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    "TGA": ("PIL.TgaImagePlugin", "TgaImageFile"),
    "PSD": ("PIL.PsdImagePlugin", "PsdImageFile"),
    "HEIF": ("pillow_heif.as_plugin", "HeifImageFile"),
}
BROKEN = (SyntaxError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error, EOFError,
           OverflowError, RuntimeError, ZeroDivisionError)  # fmt: skip


@dataclass(frozen=True)
class Decoded:
    """Pixels as stored.

    Attributes:
        pixels: (H, W, 3), or (H, W, 1) for gray; uint8 or uint16, writeable.
        alpha: (H, W) of the same type; None if opaque.
        warnings: Warnings for the user.
        keeps_profile: The ICC profile still describes the pixels.
    """

    pixels: Pixels
    alpha: Pixels | None
    warnings: tuple[str, ...] = ()
    keeps_profile: bool = True


def opened(data: bytes, format: str) -> ImageFile.ImageFile:
    """Open an image with the class of its format, without decoding pixels.

    Raises:
        FileContentError: The header is damaged, or the format needs a package that is not installed.
    """
    module, name = _PLUGINS[format]
    try:
        plugin = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise FileContentError(
            f"reading {format} needs a package that is not installed",
            unsupported=True,
            advice='Install the extra: pip install "gfprestore[heif]".',
        ) from error
    try:
        with quietly(format):
            image: ImageFile.ImageFile = plugin(BytesIO(data))
            return image
    except Image.DecompressionBombError as error:
        raise FileContentError("its header states an implausible number of pixels for its format") from error
    except BROKEN as error:
        raise FileContentError(f"its {format} header is damaged ({error})") from error


def loaded(data: bytes, format: str) -> ImageFile.ImageFile:
    """Decode an image with the class of its format.

    Raises:
        FileContentError: Damaged, truncated or unsupported.
    """
    image = opened(data, format)
    try:
        with quietly(format):
            image.info.pop("xmp", None)  # Pillow would rotate a TIFF by this tag
            image.load()
    except BROKEN as error:
        raise broken(error) from error
    return image


def broken(error: Exception) -> FileContentError:
    """The error for pixels that cannot be decoded."""
    if isinstance(error, FileContentError):
        return error
    return FileContentError(f"its pixels are damaged or incomplete ({error})")


def levels_of(image: Image.Image) -> Pixels:
    """Copy an image's levels (H, W, C) band by band to a new array."""
    out = np.empty((image.height, image.width, len(image.getbands())), np.uint8)
    for rows in bands(image.height, image.width):
        band = np.asarray(image.crop((0, rows.start, image.width, rows.stop)))
        out[rows] = band.reshape(band.shape[0], image.width, -1)
    return out
