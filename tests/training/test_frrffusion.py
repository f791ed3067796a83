"""FRRffusion's two stages: what they learn, exact resuming, what the exports hold, and files that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from doubles import call, logged
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from samples import pixels_of, save
from torch import Tensor

from gfprestore.data.retouch_folder import RetouchOptions, retouch_folder
from gfprestore.errors import FolderError, UsageError, WeightsMismatchError
from gfprestore.networks.configs import GFPGANConfig, HATConfig
from gfprestore.networks.frrffusion import FRRffusion
from gfprestore.networks.gfpgan import GFPGAN
from gfprestore.networks.hat import HAT
from gfprestore.restoration.frrffusion import FRRffusionRestorer
from gfprestore.restoration.options import ReversalOptions
from gfprestore.training.cascade import reversed_faces
from gfprestore.training.config import TrainConfig, TrainSettings, make_config
from gfprestore.training.distributed import World
from gfprestore.training.hfdg import initialize_enlarging
from gfprestore.training.plan import plan
from gfprestore.training.preset_table import HFDG_COMPACT
from gfprestore.training.train import first_stage, open_retouched, open_stream, train
from gfprestore.weights.checkpoints import load_network
from gfprestore.weights.store import WeightsStore

CPU = torch.device("cpu")
TINY_FMAR = ("fmar.attention=", "fmar.channels=16", "fmar.multipliers=1,2", "level_estimator.channels=8,8")
TINY_HFDG = ("hfdg.embed_dim=12", "hfdg.depths=2", "hfdg.heads=2", "hfdg.window_size=4", "hfdg.overlap_window_size=6",
             "hfdg.compress_ratio=3", "hfdg.squeeze_factor=3", "hfdg.features=8", "cascade_faces=2")  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four faces of noise, retouched without a detector, 128 pixels a side."""
    folder = tmp_path_factory.mktemp("frrffusion")
    for number in range(4):
        random = np.random.default_rng(number)
        tones = cv2.resize(random.uniform(60, 200, (16, 16, 3)), (128, 128), interpolation=cv2.INTER_CUBIC)
        save(folder / "faces" / f"{number}.png", np.clip(tones, 0, 255).astype(np.uint8))
    options = RetouchOptions(3, "mixed", keep_alignment=True, untouched=0.0)
    retouch_folder(folder / "faces", folder / "pairs", options)
    return folder / "pairs"


def config_of(data: Path, output: Path, stage: str, weights: Path | None = None, **options: Any) -> TrainConfig:
    settings = TrainSettings(
        weights=weights, device="cpu", workers=0, log_every=1, save_every=options.pop("save_every", 50)
    )
    tiny = [f"reversal.{value}" for value in (TINY_FMAR if stage == "fmar" else TINY_HFDG)]
    defaults: dict[str, Any] = {"steps": 4, "batch_size": 2, "size": 32}
    preset = options.pop("preset", "frrffusion-compact")
    values = [*tiny, *options.pop("values", ())]
    return make_config(data, output, preset, settings, stage=stage, values=values, **{**defaults, **options})


def log_of(output: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in ("images_per_second", "data_wait")} for line in lines]


