"""Encode pixels and metadata as JPEG, PNG, TIFF, WebP, AVIF or HEIC.

An image is passed as bands of rows, so that no second copy of its pixels is needed. 16-bit PNG files are written here
and TIFF files in `tiff_writing`; Pillow writes the rest, and our own segments and chunks are inserted. Each writer
returns notes on the metadata that the format cannot store.
"""

from __future__ import annotations

import importlib.util
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
import piexif
from numpy.typing import NDArray
from PIL import Image, features

from gfprestore.photo import containers, exif, extended_xmp, metadata, png
from gfprestore.photo.metadata import Metadata
from gfprestore.photo.output_image import EncodingError, OutputImage
from gfprestore.photo.tiff_writing import TiffWriter
from gfprestore.photo.xmp_claims import EXTENDED
from gfprestore.photo.xmp_document import RDF

Pixels = NDArray[Any]

DEFAULT_QUALITY = 95
# libjpeg refuses more than 65,500, though the format has room for 65,535
LARGEST_SIDE = {"JPEG": 65500, "WEBP": 16383, "PNG": 2**31 - 1, "TIFF": 2**31 - 1, "AVIF": 65536, "HEIF": 16384}
_SEGMENT_LIMIT = 65533
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def writable_formats() -> frozenset[str]:
    """Formats that can be written with the installed packages."""
    formats = {"JPEG", "PNG", "TIFF"}
    if features.check("webp"):
        formats.add("WEBP")
    if features.check("avif"):
        formats.add("AVIF")
    if importlib.util.find_spec("pillow_heif") is not None:
        formats.add("HEIF")
    return frozenset(formats)


def encode(
    stream: BinaryIO, output_image: OutputImage, found: Metadata, format: str, quality: int | None
) -> tuple[str, ...]:
    """Write a whole file.

    Args:
        stream: Output stream; written from start to end, except for the TIFF header.
        output_image: The pixels.
        found: Metadata of an image of this size.
        format: One of `writable_formats`.
        quality: 1 to 100 for lossy formats; None keeps the source's or better.

    Returns:
        Notes on metadata that could not be kept, one sentence each.

    Raises:
        EncodingError: The format cannot store the image.
        OSError: The stream cannot be written.
    """
    if max(output_image.width, output_image.height) > LARGEST_SIDE[format]:
        raise EncodingError(
            f"the image has {output_image.width} x {output_image.height} pixels, "
            f"and {format} allows at most {side_limit(format)} per side"
        )
    if format == "TIFF":
        return (*TiffWriter(stream).add_page(output_image, found), *lost(found, format))
    writers = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "AVIF": _avif, "HEIF": _heif}
    notes = writers[format](stream, output_image, found, quality)
    return (*notes, *lost(found, format))


def side_limit(format: str) -> str:
    """Limit of a format's width and height for messages."""
    return f"{LARGEST_SIDE[format]} (65535 without libjpeg)" if format == "JPEG" else str(LARGEST_SIDE[format])


def lost(found: Metadata, format: str) -> Iterator[str]:
    """Notes on metadata that the format cannot store."""
    if found.segments and format != "JPEG":
        yield f"{len(found.segments)} application segments of the JPEG cannot be stored in {format}"
    if found.extended_xmp and format != "JPEG":
        yield f"the extended part of its XMP cannot be stored in {format}"
    others = [name for name, _ in found.chunks if name not in (b"tEXt", b"zTXt", b"iTXt", b"sRGB", b"gAMA", b"cHRM")]
    if others and format != "PNG":
        yield f"PNG chunks cannot be stored in {format}: {', '.join(name.decode('latin-1') for name in others)}"
    if format in ("WEBP", "AVIF", "HEIF"):
        if found.iptc or found.photoshop:
            yield f"its IPTC and Photoshop data cannot be stored in {format}"
        if found.texts:
            yield f"its comments cannot be stored in {format}: {', '.join(sorted({key for key, _ in found.texts}))}"


def _image(output_image: OutputImage) -> Image.Image:
    """Convert the image to a Pillow image, band by band."""
    image = Image.new(_MODES[output_image.channels], (output_image.width, output_image.height))
    top = 0
    for band in output_image.bands():
        image.paste(Image.fromarray(band if output_image.channels > 1 else band[..., 0]), (0, top))
        top += len(band)
    return image


# --- JPEG --------------------------------------------------------------------------------------------------------


def _jpeg(stream: BinaryIO, output_image: OutputImage, found: Metadata, quality: int | None) -> tuple[str, ...]:
    segments, notes = _jpeg_segments(found)
    kept = found.format == "JPEG"
    _image(output_image).save(
        _AfterHeader(stream, b""),  # type: ignore[arg-type]  # has no file descriptor, so that write errors keep their cause
        "JPEG",
        quality=quality or max(found.quality or 0, DEFAULT_QUALITY),
        subsampling=(found.subsampling or "4:4:4") if kept else "4:4:4",
        progressive=found.progressive,
        dpi=_whole_dpi(found.dpi),
        extra=segments,
    )
    return notes


