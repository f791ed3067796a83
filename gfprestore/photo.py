"""Photos: read upright in sRGB, written whole or not at all, with everything else of the file.

Pixels are (H, W, 3) RGB, upright, uint8 or uint16: the type is the bit depth of the file. They are sRGB, converted from
the file's ICC profile where it has one, and are converted back when written. A file is read once into memory and
decoded from there, whatever happens to it meanwhile; an original is never written to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gfprestore import colourspace, containers, decoding, encoding, metadata
from gfprestore.colourspace import Conversion, ProfileError, bands
from gfprestore.containers import Container, FileContentError
from gfprestore.encoding import EncodingError, Picture
from gfprestore.errors import PhotoTooLargeError, PhotoWriteError, UnreadablePhotoError, UnsupportedPhotoError
from gfprestore.metadata import Metadata

Pixels = NDArray[Any]

DEFAULT_MAX_PIXELS = 500_000_000
TEMPORARY_PREFIX = ".gfprestore-"
"""What the names of unfinished outputs begin with; a killed run may leave one behind."""

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tiff": "TIFF"}
"""The formats that a user can ask for, by their option word."""

_SUFFIXES = {
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
PHOTO_SUFFIXES: frozenset[str] = frozenset(suffix for name in _READABLE for suffix in _SUFFIXES[name])
"""Suffixes, in lower case, of the files that are taken for photos with what is installed."""

_HEADER_BYTES = 1 << 20
_BYTES_A_PIXEL = 16
_THUMBNAIL_SIDE = 160


@dataclass(frozen=True)
class Photo:
    """A photo in memory. `dataclasses.replace` with other pixels, of any size, is how a restored one is made.

    Attributes:
        path: The file that it was read from.
        pixels: (H, W, 3) RGB, upright, sRGB, uint8 or uint16; the type is the file's bit depth.
        alpha: (H, W) of the same type and size, None when opaque.
        metadata: Everything else of the file.
        grey: The file holds one colour channel; pixels of equal channels are written as one again.
        residual: (h, w, 3), or (h, w, 1) for grey: what sRGB could not hold of the file's own colours, at the source's
            size, in signed levels; None when nothing.
    """

    path: Path
    pixels: Pixels
    alpha: Pixels | None
    metadata: Metadata
    grey: bool
    residual: Pixels | None = None


# --- reading -----------------------------------------------------------------------------------------------------


def read_photo(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> Photo:
    """Reads a photo, upright and in sRGB.

    Args:
        path: The file.
        max_pixels: More pixels than this are refused before they are decoded.

    Raises:
        UnreadablePhotoError: Missing, not readable, empty, damaged, truncated or no photo.
        UnsupportedPhotoError: Animated, of several pages, of floating point samples and the like.
        PhotoTooLargeError: More than `max_pixels`, or more than memory holds.
    """
    data, status = _file_bytes(path, max_pixels)
    try:
        container = _header(path, data)
        _check_frames(path, container)
        _check_size(path, container.metadata.size, max_pixels)
        del data
        photo = _assembled(path, container)
    except FileContentError as error:
        raise _content_error(path, error) from error
    except MemoryError as error:
        raise _memory_error(path) from error
    times = (status.st_atime_ns, status.st_mtime_ns)
    return replace(photo, metadata=replace(photo.metadata, file_times=times))


def photo_size(path: Path) -> tuple[int, int]:
    """Upright width and height of a photo by its header; reads the first megabyte where that is enough.

    Raises:
        UnreadablePhotoError: Missing, not readable, empty, damaged or no photo.
        UnsupportedPhotoError: Of a kind that is not read.
    """
    head = _file_head(path)
    if containers.format_of(head) == "JPEG" and len(head) == _HEADER_BYTES:
        with contextlib.suppress(FileContentError):
            return metadata.turned_upright(decoding.header_of(head, "JPEG").metadata).size
    data = head if len(head) < _HEADER_BYTES else _file_bytes(path, DEFAULT_MAX_PIXELS)[0]
    try:
        return metadata.turned_upright(_header(path, data).metadata).size
    except FileContentError as error:
        raise _content_error(path, error) from error


def _file_head(path: Path, size: int = _HEADER_BYTES) -> bytes:
    with _opened(path) as stream:
        return stream.read(size)


def _file_bytes(path: Path, max_pixels: int) -> tuple[bytes, os.stat_result]:
    with _opened(path) as stream:
        status = os.fstat(stream.fileno())
        if status.st_size > max_pixels * _BYTES_A_PIXEL + (1 << 26):
            raise PhotoTooLargeError(
                f"{path} has {status.st_size} bytes, more than {max_pixels} pixels need. Raise --max-pixels to read it."
            )
        return stream.read(), status


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file open for reading, with every failure told; a pipe or device is never waited for."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadablePhotoError(f"{path} is a folder or device, not a photo's file. Leave it out.")
        with path.open("rb") as stream:
            yield stream
    except FileNotFoundError as error:
        raise UnreadablePhotoError(f"{path} is not there (any more). Check the name and run again.") from error
    except PermissionError as error:
        raise UnreadablePhotoError(f"{path} may not be read. Give yourself permission to read it.") from error
    except MemoryError as error:
        raise _memory_error(path) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadablePhotoError(f"{path} cannot be read: {reason}. Check the disk and the name.") from error


def _memory_error(path: Path) -> PhotoTooLargeError:
    return PhotoTooLargeError(f"{path} does not fit into memory. Close other programs or lower --workers.")


def _header(path: Path, data: bytes) -> Container:
    if not data:
        raise UnreadablePhotoError(f"{path} is empty. Fetch it again from where it came.")
    format = containers.format_of(data)
    if format is None:
        raise UnreadablePhotoError(
            f"{path} is no photo that can be read: its content is not JPEG, PNG, TIFF, WebP, AVIF, HEIC, BMP or GIF, "
            "whatever its name says. Leave it out or convert it."
        )
    return decoding.header_of(data, format)


def _content_error(path: Path, error: FileContentError) -> UnreadablePhotoError | UnsupportedPhotoError:
    if error.unsupported:
        return UnsupportedPhotoError(f"{path} cannot be restored: {error}. Convert it to an 8- or 16-bit TIFF or PNG.")
    return UnreadablePhotoError(f"{path} is damaged: {error}. Fetch it again from where it came.")


def _check_frames(path: Path, container: Container) -> None:
    if container.frames > 1:
        kind = "pages" if container.metadata.format == "TIFF" else "frames (it is animated)"
        raise UnsupportedPhotoError(f"{path} has {container.frames} {kind}. Save each picture as a file of its own.")


def _check_size(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise PhotoTooLargeError(
            f"{path} has {size[0]} x {size[1]} pixels, more than the limit of {max_pixels}. "
            f"If the file is to be trusted, raise --max-pixels to {size[0] * size[1]}."
        )


def _assembled(path: Path, container: Container) -> Photo:
    """Decodes, turns upright and converts to sRGB."""
    decoded = decoding.decode(container)
    stored, alpha = decoded.pixels, decoded.alpha
    found = container.metadata.warned(*decoded.warnings)
    if (stored.shape[1], stored.shape[0]) != found.size:
        raise FileContentError("its header contradicts itself")
    if not decoded.keeps_profile:
        found = replace(found, icc=None)
    found = metadata.turned_upright(found)
    stored = _turned(stored, found.orientation)
    alpha = None if alpha is None else _turned(alpha, found.orientation)
    grey = stored.shape[2] == 1
    found, conversion = _conversion(found, grey, stored.dtype)
    residual = None
    if conversion is not None:
        stored, residual = colourspace.to_working(stored, conversion)
        found = replace(found, colour_managed=True)
    pixels = np.repeat(stored, 3, axis=2) if grey else stored
    return Photo(path, pixels, alpha, found, grey, residual)


def _conversion(found: Metadata, grey: bool, dtype: np.dtype[Any]) -> tuple[Metadata, Conversion | None]:
    """The conversion that the profile asks for; a profile that cannot be used is kept, with a warning."""
    if found.icc is None:
        return found, None
    try:
        return found, colourspace.conversion_for(found.icc, grey, dtype.itemsize * 8)
    except ProfileError as error:
        return found.warned(f"its ICC profile is kept but was not used to read the colours: {error}"), None


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    """Pixels as stored, turned upright as EXIF's orientation says (1 to 8)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