def disc_pairs(folder: Path, count: int, seed: int) -> Path:
    """Discs of random radius, in the authors' layout: the retouched one is smaller by a fifth, and brighter."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:32, 0:32] - 15.5
    distance = np.hypot(rows, columns)

    def disc(radius: float, brightness: float) -> NDArray[np.uint8]:
        inside = np.clip(radius - distance + 0.5, 0, 1)
        return np.repeat(np.rint(40 + (60 + brightness) * inside)[..., None], 3, axis=2).astype(np.uint8)

    for number in range(count):
        radius = random.uniform(5, 14)
        save(folder / "rawimage" / f"{number}.png", disc(radius, 60))
        save(folder / "deimage" / f"face{number}.png", disc(0.8 * radius, 110))
    return folder


def signed(folder: Path, part: str, count: int) -> Tensor:
    pixels = np.stack([pixels_of(folder / part.format(number)) for number in range(count)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_a_small_fmar_learns_what_a_retouching_did(tmp_path: Path) -> None:
    values = ["learning_rate=2e-3", "ema_half_life=20", "reversal.fmar.attention=", "reversal.fmar.channels=32",
              "reversal.fmar.multipliers=1,2", "reversal.fmar.blocks=1", "reversal.fmar.prediction=x0"]  # fmt: skip
    data = disc_pairs(tmp_path / "train", 120, 0)
    settings = TrainSettings(device="cpu", workers=0, log_every=100, sample_every=1000, save_every=1000)
    config = make_config(data, tmp_path / "out", "frrffusion", settings, stage="fmar", values=values, steps=250,
                         batch_size=8, size=32)  # fmt: skip
    network = load_network(train(config).weights, "restorer")
    assert isinstance(network.module, FRRffusion)
    restorer = FRRffusionRestorer(network.module, "tiny", CPU, options=ReversalOptions(sampling_steps=10))
    unseen = disc_pairs(tmp_path / "test", 32, 1)
    retouched, original = signed(unseen, "deimage/face{}.png", 32), signed(unseen, "rawimage/{}.png", 32)
    seeds = list(range(32))
    before = (retouched - original).square().mean()
    after = (restorer.reverse(retouched, seeds).at_256 - original).square().mean()
    assert after <= 0.25 * before
    shuffled = (restorer.reverse(retouched.roll(1, 0), seeds).at_256 - original).square().mean()
    assert shuffled > before


@pytest.mark.parametrize("stage", ["fmar", "hfdg"])
def test_resuming_gives_the_same_weights_and_the_same_log(pairs: Path, tmp_path: Path, stage: str) -> None:
    whole = train(config_of(pairs, tmp_path / "whole", stage, steps=6))
    config = config_of(pairs, tmp_path / "half", stage, steps=6, save_every=3)
    with pytest.raises(KeyboardInterrupt):
        train(config, progress=_interrupt_after(4))
    resumed = train(config)
    assert resumed.steps_now == 3
    assert log_of(tmp_path / "half") == log_of(tmp_path / "whole")
    ours, theirs = load_file(resumed.weights), load_file(whole.weights)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def _interrupt_after(step: int) -> Any:
    def progress(now: Any) -> None:
        if now.step == step:
            raise KeyboardInterrupt

    return progress


def test_the_second_stage_writes_both_and_has_seen_the_first_ones_results(pairs: Path, tmp_path: Path) -> None:
    first = train(config_of(pairs, tmp_path / "fmar", "fmar")).weights
    lines: list[str] = []
    with logged(lines):
        both = train(config_of(pairs, tmp_path / "hfdg", "hfdg", first)).weights
    assert any("For 2 of them, first-stage results are used too" in line for line in lines)
    results = sorted((tmp_path / "hfdg").glob("first-stage-*/*.png"))
    assert len(results) == 2
    assert all(pixels_of(path).shape == (32, 32, 3) for path in results)  # a quarter of 128
    before, after = load_file(first), load_file(both)
    assert {name.partition(".")[0] for name in after} == {"fmar", "level_estimator", "hfdg"}
    assert all(torch.equal(before[name], after[name]) for name in before)
    network = load_network(both, "restorer")
    assert network.name == "frrffusion"
    module = network.module
    assert isinstance(module, FRRffusion)
    restored = FRRffusionRestorer(module, "tiny", CPU).restore(torch.zeros(1, 3, 32, 32))
    assert restored.shape == (1, 3, 128, 128)


def test_first_stage_results_are_computed_again_for_other_pairs_in_the_same_folder(pairs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pairs"
    shutil.copytree(pairs, copy)
    first = train(config_of(copy, tmp_path / "fmar", "fmar", steps=2)).weights
    config = config_of(copy, tmp_path / "hfdg", "hfdg", first, steps=2)
    save(copy / "gt" / "0.png", np.zeros((64, 64, 3), np.uint8))
    lines: list[str] = []
    with logged(lines):
        folders = {path.parent for path in reversed_faces(config, lambda: first_stage(config, CPU), CPU).values()}
    shutil.rmtree(copy)
    retouch_folder(pairs.parent / "faces", copy, RetouchOptions(4, "mixed", keep_alignment=True, untouched=0.0))
    again = reversed_faces(config, lambda: first_stage(config, CPU), CPU)
    assert len(again) == 2
    assert folders.isdisjoint(path.parent for path in again.values())


@pytest.mark.parametrize(("size", "multipliers"), [(32, (1, 2, 2, 2)), (64, (1, 2, 3, 4)), (128, (1, 1, 2, 3, 4))])
def test_the_papers_preset_trains_at_the_authors_other_sizes(size: int, multipliers: tuple[int, ...]) -> None:
    config = make_config(Path("pairs"), Path("out"), "frrffusion", stage="fmar", size=size)
    fmar = config.preset.reversal_network("fmar").fmar
    assert fmar is not None
    assert (fmar.size, fmar.multipliers) == (size, multipliers)


def test_an_estimator_that_is_trained_alone_sees_varied_faces(pairs: Path, tmp_path: Path) -> None:
    def sample(*values: str) -> tuple[Tensor, Tensor]:
        config = make_config(pairs, tmp_path, "frrffusion-compact", stage="fmar", size=128, values=values)
        first = open_retouched(config)[0]
        return first.lq, first.gt

    plain = sample()
    unvaried = sample("reversal.only_estimator=true", "reversal.variations=false")
    varied = sample("reversal.only_estimator=true")
    assert torch.equal(plain[0], unvaried[0])
    assert (varied[0] - plain[0]).abs().mean() > 0.01
    assert torch.equal(varied[1], plain[1])


def test_images_without_a_partner_are_told(tmp_path: Path) -> None:
    discs = disc_pairs(tmp_path / "discs", 3, 0)
    (discs / "deimage" / "face1.png").unlink()
    config = make_config(discs, tmp_path / "out", "frrffusion", TrainSettings(device="cpu"), stage="fmar", size=32,
                         values=["reversal.fmar.attention="])  # fmt: skip
    lines: list[str] = []
    with logged(lines):
        assert open_stream(config, WeightsStore(), CPU, World()).count == 2
    assert any("1 images in" in line and "1.png has no retouched image face1" in line for line in lines)


def test_level_0_passes_through_and_the_levels_are_learned_from_the_table(pairs: Path, tmp_path: Path) -> None:
    report = train(config_of(pairs, tmp_path / "out", "fmar", steps=2))
    assert {"reconstruction", "field", "levels"} <= log_of(tmp_path / "out")[0].keys()
    module = load_network(report.weights, "restorer").module
    assert isinstance(module, FRRffusion)
    faces = torch.rand(2, 3, 32, 32) * 2 - 1
    result = FRRffusionRestorer(module, "tiny", CPU).reverse(faces, [1, 2], torch.zeros(2, 6))
    assert torch.equal(result.at_256, faces)


def test_the_estimator_alone_can_be_trained_further(pairs: Path, tmp_path: Path) -> None:
    first = train(config_of(pairs, tmp_path / "fmar", "fmar")).weights
    config = config_of(pairs, tmp_path / "more", "fmar", first, values=["reversal.only_estimator=true"])
    further = train(config).weights
    assert log_of(tmp_path / "more")[0].keys() == {"step", "levels", "rate"}
    before, after = load_file(first), load_file(further)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert changed
    assert all(name.startswith("level_estimator.") for name in changed)


def test_a_new_transformer_enlarges_about_bilinearly() -> None:
    hat = HAT(HFDG_COMPACT, drop_path=0.0).eval()
    initialize_enlarging(hat)
    lq = F.interpolate(torch.rand(1, 3, 8, 8), size=32, mode="bicubic").clamp(0, 1) * 2 - 1
    with torch.no_grad():
        error = hat(lq) - F.interpolate(lq, scale_factor=4, mode="bilinear")
    assert error.abs().mean() < 0.06


def test_a_damaged_pair_is_skipped_and_named(pairs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pairs"
    for path in pairs.rglob("*"):
        if path.is_file():
            (copy / path.relative_to(pairs)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(pairs)).write_bytes(path.read_bytes())
    save(copy / "lq" / "2.png", np.zeros((64, 64, 3), np.uint8))
    lines: list[str] = []
    with logged(lines):
        train(config_of(copy, tmp_path / "out", "fmar", steps=6))
    (line,) = [line for line in lines if line.startswith("Skipped")]
    assert "2.png has 64 pixels a side, but its original" in line
    assert "has 128" in line


def test_data_and_weights_that_do_not_fit_are_refused(pairs: Path, tmp_path: Path) -> None:
    save(tmp_path / "faces" / "a.png", np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(FolderError, match="not a set of retouched faces"):
        train(config_of(tmp_path / "faces", tmp_path / "a", "fmar"))
    discs = disc_pairs(tmp_path / "discs", 2, 0)
    with pytest.raises(FolderError, match="levels of retouching of the pairs .* are unknown"):
        train(config_of(discs, tmp_path / "b", "fmar"))
    gfpgan = GFPGANConfig.from_widths("clean", size=64, narrow=0.0625, channel_multiplier=1, style_dim=8, mlp_layers=1)
    save_file(GFPGAN(gfpgan).state_dict(), tmp_path / "gfpgan.safetensors")
    with pytest.raises(WeightsMismatchError, match=r"is gfpgan-clean, but the stage fmar needs FRRffusion"):
        train(config_of(pairs, tmp_path / "c", "fmar", tmp_path / "gfpgan.safetensors"))
    large = HAT(HATConfig(embed_dim=24, depths=(2, 2), heads=2, window_size=4, overlap_window_size=6, compress_ratio=3,
                          squeeze_factor=3, features=8))  # fmt: skip
    save_file(large.state_dict(), tmp_path / "hat-l.safetensors")
    differences = "embed_dim 24 instead of 12, depths 2,2 instead of 2"
    with pytest.raises(WeightsMismatchError, match=rf"HFDG \(HAT\) in .* other sizes than .*: {differences}\. Use"):
        train(config_of(pairs, tmp_path / "d", "hfdg", tmp_path / "hat-l.safetensors"))


def test_sizes_that_contradict_one_another_are_a_usage_error(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="multiple of 8"):
        config_of(pairs, tmp_path / "a", "fmar", size=36)
    with pytest.raises(UsageError, match="not a multiple of HFDG's windows"):
        config_of(pairs, tmp_path / "b", "hfdg", size=40)
    with pytest.raises(UsageError, match="not a preset of the stage fmar"):
        make_config(pairs, tmp_path / "c", "compact", stage="fmar")
    with pytest.raises(UsageError, match="--ablation is not supported in the stage hfdg"):
        make_config(pairs, tmp_path / "d", "frrffusion", stage="hfdg", ablation="no-prior")
    with pytest.raises(UsageError, match="--without is not supported in the stage fmar"):
        make_config(pairs, tmp_path / "e", "frrffusion", stage="fmar", without=["identity"])


def test_the_plan_names_data_networks_and_losses(pairs: Path, tmp_path: Path) -> None:
    rows = dict(plan(make_config(pairs, tmp_path / "out", "frrffusion-compact", stage="fmar")))
    assert rows["data"].startswith("4 pairs in ")
    assert rows["network"] == "FMAR 5,030,232 parameters, level estimator 772,086 parameters"
    assert rows["losses"] == "weighted L1 of x0, field x 0.05, levels x 1"
    assert not (tmp_path / "out").exists()
    paper = dict(plan(make_config(pairs, tmp_path / "out", "frrffusion", stage="fmar")))
    assert paper["network"] == "FMAR 124,056,707 parameters"
    assert dict(plan(make_config(pairs, tmp_path / "out", "frrffusion", stage="hfdg")))["network"] == (
        "HFDG (HAT) 20,772,507 parameters"
    )
    assert call("train", "--data", pairs, "--stage", "fmar", "--preset", "frrffusion", "--dry-run") == 0