def _whole_dpi(dpi: tuple[float, float] | None) -> tuple[int, int]:
    """Resolution as stored in JFIF; (0, 0) means none."""
    if dpi is None:
        return (0, 0)
    across, down = (min(max(round(value), 1), 65535) for value in dpi)
    return (across, down)


def _jpeg_segments(found: Metadata) -> tuple[bytes, tuple[str, ...]]:
    """All application segments and comments, and notes on what did not fit."""
    notes: list[str] = []
    parts: list[bytes] = []
    if found.exif is not None:
        block = _exif_within(found.exif, _SEGMENT_LIMIT - len(containers.EXIF_HEADER), notes)
        if block is not None:
            parts.append(_segment(0xE1, containers.EXIF_HEADER + block))
    if found.xmp is not None:
        parts += _xmp_segments(found.xmp)
    parts += found.extended_xmp
    resources = found.photoshop
    if found.iptc is not None and (resources is None or metadata.iptc_of(resources) is None):
        resources = metadata.resources_with_iptc(found.iptc) + (resources or b"")
    if resources:
        parts += _split(0xED, resources, lambda number, count: containers.PHOTOSHOP_HEADER)
    if found.icc is not None:
        parts += _split(0xE2, found.icc, lambda number, count: containers.ICC_HEADER + bytes((number, count)))
    for keyword, text in found.texts:
        content = text if keyword == "Comment" else f"{keyword}: {text}"
        parts += _split(0xFE, content.encode("utf-8", "surrogateescape"), lambda number, count: b"")
    parts += found.segments
    return b"".join(parts), tuple(notes)


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _split(marker: int, content: bytes, header: Callable[[int, int], bytes]) -> list[bytes]:
    """Split content into as many segments as it needs, each with its header."""
    room = _SEGMENT_LIMIT - len(header(1, 1))
    pieces = [content[start : start + room] for start in range(0, len(content), room)] or [b""]
    return [_segment(marker, header(number, len(pieces)) + piece) for number, piece in enumerate(pieces, 1)]


def _exif_within(block: bytes, limit: int, notes: list[str]) -> bytes | None:
    """Return the block, rebuilt smaller if it exceeds the limit of the format."""
    if len(block) <= limit:
        return block
    try:
        small, dropped = exif.shrunk(block, limit)
    except exif.ExifError:
        notes.append(f"its EXIF data of {len(block)} bytes are invalid and do not fit in a JPEG")
        return None
    if dropped:
        notes.append(f"EXIF tags too large for a JPEG were dropped: {', '.join(f'0x{tag:04x}' for tag in dropped)}")
    return small


def _xmp_segments(packet: bytes) -> list[bytes]:
    """The packet in one segment, or as extended XMP (XMP specification part 3, section 1.1.3.1) when it is larger."""
    if len(packet) + len(containers.XMP_HEADER) <= _SEGMENT_LIMIT:
        return [_segment(0xE1, containers.XMP_HEADER + packet)]
    digest, parts = extended_xmp.segments_of(packet)
    stub = (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about="" '
        f'xmlns:xmpNote="{EXTENDED}" xmpNote:HasExtendedXMP="{digest}"/></rdf:RDF></x:xmpmeta>'
    ).encode()
    return [_segment(0xE1, containers.XMP_HEADER + stub), *parts]


# --- PNG ---------------------------------------------------------------------------------------------------------


class _AfterHeader:
    """Forward a PNG and insert chunks after its header, which is the first 33 bytes."""

    def __init__(self, stream: BinaryIO, chunks: bytes) -> None:
        self._stream = stream
        self._chunks = chunks
        self._header = b""

    def write(self, data: bytes) -> int:
        if self._chunks:  # the header is not complete yet
            self._header += data
            if len(self._header) >= 33:
                self._stream.write(self._header[:33] + self._chunks + self._header[33:])
                self._chunks = b""
        else:
            self._stream.write(data)
        return len(data)

    def flush(self) -> None:
        self._stream.flush()


def _png(stream: BinaryIO, output_image: OutputImage, found: Metadata, quality: int | None) -> tuple[str, ...]:
    chunks = _png_chunks(found)
    if output_image.dtype == np.uint8:
        _image(output_image).save(_AfterHeader(stream, chunks), "PNG")  # type: ignore[arg-type]
        return ()
    color = {1: 0, 2: 4, 3: 2, 4: 6}[output_image.channels]
    header = struct.pack(">IIBBBBB", output_image.width, output_image.height, 16, color, 0, 0, 0)
    stream.write(png.PNG_SIGNATURE + png.chunk(b"IHDR", header) + chunks)
    packer = zlib.compressobj(6)
    above = np.zeros(output_image.width * output_image.channels * 2, np.uint8)
    for band in output_image.bands():
        rows = band.astype(">u2").view(np.uint8).reshape(len(band), -1)  # (h, W * channels * 2)
        stream.write(png.chunk(b"IDAT", packer.compress(_filtered(rows, above, output_image.channels * 2))))
        above = rows[-1]
    stream.write(png.chunk(b"IDAT", packer.flush()) + png.chunk(b"IEND", b""))
    return ()


