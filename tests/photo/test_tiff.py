"""TIFF files of every producer: which directory is the photo, channels without a stated meaning, L*a*b*."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from samples import DEEP, NOISE, TiffImage, ramp, tiff, tiff_of

from gfprestore.errors import UnreadablePhotoError, UnsupportedPhotoError
from gfprestore.photo import exif
from gfprestore.photo.photo import Photo
from gfprestore.photo.reading import photo_size, read_pages, read_photo

REDUCED, MASK, PAGE = {254: ("I", 1)}, {254: ("I", 4)}, {254: ("I", 2)}


def read(content: bytes, folder: Path, **options: bool) -> Photo:
    path = folder / "photo.tif"
    path.write_bytes(content)
    photo = read_photo(path, **options)
    assert photo_size(path) == (photo.pixels.shape[1], photo.pixels.shape[0])
    return photo


def warnings_of(photo: Photo) -> str:
    return " ".join(photo.metadata.warnings)


def full_size(dtype: str) -> np.ndarray:
    levels = np.random.default_rng(1).integers(0, 256, (90, 120, 3))
    return (levels * (257 if dtype == "u2" else 1)).astype(dtype)


def preview(dtype: str, width: int = 30, height: int = 22) -> np.ndarray:
    return np.asarray(cv2.resize(full_size(dtype), (width, height), interpolation=cv2.INTER_AREA))


# --- which directory is the photo --------------------------------------------------------------------------------


def with_previews(kind: str, dtype: str) -> list[TiffImage]:
    photo, small = TiffImage(full_size(dtype)), TiffImage(preview(dtype))
    marked = TiffImage(preview(dtype), REDUCED)
    old = TiffImage(preview(dtype), {255: ("H", 2)})
    return {
        "preview first": [marked, photo],
        "preview first, unmarked": [small, photo],
        "preview first, marked as of old": [old, photo],
        "preview last": [photo, marked],
        "preview last, unmarked": [photo, small],
        "two previews first": [marked, TiffImage(preview(dtype, 60, 45), REDUCED), photo],
        "half size, unmarked": [photo, TiffImage(preview(dtype, 60, 45))],
        "half size first, unmarked": [TiffImage(preview(dtype, 60, 45)), photo],
        "photo in a SubIFD of the preview": [TiffImage(preview(dtype), REDUCED, [photo])],
        "photo in a SubIFD, unmarked": [TiffImage(preview(dtype), {}, [photo])],
        "previews in SubIFDs": [TiffImage(full_size(dtype), {}, [marked, small])],
        "photo among SubIFDs": [
            TiffImage(preview(dtype), REDUCED, [TiffImage(preview(dtype, 60, 45), REDUCED), photo])
        ],
        "mask of the same size": [photo, TiffImage(full_size(dtype)[..., 0], {**MASK, 262: ("H", 4)})],
        "mask first": [TiffImage(full_size(dtype)[..., 0], {**MASK, 262: ("H", 4)}), photo],
    }[kind]


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", [
    "preview first", "preview first, unmarked", "preview first, marked as of old", "preview last",
    "preview last, unmarked", "two previews first", "half size, unmarked", "half size first, unmarked",
    "photo in a SubIFD of the preview", "photo in a SubIFD, unmarked", "previews in SubIFDs", "photo among SubIFDs",
    "mask of the same size", "mask first",
])  # fmt: skip
def test_the_photo_is_read_and_not_its_preview(kind: str, big: bool, order: str, dtype: str, tmp_path: Path) -> None:
    photo = read(tiff_of(with_previews(kind, dtype), order, big), tmp_path)
    np.testing.assert_array_equal(photo.pixels, full_size(dtype))
    assert ("smaller copies of the image in the file were not copied" in warnings_of(photo)) == ("mask" not in kind)
    assert ("masks and depth maps in the file were not copied" in warnings_of(photo)) == ("mask" in kind)


def test_images_that_a_truncated_file_has_lost_are_told(tmp_path: Path) -> None:
    pages = [TiffImage(full_size("u1"), PAGE), TiffImage(full_size("u1")[::-1], PAGE)]
    whole = tiff_of(pages)
    assert not warnings_of_first_page(whole, tmp_path)
    next_at = exif.parse(whole).chain[0].next_at
    cut = whole[:next_at] + struct.pack("<I", len(whole) + 8) + whole[next_at + 4 :]  # as if more had followed
    assert "images behind its last directory" in warnings_of_first_page(cut, tmp_path)


def warnings_of_first_page(content: bytes, folder: Path) -> str:
    """Warnings."""
    (folder / "pages.tif").write_bytes(content)
    return " ".join(next(iter(read_pages(folder / "pages.tif"))).metadata.warnings)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_lost_bits_of_a_cmyk_file_are_told(dtype: str, tmp_path: Path) -> None:
    inks = np.concatenate([full_size(dtype), np.zeros_like(full_size(dtype)[..., :1])], axis=-1)
    photo = read(tiff_of([TiffImage(inks, {262: ("H", 5)})]), tmp_path)
    assert photo.pixels.shape == (90, 120, 3) and photo.pixels.dtype == np.uint8
    assert ("16 bits per channel were reduced to 8" in warnings_of(photo)) == (dtype == "u2")


def test_tags_of_the_first_directory_are_kept_for_a_photo_that_has_none(tmp_path: Path) -> None:
    """Camera makers put the description beside the preview, and the photo into a SubIFD without any."""
    description = {**REDUCED, 271: ("s", b"Kodak\0"), 274: ("H", 6), 700: ("s", b"<x:xmpmeta/>"), 282: ("I", 9)}
    described = TiffImage(preview("u1"), description, [TiffImage(full_size("u1"), {272: ("s", b"Scanner\0")})])
    photo = read(tiff_of([described]), tmp_path)
    np.testing.assert_array_equal(photo.pixels, np.rot90(full_size("u1"), -1))
    assert photo.metadata.orientation == 6 and photo.metadata.xmp == b"<x:xmpmeta/>"
    assert photo.metadata.exif is not None
    assert b"Kodak" in photo.metadata.exif and b"Scanner" in photo.metadata.exif
    both = [
        TiffImage(preview("u1"), {**REDUCED, 271: ("s", b"wrong\0")}),
        TiffImage(full_size("u1"), {271: ("s", b"right\0")}),
    ]
    exif = read(tiff_of(both), tmp_path).metadata.exif
    assert exif is not None and b"right" in exif and b"wrong" not in exif


def test_camera_raw_files_are_refused_by_name_whatever_their_suffix(tmp_path: Path) -> None:
    raw = TiffImage(full_size("u2")[..., 0], {262: ("H", 32803)})
    for images in (
        [raw],
        [TiffImage(preview("u1"), REDUCED, [raw])],
        [TiffImage(preview("u1"), {50706: ("B", [1, 4, 0, 0])})],
    ):
        (tmp_path / "photo.tif").write_bytes(tiff_of(images))
        with pytest.raises(UnsupportedPhotoError, match=r"a camera raw file, such as .*\. Develop .* example\.$"):
            read_photo(tmp_path / "photo.tif")


# --- channels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [NOISE, DEEP], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("extra", [None, 0])
def test_a_fourth_sample_without_meaning_is_not_transparency(
    extra: int | None, planar: bool, order: str, levels: np.ndarray, tmp_path: Path
) -> None:
    photo = read(tiff(levels, order, planar=planar, extra=extra), tmp_path)
    np.testing.assert_array_equal(photo.pixels, levels[..., :3])
    assert photo.alpha is None and "no stated meaning (film scanners store infrared" in warnings_of(photo)
    stated = read(tiff(levels, order, planar=planar, extra=2), tmp_path)
    np.testing.assert_array_equal(stated.alpha, levels[..., 3])
    assert "channel" not in warnings_of(stated)


@pytest.mark.parametrize("levels", [NOISE, DEEP], ids=["8 bit", "16 bit"])
def test_a_second_sample_of_a_gray_tiff_is_transparency_only_where_it_says_so(
    levels: np.ndarray, tmp_path: Path
) -> None:
    photo = read(tiff(levels[..., [0, 3]], photometric=1), tmp_path)
    assert photo.alpha is None and photo.gray and "extra channels were not copied" in warnings_of(photo)
    np.testing.assert_array_equal(photo.pixels[..., 0], levels[..., 0])
    stated = read(tiff(levels[..., [0, 3]], photometric=1, extra=2), tmp_path)
    np.testing.assert_array_equal(stated.alpha, levels[..., 3])


def test_an_infrared_channel_behind_jpeg_compression_is_not_transparency(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.dstack([ramp(), ramp()[..., 0]])).save(stream, "TIFF", compression="tiff_lzw")
    content = bytearray(stream.getvalue())
    at = content.index(b"\x52\x01\x03\0\1\0\0\0\2\0")  # ExtraSamples becomes an unknown tag
    content[at : at + 2] = b"\x53\x02"
    photo = read(bytes(content), tmp_path)
    np.testing.assert_array_equal(photo.pixels, ramp())
    assert photo.alpha is None


# --- old scanners ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("counts", [None, 0, 4_000_000])
def test_strip_sizes_that_are_missing_or_wrong_are_computed(
    counts: int | None, order: str, dtype: str, tmp_path: Path
) -> None:
    image = TiffImage(full_size(dtype), {279: ("I", counts)})
    np.testing.assert_array_equal(read(tiff_of([image], order), tmp_path).pixels, full_size(dtype))


def test_strip_sizes_of_several_compressed_strips_are_computed(tmp_path: Path) -> None:
    whole = tiff(DEEP[..., :3], deflate=True)
    unknown = whole.replace(b"\x17\x01\x04\0", b"\x18\x09\x04\0")  # StripByteCounts becomes an unknown tag
    assert whole != unknown
    np.testing.assert_array_equal(read(unknown, tmp_path).pixels, DEEP[..., :3])


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_a_truncated_tiff_is_refused_and_read_as_far_as_it_goes_on_request(dtype: str, tmp_path: Path) -> None:
    """Its directory first and its pixels behind it, as some scanners write."""
    levels = full_size(dtype)
    content = tiff_of([TiffImage(levels)])
    directory = int.from_bytes(content[4:8], "little")
    moved = bytearray(content[:4] + (8).to_bytes(4, "little") + content[directory:])
    values = content[8 + levels.nbytes : directory]  # BitsPerSample
    moved += values + levels.tobytes()
    start = len(moved) - levels.nbytes
    for at in range(10, 10 + 12 * 9, 12):
        tag = int.from_bytes(moved[at : at + 2], "little")
        if tag == 258:
            moved[at + 8 : at + 12] = (start - len(values)).to_bytes(4, "little")
        if tag == 273:
            moved[at + 8 : at + 12] = start.to_bytes(4, "little")
    np.testing.assert_array_equal(read(bytes(moved), tmp_path).pixels, levels)
    cut = bytes(moved[: start + levels[:60].nbytes + 5])
    with pytest.raises(UnreadablePhotoError, match="30 of its 90 rows are missing"):
        read(cut, tmp_path)
    photo = read(cut, tmp_path, accept_truncated=True)
    np.testing.assert_array_equal(photo.pixels[:60], levels[:60])
    assert "30 of its 90 rows are missing" in warnings_of(photo)


@pytest.mark.parametrize(("code", "name"), [(50001, "WebP"), (34712, "JPEG 2000"), (34887, "LERC")])
def test_a_compression_that_is_not_read_is_named(code: int, name: str, tmp_path: Path) -> None:
    (tmp_path / "photo.tif").write_bytes(tiff_of([TiffImage(full_size("u1"), {259: ("H", code)})]))
    with pytest.raises(UnsupportedPhotoError, match=f"TIFF with {name} compression is not supported"):
        read_photo(tmp_path / "photo.tif")


# --- L*a*b* ------------------------------------------------------------------------------------------------------


def lab_patches() -> np.ndarray:
    """L*, a* and b* of colors within sRGB, as ICC's 8-bit encoding rounds them; the first row is gray."""
    lightness, angle = np.meshgrid(np.linspace(15, 92, 12), np.linspace(0, 2 * np.pi, 10))
    radius = np.where(np.arange(10)[:, None] == 0, 0, 18)
    lab = np.dstack([lightness, radius * np.cos(angle), radius * np.sin(angle)])
    stored = np.rint(np.dstack([lab[..., 0] * 2.55, lab[..., 1] + 128, lab[..., 2] + 128]))
    return np.dstack([stored[..., 0] / 2.55, stored[..., 1] - 128, stored[..., 2] - 128])


