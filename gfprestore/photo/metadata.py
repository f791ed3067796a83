"""Metadata of a photo file, and how to update them when the pixels change.

EXIF is kept as the raw block of the file and edited in place (see `exif`), XMP as the raw packet, IPTC as the raw
record. Metadata that cannot be edited are copied unchanged, with a warning: nothing is dropped silently, and malformed
metadata never make a photo fail. Opens no file.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from gfprestore.file_attributes import FileAttributes
from gfprestore.photo import exif, extended_xmp
from gfprestore.photo.xmp_document import XmpError
from gfprestore.photo.xmp_edits import Change, with_true_claims

THUMBNAIL_LIMIT = 30_000
_RESOLUTION_RESOURCE, _IPTC_RESOURCE, _OLD_THUMBNAIL_RESOURCE, _THUMBNAIL_RESOURCE = 0x03ED, 0x0404, 0x0409, 0x040C


@dataclass(frozen=True)
class Thumbnail:
    """A small JPEG of the image, with its width and height in pixels."""

    jpeg: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Metadata:
    """Metadata of a file in their original bytes, updated for the upright image.

    Attributes:
        format: Format of the file: JPEG, PNG, TIFF, WEBP, AVIF, HEIF, BMP or GIF.
        size: Upright width and height of the source in pixels.
        orientation: EXIF orientation of the file, 1 to 8; the pixels are already rotated by it.
        exif: EXIF block (a TIFF structure) with the orientation reset; None if missing.
        icc: ICC profile of the file, kept for the output.
        color_managed: The pixels were converted from the profile to sRGB and are converted back when written.
        xmp: XMP packet.
        extended_xmp: Segments of extended XMP of a JPEG, verbatim.
        photoshop: Photoshop image resources (8BIM blocks), which contain a JPEG's IPTC.
        iptc: IPTC record outside Photoshop resources.
        texts: Comments and text chunks: keyword ("Comment" where the format has no keywords) and text.
        segments: Other JPEG application segments, marker and length included.
        chunks: Other PNG chunks: name and content.
        dpi: Horizontal and vertical pixels per inch, stored outside EXIF; None if missing.
        quality: IJG quality whose tables are at least as fine as the source's; None if it is not a JPEG.
        subsampling: Chroma subsampling of a JPEG: "4:4:4", "4:2:2", "4:2:0" or "" for any other.
        progressive: The JPEG is progressive.
        lossless: The source's compression is lossless.
        compressed: The TIFF is compressed.
        file_times: Access and modification time of the file in nanoseconds.
        file_attributes: Permissions and extended attributes of the file.
        warnings: Warnings about this file for the user, one sentence each.
    """

    format: str
    size: tuple[int, int]
    orientation: int = 1
    exif: bytes | None = None
    icc: bytes | None = None
    color_managed: bool = False
    xmp: bytes | None = None
    extended_xmp: tuple[bytes, ...] = ()
    photoshop: bytes | None = None
    iptc: bytes | None = None
    texts: tuple[tuple[str, str], ...] = ()
    segments: tuple[bytes, ...] = ()
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    dpi: tuple[float, float] | None = None
    quality: int | None = None
    subsampling: str = ""
    progressive: bool = False
    lossless: bool = False
    compressed: bool = True
    file_times: tuple[int, int] | None = None
    file_attributes: FileAttributes | None = None
    warnings: tuple[str, ...] = field(default=())

    def warned(self, *warnings: str) -> Metadata:
        """Copy with more warnings."""
        return replace(self, warnings=(*self.warnings, *warnings))


def resolution_of(structure: exif.Structure) -> tuple[float, float] | None:
    """Horizontal and vertical pixels per inch from IFD0; None if the unit or a value is missing."""
    first = structure.chain[0]
    unit = structure.integer(first, exif.RESOLUTION_UNIT)
    across, down = structure.rational(first, exif.X_RESOLUTION), structure.rational(first, exif.Y_RESOLUTION)
    per_inch = {None: 1.0, 2: 1.0, 3: 2.54}.get(unit)
    return (float(across) * per_inch, float(down) * per_inch) if across and down and per_inch else None


def turned_upright(metadata: Metadata) -> Metadata:
    """Update metadata as read from the file for the upright image.

    `size` must be the size as stored; the orientation is read from EXIF if the block can be parsed.
    """
    width, height = metadata.size
    orientation = metadata.orientation
    if metadata.exif is not None:
        try:
            orientation = exif.orientation_of(metadata.exif) if orientation == 1 else orientation
            dpi = metadata.dpi or resolution_of(exif.parse(metadata.exif))
            metadata = replace(metadata, dpi=dpi, exif=exif.upright(metadata.exif, width, height))
        except exif.ExifError as error:
            metadata = metadata.warned(f"its EXIF data are invalid ({error}) and were kept unchanged")
    return _with_turned_sides(metadata, orientation, orientation)


def turned(metadata: Metadata, orientation: int, total: int) -> Metadata:
    """Update metadata for upright pixels that are turned once more.

    Args:
        metadata: Upright metadata.
        orientation: EXIF orientation by which the pixels are turned.
        total: The EXIF orientation that turns the stored pixels as both turns do.
    """
    if metadata.exif is not None:
        with contextlib.suppress(exif.ExifError):  # the reader has warned of it
            metadata = replace(metadata, exif=exif.upright(metadata.exif, *metadata.size, orientation))
    return _with_turned_sides(metadata, orientation, total)


def _with_turned_sides(metadata: Metadata, orientation: int, total: int) -> Metadata:
    """Update size, resolution and XMP; `total` is the orientation to record."""
    width, height = metadata.size
    swapped = orientation >= 5
    size = (height, width) if swapped else (width, height)
    metadata = _with_true_xmp(metadata, Change(orientation, (width, height), size, size))
    dpi = metadata.dpi[::-1] if metadata.dpi and swapped else metadata.dpi
    return replace(metadata, orientation=total, size=size, dpi=dpi)


def resized(metadata: Metadata, width: int, height: int, thumbnail: Callable[[int], Thumbnail]) -> Metadata:
    """Update dimensions, resolution and thumbnail for upright pixels of another size.

    Args:
        metadata: Upright metadata.
        width: New width in pixels.
        height: New height in pixels.
        thumbnail: Function that makes a thumbnail of at most the given number of bytes.
    """
    scale = (width / metadata.size[0], height / metadata.size[1])
    dpi = (metadata.dpi[0] * scale[0], metadata.dpi[1] * scale[1]) if metadata.dpi else None
    result = replace(metadata, size=(width, height), dpi=dpi)
    if metadata.xmp is not None:
        result = _with_true_xmp(result, Change(1, metadata.size, metadata.size, (width, height)))
    if metadata.photoshop is not None:
        result = replace(result, photoshop=_resized_resources(metadata.photoshop, scale, thumbnail(THUMBNAIL_LIMIT)))
    if metadata.exif is None:
        return result
    try:
        block = exif.resized(metadata.exif, width, height, scale)
        if exif.has_thumbnail(block):
            block = exif.with_thumbnail(block, thumbnail(THUMBNAIL_LIMIT).jpeg)
    except exif.ExifError:
        return result
    return replace(result, exif=block)


# --- XMP ---------------------------------------------------------------------------------------------------------


def _with_true_xmp(metadata: Metadata, change: Change) -> Metadata:
    """Update the packet and its extended part; claims that cannot be made true are removed with a warning."""
    if metadata.xmp is None:
        return metadata
    about: set[str] = set()
    try:
        packet, removed = with_true_claims(metadata.xmp, change)
        about.update(removed)
        segments, packet, removed = extended_xmp.edited(metadata.extended_xmp, packet, change)
        about.update(removed)
    except XmpError as error:
        return metadata.warned(f"{error}; it was kept unchanged")
    metadata = replace(metadata, xmp=packet, extended_xmp=segments)
    return metadata.warned(removed_claims_warning(about)) if about else metadata


def removed_claims_warning(about: Iterable[str]) -> str:
    """Message about claims that were removed from XMP."""
    return f"its XMP described what the result does not hold, and no longer does: {', '.join(sorted(about))}"


# --- Photoshop image resources -----------------------------------------------------------------------------------


def resources(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, whole block and content of each resource; stops at the first invalid one."""
    at = 0
    while data[at : at + 4] == b"8BIM" and at + 12 <= len(data):
        number = struct.unpack(">H", data[at + 4 : at + 6])[0]
        name = 1 + data[at + 6]
        content = at + 6 + name + name % 2
        if content + 4 > len(data):
            return
        size = struct.unpack(">I", data[content : content + 4])[0]
        end = content + 4 + size
        if end > len(data):
            return
        yield number, data[at : end + size % 2], data[content + 4 : end]
        at = end + size % 2


