"""Write TIFF files page by page.

The first page's EXIF block is written at its original offsets, so that its maker note stays valid; then come the
strips and the directory of each page. Layout after TIFF 6.0.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gfprestore.photo import exif, metadata, tiff
from gfprestore.photo.metadata import Metadata
from gfprestore.photo.output_image import EncodingError, OutputImage

Pixels = NDArray[Any]

LARGEST_FILE = 0xFFFF0000
_PAGE = 2
_UNIT_SIZES = {3: 2, 8: 2, 4: 4, 9: 4, 13: 4, 5: 4, 10: 4, 11: 4, 12: 8, 16: 8, 17: 8, 18: 8}


class TiffWriter:
    """Writer of one TIFF file.

    Args:
        stream: Output stream, empty and seekable.
        pages: Number of pages that will be added.
    """

    def __init__(self, stream: BinaryIO, pages: int = 1) -> None:
        self._stream = stream
        self._pages = pages
        self._order = ""
        self._at = 0
        self._link_at = 4

    def add_page(self, output_image: OutputImage, found: Metadata) -> tuple[str, ...]:
        """Append a page.

        Returns:
            Notes on metadata that could not be kept, one sentence each.

        Raises:
            EncodingError: The file would exceed 4 GB.
            OSError: The stream cannot be written.
        """
        notes: list[str] = []
        fields = self._begin(found, notes) if not self._order else self._further_fields(found, notes)
        offsets, sizes, rows = [], [], 0
        for band in output_image.bands():
            rows = rows or len(band)
            strip = _strip(band, self._order, found.compressed)
            offsets.append(self._at)
            sizes.append(len(strip))
            self._write(strip)
        fields += _pixel_fields(output_image, found, self._order, offsets, sizes, rows)
        fields += _metadata_fields(found, self._order, {field.tag for field in fields})
        if self._pages > 1:
            fields.append(exif.Field(254, exif.LONG, 1, struct.pack(f"{self._order}I", _PAGE)))
        self._link(fields)
        return tuple(notes)

    def _begin(self, found: Metadata, notes: list[str]) -> list[exif.Field]:
        """Write the EXIF block of the first page; returns the tags of its first directory."""
        block, fields = _first_block(found, notes)
        self._order = "<" if block[:2] == b"II" else ">"
        self._write(block)
        return fields

    def _further_fields(self, found: Metadata, notes: list[str]) -> list[exif.Field]:
        """Tags of a page after the first, in the byte order of the file."""
        if found.exif is None:
            return []
        try:
            structure = exif.parse(found.exif)
        except exif.ExifError:
            notes.append("its EXIF data are invalid and cannot be stored in a TIFF")
            return []
        fields = exif.fields_of(structure, structure.chain[0], tiff.STRUCTURE_TAGS)
        return list(fields if structure.order == self._order else _reordered(fields))

    def _write(self, data: bytes) -> None:
        """Append data, padded to an even length."""
        self._stream.write(data + b"\0" * (len(data) % 2))
        self._at += len(data) + len(data) % 2
        if self._at > LARGEST_FILE:
            raise EncodingError("it would exceed 4 GB, the limit of TIFF; use --format png")

    def _link(self, fields: list[exif.Field]) -> None:
        """Append a directory and link the one before, or the header, to it."""
        begin = self._at
        self._write(exif.serialize(fields, self._order, begin))
        self._stream.seek(self._link_at)
        self._stream.write(struct.pack(f"{self._order}I", begin))
        self._stream.seek(0, os.SEEK_END)
        self._link_at = begin + 2 + 12 * len(fields)


def _reordered(fields: tuple[exif.Field, ...]) -> tuple[exif.Field, ...]:
    """The same tags in the other byte order."""
    swapped = []
    for field in fields:
        unit = _UNIT_SIZES.get(field.type, 1)
        data = np.frombuffer(field.data, np.uint8).reshape(-1, unit)[:, ::-1].tobytes() if unit > 1 else field.data
        swapped.append(replace(field, data=data, children=_reordered(field.children)))
    return tuple(swapped)


def _first_block(found: Metadata, notes: list[str]) -> tuple[bytes, list[exif.Field]]:
    """First bytes of the file, and the tags of the first directory taken from EXIF."""
    empty = b"II*\0" + struct.pack("<I", 8)
    if found.exif is None:
        return empty, []
    try:
        structure = exif.parse(found.exif)
        if structure.big:
            structure = exif.parse(exif.block_of(exif.fields_of(structure, structure.chain[0]), structure.order))
    except exif.ExifError:
        notes.append("its EXIF data are invalid and cannot be stored in a TIFF")
        return empty, []
    first = structure.chain[0]
    fields = [
        exif.Field(entry.tag, entry.type, entry.count, structure.raw(entry))
        for entry in first.entries
        if entry.tag not in tiff.STRUCTURE_TAGS and entry.type in exif.SIZE_OF_TYPE and entry.value is not None
    ]
    return bytes(structure.data), fields


def _strip(band: Pixels, order: str, compressed: bool) -> bytes:
    stored = np.dtype(f"{order}u{band.dtype.itemsize}")
    if not compressed:
        return band.astype(stored).tobytes()
    differences = band.copy()
    differences[:, 1:] -= band[:, :-1]
    return zlib.compress(differences.astype(stored).tobytes(), 6)


def _pixel_fields(
    output_image: OutputImage, found: Metadata, order: str, offsets: list[int], sizes: list[int], rows: int
) -> list[exif.Field]:
    def numbers(tag: int, kind: int, *values: int) -> exif.Field:
        code = {exif.SHORT: "H", exif.LONG: "I"}[kind]
        return exif.Field(tag, kind, len(values), struct.pack(f"{order}{len(values)}{code}", *values))

    fields = [
        numbers(256, exif.LONG, output_image.width),
        numbers(257, exif.LONG, output_image.height),
        numbers(258, exif.SHORT, *[output_image.dtype.itemsize * 8] * output_image.channels),
        numbers(259, exif.SHORT, 8 if found.compressed else 1),
        numbers(262, exif.SHORT, 1 if output_image.channels <= 2 else 2),
        numbers(273, exif.LONG, *offsets),
        numbers(277, exif.SHORT, output_image.channels),
        numbers(278, exif.LONG, rows),
        numbers(279, exif.LONG, *sizes),
        numbers(284, exif.SHORT, 1),
    ]
    if found.compressed:
        fields.append(numbers(317, exif.SHORT, 2))
    if output_image.channels in (2, 4):
        fields.append(numbers(338, exif.SHORT, 2))
    return fields


def _metadata_fields(found: Metadata, order: str, present: set[int]) -> list[exif.Field]:
    iptc = found.iptc or (metadata.iptc_of(found.photoshop) if found.photoshop else None)
    fields = [
        exif.Field(tag, kind, len(value), value)
        for tag, kind, value in (
            (tiff.TIFF_XMP, exif.BYTE, found.xmp),
            (tiff.TIFF_IPTC, exif.UNDEFINED, iptc),
            (tiff.TIFF_PHOTOSHOP, exif.BYTE, found.photoshop),
            (tiff.TIFF_ICC, exif.UNDEFINED, found.icc),
        )
        if value
    ]
    if found.dpi is not None and not present & {exif.X_RESOLUTION, exif.Y_RESOLUTION}:
        for tag, value in zip((exif.X_RESOLUTION, exif.Y_RESOLUTION), found.dpi, strict=True):
            ratio = struct.pack(f"{order}II", min(round(value * 1000), 0xFFFFFFFF), 1000)
            fields.append(exif.Field(tag, exif.RATIONAL, 1, ratio))
        if exif.RESOLUTION_UNIT not in present:
            fields.append(exif.Field(exif.RESOLUTION_UNIT, exif.SHORT, 1, struct.pack(f"{order}H", 2)))
    if found.texts and 270 not in present:
        lines = [text if key == "Comment" else f"{key}: {text}" for key, text in found.texts]
        described = "\n".join(lines).encode("utf-8", "surrogateescape") + b"\0"
        fields.append(exif.Field(270, exif.ASCII, len(described), described))
    return fields
