"""`gfprestore train` on a folder of aligned images alone: what it finds itself, what it lists, what it trains first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from doubles import DotFinder, call, marked_face
from samples import save

TINY = ["--size", 32, "--set", "narrow=0.0625", "--set", "style_dim=32", "--set", "mlp_layers=2", "--batch-size", 2,
        "--workers", 0, "--device", "cpu"]  # fmt: skip
ALONE = ["--without", "perceptual", "--without", "identity"]


@pytest.fixture
def faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Aligned images with green dots as landmarks, and a detector that finds these."""
    for number in range(4):
        save(tmp_path / "ffhq" / f"{number:05d}.png", marked_face(number))
    monkeypatch.setattr("gfprestore.restoration.model_loader.MTCNNDetector", DotFinder)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "ffhq"


def test_a_folder_of_aligned_images_alone_is_enough(faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--data", faces, "-o", "out", "--preset", "compact", *TINY, *ALONE, "--steps", 1]
    assert call(*arguments, "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["boxes"].endswith("component-boxes.jsonl; 4 of 4 images are left to search")
    assert not Path("out").exists()
    assert call(*arguments) == 0
    told = capsys.readouterr().err
    assert "Finding eyes and mouths in 4 images." in told
    assert "eyes and mouths [4/4]" in told
    lines = [json.loads(line) for line in Path("out/component-boxes.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [f"{number:05d}.png" for number in range(4)]
    assert all(len(line["boxes"]) == 3 for line in lines)
    assert call(*arguments) == 0  # resumes: nothing is searched again
    assert "Finding eyes" not in capsys.readouterr().err
    assert call(*arguments, "--dry-run", "--json") == 0
    assert "; 0 of 4 images are left" in json.loads(capsys.readouterr().out)["boxes"]


def test_missing_files_are_listed_at_once(faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", "--data", faces, "--weights-dir", "none") == 3
    told = capsys.readouterr().err
    assert "3 weights files are missing" in told
    assert told.count("gfprestore weights fetch") == 1
    assert not Path("gfprestore-paper").exists()


def test_stage_auto_trains_a_prior_first(faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sized: list[Any] = ["--size", 64, *TINY[2:]]
    arguments = ["train", "--data", faces, "-o", "out", "--stage", "auto", *sized, *ALONE, "--steps", 2]
    assert call(*arguments, "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert "trained first with images of 32, 64 pixels, the last one in out" in plan["prior"].replace("\\", "/")
    assert call(*arguments) == 0
    told = capsys.readouterr().err
    assert [path.name for path in sorted(Path("out").glob("prior-*"))] == ["prior-32", "prior-64"]
    assert "Starting from the prior" in told
    first, second, third = [line for line in told.splitlines() if " steps done" in line]
    assert "prior-32" in first
    assert "prior-64" in second
    assert "restorer.safetensors" in third
    assert (first[0], second[0], third[0]) == ("1", "1", "2")
    assert call(*arguments) == 0  # everything is done: the same command has nothing to train


def test_weights_for_a_purpose_are_shown_before_they_are_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def fetch(_store: object, name: str, _progress: object = None) -> Path:
        fetched.append(name)
        return tmp_path / name

    monkeypatch.setattr("gfprestore.weights.store.WeightsStore.fetch", fetch)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert call("weights", "fetch", "--for", "train", "--weights-dir", tmp_path) == 2
    told = capsys.readouterr().err
    assert fetched == []
    for part in ("stylegan2-ffhq-512", "574.7 MB", "NVIDIA", "3 files, about 882 MB.", "--yes"):
        assert part in told
    assert call("weights", "fetch", "--for", "train", "--yes", "--weights-dir", tmp_path) == 0
    assert fetched == ["stylegan2-ffhq-512", "vgg19", "arcface-resnet18"]
    assert call("weights", "fetch") == 2
    assert call("weights", "fetch", "parsenet", "--for", "run") == 2
    assert call("weights", "fetch", "--for", "everything") == 2
    assert len(fetched) == 3
