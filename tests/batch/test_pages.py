"""TIFF files of several pages: every page restored and written as a page, with its own tags."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageSequence
from samples import TiffImage, pixels_of, png_chunk, ramp, tiff_of

from gfprestore import Restoration, RunOptions
from gfprestore.batch.page_results import result_of_pages
from gfprestore.commands.app import main
from gfprestore.errors import UnsupportedPhotoError
from gfprestore.photo import exif
from gfprestore.photo.reading import read_pages, read_photo
from gfprestore.restoration.pages import RestoredPage

PLAIN = ["--restorer", "none", "--background", "none", "--upscale", "1", "--offline"]


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main(["run", *map(str, arguments)])
    return int(left.value.code or 0)


def levels(seed: int, height: int, width: int, dtype: str = "u1", channels: int = 3) -> np.ndarray:
    full = 65536 if dtype == "u2" else 256
    return np.random.default_rng(seed).integers(0, full, (height, width, channels)).astype(dtype)


def archive() -> list[TiffImage]:
    """Pages of different sizes, depths and channels, each with tags of its own."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return [
        TiffImage(
            levels(1, 40, 60), {254: ("I", 2), 285: ("s", b"recto\0"), 297: ("H", [0, 4]), 271: ("s", b"Kodak\0")}
        ),
        TiffImage(levels(2, 60, 40, "u2"), {254: ("I", 2), 285: ("s", b"verso\0"), 274: ("H", 6), 297: ("H", [1, 4])}),
        TiffImage(levels(3, 30, 30, channels=1), {285: ("s", b"note\0"), 34675: ("B", list(profile))}),
        TiffImage(levels(4, 21, 33, channels=4), {338: ("H", 2), 700: ("B", list(b"<x:xmpmeta/>"))}),
    ]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_every_page_is_written_as_a_page_with_its_own_tags(big: bool, order: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "archive.tif").write_bytes(tiff_of(archive(), order, big))
    assert run(tmp_path / "in", "-o", tmp_path / "out", *PLAIN) == 0
    written = list(read_pages(tmp_path / "out" / "archive.tif"))
    expected = [levels(1, 40, 60), np.rot90(levels(2, 60, 40, "u2"), -1), levels(3, 30, 30, channels=1)]
    for page, pixels in zip(written, expected, strict=False):
        np.testing.assert_array_equal(page.pixels[..., : pixels.shape[2]], pixels)
        assert page.pixels.dtype == pixels.dtype
    np.testing.assert_array_equal(np.dstack([written[3].pixels, written[3].alpha]), levels(4, 21, 33, channels=4))
    assert written[2].gray and written[2].metadata.icc is not None
    structure = exif.parse((tmp_path / "out" / "archive.tif").read_bytes())

    def text(page: int, tag: int) -> bytes | None:
        entry = structure.chain[page].find(tag)
        return None if entry is None else structure.raw(entry)

    assert [text(page, 285) for page in range(4)] == [b"recto\0", b"verso\0", b"note\0", None]
    assert [text(page, 271) for page in range(4)] == [b"Kodak\0", None, None, None]
    assert [structure.integers(structure.chain[page].find(297)) for page in range(4)] == [(0, 4), (1, 4), (), ()]
    assert [structure.integer(structure.chain[page], 254) for page in range(4)] == [2, 2, 2, 2]
    assert structure.integer(structure.chain[1], 274) == 1
    assert text(3, 700) is not None and text(0, 700) is None and text(2, 34675) is not None and text(1, 34675) is None


def test_another_program_sees_the_enlarged_pages(tmp_path: Path) -> None:
    pages = [ramp(), ramp(50, 70), ramp(120, 90)[::-1]]
    Image.fromarray(pages[0]).save(
        tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(p) for p in pages[1:]]
    )
    result = Restoration(RunOptions(restorer="none", background="lanczos", upscale=2)).restore_file(
        tmp_path / "a.tif", tmp_path / "b.tif"
    )
    assert result.pixels.shape == (180, 240, 3)  # that of the first page
    with Image.open(tmp_path / "b.tif") as image:
        found = [np.array(frame) for frame in ImageSequence.Iterator(image)]
    for page, pixels in zip(found, pages, strict=True):
        size = (2 * pixels.shape[1], 2 * pixels.shape[0])
        np.testing.assert_array_equal(page, cv2.resize(pixels, size, interpolation=cv2.INTER_LANCZOS4))


