"""`run photo -o restored.jpg`, and limits of formats, which are told before anything is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from samples import ramp, size_of

from gfprestore.commands.app import main
from gfprestore.errors import ExitCode
from gfprestore.restoration.background import LanczosBackground

PLAIN = ["--restorer", "none", "--background", "lanczos", "--upscale", "2", "--offline"]


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main(["run", *map(str, arguments)])
    return int(left.value.code or 0)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("name", "format"), [("restored.jpg", "JPEG"), ("new/b.PNG", "PNG"), ("b.tif", "TIFF")])
def test_one_photo_is_written_to_the_file_that_output_names(name: str, format: str, tmp_path: Path) -> None:
    Image.fromarray(ramp()).save(tmp_path / "a.jpg")
    (tmp_path / "out").mkdir()
    assert run(tmp_path / "a.jpg", "-o", tmp_path / "out" / name, *PLAIN) == 0
    with Image.open(tmp_path / "out" / name) as image:
        assert (image.format, image.size) == (format, (240, 180))
    files = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files == [name]  # and no journal, which would make this a folder of results


def test_a_folder_with_one_photo_counts_as_one_photo(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(ramp()).save(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "note.txt").write_text("no photo")
    assert run(tmp_path / "in", "-o", tmp_path / "in" / "restored.jpg", *PLAIN) == 0
    assert size_of(tmp_path / "in" / "restored.jpg") == (240, 180)


def test_several_photos_and_formats_that_are_not_written_are_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(ramp()).save(tmp_path / name)
    assert run(tmp_path / "a.jpg", tmp_path / "b.jpg", "-o", tmp_path / "c.jpg", *PLAIN) == ExitCode.USAGE
    assert "names one file, but there are 2 photos" in said(capsys)
    assert run(tmp_path / "a.jpg", "-o", tmp_path / "c.gif", *PLAIN) == ExitCode.USAGE
    assert ".gif files cannot be written" in said(capsys)
    assert run(tmp_path / "a.jpg", "-o", tmp_path / "c.png", "--format", "jpg", *PLAIN) == ExitCode.USAGE
    assert "contradict" in said(capsys)
    assert run(tmp_path / "a.jpg", "-o", tmp_path / "a.jpg", *PLAIN) == ExitCode.FOLDER
    assert "would overwrite the original" in said(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "b.jpg"]


def test_a_file_that_is_there_is_only_replaced_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(ramp()).save(tmp_path / "a.jpg")
    (tmp_path / "c.jpg").write_bytes(b"mine")
    assert run(tmp_path / "a.jpg", "-o", tmp_path / "c.jpg", *PLAIN) == 0
    told = said(capsys)  # which may be the result of an earlier run: nothing is known about it
    assert "c.jpg already exists" in told and "--overwrite" in told and "no run wrote" not in told
    assert (tmp_path / "c.jpg").read_bytes() == b"mine"
    assert run(tmp_path / "a.jpg", "-o", tmp_path / "c.jpg", "--dry-run", *PLAIN) == 0
    told = " ".join(capsys.readouterr())
    assert "c.jpg (exists)" in told and "no run wrote" not in told
    assert (tmp_path / "c.jpg").read_bytes() == b"mine"
    assert run(tmp_path / "a.jpg", "-o", tmp_path / "c.jpg", "--overwrite", *PLAIN) == 0
    assert size_of(tmp_path / "c.jpg") == (240, 180)


def test_a_folder_with_the_suffix_of_a_photo_stays_a_folder(tmp_path: Path) -> None:
    Image.fromarray(ramp()).save(tmp_path / "a.jpg")
    (tmp_path / "album.jpg").mkdir()
    assert run(tmp_path / "a.jpg", "-o", tmp_path / "album.jpg", *PLAIN) == 0
    assert (tmp_path / "album.jpg" / "a.jpg").exists()


LIMITS = [("JPEG", ".jpg", 32751, "65500 (65535 without libjpeg) per side")]
LIMITS += [("WEBP", ".webp", 8192, "16383 per side")] if features.check("webp") else []


@pytest.mark.parametrize(("format", "suffix", "width", "words"), LIMITS)
def test_a_result_too_large_for_its_format_is_told_before_work(
    format: str, suffix: str, width: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((3, width, 3), np.uint8)).save(tmp_path / "in" / f"pano{suffix}")

    def unwanted(*_arguments: object, **_options: object) -> None:
        raise AssertionError("it was computed")

    with monkeypatch.context() as patch:
        patch.setattr(LanczosBackground, "enlarge", unwanted)
        assert run(tmp_path / "in", "-o", tmp_path / "out", *PLAIN) == 1
    message = said(capsys)
    assert words in message and "Use --format png or --format tiff" in message and f"{2 * width} x 6" in message
    assert run(tmp_path / "in", "-o", tmp_path / "out", "--format", "png", *PLAIN) == 0
    assert size_of(tmp_path / "out" / "pano.png") == (2 * width, 6)


def test_truncated_photos_are_restored_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (80, 90, 3), np.uint8)).save(tmp_path / "in" / "a.jpg")
    content = (tmp_path / "in" / "a.jpg").read_bytes()
    (tmp_path / "in" / "a.jpg").write_bytes(content[: len(content) // 2])
    assert run(tmp_path / "in", "-o", tmp_path / "out", *PLAIN) == 1
    assert "--accept-truncated" in said(capsys)
    assert run(tmp_path / "in", "-o", tmp_path / "out", "--accept-truncated", *PLAIN) == 0
    assert "of its 80 rows are missing" in said(capsys)
    assert size_of(tmp_path / "out" / "a.jpg") == (180, 160)
