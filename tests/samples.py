"""Sample images and photo files, created with Pillow and plain bytes only, independent of the code under test."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import piexif
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin


def pixels_of(path: Path | str) -> NDArray[Any]:
    """Decoded samples of a file, as they are stored."""
    with Image.open(path) as sample:
        return np.array(sample)


def size_of(path: Path | str) -> tuple[int, int]:
    """Width and height."""
    with Image.open(path) as sample:
        return sample.size


def info_of(path: Path | str) -> dict[str, Any]:
    """Metadata that Pillow reads."""
    with Image.open(path) as sample:
        sample.load()
        return dict(sample.info)


def save(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    """Write pixels to a file and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


MAKER_NOTE = b"Maker\0" + bytes(range(256)) * 2
XMP = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" '
    b'xmlns:dc="http://purl.org/dc/elements/1.1/" tiff:Orientation="6" exif:PixelXDimension="120" '
    b'tiff:XResolution="300/1"><exif:PixelYDimension>90</exif:PixelYDimension>'
    b"<dc:creator><rdf:Seq><rdf:li>Somebody</rdf:li></rdf:Seq></dc:creator></rdf:Description></rdf:RDF></x:xmpmeta>"
    b'<?xpacket end="w"?>'
)
IPTC = b"\x1c\x02\x78" + struct.pack(">H", 11) + b"Hello world"


def ramp(width: int = 120, height: int = 90) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    planes = [columns * 255 // width, rows * 255 // height, (rows + columns) * 255 // (width + height)]
    return np.dstack(planes).astype(np.uint8)


def exif_block(orientation: int = 6, thumbnail: bool = True) -> bytes:
    small = io.BytesIO()
    Image.new("RGB", (80, 60), (255, 0, 0)).save(small, "JPEG")
    content: dict[str, Any] = {
        "0th": {271: b"Kodak", 274: orientation, 282: (300, 1), 283: (150, 1), 296: 2, 256: 120, 257: 90},
        "Exif": {36867: b"1999:01:02 03:04:05", 37500: MAKER_NOTE, 40962: 120, 40963: 90, 37396: (30, 20, 10, 6)},
        "GPS": {1: b"N", 2: ((48, 1), (51, 1), (30, 1)), 3: b"E", 4: ((2, 1), (21, 1), (0, 1))},
        "Interop": {1: b"R98"},
    }
    if thumbnail:
        content |= {"1st": {259: 6, 274: orientation}, "thumbnail": small.getvalue()}
    return bytes(piexif.dump(content))[6:]


def resources(*extra: tuple[int, bytes]) -> bytes:
    blocks = [(0x0404, IPTC), *extra]
    return b"".join(
        b"8BIM" + struct.pack(">HHI", number, 0, len(data)) + data + b"\0" * (len(data) % 2) for number, data in blocks
    )


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def write_source(path: Path, orientation: int = 6) -> Path:
    """Create a file of each format with all metadata that Pillow can write, and IPTC if the format supports it."""
    image, block = Image.fromarray(ramp()), exif_block(orientation)
    if path.suffix == ".jpg":
        photoshop = jpeg_segment(0xED, b"Photoshop 3.0\0" + resources())
        image.save(path, exif=b"Exif\0\0" + block, xmp=XMP, dpi=(300, 150), comment=b"a comment", extra=photoshop)
    elif path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        info.add_text("Comment", "a comment")
        image.save(path, exif=b"Exif\0\0" + block, pnginfo=info, dpi=(300, 150))
    elif path.suffix == ".tif":
        directory = Image.Exif()
        directory.load(b"Exif\0\0" + block)
        directory[700], directory[33723] = XMP, IPTC
        image.save(path, exif=directory)
    else:
        image.save(path, exif=b"Exif\0\0" + block, xmp=XMP)
    return path


RANDOM = np.random.default_rng(3)
NOISE = RANDOM.integers(0, 256, (37, 53, 4), dtype=np.uint8)
DEEP = RANDOM.integers(0, 65536, (37, 53, 4), dtype=np.uint16)


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def deep_png(levels: np.ndarray, extra: bytes = b"") -> bytes:
    """Write a 16-bit PNG without filters, following the PNG specification."""
    height, width = levels.shape[:2]
    color = {1: 0, 2: 4, 3: 2, 4: 6}[1 if levels.ndim == 2 else levels.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(
    levels: np.ndarray,
    order: str = "<",
    photometric: int = 2,
    planar: bool = False,
    deflate: bool = False,
    predictor: bool = False,
    tile: int = 0,
    extra: int | None = None,
    sample_format: int = 1,
    rows_a_strip: int = 10,
) -> bytes:
    """Write a TIFF, following the TIFF 6.0 specification."""
    levels = levels if levels.ndim == 3 else levels[..., None]
    height, width, samples = levels.shape
    data = levels.astype(levels.dtype.newbyteorder(order))
    pieces = []
    for plane in [data[..., index : index + 1] for index in range(samples)] if planar else [data]:
        if tile:
            for top in range(0, height, tile):
                for left in range(0, width, tile):
                    part = plane[top : top + tile, left : left + tile]
                    missing = ((0, tile - part.shape[0]), (0, tile - part.shape[1]), (0, 0))
                    pieces.append(np.pad(part, missing))
        else:
            pieces += [plane[top : top + rows_a_strip] for top in range(0, height, rows_a_strip)]
    if predictor:
        pieces = [np.concatenate([p[:, :1], p[:, 1:] - p[:, :-1]], axis=1).astype(data.dtype) for p in pieces]
    packed = [zlib.compress(p.tobytes()) if deflate else p.tobytes() for p in pieces]
    out = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))
    offsets = []
    for piece in packed:
        offsets.append(len(out))
        out += piece + b"\0" * (len(piece) % 2)
    tags: list[tuple[int, str, list[int]]] = [
        (256, "I", [width]),
        (257, "I", [height]),
        (258, "H", [levels.dtype.itemsize * 8] * samples),
        (259, "H", [8 if deflate else 1]),
        (262, "H", [photometric]),
        (324 if tile else 273, "I", offsets),
        (277, "H", [samples]),
        (325 if tile else 279, "I", [len(piece) for piece in packed]),
        (284, "H", [2 if planar else 1]),
        (317, "H", [2 if predictor else 1]),
        (339, "H", [sample_format] * samples),
        *([(322, "I", [tile]), (323, "I", [tile])] if tile else [(278, "I", [rows_a_strip])]),
        *([(338, "H", [extra])] if extra is not None else []),
    ]
    entries = b""
    for tag, code, values in sorted(tags):
        raw = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(raw) > 4:
            at = len(out)
            out += raw + b"\0" * (len(raw) % 2)
            raw = struct.pack(f"{order}I", at)
        entries += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[code], len(values)) + raw.ljust(4, b"\0")
    out[4:8] = struct.pack(f"{order}I", len(out))
    return bytes(out + struct.pack(f"{order}H", len(tags)) + entries + bytes(4))