# --- writing -----------------------------------------------------------------------------------------------------


def output_suffix(path: Path, format: str = "keep") -> str:
    """The suffix of the output for a source, dot included, case kept where the format stays.

    "keep" goes by the file's content, so a PNG named .jpg becomes .png; what cannot be written becomes .png.

    Args:
        path: The source.
        format: "keep" or a key of `FORMATS`.
    """
    if format == "keep":
        try:
            found = containers.format_of(_file_head(path, 512))
        except UnreadablePhotoError:
            found = None
        if found is None:
            return path.suffix
        name = found if found in encoding.writable_formats() else "PNG"
    else:
        name = FORMATS[format]
    return path.suffix if path.suffix.lower() in _SUFFIXES[name] else _SUFFIXES[name][0]


def write_photo(photo: Photo, path: Path, *, format: str | None = None, quality: int | None = None) -> tuple[str, ...]:
    """Writes a photo with all its metadata, adjusted to its size: whole under its name, or not at all.

    Args:
        photo: The photo; its pixels may have another size than its file had.
        path: The output; its folder exists.
        format: A key of `FORMATS`; None or "keep" goes by the suffix of `path`.
        quality: 1 to 100 for JPEG, WebP, AVIF and HEIC; None takes 95, or the source's own where that is better.

    Returns:
        What the output's format could not keep, one sentence each.

    Raises:
        PhotoWriteError: `path` is the source itself, the format cannot hold the photo, the disk is full, or the folder
            is gone or locked.
    """
    name = _format_for(path, format)
    single = photo.grey and _is_grey(photo.pixels)
    found, notes = _output_metadata(photo, name, single)
    picture, losses = _picture(photo, name, found, single)
    try:
        if photo.path.exists() and path.exists() and path.samefile(photo.path):
            raise PhotoWriteError(f"{path} is the original and is never written to. Name another output folder.")
        with _whole_file(path, found.file_times) as stream:
            notes += encoding.encode(stream, picture, found, name, quality)
    except EncodingError as error:
        raise PhotoWriteError(f"{path} cannot be written: {error}.") from error
    except MemoryError as error:
        raise PhotoWriteError(f"{path} cannot be written: out of memory. Close other programs.") from error
    except OSError as error:
        raise _write_error(path, error) from error
    return (*losses, *notes)


