"""Decode a photo file to its header and its pixels as stored: not yet upright, not yet sRGB.

Pillow decodes, each format by its own class, so that a crafted file cannot reach any other of its decoders. Pillow
does not support 16-bit color: OpenCV decodes such PNG files, and for TIFF Pillow only decompresses the data.
"""

from __future__ import annotations

import importlib
import struct
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from gfprestore.photo import containers, exif, icc, jpeg, png, tiff, webp
from gfprestore.photo.containers import Container, FileContentError
from gfprestore.photo.icc import bands
from gfprestore.photo.metadata import Metadata
from gfprestore.photo.truncation import different_rows, missing_jpeg_rows
from gfprestore.pixels import nearest_levels

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
_WITHOUT_STRUCTURE = ("BMP", "PNM", "TGA")
_READERS = {"JPEG": jpeg.read, "PNG": png.read, "TIFF": tiff.read, "WEBP": webp.read}
_BROKEN = (SyntaxError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error, EOFError,
           OverflowError, RuntimeError, ZeroDivisionError)  # fmt: skip
_LOSSLESS_TIFF = (1, 5, 8, 32773, 32946, 34925, 50000)


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


def header_of(data: bytes, format: str) -> Container:
    """Read size, frames and metadata of a file without decoding any pixel.

    Raises:
        FileContentError: Damaged or unsupported.
    """
    if format in _READERS:
        try:
            return _READERS[format](data)
        except (struct.error, IndexError) as error:
            raise FileContentError(f"the {format} header is truncated") from error
    image = _opened(data, format)
    found = Metadata(
        format,
        image.size,
        exif=_bytes(image.info.get("exif")),
        icc=_bytes(image.info.get("icc_profile")),
        xmp=_bytes(image.info.get("xmp")),
        dpi=_resolution(image.info.get("dpi")),
        lossless=format in ("GIF", "BMP"),
    )
    if isinstance(comment := image.info.get("comment"), bytes):
        found = replace(found, texts=(("Comment", comment.decode("utf-8", "surrogateescape")),))
    if found.exif is not None:
        found = replace(found, exif=found.exif.removeprefix(containers.EXIF_HEADER))
    images = getattr(image, "n_frames", 1)
    if format == "HEIF" and images > 1:
        found, images = found.warned(f"only the main image of its {images} images was read"), 1
    return Container(found, data, frames=images)


def _bytes(value: object) -> bytes | None:
    return bytes(value) if isinstance(value, bytes | bytearray) and value else None


def _resolution(value: object) -> tuple[float, float] | None:
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, int | float) and v > 0 for v in value):
        return (float(value[0]), float(value[1]))
    return None


def decode(container: Container, accept_truncated: bool = False) -> Decoded:
    """Decode the pixels of a file.

    Args:
        container: The file.
        accept_truncated: If a part of the rows is missing, decode the others and say how many are missing.

    Raises:
        FileContentError: Damaged, truncated or unsupported.
        MemoryError: The pixels do not fit into memory.
    """
    format = container.metadata.format
    if format == "JPEG":
        return _jpeg(container, accept_truncated)
    if format == "PNG":
        return _png(container, accept_truncated)
    if format == "TIFF" and container.structure is not None:
        photometric = _check_tiff(container.structure, container.bits)
        if container.bits == 16 and photometric <= 2:
            return _deep_tiff(container.data, container.structure, photometric)
    if format in _WITHOUT_STRUCTURE:
        return _rows_in_order(container, accept_truncated)
    return _decoded(container, container.data)


def _decoded(container: Container, data: bytes) -> Decoded:
    """Decode a stream with Pillow and split it into color and alpha."""
    return _split_or_refused(_loaded(data, container.metadata.format), container)


def _split_or_refused(image: Image.Image, container: Container) -> Decoded:
    format = container.metadata.format
    try:
        with containers.quietly(format):
            return _split(image, container)
    except _BROKEN as error:
        raise _broken(error) from error


