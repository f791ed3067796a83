"""Formats beside the usual ones, and files whose names say nothing or something wrong."""

from __future__ import annotations

import importlib.util
import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, features
from samples import IPTC, NOISE, XMP, exif_block, psd, ramp

from gfprestore.batch.folders import Plan, plan_photos
from gfprestore.errors import PhotoError, UnreadablePhotoError, UnsupportedPhotoError
from gfprestore.photo.kinds import image_kind
from gfprestore.photo.photo import PHOTO_SUFFIXES, READABLE_KINDS, Photo
from gfprestore.photo.reading import photo_size, read_photo
from gfprestore.photo.writing import output_suffix, write_photo

needs_jpeg2000 = pytest.mark.skipif(not features.check("jpg_2000"), reason="Pillow without OpenJPEG")


def read(content: bytes, path: Path, **options: bool) -> Photo:
    path.write_bytes(content)
    photo = read_photo(path, **options)
    assert photo_size(path) == (photo.pixels.shape[1], photo.pixels.shape[0])
    assert output_suffix(path) == ".png"
    write_photo(photo, path.with_name("written.png"))
    written = read_photo(path.with_name("written.png"))
    if photo.metadata.icc is None:
        np.testing.assert_array_equal(written.pixels, photo.pixels)
    return photo


def refusal(content: bytes, path: Path) -> str:
    path.write_bytes(content)
    with pytest.raises(PhotoError) as caught:
        read_photo(path)
    return str(caught.value)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


# --- PNM ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("white", [255, 100, 65535, 1023])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("colors", [1, 3])
def test_pnm_of_every_scale_keeps_its_depth(colors: int, plain: bool, white: int, tmp_path: Path) -> None:
    levels = np.random.default_rng(1).integers(0, white + 1, (11, 7, colors))
    number = {(1, True): 2, (3, True): 3, (1, False): 5, (3, False): 6}[colors, plain]
    head = f"P{number}\n# a comment 3 4\n7 # another\n11\n{white}\n".encode()
    body = (
        " ".join(map(str, levels.ravel())).encode()
        if plain
        else levels.astype(">u2" if white > 255 else "u1").tobytes()
    )
    photo = read(head + body, tmp_path / "scan.pnm")
    full = 65535 if white > 255 else 255
    assert photo.pixels.dtype == (np.uint16 if white > 255 else np.uint8) and photo.gray == (colors == 1)
    assert np.abs(photo.pixels[..., :colors] - levels * (full / white)).max() <= 1


@pytest.mark.parametrize("plain", [False, True])
def test_pbm_is_black_and_white(plain: bool, tmp_path: Path) -> None:
    ink = NOISE[:5, :16, 0] > 127
    body = (
        " ".join("01"[bit] for bit in ink.ravel().astype(int)).encode() if plain else np.packbits(ink, axis=1).tobytes()
    )
    photo = read((b"P1" if plain else b"P4") + b"\n16 5\n" + body, tmp_path / "scan.pbm")
    np.testing.assert_array_equal(photo.pixels[..., 0], np.where(ink, 0, 255))


@pytest.mark.parametrize("white", [255, 65535])
def test_a_truncated_pnm_is_refused_and_read_as_far_as_it_goes_on_request(white: int, tmp_path: Path) -> None:
    levels = np.random.default_rng(1).integers(0, white, (30, 20, 3))
    stored = levels.astype(">u2" if white > 255 else "u1")
    cut = b"P6 20 30 %d\n" % white + stored.tobytes()[: stored[:21].nbytes + 5]
    assert "9 of its 30 rows are missing" in refusal(cut, tmp_path / "a.ppm")
    photo = read(cut, tmp_path / "a.ppm", accept_truncated=True)
    np.testing.assert_array_equal(photo.pixels[:21], levels[:21])
    assert "9 of its 30 rows" in " ".join(photo.metadata.warnings)