def _resized_resources(data: bytes, scale: tuple[float, float], thumbnail: Thumbnail) -> bytes:
    """Replace the thumbnail and scale the resolution; returns the same bytes if they are invalid."""
    blocks, understood = [], 0
    for number, block, content in resources(data):
        understood += len(block)
        if number == _OLD_THUMBNAIL_RESOURCE:
            continue
        if number == _THUMBNAIL_RESOURCE:
            block = _resource(number, _thumbnail_content(thumbnail))
        if number == _RESOLUTION_RESOURCE and len(content) == 16:
            across, down = struct.unpack(">I4xI4x", content)
            start = len(block) - 16
            block = b"".join(
                (
                    block[:start],
                    struct.pack(">I", min(round(across * scale[0]), 0xFFFFFFFF)),
                    content[4:8],
                    struct.pack(">I", min(round(down * scale[1]), 0xFFFFFFFF)),
                    content[12:],
                )
            )
        blocks.append(block)
    return b"".join(blocks) if understood >= len(data.rstrip(b"\0")) else data


def iptc_of(photoshop: bytes) -> bytes | None:
    """IPTC record in Photoshop resources, None if missing."""
    return next((content for number, _, content in resources(photoshop) if number == _IPTC_RESOURCE), None)


def resources_with_iptc(iptc: bytes) -> bytes:
    """Photoshop resources with only an IPTC record."""
    return _resource(_IPTC_RESOURCE, iptc)


def _resource(number: int, content: bytes) -> bytes:
    """A resource without a name."""
    return b"8BIM" + struct.pack(">HHI", number, 0, len(content)) + content + b"\0" * (len(content) % 2)


def _thumbnail_content(thumbnail: Thumbnail) -> bytes:
    """Thumbnail resource of Photoshop 5 and later: a fixed header, then the JPEG."""
    row = (thumbnail.width * 24 + 31) // 32 * 4
    sizes = (1, thumbnail.width, thumbnail.height, row, row * thumbnail.height, len(thumbnail.jpeg))
    return struct.pack(">6IHH", *sizes, 24, 1) + thumbnail.jpeg