def stored_lab(photometric: int, dtype: str) -> np.ndarray:
    lab = lab_patches()
    step = 256 if dtype == "u2" else 1
    full = {(8, "u1"): 255, (9, "u1"): 255, (8, "u2"): 65535, (9, "u2"): 65280}[photometric, dtype]
    colors = lab[..., 1:] * step + (128 * step if photometric == 9 else 0)
    return np.rint(np.dstack([lab[..., 0] * full / 100, colors])).astype(np.int64).astype(dtype)


@pytest.mark.parametrize("photometric", [8, 9])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_lab_is_converted_to_srgb_as_little_cms_does(photometric: int, dtype: str, order: str, tmp_path: Path) -> None:
    levels = stored_lab(photometric, dtype)
    photo = read(tiff(levels, order, photometric), tmp_path)
    encoded = stored_lab(8, "u1")  # Pillow reads raw LAB with signed a* and b*
    transform = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"),
        ImageCms.createProfile("sRGB"),
        "LAB",
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.NOOPTIMIZE,  # without an interpolated table
    )
    image = Image.frombytes("LAB", (12, 10), encoded.tobytes())
    expected = np.asarray(ImageCms.applyTransform(image, transform)).astype(float)
    found = photo.pixels / (257 if dtype == "u2" else 1)
    assert photo.pixels.dtype == np.dtype(dtype)
    assert np.abs(found - expected).max() <= 1.6
    assert np.ptp(photo.pixels[0].astype(int), axis=-1).max() <= (160 if dtype == "u2" else 1)  # gray stays gray
    assert "Lab colors were converted to sRGB" in warnings_of(photo)