TAG_TYPES = {"B": 1, "s": 2, "H": 3, "I": 4, "Q": 16}


class TiffImage:
    """One directory of a TIFF: its pixels, tags as {number: (struct code, values)}, and its SubIFDs."""

    def __init__(
        self, pixels: np.ndarray, tags: dict[int, tuple[str, Any]] | None = None, subs: list[TiffImage] | None = None
    ) -> None:
        self.pixels = pixels if pixels.ndim == 3 else pixels[..., None]
        self.tags, self.subs = tags or {}, subs or []


def tiff_of(images: list[TiffImage], order: str = "<", big: bool = False) -> bytes:
    """Write a TIFF of several directories, following TIFF 6.0, Adobe's technical note 1 and the BigTIFF proposal.

    Each image is one strip without compression. A tag with the value None is left out.
    """
    out = bytearray(b"II" if order == "<" else b"MM")
    out += struct.pack(f"{order}HHHQ", 43, 8, 0, 0) if big else struct.pack(f"{order}HI", 42, 0)
    word = "Q" if big else "I"

    def directory(image: TiffImage, following: int) -> int:
        """Append strips, SubIFDs, values and the directory itself; returns its offset."""
        height, width, samples = image.pixels.shape
        data = image.pixels.astype(image.pixels.dtype.newbyteorder(order)).tobytes()
        strip = len(out)
        out.extend(data + b"\0" * (len(data) % 2))
        tags: dict[int, tuple[str, Any]] = {
            256: ("I", width), 257: ("I", height), 258: ("H", [8 * image.pixels.dtype.itemsize] * samples),
            259: ("H", 1), 262: ("H", 2 if samples > 2 else 1), 273: (word, strip), 277: ("H", samples),
            278: ("I", height), 279: (word, len(data)), **image.tags,
        }  # fmt: skip
        if image.subs:
            tags[330] = (word, [directory(sub, 0) for sub in image.subs])
        entries = b""
        kept = {tag: value for tag, value in tags.items() if value[1] is not None}
        for tag, (code, value) in sorted(kept.items()):
            values = value if isinstance(value, list | tuple) else [value]
            raw = value if code == "s" else struct.pack(f"{order}{len(values)}{code}", *values)
            count = len(raw) if code == "s" else len(values)
            if len(raw) > (8 if big else 4):
                at = len(out)
                out.extend(raw + b"\0" * (len(raw) % 2))
                raw = struct.pack(f"{order}{word}", at)
            entries += struct.pack(f"{order}HH{word}", tag, TAG_TYPES[code], count) + raw.ljust(8 if big else 4, b"\0")
        offset = len(out)
        out.extend(struct.pack(f"{order}{'Q' if big else 'H'}", len(kept)) + entries)
        out.extend(struct.pack(f"{order}{word}", following))
        return offset

    following = 0
    for image in reversed(images):
        following = directory(image, following)
    at, width = (8, "Q") if big else (4, "I")
    struct.pack_into(f"{order}{width}", out, at, following)
    return bytes(out)


