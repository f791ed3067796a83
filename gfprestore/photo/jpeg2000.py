"""Structure of JPEG 2000 files: depth and metadata.

A JP2 file consists of boxes; a bare codestream has no metadata. Layout after ISO/IEC 15444-1 annexes A and I, and the
XMP specification, part 3. Opens no file, decodes no pixel.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

from gfprestore.photo.containers import EXIF_HEADER, Container, FileContentError
from gfprestore.photo.metadata import Metadata

_CODESTREAM = b"\xff\x4f\xff\x51"
_XMP = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")
_IPTC = bytes.fromhex("33C7A4D2B81D4723A0BAF1A3E097AD38")
_EXIF = b"JpgTiffExif->JP2"
_METERS_PER_INCH = 0.0254


def read(data: bytes) -> Container:
    """Read depth and metadata of a JPEG 2000 file.

    Raises:
        FileContentError: There is no codestream, or it has more than 16 bits per sample.
        struct.error: A box is too short.
    """
    at = data.find(_CODESTREAM)
    if at < 0:
        raise FileContentError("it contains no codestream")
    right, lower, left, upper = struct.unpack(">IIII", data[at + 8 : at + 24])
    count = struct.unpack(">H", data[at + 40 : at + 42])[0]
    depths = [(data[at + 42 + 3 * index] & 0x7F) + 1 for index in range(count)]
    bits = max(depths, default=8)
    if right <= left or lower <= upper:
        raise FileContentError("its header has no image size")
    if bits > 16:
        raise FileContentError(f"JPEG 2000 with {bits} bits per sample is not supported", unsupported=True)
    found = Metadata("JPEG2000", (right - left, lower - upper))
    for name, content in _boxes(data, 0, len(data)) if at else ():
        found = _with_box(found, name, content)
    return Container(found, data, 16 if bits > 8 else 8, white=(1 << bits) - 1)


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of each box; superboxes with image headers are entered."""
    while at + 8 <= end:
        length, name = struct.unpack(">I4s", data[at : at + 8])
        begin = at + 8
        if length == 1:
            length, begin = struct.unpack(">Q", data[at + 8 : at + 16])[0], at + 16
        stop = end if length == 0 else at + length
        if stop < begin or stop > end:
            return
        if name in (b"jp2h", b"res "):
            yield from _boxes(data, begin, stop)
        elif name != b"jp2c":
            yield name, data[begin:stop]
        at = stop


def _with_box(found: Metadata, name: bytes, content: bytes) -> Metadata:
    if name == b"colr" and content[:1] in (b"\2", b"\3") and found.icc is None:
        return replace(found, icc=content[3:])
    if name == b"uuid" and content.startswith(_XMP):
        return replace(found, xmp=content[16:])
    if name == b"uuid" and content.startswith(_EXIF):
        return replace(found, exif=content[16:].removeprefix(EXIF_HEADER))
    if name == b"uuid" and content.startswith(_IPTC):
        return replace(found, iptc=content[16:])
    if name in (b"resc", b"resd") and len(content) >= 10 and found.dpi is None:
        down, down_by, across, across_by, down_power, across_power = struct.unpack(">HHHHbb", content[:10])
        if down and down_by and across and across_by:
            per_meter = (across / across_by * 10.0**across_power, down / down_by * 10.0**down_power)
            return replace(found, dpi=(per_meter[0] * _METERS_PER_INCH, per_meter[1] * _METERS_PER_INCH))
    if name == b"xml ":
        return found.warned("its XML box was not copied")
    return found
