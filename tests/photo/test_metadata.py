"""What a file holds beside its pixels, through a change of size and of format; told by other readers."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import piexif
import pytest
from PIL import Image, PngImagePlugin, features
from samples import IPTC, MAKER_NOTE, XMP, exif_block, jpeg_segment, ramp, resources, write_source

from gfprestore.photo import exif
from gfprestore.photo.reading import read_photo
from gfprestore.photo.writing import write_photo

needs_exiftool = pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")


def enlarged(source: Path, output: Path, factor: int = 2) -> tuple[str, ...]:
    photo = read_photo(source)
    pixels = cv2.resize(photo.pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    return write_photo(replace(photo, pixels=pixels), output)


def exiftool(path: Path) -> dict[str, Any]:
    command = ["exiftool", "-json", "-n", "-a", "-G1", "-u", "-U", "-b", str(path)]
    result: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]
    return result


FORMATS = [".jpg", ".png", ".tif", *[f".{name}" for name in ("webp", "avif") if features.check(name)]]
if importlib.util.find_spec("pillow_heif") is not None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    FORMATS.append(".heic")


@pytest.mark.parametrize("target", FORMATS)
def test_resolution_survives_where_the_source_has_no_exif(target: str, tmp_path: Path) -> None:
    source, output = tmp_path / "source.jpg", tmp_path / f"output{target}"
    Image.fromarray(ramp(90, 120)).save(source, dpi=(300, 200))
    assert enlarged(source, output) == ()
    with Image.open(output) as image:
        found = dict(zip((282, 283), image.info.get("dpi", ()), strict=False)) | dict(image.getexif())
    assert [round(float(found[tag])) for tag in (282, 283)] == [600, 400]
    if target in (".webp", ".avif", ".heic"):
        assert found[296] == 2  # inches


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("origin", FORMATS)
def test_exif_of_every_directory_survives_a_change_of_size_and_format(origin: str, target: str, tmp_path: Path) -> None:
    output = tmp_path / f"output{target}"
    enlarged(write_source(tmp_path / f"source{origin}"), output)
    with Image.open(output) as image:
        found = image.getexif()
        details, position, interoperability = (found.get_ifd(tag) for tag in (0x8769, 0x8825, 0xA005))
        size = image.size
    assert size == (180, 240)  # upright and twice as large
    assert found.get(0x0112, 1) == 1
    assert found[271].strip("\0") == "Kodak"
    if origin != ".heic":  # its reader turns the image by itself, and leaves these two as they are
        assert (float(found[282]), float(found[283])) == (300, 600)  # turned, then doubled: the print size stays
    assert details[36867].strip("\0") == "1999:01:02 03:04:05"
    assert bytes(details[37500]) == MAKER_NOTE
    assert (details[40962], details[40963]) == (180, 240)
    assert [float(value) for value in position[2]] == [48, 51, 30]
    if origin != ".tif":  # Pillow cannot write this directory into the TIFF
        assert interoperability[1].strip("\0") == "R98"


@needs_exiftool
@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("origin", FORMATS)
def test_exiftool_finds_no_fault_and_all_metadata(origin: str, target: str, tmp_path: Path) -> None:
    output = tmp_path / f"output{target}"
    notes = " ".join(enlarged(write_source(tmp_path / f"source{origin}"), output))
    found = exiftool(output)
    assert not [key for key in found if key.endswith((":Error", ":Warning"))]
    assert found["Composite:ImageSize"] == "180 240"
    assert found["IFD0:Make"] == "Kodak"
    assert found["GPS:GPSLatitude"] == pytest.approx(48 + 51 / 60 + 30 / 3600)
    assert found["XMP-dc:Creator"] == "Somebody"
    assert found.get("XMP-tiff:Orientation", 1) == 1  # the reader of HEIC takes it out
    assert found["XMP-exif:ExifImageWidth"] == 180
    assert found["XMP-exif:ExifImageHeight"] == 240
    assert found["XMP-tiff:XResolution"] == 600
    if origin in (".jpg", ".tif"):
        assert found.get("IPTC:Caption-Abstract") == "Hello world" or "IPTC" in notes
    if origin in (".jpg", ".png"):
        texts = [found.get(key) for key in ("File:Comment", "PNG:Comment", "IFD0:ImageDescription")]
        assert "a comment" in texts or "comments" in notes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_comes_out_as_a_viewer_shows_it(orientation: int, tmp_path: Path) -> None:
    from PIL import ImageOps

    source = tmp_path / "source.png"
    Image.fromarray(ramp()).save(source, exif=b"Exif\0\0" + exif_block(orientation))
    with Image.open(source) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    photo = read_photo(source)
    np.testing.assert_array_equal(photo.pixels, expected)
    assert photo.metadata.orientation == orientation
    write_photo(photo, tmp_path / "output.png")
    with Image.open(tmp_path / "output.png") as image:
        np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(image)), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_subject_area_turns_with_the_image(orientation: int, tmp_path: Path) -> None:
    from PIL import ImageOps

    mark = np.zeros((90, 120), np.uint8)
    mark[20, 30] = 255  # the subject of exif_block is at x 30, y 20, 10 wide and 6 high
    block = exif_block(orientation)
    Image.fromarray(mark).save(tmp_path / "source.png", exif=b"Exif\0\0" + block)
    with Image.open(tmp_path / "source.png") as image:
        y, x = np.argwhere(np.asarray(ImageOps.exif_transpose(image)))[0]
    area = piexif.load(b"Exif\0\0" + exif.upright(block, 120, 90))["Exif"][37396]
    assert area == (x, y, *((10, 6) if orientation < 5 else (6, 10)))


def test_the_thumbnail_shows_the_new_image(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source.jpg")
    photo = read_photo(source)
    blue = np.zeros((240, 180, 3), np.uint8)
    blue[..., 2] = 255
    write_photo(replace(photo, pixels=blue), tmp_path / "output.jpg")
    found = piexif.load(str(tmp_path / "output.jpg"))
    with Image.open(io.BytesIO(found["thumbnail"])) as thumbnail:
        assert thumbnail.size == (120, 160)
        assert np.abs(np.asarray(thumbnail).astype(int) - (0, 0, 255)).max() <= 3
    assert found["1st"][274] == 1


def test_a_thumbnail_stored_uncompressed_becomes_a_jpeg() -> None:
    fields = [exif.Field(271, exif.ASCII, 6, b"Kodak\0")]
    first = exif.block_of(fields, ">")
    strips = [exif.Field(0x0103, exif.SHORT, 1, b"\0\1"), exif.Field(0x0111, exif.LONG, 1, bytes(4))]
    block = bytearray(first + exif.serialize(strips, ">", len(first)))
    block[8 + 2 + 12 : 8 + 2 + 12 + 4] = struct.pack(">I", len(first))
    small = io.BytesIO()
    Image.new("RGB", (16, 12), (0, 200, 0)).save(small, "JPEG")
    found = piexif.load(b"Exif\0\0" + exif.with_thumbnail(bytes(block), small.getvalue()))
    assert found["thumbnail"] == small.getvalue()
    assert found["0th"][271] == b"Kodak"


@pytest.mark.parametrize("quality", [30, 95])
def test_a_thumbnail_of_any_size_replaces_the_old_one(quality: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    small = io.BytesIO()
    Image.fromarray(noise).save(small, "JPEG", quality=quality)
    block = exif_block()
    changed = exif.with_thumbnail(block, small.getvalue())
    found = piexif.load(b"Exif\0\0" + changed)
    assert found["thumbnail"] == small.getvalue()
    assert found["Exif"][37500] == MAKER_NOTE


def test_no_byte_outside_of_the_changed_tags_moves(tmp_path: Path) -> None:
    block = exif_block(thumbnail=False)
    changed = exif.resized(exif.upright(block, 120, 90), 180, 240, (2, 2))
    assert len(changed) == len(block)
    assert changed.index(MAKER_NOTE) == block.index(MAKER_NOTE)
    different = sum(a != b for a, b in zip(block, changed, strict=True))
    assert 0 < different < 30


def test_a_side_too_long_for_a_short_becomes_a_long() -> None:
    block = exif.block_of([exif.Field(0x0100, exif.SHORT, 1, struct.pack("<H", 120))], "<")
    structure = exif.parse(exif.resized(block, 70_000, 90, (1, 1)))
    assert structure.integer(structure.chain[0], 0x0100) == 70_000


def test_a_sensor_size_told_by_a_denominator_is_kept() -> None:
    canon = struct.pack("<II", 640_000, 206)
    block = piexif.dump({"Exif": {0xA20E: struct.unpack("<II", canon), 40962: 640}})[6:]
    found = piexif.load(b"Exif\0\0" + exif.resized(bytes(block), 1280, 960, (2, 2)))
    assert found["Exif"][0xA20E] == (1_280_000, 206)


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "no header": lambda block: b"XX" + block[2:],
    "first directory beyond the end": lambda block: block[:4] + b"\xff\xff\xff\x7f" + block[8:],
    "empty": lambda block: b"",
    "four bytes": lambda block: block[:4],
    "noise": lambda block: bytes(np.random.default_rng(1).integers(0, 256, 500, dtype=np.uint8)),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_exif_that_cannot_be_understood_is_kept_byte_for_byte_with_a_warning(kind: str, tmp_path: Path) -> None:
    broken = BROKEN[kind](exif_block())
    segment = jpeg_segment(0xE1, b"Exif\0\0" + broken)
    Image.fromarray(ramp()).save(tmp_path / "source.jpg", extra=segment)
    photo = read_photo(tmp_path / "source.jpg")
    assert any("EXIF" in warning for warning in photo.metadata.warnings)
    write_photo(photo, tmp_path / "output.jpg")
    assert segment in (tmp_path / "output.jpg").read_bytes()


def test_exif_with_wrong_types_and_offsets_is_corrected_where_it_can_be(tmp_path: Path) -> None:
    block = exif_block(thumbnail=False)
    structure = exif.parse(block)
    maker = structure.children[0].find(37500)
    make = structure.chain[0].find(271)
    assert maker is not None and make is not None
    broken = bytearray(block)
    broken[maker.at + 8 : maker.at + 12] = b"\x7f\xff\xff\xff"  # an offset far outside
    broken[make.at + 2 : make.at + 4] = b"\0\x63"  # a type that does not exist
    with pytest.raises(Exception, match=r".*"):
        piexif.load(b"Exif\0\0" + bytes(broken))
    Image.fromarray(ramp()).save(tmp_path / "source.jpg", extra=jpeg_segment(0xE1, b"Exif\0\0" + bytes(broken)))
    photo = read_photo(tmp_path / "source.jpg")
    assert photo.pixels.shape == (120, 90, 3)
    write_photo(photo, tmp_path / "output.jpg")
    with Image.open(tmp_path / "output.jpg") as image:
        assert image.getexif().get(0x0112) == 1
    assert MAKER_NOTE in (tmp_path / "output.jpg").read_bytes()


def test_directories_that_point_at_themselves_end() -> None:
    block = bytearray(exif_block(thumbnail=False))
    structure = exif.parse(bytes(block))
    first = structure.chain[0]
    block[first.next_at : first.next_at + 4] = struct.pack(f"{structure.order}I", first.offset)
    pointer = first.find(exif.EXIF_POINTER)
    assert pointer is not None and pointer.value is not None
    block[pointer.value : pointer.value + 4] = struct.pack(f"{structure.order}I", first.offset)
    assert len(exif.parse(bytes(block)).chain) == 1


@pytest.mark.parametrize("size", [60_000, 65_400, 200_000])
def test_an_icc_profile_of_any_size_is_kept(size: int, tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile += np.random.default_rng(2).bytes(size)
    profile = struct.pack(">I", len(profile)) + profile[4:]
    Image.fromarray(ramp()).save(tmp_path / "source.png", icc_profile=profile)
    for suffix in FORMATS:
        write_photo(read_photo(tmp_path / "source.png"), tmp_path / f"output{suffix}")
        with Image.open(tmp_path / f"output{suffix}") as image:
            assert image.info["icc_profile"] == profile


@needs_exiftool
def test_xmp_too_large_for_one_jpeg_segment_is_split(tmp_path: Path) -> None:
    description = b"<dc:description><rdf:Alt><rdf:li xml:lang='x-default'>" + b"long " * 30_000 + b"</rdf:li></rdf:Alt>"
    large = XMP.replace(b"<dc:creator>", description + b"</dc:description><dc:creator>")
    Image.fromarray(ramp()).save(tmp_path / "source.webp", xmp=large)
    write_photo(read_photo(tmp_path / "source.webp"), tmp_path / "output.jpg")
    found = exiftool(tmp_path / "output.jpg")
    assert found["XMP-dc:Description"].startswith("long long")
    assert len(found["XMP-dc:Description"]) > 149_000
    assert found["XMP-dc:Creator"] == "Somebody"


def test_exif_too_large_for_a_jpeg_keeps_all_but_the_largest_tag_and_says_so(tmp_path: Path) -> None:
    block = exif.block_of(
        [exif.Field(271, exif.ASCII, 6, b"Kodak\0"), exif.Field(50341, exif.UNDEFINED, 90_000, bytes(90_000))], "<"
    )
    Image.fromarray(ramp()).save(tmp_path / "source.png", exif=b"Exif\0\0" + block)
    notes = write_photo(read_photo(tmp_path / "source.png"), tmp_path / "output.jpg")
    assert any("0xc4a5" in note for note in notes)
    with Image.open(tmp_path / "output.jpg") as image:
        assert image.getexif()[271] == "Kodak"


def test_other_segments_of_a_jpeg_are_kept_and_those_of_the_old_pixels_named(tmp_path: Path) -> None:
    ours = jpeg_segment(0xE4, b"Kept by its maker") + jpeg_segment(0xFE, b"latin \xe9")
    old = jpeg_segment(0xE2, b"MPF\0" + bytes(20)) + jpeg_segment(0xEB, b"JP" + bytes(20))
    Image.fromarray(ramp()).save(tmp_path / "source.jpg", extra=ours + old)
    with (tmp_path / "source.jpg").open("ab") as stream:
        stream.write(b"a clip follows")
    photo = read_photo(tmp_path / "source.jpg")
    assert "MPF" in " ".join(photo.metadata.warnings)
    assert "14 bytes after the image" in " ".join(photo.metadata.warnings)
    write_photo(photo, tmp_path / "output.jpg")
    written = (tmp_path / "output.jpg").read_bytes()
    assert jpeg_segment(0xE4, b"Kept by its maker") in written
    assert jpeg_segment(0xFE, b"latin \xe9") in written
    assert b"MPF\0" not in written and b"a clip" not in written


def test_photoshop_resources_follow_the_new_size(tmp_path: Path) -> None:
    resolution = struct.pack(">IHHIHH", 300 << 16, 1, 1, 300 << 16, 1, 1)
    data = resources((0x03ED, resolution), (0x040C, struct.pack(">6IHH", 1, 8, 6, 24, 144, 9, 24, 1) + b"thumbnail"))
    Image.fromarray(ramp()).save(tmp_path / "source.jpg", extra=jpeg_segment(0xED, b"Photoshop 3.0\0" + data))
    enlarged(tmp_path / "source.jpg", tmp_path / "output.jpg")
    with Image.open(tmp_path / "output.jpg") as image:
        found = image.info["photoshop"]
    assert found[0x0404] == IPTC
    assert found[0x03ED]["XResolution"] == 600
    width, height = struct.unpack(">II", found[0x040C][4:12])
    with Image.open(io.BytesIO(found[0x040C][28:])) as thumbnail:
        assert thumbnail.size == (width, height) == (160, 120)


def test_text_chunks_of_a_png_stay_as_they_are(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "Grandmother", zip=True)
    info.add_itxt("Beschreibung", "Großmutter", "de", "Beschreibung")
    info.add(b"prVt", b"private")
    Image.fromarray(ramp()).save(tmp_path / "source.png", pnginfo=info)
    enlarged(tmp_path / "source.png", tmp_path / "output.png")
    with Image.open(tmp_path / "output.png") as image:
        assert image.text == {"Title": "Grandmother", "Beschreibung": "Großmutter"}  # type: ignore[attr-defined]
    assert b"prVtprivate" in (tmp_path / "output.png").read_bytes()


def test_file_times_are_those_of_the_source(tmp_path: Path) -> None:
    import os

    source = write_source(tmp_path / "source.jpg")
    os.utime(source, ns=(946_684_800_000_000_000, 915_148_800_123_456_700))
    enlarged(source, tmp_path / "output.jpg")
    written = (tmp_path / "output.jpg").stat()
    assert written.st_mtime_ns // 1000 == 915_148_800_123_456
    assert written.st_atime_ns // 1000 == 946_684_800_000_000


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_the_print_size_stays(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(ramp()).save(tmp_path / f"source{suffix}", dpi=(300, 150))
    photo = read_photo(tmp_path / f"source{suffix}")
    larger = cv2.resize(photo.pixels, (300, 270))
    write_photo(replace(photo, pixels=larger), tmp_path / f"output{suffix}")
    with Image.open(tmp_path / f"output{suffix}") as image:
        assert [float(value) for value in image.info["dpi"]] == pytest.approx([750, 450], abs=0.1)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a regular exiftool")
@needs_exiftool
def test_a_maker_note_with_offsets_is_still_understood(tmp_path: Path) -> None:
    """A Canon note: exiftool follows its offsets, which are relative to the start of the EXIF block."""
    plain = piexif.dump({"0th": {271: b"Canon", 272: b"Canon EOS"}, "Exif": {37500: bytes(60)}})[6:]
    at = bytes(plain).index(bytes(60))
    text = b"Canon firmware 1.2.3\0"
    note = struct.pack(">HHHII", 1, 7, 2, len(text), at + 18) + bytes(4) + text
    block = bytes(plain).replace(bytes(60), note.ljust(60, b"\0"))
    Image.fromarray(ramp()).save(tmp_path / "source.jpg", exif=b"Exif\0\0" + block)
    for suffix in FORMATS:
        enlarged(tmp_path / "source.jpg", tmp_path / f"output{suffix}")
        assert exiftool(tmp_path / f"output{suffix}")["Canon:CanonFirmwareVersion"] == "Canon firmware 1.2.3"
