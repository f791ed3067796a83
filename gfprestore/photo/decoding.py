"""Decode a photo file to its header and its pixels as stored: not yet upright, not yet sRGB.

Pillow decodes, each format by its own class, so that a crafted file cannot reach any other of its decoders. Pillow
does not support 16-bit color: OpenCV decodes such PNG and JPEG 2000 files, and for TIFF Pillow only decompresses.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from PIL import Image

from gfprestore.photo import containers, icc, jpeg, jpeg2000, png, pnm, psd, tiff, tiff_samples, webp
from gfprestore.photo.containers import Container, FileContentError, quietly
from gfprestore.photo.icc import bands
from gfprestore.photo.metadata import Metadata
from gfprestore.photo.pillow_decoder import BROKEN, Decoded, broken, levels_of, loaded, opened
from gfprestore.photo.truncation import different_rows, missing_jpeg_rows
from gfprestore.pixels import nearest_levels, to_16_bit

_WITHOUT_STRUCTURE = ("BMP", "PNM", "TGA")
_READERS: dict[str, Callable[[bytes], Container]] = {
    "JPEG": jpeg.read,
    "PNG": png.read,
    "TIFF": tiff.read,
    "WEBP": webp.read,
    "JPEG2000": jpeg2000.read,
    "PNM": pnm.read,
    "PSD": psd.read,
}


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
    image = opened(data, format)
    found = Metadata(
        format,
        image.size,
        exif=_bytes(image.info.get("exif")),
        icc=_bytes(image.info.get("icc_profile")),
        xmp=_bytes(image.info.get("xmp")),
        dpi=_resolution(image.info.get("dpi")),
        lossless=format in ("GIF", "BMP", "TGA"),
    )
    if isinstance(comment := image.info.get("comment"), bytes):
        found = replace(found, texts=(("Comment", comment.decode("utf-8", "surrogateescape")),))
    if found.exif is not None:
        found = replace(found, exif=found.exif.removeprefix(containers.EXIF_HEADER))
    images = getattr(image, "n_frames", 1)
    if format == "HEIF" and images > 1:
        found, images = found.warned(f"only the main image of its {images} images was read"), 1
    if format == "HEIF" and image.info.get("bit_depth", 8) > 8:
        found = found.warned(f"its {image.info['bit_depth']} bits per channel were reduced to 8")
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
    if format == "TIFF":
        return _rows_in_order(container, accept_truncated, tiff_samples.missing_bytes(container))
    if format == "PSD":
        return _psd(container)
    if format == "JPEG2000" and container.bits == 16:
        return _deep(container)
    if format in _WITHOUT_STRUCTURE:
        width, height = container.metadata.size
        return _with_sure_alpha(_rows_in_order(container, accept_truncated, 8 * width * height + 1024))
    return _decoded(container)


def _decoded(container: Container) -> Decoded:
    """Decode with Pillow and split into color and alpha."""
    return _split_or_refused(loaded(container.data, container.metadata.format), container)


def _split_or_refused(image: Image.Image, container: Container) -> Decoded:
    format = container.metadata.format
    try:
        with quietly(format):
            return _split(image, container)
    except BROKEN as error:
        raise broken(error) from error


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
    image = loaded(container.data, "JPEG")
    missing = 0
    notes: tuple[str, ...] = (f"none of its {image.height} rows is missing, but the file is truncated",)
    if container.lacks_scans and container.lacks_only_detail and not container.has_end:
        if not accept_truncated:
            raise FileContentError("the file is truncated, so all its rows lack detail", truncated=True)
    else:
        missing = missing_jpeg_rows(container, image, lambda data: loaded(data, "JPEG"))
        notes = _truncated(missing, image.height, accept_truncated) if missing else _end_notes(container)
    if not missing and container.lacks_scans:
        notes = (*notes, "the last scans of the progressive JPEG are missing, so it has less detail")
    decoded = _split_or_refused(image, container)
    return replace(decoded, warnings=(*decoded.warnings, *notes))


def _with_sure_alpha(decoded: Decoded) -> Decoded:
    """Alpha that is 0 everywhere is an unused fourth byte, as BMP and Targa files of many programs have it."""
    unused = decoded.alpha is not None and not decoded.alpha.any()
    return replace(decoded, alpha=None) if unused else decoded


def _rows_in_order(container: Container, accept_truncated: bool, missing_bytes: int) -> Decoded:
    """Decode a format whose rows follow one another; if the file is too short, find out which of them are missing."""
    read = _tiff if container.metadata.format == "TIFF" else _deep_pnm if container.bits == 16 else _decoded
    try:
        return read(container)
    except FileContentError as error:
        if not missing_bytes or error.unsupported:
            raise
        damaged = error
    try:
        decoded, other = (
            read(replace(container, data=container.data + level * missing_bytes)) for level in (b"\0", b"\xff")
        )
    except FileContentError:
        raise damaged from None
    missing = different_rows(decoded.pixels, other.pixels)
    if not missing:
        raise damaged
    notes = _truncated(missing, container.metadata.size[1], accept_truncated)
    return replace(decoded, warnings=(*decoded.warnings, *notes))


def _tiff(container: Container) -> Decoded:
    decoded = tiff_samples.decode(container)
    return tiff_samples.checked_extra(container, _decoded(container)) if decoded is None else decoded


def _png(container: Container, accept_truncated: bool) -> Decoded:
    pixels = png.pixel_data(container.data)
    height = struct.unpack(">I", container.data[20:24])[0]
    missing = pixels.missing_rows
    notes = _truncated(missing, height, accept_truncated) if missing else _end_notes(container)
    if missing or not container.has_end:
        container = replace(container, data=png.completed(container.data))
    decoded = _deep_png(container) if container.bits == 16 else _decoded(container)
    return replace(decoded, warnings=(*decoded.warnings, *notes))


def _end_notes(container: Container) -> tuple[str, ...]:
    return () if container.has_end else ("its end marker is missing; all its pixels are there",)


def _split(image: Image.Image, container: Container) -> Decoded:
    """Split a loaded image of any mode into color and alpha."""
    mode = image.mode
    if mode == "CMYK":
        converted = icc.cmyk_to_rgb(image, container.metadata.icc)
        warning = "its CMYK colors were converted to sRGB; the output is an RGB file"
        warnings = (
            (warning, f"its {container.bits} bits per channel were reduced to 8") if container.bits > 8 else (warning,)
        )
        return Decoded(levels_of(converted), None, warnings, keeps_profile=False)
    if mode in ("1", "L") and "transparency" not in image.info:
        return Decoded(levels_of(image.convert("L")), None)
    target = {"LA": "LA", "La": "LA", "1": "LA", "L": "LA", "RGB": "RGB", "RGBX": "RGB", "YCbCr": "RGB", "RGBA": "RGBA"}
    wanted = target.get(mode, "RGBA" if mode in ("RGBa", "P", "PA") else "")
    if mode == "P" and "transparency" not in image.info:
        wanted = "RGB"
    if mode == "RGB" and "transparency" in image.info:
        wanted = "RGBA"
    if not wanted:
        raise FileContentError(f"pixels of the type {mode!r} are not supported", unsupported=True)
    array = levels_of(image if mode == wanted else image.convert(wanted))
    if wanted == "RGB":
        return Decoded(array, None)
    return Decoded(np.ascontiguousarray(array[..., :-1]), np.ascontiguousarray(array[..., -1]))


# --- 16 bit ------------------------------------------------------------------------------------------------------


def _deep(container: Container) -> Decoded:
    """Decode a PNG or JPEG 2000 file with more than 8 bits by OpenCV; smaller scales are extended to 16 bits."""
    logged = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it logs would appear between our messages
    try:
        decoded = cv2.imdecode(np.frombuffer(container.data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise FileContentError("its pixels are damaged or incomplete") from error
    finally:
        cv2.utils.logging.setLogLevel(logged)
    if decoded is None or decoded.dtype != np.uint16:
        raise FileContentError("its pixels are damaged or incomplete")
    if decoded.ndim == 2:
        pixels, alpha = decoded[..., None], None
    elif decoded.shape[2] == 3:
        pixels, alpha = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), None
    else:
        pixels, alpha = cv2.cvtColor(decoded, cv2.COLOR_BGRA2RGB), np.ascontiguousarray(decoded[..., 3])
    if container.white is None or container.white == 65535:
        return Decoded(pixels, alpha)
    white = container.white
    return Decoded(to_16_bit(pixels, white), None if alpha is None else to_16_bit(alpha, white))


def _deep_pnm(container: Container) -> Decoded:
    return Decoded(pnm.deep_samples(container.data), None)


def _deep_png(container: Container) -> Decoded:
    """Decode a 16-bit PNG of any color type."""
    decoded = _deep(container)
    pixels, alpha = decoded.pixels, decoded.alpha
    if container.data[25] in (0, 4):
        pixels = np.ascontiguousarray(pixels[..., :1])
    key = container.transparent
    if alpha is None and key is not None and len(key) == 2 * pixels.shape[2]:
        marked = (pixels == np.frombuffer(key, ">u2").astype(np.uint16)).all(axis=-1)
        alpha = np.where(marked, 0, 65535).astype(np.uint16)
    return Decoded(pixels, alpha)


# --- Photoshop ---------------------------------------------------------------------------------------------------


def _psd(container: Container) -> Decoded:
    """Decode the flattened image, which Photoshop blends with white where it is transparent."""
    decoded = _decoded(container)
    alpha = decoded.alpha
    if not container.has_alpha:
        notes = ("its extra channels were not copied",) if container.extra_channels else ()
        return replace(decoded, alpha=None, warnings=(*decoded.warnings, *notes))
    if alpha is None:
        return decoded
    pixels = decoded.pixels
    for rows in bands(*alpha.shape):
        share = np.maximum(alpha[rows], 1)[..., None] / 255.0
        pixels[rows] = nearest_levels(255 - (255 - pixels[rows]) / share, np.uint8)
    return replace(decoded, pixels=pixels)
