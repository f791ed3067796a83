"""Kinds of image files, recognized by their content whatever their names say. Opens no file.

A suffix only decides where the content has no signature: Targa, and camera raw files that look like TIFF.
"""

from __future__ import annotations

import struct

HEAD_BYTES = 512
"""Number of bytes that `image_kind` looks at."""

_RAW_ADVICE = "Develop to TIFF or JPEG first, with darktable or RawTherapee for example."
_TIFF_HEADERS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"8BPS", "Photoshop"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"II\xbc", "JPEG XR"),
    (b"\x8bJNG\r\n\x1a\n", "JNG"),
    (b"P7\n", "PAM"),
    (b"PF\n", "floating-point PFM"),
    (b"Pf\n", "floating-point PFM"),
    (b"gimp xcf", "GIMP"),
    (b"KRITA", "Krita"),
    (b"qoif", "QOI"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"#?RGBE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"DDS ", "DirectDraw surface"),
    (b"\x59\xa6\x6a\x95", "Sun raster"),
    (b"\x01\xda\x00", "SGI"),
    (b"\x01\xda\x01", "SGI"),
    (b"\x0a\x05\x01\x08", "PCX"),
    (b"BPG\xfb", "BPG"),
    (b"FLIF", "FLIF"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
    (b"IIRO", "camera raw"),
    (b"IIRS", "camera raw"),
    (b"MMOR", "camera raw"),
    (b"IIU\0", "camera raw"),
    (b"FOVb", "camera raw"),
    (b"\0MRM", "camera raw"),
    (b"II\x1a\0\0\0HEAPCCDR", "camera raw"),
)
_BMP_HEADERS = tuple(struct.pack("<I", size) for size in (12, 16, 40, 52, 56, 64, 108, 124))
_PNM_NUMBERS = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")
_PNM_NEXT = tuple(bytes((byte,)) for byte in b"#0123456789")
_JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
_TARGA_SUFFIXES = (".tga", ".icb", ".vda", ".vst")
_BRANDS = {
    b"avif": "AVIF", b"avis": "AVIF", b"crx ": "camera raw", b"jxl ": "JPEG XL",
    b"heic": "HEIC", b"heix": "HEIC", b"heim": "HEIC", b"heis": "HEIC", b"hevc": "HEIC", b"hevx": "HEIC",
    b"mif1": "HEIC", b"msf1": "HEIC",
}  # fmt: skip
_RAW_SUFFIXES = frozenset(
    {
        ".3fr", ".arw", ".bay", ".cap", ".cr2", ".cr3", ".crw", ".dcr", ".dcs", ".dng", ".erf", ".fff", ".iiq", ".k25",
        ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".ptx", ".raf", ".raw", ".rw2", ".rwl", ".sr2",
        ".srf", ".srw", ".x3f",
    }
)  # fmt: skip
_ADVICE = {
    "HEIC": 'Install the extra: pip install "gfprestore[heif]".',
    "camera raw": _RAW_ADVICE,
    "JPEG XL": "Convert to PNG with djxl first.",
    "GIMP": "Export as TIFF or PNG.",
    "Krita": "Export as TIFF or PNG.",
}


def image_kind(head: bytes, suffix: str = "") -> str | None:
    """Kind of an image file; None if it is no known image.

    Args:
        head: The first bytes of the file, `HEAD_BYTES` of them if it has as many.
        suffix: Suffix of the name with the dot. It tells the raw files of cameras that are TIFF files from others.
    """
    if head[4:8] == b"ftyp":
        brands = [head[at : at + 4] for at in range(8, min(int.from_bytes(head[:4], "big"), len(head)), 4)]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"  # its first brand may be the general one that HEIC files have, too
        return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)
    if head.startswith(_TIFF_HEADERS):
        return "camera raw" if suffix.lower() in _RAW_SUFFIXES or head[8:10] == b"CR" else "TIFF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:4] == b"FORM" and head[8:12] in (b"ILBM", b"PBM "):
        return "ILBM"
    if head[:2] == b"BM" and head[14:18] in _BMP_HEADERS:
        return "BMP"
    if head[:2] in _PNM_NUMBERS and head[2:3].isspace() and head[3:].lstrip()[:1] in _PNM_NEXT:
        return "PNM"
    if head[128:132] == b"DICM":
        return "DICOM"
    if b"<svg" in head and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "SVG"
    known = next((kind for signature, kind in _SIGNATURES if head.startswith(signature)), None)
    if known is None and suffix.lower() in _JPEG_SUFFIXES and head.startswith(b"\xff\xd8"):
        return "JPEG"  # with stray bytes before its first segment
    if known is None and suffix.lower() in _TARGA_SUFFIXES and _is_targa(head):
        return "Targa"
    return known


def _is_targa(head: bytes) -> bool:
    """Whether a Targa header is plausible; there is no signature at the start."""
    if len(head) < 18:
        return False
    _, has_map, type, _, _, map_depth, _, _, width, height, depth, flags = struct.unpack("<BBBHHBHHHHBB", head[:18])
    depths = {1: (8,), 9: (8,), 2: (15, 16, 24, 32), 10: (15, 16, 24, 32), 3: (8, 16), 11: (8, 16)}.get(type, ())
    palette = map_depth in (8, 15, 16, 24, 32) if type in (1, 9) else has_map in (0, 1)
    return bool(depth in depths and palette and width and height and not flags & 0xC0)


def is_raw_name(name: str) -> bool:
    """Whether a file name has the suffix of a camera's raw files."""
    return f".{name.rpartition('.')[2].lower()}" in _RAW_SUFFIXES


def advice_for(kind: str) -> str:
    """How to get a photo of an unsupported kind restored, as a sentence."""
    return _ADVICE.get(kind, "Convert to TIFF or PNG first.")
