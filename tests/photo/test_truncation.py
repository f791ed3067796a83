"""Sound photos are read whatever level they end in, and truncated ones are refused, or read as far as they go."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features
from samples import DEEP, deep_png, png_chunk, ramp

from gfprestore.errors import UnreadablePhotoError
from gfprestore.photo.photo import Photo
from gfprestore.photo.reading import read_photo

END = b"\xff\xd9"
JPEG_KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restart intervals": {"restart_marker_blocks": 3},
    "chroma halved": {"subsampling": "4:2:0"},
    "gray": {"mode": "L"},
    "CMYK": {"mode": "CMYK"},
}


def noise(width: int = 100, height: int = 90) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


def jpeg(pixels: np.ndarray, mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def read(content: bytes, folder: Path, suffix: str = ".jpg", **options: Any) -> Photo:
    path = folder / f"photo{suffix}"
    path.write_bytes(content)
    return read_photo(path, **options)


def refusal(content: bytes, folder: Path, suffix: str = ".jpg", **options: Any) -> str:
    with pytest.raises(UnreadablePhotoError) as caught:
        read(content, folder, suffix, **options)
    return str(caught.value)


def missing_rows(photo: Photo) -> int:
    """Number in the warning about missing rows."""
    warning = next(text for text in photo.metadata.warnings if "rows are missing" in text)
    assert f"of its {photo.pixels.shape[0]} rows" in warning
    return int(warning.split()[0])


# --- JPEG --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", JPEG_KINDS)
def test_a_missing_end_marker_is_a_warning(kind: str, tmp_path: Path) -> None:
    content = jpeg(noise(), **JPEG_KINDS[kind])
    whole = read(content, tmp_path)
    cut = read(content[:-2], tmp_path)
    np.testing.assert_array_equal(cut.pixels, whole.pixels)
    assert "end marker is missing" in " ".join(cut.metadata.warnings)
    assert "end marker" not in " ".join(whole.metadata.warnings)


@pytest.mark.parametrize("kind", JPEG_KINDS)
@pytest.mark.parametrize("height", [3, 40])
def test_a_photo_may_end_in_the_level_that_decoders_fill_in(kind: str, height: int, tmp_path: Path) -> None:
    pixels = ramp()
    pixels[-height:] = 128
    content = jpeg(pixels, **JPEG_KINDS[kind])
    for stream in (content, content[:-2]):
        photo = read(stream, tmp_path)
        assert photo.pixels.shape == pixels.shape
        assert not any("rows are missing" in warning for warning in photo.metadata.warnings)


@pytest.mark.parametrize("end", [b"", END])
@pytest.mark.parametrize("kind", JPEG_KINDS)
def test_a_truncated_jpeg_is_refused_and_read_as_far_as_it_goes_on_request(
    kind: str, end: bytes, tmp_path: Path
) -> None:
    content = jpeg(noise(), **JPEG_KINDS[kind])
    whole = read(content, tmp_path).pixels
    scan = content.rindex(b"\xff\xda")
    cut = content[: scan + (len(content) - scan) * 6 // 10] + end
    assert "--accept-truncated" in refusal(cut, tmp_path)
    photo = read(cut, tmp_path, accept_truncated=True)
    missing = missing_rows(photo)
    assert 10 < missing < 70
    np.testing.assert_array_equal(photo.pixels[: 90 - missing - 1], whole[: 90 - missing - 1])
    assert (photo.pixels[90 - missing :] != whole[90 - missing :]).any()


def test_a_progressive_jpeg_that_ends_between_its_scans_is_refused(tmp_path: Path) -> None:
    content = jpeg(noise(), progressive=True)
    cut = content[: content.rindex(b"\xff\xda")]
    assert "truncated" in refusal(cut, tmp_path)
    whole = read(cut + END, tmp_path)  # a file that was made so: all rows, in less detail
    assert "less detail" in " ".join(whole.metadata.warnings)


@pytest.mark.parametrize("end_of_cut", ["between scans", "within a scan", "within a segment"])
def test_a_progressive_jpeg_that_lacks_only_detail_is_read_on_request(end_of_cut: str, tmp_path: Path) -> None:
    content = jpeg(ramp(), progressive=True)
    scans = [at for at in range(len(content)) if content[at : at + 2] == b"\xff\xda"]
    ends = {"between scans": scans[3], "within a scan": (scans[3] + scans[4]) // 2, "within a segment": scans[3] + 5}
    cut = content[: ends[end_of_cut]]
    assert "--accept-truncated" in refusal(cut, tmp_path)
    photo = read(cut, tmp_path, accept_truncated=True)
    assert np.abs(photo.pixels.astype(int) - ramp()).mean() < 8
    warnings = " ".join(photo.metadata.warnings)
    assert f"none of its {len(ramp())} rows is missing" in warnings and "less detail" in warnings
    assert "after the image" not in warnings
    first = content[: (scans[0] + scans[1]) // 2]  # without the mean levels of the lower rows
    assert "truncated" in refusal(first, tmp_path, accept_truncated=True)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_lost_restart_interval_is_told(progressive: bool, tmp_path: Path) -> None:
    content = jpeg(noise(), restart_marker_blocks=3, progressive=progressive)
    assert not read(content, tmp_path).metadata.warnings
    lost = content[: content.index(b"\xff\xd3")] + content[content.index(b"\xff\xd4") :]
    assert "restart markers are out of order" in " ".join(read(lost, tmp_path).metadata.warnings)


def test_a_jpeg_without_the_scan_of_a_component_is_refused(tmp_path: Path) -> None:
    """Three scans of a baseline JPEG, one a component: without the last, the colors would be wrong."""
    gray = jpeg(noise()[..., [0, 0, 0]], "L", quality=50)
    table, frame, scan = (gray.index(marker) for marker in (b"\xff\xdb", b"\xff\xc0", b"\xff\xda"))
    entropy = gray[scan + 10 : -2]
    head = gray[:2] + gray[table:frame] + b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, 90, 100, 3)
    head += b"\1\x11\0\2\x11\0\3\x11\0" + gray[frame + 13 : scan]
    scans = [b"\xff\xda\0\x08\1" + bytes((component,)) + b"\0\0\x3f\0" + entropy for component in (1, 2, 3)]
    assert read(head + b"".join(scans) + END, tmp_path).pixels.shape == (90, 100, 3)
    assert "truncated" in refusal(head + b"".join(scans[:2]) + END, tmp_path)


@pytest.mark.parametrize("stray", [bytes(16), b"junk", b"\xff\0\xff\0", b"\xff\xff\xff\xff"])
def test_stray_bytes_between_segments_are_skipped(stray: bytes, tmp_path: Path) -> None:
    content = jpeg(noise(), comment=b"kept")
    whole = read(content, tmp_path)
    at = 2
    while content[at + 1] != 0xDA:
        found = read(content[:at] + stray + content[at:], tmp_path)
        np.testing.assert_array_equal(found.pixels, whole.pixels)
        assert found.metadata.texts == (("Comment", "kept"),)
        assert ("stray" in " ".join(found.metadata.warnings)) == (stray != b"\xff" * 4)
        at += 2 + struct.unpack(">H", content[at + 2 : at + 4])[0]


# --- PNG and formats without a structure -------------------------------------------------------------------------


def interlaced_png(pixels: np.ndarray) -> bytes:
    """Adam7 after the PNG specification, with filter 0."""
    height, width = pixels.shape[:2]
    rows = b""
    for left, top, across, down in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
                                    (0, 1, 1, 2)):  # fmt: skip
        rows += b"".join(b"\0" + row.tobytes() for row in pixels[top::down, left::across])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


PNGS = {"8 bit": png(noise()), "16 bit": deep_png(DEEP[..., :3]), "interlaced": interlaced_png(noise())}


@pytest.mark.parametrize("kind", PNGS)
def test_a_png_that_ends_after_its_pixels_is_read_with_a_warning(kind: str, tmp_path: Path) -> None:
    content = PNGS[kind]
    whole = read(content, tmp_path, ".png")
    text = png_chunk(b"tEXt", b"Comment\0a note that is cut off")
    for cut in (content[:-12], content[:-5], content[:-17], content[:-12] + text[:20]):
        photo = read(cut, tmp_path, ".png")
        np.testing.assert_array_equal(photo.pixels, whole.pixels)
        assert "end marker is missing" in " ".join(photo.metadata.warnings)


@pytest.mark.parametrize("kind", PNGS)
def test_a_truncated_png_is_refused_and_read_as_far_as_it_goes_on_request(kind: str, tmp_path: Path) -> None:
    content = PNGS[kind]
    whole = read(content, tmp_path, ".png").pixels
    cut = content[: len(content) * (95 if kind == "interlaced" else 60) // 100]
    assert "--accept-truncated" in refusal(cut, tmp_path, ".png")
    photo = read(cut, tmp_path, ".png", accept_truncated=True)
    wrong = (photo.pixels != whole).any(axis=(1, 2))
    assert 0 < wrong.sum() <= missing_rows(photo) < len(whole) * 6 // 10


def test_a_truncated_bmp_is_refused_and_read_as_far_as_it_goes_on_request(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(noise()).save(stream, "BMP")
    cut = stream.getvalue()[: 54 + 300 * 50 + 7]  # its rows are stored from the bottom to the top
    assert "40 of its 90 rows" in refusal(cut, tmp_path, ".bmp")
    photo = read(cut, tmp_path, ".bmp", accept_truncated=True)
    assert missing_rows(photo) == 40
    np.testing.assert_array_equal(photo.pixels[40:], noise()[40:])


@pytest.mark.skipif(not features.check("webp"), reason="Pillow without WebP")
def test_a_webp_that_ends_in_its_metadata_is_read_with_a_warning(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(noise()).save(stream, "WEBP", lossless=True, xmp=b"<x:xmpmeta/>" * 20)
    content = stream.getvalue()
    photo = read(content[:-50], tmp_path, ".webp")
    np.testing.assert_array_equal(photo.pixels, noise())
    assert "its XMP chunk is cut off" in " ".join(photo.metadata.warnings)
    assert "truncated" in refusal(content[: len(content) // 2], tmp_path, ".webp")


def test_a_plain_pnm_with_text_in_its_numbers_is_refused(tmp_path: Path) -> None:
    numbers = " ".join(str(level) for level in range(300, 306)).encode()
    assert read(b"P2\n3 2 # three\n600\n" + numbers, tmp_path, ".pgm").pixels[0, 0, 0] == 32768
    for damaged in (numbers[:-9] + b" x 305", numbers[:-4]):
        assert "truncated" in refusal(b"P2\n3 2\n600\n" + damaged, tmp_path, ".pgm")


def test_a_file_that_ends_before_its_pixels_is_refused_in_any_case(tmp_path: Path) -> None:
    for content, suffix in ((jpeg(noise())[:150], ".jpg"), (png(noise())[:40], ".png"), (png(noise())[:60], ".png")):
        assert "--accept-truncated" not in refusal(content, tmp_path, suffix, accept_truncated=True)
