"""Read photos: upright, in sRGB, with all other data of the file."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from gfprestore.errors import PhotoTooLargeError, UnreadablePhotoError, UnsupportedPhotoError
from gfprestore.file_attributes import FileAttributes, attributes_of
from gfprestore.photo import decoding, icc, metadata, tiff
from gfprestore.photo.containers import Container, FileContentError
from gfprestore.photo.formats import FORMAT_OF_KIND, format_of
from gfprestore.photo.icc import Conversion, ProfileError
from gfprestore.photo.kinds import HEAD_BYTES, advice_for, image_kind
from gfprestore.photo.metadata import Metadata
from gfprestore.photo.pages import with_sure_pages
from gfprestore.photo.photo import DEFAULT_MAX_PIXELS, Photo
from gfprestore.photo.turning import pixels_upright

_HEADER_BYTES = 1 << 20
_BYTES_A_PIXEL = 16


class _FileState(NamedTuple):
    """What the file system knows of a file: times of access and change in nanoseconds, and its attributes."""

    times: tuple[int, int]
    attributes: FileAttributes


def read_photo(
    path: Path, max_pixels: int = DEFAULT_MAX_PIXELS, accept_truncated: bool = False, first_page: bool = False
) -> Photo:
    """Read a photo, upright and in sRGB.

    Args:
        path: The file.
        max_pixels: Photos with more pixels are rejected before they are decoded.
        accept_truncated: Read what is there of a truncated photo; a warning says how many rows are missing.
        first_page: Read the first page of a TIFF of several pages instead of refusing it.

    Raises:
        UnreadablePhotoError: The file is missing, not readable, empty, damaged, truncated or not a photo.
        UnsupportedPhotoError: The photo is animated, has several pages or floating point samples, for example.
        PhotoTooLargeError: The photo has more than `max_pixels` or does not fit into memory.
    """
    data, state = _file_bytes(path, max_pixels)
    with _content_errors(path):
        container = _with_pages(path, data, max_pixels)
        del data
        _check_frames(path, container, pages=first_page)
        return _assembled(path, container, state, accept_truncated)


def read_pages(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS, *, accept_truncated: bool = False) -> Iterator[Photo]:
    """Read the pages of a TIFF, or the only image of another file, one after another; see `read_photo`.

    Raises:
        UnreadablePhotoError: The file is missing, not readable, empty, damaged, truncated or not a photo.
        UnsupportedPhotoError: The photo is animated, for example.
        PhotoTooLargeError: A page has more than `max_pixels` or does not fit into memory.
    """
    data, state = _file_bytes(path, max_pixels)
    with _content_errors(path):
        container = _with_pages(path, data, max_pixels)
        _check_frames(path, container, pages=True)
        pages, first = container.pages, _assembled(path, container, state, accept_truncated)
        del container
    yield first
    for page in pages[1:]:
        with _content_errors(path):
            container = replace(tiff.read(data, page.offset), frames=len(pages))
            _check_size(path, container.metadata.size, max_pixels)
            photo = _assembled(path, container, state, accept_truncated)
        yield photo


@contextlib.contextmanager
def _content_errors(path: Path) -> Iterator[None]:
    """Report errors of the decoders for this file."""
    try:
        yield
    except FileContentError as error:
        raise _content_error(path, error) from error
    except MemoryError as error:
        raise _memory_error(path) from error


def _with_pages(path: Path, data: bytes, max_pixels: int) -> Container:
    container = _header(path, data)
    _check_size(path, container.metadata.size, max_pixels)
    return with_sure_pages(container, max_pixels)


def photo_size(path: Path) -> tuple[int, int]:
    """Read the upright width and height of a photo from its header; the first megabyte is usually enough.

    Raises:
        UnreadablePhotoError: The file is missing, not readable, empty, damaged or not a photo.
        UnsupportedPhotoError: The type of the photo is not supported.
    """
    return photo_header(path).size


def photo_header(path: Path) -> Metadata:
    """Read the metadata of a photo, for the upright image, without decoding its pixels.

    Raises:
        UnreadablePhotoError: The file is missing, not readable, empty, damaged or not a photo.
        UnsupportedPhotoError: The type of the photo is not supported.
    """
    head = file_head(path)
    if format_of(head, path.suffix) == "JPEG" and len(head) == _HEADER_BYTES:
        with contextlib.suppress(FileContentError):
            return metadata.turned_upright(decoding.header_of(head, "JPEG").metadata)
    data = head if len(head) < _HEADER_BYTES else _file_bytes(path, DEFAULT_MAX_PIXELS)[0]
    try:
        return metadata.turned_upright(_header(path, data).metadata)
    except FileContentError as error:
        raise _content_error(path, error) from error


def file_head(path: Path, size: int = _HEADER_BYTES) -> bytes:
    """Read the first `size` bytes of a file."""
    with _opened(path) as stream:
        return stream.read(size)


def _file_bytes(path: Path, max_pixels: int) -> tuple[bytes, _FileState]:
    with _opened(path) as stream:
        status = os.fstat(stream.fileno())
        if status.st_size > max_pixels * _BYTES_A_PIXEL + (1 << 26):
            raise PhotoTooLargeError(
                f"{path} has {status.st_size} bytes, more than {max_pixels} pixels need. Raise --max-pixels to read it."
            )
        times = (status.st_atime_ns, status.st_mtime_ns)
        return stream.read(), _FileState(times, attributes_of(stream.fileno(), status))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading and report every failure; never wait for a pipe or device."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadablePhotoError(f"{path} is a folder or device, not a photo. Remove it from the command.")
        with path.open("rb") as stream:
            yield stream
    except FileNotFoundError as error:
        raise UnreadablePhotoError(f"{path} does not exist. Check the name and run the command again.") from error
    except PermissionError as error:
        raise UnreadablePhotoError(
            f"{path} cannot be read: permission denied. Change its permissions and run the command again."
        ) from error
    except MemoryError as error:
        raise _memory_error(path) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadablePhotoError(f"{path} cannot be read: {reason}. Check the name and the disk.") from error


def _memory_error(path: Path) -> PhotoTooLargeError:
    return PhotoTooLargeError(f"{path} does not fit into memory. Close other programs or lower --workers.")


def _header(path: Path, data: bytes) -> Container:
    if not data:
        raise UnreadablePhotoError(f"{path} is empty. Copy it again from its source.")
    kind = image_kind(data[:HEAD_BYTES], path.suffix)
    if kind is None:
        raise UnreadablePhotoError(
            f"{path} is not a supported image: its content is of an unknown type. Convert it to TIFF or PNG first."
        )
    if kind not in FORMAT_OF_KIND:
        raise UnsupportedPhotoError(f"{path} is not a supported image (its type is {kind}). {advice_for(kind)}")
    return decoding.header_of(data, FORMAT_OF_KIND[kind])


def _content_error(path: Path, error: FileContentError) -> UnreadablePhotoError | UnsupportedPhotoError:
    if error.unsupported:
        return UnsupportedPhotoError(f"{path} cannot be restored: {error}. {error.advice}")
    advice = "Copy it again from its source"
    if error.truncated:
        advice += ", or restore what is there with --accept-truncated"
    return UnreadablePhotoError(f"{path} is damaged: {error}. {advice}.")


def _check_frames(path: Path, container: Container, pages: bool) -> None:
    if container.frames > 1 and not (pages and container.pages):
        kind = "pages" if container.metadata.format == "TIFF" else "frames (it is animated)"
        raise UnsupportedPhotoError(f"{path} has {container.frames} {kind}. Save each image as a separate file.")


def _check_size(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise PhotoTooLargeError(
            f"{path} has {size[0]} x {size[1]} pixels, more than the limit of {max_pixels}. "
            f"If you trust the file, raise --max-pixels to {size[0] * size[1]}."
        )


def _assembled(path: Path, container: Container, state: _FileState, accept_truncated: bool) -> Photo:
    """Decode the pixels, rotate them upright and convert them to sRGB."""
    decoded = decoding.decode(container, accept_truncated)
    stored, alpha = decoded.pixels, decoded.alpha
    found = container.metadata.warned(*decoded.warnings)
    found = replace(found, file_times=state.times, file_attributes=state.attributes)
    if (stored.shape[1], stored.shape[0]) != found.size:
        raise FileContentError("its header is inconsistent")
    if not decoded.keeps_profile:
        found = replace(found, icc=None)
    found = metadata.turned_upright(found)
    stored = pixels_upright(stored, found.orientation)
    alpha = None if alpha is None else pixels_upright(alpha, found.orientation)
    gray = stored.shape[2] == 1
    found, conversion = conversion_of(found, gray, stored.dtype)
    residual = None
    if conversion is not None:
        stored, residual = icc.to_working(stored, conversion)
        found = replace(found, color_managed=True)
    pixels = np.repeat(stored, 3, axis=2) if gray else stored
    return Photo(path, pixels, alpha, found, gray, residual, max(len(container.pages), 1))


def conversion_of(found: Metadata, gray: bool, dtype: np.dtype[Any]) -> tuple[Metadata, Conversion | None]:
    """Conversion for the profile; a profile that cannot be used is kept, with a warning."""
    if found.icc is None:
        return found, None
    try:
        return found, icc.conversion_for(found.icc, gray, dtype.itemsize * 8)
    except ProfileError as error:
        return found.warned(f"its ICC profile was kept but not used to read the colors: {error}"), None