# --- JPEG 2000 ---------------------------------------------------------------------------------------------------


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, name) + content


@needs_jpeg2000
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("suffix", [".jp2", ".j2k"])
def test_jpeg_2000_of_every_mode(suffix: str, mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(NOISE).convert(mode)
    content = saved(image, "JPEG2000", no_jp2=suffix == ".j2k", irreversible=False)
    photo = read(content, tmp_path / f"scan{suffix}")
    levels = np.asarray(image).reshape(37, 53, -1)
    colors = 1 if mode[0] == "L" else 3
    np.testing.assert_array_equal(photo.pixels[..., :colors], levels[..., :colors])
    if suffix == ".jp2" or mode in ("L", "RGB"):
        assert (photo.alpha is not None) == mode.endswith("A")


@needs_jpeg2000
def test_jpeg_2000_keeps_its_16_bits(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    levels = np.random.default_rng(2).integers(0, 65536, (64, 80), dtype=np.uint16)
    photo = read(saved(Image.fromarray(levels), "JPEG2000", irreversible=False), tmp_path / "a.jp2")
    np.testing.assert_array_equal(photo.pixels[..., 1], levels)
    color = np.random.default_rng(3).integers(0, 65536, (64, 80, 3), dtype=np.uint16)
    encoded, content = cv2.imencode(".jp2", color[..., ::-1], [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])
    if encoded:
        np.testing.assert_array_equal(read(content.tobytes(), tmp_path / "b.jp2").pixels, color)
    assert "OpenJPEG" not in capfd.readouterr().err


@needs_jpeg2000
def test_jpeg_2000_keeps_its_metadata(tmp_path: Path) -> None:
    """Boxes after ISO/IEC 15444-1 annex I: ICC, resolution, and XMP, EXIF and IPTC in UUID boxes."""
    content = saved(Image.fromarray(ramp()), "JPEG2000", irreversible=False)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    color = content.index(b"colr") - 4
    length = struct.unpack(">I", content[color : color + 4])[0]
    resolution = box(b"res ", box(b"resd", struct.pack(">HHHHbb", 15000, 254, 30000, 254, 2, 2)))
    inside = content[:color] + box(b"colr", b"\2\0\0" + profile) + resolution
    grown = len(inside) - color - length
    header = content.index(b"jp2h") - 4
    inside = (
        inside[:header]
        + struct.pack(">I", struct.unpack(">I", content[header : header + 4])[0] + grown)
        + inside[header + 4 :]
    )
    uuids = {
        "BE7ACFCB97A942E89C71999491E3AFAC": XMP,
        b"JpgTiffExif->JP2".hex(): exif_block(1),
        "33C7A4D2B81D4723A0BAF1A3E097AD38": IPTC,
    }
    tail = b"".join(box(b"uuid", bytes.fromhex(name) + data) for name, data in uuids.items())
    codestream = content.index(b"jp2c") - 4
    whole = inside + content[color + length : codestream] + tail + content[codestream:]
    found = read(whole, tmp_path / "a.jp2").metadata
    assert found.icc == profile and found.xmp == XMP and found.iptc == IPTC
    assert found.exif is not None and b"Kodak" in found.exif
    assert found.dpi is not None and np.allclose(found.dpi, (30000 / 254 * 100 * 0.0254, 15000 / 254 * 100 * 0.0254))


# --- Targa and BMP -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "tga_rle"])
@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA"])
def test_targa_of_every_mode(mode: str, compression: str | None, tmp_path: Path) -> None:
    image = Image.fromarray(NOISE).convert("RGB").quantize(16) if mode == "P" else Image.fromarray(NOISE).convert(mode)
    photo = read(saved(image, "TGA", compression=compression), tmp_path / "scan.tga")
    expected = np.asarray(image.convert("RGBA"))
    np.testing.assert_array_equal(photo.pixels, expected[..., :3])
    assert (photo.alpha is not None) == mode.endswith("A")


@pytest.mark.parametrize(("format", "suffix"), [("TGA", ".tga"), ("BMP", ".bmp")])
@pytest.mark.parametrize("level", [0, 255, None])
def test_alpha_that_is_0_everywhere_is_opaque(level: int | None, format: str, suffix: str, tmp_path: Path) -> None:
    """32-bit files of programs that leave the fourth byte unused, and files with true alpha."""
    image = NOISE.copy()
    if level is not None:
        image[..., 3] = level
    if format == "TGA":
        content = saved(Image.fromarray(image), "TGA")
    else:
        masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
        rows = image[::-1, :, [2, 1, 0, 3]].tobytes()
        header = (
            struct.pack("<IiiHHIIiiII", 108, 53, 37, 1, 32, 3, len(rows), 2835, 2835, 0, 0)
            + masks
            + b"BGRs"
            + bytes(48)
        )
        content = b"BM" + struct.pack("<IHHI", 14 + len(header) + len(rows), 0, 0, 14 + len(header)) + header + rows
    photo = read(content, tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(photo.pixels, image[..., :3])
    if level == 0:
        assert photo.alpha is None
    else:
        np.testing.assert_array_equal(photo.alpha, image[..., 3])


# --- Photoshop ---------------------------------------------------------------------------------------------------


def test_photoshop_files_are_read_flattened_with_their_metadata(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    resolution = struct.pack(">IHHIHH", 300 << 16, 1, 1, 150 << 16, 1, 1)
    parts = (
        (1005, resolution),
        (1028, IPTC),
        (1039, profile),
        (1058, exif_block(1)),
        (1060, XMP),
        (1057, b"\0\0\0\1\1"),
    )
    photo = read(psd(NOISE[..., :3], resources=parts), tmp_path / "a.psd")
    np.testing.assert_array_equal(photo.pixels, NOISE[..., :3])
    found = photo.metadata
    assert found.icc == profile and found.dpi == (300, 150)
    assert found.xmp is not None and b"Somebody" in found.xmp
    assert found.photoshop is not None and IPTC in found.photoshop and profile not in found.photoshop
    assert found.exif is not None and b"Kodak" in found.exif and "flattened" not in " ".join(found.warnings)
    gray = read(psd(NOISE[..., :1]), tmp_path / "gray.psd")
    assert gray.gray and (gray.pixels[..., 2] == NOISE[..., 0]).all()


def test_a_fourth_channel_of_photoshop_is_transparency_only_with_layers_that_say_so(tmp_path: Path) -> None:
    saved_selection = read(psd(NOISE), tmp_path / "a.psd")
    assert saved_selection.alpha is None and "extra channels were not copied" in " ".join(
        saved_selection.metadata.warnings
    )
    straight = NOISE.copy()
    straight[..., 3] |= 0x80
    share = straight[..., 3:] / 255
    blended = np.rint(255 - (255 - straight[..., :3]) * share)  # Photoshop blends the flattened image with white
    photo = read(psd(np.dstack([blended, straight[..., 3]]).astype(np.uint8), layers=-1), tmp_path / "b.psd")
    np.testing.assert_array_equal(photo.alpha, straight[..., 3])
    assert np.abs(photo.pixels.astype(int) - straight[..., :3]).max() <= 2
    assert "flattened" in " ".join(photo.metadata.warnings)


def test_photoshop_files_that_cannot_be_read_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.psd"
    assert "maximized compatibility" in refusal(psd(NOISE[..., :3], resources=((1057, b"\0\0\0\1\0"),)), path)
    assert "16 bits per channel" in refusal(psd(NOISE[..., :3], depth=16), path)
    assert "PSB" in refusal(psd(NOISE[..., :3], version=2), path)


# --- recognition -------------------------------------------------------------------------------------------------


def plan_of(folder: Path) -> Plan:
    (folder / "certainly.png").write_bytes(saved(Image.fromarray(ramp()), "PNG"))
    return plan_photos([folder], None, suffixes=PHOTO_SUFFIXES, rename=output_suffix, kinds=READABLE_KINDS)


@pytest.mark.parametrize("name", ["nosuffix", "IMG_0001(1)", "photo.dat", "photo.jp", "scan.001", "Ein Bild.jpeg.2"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "PPM"])
def test_photos_are_recognized_by_their_content(format: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "in" / name
    path.parent.mkdir()
    path.write_bytes(saved(Image.fromarray(ramp()), format))
    task = next(task for task in plan_of(path.parent).tasks if task.source == path)
    assert task.output.suffix == {"JPEG": ".jpg", "TIFF": ".tif"}.get(format, ".png")
    assert read_photo(path).pixels.shape == (90, 120, 3)


@pytest.mark.parametrize(
    ("head", "name", "kind", "advice"),
    [
        (b"II*\0\x10\0\0\0CR\2\0", "a.cr2", "camera raw", "darktable"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a", "camera raw", "darktable"),
        (b"MM\0*\0\0\0\x08", "a.nef", "camera raw", "RawTherapee"),
        (b"II*\0\x08\0\0\0", "a.DNG", "camera raw", "darktable"),
        (b"FUJIFILMCCD-RAW 0201", "a.jpg.raf", "camera raw", "darktable"),
        (b"\xff\x0a\xfa\x7f", "a.jxl", "JPEG XL", "djxl"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a", "JPEG XL", "djxl"),
        (b"gimp xcf v011", "a.xcf", "GIMP", "TIFF or PNG"),
        (b"P7\nWIDTH 2\n", "a.pam", "PAM", "TIFF or PNG"),
    ],
)
def test_files_that_are_not_read_are_named_with_what_to_do(
    head: bytes, name: str, kind: str, advice: str, tmp_path: Path
) -> None:
    path = tmp_path / "in" / name
    path.parent.mkdir()
    path.write_bytes(head + bytes(600))
    skipped = next(entry for entry in plan_of(path.parent).skipped if entry.path == path)
    assert skipped.kind == kind and advice in skipped.described
    with pytest.raises(UnsupportedPhotoError) as caught:
        read_photo(path)
    assert kind in str(caught.value) and advice in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is not None, reason="HEIC is read here")
def test_heic_names_the_extra_that_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "in" / "IMG_2.HEIC"
    path.parent.mkdir()
    content = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(300)
    path.write_bytes(content)
    assert "gfprestore[heif]" in next(entry for entry in plan_of(path.parent).skipped if entry.path == path).described
    assert "gfprestore[heif]" in refusal(content, path)


@pytest.mark.parametrize(
    "content", [b"", b"BMW is a car", b"P6 is a paper size", b"GIF", bytes(600), b"\0\0\0\x20ftypisom\0\0\2\0"]
)
def test_other_files_are_not_taken_for_photos(content: bytes, tmp_path: Path) -> None:
    for name in ("a", "a.dat", "a.txt"):
        (tmp_path / name).write_bytes(content)
    assert image_kind(content) is None
    plan = plan_of(tmp_path)
    assert [task.source.name for task in plan.tasks] == ["certainly.png"]
    assert {entry.reason for entry in plan.skipped} == {"not an image"}
    with pytest.raises(UnreadablePhotoError):
        read_photo(tmp_path / "a")


@pytest.mark.parametrize("name", ["a.jpg_original", "a.jpg~", "a.jpg.bak", "a.jpg.crdownload"])
def test_backups_and_unfinished_copies_are_left_out_with_a_word(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(saved(Image.fromarray(ramp()), "JPEG"))
    skipped = plan_of(tmp_path).skipped
    assert [(entry.reason, entry.kind) for entry in skipped] == [("a backup or an unfinished copy", "JPEG")]
