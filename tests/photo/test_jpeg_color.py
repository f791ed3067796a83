"""The color transform of a JPEG: libjpeg's rule, checked against OpenCV, which has a libjpeg of its own."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from samples import ramp

from gfprestore.photo.reading import read_photo


def plain_jpeg(ids: bytes = b"\1\2\3") -> bytes:
    """A JPEG in YCbCr without any application segment, and with these component numbers."""
    stream = io.BytesIO()
    Image.fromarray(ramp()).save(stream, "JPEG", quality=95, subsampling="4:4:4")
    content = bytearray(stream.getvalue())
    frame, scan = content.index(b"\xff\xc0"), content.index(b"\xff\xda")
    for index, number in enumerate(ids):
        content[frame + 10 + 3 * index] = number
        content[scan + 5 + 2 * index] = number
    return bytes(content[:2] + content[20:])


JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"


def adobe(transform: int) -> bytes:
    return b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes((transform,))


def decoded(markers: bytes, folder: Path, ids: bytes = b"\1\2\3") -> np.ndarray:
    whole = plain_jpeg(ids)
    path = folder / "photo.jpg"
    path.write_bytes(whole[:2] + markers + whole[2:])
    pixels = read_photo(path).pixels
    reference = cv2.cvtColor(cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), 1), cv2.COLOR_BGR2RGB)
    assert np.abs(pixels.astype(int) - reference).max() <= 3
    return pixels


@pytest.mark.parametrize(
    "markers",
    [b"", JFIF, JFIF + adobe(0), adobe(0) + JFIF, JFIF + adobe(1), adobe(1), JFIF + adobe(2), adobe(2)],
    ids=["none", "JFIF", "JFIF, Adobe 0", "Adobe 0, JFIF", "JFIF, Adobe 1", "Adobe 1", "JFIF, Adobe 2", "Adobe 2"],
)
def test_a_jpeg_is_ycbcr_where_jfif_says_so_or_adobe_does_not_deny_it(markers: bytes, tmp_path: Path) -> None:
    assert np.abs(decoded(markers, tmp_path).astype(int) - ramp()).mean() < 2


def test_a_jpeg_is_rgb_where_only_adobe_says_so(tmp_path: Path) -> None:
    assert np.abs(decoded(adobe(0), tmp_path).astype(int) - ramp()).mean() > 20


def test_component_letters_count_only_without_markers(tmp_path: Path) -> None:
    assert np.abs(decoded(b"", tmp_path, b"RGB").astype(int) - ramp()).mean() > 20
    assert np.abs(decoded(JFIF, tmp_path, b"RGB").astype(int) - ramp()).mean() < 2


def test_a_jfif_thumbnail_is_not_needed_for_the_rule(tmp_path: Path) -> None:
    content = b"JFIF\0\1\1\0\0\1\0\1\2\2" + bytes(12)
    marker = b"\xff\xe0" + struct.pack(">H", len(content) + 2) + content
    assert np.abs(decoded(marker + adobe(0), tmp_path).astype(int) - ramp()).mean() < 2
