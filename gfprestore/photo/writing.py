"""Write photos with all their metadata; an output file is never incomplete."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from gfprestore.errors import PhotoWriteError, UnreadablePhotoError
from gfprestore.file_attributes import creation_mode, give, with_extended_of
from gfprestore.files import whole_file
from gfprestore.photo import encoding, formats, icc, metadata
from gfprestore.photo.kinds import HEAD_BYTES
from gfprestore.photo.metadata import Metadata
from gfprestore.photo.output_image import EncodingError, OutputImage
from gfprestore.photo.photo import FORMATS, SUFFIXES, Photo, Pixels
from gfprestore.photo.reading import conversion_of, file_head
from gfprestore.photo.tiff_writing import LARGEST_FILE, TiffWriter
from gfprestore.pixels import is_gray, resized, to_8_bit

_THUMBNAIL_SIDE = 160


def output_suffix(path: Path, format: str = "keep") -> str:
    """Suffix of the output for a source, with the dot; its case is kept if the format stays.

    "keep" uses the file's content, so a PNG named .jpg becomes .png; formats that cannot be written become .png.

    Args:
        path: The source.
        format: "keep" or a key of `FORMATS`.
    """
    if format == "keep":
        try:
            found = formats.format_of(file_head(path, HEAD_BYTES), path.suffix)
        except UnreadablePhotoError:
            found = None
        if found is None:
            return path.suffix
        name = found if found in encoding.writable_formats() else "PNG"
    else:
        name = FORMATS[format]
    return path.suffix if path.suffix.lower() in SUFFIXES[name] else SUFFIXES[name][0]


def write_photo(
    photo: Photo,
    path: Path,
    *,
    quality: int | None = None,
    on_complete: Callable[[Path], object] | None = None,
) -> tuple[str, ...]:
    """Write a photo with all its metadata, adjusted to its size; the output file is never incomplete.

    Args:
        photo: The photo; its pixels may have another size than its file.
        path: The output; its suffix decides the format, and its folder must exist.
        quality: 1 to 100 for JPEG, WebP, AVIF and HEIC; None uses 95, or the source's quality if that is better.
        on_complete: Called with the temporary name of the complete file before it is moved to `path`.

    Returns:
        Notes on data that the output's format could not keep, one sentence each.

    Raises:
        PhotoWriteError: `path` is the source itself, the format cannot store the photo, the disk is full, or the folder
            is missing or not writable.
    """
    name = _format_for(path)
    single = photo.gray and is_gray(photo.pixels)
    found, notes = _output_metadata(photo, name, single)
    output_image, losses = _output_image(photo, name, found, single)
    lost: list[str] = []
    with _output_stream(path, photo.path, found, on_complete, lost) as stream:
        notes += encoding.encode(stream, output_image, found, name, quality)
    return (*losses, *notes, *_attribute_notes(lost))


class PageWriter:
    """Writer of photos as the pages of one TIFF; see `pages_writer`.

    Attributes:
        notes: Notes on data of the file that could not be kept, known when it is complete.
    """

    def __init__(self, stream: BinaryIO, pages: int) -> None:
        self.notes: tuple[str, ...] = ()
        self._writer = TiffWriter(stream, pages)

    def add(self, photo: Photo) -> tuple[str, ...]:
        """Append a page; returns notes on data of the page that could not be kept."""
        single = photo.gray and is_gray(photo.pixels)
        found, notes = _output_metadata(photo, "TIFF", single)
        output_image, losses = _output_image(photo, "TIFF", found, single)
        return (*losses, *notes, *self._writer.add_page(output_image, found), *encoding.lost(found, "TIFF"))


@contextlib.contextmanager
def pages_writer(path: Path, first: Photo, on_complete: Callable[[Path], object] | None = None) -> Iterator[PageWriter]:
    """Write photos as the pages of one TIFF; the output file appears when the block ends without an error.

    Args:
        path: The output; its folder must exist.
        first: The first page of the source; its `pages` says how many there are.
        on_complete: Called with the temporary name of the complete file before it is moved to `path`.

    Raises:
        PhotoWriteError: As `write_photo`, or the format of `path` has no pages.
    """
    check_pages(path, first)
    lost: list[str] = []
    with _output_stream(path, first.path, first.metadata, on_complete, lost) as stream:
        writer = PageWriter(stream, first.pages)
        yield writer
    writer.notes = _attribute_notes(lost)


def check_pages(path: Path, photo: Photo) -> None:
    """Check, before anything is computed, that the format of `path` holds all pages of a photo's file.

    Raises:
        PhotoWriteError: It does not.
    """
    if photo.pages > 1 and (name := _format_for(path)) != "TIFF":
        raise PhotoWriteError(
            f"{path} cannot be written: {photo.path} has {photo.pages} pages, and {name} files have one. "
            "Use --format tiff."
        )


def check_size(path: Path, width: int, height: int, photo: Photo) -> None:
    """Check, before anything is computed, that the format of `path` holds a result of this size.

    Args:
        path: The output.
        width: Width of the result in pixels.
        height: Height of the result in pixels.
        photo: The source.

    Raises:
        PhotoWriteError: It does not; the message names a format that does.
    """
    name = _format_for(path)
    if max(width, height) > encoding.LARGEST_SIDE[name]:
        raise PhotoWriteError(
            f"{path} cannot be written: the result would have {width} x {height} pixels, and {name} allows at most "
            f"{encoding.side_limit(name)} per side. Use --format png or --format tiff, or a smaller --upscale."
        )
    channels = (1 if photo.gray else 3) + (photo.alpha is not None)
    stored = width * height * channels * photo.pixels.dtype.itemsize
    if name == "TIFF" and not photo.metadata.compressed and stored > LARGEST_FILE:
        raise PhotoWriteError(
            f"{path} cannot be written: the result would have {stored / 2**30:.1f} GB, and TIFF allows at most 4. "
            "Use --format png, or a smaller --upscale."
        )


@contextlib.contextmanager
def _output_stream(
    path: Path, source: Path, found: Metadata, on_complete: Callable[[Path], object] | None, lost: list[str]
) -> Iterator[BinaryIO]:
    """A stream that becomes `path`, with all errors as ours; `lost` gets the extended attributes that are not kept."""
    try:
        if source.exists() and path.exists() and path.samefile(source):
            raise PhotoWriteError(
                f"{path} is the original and is never overwritten. Choose another output folder with --output."
            )
        attributes = found.file_attributes
        if attributes is not None:
            attributes = with_extended_of(attributes, path)

        def complete(temporary: Path) -> None:
            if attributes is not None:
                lost.extend(give(attributes, temporary))
            if on_complete is not None:
                on_complete(temporary)

        mode = 0o666 if attributes is None else creation_mode(attributes)
        with whole_file(path, found.file_times, complete, mode) as stream:
            yield stream
    except EncodingError as error:
        raise PhotoWriteError(f"{path} cannot be written: {error}.") from error
    except MemoryError as error:
        raise PhotoWriteError(f"{path} cannot be written: out of memory. Close other programs.") from error
    except OSError as error:
        raise _write_error(path, error) from error


def _attribute_notes(lost: list[str]) -> tuple[str, ...]:
    if not lost:
        return ()
    return (f"the output folder cannot store its extended attributes: {', '.join(sorted(lost))}",)


def _format_for(path: Path) -> str:
    suffix = path.suffix.lower()
    for name in encoding.writable_formats():
        if suffix in SUFFIXES[name]:
            return name
    raise PhotoWriteError(
        f"{path} cannot be written: the suffix {suffix!r} is not supported. Choose a format with --format."
    )


def _output_metadata(photo: Photo, format: str, single: bool) -> tuple[Metadata, tuple[str, ...]]:
    height, width = photo.pixels.shape[:2]
    found = metadata.resized(photo.metadata, width, height, lambda limit: _thumbnail(photo.pixels, limit))
    if found.icc is not None and icc.is_gray_profile(found.icc) and (not single or format in _COLOR_ONLY):
        note = "its gray ICC profile cannot be used for a color file; the output is sRGB"
        return replace(found, icc=None, color_managed=False), (note,)
    return found, ()


_COLOR_ONLY = ("WEBP", "AVIF", "HEIF")


def _thumbnail(pixels: Pixels, limit: int) -> metadata.Thumbnail:
    """Make a thumbnail of at most `limit` bytes, at most 160 pixels on the longer side."""
    height, width = pixels.shape[:2]
    scale = min(1.0, _THUMBNAIL_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = to_8_bit(resized(pixels, *size))
    for quality in (85, 70, 50, 25):
        stream = BytesIO()
        Image.fromarray(small).save(stream, "JPEG", quality=quality)
        if stream.tell() <= limit:
            break
    return metadata.Thumbnail(stream.getvalue(), *size)


def _output_image(photo: Photo, format: str, found: Metadata, single: bool) -> tuple[OutputImage, tuple[str, ...]]:
    """Pixels as the format stores them, computed band by band, and notes on losses."""
    height, width = photo.pixels.shape[:2]
    dtype = photo.pixels.dtype if format in ("PNG", "TIFF") else np.dtype(np.uint8)
    conversion = conversion_of(found, single, photo.pixels.dtype)[1] if found.color_managed else None
    residual = photo.residual if _same_shape(photo) and (photo.gray == single) else None
    alpha = photo.alpha
    notes = []
    if photo.pixels.dtype != dtype:
        notes.append(f"{format} has 8 bits per channel; the 16 bits of the photo were reduced to 8")
    if alpha is not None and format == "JPEG":
        notes.append("JPEG has no transparency; the photo was placed on white")

    def band(rows: slice) -> Pixels:
        pixels = photo.pixels[rows][..., :1] if single else photo.pixels[rows]
        if conversion is not None:
            pixels = icc.from_working(pixels, conversion, residual, rows, height)
        if alpha is not None and format == "JPEG":
            pixels = _on_white(pixels, alpha[rows])
        elif alpha is not None:
            pixels = np.dstack([pixels, alpha[rows]])
        pixels = np.ascontiguousarray(pixels)
        return to_8_bit(pixels) if dtype == np.uint8 else pixels

    channels = (1 if single else 3) + (alpha is not None and format != "JPEG")
    return OutputImage(width, height, channels, dtype, band), tuple(notes)


def _same_shape(photo: Photo) -> bool:
    """Whether the pixels have the aspect ratio of the residual: the same image, larger or smaller."""
    height, width = photo.pixels.shape[:2]
    old_width, old_height = photo.metadata.size
    difference = abs(width * old_height - height * old_width)
    return bool(difference <= 2 * max(width, height, old_width, old_height))


def _on_white(pixels: Pixels, alpha: Pixels) -> Pixels:
    full = np.iinfo(pixels.dtype).max
    share = (alpha.astype(np.float32) / full)[..., None]
    return np.rint(full + (pixels.astype(np.float32) - full) * share).astype(pixels.dtype)


def _write_error(path: Path, error: OSError) -> PhotoWriteError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PhotoWriteError(
            f"{path} cannot be written: the disk is full. Free some space and run the command again."
        )
    if error.errno == errno.ENOENT:
        return PhotoWriteError(
            f"{path} cannot be written: its folder does not exist any more. Run the command again to create it."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PhotoWriteError(f"{path} cannot be written: permission denied. Choose another folder with --output.")
    return PhotoWriteError(f"{path} cannot be written: {error.strerror or error}.")
