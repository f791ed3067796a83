"""Container structure of JPEG, PNG, TIFF and WebP files: segments, chunks and tags.

Each reader takes the file's bytes and returns its metadata and the bytes that a decoder needs, without the parts that
only carry metadata, so a malformed profile, text or thumbnail cannot make a decoder fail. Opens no file, decodes no
pixel.
"""

from __future__ import annotations

import contextlib
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from gfprestore.photo import exif, metadata
from gfprestore.photo.metadata import Metadata

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
EXIF_HEADER = b"Exif\0\0"
XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
EXTENDED_XMP_HEADER = b"http://ns.adobe.com/xmp/extension/\0"
ICC_HEADER = b"ICC_PROFILE\0"
PHOTOSHOP_HEADER = b"Photoshop 3.0\0"
XMP_KEYWORD = b"XML:com.adobe.xmp"
TIFF_ICC, TIFF_XMP, TIFF_IPTC, TIFF_PHOTOSHOP = 34675, 700, 33723, 34377

_ONE_THREAD = threading.Lock()
_INFLATED_LIMIT = 1 << 26
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PNG_DROPPED = (b"tRNS", b"pHYs", b"bKGD", b"hIST", b"sBIT", b"iDOT", b"acTL", b"fcTL", b"fdAT")
_PNG_COPIED = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"tIME")
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

TIFF_STRUCTURE_TAGS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 266, 269, 273, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291, 292, 293}
    | {301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 334, 336, 338, 339, 340, 341, 342, 347}
    | {512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 559}
)
_TIFF_CARRIED_APART = frozenset({TIFF_ICC, TIFF_XMP, TIFF_IPTC, TIFF_PHOTOSHOP, 37724})


class FileContentError(ValueError):
    """The content of a file is damaged or unsupported; the message says which."""

    def __init__(self, reason: str, unsupported: bool = False) -> None:
        super().__init__(reason)
        self.unsupported = unsupported


@dataclass(frozen=True)
class Container:
    """A file split into its metadata and the data for its decoder.

    Attributes:
        metadata: As stored: size and orientation not yet upright.
        data: Input of the decoder.
        bits: Bits per sample, as stored.
        frames: Images in the file.
        structure: Directories of a TIFF.
        transparent: Value of tRNS that marks transparent pixels of a 16-bit PNG.
    """

    metadata: Metadata
    data: bytes
    bits: int = 8
    frames: int = 1
    structure: exif.Structure | None = None
    transparent: bytes | None = None


