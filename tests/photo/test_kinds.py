"""Kinds of images by their first bytes: the signatures are those of the formats' specifications."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from gfprestore.photo.kinds import HEAD_BYTES, advice_for, image_kind


def ftyp(*brands: bytes) -> bytes:
    return (16 + 4 * (len(brands) - 1)).to_bytes(4, "big") + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])


@pytest.mark.parametrize(
    ("head", "suffix", "kind"),
    [
        (ftyp(b"heic", b"mif1", b"heic"), ".HEIC", "HEIC"),
        (ftyp(b"mif1", b"heic"), ".heif", "HEIC"),
        (ftyp(b"mif1", b"avif"), ".avif", "AVIF"),
        (ftyp(b"avif", b"mif1"), ".avif", "AVIF"),
        (ftyp(b"crx ", b"isom"), ".CR3", "camera raw"),
        (ftyp(b"mp42", b"isom"), ".mp4", None),
        (b"II*\0\x10\0\0\0CR\x02\0", ".cr2", "camera raw"),
        (b"II*\0\x10\0\0\0CR\x02\0", "", "camera raw"),
        (b"II*\0\x08\0\0\0", ".DNG", "camera raw"),
        (b"MM\0*\0\0\0\x08", ".NEF", "camera raw"),
        (b"II*\0\x08\0\0\0", ".bin", "TIFF"),
        (b"FUJIFILMCCD-RAW 0201", ".raf", "camera raw"),
        (b"IIU\0\x18\0\0\0", ".rw2", "camera raw"),
        (b"8BPS\0\x01", ".psd", "Photoshop"),
        (b"8BPS\0\x02", ".psb", "Photoshop"),
        (b"\xff\x0a\x00", ".jxl", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", ".jxl", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", ".jp2", "JPEG 2000"),
        (b"\xff\x4f\xff\x51\0", ".j2k", "JPEG 2000"),
        (b"P6\n120 80\n255\n", ".ppm", "PNM"),
        (b"P6 is a vitamin", ".txt", None),
        (b"PK\x03\x04", ".zip", None),
        (b"%PDF-1.7", ".pdf", None),
        (b"BM is short for a brand", ".txt", None),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg">', ".svg", "SVG"),
        (b"<html><body>no image</body></html>", ".html", None),
        (b"hello", ".txt", None),
        (b"", "", None),
        (b"\0", "", None),
        (b"\xff", "", None),
        (bytes(128) + b"DICM", ".dcm", "DICOM"),
        (b"gimp xcf v011", ".xcf", "GIMP"),
    ],
)
def test_a_kind_is_recognized_by_the_first_bytes(head: bytes, suffix: str, kind: str | None) -> None:
    assert image_kind(head, suffix) == kind
    if kind is not None:
        assert advice_for(kind).endswith(".")


@pytest.mark.parametrize(
    ("format", "kind"),
    [("JPEG", "JPEG"), ("PNG", "PNG"), ("GIF", "GIF"), ("BMP", "BMP"), ("WEBP", "WebP"), ("TIFF", "TIFF"),
     ("PPM", "PNM"), ("JPEG2000", "JPEG 2000"), ("PCX", "PCX"), ("DDS", "DirectDraw surface"), ("SGI", "SGI")],
)  # fmt: skip
def test_what_pillow_writes_is_recognized_without_a_suffix(format: str, kind: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((9, 12, 3), np.uint8)).save(stream, format)
    assert image_kind(stream.getvalue()[:HEAD_BYTES]) == kind