def _loaded(data: bytes, format: str) -> ImageFile.ImageFile:
    image = _opened(data, format)
    try:
        with containers.quietly(format):
            image.info.pop("xmp", None)  # Pillow would rotate a TIFF by this tag
            image.load()
    except _BROKEN as error:
        raise _broken(error) from error
    return image


def _broken(error: Exception) -> FileContentError:
    if isinstance(error, FileContentError):
        return error
    return FileContentError(f"its pixels are damaged or incomplete ({error})")


def _truncated(missing: int, height: int, accept: bool) -> tuple[str, ...]:
    """Warning about missing rows.

    Raises:
        FileContentError: The photo is not to be accepted, or nothing of it is there.
    """
    note = f"{missing} of its {height} rows are missing or incomplete, because the file is truncated"
    if not accept:
        raise FileContentError(note, truncated=missing < height)
    if missing >= height:
        raise FileContentError("the file is truncated, and none of its rows is complete")
    return (f"{note}; the others were restored",)


def _jpeg(container: Container, accept_truncated: bool) -> Decoded:
    if container.bits != 8:
        raise FileContentError(f"JPEG with {container.bits} bits per sample is not supported", unsupported=True)
    image = _loaded(container.data, "JPEG")
    missing = missing_jpeg_rows(container, image, lambda data: _loaded(data, "JPEG"))
    notes = _truncated(missing, image.height, accept_truncated) if missing else _end_notes(container)
    if not missing and container.lacks_scans:
        notes = (*notes, "the last scans of the progressive JPEG are missing, so it has less detail")
    decoded = _split_or_refused(image, container)
    return replace(decoded, warnings=(*decoded.warnings, *notes))


def _rows_in_order(container: Container, accept_truncated: bool) -> Decoded:
    """Decode a format whose rows follow one another; if the file is too short, find out which of them are missing."""
    format = container.metadata.format
    try:
        return _decoded(container, container.data)
    except FileContentError as error:
        damaged = error
    width, height = container.metadata.size
    filling = 8 * width * height + 1024
    try:
        image, other = (_loaded(container.data + level * filling, format) for level in (b"\0", b"\xff"))
    except FileContentError:
        raise damaged from None
    missing = different_rows(image, other)
    if not missing:
        raise damaged
    notes = _truncated(missing, height, accept_truncated)
    decoded = _split_or_refused(image, container)
    return replace(decoded, warnings=(*decoded.warnings, *notes))


def _png(container: Container, accept_truncated: bool) -> Decoded:
    pixels = png.pixel_data(container.data)
    height = struct.unpack(">I", container.data[20:24])[0]
    missing = pixels.missing_rows
    notes = _truncated(missing, height, accept_truncated) if missing else _end_notes(container)
    if missing or not container.has_end:
        container = replace(container, data=png.completed(container.data))
    decoded = _deep_png(container) if container.bits == 16 else _decoded(container, container.data)
    return replace(decoded, warnings=(*decoded.warnings, *notes))


def _end_notes(container: Container) -> tuple[str, ...]:
    return () if container.has_end else ("its end marker is missing; all its pixels are there",)


def _opened(data: bytes, format: str) -> ImageFile.ImageFile:
    module, name = _PLUGINS[format]
    try:
        plugin = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise FileContentError(
            f"reading {format} needs a package that is not installed: pip install 'gfprestore[heif]'", unsupported=True
        ) from error
    try:
        with containers.quietly(format):
            image: ImageFile.ImageFile = plugin(BytesIO(data))
            return image
    except Image.DecompressionBombError as error:
        raise FileContentError("its header states an implausible number of pixels for its format") from error
    except _BROKEN as error:
        raise FileContentError(f"its {format} header is damaged ({error})") from error