@contextlib.contextmanager
def quietly(format: str) -> Iterator[None]:
    """Suppress Pillow's warnings about unusual files; the important ones are reported by our own messages.

    Warning filters apply to the whole process, so only one thread at a time may enter. JPEG, PNG and WebP cause no
    warnings, because their metadata never reach Pillow, and need no lock.
    """
    if format in ("JPEG", "PNG", "WEBP"):
        yield
        return
    with _ONE_THREAD, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def format_of(data: bytes) -> str | None:
    """Format of a file, recognized by its first bytes; None if it is not supported."""
    signatures = {b"\xff\xd8\xff": "JPEG", PNG_SIGNATURE: "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"BM": "BMP"}
    tiff = {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF"}
    for signature, name in (signatures | tiff).items():
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        brands = data[8 : min(struct.unpack(">I", data[:4])[0], 256)]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        if any(brand in brands for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1")):
            return "HEIF"
    return None


def taken_apart(data: bytes, format: str) -> Container:
    """Split a JPEG, PNG, TIFF or WebP file into its metadata and the data for its decoder.

    Raises:
        FileContentError: The structure is damaged or of an unsupported kind.
    """
    readers: dict[str, Callable[[bytes], Container]] = {
        "JPEG": _jpeg,
        "PNG": _png,
        "TIFF": _tiff,
        "WEBP": _webp,
    }
    try:
        return readers[format](data)
    except (struct.error, IndexError) as error:
        raise FileContentError(f"the {format} header is truncated") from error


# --- JPEG --------------------------------------------------------------------------------------------------------


def _jpeg(data: bytes) -> Container:
    found = Metadata("JPEG", (0, 0))
    kept = [b"\xff\xd8"]
    icc: dict[int, bytes] = {}
    tables: dict[int, bytes] = {}
    dropped: set[str] = set()
    bits = 8
    at = 2
    while True:
        while data[at : at + 2] == b"\xff\xff":
            at += 1
        if data[at : at + 1] != b"\xff":
            raise FileContentError("the file is damaged or truncated before its pixels")
        marker = data[at + 1]
        length = struct.unpack(">H", data[at + 2 : at + 4])[0]
        segment, content = data[at : at + 2 + length], data[at + 4 : at + 2 + length]
        if marker == 0xDA:
            break
        if length < 2 or at + 2 + length > len(data):
            raise FileContentError("the file is truncated before its pixels")
        at += 2 + length
        if 0xE0 <= marker <= 0xEF or marker == 0xFE:
            found = _jpeg_application(found, marker, content, segment, icc, dropped)
            if marker == 0xEE and content.startswith(b"Adobe"):
                kept.append(segment)
            continue
        if marker in (0xC0, 0xC1, 0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)):
            bits, height, width, components = struct.unpack(">BHHB", content[:6])
            found = replace(found, size=(width, height), progressive=marker == 0xC2, lossless=marker == 0xC3)
            found = replace(found, subsampling=_subsampling(content[6:], components))
        elif marker == 0xDB:
            tables |= _quantization_tables(content)
        kept.append(segment)
    if not found.size[0] or not found.size[1]:
        raise FileContentError("its header has no image size")
    if icc:
        found = replace(found, icc=b"".join(icc[number] for number in sorted(icc)))
    if trailing := _after_jpeg(data, at):
        dropped.add(f"{trailing} bytes after the image (a second image or a clip)")
    if dropped:
        found = found.warned(f"not copied, because it describes the original pixels: {', '.join(sorted(dropped))}")
    found = replace(found, quality=_quality([table for _, table in sorted(tables.items())]))
    return Container(found, b"".join(kept) + data[at:], bits)


def _jpeg_application(
    found: Metadata, marker: int, content: bytes, segment: bytes, icc: dict[int, bytes], dropped: set[str]
) -> Metadata:
    """Add one application segment or comment to the metadata."""
    if marker == 0xE0 and content[:5] == b"JFIF\0" and len(content) >= 12:
        unit, across, down = struct.unpack(">BHH", content[7:12])
        per_inch = {1: 1.0, 2: 2.54}.get(unit)
        return replace(found, dpi=(across * per_inch, down * per_inch)) if per_inch and across and down else found
    if marker == 0xE0 and content[:5] in (b"JFIF\0", b"JFXX\0"):
        return found
    if marker == 0xE1 and content[:4] == b"Exif" and found.exif is None:
        return replace(found, exif=content[6:])
    if marker == 0xE1 and content.startswith(XMP_HEADER) and found.xmp is None:
        return replace(found, xmp=content[len(XMP_HEADER) :])
    if marker == 0xE1 and content.startswith(EXTENDED_XMP_HEADER):
        return replace(found, extended_xmp=(*found.extended_xmp, segment))
    if marker == 0xE2 and content.startswith(ICC_HEADER):
        icc.setdefault(content[12] if len(content) > 12 else 0, content[14:])
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


def _after_jpeg(data: bytes, at: int) -> int:
    """Number of bytes after the end of the image, not counting zero padding."""
    while match := _JPEG_MARKER.search(data, at):
        marker = data[match.start() + 1]
        if marker == 0xD9:
            return len(data[match.end() :].strip(b"\0"))
        length = struct.unpack(">H", data[match.end() : match.end() + 2].ljust(2, b"\0"))[0]
        at = match.end() + length
    return 0


# --- PNG ---------------------------------------------------------------------------------------------------------


def png_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png(data: bytes) -> Container:
    found = Metadata("PNG", (0, 0), lossless=True)
    kept = [PNG_SIGNATURE]
    bits, color, frames = 8, 0, 1
    transparent = None
    for name, content, valid in _png_chunks(data):
        critical = name[0:1].isupper()
        if critical and not valid:
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
        if critical or (name == b"tRNS" and bits < 16):
            kept.append(png_chunk(name, content))
        elif valid:
            found = _png_ancillary(found, name, content)
        else:
            found = found.warned(f"its damaged {name.decode('latin-1')} chunk was skipped")
    if not kept[-1].endswith(png_chunk(b"IEND", b"")[4:]):
        raise FileContentError("the file is truncated")
    if not found.size[0] or not found.size[1]:
        raise FileContentError("its header has no image size")
    return Container(found, b"".join(kept), bits, frames, transparent=transparent)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Name, content and checksum validity of each chunk."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        name, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if len(content) < length or at + 12 + length > len(data):
            raise FileContentError("the file is truncated")
        checksum = struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0]
        yield name, content, checksum == zlib.crc32(name + content)
        at += 12 + length
        if name == b"IEND":
            return


def inflated(content: bytes) -> bytes:
    """Decompress data, up to 64 MiB; empty if it is damaged."""
    try:
        return zlib.decompressobj().decompress(content, _INFLATED_LIMIT)
    except zlib.error:
        return b""


def png_is_complete(data: bytes) -> bool:
    """Whether the compressed pixels of a PNG have the size that its header states; Pillow does not check this."""
    width, height, bits, color, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    depth = bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(color, 1)
    missing = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((left - width) // across), -((top - height) // down)
        missing += rows * (1 + (columns * depth + 7) // 8) if columns > 0 and rows > 0 else 0
    unpacker = zlib.decompressobj()
    for name, content, _ in _png_chunks(data):
        waiting = content if name == b"IDAT" else b""
        while waiting and missing > 0 and not unpacker.eof:
            try:
                missing -= len(unpacker.decompress(waiting, 1 << 20))
            except zlib.error:
                return False
            waiting = unpacker.unconsumed_tail
    return missing <= 0


def _png_ancillary(found: Metadata, name: bytes, content: bytes) -> Metadata:
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
        return _png_text(found, name, content)
    if name in _PNG_DROPPED:
        return found
    if name in _PNG_COPIED or name[3:4].islower():
        return replace(found, chunks=(*found.chunks, (name, content)))
    return found.warned(f"its {name.decode('latin-1')} chunk describes the original pixels and was not copied")


def _png_text(found: Metadata, name: bytes, content: bytes) -> Metadata:
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


# --- WebP --------------------------------------------------------------------------------------------------------


def _webp(data: bytes) -> Container:
    found, frames = Metadata("WEBP", (0, 0)), 0
    at = 12
    while at + 8 <= len(data):
        name, length = data[at : at + 4], struct.unpack("<I", data[at + 4 : at + 8])[0]
        content = data[at + 8 : at + 8 + length]
        if len(content) < length:
            raise FileContentError("the file is truncated")
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
    if not frames or not found.size[0] or not found.size[1]:
        raise FileContentError("the file contains no image")
    return Container(found, data, frames=frames)


# --- TIFF --------------------------------------------------------------------------------------------------------


def _tiff(data: bytes) -> Container:
    try:
        structure = exif.parse(data)
    except exif.ExifError as error:
        raise FileContentError(str(error)) from error
    first = structure.chain[0]
    width, height = structure.integer(first, 256), structure.integer(first, 257)
    if not width or not height:
        raise FileContentError("its header has no image size")
    if first.find(50706) is not None or structure.integer(first, 262) == 32803:
        raise FileContentError("camera raw files (DNG) are not supported", unsupported=True)
    fields = exif.fields_of(structure, first, TIFF_STRUCTURE_TAGS | _TIFF_CARRIED_APART)

    def value(tag: int) -> bytes | None:
        entry = first.find(tag)
        return structure.raw(entry) or None if entry is not None else None

    compression = structure.integer(first, 259) or 1
    found = Metadata(
        "TIFF",
        (width, height),
        exif=exif.block_of(fields, structure.order) if fields else None,
        orientation=exif.orientation_of(data),
        icc=value(TIFF_ICC),
        xmp=value(TIFF_XMP),
        photoshop=value(TIFF_PHOTOSHOP),
        iptc=value(TIFF_IPTC),
        dpi=metadata.resolution_of(structure),
        lossless=compression not in (6, 7, 33003, 33004, 34712, 50001, 52546),
        compressed=compression != 1,
    )
    bits = max(structure.integers(first.find(258)) or (1,))
    stored = exif.upright(data, width, height)  # Pillow would rotate the image itself
    return Container(found.warned(*_tiff_warnings(structure)), stored, bits, _pages(structure), structure)


def _pages(structure: exif.Structure) -> int:
    """Number of full-size pages, without reduced copies and masks."""
    return sum((structure.integer(page, 254) or 0) & 5 == 0 for page in structure.chain) or 1


def _tiff_warnings(structure: exif.Structure) -> Iterator[str]:
    first = structure.chain[0]
    if first.find(330) is not None or len(structure.chain) > _pages(structure):
        yield "the smaller copies of the image in the file were not copied"
    if first.find(37724) is not None:
        yield "the Photoshop layers in the file were not copied"
    if any(entry.value is None for directory in structure.edited for entry in directory.entries):
        yield "some of its tags point outside the file and were skipped"
    if any(directory.find(exif.MAKER_NOTE) for directory in structure.children):
        yield "its maker note was kept at a different offset, so some programs may not read all of it"
