"""What a run leaves out is counted by reason and kind, and images of unsupported kinds are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import call
from samples import save

from gfprestore.batch import folders
from gfprestore.batch.left_out import MOST_NAMED
from gfprestore.photo import photo

PLAIN = ("--restorer", "none", "--background", "lanczos")
# Kinds that no reader of the package is for; those that a plugin may read are not used here.
FILES = {
    "deep/raw.CR2": b"II*\0\x10\0\0\0CR\x02\0" + bytes(40),
    "raw.nef": b"MM\0*\0\0\0\x08" + bytes(40),
    "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "painting.kra.xcf": b"gimp xcf v011" + bytes(40),
    "notes.txt": b"hello",
    "more notes.TXT": b"hello again",
    "clip.mov": bytes(4) + b"ftypqt  ",
    "README": b"read me",
    ".hidden.jpg": b"",
    "excluded.jpg": b"",
    "@eaDir/a.jpg/thumb.jpg": b"",
    "@eaDir/b.jpg/thumb.jpg": b"",
}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with one photo and much else."""
    save(tmp_path / "in" / "a.png", np.zeros((30, 36, 3), np.uint8))
    for name, content in FILES.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "in"


def expected(folder: Path) -> list[dict[str, Any]]:
    raw = [str(folder / "raw.nef"), str(folder / "deep" / "raw.CR2")]
    image, other = "unsupported type of image", "not an image"
    return [
        {"reason": image, "kind": "camera raw", "count": 2, "files": raw},
        {"reason": image, "kind": "GIMP", "count": 1, "files": [str(folder / "painting.kra.xcf")]},
        {"reason": image, "kind": "SVG", "count": 1, "files": [str(folder / "drawing.svg")]},
        {"reason": other, "kind": ".txt", "count": 2},
        {"reason": "a system or trash folder", "kind": "folder", "count": 1},
        {"reason": "excluded", "kind": ".jpg", "count": 1},
        {"reason": "hidden", "kind": ".jpg", "count": 1},
        {"reason": other, "kind": ".mov", "count": 1},
        {"reason": other, "kind": "no suffix", "count": 1},
    ]


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_what_is_left_out_is_in_the_summary_and_in_the_table(
    options: tuple[str, ...], mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "200")
    common = ["run", mixed, "-o", tmp_path / "out", *PLAIN, *options, "--exclude", "excluded.jpg"]
    assert call(*common, "--json") == 0, "files that are no photos are no failure"
    told = capsys.readouterr()
    summary = json.loads(told.out.splitlines()[-1])["summary"]
    assert summary["left_out"] == expected(mixed)
    assert call(*common, "--overwrite") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    assert "left out kind reason" in lines
    for row in summary["left_out"]:
        assert f"{row['count']} {row['kind']} {row['reason']}" in lines


def test_unsupported_images_are_named_once_with_what_to_do(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", mixed, "-o", tmp_path / "out", *PLAIN, "--exclude", "excluded.jpg") == 0
    lines = capsys.readouterr().err.splitlines()
    raw = [line for line in lines if "raw.nef" in line]
    assert len(raw) == 1
    assert raw[0].startswith("warning: 2 images are left out, because camera raw is not supported")
    assert str(mixed / "deep" / "raw.CR2") in raw[0] and "darktable" in raw[0]
    assert not any("notes.txt" in line for line in lines)


def test_many_unsupported_images_are_named_up_to_a_limit_and_in_full_for_scripts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "in" / "a.png", np.zeros((30, 36, 3), np.uint8))
    for index in range(MOST_NAMED + 7):
        (tmp_path / "in" / f"{index}.arw").write_bytes(b"II*\0\x08\0\0\0")
    assert call("run", tmp_path / "in", "--dry-run", "--json") == 0
    told = capsys.readouterr()
    assert f"{MOST_NAMED - 1}.arw and 7 more. " in told.err
    (entry,) = json.loads(told.out.splitlines()[-1])["summary"]["left_out"]
    assert entry["count"] == len(entry["files"]) == MOST_NAMED + 7


def test_a_folder_of_unsupported_images_alone_is_refused_with_their_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "z.arw").write_bytes(b"II*\0\x08\0\0\0")
    assert call("run", tmp_path, *PLAIN) == 4
    told = capsys.readouterr().err.replace("\n", " ")
    assert "z.arw (unsupported type of image: camera raw. Develop to" in told
    assert call("run", tmp_path / "z.arw", *PLAIN) == 4


def test_a_named_file_of_an_unsupported_kind_is_a_failure_told_once(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", mixed / "a.png", mixed / "raw.nef", "-o", tmp_path / "out", *PLAIN) == 1
    told = capsys.readouterr().err
    assert told.count("raw.nef") == 1
    assert f"{mixed / 'raw.nef'}: unsupported type of image: camera raw. Develop to" in told.replace("\n", " ")


def test_heic_without_its_extra_is_named_with_the_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "in" / "a.png", np.zeros((30, 36, 3), np.uint8))
    (tmp_path / "in" / "IMG_2.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    monkeypatch.setattr(photo, "PHOTO_SUFFIXES", frozenset({".png", ".jpg"}))
    assert call("run", tmp_path / "in", "-o", tmp_path / "out", *PLAIN) == 0
    told = capsys.readouterr().err.replace("\n", " ")
    assert "IMG_2.HEIC" in told and "gfprestore[heif]" in told


@pytest.mark.parametrize("content", [b"", b"\0" * 600])
def test_a_file_that_cannot_be_read_for_its_kind_is_counted_by_its_suffix(content: bytes, tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", np.zeros((30, 36, 3), np.uint8))
    (tmp_path / "in" / "b.dat").write_bytes(content)
    (tmp_path / "in" / "link.dat").symlink_to("nowhere")
    plan = folders.plan_photos(
        [tmp_path / "in"], None, suffixes=frozenset({".png"}), rename=lambda source: source.suffix
    )
    assert {(entry.path.name, entry.kind) for entry in plan.skipped} == {("b.dat", ".dat"), ("link.dat", ".dat")}