def _split(image: Image.Image, container: Container) -> Decoded:
    """Split a loaded image of any mode into color and alpha."""
    mode = image.mode
    if mode == "CMYK":
        converted = icc.cmyk_to_rgb(image, container.metadata.icc)
        warning = "its CMYK colors were converted to sRGB; the output is an RGB file"
        return Decoded(_array(converted), None, (warning,), keeps_profile=False)
    if mode in ("1", "L") and "transparency" not in image.info:
        return Decoded(_array(image.convert("L")), None)
    target = {"LA": "LA", "La": "LA", "1": "LA", "L": "LA", "RGB": "RGB", "RGBX": "RGB", "YCbCr": "RGB", "RGBA": "RGBA"}
    wanted = target.get(mode, "RGBA" if mode in ("RGBa", "P", "PA") else "")
    if mode == "P" and "transparency" not in image.info:
        wanted = "RGB"
    if mode == "RGB" and "transparency" in image.info:
        wanted = "RGBA"
    if not wanted:
        raise FileContentError(f"pixels of the type {mode!r} are not supported", unsupported=True)
    array = _array(image if mode == wanted else image.convert(wanted))
    if wanted == "RGB":
        return Decoded(array, None)
    return Decoded(np.ascontiguousarray(array[..., :-1]), np.ascontiguousarray(array[..., -1]))


def _array(image: Image.Image) -> Pixels:
    """Copy an image's levels (H, W, C) band by band to a new array."""
    out = np.empty((image.height, image.width, len(image.getbands())), np.uint8)
    for rows in bands(image.height, image.width):
        band = np.asarray(image.crop((0, rows.start, image.width, rows.stop)))
        out[rows] = band.reshape(band.shape[0], image.width, -1)
    return out


# --- 16 bit ------------------------------------------------------------------------------------------------------


