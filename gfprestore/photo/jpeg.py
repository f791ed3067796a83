"""Structure of JPEG files: segments, scans, and where the image ends.

Stray bytes between segments and a missing end marker are accepted as libjpeg accepts them, and reported. The decoder
gets the segments that describe the pixels, and the two markers from which libjpeg derives the color transform: a JFIF
marker means YCbCr whatever an Adobe marker says. Layout after ITU-T T.81 annex B. Opens no file, decodes no pixel.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field, replace

import numpy as np

from gfprestore.photo import extended_xmp
from gfprestore.photo.containers import (
    ICC_HEADER,
    PHOTOSHOP_HEADER,
    XMP_HEADER,
    Container,
    FileContentError,
)
from gfprestore.photo.metadata import Metadata

END_MARKER = b"\xff\xd9"
_GAIN_MAP_HEADER = b"urn:iso:std:iso:ts:21496:-1\0"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_ARITHMETIC = tuple(range(0xC9, 0xD0))
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_STANDALONE = (0x01, *range(0xD0, 0xD8))
_SEGMENTS_BETWEEN_SCANS = (0xC4, 0xDA, 0xDB, 0xDC, 0xDD, 0xCC, *range(0xE0, 0xF0), 0xFE)
# Luminance and chrominance tables of ITU-T T.81 annex K, in natural order; quality scales them as the IJG library does.
_LUMINANCE = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
_CHROMINANCE = "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66" + " 99" * 38
_STANDARD = tuple(np.array(table.split(), dtype=np.int64) for table in (_LUMINANCE, _CHROMINANCE))
# Natural position of each zigzag entry: along the anti-diagonals, downwards on odd ones and upwards on even ones.
_ZIGZAG = np.array(
    sorted(range(64), key=lambda place: (sum(divmod(place, 8)), place if sum(divmod(place, 8)) % 2 else -place))
)


@dataclass
class _Header:
    """What has been read before the first scan."""

    found: Metadata = field(default_factory=lambda: Metadata("JPEG", (0, 0)))
    kept: list[bytes] = field(default_factory=lambda: [b"\xff\xd8"])
    icc: dict[int, bytes] = field(default_factory=dict)
    tables: dict[int, bytes] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    stray: int = 0
    bits: int = 8
    frame: int = 0xC0
    components: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Scans:
    """Where the scans end, and what their headers say.

    Attributes:
        end: Position behind the last byte of the image, without the end marker.
        trailing: Number of bytes behind the image, without zero padding.
        has_end: The end marker is there.
        count: Number of scans.
        is_complete: All components, and in a progressive image all bits of all coefficients, have a scan.
        lacks_only_detail: The last scan of a progressive image refines it: all its pixels are in the scans before.
        restarts_in_order: The restart markers of each scan count from 0 to 7 and from 0 again.
    """

    end: int
    trailing: int
    has_end: bool
    count: int
    is_complete: bool
    lacks_only_detail: bool
    restarts_in_order: bool


def read(data: bytes) -> Container:
    """Split a JPEG into its metadata and the data for its decoder.

    Raises:
        FileContentError: The structure is damaged, or the file ends before its pixels.
        struct.error: A segment is too short.
        IndexError: The same.
    """
    header = _Header()
    start = _read_header(data, header)
    found = header.found
    if not found.size[0] or not found.size[1]:
        raise FileContentError("its header has no image size")
    if header.icc:
        found = replace(found, icc=b"".join(header.icc[number] for number in sorted(header.icc)))
    scans = _scans(data, start, header)
    if scans.trailing:
        header.dropped.add(f"{scans.trailing} bytes after the image (a second image or a clip)")
    if header.dropped:
        described = ", ".join(sorted(header.dropped))
        found = found.warned(f"not copied, because it describes the original pixels: {described}")
    if header.stray:
        found = found.warned(f"{header.stray} stray bytes between its segments were skipped")
    if not scans.restarts_in_order:
        found = found.warned("its restart markers are out of order, so a part of its pixels may be damaged")
    found = replace(found, quality=_quality([table for _, table in sorted(header.tables.items())]))
    pixels = data[start : scans.end].rstrip(b"\xff")
    return Container(
        found,
        b"".join((*header.kept, pixels, END_MARKER)),
        header.bits,
        has_end=scans.has_end,
        scans=scans.count,
        lacks_scans=not scans.is_complete,
        lacks_only_detail=scans.lacks_only_detail,
        is_arithmetic=header.frame in _ARITHMETIC,
    )


def _read_header(data: bytes, header: _Header) -> int:
    """Read all segments before the first scan; returns the position of the scan."""
    at = 2
    while True:
        begin = data.find(b"\xff", at)
        if begin < 0:
            raise FileContentError("the file is damaged or truncated before its pixels")
        header.stray += begin - at
        at = begin
        while data[at : at + 2] == b"\xff\xff":
            at += 1
        marker = data[at + 1]
        if marker == 0:  # libjpeg takes a stuffed byte for stray bytes, too
            header.stray += 2
            at += 2
            continue
        if marker in _STANDALONE:
            at += 2
            continue
        if marker in (0xD8, 0xD9):
            raise FileContentError("it ends before its pixels, or a second image begins there")
        length = struct.unpack(">H", data[at + 2 : at + 4])[0]
        if marker == 0xDA:
            return at
        if (length < 2 and marker not in (*range(0xE0, 0xF0), 0xFE)) or at + 2 + length > len(data):
            raise FileContentError("the file is truncated before its pixels")
        segment = data[at : at + 2 + max(length, 2)]
        _read_segment(header, marker, segment[4:], segment)
        at += len(segment)


def _read_segment(header: _Header, marker: int, content: bytes, segment: bytes) -> None:
    if 0xE0 <= marker <= 0xEF or marker == 0xFE:
        header.found = _application(header.found, marker, content, segment, header.icc, header.dropped)
        if marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
            header.kept.append(segment)
        if marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 14:
            header.kept.append(b"\xff\xe0\0\x10" + content[:12] + b"\0\0")  # without its thumbnail
        return
    if marker in _FRAMES:
        header.frame = marker
        header.bits, height, width, components = struct.unpack(">BHHB", content[:6])
        header.components = tuple(content[6 + 3 * index] for index in range(components))
        header.found = replace(
            header.found,
            size=(width, height),
            progressive=marker == 0xC2,
            lossless=marker == 0xC3,
            subsampling=_subsampling(content[6:], components),
        )
    elif marker == 0xDB:
        header.tables |= _quantization_tables(content)
    header.kept.append(segment)


def _scans(data: bytes, at: int, header: _Header) -> _Scans:
    """Follow the scans up to the end of the image."""
    missing_bits: dict[tuple[int, int], int] = {}
    count = 0
    has_end = refines = False
    in_order, is_cut = True, False
    end = len(data)
    while match := _MARKER.search(data, at):
        in_order = in_order and _restarts_in_order(data, at, match.start())
        marker = data[match.start() + 1]
        if marker == 0xD9:
            end, has_end = match.start(), True
            break
        if marker == 0x01:
            at = match.end()
            continue
        length = struct.unpack(">H", data[match.end() : match.end() + 2].ljust(2, b"\0"))[0]
        if marker not in _SEGMENTS_BETWEEN_SCANS or length < 2 or match.end() + length > len(data):
            end = match.start()  # another image begins here, or the file ends inside a segment
            is_cut = marker in _SEGMENTS_BETWEEN_SCANS and length >= 2
            break
        if marker == 0xDA:
            count += 1
            content = data[match.end() + 2 : match.end() + length]
            _note_scan(content, missing_bits)
            refines = content[1 + 2 * content[0]] > 0
        at = match.end() + length
    trailing = 0 if is_cut else len(data[end + 2 * has_end :].rstrip(b"\0"))
    has_base = header.frame in _PROGRESSIVE and all((component, 0) in missing_bits for component in header.components)
    return _Scans(end, trailing, has_end, count, _is_complete(missing_bits, header), has_base and refines, in_order)


def _restarts_in_order(data: bytes, begin: int, end: int) -> bool:
    """Whether the restart markers of a scan, from `begin` to `end`, are complete as far as their numbers tell."""
    numbers = (match[1][0] for match in _RESTART.finditer(data, begin, end))
    return all(number == 0xD0 + index % 8 for index, number in enumerate(numbers))


def _note_scan(content: bytes, missing_bits: dict[tuple[int, int], int]) -> None:
    """Note the low bits that a scan leaves out, for each component and coefficient."""
    components = content[0]
    first, last, bits = struct.unpack(">BBB", content[1 + 2 * components : 4 + 2 * components])
    for index in range(components):
        for coefficient in range(first, min(last, 63) + 1):
            missing_bits[content[1 + 2 * index], coefficient] = bits & 15


def _is_complete(missing_bits: dict[tuple[int, int], int], header: _Header) -> bool:
    if header.frame not in _PROGRESSIVE:
        return {component for component, _ in missing_bits} >= set(header.components)
    return all(missing_bits.get((component, index)) == 0 for component in header.components for index in range(64))


def _application(
    found: Metadata, marker: int, content: bytes, segment: bytes, icc: dict[int, bytes], dropped: set[str]
) -> Metadata:
    """Add one application segment or comment to the metadata."""
    if marker == 0xE0 and content[:5] == b"JFIF\0" and len(content) >= 12:
        unit, across, down = struct.unpack(">BHH", content[7:12])
        per_inch = {1: 1.0, 2: 2.54}.get(unit)
        return replace(found, dpi=(across * per_inch, down * per_inch)) if per_inch and across and down else found
    if marker == 0xE0 and content[:5] == b"JFXX\0":
        dropped.add("a JFXX thumbnail")
        return found
    if marker == 0xE0 and content[:5] == b"JFIF\0":
        return found
    if marker == 0xE1 and content[:4] == b"Exif" and found.exif is None:
        return replace(found, exif=content[6:])
    if marker == 0xE1 and content.startswith(XMP_HEADER) and found.xmp is None:
        return replace(found, xmp=content[len(XMP_HEADER) :])
    if marker == 0xE1 and content.startswith(extended_xmp.HEADER):
        return replace(found, extended_xmp=(*found.extended_xmp, segment))
    if marker == 0xE2 and content.startswith(ICC_HEADER):
        icc.setdefault(content[12] if len(content) > 12 else 0, content[14:])
        return found
    if marker == 0xE2 and content.startswith(_GAIN_MAP_HEADER):
        dropped.add("gain map data (ISO 21496-1)")
        return found
    if marker == 0xE2 and content[:4] == b"MPF\0":
        dropped.add("the index of further images (MPF)")
        return found
    if marker == 0xEB:
        dropped.add("an APP11 segment (content credentials or high dynamic range data)")
        return found
    if marker == 0xED and content.startswith(PHOTOSHOP_HEADER):
        return replace(found, photoshop=(found.photoshop or b"") + content[len(PHOTOSHOP_HEADER) :])
    if marker == 0xEE and content.startswith(b"Adobe"):
        return found
    if marker == 0xFE:
        return replace(found, texts=(*found.texts, ("Comment", content.decode("utf-8", "surrogateescape"))))
    return replace(found, segments=(*found.segments, segment))


def _subsampling(factors: bytes, components: int) -> str:
    sampling = [divmod(factors[3 * index + 1], 16) for index in range(components)]
    if components != 3 or sampling[1] != sampling[2] or sampling[1] != (1, 1):
        return ""
    return {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0"}.get(sampling[0], "")


def _quantization_tables(content: bytes) -> dict[int, bytes]:
    """Tables of a DQT segment by number, in zigzag order, with entries clipped to 255."""
    tables = {}
    at = 0
    while at < len(content):
        precision, number = divmod(content[at], 16)
        size = 128 if precision else 64
        raw = content[at + 1 : at + 1 + size]
        if len(raw) == size:
            tables[number] = raw if not precision else bytes(min(v, 255) for v in struct.unpack(">64H", raw))
        at += 1 + size
    return tables


def _quality(tables: list[bytes]) -> int | None:
    """Lowest IJG quality with tables that are nowhere coarser than these."""
    if not tables:
        return None
    stored = [np.frombuffer(table, np.uint8).astype(np.int64) for table in tables[:2]]
    for quality in range(1, 101):
        factor = 5000 // quality if quality < 50 else 200 - 2 * quality
        if all(
            (np.clip((standard * factor + 50) // 100, 1, 255)[_ZIGZAG] <= table).all()
            for standard, table in zip(_STANDARD, stored, strict=False)
        ):
            return quality
    return 100