def _filtered(rows: NDArray[np.uint8], above: NDArray[np.uint8], step: int) -> bytes:
    """Rows of a PNG with their filter byte: the one of Sub, Up and Average with the smallest differences."""
    upper = np.concatenate([above[None], rows[:-1]])
    left = np.pad(rows, ((0, 0), (step, 0)))[:, :-step]
    average = ((upper.astype(np.uint16) + left) >> 1).astype(np.uint8)
    candidates = [rows - left, rows - upper, rows - average]
    cost = [np.abs(candidate.view(np.int8).astype(np.int16)).sum(axis=1, dtype=np.int64) for candidate in candidates]
    best = np.argmin(cost, axis=0)
    out = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
    out[:, 0] = best + 1
    out[:, 1:] = np.choose(best[:, None], candidates)
    return out.tobytes()


def _png_chunks(found: Metadata) -> bytes:
    """All chunks without pixels, in an order that readers accept."""
    parts = []
    if found.icc is not None:
        parts.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(found.icc)))
    ordered = sorted(found.chunks, key=lambda chunk: chunk[0] not in (b"cICP", b"sRGB", b"gAMA", b"cHRM"))
    parts += ordered
    if found.dpi is not None:
        across, down = (min(max(round(value / 0.0254), 1), 2**31 - 1) for value in found.dpi)
        parts.append((b"pHYs", struct.pack(">IIB", across, down, 1)))
    if found.exif is not None:
        parts.append((b"eXIf", found.exif))
    if found.xmp is not None:
        parts.append((b"iTXt", containers.XMP_KEYWORD + b"\0\0\0\0\0" + found.xmp))
    resources = found.photoshop or (metadata.resources_with_iptc(found.iptc) if found.iptc else None)
    if resources:
        parts.append((b"zTXt", b"Raw profile type 8bim\0\0" + zlib.compress(_hexadecimal(b"8bim", resources))))
    if found.format != "PNG":
        for keyword, text in found.texts:
            content = text.encode("utf-8", "replace")
            parts.append((b"iTXt", keyword.encode("latin-1", "replace")[:79] + b"\0\0\0\0\0" + content))
    return b"".join(png.chunk(name, content) for name, content in parts)


def _hexadecimal(name: bytes, content: bytes) -> bytes:
    """Encode a profile as text, in the form that ImageMagick introduced and other tools read."""
    digits = content.hex().encode()
    lines = [digits[start : start + 72] for start in range(0, len(digits), 72)]
    return b"\n%b\n%8d\n%b\n" % (name, len(content), b"\n".join(lines))


# --- WebP, AVIF, HEIC --------------------------------------------------------------------------------------------


def _carried(found: Metadata) -> dict[str, bytes]:
    """EXIF, ICC and XMP as arguments of Pillow's writers."""
    block = found.exif
    if block is None and found.dpi is not None:
        block = _resolution_block(found.dpi)
    values = {"exif": block, "icc_profile": found.icc, "xmp": found.xmp}
    return {name: value for name, value in values.items() if value is not None}


def _resolution_block(dpi: tuple[float, float]) -> bytes:
    """New EXIF block with the resolution, for formats that store it nowhere else."""
    across, down = ((min(max(round(value * 100), 1), 0xFFFFFFFF), 100) for value in dpi)
    first = {exif.X_RESOLUTION: across, exif.Y_RESOLUTION: down, exif.RESOLUTION_UNIT: 2}
    return bytes(piexif.dump({"0th": first}))[len(containers.EXIF_HEADER) :]


def _webp(stream: BinaryIO, output_image: OutputImage, found: Metadata, quality: int | None) -> tuple[str, ...]:
    lossless = found.lossless and quality is None
    best = 75 if lossless else DEFAULT_QUALITY  # for lossless files Pillow's quality is the effort
    _image(output_image).save(
        stream, "WEBP", lossless=lossless, quality=quality or best, exact=lossless, **_carried(found)
    )
    return ()


def _avif(stream: BinaryIO, output_image: OutputImage, found: Metadata, quality: int | None) -> tuple[str, ...]:
    carried = _carried(found)
    notes: tuple[str, ...] = ()
    with containers.quietly("AVIF"):
        if "exif" in carried:
            try:  # Pillow would rebuild a block that has an orientation, and fails on an invalid one
                carried["exif"] = exif.without_orientation(carried["exif"])
                Image.Exif().load(carried["exif"])
            except (exif.ExifError, SyntaxError, ValueError, TypeError, KeyError, struct.error, OverflowError):
                del carried["exif"]
                notes = ("its EXIF data are invalid and cannot be stored in AVIF",)
        _image(output_image).save(stream, "AVIF", quality=quality or DEFAULT_QUALITY, subsampling="4:4:4", **carried)
    return notes


def _heif(stream: BinaryIO, output_image: OutputImage, found: Metadata, quality: int | None) -> tuple[str, ...]:
    import pillow_heif

    image = _image(output_image)
    image.info.update(_carried(found))
    pillow_heif.from_pillow(image).save(stream, quality=quality or DEFAULT_QUALITY, chroma=444)
    return ()
