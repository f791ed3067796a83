"""Formats of image files, recognized by their content whatever their names say.

`kind_of_file` is also meant for files that are not restored: it names what they are and what to do. Suffixes only
decide where the content has no signature: Targa, and camera raw files that look like TIFF.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

HEAD_BYTES = 512
"""Bytes from the start of a file that recognition needs."""

_DEVELOP = "Develop it to a 16-bit TIFF first, for example with darktable or RawTherapee"
_EXPORT = "Export it as TIFF or PNG first"
_BOXES = b"\0\0\0\x0c"


@dataclass(frozen=True)
class Kind:
    """What a file is.

    Attributes:
        name: Name for messages, such as "JPEG" or "camera raw file (CR2)".
        format: The reader's name for it; None if gfprestore does not read it.
        advice: What the user can do if it cannot be read, without a full stop.
    """

    name: str
    format: str | None = None
    advice: str = ""


def _read(name: str, format: str | None = None) -> Kind:
    return Kind(name, format or name)


def _raw(name: str) -> Kind:
    return Kind(f"camera raw file ({name})", None, _DEVELOP)


_TIFF = _read("TIFF")
_SIGNATURES: tuple[tuple[int, bytes, Kind], ...] = (
    (0, b"\xff\xd8\xff", _read("JPEG")),
    (0, b"\x89PNG\r\n\x1a\n", _read("PNG")),
    (0, b"GIF87a", _read("GIF")),
    (0, b"GIF89a", _read("GIF")),
    (8, b"CR\x02", _raw("CR2")),
    (0, b"II*\0", _TIFF),
    (0, b"MM\0*", _TIFF),
    (0, b"II+\0", _TIFF),
    (0, b"MM\0+", _TIFF),
    (0, b"IIRO", _raw("ORF")),
    (0, b"IIRS", _raw("ORF")),
    (0, b"MMOR", _raw("ORF")),
    (0, b"IIU\0", _raw("RW2")),
    (0, b"FUJIFILMCCD-RAW", _raw("RAF")),
    (0, b"FOVb", _raw("X3F")),
    (0, b"\0MRM", _raw("MRW")),
    (6, b"HEAPCCDR", _raw("CRW")),
    (0, b"8BPS", _read("Photoshop", "PSD")),
    (0, b"\xff\x4f\xff\x51", _read("JPEG 2000", "JPEG2000")),
    (0, _BOXES + b"jP  \r\n\x87\n", _read("JPEG 2000", "JPEG2000")),
    (0, b"\xff\x0a", Kind("JPEG XL", None, "Convert it to PNG with djxl first")),
    (0, _BOXES + b"JXL \r\n\x87\n", Kind("JPEG XL", None, "Convert it to PNG with djxl first")),
    (0, b"P7\n", Kind("PAM", None, _EXPORT)),
    (0, b"PF\n", Kind("floating-point PFM", None, _EXPORT)),
    (0, b"Pf\n", Kind("floating-point PFM", None, _EXPORT)),
    (0, b"gimp xcf", Kind("GIMP image", None, _EXPORT)),
    (0, b"%PDF-", Kind("PDF", None, "Extract its images first, for example with pdfimages -all")),
    (0, b"AT&TFORM", Kind("DjVu", None, _EXPORT)),
    (0, b"v/1\x01", Kind("OpenEXR", None, _EXPORT)),
    (0, b"#?RADIANCE", Kind("Radiance HDR", None, _EXPORT)),
    (0, b"\0\0\1\0", Kind("Windows icon", None, _EXPORT)),
    (2048, b"PCD_IPI", Kind("Kodak Photo CD", None, _EXPORT)),
)
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_PNM_NUMBERS = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")
_PNM_NEXT = tuple(bytes((byte,)) for byte in b"#0123456789")
_JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
_TARGA_SUFFIXES = (".tga", ".icb", ".vda", ".vst")
_RAW_NAMES = (
    "3fr arw cr2 cr3 crw dcr dcs dng erf fff iiq k25 kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f"
)
RAW_SUFFIXES = frozenset(f".{name}" for name in _RAW_NAMES.split())
"""Lower-case suffixes of camera raw files; many of them have the structure of a TIFF."""


def kind_of(head: bytes, suffix: str = "") -> Kind | None:
    """Kind of a file, recognized by its first bytes; None if it is not known.

    Args:
        head: The first `HEAD_BYTES` bytes, or more.
        suffix: Suffix of its name, with the dot.
    """
    suffix = suffix.lower()
    for at, signature, kind in _SIGNATURES:
        if head.startswith(signature, at):
            is_raw = kind is _TIFF and suffix in RAW_SUFFIXES
            return _raw(suffix[1:].upper()) if is_raw else kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _read("WebP", "WEBP")
    if head[4:8] == b"ftyp":
        return _boxed(head)
    if _is_bmp(head):
        return _read("BMP")
    if _is_pnm(head):
        return _read("PNM")
    if suffix in _JPEG_SUFFIXES and head.startswith(b"\xff\xd8"):
        return _read("JPEG")  # with stray bytes before its first segment
    if suffix in _TARGA_SUFFIXES and _is_targa(head):
        return _read("Targa", "TGA")
    return None


def format_of(head: bytes, suffix: str = "") -> str | None:
    """The reader's name for the format of a file; None if it is not supported."""
    kind = kind_of(head, suffix)
    return None if kind is None else kind.format


def kind_of_file(path: Path) -> Kind | None:
    """Kind of a file; None if it is not known or cannot be read."""
    try:
        with path.open("rb") as stream:
            return kind_of(stream.read(HEAD_BYTES), path.suffix)
    except OSError:
        return None


def _boxed(head: bytes) -> Kind | None:
    """Files of the ISO base media format, by their brands: AVIF, HEIC, CR3, and films, which are None."""
    brands = head[8 : min(struct.unpack(">I", head[:4])[0], 256)]
    if any(brand in brands for brand in _AVIF_BRANDS):
        return _read("AVIF")
    if any(brand in brands for brand in _HEIF_BRANDS):
        return Kind("HEIC", "HEIF", "Install the package that reads it: pip install 'gfprestore[heif]'")
    return _raw("CR3") if brands.startswith(b"crx ") else None


def _is_bmp(head: bytes) -> bool:
    """`BM` is also the start of many texts: the size of the second header must be a known one."""
    return head[:2] == b"BM" and head[14:18] in [struct.pack("<I", size) for size in (12, 16, 40, 52, 56, 64, 108, 124)]


def _is_pnm(head: bytes) -> bool:
    """PBM, PGM and PPM, as text or binary: the magic number, white space, then a number or a comment."""
    return (
        head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace() and head[3:].lstrip()[:1] in b"#0123456789"
    )


def _is_targa(head: bytes) -> bool:
    """Whether a Targa header is plausible; there is no signature at the start."""
    if len(head) < 18:
        return False
    _, has_map, type, _, _, map_depth, _, _, width, height, depth, flags = struct.unpack("<BBBHHBHHHHBB", head[:18])
    plausible = {1: (8,), 9: (8,), 2: (15, 16, 24, 32), 10: (15, 16, 24, 32), 3: (8, 16), 11: (8, 16)}
    palette = map_depth in (8, 15, 16, 24, 32) if type in (1, 9) else has_map in (0, 1)
    return bool(depth in plausible.get(type, ()) and palette and width and height and not flags & 0xC0)
