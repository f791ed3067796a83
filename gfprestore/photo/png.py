"""Structure of PNG files: chunks, and how many rows their compressed pixels hold.

Only the chunks that describe the pixels reach the decoder. A file that ends after its pixels is accepted with a
warning. Layout after ISO/IEC 15948. Opens no file; compressed pixels are counted without being kept.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from gfprestore.photo.containers import EXIF_HEADER, XMP_KEYWORD, Container, FileContentError
from gfprestore.photo.metadata import Metadata

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_LONGEST_CHUNK = (1 << 31) - 1
_INFLATED_LIMIT = 1 << 26
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DROPPED = (b"tRNS", b"pHYs", b"bKGD", b"hIST", b"sBIT", b"iDOT", b"acTL", b"fcTL", b"fdAT")
_COPIED = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"tIME")


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def read(data: bytes) -> Container:
    """Split a PNG into its metadata and the data for its decoder.

    Raises:
        FileContentError: The structure is damaged or unsupported, or the file ends before its pixels.
        struct.error: A chunk is too short.
    """
    found = Metadata("PNG", (0, 0), lossless=True)
    kept = [PNG_SIGNATURE]
    bits, color, frames = 8, 0, 1
    transparent = None
    has_end = has_pixels = False
    for name, content, valid in _chunks(data):
        critical = name[0:1].isupper()
        if valid is None:
            if critical and name not in (b"IDAT", b"IEND"):
                raise FileContentError("the file is truncated")
            has_pixels = has_pixels or name == b"IDAT"
        elif critical and not valid:
            raise FileContentError(f"the checksum of its {name.decode('latin-1')} chunk is invalid")
        if name == b"IHDR":
            width, height, bits, color = struct.unpack(">IIBB", content[:10])
            found = replace(found, size=(width, height))
        elif name == b"CgBI":
            raise FileContentError("Apple's private variant of PNG is not supported", unsupported=True)
        elif name == b"acTL":
            frames = struct.unpack(">I", content[:4])[0]
        elif name == b"tRNS" and bits == 16:
            transparent = content
        elif name == b"IDAT":
            has_pixels = True
        elif name == b"IEND":
            has_end = True
            continue
        if critical or (name == b"tRNS" and bits < 16 and valid is not None):
            kept.append(chunk(name, content))
        elif valid:
            found = _ancillary(found, name, content)
        else:
            found = found.warned(f"its damaged {name.decode('latin-1')} chunk was skipped")
    if not has_pixels:
        raise FileContentError("the file is truncated")
    if not found.size[0] or not found.size[1]:
        raise FileContentError("its header has no image size")
    if has_end and (trailing := _trailing_bytes(data)):
        found = found.warned(f"not copied: {trailing} bytes after the image (a second image or a clip)")
    kept.append(chunk(b"IEND", b""))
    return Container(found, b"".join(kept), bits, frames, transparent=transparent, has_end=has_end)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool | None]]:
    """Name, content and validity of the checksum of each chunk; None for a last chunk that is cut off."""
    at = len(PNG_SIGNATURE)
    while at + 8 <= len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        name, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if length > _LONGEST_CHUNK:
            raise FileContentError("the file is truncated, or the length of a chunk is wrong")
        if at + 12 + length > len(data):
            yield name, content, None
            return
        checksum = struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0]
        yield name, content, checksum == zlib.crc32(name + content)
        at += 12 + length
        if name == b"IEND":
            return


def _trailing_bytes(data: bytes) -> int:
    """Number of bytes behind the end chunk, without zero padding."""
    end = len(PNG_SIGNATURE) + sum(12 + len(content) for _, content, _ in _chunks(data))
    return len(data[end:].rstrip(b"\0"))


def inflated(content: bytes) -> bytes:
    """Decompress data, up to 64 MiB; empty if it is damaged."""
    try:
        return zlib.decompressobj().decompress(content, _INFLATED_LIMIT)
    except zlib.error:
        return b""


@dataclass(frozen=True)
class PixelData:
    """Size of the unpacked pixels of a PNG in bytes.

    Attributes:
        expected: The size that the header states.
        found: What can be unpacked, at most `expected`.
        missing_rows: Number of rows of the image of which a part is missing.
    """

    expected: int
    found: int
    missing_rows: int


def pixel_data(data: bytes) -> PixelData:
    """Count the unpacked pixels of a PNG, which are not kept; Pillow does not check whether they are all there."""
    passes = _passes(data)
    expected = sum(rows * row_bytes for _, _, rows, row_bytes in passes)
    found = min(sum(len(piece) for piece in _unpacked(data, expected)), expected)
    if found == expected:
        return PixelData(expected, found, 0)
    height = struct.unpack(">I", data[20:24])[0]
    whole = np.ones(height, bool)
    left = found
    for top, down, rows, row_bytes in passes:
        complete = min(left // row_bytes, rows)
        whole[top + complete * down : top + rows * down : down] = False
        left -= min(left, rows * row_bytes)
    return PixelData(expected, found, int((~whole).sum()))


def completed(data: bytes) -> bytes:
    """A PNG with the same pixels as far as they are there; the rest is 0. Needs memory for all its pixels."""
    passes = _passes(data)
    expected = sum(rows * row_bytes for _, _, rows, row_bytes in passes)
    packer = zlib.compressobj(1)
    packed = []
    left = expected
    for piece in _unpacked(data, expected):
        packed.append(packer.compress(piece[:left]))
        left -= min(left, len(piece))
    while left > 0:
        packed.append(packer.compress(bytes(min(left, 1 << 20))))
        left -= min(left, 1 << 20)
    packed.append(packer.flush())
    head = [chunk(name, content) for name, content, _ in _chunks(data) if name not in (b"IDAT", b"IEND")]
    return b"".join((PNG_SIGNATURE, *head, chunk(b"IDAT", b"".join(packed)), chunk(b"IEND", b"")))


def _passes(data: bytes) -> list[tuple[int, int, int, int]]:
    """First row, step, number of rows and bytes of a row of each pass; one pass unless interlaced."""
    width, height, bits, color, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    depth = bits * _CHANNELS.get(color, 1)
    passes = []
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns > 0 and rows > 0:
            passes.append((top, down, rows, 1 + (columns * depth + 7) // 8))
    return passes


def _unpacked(data: bytes, expected: int) -> Iterator[bytes]:
    """The unpacked pixels in pieces, until `expected` bytes are reached, or the data end or are damaged."""
    unpacker = zlib.decompressobj()
    for name, content, _ in _chunks(data):
        waiting = content if name == b"IDAT" else b""
        while waiting and expected > 0 and not unpacker.eof:
            try:
                piece = unpacker.decompress(waiting, 1 << 20)
            except zlib.error:
                return
            expected -= len(piece)
            yield piece
            waiting = unpacker.unconsumed_tail


def _ancillary(found: Metadata, name: bytes, content: bytes) -> Metadata:
    """Add one chunk without pixels to the metadata."""
    if name == b"eXIf":
        return replace(found, exif=content.removeprefix(EXIF_HEADER))
    if name == b"iCCP":
        profile = inflated(content.partition(b"\0")[2][1:])
        return replace(found, icc=profile) if profile else found.warned("its damaged ICC profile was skipped")
    if name == b"pHYs" and len(content) == 9:
        across, down, unit = struct.unpack(">IIB", content)
        return replace(found, dpi=(across * 0.0254, down * 0.0254)) if unit == 1 and across and down else found
    if name in (b"tEXt", b"zTXt", b"iTXt"):
        return _text(found, name, content)
    if name in _DROPPED:
        return found
    if name in _COPIED or name[3:4].islower():
        return replace(found, chunks=(*found.chunks, (name, content)))
    return found.warned(f"its {name.decode('latin-1')} chunk describes the original pixels and was not copied")


def _text(found: Metadata, name: bytes, content: bytes) -> Metadata:
    keyword, _, rest = content.partition(b"\0")
    if name == b"iTXt":
        compressed, (_, _, text) = rest[:1] == b"\1", (rest[2:].split(b"\0", 2) + [b"", b"", b""])[:3]
        text = inflated(text) if compressed else text
    else:
        text = inflated(rest[1:]) if name == b"zTXt" else rest
    if len(text) >= _INFLATED_LIMIT:
        return found.warned(
            f"its {name.decode('latin-1')} chunk is larger than 64 MiB when decompressed and was skipped"
        )
    if keyword == XMP_KEYWORD:
        return replace(found, xmp=text)
    if keyword.startswith(b"Raw profile type ") and (profile := _raw_profile(text)):
        kind = keyword.removeprefix(b"Raw profile type ").lower()
        if kind in (b"exif", b"app1") and profile.startswith(EXIF_HEADER):
            return replace(found, exif=found.exif or profile[len(EXIF_HEADER) :])
        if kind in (b"iptc", b"8bim") and profile.startswith(b"8BIM"):
            return replace(found, photoshop=found.photoshop or profile)
        if kind == b"xmp":
            return replace(found, xmp=found.xmp or profile)
    entry = (keyword.decode("latin-1"), text.decode("utf-8" if name == b"iTXt" else "latin-1", "replace"))
    return replace(found, chunks=(*found.chunks, (name, content)), texts=(*found.texts, entry))


def _raw_profile(text: bytes) -> bytes:
    """Decode a profile stored in hexadecimal, as ImageMagick writes it; empty if it is invalid."""
    lines = text.strip().split(b"\n", 2)
    try:
        return bytes.fromhex(lines[2].decode("ascii")) if len(lines) == 3 and lines[1].strip().isdigit() else b""
    except (ValueError, UnicodeDecodeError):
        return b""