def test_the_report_counts_pages_and_the_next_run_skips_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "archive.tif").write_bytes(tiff_of(archive()))
    Image.fromarray(ramp()).save(tmp_path / "in" / "one.png")
    assert run(tmp_path / "in", "-o", tmp_path / "out", *PLAIN, "--json", "--compare") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    by_name = {Path(line["source"]).name: line for line in lines if "source" in line}
    assert by_name["archive.tif"]["pages"] == 4 and (
        by_name["archive.tif"]["width"],
        by_name["archive.tif"]["height"],
    ) == (60, 40)
    assert "pages" not in by_name["one.png"]
    compared = sorted(path.name for path in (tmp_path / "out" / "_compare").iterdir())
    assert compared == [
        "archive.tif-page2.png",
        "archive.tif-page3.png",
        "archive.tif-page4.png",
        "archive.tif.png",
        "one.png.png",
    ]
    assert run(tmp_path / "in", "-o", tmp_path / "out", *PLAIN, "--json", "--compare") == 0
    assert '"skipped": 2' in capsys.readouterr().out


def test_warnings_about_the_written_page_are_reported_beside_those_of_the_reader(tmp_path: Path) -> None:
    Image.fromarray(ramp()).save(tmp_path / "a.png")
    restoration = Restoration(RunOptions(restorer="none", background="none", upscale=1))
    photo = read_photo(tmp_path / "a.png")
    before = replace(photo, metadata=photo.metadata.warned("its profile is unknown"))
    after = replace(before, metadata=before.metadata.warned("its XMP could not be labeled"))
    page = RestoredPage(1, before, restoration.restore(photo.pixels), after, ("its layers were lost",))
    result = result_of_pages([page], tmp_path / "a.tif", tmp_path / "b.tif", restoration.names)
    assert result.warnings == (
        "page 1: its profile is unknown",
        "page 1: its XMP could not be labeled",
        "page 1: its layers were lost",
    )


def test_pages_are_refused_before_work_where_the_format_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "archive.tif").write_bytes(tiff_of(archive()))
    assert run(tmp_path / "in", "-o", tmp_path / "out", *PLAIN, "--format", "jpg") == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "has 4 pages, and JPEG files have one. Use --format tiff" in message
    assert not list((tmp_path / "out").glob("*.jpg"))


def test_a_damaged_page_fails_the_file_and_leaves_no_half(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    broken = TiffImage(levels(9, 40, 60), {254: ("I", 2), 259: ("H", 8)})  # no deflate stream
    (tmp_path / "in" / "archive.tif").write_bytes(tiff_of([archive()[0], broken]))
    assert run(tmp_path / "in", "-o", tmp_path / "out", *PLAIN) == 1
    assert "is damaged" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".gfprestore.jsonl"]


def test_small_pages_are_told_from_small_copies_by_their_content(tmp_path: Path) -> None:
    page = ramp(120, 90)
    copy = np.asarray(cv2.resize(page, (60, 45), interpolation=cv2.INTER_AREA))
    other = levels(5, 45, 60)
    (tmp_path / "a.tif").write_bytes(tiff_of([TiffImage(page), TiffImage(copy), TiffImage(other)]))
    found = list(read_pages(tmp_path / "a.tif"))
    assert [photo.pixels.shape[:2] for photo in found] == [(90, 120), (45, 60)]
    np.testing.assert_array_equal(found[1].pixels, other)
    assert "smaller copies" in " ".join(found[0].metadata.warnings)


def test_small_pages_of_another_color_are_pages(tmp_path: Path) -> None:
    """Flat pages of equal brightness: red of half the size before blue."""
    red, blue = np.zeros((10, 10, 3), np.uint8), np.zeros((20, 20, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    (tmp_path / "a.tif").write_bytes(tiff_of([TiffImage(red), TiffImage(blue)]))
    assert [photo.pixels[0, 0].tolist() for photo in read_pages(tmp_path / "a.tif")] == [[255, 0, 0], [0, 0, 255]]


def test_a_png_that_claims_no_frames_is_one_image(tmp_path: Path) -> None:
    Image.fromarray(ramp()).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[:33] + png_chunk(b"acTL", bytes(8)) + content[33:])
    assert run(tmp_path / "a.png", "-o", tmp_path / "out", *PLAIN) == 0
    np.testing.assert_array_equal(pixels_of(tmp_path / "out" / "a.png"), ramp())


def test_training_data_are_still_single_images(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff_of(archive()))
    with pytest.raises(UnsupportedPhotoError, match="has 4 pages"):
        read_photo(tmp_path / "a.tif")
