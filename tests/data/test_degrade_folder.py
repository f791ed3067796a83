"""`gfprestore degrade`: the same bytes in any order, resumable, never written into the source."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from doubles import smooth
from samples import pixels_of, save

from gfprestore.data import degrade_folder as degrade_folder_module
from gfprestore.data.capture import gray_of
from gfprestore.data.degradation import HEAVY, PAPER, DegradationOptions, degrade
from gfprestore.data.degrade_folder import DegradeOptions, degrade_folder, degraded_pair, read_pairs
from gfprestore.data.pair_folders import read_description
from gfprestore.errors import FolderError, UsageError


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".gfprestore.jsonl"
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("b", "a", "deep/c"):
        save(tmp_path / "faces" / f"{name}.png", smooth(len(name), 48))
    return tmp_path / "faces"


def test_the_same_command_gives_the_same_bytes_and_other_images_change_none(source: Path, tmp_path: Path) -> None:
    options = DegradeOptions(seed=3, size=32)
    degrade_folder(source, tmp_path / "one", options, workers=1)
    save(tmp_path / "more" / "0.png", smooth(9, 48))
    for name in ("deep/c", "b", "a"):
        (tmp_path / "more" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "more" / f"{name}.png").write_bytes((source / f"{name}.png").read_bytes())
    degrade_folder(tmp_path / "more", tmp_path / "two", options, workers=3)

    one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    images = [name for name in one if name.endswith(".png")]
    assert sorted(images) == sorted(f"{part}/{name}.png" for part in ("lq", "gt") for name in ("a", "b", "deep/c"))
    assert {name: one[name] for name in images} == {name: two[name] for name in images}
    degrade_folder(source, tmp_path / "three", options, workers=2)
    assert files_of(tmp_path / "three") == one


def test_another_seed_or_name_gives_another_lq(source: Path, tmp_path: Path) -> None:
    gt = smooth(1, 32)
    _, one = degraded_pair(gt, PAPER, 3, "a")
    assert (degraded_pair(gt, PAPER, 4, "a")[1].lq != one.lq).any()
    assert (degraded_pair(gt, PAPER, 3, "b")[1].lq != one.lq).any()
    _, again = degraded_pair(gt, PAPER, 3, "a")
    assert (again.lq == one.lq).all() and again.parameters == one.parameters


def test_the_gt_is_the_downscaled_face_and_the_recorded_parameters_reproduce_the_lq(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uncolored = {"shift_probability": 0.0, "jitter_probability": 0.0, "gray_probability": 0.0, "noise": (0.0, 0.0)}
    monkeypatch.setitem(degrade_folder_module.PRESETS, "celeba-test", replace(PAPER, **uncolored))  # type: ignore[arg-type]
    degrade_folder(source, tmp_path / "set", DegradeOptions(seed=3, size=32))
    for pair in read_pairs(tmp_path / "set"):
        gt = pixels_of(tmp_path / "set/gt" / f"{pair.name}.png")
        assert (gt == cv2.resize(pixels_of(source / pair.source), (32, 32), interpolation=cv2.INTER_AREA)).all()
        drawn = pair.parameters
        exact = DegradationOptions(  # the ranges narrowed to what was drawn, so that chance has no part in it
            sigma=(drawn["sigma_x"], drawn["sigma_x"]),
            downscale=(drawn["downscale"], drawn["downscale"]),
            jpeg_quality=(int(drawn["jpeg_quality"]), int(drawn["jpeg_quality"])),
            **uncolored,  # type: ignore[arg-type]
        )
        expected = degrade(gt.astype(np.float32) / np.float32(255), exact, np.random.default_rng(0)).lq * 255
        assert np.abs(pixels_of(tmp_path / "set/lq" / f"{pair.name}.png") - expected).max() < 0.01
    assert len(read_pairs(tmp_path / "set")) == 3
    assert json.loads((tmp_path / "set/set.json").read_text())["ranges"]["sigma"] == [0.2, 10.0]


def test_an_interrupted_run_resumes_and_repairs_damaged_files(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = DegradeOptions(seed=3, size=32)
    degrade_folder(source, tmp_path / "whole", options)
    made: list[str] = []
    original = degrade_folder_module.degraded_pair

    def counted(gt: np.ndarray, ranges: DegradationOptions, seed: int, name: str) -> object:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(name)
        return original(gt, ranges, seed, name)

    monkeypatch.setattr(degrade_folder_module, "degraded_pair", counted)
    with pytest.raises(KeyboardInterrupt):
        degrade_folder(source, tmp_path / "set", options, workers=1)
    monkeypatch.setattr(degrade_folder_module, "degraded_pair", original)
    with (tmp_path / "set/degradation.jsonl").open("ab") as stream:
        stream.write(b'{"name": "torn')
    before = len(read_pairs(tmp_path / "set"))
    assert 1 <= before <= 2
    (tmp_path / "set/lq" / f"{read_pairs(tmp_path / 'set')[0].name}.png").write_bytes(b"damaged")
    report = degrade_folder(source, tmp_path / "set", options)
    assert (report.made, report.done_before) == (4 - before, before - 1)
    assert files_of(tmp_path / "set") == files_of(tmp_path / "whole")
    assert degrade_folder(source, tmp_path / "set", options).done_before == 3


def test_a_set_of_other_options_is_not_mixed_with(source: Path, tmp_path: Path) -> None:
    degrade_folder(source, tmp_path / "set", DegradeOptions(seed=3, size=32))
    with pytest.raises(FolderError, match="another seed, preset"):
        degrade_folder(source, tmp_path / "set", DegradeOptions(seed=4, size=32, preset="official"))
    save(tmp_path / "others/lq/a.png", smooth(1))
    with pytest.raises(FolderError, match="did not create"):
        degrade_folder(source, tmp_path / "others", DegradeOptions(seed=3, size=32))


def test_images_that_are_not_aligned_faces_are_rejected_by_name(source: Path, tmp_path: Path) -> None:
    save(source / "wide.png", smooth(1, 48)[:40])
    save(source / "small.png", smooth(1, 16))
    (source / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    save(source / "a.jpg", smooth(1, 48))
    report = degrade_folder(source, tmp_path / "set", DegradeOptions(seed=3, size=32))
    reasons = {entry.path.name: entry.reason for entry in report.failed}
    assert report.made == 3
    assert "48 x 40" in reasons["wide.png"]
    assert "16 pixels" in reasons["small.png"]
    assert "damaged.png" in reasons["damaged.png"]
    assert len(reasons) == 4 and "would have the same name in the set" in (reasons.get("a.png") or reasons["a.jpg"])


def test_the_source_is_never_written_to(source: Path, tmp_path: Path) -> None:
    before = files_of(source)
    for output in (source, source / "set", source / "deep"):
        with pytest.raises(FolderError, match="within its source"):
            degrade_folder(source, output, DegradeOptions(seed=3, size=32))
    (tmp_path / "set").mkdir()
    source.rename(tmp_path / "set/gt")
    with pytest.raises(FolderError, match="within its source"):
        degrade_folder(tmp_path / "set/gt", tmp_path / "set", DegradeOptions(seed=3, size=32))
    assert files_of(tmp_path / "set/gt") == before


def test_only_the_rows_of_a_split_are_taken(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs a index\.csv|index\.csv"):
        degrade_folder(source, tmp_path / "set", DegradeOptions(seed=3, size=32, split="test"))
    (source / "index.csv").write_text("file,split\na.png,test\nb.png,train\ndeep/c.png,test\n")
    degrade_folder(source, tmp_path / "set", DegradeOptions(seed=3, size=32, split="test", exclude=("deep/*",)))
    assert [path.name for path in (tmp_path / "set/lq").iterdir()] == ["a.png"]
    with pytest.raises(UsageError, match="test, train"):
        degrade_folder(source, tmp_path / "none", DegradeOptions(seed=3, size=32, split="val"))


def test_a_gray_gt_goes_with_a_gray_lq_where_the_preset_says_so() -> None:
    gt = smooth(2, 32)
    results = [degraded_pair(gt, HEAVY, 1, str(number)) for number in range(30)]
    gray = [kept for kept, degraded in results if "grey" in degraded.parameters]
    assert 0 < len(gray) < 30
    for kept in gray:
        assert (kept == np.rint(gray_of(gt.astype(np.float32) / 255) * 255)).all()
    assert all((kept == gt).all() for kept, degraded in results if "grey" not in degraded.parameters)


@pytest.mark.parametrize(
    ("values", "word"), [({"preset": "x"}, "paper"), ({"seed": -1}, "seed"), ({"size": 2}, "size")]
)
def test_invalid_options_are_usage_errors(values: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        DegradeOptions(**{"seed": 1, **values})  # type: ignore[arg-type]


def test_a_description_that_is_damaged_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "set.json").write_text("[1")
    with pytest.raises(FolderError, match=r"set\.json"):
        read_description(tmp_path)
