"""A result that its user changed after a run wrote it is kept, named and counted, whatever the settings."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from doubles import call, records
from PIL import Image
from samples import pixels_of, save, size_of

from gfprestore.batch import pipeline

PLAIN = ("--restorer", "none", "--background", "lanczos")
NAMES = ("a.png", "sub/b.jpg", "c.tif", "d.jpg")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    random = np.random.default_rng(5)
    for name in NAMES:
        coarse = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        save(tmp_path / "in" / name, np.asarray(cv2.resize(coarse, (36, 30), interpolation=cv2.INTER_CUBIC), np.uint8))
    return tmp_path / "in"


@pytest.fixture
def out(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The results of a first run."""
    assert call("run", photos, "-o", tmp_path / "out", *PLAIN, "--compare") == 0
    capsys.readouterr()
    return tmp_path / "out"


def grown(path: Path) -> None:
    """As a tagger that adds metadata at the end."""
    path.write_bytes(path.read_bytes() + b"<tags/>")


def of_the_same_size_and_time(path: Path) -> None:
    """As `exiftool -P` that writes into the padding of a block."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def linked(path: Path) -> None:
    """As a deduplicator or an album that keeps the file elsewhere."""
    path.rename(path.with_name("elsewhere.bin"))
    path.symlink_to("elsewhere.bin")


@pytest.mark.parametrize("edit", [grown, of_the_same_size_and_time, emptied, linked])
@pytest.mark.parametrize(
    "options", [("--upscale", "3"), ("--quality", "70"), ("--background", "none"), ("--seed", "4")]
)
def test_an_edited_result_is_kept_under_any_settings(
    edit: Callable[[Path], None], options: tuple[str, ...], photos: Path, out: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    edit(out / "sub" / "b.jpg")
    edited, other = (out / "sub" / "b.jpg").read_bytes(), (out / "a.png").stat().st_mtime_ns
    assert call("run", photos, "-o", out, *PLAIN, "--json", *options) == 0
    results, summary = records(capsys)
    assert (out / "sub" / "b.jpg").read_bytes() == edited
    assert (out / "sub" / "b.jpg").is_symlink() == (edit is linked)
    kept = results.pop("b.jpg")
    assert (kept["status"], kept["skipped_because"]) == ("skipped", "changed")
    assert str(out / "sub" / "b.jpg") in kept["error"] and "--overwrite" in kept["error"]
    assert (summary["changed"], summary["taken"], summary["skipped"], summary["restored"]) == (1, 0, 1, 3)
    assert {result["status"] for result in results.values()} == {"restored"}
    assert other == (photos / "a.png").stat().st_mtime_ns


def test_an_edited_result_is_kept_when_its_original_changes_too(
    photos: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grown(out / "a.png")
    save(photos / "a.png", np.full((30, 36, 3), 9, np.uint8))
    save(photos / "d.jpg", np.full((30, 36, 3), 9, np.uint8))
    assert call("run", photos, "-o", out, *PLAIN, "--json") == 0
    results, summary = records(capsys)
    assert (out / "a.png").read_bytes().endswith(b"<tags/>")
    assert results["a.png"]["skipped_because"] == "changed"
    assert results["d.jpg"]["status"] == "restored", "an unchanged result follows its original"
    assert abs(float(pixels_of(out / "d.jpg").mean()) - 9) < 1
    assert summary["changed"] == 1


def test_edits_are_named_and_counted_for_people_and_overwrite_replaces_them(
    photos: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "sub/b.jpg", "c.tif"):
        grown(out / name)
    before = {name: (out / name).read_bytes() for name in NAMES}
    assert call("run", photos, "-o", out, *PLAIN, "--upscale", "3", "--dry-run") == 0
    told = capsys.readouterr()
    assert told.out.count("(changed by you, kept)") == 3
    assert "changed by you: 3" in told.err
    assert call("run", photos, "-o", out, *PLAIN, "--upscale", "3", "--dry-run", "--json") == 0
    *planned, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert [entry["state"] for entry in planned] == ["changed", "changed", "restored", "changed"]
    assert summary["summary"]["changed"] == 3
    assert call("run", photos, "-o", out, *PLAIN, "--upscale", "3", "--dry-run", "--overwrite", "--json") == 0
    *planned, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert sum(entry.get("replaces_changed", False) for entry in planned) == 3
    assert {name: (out / name).read_bytes() for name in NAMES} == before

    assert call("run", photos, "-o", out, *PLAIN, "--upscale", "3") == 0
    told_for_people = capsys.readouterr().err
    assert "changed by you: 3" in told_for_people
    for name in ("a.png", "sub/b.jpg", "c.tif"):
        assert (out / name).read_bytes() == before[name]
        assert f"{out / name} was changed by you after a run wrote it." in told_for_people.replace("\n", " ")
    assert size_of(out / "d.jpg") == (108, 90)

    assert call("run", photos, "-o", out, *PLAIN, "--upscale", "3", "--overwrite", "--json") == 0
    _, summary = records(capsys)
    assert (summary["restored"], summary["changed"]) == (4, 0)
    for name in NAMES:
        assert size_of(out / name) == (108, 90)
    assert call("run", photos, "-o", out, *PLAIN, "--upscale", "2", "--json") == 0
    _, summary = records(capsys)
    assert (summary["restored"], summary["changed"]) == (4, 0), "what --overwrite wrote is ours again"


def test_results_whose_times_alone_changed_are_not_taken_for_edited(
    photos: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a copy of the folder without its times."""
    for name in NAMES:
        os.utime(out / name, (1_000, 1_000))
    assert call("run", photos, "-o", out, *PLAIN, "--compare", "--json") == 0
    results, summary = records(capsys)
    assert (summary["changed"], summary["skipped"]) == (0, 4)
    assert {result["skipped_because"] for result in results.values()} == {"done"}
    assert call("run", photos, "-o", out, *PLAIN, "--upscale", "3", "--json") == 0
    _, summary = records(capsys)
    assert (summary["changed"], summary["restored"]) == (0, 4)


