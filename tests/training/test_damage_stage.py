"""The stage damage: patches of damaged prints, training of the detector, exported files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from doubles import logged, smooth
from samples import save

from gfprestore.data.damage_patches import DamagePatches, DamagePatchOptions
from gfprestore.errors import FolderError, UsageError, WeightsMismatchError
from gfprestore.networks.configs import DamageUNetConfig
from gfprestore.networks.damage_unet import DamageUNet, config_from_state
from gfprestore.training.config import TrainConfig, TrainSettings, make_config
from gfprestore.training.plan import plan
from gfprestore.training.train import train
from gfprestore.weights.checkpoints import load_network, load_state, read_metadata


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three smooth photos of 160 x 120 pixels."""
    folder = tmp_path_factory.mktemp("damage") / "photos"
    for number in range(3):
        save(folder / f"{number}.png", cv2.resize(smooth(number, 64), (160, 120), interpolation=cv2.INTER_CUBIC))
    return folder


def config_of(photos: Path, output: Path, *values: str, weights: Path | None = None, **options: Any) -> TrainConfig:
    settings = TrainSettings(weights=weights, device="cpu", workers=0, log_every=1, save_every=options.pop("save", 50))
    sizes = ("damage.detector.channels=8,12,16", "damage.warmup=0", "ema_half_life=4")
    return make_config(photos, output, "damage-compact", settings, stage="damage", size=64, batch_size=4,
                       values=(*sizes, *values), **options)  # fmt: skip


def losses_of(output: Path) -> list[float]:
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [line["entropy"] for line in lines if "entropy" in line]


def test_patches_show_damage_where_the_mask_says_so_and_are_repeatable(photos: Path) -> None:
    options = DamagePatchOptions(size=64)
    patches = DamagePatches(photos, options, 3)
    samples = [patches[position] for position in range(40)]
    again = DamagePatches(photos, options, 3)[17]
    assert torch.equal(again.lq, samples[17].lq)
    assert again.mask is not None and torch.equal(again.mask, samples[17].mask)
    assert not torch.equal(DamagePatches(photos, options, 4)[17].lq, again.lq)
    damaged = [sample for sample in samples if sample.mask is not None and bool(sample.mask.any())]
    assert 12 < len(damaged) < 36
    inside, outside = [], []
    for sample in damaged:
        assert sample.mask is not None and set(sample.mask.unique().tolist()) <= {0.0, 1.0}
        difference = (sample.lq.mean(0, keepdim=True) - sample.gt.mean(0, keepdim=True)).abs()  # half are gray
        inside.append(float(difference[sample.mask > 0].mean()))
        outside.append(float(difference[sample.mask == 0].mean()))
    assert np.mean(inside) > 1.8 * np.mean(outside)


def test_clean_patches_have_no_damage(photos: Path) -> None:
    patches = DamagePatches(photos, DamagePatchOptions(size=64, clean=1.0, lettered=1.0), 0)
    for position in range(10):
        sample = patches[position]
        assert sample.mask is not None and not sample.mask.any()


def test_small_and_broken_photos_are_left_out(photos: Path, tmp_path: Path) -> None:
    save(tmp_path / "mixed/small.png", smooth(1, 40))
    (tmp_path / "mixed/broken.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(FolderError, match="None of the 2 photos"):
        DamagePatches(tmp_path / "mixed", DamagePatchOptions(size=64), 0)
    (tmp_path / "mixed/good.png").write_bytes((photos / "0.png").read_bytes())
    patches = DamagePatches(tmp_path / "mixed", DamagePatchOptions(size=64), 0)
    assert [path.name for path in patches.photos] == ["good.png"]
    assert patches[5].lq.shape == (3, 64, 64)
    assert sorted(entry.path.name for entry in patches.left_out) == ["broken.png", "small.png"]
    lines: list[str] = []
    with logged(lines):
        train(config_of(tmp_path / "mixed", tmp_path / "out", steps=1))
    assert any("2 photos in" in line and "are skipped. First problem: " in line for line in lines)


def test_a_tiny_detector_learns_to_find_damage(photos: Path, tmp_path: Path) -> None:
    train(config_of(photos, tmp_path / "out", "learning_rate=0.006", "damage.clean=0", steps=100))
    losses = losses_of(tmp_path / "out")
    network = load_network(tmp_path / "out/damage.safetensors", "damage").module
    patches = DamagePatches(photos, DamagePatchOptions(size=64, clean=0.0), 99)
    found, missed = [], []
    with torch.inference_mode():
        for position in range(24):
            sample = patches[position]
            assert sample.mask is not None
            probability = network((sample.lq[None] + 1) / 2).sigmoid()[0]
            found.append(probability[sample.mask > 0])
            missed.append(probability[sample.mask == 0])
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:5])
    assert torch.cat(found).mean() > 2.5 * torch.cat(missed).mean()


