"""Weights files that a training lacks: all are named at once, as the loaders would miss them one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gfprestore.errors import WeightsMissingError
from gfprestore.training import requirements
from gfprestore.training.config import TrainConfig, TrainSettings, make_config
from gfprestore.training.initial_weights import open_initial_weights
from gfprestore.training.loss_networks import open_loss_networks
from gfprestore.training.requirements import fetch_command, missing_files, require_files
from gfprestore.weights.store import WeightsStore


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WeightsStore:
    """Empty folders of weights, and none of the packages that carry networks."""
    monkeypatch.setattr(requirements, "packaged_file", lambda *_: None)
    monkeypatch.setattr("gfprestore.training.loss_networks.packaged_file", lambda *_: None)
    return WeightsStore(tmp_path / "weights", offline=True)


def config_of(preset: str = "paper", *, settings: TrainSettings | None = None, **options: Any) -> TrainConfig:
    return make_config(Path("faces"), Path("out"), preset, settings, **options)


PAPER = ["stylegan2-ffhq-512", "vgg19", "arcface-resnet18"]


@pytest.mark.parametrize(
    ("preset", "options", "missing", "command"),
    [
        ("paper", {}, PAPER, "gfprestore weights fetch --for train"),
        ("official", {}, PAPER, "gfprestore weights fetch --for train"),
        ("paper", {"without": ["perceptual"]}, [PAPER[0], PAPER[2]], f"gfprestore weights fetch {PAPER[0]} {PAPER[2]}"),
        ("paper", {"without": ["perceptual", "identity"], "ablation": "no-prior"}, [], None),
        ("paper", {"values": ["losses.identity=0"]}, PAPER[:2], f"gfprestore weights fetch {PAPER[0]} vgg19"),
        ("paper", {"size": 256}, ["a prior of these sizes", *PAPER[1:]], f"gfprestore weights fetch vgg19 {PAPER[2]}"),
        ("paper", {"stage": "prior"}, [], None),
        ("finetune", {}, ["gfpgan-1.4", *PAPER[1:]], f"gfprestore weights fetch gfpgan-1.4 vgg19 {PAPER[2]}"),
        ("compact", {}, ["vgg16", "dlib's recognizer"], "gfprestore weights fetch vgg16"),
        ("compact", {"stage": "background"}, ["vgg16"], "gfprestore weights fetch vgg16"),
        ("frrffusion", {"stage": "fmar"}, [], None),
    ],
)
def test_every_missing_file_is_named_with_one_command(
    preset: str, options: dict[str, Any], missing: list[str], command: str | None, store: WeightsStore
) -> None:
    found = missing_files(config_of(preset, **options), store)
    assert [item.what for item in found] == missing
    assert fetch_command(found) == command
    if not missing:
        require_files(found)
        return
    with pytest.raises(WeightsMissingError) as error:
        require_files(found)
    lines = str(error.value).splitlines()
    assert [line.split(",")[0].split(" (")[0].strip() for line in lines[1 : 1 + len(missing)]] == missing
    assert (command or "") in lines[-1]


def test_sizes_and_licenses_are_told(store: WeightsStore) -> None:
    text = "\n".join(map(str, missing_files(config_of(), store)))
    for part in ("204.5 MB; license: NVIDIA, non-commercial", "574.7 MB; license: BSD-3-Clause", "about 103 MB"):
        assert part in text


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("paper", {}),
        ("paper", {"without": ["perceptual"]}),
        ("paper", {"without": ["perceptual", "identity"]}),
        ("paper", {"ablation": "no-prior"}),
        ("paper", {"stage": "prior"}),
        ("compact", {"without": ["identity"]}),
        ("finetune", {"without": ["perceptual", "identity"]}),
    ],
)
def test_a_file_is_missing_exactly_where_its_loader_fails(
    preset: str, options: dict[str, Any], store: WeightsStore
) -> None:
    config = config_of(preset, **options)
    found = missing_files(config, store)
    starts = {"stylegan2-ffhq-512", "gfpgan-1.4"}
    for open_files, expected in (
        (open_initial_weights, any(item.what in starts for item in found)),
        (open_loss_networks, any(item.what not in starts for item in found)),
    ):
        if expected:
            with pytest.raises(WeightsMissingError):
                open_files(config, store)
        else:
            open_files(config, store)


def test_files_that_are_named_or_there_are_not_missing(store: WeightsStore, tmp_path: Path) -> None:
    named = TrainSettings(weights=tmp_path / "a", perceptual_weights=tmp_path / "b", identity_weights=tmp_path / "c")
    assert missing_files(config_of(settings=named), store) == []
    assert [
        item.what for item in missing_files(config_of(settings=TrainSettings(prior=tmp_path / "a")), store)
    ] == PAPER[1:]
    store.folder.mkdir()
    (store.folder / "vgg19-dcbb9e9d.pth").write_bytes(b"here")
    assert [item.what for item in missing_files(config_of(), store)] == [PAPER[0], PAPER[2]]