def _format_for(path: Path, format: str | None) -> str:
    if format is not None and format != "keep":
        return FORMATS[format]
    suffix = path.suffix.lower()
    for name in encoding.writable_formats():
        if suffix in _SUFFIXES[name]:
            return name
    raise PhotoWriteError(f"{path} cannot be written: no format for {suffix!r}. Name one with --format.")


def _is_grey(pixels: Pixels) -> bool:
    for rows in bands(*pixels.shape[:2]):
        band = pixels[rows]
        if (band[..., 0] != band[..., 1]).any() or (band[..., 0] != band[..., 2]).any():
            return False
    return True


def _output_metadata(photo: Photo, format: str, single: bool) -> tuple[Metadata, tuple[str, ...]]:
    height, width = photo.pixels.shape[:2]
    found = metadata.resized(photo.metadata, width, height, lambda limit: _thumbnail(photo.pixels, limit))
    if found.icc is not None and colourspace.is_grey_profile(found.icc) and (not single or format in _COLOUR_ONLY):
        note = "its grey ICC profile does not fit a file in colour; the output is sRGB"
        return replace(found, icc=None, colour_managed=False), (note,)
    return found, ()


_COLOUR_ONLY = ("WEBP", "AVIF", "HEIF")


def _thumbnail(pixels: Pixels, limit: int) -> metadata.Thumbnail:
    """A thumbnail of at most `limit` bytes, 160 pixels on the longer side at most."""
    height, width = pixels.shape[:2]
    scale = min(1.0, _THUMBNAIL_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = _as_type(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.dtype(np.uint8))
    for quality in (85, 70, 50, 25):
        stream = BytesIO()
        Image.fromarray(small).save(stream, "JPEG", quality=quality)
        if stream.tell() <= limit:
            break
    return metadata.Thumbnail(stream.getvalue(), *size)


def _picture(photo: Photo, format: str, found: Metadata, single: bool) -> tuple[Picture, tuple[str, ...]]:
    """The pixels as the format holds them, made band by band, and what is lost on the way."""
    height, width = photo.pixels.shape[:2]
    dtype = photo.pixels.dtype if format in ("PNG", "TIFF") else np.dtype(np.uint8)
    conversion = _conversion(found, single, photo.pixels.dtype)[1] if found.colour_managed else None
    residual = photo.residual if _same_shape(photo) and (photo.grey == single) else None
    alpha = photo.alpha
    notes = []
    if photo.pixels.dtype != dtype:
        notes.append(f"{format} holds 8 bits a channel; the 16 bits of the photo are reduced to them")
    if alpha is not None and format == "JPEG":
        notes.append("JPEG holds no transparency; the photo is laid on white")

    def band(rows: slice) -> Pixels:
        pixels = photo.pixels[rows][..., :1] if single else photo.pixels[rows]
        if conversion is not None:
            pixels = colourspace.from_working(pixels, conversion, residual, rows, height)
        if alpha is not None and format == "JPEG":
            pixels = _on_white(pixels, alpha[rows])
        elif alpha is not None:
            pixels = np.dstack([pixels, alpha[rows]])
        return _as_type(np.ascontiguousarray(pixels), dtype)

    channels = (1 if single else 3) + (alpha is not None and format != "JPEG")
    return Picture(width, height, channels, dtype, band), tuple(notes)


def _same_shape(photo: Photo) -> bool:
    """Whether the pixels still show what the residual was taken from: the same picture, larger or smaller."""
    height, width = photo.pixels.shape[:2]
    old_width, old_height = photo.metadata.size
    difference = abs(width * old_height - height * old_width)
    return bool(difference <= 2 * max(width, height, old_width, old_height))


def _on_white(pixels: Pixels, alpha: Pixels) -> Pixels:
    full = np.iinfo(pixels.dtype).max
    share = (alpha.astype(np.float32) / full)[..., None]
    return np.rint(full + (pixels.astype(np.float32) - full) * share).astype(pixels.dtype)


def _as_type(pixels: Pixels, dtype: np.dtype[Any]) -> Pixels:
    """16-bit levels as 8-bit ones, each to the nearest; anything else as it is."""
    if pixels.dtype == dtype:
        return pixels
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


@contextlib.contextmanager
def _whole_file(path: Path, times: tuple[int, int] | None) -> Iterator[BinaryIO]:
    """A stream whose content appears under `path` when all of it is on the disk, and leaves nothing when it fails."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.part")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if times is not None:
            os.utime(temporary, ns=times)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if os.name == "posix":
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes the new name survive a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_error(path: Path, error: OSError) -> PhotoWriteError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PhotoWriteError(f"{path} cannot be written: the disk is full. Make room and run again.")
    if error.errno == errno.ENOENT:
        return PhotoWriteError(f"{path} cannot be written: its folder is gone. Run again to have it made anew.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PhotoWriteError(f"{path} cannot be written: no permission. Name another folder with --output.")
    return PhotoWriteError(f"{path} cannot be written: {error.strerror or error}.")
