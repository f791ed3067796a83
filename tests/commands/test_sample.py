"""`gfprestore sample` from the command line, and deepFRR's recipe from end to end: train a prior, sample, retouch."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from doubles import call, make_faces, records, tiny_config
from safetensors.torch import save_file
from samples import pixels_of

from gfprestore.networks.configs import GFPGANConfig
from gfprestore.networks.gfpgan import GFPGAN
from gfprestore.networks.srvgg import SRVGGConfig, SRVGGNetCompact
from gfprestore.networks.stylegan2 import StyleGAN2Generator
from gfprestore.training.train import train

OPTIONS = ("--seed", 3, "--device", "cpu", "--offline")


def write_prior(path: Path) -> Path:
    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(StyleGAN2Generator((8, 8, 8), 16, 2, "paper").state_dict(), path)
    return path


def test_a_prior_is_trained_sampled_and_its_faces_retouched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(tiny_config(make_faces(tmp_path / "faces"), tmp_path / "trained", steps=2), stage="prior")
    prior = train(config).weights
    command = ("sample", prior, "--count", 2, "-o", tmp_path / "drawn", "--size", 64, *OPTIONS)
    assert call(*command) == 0
    assert "faces of 32 pixels. They are enlarged to 64" in " ".join(capsys.readouterr().err.split())
    pairs = ("retouch", tmp_path / "drawn", "-o", tmp_path / "pairs", "--seed", 3, "--keep-alignment")
    assert call(*pairs) == 0
    for name in ("000000", "000001"):
        gt, lq = (pixels_of(tmp_path / "pairs" / part / f"{name}.png") for part in ("gt", "lq"))
        assert np.array_equal(gt, pixels_of(tmp_path / "drawn" / f"{name}.png"))
        assert not np.array_equal(gt, lq)


def test_the_same_command_draws_nothing_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prior = write_prior(tmp_path / "prior.safetensors")
    command = ("sample", prior, "-o", tmp_path / "set", *OPTIONS, "--json", "--count")
    assert call(*command, 3) == 0
    assert records(capsys)[1] == {"made": 3, "done_before": 0, "output": str(tmp_path / "set")}
    assert call(*command, 4) == 0
    assert records(capsys)[1] == {"made": 1, "done_before": 3, "output": str(tmp_path / "set")}
    with (tmp_path / "set" / "index.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["file"] for row in csv.DictReader(stream)] == [f"{index:06d}.png" for index in range(4)]


def test_weights_are_a_file_or_a_name_of_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    released = write_prior(tmp_path / "weights" / "stylegan2-ffhq-512.safetensors")  # a converted file has no checksum
    folder = ("--weights-dir", released.parent)
    assert call("sample", "stylegan2-ffhq-512", "--count", 1, "-o", tmp_path / "one", *OPTIONS, *folder) == 0
    assert call("sample", released, "--count", 1, "-o", tmp_path / "two", *OPTIONS) == 0
    assert (tmp_path / "one/000000.png").read_bytes() == (tmp_path / "two/000000.png").read_bytes()
    capsys.readouterr()
    assert call("sample", "stylegan2-ffhq-512", "--count", 1, "-o", tmp_path / "three", *OPTIONS) == 3
    assert "gfprestore weights fetch stylegan2-ffhq-512" in " ".join(capsys.readouterr().err.split())


def test_other_networks_are_refused_with_the_next_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = GFPGANConfig.from_widths("clean", size=32, narrow=1 / 32, channel_multiplier=1, style_dim=32, mlp_layers=2)
    networks = {
        "GFP-GAN, a face restorer": GFPGAN(sizes),
        "a background network": SRVGGNetCompact(SRVGGConfig(2, 4, 1)),
    }
    for words, network in networks.items():
        torch.save({"params_ema": network.state_dict()}, tmp_path / "net.pth")
        assert call("sample", tmp_path / "net.pth", "--count", 1, "-o", tmp_path / "set", *OPTIONS) == 3
        told = " ".join(capsys.readouterr().err.split())
        assert f"{words}, not a face prior" in told and "gfprestore train --stage prior" in told
    assert call("sample", "compact-restorer", "--count", 1, "-o", tmp_path / "set", *OPTIONS) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "compact-restorer is a restorer, not a prior" in told and "decoder within a face restorer" in told
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("weights", "count", "code", "words"),
    [
        ("missing.pth", 1, 3, "missing.pth does not exist"),
        ("no/folder", 1, 3, "does not exist"),
        ("stylegan", 1, 2, "Did you mean stylegan2-ffhq-512?"),
        ("missing.pth", 0, 2, "--count must be 1 or more, not 0"),
    ],
)
def test_a_wrong_file_name_or_count_is_told(
    weights: str, count: int, code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("sample", weights, "--count", count, "-o", tmp_path / "set", *OPTIONS) == code
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "set").exists()