def test_edited_comparisons_are_kept_and_the_others_follow_the_settings(
    photos: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited = out / "_compare" / "a.png.png"
    grown(edited)
    content = edited.read_bytes()
    assert call("run", photos, "-o", out, *PLAIN, "--compare", "--upscale", "3") == 0
    assert edited.read_bytes() == content
    assert f"{edited} was changed by you" in capsys.readouterr().err.replace("\n", " ")
    assert size_of(out / "a.png") == (108, 90)
    assert size_of(out / "_compare" / "d.jpg.png") == (2 * 108 + 8, 90)
    assert call("run", photos, "-o", out, *PLAIN, "--compare", "--upscale", "4", "--overwrite") == 0
    assert size_of(edited) == (2 * 144 + 8, 120)


def test_a_result_that_is_edited_while_the_run_computes_is_kept(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = pipeline.write_photo

    def edit_then_write(photo: Any, path: Path, **options: Any) -> Any:
        if path == out / "d.jpg":
            grown(path)
        return real(photo, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write_photo", edit_then_write)
        assert call("run", photos, "-o", out, *PLAIN, "--upscale", "3", "--json") == 0
    results, summary = records(capsys)
    assert (out / "d.jpg").read_bytes().endswith(b"<tags/>")
    assert (results["d.jpg"]["status"], results["d.jpg"]["skipped_because"]) == ("skipped", "changed")
    assert (summary["restored"], summary["changed"]) == (3, 1)
    assert not list(out.rglob("*.part"))


def test_a_journal_without_hashes_goes_by_the_size(photos: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = out / ".gfprestore.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:
        line.pop("output_sha256", None)
        line.pop("output_modified_ns", None)
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines if "file" not in line))
    grown(out / "a.png")
    assert call("run", photos, "-o", out, *PLAIN, "--upscale", "3", "--json") == 0
    results, summary = records(capsys)
    assert results["a.png"]["skipped_because"] == "changed"
    assert (summary["restored"], summary["changed"]) == (3, 1)
    with Image.open(out / "d.jpg") as image:
        assert image.size == (108, 90)