def _deep_png(container: Container) -> Decoded:
    """Decode a 16-bit PNG of any color type."""
    try:
        decoded = cv2.imdecode(np.frombuffer(container.data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise FileContentError("its pixels are damaged or incomplete") from error
    if decoded is None or decoded.dtype != np.uint16:
        raise FileContentError("its pixels are damaged or incomplete")
    color = container.data[25]
    if decoded.ndim == 2:
        pixels, alpha = decoded[..., None], None
    elif decoded.shape[2] == 3:
        pixels, alpha = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), None
    else:
        pixels, alpha = cv2.cvtColor(decoded, cv2.COLOR_BGRA2RGB), np.ascontiguousarray(decoded[..., 3])
    if color in (0, 4):
        pixels = np.ascontiguousarray(pixels[..., :1])
    key = container.transparent
    if alpha is None and key is not None and len(key) == 2 * pixels.shape[2]:
        marked = (pixels == np.frombuffer(key, ">u2").astype(np.uint16)).all(axis=-1)
        alpha = np.where(marked, 0, 65535).astype(np.uint16)
    return Decoded(pixels, alpha)


def _check_tiff(structure: exif.Structure, bits: int) -> int:
    """Photometric interpretation of a TIFF.

    Raises:
        FileContentError: The samples are of an unsupported type.
    """
    first = structure.chain[0]
    kinds = set(structure.integers(first.find(339)) or (1,))
    if not kinds <= {1, 4}:
        named = {2: "signed", 3: "floating point"}.get(max(kinds & {2, 3}, default=0), "complex")
        raise FileContentError(f"TIFF with {named} samples of {bits} bits is not supported", unsupported=True)
    if bits not in (1, 2, 4, 8, 16):
        raise FileContentError(f"TIFF with {bits} bits per sample is not supported", unsupported=True)
    photometric = structure.integer(first, 262)
    if photometric is None:
        photometric = 2 if (structure.integer(first, 277) or 1) >= 3 else 1
    if bits == 16 and photometric not in (0, 1, 2, 5):
        raise FileContentError(f"16-bit TIFF with color model {photometric} is not supported", unsupported=True)
    return photometric


def _deep_tiff(data: bytes, structure: exif.Structure, photometric: int) -> Decoded:
    """Decode a 16-bit gray or RGB TIFF: with or without alpha, strips or tiles, any byte order and planar layout."""
    first = structure.chain[0]

    def number(tag: int, default: int) -> int:
        value = structure.integer(first, tag)
        return default if value is None else value

    width, height, samples = number(256, 0), number(257, 0), number(277, 1)
    colors = 3 if photometric == 2 else 1
    if number(259, 1) not in _LOSSLESS_TIFF or number(317, 1) not in (1, 2) or samples < colors or samples > 64:
        raise FileContentError("16-bit TIFF with this compression or layout is not supported", unsupported=True)
    planes = samples if number(284, 1) == 2 else 1
    together = samples // planes
    tile = (number(322, 0), number(323, 0)) if first.find(324) is not None else None
    layers = [_tiff_plane(data, structure, (width, height), together, tile, plane, planes) for plane in range(planes)]
    raw = layers[0] if planes == 1 else np.concatenate(layers, axis=-1)
    if photometric == 0:
        raw[..., 0] = 65535 - raw[..., 0]
    extra = structure.integers(first.find(338))
    has_alpha = samples > colors and bool(extra) and extra[0] in (1, 2)
    notes = ("its extra channels were not copied",) if samples - colors - has_alpha > 0 else ()
    pixels = np.ascontiguousarray(raw[..., :colors])
    if not has_alpha:
        return Decoded(pixels, None, notes)
    alpha = np.ascontiguousarray(raw[..., colors])
    if extra[0] == 1:
        share = 65535 / np.maximum(alpha, 1)[..., None].astype(np.float64)
        pixels = nearest_levels(pixels * share, np.uint16)
    return Decoded(pixels, alpha, notes)


def _tiff_plane(
    data: bytes,
    structure: exif.Structure,
    size: tuple[int, int],
    samples: int,
    tile: tuple[int, int] | None,
    plane: int,
    planes: int,
) -> Pixels:
    """Samples (H, W, C) of one plane, read as 8-bit gray of as many bytes, so that the decoder only unpacks."""
    first, order = structure.chain[0], structure.order
    width, height = size
    offsets = structure.integers(first.find(324 if tile else 273))
    sizes = structure.integers(first.find(325 if tile else 279))
    share = len(offsets) // planes
    if not share or len(sizes) != len(offsets):
        raise FileContentError("its strips are not at the offsets in its header")
    offsets, sizes = (numbers[plane * share : (plane + 1) * share] for numbers in (offsets, sizes))
    if max(start + length for start, length in zip(offsets, sizes, strict=True)) > len(data):
        raise FileContentError("the file is truncated")
    row_bytes = 2 * samples

    def field(tag: int, *values: int) -> exif.Field:
        return exif.Field(tag, exif.LONG, len(values), struct.pack(f"{order}{len(values)}I", *values))

    compression, filling = structure.integer(first, 259) or 1, structure.integer(first, 266) or 1
    fields = [field(256, width * row_bytes), field(257, height), field(258, 8), field(259, compression), field(262, 1)]
    fields += [field(266, filling), field(277, 1)]
    if tile:
        fields += [field(322, tile[0] * row_bytes), field(323, tile[1]), field(324, *offsets), field(325, *sizes)]
    else:
        rows = min(structure.integer(first, 278) or height, height)
        fields += [field(273, *offsets), field(278, rows), field(279, *sizes)]
    at = len(data) + len(data) % 2
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", at)
    rebuilt = b"".join((head, data[8:], b"\0" * (at - len(data)), exif.serialize(fields, order, at)))
    image = _opened(rebuilt, "TIFF")
    try:
        with containers.quietly("TIFF"):
            image.load()
    except _BROKEN as error:
        raise FileContentError(f"its pixels are damaged or incomplete ({error})") from error
    if image.mode != "L" or image.size != (width * row_bytes, height):
        raise FileContentError("its header is inconsistent")
    levels = _array(image).reshape(height, -1).view(f"{order}u2").astype(np.uint16).reshape(height, width, samples)
    if structure.integer(first, 317) == 2:
        step = tile[0] if tile else width
        for left in range(0, width, step):
            part = levels[:, left : left + step]
            np.cumsum(part, axis=1, dtype=np.uint16, out=part)
    return levels