def psd(
    pixels: np.ndarray, layers: int = 0, resources: tuple[tuple[int, bytes], ...] = (), depth: int = 8, version: int = 1
) -> bytes:
    """A flattened image without compression, after the Photoshop File Formats Specification."""
    height, width, channels = pixels.shape
    head = b"8BPS" + struct.pack(">H6xHIIHH", version, channels, height, width, depth, 3 if channels >= 3 else 1)
    blocks = b"".join(
        b"8BIM" + struct.pack(">HHI", number, 0, len(data)) + data + b"\0" * (len(data) % 2)
        for number, data in resources
    )
    info = struct.pack(">Ih", 2, layers) if layers else b""
    mask = struct.pack(">I", len(info)) + info
    body = np.moveaxis(pixels, 2, 0).tobytes()
    return head + struct.pack(">I", 0) + struct.pack(">I", len(blocks)) + blocks + mask + b"\0\0" + body


Pixels = NDArray[np.uint8]

CROPS = {
    "astronaut": ("astronaut", (slice(0, 400), slice(60, 460))),
    "chelsea": ("chelsea", (slice(0, 300), slice(0, 451))),
    "coffee": ("coffee", (slice(60, 360), slice(100, 500))),
    "tissue": ("immunohistochemistry", (slice(0, 300), slice(200, 500))),
    "camera": ("camera", (slice(0, 384), slice(100, 388))),
}


def original(name: str) -> Pixels:
    """A crop (H, W, 3) of a sample; gray samples are repeated in three channels."""
    data: Any = pytest.importorskip("skimage.data", exc_type=ImportError)
    sample, crop = CROPS[name]
    pixels = np.asarray(getattr(data, sample)(), np.uint8)
    pixels = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels[crop])


def blurred(pixels: Pixels) -> Pixels:
    """Blur with the kernel (1, 2, 1) / 4, three times."""
    values = pixels.astype(np.float64)
    for axis in (0, 1, 0, 1, 0, 1):
        values = (np.roll(values, 1, axis) + 2 * values + np.roll(values, -1, axis)) / 4
    return np.round(values).astype(np.uint8)


def noisy(pixels: Pixels) -> Pixels:
    """Add uniform noise of +-24 levels, from a random stream that numpy keeps stable."""
    noise = np.random.RandomState(0).randint(-24, 25, pixels.shape)
    return np.clip(pixels.astype(np.int64) + noise, 0, 255).astype(np.uint8)


def coarse(pixels: Pixels) -> Pixels:
    """Repeat every fourth pixel four times in both directions."""
    rows, columns = np.arange(pixels.shape[0]) // 4 * 4, np.arange(pixels.shape[1]) // 4 * 4
    return np.ascontiguousarray(pixels[rows][:, columns])


def dim(pixels: Pixels) -> Pixels:
    """Reduce the contrast and shift each channel by another value."""
    return np.round(pixels * np.array([0.6, 0.7, 0.75]) + np.array([40, 20, 10])).astype(np.uint8)


WAYS: dict[str, Callable[[Pixels], Pixels]] = {
    "original": lambda pixels: pixels,
    "blurred": blurred,
    "noisy": noisy,
    "coarse": coarse,
    "dim": dim,
}


def sample_image(name: str) -> Pixels:
    """A distorted sample by its name, such as `astronaut-blurred`."""
    sample, way = name.split("-")
    return WAYS[way](original(sample))


def feature_sets(name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two sets of correlated features by name: `features-500-64` has 500 vectors of 64 dimensions."""
    _, count, dimensions = name.split("-")
    stream = np.random.RandomState(int(count))
    shape = (int(count), int(dimensions))
    mixing = np.tril(stream.uniform(-1, 1, (shape[1], shape[1])))
    one = stream.uniform(-1, 1, shape) @ mixing
    other = stream.uniform(-1, 1, shape) @ np.flip(mixing) * 0.8 + 0.3
    return one.astype(np.float32), other.astype(np.float32)


def journal_states(folder: Path) -> dict[str, str]:
    """Last status of each photo in the journal of an output folder; incomplete lines are skipped."""
    states = {}
    for line in (folder / ".gfprestore.jsonl").read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and "relative" in entry:
                states[entry["relative"]] = entry["status"]
    return states
