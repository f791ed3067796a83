"""Pixels of every kind in and out, refusals by name, and writing whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import struct
import sys
import tracemalloc
import unicodedata
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, features
from samples import DEEP, NOISE, RANDOM, deep_png, png_chunk, tiff

from gfprestore.errors import (
    ExitCode,
    PhotoError,
    PhotoTooLargeError,
    PhotoWriteError,
    UnreadablePhotoError,
    UnsupportedPhotoError,
)
from gfprestore.photo import reading
from gfprestore.photo.photo import PHOTO_SUFFIXES
from gfprestore.photo.reading import photo_size, read_photo
from gfprestore.photo.writing import output_suffix, write_photo


def ramp(width: int = 120, height: int = 90) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    planes = [columns * 255 // width, rows * 255 // height, (rows + columns) * 255 // (width + height)]
    return np.dstack(planes).astype(np.uint8)


def saved(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# --- pixels ------------------------------------------------------------------------------------------------------

SHALLOW: dict[str, tuple[Image.Image, np.ndarray, bool]] = {
    "RGB": (Image.fromarray(NOISE[..., :3]), NOISE[..., :3], False),
    "RGBA": (Image.fromarray(NOISE), NOISE, False),
    "L": (Image.fromarray(NOISE[..., 0]), NOISE[..., [0, 0, 0]], True),
    "LA": (Image.merge("LA", [Image.fromarray(NOISE[..., i]) for i in (0, 3)]), NOISE[..., [0, 0, 0, 3]], True),
    "1": (Image.fromarray(NOISE[..., 0] > 127), np.where(NOISE[..., [0, 0, 0]] > 127, 255, 0), True),
}


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("mode", SHALLOW)
def test_8_bit_pixels_of_every_mode_pass_unchanged(mode: str, suffix: str, tmp_path: Path) -> None:
    image, expected, gray = SHALLOW[mode]
    image.save(tmp_path / f"source{suffix}", **({"lossless": True, "exact": True} if suffix == ".webp" else {}))
    photo = read_photo(tmp_path / f"source{suffix}")
    np.testing.assert_array_equal(photo.pixels, expected[..., :3])
    assert photo.pixels.flags.c_contiguous and photo.pixels.flags.writeable
    assert (photo.alpha is not None) == (expected.shape[2] == 4)
    if photo.alpha is not None:
        np.testing.assert_array_equal(photo.alpha, expected[..., 3])
    write_photo(photo, tmp_path / f"output{suffix}")
    with Image.open(tmp_path / f"output{suffix}") as written:
        if suffix != ".webp":
            assert photo.gray == gray
            assert written.mode == {"1": "L"}.get(mode, mode)
        np.testing.assert_array_equal(np.asarray(written.convert("RGBA"))[..., : expected.shape[2]], expected)


@pytest.mark.parametrize("transparent", [False, True])
def test_a_palette_becomes_its_colors(transparent: bool, tmp_path: Path) -> None:
    image = Image.fromarray(NOISE[..., :3]).quantize(16)
    image.save(tmp_path / "source.png", **({"transparency": 3} if transparent else {}))
    with Image.open(tmp_path / "source.png") as opened:
        expected = np.asarray(opened.convert("RGBA"))
    photo = read_photo(tmp_path / "source.png")
    np.testing.assert_array_equal(photo.pixels, expected[..., :3])
    assert (photo.alpha is not None) == transparent
    if photo.alpha is not None:
        np.testing.assert_array_equal(photo.alpha, expected[..., 3])


@pytest.mark.parametrize("suffix", [".gif", ".bmp"])
def test_a_still_gif_or_bmp_is_read_and_written_as_png(suffix: str, tmp_path: Path) -> None:
    image = Image.fromarray(ramp()).quantize(64)
    image.save(tmp_path / f"source{suffix}")
    photo = read_photo(tmp_path / f"source{suffix}")
    np.testing.assert_array_equal(photo.pixels, np.asarray(image.convert("RGB")))
    assert output_suffix(tmp_path / f"source{suffix}") == ".png"
    with pytest.raises(PhotoWriteError, match="--format"):
        write_photo(photo, tmp_path / f"output{suffix}")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("target", [".png", ".tif"])
def test_16_bit_png_of_every_color_type_passes_unchanged(channels: int, target: str, tmp_path: Path) -> None:
    levels = DEEP[..., {1: [0], 2: [0, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[channels]]
    photo = read_photo(saved(tmp_path / "source.png", deep_png(levels)))
    assert photo.pixels.dtype == np.uint16
    expected = DEEP[..., [0, 0, 0] if channels <= 2 else [0, 1, 2]]
    np.testing.assert_array_equal(photo.pixels, expected)
    if channels in (2, 4):
        assert photo.alpha is not None
        np.testing.assert_array_equal(photo.alpha, DEEP[..., 3])
    write_photo(photo, tmp_path / f"output{target}")
    if target == ".tif" and channels == 2:
        again = read_photo(tmp_path / "output.tif")  # OpenCV reads no gray TIFF with alpha
        np.testing.assert_array_equal(again.pixels, expected)
        np.testing.assert_array_equal(again.alpha, photo.alpha)
        return
    written = cv2.imdecode(np.fromfile(tmp_path / f"output{target}", np.uint8), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint16
    shown = {1: levels[..., 0], 2: DEEP[..., [0, 0, 0, 3]], 3: levels[..., ::-1], 4: DEEP[..., [2, 1, 0, 3]]}[channels]
    np.testing.assert_array_equal(written, shown)


def test_a_transparent_color_of_a_16_bit_png_becomes_alpha(tmp_path: Path) -> None:
    levels = DEEP[..., :3].copy()
    levels[4, 5] = (1, 2, 3)
    photo = read_photo(saved(tmp_path / "a.png", deep_png(levels, png_chunk(b"tRNS", struct.pack(">3H", 1, 2, 3)))))
    np.testing.assert_array_equal(photo.pixels, levels)
    assert photo.alpha is not None
    assert photo.alpha[4, 5] == 0 and (photo.alpha == 0).sum() == 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("coding", ["plain", "deflate", "predictor"])
@pytest.mark.parametrize("tile", [0, 16])
def test_16_bit_tiff_of_every_layout_is_read_exactly(
    order: str, planar: bool, coding: str, tile: int, tmp_path: Path
) -> None:
    levels = DEEP[..., :3]
    content = tiff(levels, order, 2, planar, coding != "plain", coding == "predictor", tile)
    photo = read_photo(saved(tmp_path / "a.tif", content))
    np.testing.assert_array_equal(photo.pixels, levels)
    assert not photo.gray
    assert photo_size(tmp_path / "a.tif") == (53, 37)


def test_16_bit_gray_tiff_keeps_its_depth_its_channel_and_its_sense_of_white(tmp_path: Path) -> None:
    for photometric in (0, 1):
        photo = read_photo(saved(tmp_path / "a.tif", tiff(DEEP[..., 0], ">", photometric)))
        np.testing.assert_array_equal(photo.pixels[..., 1], DEEP[..., 0] if photometric else 65535 - DEEP[..., 0])
        write_photo(photo, tmp_path / "b.tif")
        written = cv2.imdecode(np.fromfile(tmp_path / "b.tif", np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(written, photo.pixels[..., 0])


@pytest.mark.parametrize("coding", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_16_bit_gray_tiff_of_another_writer(coding: str, tmp_path: Path) -> None:
    Image.fromarray(DEEP[..., 0]).save(tmp_path / "a.tif", compression=coding)
    np.testing.assert_array_equal(read_photo(tmp_path / "a.tif").pixels[..., 2], DEEP[..., 0])


def test_16_bit_rgb_tiff_with_lzw_and_predictor_of_another_writer(tmp_path: Path) -> None:
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 5, cv2.IMWRITE_TIFF_PREDICTOR, 2]
    encoded = cv2.imencode(".tif", DEEP[..., 2::-1], options)[1]
    photo = read_photo(saved(tmp_path / "a.tif", encoded.tobytes()))
    np.testing.assert_array_equal(photo.pixels, DEEP[..., :3])


def test_premultiplied_alpha_of_a_16_bit_tiff_is_undone(tmp_path: Path) -> None:
    straight = DEEP.copy()
    straight[..., 3] |= 0x8000
    share = straight[..., 3:].astype(np.float64) / 65535
    stored = np.dstack([np.rint(straight[..., :3] * share), straight[..., 3]]).astype(np.uint16)
    photo = read_photo(saved(tmp_path / "a.tif", tiff(stored, extra=1)))
    assert np.abs(photo.pixels.astype(int) - straight[..., :3]).max() <= 1
    photo = read_photo(saved(tmp_path / "a.tif", tiff(straight, extra=2)))
    np.testing.assert_array_equal(photo.pixels, straight[..., :3])


def test_16_bits_become_8_only_where_the_format_asks_and_it_is_said(tmp_path: Path) -> None:
    photo = read_photo(saved(tmp_path / "a.png", deep_png(DEEP[..., :3])))
    notes = write_photo(photo, tmp_path / "b.webp", quality=100)
    assert any("16 bits" in note for note in notes)
    write_photo(replace(photo, pixels=photo.pixels, alpha=None), tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.mode == "RGB"
    flat = replace(photo, pixels=np.full((16, 16, 3), 128 * 257 + 128, np.uint16))  # halfway less a bit: 128
    write_photo(flat, tmp_path / "c.jpg")
    with Image.open(tmp_path / "c.jpg") as image:
        assert np.asarray(image)[8, 8].tolist() == [128, 128, 128]


def test_a_colored_gray_photo_is_written_in_color_and_a_gray_one_as_one_channel(tmp_path: Path) -> None:
    Image.fromarray(ramp()[..., 0]).save(tmp_path / "a.jpg")
    photo = read_photo(tmp_path / "a.jpg")
    write_photo(photo, tmp_path / "b.jpg")
    write_photo(replace(photo, pixels=ramp()), tmp_path / "c.jpg")
    with Image.open(tmp_path / "b.jpg") as gray, Image.open(tmp_path / "c.jpg") as color:
        assert (gray.mode, color.mode) == ("L", "RGB")
        assert np.abs(np.asarray(color).astype(int) - ramp()).max() <= 12


def test_transparency_is_laid_on_white_in_a_jpeg_and_it_is_said(tmp_path: Path) -> None:
    levels = np.zeros((16, 16, 4), np.uint8)
    levels[:, 8:, 3] = 255
    Image.fromarray(levels).save(tmp_path / "a.png")
    notes = write_photo(read_photo(tmp_path / "a.png"), tmp_path / "b.jpg")
    assert any("white" in note for note in notes)
    with Image.open(tmp_path / "b.jpg") as image:
        assert np.asarray(image)[4, 2, 0] >= 254 and np.asarray(image)[4, 13, 0] <= 1


@pytest.mark.parametrize("mode", ["CMYK", "YCCK"])
def test_cmyk_jpeg_is_converted_and_it_is_said(mode: str, tmp_path: Path) -> None:
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [128, 128, 128]], np.uint8)
    image = Image.fromarray(np.repeat(np.repeat(colors[None], 16, 0), 16, 1)).convert("CMYK")
    image.save(tmp_path / "a.jpg", quality=95)
    content = (tmp_path / "a.jpg").read_bytes()
    if mode == "YCCK":
        encoded = np.asarray(image).astype(float)
        red, green, blue = (encoded[..., index] for index in range(3))
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        planes = [luma, 128 + (blue - luma) * 0.564, 128 + (red - luma) * 0.713, encoded[..., 3]]
        planes[:3] = (255 - plane for plane in planes[:3])  # Pillow writes CMYK inverted, as Adobe does
        bands = [Image.fromarray(np.clip(np.rint(plane), 0, 255).astype(np.uint8)) for plane in planes]
        Image.merge("CMYK", bands).save(tmp_path / "a.jpg", quality=95)
        content = (tmp_path / "a.jpg").read_bytes()
        at = content.index(b"Adobe")
        content = content[: at + 11] + b"\2" + content[at + 12 :]
    photo = read_photo(saved(tmp_path / "a.jpg", content))
    assert any("CMYK" in warning for warning in photo.metadata.warnings)
    assert np.abs(photo.pixels[8, 8::16].astype(int) - colors).max() <= 6
    write_photo(photo, tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as written:
        assert written.mode == "RGB"


# --- JPEG ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "kept"), [(30, 95), (75, 95), (95, 95), (97, 97), (100, 100)])
def test_jpeg_quality_is_the_sources_or_better(asked: int, kept: int, tmp_path: Path) -> None:
    Image.fromarray(ramp()).save(tmp_path / "a.jpg", quality=asked)
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.metadata.quality == asked
    write_photo(photo, tmp_path / "b.jpg")
    Image.fromarray(ramp()).save(tmp_path / "expected.jpg", quality=kept)
    with Image.open(tmp_path / "b.jpg") as written, Image.open(tmp_path / "expected.jpg") as expected:
        assert written.quantization == expected.quantization  # type: ignore[attr-defined]


def test_jpeg_quality_is_what_was_asked_for(tmp_path: Path) -> None:
    Image.fromarray(ramp()).save(tmp_path / "a.jpg", quality=98)
    write_photo(read_photo(tmp_path / "a.jpg"), tmp_path / "b.jpg", quality=60)
    assert read_photo(tmp_path / "b.jpg").metadata.quality == 60


def test_unusual_quantization_tables_are_bettered(tmp_path: Path) -> None:
    tables = [list(RANDOM.integers(3, 60, 64)), list(RANDOM.integers(3, 60, 64))]
    Image.fromarray(ramp()).save(tmp_path / "a.jpg", qtables=tables)
    write_photo(read_photo(tmp_path / "a.jpg"), tmp_path / "b.jpg")
    with Image.open(tmp_path / "a.jpg") as old, Image.open(tmp_path / "b.jpg") as new:
        for number in (0, 1):
            finer = np.array(new.quantization[number]) <= np.array(old.quantization[number])  # type: ignore[attr-defined]
            assert finer.all()


@pytest.mark.parametrize(("subsampling", "kept"), [("4:4:4", 0), ("4:2:2", 1), ("4:2:0", 2)])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_subsampling_and_progression_are_kept(
    subsampling: str, kept: int, progressive: bool, tmp_path: Path
) -> None:
    from PIL.JpegImagePlugin import get_sampling

    Image.fromarray(ramp()).save(tmp_path / "a.jpg", subsampling=subsampling, progressive=progressive)
    write_photo(read_photo(tmp_path / "a.jpg"), tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as image:
        assert get_sampling(image) == kept
        assert bool(image.info.get("progressive")) == progressive


def test_webp_stays_lossless_when_it_was(tmp_path: Path) -> None:
    pytest.importorskip("PIL._webp")
    Image.fromarray(NOISE[..., :3]).save(tmp_path / "a.webp", lossless=True)
    write_photo(read_photo(tmp_path / "a.webp"), tmp_path / "b.webp")
    assert b"VP8L" in (tmp_path / "b.webp").read_bytes()[:64]
    Image.fromarray(NOISE[..., :3]).save(tmp_path / "a.webp", quality=80)
    write_photo(read_photo(tmp_path / "a.webp"), tmp_path / "b.webp")
    assert b"VP8 " in (tmp_path / "b.webp").read_bytes()[:64]


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tiff_stays_uncompressed_when_it_was(compression: str | None, tmp_path: Path) -> None:
    Image.fromarray(ramp()).save(tmp_path / "a.tif", compression=compression)
    write_photo(read_photo(tmp_path / "a.tif"), tmp_path / "b.tif")
    with Image.open(tmp_path / "b.tif") as image:
        assert image.info["compression"] == ("tiff_adobe_deflate" if compression else "raw")
        np.testing.assert_array_equal(np.asarray(image), ramp())


# --- refusals -----------------------------------------------------------------------------------------------------


def refusal(path: Path, kind: type[PhotoError], **options: Any) -> str:
    with pytest.raises(kind) as caught:
        read_photo(path, **options)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == ExitCode.SOME_FAILED
    return str(caught.value)


def jpeg_bytes(**options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(stream, "JPEG", **options)
    return stream.getvalue()


def test_files_that_are_no_photos_are_named_with_their_reason(tmp_path: Path) -> None:
    assert "empty" in refusal(saved(tmp_path / "empty.jpg", b""), UnreadablePhotoError)
    assert "is not a supported image" in refusal(
        saved(tmp_path / "text.jpg", b"Dear diary\n" * 50), UnreadablePhotoError
    )
    assert "does not exist" in refusal(tmp_path / "absent.jpg", UnreadablePhotoError)
    (tmp_path / "folder.jpg").mkdir()
    assert "folder" in refusal(tmp_path / "folder.jpg", UnreadablePhotoError)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        assert "device" in refusal(tmp_path / "pipe.jpg", UnreadablePhotoError)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_locked_file_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "locked.jpg", jpeg_bytes())
    path.chmod(0)
    assert "permission" in refusal(path, UnreadablePhotoError)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_refused(share: float, progressive: bool, tmp_path: Path) -> None:
    content = jpeg_bytes(progressive=progressive)
    path = saved(tmp_path / "a.jpg", content[: int(len(content) * share)])
    assert "damaged" in refusal(path, UnreadablePhotoError)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".gif", ".bmp"])
def test_a_truncated_file_is_refused(share: float, suffix: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(NOISE[..., :3]).save(stream, Image.registered_extensions()[suffix])
    path = saved(tmp_path / f"a{suffix}", stream.getvalue()[: int(len(stream.getvalue()) * share)])
    refusal(path, UnreadablePhotoError)


def test_a_damaged_png_is_refused_by_its_checksum(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for content in (deep_png(DEEP[..., :3]), deep_png(DEEP[..., 0])):
        broken = bytearray(content)
        broken[len(broken) // 2] ^= 0xFF
        assert "checksum" in refusal(saved(tmp_path / "a.png", bytes(broken)), UnreadablePhotoError)
    assert capfd.readouterr().err == ""


def test_moving_and_many_paged_files_are_refused_by_name(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(NOISE[..., :3], shift, 0)) for shift in range(3)]
    for suffix in (".gif", ".png", *([".webp"] if features.check("webp") else [])):
        frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
        assert "3 frames (it is animated)" in refusal(tmp_path / f"a{suffix}", UnsupportedPhotoError)
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    assert "3 pages" in refusal(tmp_path / "a.tif", UnsupportedPhotoError)


@pytest.mark.parametrize(("kind", "words"), [("f4", "floating point"), ("i2", "signed"), ("u4", "32 bits")])
def test_samples_that_are_not_8_or_16_bit_are_refused_by_name(kind: str, words: str, tmp_path: Path) -> None:
    content = tiff(np.ones((8, 8, 3), kind), sample_format={"u": 1, "i": 2, "f": 3}[kind[0]])
    assert words in refusal(saved(tmp_path / "a.tif", content), UnsupportedPhotoError)


def test_a_photo_of_one_pixel_works(tmp_path: Path) -> None:
    for suffix in (".jpg", ".png", ".tif", ".webp", ".bmp", ".gif"):
        Image.new("RGB", (1, 1), (200, 200, 200)).save(tmp_path / f"a{suffix}")
        photo = read_photo(tmp_path / f"a{suffix}")
        assert photo.pixels.shape == (1, 1, 3)
        output = tmp_path / f"b{output_suffix(tmp_path / f'a{suffix}')}"
        write_photo(photo, output)
        assert np.abs(read_photo(output).pixels.astype(int) - 200).max() <= 2


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    side = 60_000
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + pixels + png_chunk(b"IEND", b"")
    content = bytearray(jpeg_bytes())
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", side, side)
    tracemalloc.start()
    for path in (saved(tmp_path / "a.png", bomb), saved(tmp_path / "a.jpg", bytes(content))):
        assert f"--max-pixels to {side * side}" in refusal(path, PhotoTooLargeError)
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_a_text_bomb_inside_a_png_does_not_unfold(tmp_path: Path) -> None:
    packed = zlib.compress(bytes(200_000_000), 9)
    chunk = png_chunk(b"zTXt", b"Comment\0\0" + packed) + png_chunk(b"iCCP", b"p\0\0" + packed)
    content = deep_png(DEEP[..., :3], chunk)
    tracemalloc.start()
    photo = read_photo(saved(tmp_path / "a.png", content))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(photo.pixels, DEEP[..., :3])
    assert peak < 400_000_000


def test_the_limit_of_pixels_is_lifted_by_its_option(tmp_path: Path) -> None:
    Image.fromarray(ramp()).save(tmp_path / "a.png")
    refusal(tmp_path / "a.png", PhotoTooLargeError, max_pixels=120 * 90 - 1)
    assert read_photo(tmp_path / "a.png", max_pixels=120 * 90).pixels.shape == (90, 120, 3)


# --- names and sizes ----------------------------------------------------------------------------------------------


def test_the_size_is_known_without_decoding(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    for suffix in (".jpg", ".png", ".tif", ".webp"):
        Image.fromarray(ramp()).save(tmp_path / f"a{suffix}", exif=exif)
        assert photo_size(tmp_path / f"a{suffix}") == (90, 120)
        with Image.open(tmp_path / f"a{suffix}") as image:
            assert image.size in ((120, 90), (90, 120))


def test_the_size_of_a_large_jpeg_is_read_from_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.jpg", jpeg_bytes() + bytes(3_000_000))
    monkeypatch.setattr(reading, "_file_bytes", lambda *_: pytest.fail("the whole file was read"))
    assert photo_size(path) == (120, 90)


def test_names_in_any_script_and_form_and_length(tmp_path: Path) -> None:
    names = [
        "Großmutter.jpg",
        "祖母.jpg",
        "бабушка.jpg",
        unicodedata.normalize("NFD", "é.jpg"),
        "👵🏽.jpg",
        "-rf $(x) .jpg",
    ]
    deep = tmp_path
    for _ in range(4):
        deep = deep / ("long folder name " * 5)
    deep.mkdir(parents=True)
    for number, path in enumerate([*(tmp_path / name for name in names), deep / f"{'x' * 250}.jpg"]):
        output = path.with_name(path.name.replace(".jpg", ".png"))
        saved(path, jpeg_bytes())
        write_photo(read_photo(path), output)
        assert read_photo(output).pixels.shape == (90, 120, 3), number
    assert len(os.fsencode(deep / f"{'x' * 250}.png")) > 500


def test_the_suffix_follows_the_content_and_the_wish(tmp_path: Path) -> None:
    jpeg = saved(tmp_path / "photo.JPEG", jpeg_bytes())
    assert output_suffix(jpeg) == ".JPEG"
    assert output_suffix(jpeg, "jpg") == ".JPEG"
    assert output_suffix(jpeg, "png") == ".png"
    assert output_suffix(saved(tmp_path / "a.jpg", deep_png(DEEP[..., :3]))) == ".png"
    assert output_suffix(saved(tmp_path / "a.TIFF", tiff(DEEP[..., 0])), "tiff") == ".TIFF"
    assert output_suffix(tmp_path / "absent.jpg") == ".jpg"
    assert {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif"} <= PHOTO_SUFFIXES


# --- writing ------------------------------------------------------------------------------------------------------


def test_the_original_is_never_written_to(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.jpg", jpeg_bytes())
    before = hashlib.sha256(source.read_bytes()).hexdigest()
    photo = read_photo(source)
    (tmp_path / "hard.jpg").hardlink_to(source)
    (tmp_path / "soft.jpg").symlink_to(source)
    for name in ("a.jpg", "hard.jpg", "soft.jpg", "./a.jpg"):
        with pytest.raises(PhotoWriteError, match="original"):
            write_photo(photo, tmp_path / name)
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before


class FailingStream:
    """A file that fails after some bytes."""

    def __init__(self, stream: BinaryIO, after: int, failure: BaseException) -> None:
        self.stream, self.left, self.failure = stream, after, failure

    def __enter__(self) -> FailingStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def write(self, data: bytes) -> int:
        self.left -= len(data)
        if self.left < 0:
            raise self.failure
        return self.stream.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("after", [0, 100, 5000])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    suffix: str, after: int, failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = read_photo(saved(tmp_path / "a.jpg", jpeg_bytes()))
    output = saved(tmp_path / f"b{suffix}", b"an older result")
    opened = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda *arguments: FailingStream(opened(*arguments), after, failure))
    with pytest.raises(PhotoWriteError if isinstance(failure, OSError) else KeyboardInterrupt) as caught:
        write_photo(photo, output)
    if isinstance(failure, OSError):
        assert "disk is full" in str(caught.value)
    assert output.read_bytes() == b"an older result"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", f"b{suffix}"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_real_limit_of_the_file_system_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    import resource
    import signal

    photo = read_photo(saved(tmp_path / "a.jpg", jpeg_bytes()))
    large = replace(photo, pixels=RANDOM.integers(0, 256, (600, 800, 3), dtype=np.uint8))
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
    try:
        for suffix in (".jpg", ".png", ".tif", ".webp"):
            with pytest.raises(PhotoWriteError, match="cannot be written"):
                write_photo(large, tmp_path / f"b{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    photo = read_photo(saved(tmp_path / "a.jpg", jpeg_bytes()))
    with pytest.raises(PhotoWriteError, match="folder does not exist"):
        write_photo(photo, tmp_path / "gone" / "b.jpg")


def test_the_content_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    sync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (steps.append("sync"), sync(number))[1])
    monkeypatch.setattr(Path, "replace", lambda old, new: (steps.append("replace"), rename(old, new))[1])
    write_photo(read_photo(saved(tmp_path / "a.jpg", jpeg_bytes())), tmp_path / "b.jpg")
    assert steps[:2] == ["sync", "replace"]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_the_same_photo_gives_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    photo = read_photo(saved(tmp_path / "a.jpg", jpeg_bytes()))
    write_photo(photo, tmp_path / f"b{suffix}")
    write_photo(photo, tmp_path / f"c{suffix}")
    assert (tmp_path / f"b{suffix}").read_bytes() == (tmp_path / f"c{suffix}").read_bytes()


def test_an_image_too_large_for_its_format_is_refused_with_the_limit(tmp_path: Path) -> None:
    photo = read_photo(saved(tmp_path / "a.jpg", jpeg_bytes()))
    wide = replace(photo, pixels=np.zeros((1, 70_000, 3), np.uint8))
    with pytest.raises(PhotoWriteError, match="65535"):
        write_photo(wide, tmp_path / "b.jpg")
    write_photo(wide, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        assert image.size == (70_000, 1)


@pytest.mark.parametrize("suffix", [".tif", ".jpg"])
def test_writing_needs_little_memory_beyond_the_pixels(suffix: str, tmp_path: Path) -> None:
    photo = read_photo(saved(tmp_path / "a.jpg", jpeg_bytes()))
    large = replace(photo, pixels=np.zeros((4000, 4000, 3), np.uint8))
    tracemalloc.start()  # Pillow's own image, 4 bytes a pixel, is not seen by it
    write_photo(large, tmp_path / f"b{suffix}")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * large.pixels.nbytes


def test_a_profile_that_is_unusable_is_kept_with_a_warning(tmp_path: Path) -> None:
    for profile in (b"not a profile", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()):
        Image.fromarray(ramp()).save(tmp_path / "a.png", icc_profile=profile)
        photo = read_photo(tmp_path / "a.png")
        assert any("ICC" in warning for warning in photo.metadata.warnings)
        np.testing.assert_array_equal(photo.pixels, ramp())
        write_photo(photo, tmp_path / "b.png")
        with Image.open(tmp_path / "b.png") as image:
            assert image.info["icc_profile"] == profile