def test_resuming_gives_the_same_weights_and_log(photos: Path, tmp_path: Path) -> None:
    train(config_of(photos, tmp_path / "whole", steps=6))
    train(config_of(photos, tmp_path / "parts", "milestones=", steps=6, save=3))
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")
    half = tmp_path / "half"
    from gfprestore.training import loop

    with pytest.MonkeyPatch.context() as patch:
        finished = loop.fit

        def stopped(recipe: Any, dataset: Any, config: TrainConfig, *arguments: Any, **options: Any) -> Any:
            step = recipe.step

            def limited(batches: Any, number: int, scale: float) -> Any:
                if number > 3:
                    raise KeyboardInterrupt
                return step(batches, number, scale)

            recipe.step = limited
            return finished(recipe, dataset, config, *arguments, **options)

        patch.setattr("gfprestore.training.train.fit", stopped)
        with pytest.raises(BaseException):  # noqa: B017, PT011 (how it ends does not matter here)
            train(config_of(photos, half, steps=6, save=3))
    train(config_of(photos, half, steps=6, save=3))
    one, two = (load_state(tmp_path / name / "damage.safetensors") for name in ("whole", "half"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_files_are_recognized_and_others_refused(photos: Path, tmp_path: Path) -> None:
    train(config_of(photos, tmp_path / "out", steps=1))
    path = tmp_path / "out/damage.safetensors"
    network = load_network(path)
    assert network.role == "damage"
    assert network.config == DamageUNetConfig((8, 12, 16))
    assert read_metadata(path)["network"] == "damage-unet"
    with pytest.raises(WeightsMismatchError, match="a damage detector, not a face restorer"):
        load_network(path, "restorer")
    with pytest.raises(WeightsMismatchError, match="the training needs"):
        train(config_of(photos, tmp_path / "other", "damage.detector.channels=8,16", weights=path, steps=1))
    rows = dict(plan(config_of(photos, tmp_path / "more", weights=path, steps=1)))
    assert rows["start"] == str(path)
    assert rows["network"].startswith("DamageUNet, ")
    with pytest.raises(UsageError, match="from 64 to 1024"):
        make_config(photos, tmp_path, "damage-compact", stage="damage", size=32)
    with pytest.raises(UsageError, match="--without is not supported"):
        make_config(photos, tmp_path, "damage-compact", stage="damage", without=["perceptual"])


def random_network(*channels: int, blocks: int = 1) -> DamageUNet:
    torch.manual_seed(0)
    network = DamageUNet(DamageUNetConfig(channels, blocks)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.05)
    return network


@pytest.mark.parametrize("size", [(1, 1), (31, 50), (64, 64), (97, 33)])
def test_every_size_gives_a_logit_for_each_pixel(size: tuple[int, int]) -> None:
    with torch.inference_mode():
        assert random_network(8, 12, 16)(torch.rand(2, 3, *size)).shape == (2, 1, *size)


def test_a_part_of_a_photo_gives_the_same_as_the_photo_away_from_its_borders() -> None:
    network, photo = random_network(8, 12), torch.rand(1, 3, 96, 96)
    with torch.inference_mode():
        whole, part = network(photo), network(photo[..., 16:80, 16:80])
    assert (whole[..., 40:56, 40:56] - part[..., 24:40, 24:40]).abs().max() < 1e-5
    assert whole.std() > 1e-4


def test_an_untrained_network_finds_nothing_anywhere() -> None:
    with torch.inference_mode():
        probability = DamageUNet(DamageUNetConfig((8, 12)))(torch.rand(1, 3, 32, 32)).sigmoid()
    assert torch.allclose(probability, torch.full_like(probability, 0.01))


def test_sizes_are_read_from_the_tensors() -> None:
    for network in (random_network(8, 12), random_network(4, 8, 12, blocks=2)):
        assert config_from_state(network.state_dict()) == network.config
    assert config_from_state({"enter.weight": torch.zeros(4)}) is None
    with pytest.raises(ValueError, match="two or more positive"):
        DamageUNetConfig((8,))
