"""Structure of WebP files: chunks. Layout after RFC 9649. Opens no file, decodes no pixel."""

from __future__ import annotations

import struct
from dataclasses import replace

from gfprestore.photo.containers import EXIF_HEADER, Container, FileContentError
from gfprestore.photo.metadata import Metadata

_PIXEL_CHUNKS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")


def read(data: bytes) -> Container:
    """Split a WebP file into its metadata and the data for its decoder.

    Raises:
        FileContentError: The structure is damaged or unsupported, or the file is truncated.
    """
    stated = 8 + struct.unpack("<I", data[4:8])[0]
    found, frames, cut_at = _chunks_until(data, min(len(data), stated + stated % 2))
    if trailing := len(data[stated:].rstrip(b"\0")):
        found = found.warned(f"not copied: {trailing} bytes after the image (a second image or a clip)")
    if not frames or not found.size[0] or not found.size[1]:
        raise FileContentError("the file contains no image")
    if cut_at is not None:
        data = data[:4] + struct.pack("<I", cut_at - 8) + data[8:cut_at]
    return Container(found, data, frames=frames)


def _chunks_until(data: bytes, end: int) -> tuple[Metadata, int, int | None]:
    """Metadata and number of images of the chunks before an offset, and where a chunk of metadata is cut off.

    Raises:
        FileContentError: A chunk is cut off.
    """
    found, frames = Metadata("WEBP", (0, 0)), 0
    unknown: list[str] = []
    at = 12
    while at + 8 <= end:
        name, length = data[at : at + 4], struct.unpack("<I", data[at + 4 : at + 8])[0]
        content = data[at + 8 : at + 8 + length]
        if len(content) < length and name in _PIXEL_CHUNKS:
            raise FileContentError("the file is truncated")
        if len(content) < length:
            found = found.warned(f"its {name.decode('latin-1').strip()} chunk is cut off and was skipped")
            return found, frames, at
        at += 8 + length + length % 2
        if name == b"VP8X":
            width, height = (int.from_bytes(content[start : start + 3], "little") + 1 for start in (4, 7))
            found = replace(found, size=(width, height))
        elif name == b"VP8 ":
            width, height = (value & 0x3FFF for value in struct.unpack("<HH", content[6:10]))
            found = found if found.size[0] else replace(found, size=(width, height))
            frames += 1
        elif name == b"VP8L":
            packed = struct.unpack("<I", content[1:5])[0]
            found = replace(found, lossless=True)
            size = ((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1)
            found = found if found.size[0] else replace(found, size=size)
            frames += 1
        elif name == b"ANMF":
            frames += 1
        elif name == b"ICCP":
            found = replace(found, icc=content)
        elif name == b"EXIF":
            found = replace(found, exif=content.removeprefix(EXIF_HEADER))
        elif name == b"XMP ":
            found = replace(found, xmp=content)
        elif name not in (b"ALPH", b"ANIM"):
            unknown.append(repr(name.decode("latin-1")))
    if unknown:
        found = found.warned(f"not copied, because it is not known: chunk {', '.join(sorted(set(unknown)))}")
    return found, frames, None
