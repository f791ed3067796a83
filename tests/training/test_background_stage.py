"""The background stage: pairs of the teacher, training of the student, exported files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from samples import save
from torch import Tensor, nn

from gfprestore.data.face_dataset import Sample
from gfprestore.errors import FolderError, UsageError, WeightsMismatchError, WeightsMissingError
from gfprestore.networks.rrdbnet import RRDBNet, RRDBNetConfig
from gfprestore.networks.srvgg import SRVGGConfig, SRVGGNetCompact
from gfprestore.restoration.background import NetworkBackground
from gfprestore.training.background import BackgroundRecipe, open_student, open_teacher, toned
from gfprestore.training.config import TrainConfig, make_config
from gfprestore.training.distillation import PART, make_pairs, missing_parts, open_patches, pairs_folder, read_pairs
from gfprestore.training.distributed import World
from gfprestore.training.loss_networks import LossNetworks
from gfprestore.training.plan import plan
from gfprestore.training.preset_table import BACKGROUND_PRESETS
from gfprestore.training.presets import Distillation, LossWeights
from gfprestore.training.recipe import Batch
from gfprestore.training.train import train
from gfprestore.weights.checkpoints import load_network, load_state, read_metadata
from gfprestore.weights.store import WeightsStore

CPU = torch.device("cpu")
L1 = LossWeights(reconstruction=1.0, perceptual=0, pyramid=0, adversarial=0, components=0, component_style=0,
                 identity=0)  # fmt: skip


class Doubling:
    """A teacher with a known output: every pixel four times, ten levels brighter."""

    name = "doubling"

    def __init__(self) -> None:
        self.calls = 0

    def enlarge(self, pixels: NDArray[Any], upscale: float, **_options: Any) -> NDArray[Any]:
        self.calls += 1
        assert upscale == 2
        doubled = pixels.repeat(2, axis=0).repeat(2, axis=1)
        return np.minimum(doubled.astype(int) + 10, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "photos"
    random = np.random.default_rng(3)
    for number in range(3):
        coarse = random.integers(0, 240, (9, 9, 3), dtype=np.uint8)
        save(folder / f"{number}.png", np.asarray(cv2.resize(coarse, (90, 70), interpolation=cv2.INTER_NEAREST)))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> WeightsStore:
    """Weights of a tiny teacher under the name of the released one."""
    torch.manual_seed(1)
    network = RRDBNet(RRDBNetConfig(scale=4, features=8, growth=4, blocks=1))
    nn.init.constant_(network.conv_last.bias, 0.5)
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file(network.state_dict(), folder / "real-esrgan-x4plus.safetensors")
    return WeightsStore(folder, offline=True)


def config_of(data: Path, output: Path, patches: int = 5, tone_radius: int = 3, **options: Any) -> TrainConfig:
    """Configuration of a student with 8 features; `options` are values of the config or of the preset."""
    config = make_config(data, output, "compact", stage="background")
    distillation = Distillation(
        features=8, convolutions=2, tone_radius=tone_radius, patches=patches, patch_size=24, rim=4, shrink=(1.0, 1.5)
    )
    tiny: dict[str, Any] = {"size": 16, "batch_size": 2, "steps": 4, "losses": L1, "distillation": distillation}
    of_config = {name: value for name, value in options.items() if name in TrainConfig.__dataclass_fields__}
    of_preset = {name: value for name, value in options.items() if name not in of_config}
    usual: dict[str, Any] = {"device": "cpu", "workers": 0, "log_every": 1, "sample_every": 1000, "save_every": 1000}
    return replace(config, preset=replace(config.preset, **{**tiny, **of_preset}), **{**usual, **of_config})


def factory_of(teacher: Doubling) -> Callable[[], Doubling]:
    return lambda: teacher


def levels(tensor: Tensor) -> NDArray[np.int64]:
    """Convert (3, H, W) in [-1, 1] to levels (H, W, 3) of 255."""
    return np.rint((tensor.permute(1, 2, 0).numpy() + 1) * 127.5).astype(int)


def log_of(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def test_every_piece_is_of_the_same_place_in_both_images_however_it_is_turned(data: Path, tmp_path: Path) -> None:
    config = config_of(data, tmp_path)
    make_pairs(config, factory_of(Doubling()))
    pairs = read_pairs(config)
    assert pairs.count == 5
    seen = set()
    for position in range(40):
        sample = pairs[position]
        lq, gt = levels(sample.lq), levels(sample.gt)
        assert lq.shape == (16, 16, 3)
        np.testing.assert_array_equal(gt, np.minimum(lq.repeat(2, axis=0).repeat(2, axis=1) + 10, 255))
        assert np.isnan(sample.boxes.numpy()).all()
        seen.add(lq.tobytes())
    assert len(seen) > 35
    assert torch.equal(read_pairs(config)[17].lq, pairs[17].lq)


def test_pairs_are_what_run_makes_of_the_patches_with_the_rim_cut_off(
    data: Path, tmp_path: Path, store: WeightsStore
) -> None:
    config = config_of(data, tmp_path / "out")
    teacher = open_teacher(config, store, CPU)
    make_pairs(config, lambda: teacher)
    pairs = read_pairs(config)
    patch = open_patches(config).patch(3)
    assert patch.shape == (32, 32, 3)
    np.testing.assert_array_equal(pairs.lq[3], patch[4:28, 4:28])
    np.testing.assert_array_equal(pairs.gt[3], teacher.enlarge(patch, 2)[8:56, 8:56])


def test_existing_part_files_are_not_computed_again(data: Path, tmp_path: Path) -> None:
    config = config_of(data, tmp_path, patches=3 * PART - 5)
    teacher = Doubling()
    make_pairs(config, factory_of(teacher))
    assert (teacher.calls, missing_parts(config)) == (3 * PART, [])
    whole = read_pairs(config)
    assert whole.count == 3 * PART - 5
    (pairs_folder(config) / "00001.npz").unlink()
    make_pairs(config, factory_of(teacher))
    assert teacher.calls == 4 * PART
    np.testing.assert_array_equal(read_pairs(config).gt, whole.gt)

    def unwanted() -> Doubling:
        raise AssertionError("nothing is missing")

    make_pairs(config, unwanted)


def test_several_processes_share_the_parts(data: Path, tmp_path: Path) -> None:
    alone, together = (config_of(data, tmp_path / name, patches=3 * PART) for name in ("alone", "together"))
    make_pairs(alone, factory_of(Doubling()))
    first, second = Doubling(), Doubling()
    make_pairs(together, factory_of(first), World(0, 2))
    make_pairs(together, factory_of(second), World(1, 2))
    assert (first.calls, second.calls) == (2 * PART, PART)
    np.testing.assert_array_equal(read_pairs(together).lq, read_pairs(alone).lq)


def test_pairs_of_other_settings_lie_elsewhere(data: Path, tmp_path: Path) -> None:
    config = config_of(data, tmp_path)
    preset = config.preset
    assert preset.distillation is not None
    others = [
        replace(config, seed=1),
        replace(config, preset=replace(preset, distillation=replace(preset.distillation, clean=0.5))),
        replace(config, preset=replace(preset, degradation=replace(preset.degradation, noise=(0, 1)))),
    ]
    more = replace(config, preset=replace(preset, distillation=replace(preset.distillation, patches=100)))
    folders = {pairs_folder(each) for each in (config, *others)}
    assert len(folders) == 4
    assert pairs_folder(more) == pairs_folder(config)


def test_a_damaged_part_is_named(data: Path, tmp_path: Path) -> None:
    config = config_of(data, tmp_path)
    make_pairs(config, factory_of(Doubling()))
    part = pairs_folder(config) / "00000.npz"
    part.write_bytes(part.read_bytes()[:500])
    with pytest.raises(FolderError, match=r"00000\.npz cannot be read.*compute it again"):
        read_pairs(config)


def test_the_student_approaches_the_teacher(data: Path, tmp_path: Path, store: WeightsStore) -> None:
    config = config_of(
        data, tmp_path / "out", tone_radius=0, steps=80, learning_rate=8e-3, milestones=(), ema_half_life=5.0
    )
    make_pairs(config, factory_of(Doubling()))
    train(config, store=store)
    losses = [line["reconstruction"] for line in log_of(config.output)]
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:3])
    background = NetworkBackground(
        load_network(config.output / "background.safetensors").module,
        "student",
        CPU,
        torch.float32,  # type: ignore[arg-type]
    )
    gray = np.full((40, 40, 3), 120, np.uint8)
    assert abs(background.enlarge(gray, 2).astype(int) - 130).mean() < 5  # 10 levels lighter, as it was taught


def test_a_student_that_keeps_tones_ignores_those_of_the_teacher(data: Path, tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(3)
    lq = torch.rand(2, 3, 20, 20, generator=random) * 2 - 1
    repeated = lq.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(toned(repeated + 0.2, lq, 3), repeated)
    assert torch.equal(toned(repeated + 0.2, lq, 0), repeated + 0.2)
    detail = torch.rand(2, 3, 40, 40, generator=random)
    keeper = SRVGGNetCompact(SRVGGConfig(2, 8, 2, tone_radius=3))
    expected = repeated + F.pixel_shuffle(keeper._toneless(F.pixel_unshuffle(detail, 2)), 2)
    torch.testing.assert_close(toned(repeated + detail, lq, 3), expected)

    def losses(tone_radius: int) -> list[float]:
        config = config_of(data, tmp_path, tone_radius=tone_radius)
        recipe = BackgroundRecipe(config, None, LossNetworks(), CPU)
        batches = (Batch(Sample(lq, repeated + detail + tone, torch.zeros(2, 3, 4)), [0, 1]) for tone in (0.0, 0.2))
        return [recipe.losses_of(batch, 1)["reconstruction"].item() for batch in batches]

    keeping, free = losses(3), losses(0)
    assert keeping[1] == pytest.approx(keeping[0], rel=1e-4)
    assert free[1] > free[0] + 0.1 > 0.1


def test_a_resumed_training_ends_with_the_same_bits_as_one_that_was_never_stopped(
    data: Path, tmp_path: Path, store: WeightsStore
) -> None:
    whole = config_of(data, tmp_path / "whole", steps=5)
    stopped = replace(whole, output=tmp_path / "stopped")
    train(whole, store=store)
    train(replace(stopped, preset=replace(stopped.preset, steps=3)), store=store)
    report = train(stopped, store=store)
    assert (report.step, report.steps_now) == (5, 2)
    first, second = (load_state(config.output / "background.safetensors") for config in (whole, stopped))
    assert all(torch.equal(first[name], second[name]) for name in first)
    checkpoints = [torch.load(each.output / "checkpoint.pt", weights_only=True) for each in (whole, stopped)]
    moments = [each["recipe"]["updates"]["optimisers"]["generator"]["state"] for each in checkpoints]
    assert all(torch.equal(moments[0][key]["exp_avg"], moments[1][key]["exp_avg"]) for key in moments[0])
    times = ("images_per_second", "data_wait")
    logs = [[{k: v for k, v in line.items() if k not in times} for line in log_of(each.output)]
            for each in (whole, stopped)]  # fmt: skip
    assert logs[0] == logs[1]


def test_what_is_exported_is_half_precision_says_what_it_is_and_enlarges_by_two(
    data: Path, tmp_path: Path, store: WeightsStore
) -> None:
    config = config_of(data, tmp_path / "out", steps=2, sample_every=2)
    report = train(config, store=store)
    state = load_state(report.weights)
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    metadata = read_metadata(report.weights)
    assert (metadata["network"], metadata["teacher"], metadata["step"]) == ("srvgg", "real-esrgan-x4plus", "2")
    network = load_network(report.weights, "background")
    assert network.config == SRVGGConfig(scale=2, features=8, convolutions=2, tone_radius=3)
    average = torch.load(config.output / "checkpoint.pt", weights_only=True)["recipe"]["average"]
    assert all(torch.equal(average[name].half(), state[name]) for name in average)
    assert (config.output / "samples" / "0000002.png").is_file()


def test_initial_weights_of_other_sizes_are_an_error(data: Path, tmp_path: Path) -> None:
    fitting = SRVGGNetCompact(SRVGGConfig(scale=2, features=8, convolutions=2, tone_radius=3))
    save_file(fitting.state_dict(), tmp_path / "fitting.safetensors")
    save_file(SRVGGNetCompact(SRVGGConfig(4, 8, 2)).state_dict(), tmp_path / "other.safetensors")
    found = open_student(config_of(data, tmp_path, weights=tmp_path / "fitting.safetensors"))
    assert found is not None
    assert torch.equal(found.module.state_dict()["body.2.weight"], fitting.state_dict()["body.2.weight"])
    with pytest.raises(WeightsMismatchError, match="the same sizes"):
        open_student(config_of(data, tmp_path, weights=tmp_path / "other.safetensors"))
    assert open_student(config_of(data, tmp_path)) is None


def test_the_perceptual_loss_sees_a_piece_of_both_images(data: Path, tmp_path: Path, store: WeightsStore) -> None:
    pytest.importorskip("stlpips_pytorch")
    losses = replace(L1, perceptual=0.1)
    config = config_of(data, tmp_path / "out", steps=1, losses=losses, perceptual_crop=32)
    report = train(config, store=store)
    assert report.losses["perceptual"] > 0
    assert report.losses.keys() == {"reconstruction", "perceptual"}


def test_missing_weights_of_the_teacher_are_an_error(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("gfprestore.weights.store.find_packaged_ncnn", lambda: None)
    empty = WeightsStore(tmp_path / "empty", offline=True)
    with pytest.raises(WeightsMissingError, match="real-esrgan-x4plus"):
        train(config_of(data, tmp_path / "out"), store=empty)


def test_the_plan_names_teacher_and_student(data: Path, tmp_path: Path, store: WeightsStore) -> None:
    rows = dict(plan(config_of(data, tmp_path / "out", patches=40), store))
    assert rows["teacher"] == "real-esrgan-x4plus"
    assert rows["data"] == f"3 photos in {data}"
    assert rows["pairs"].startswith("3 of 3 part files are missing")
    assert rows["network"] == "SRVGGNetCompact x2, 8 features, 2 inner convolutions"
    assert rows["losses"] == "reconstruction x 1"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "paper"}, "--preset paper is not a preset of the stage background"),
        ({"preset": "compact", "ablation": "no-prior"}, "--ablation is not supported in the stage background"),
        ({"preset": "compact", "size": 500}, "--size must be from 16 to 112"),
    ],
)
def test_unsupported_options_are_usage_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_config(Path("data"), Path("out"), stage="background", **options)


def test_the_shipped_preset_is_of_the_shipped_sizes() -> None:
    preset = BACKGROUND_PRESETS["compact"]
    assert preset.distillation is not None
    assert preset.losses.used().keys() == {"reconstruction", "perceptual"}
    weights = Path(__file__).parents[2] / "weights" / "compact-background.safetensors"
    network = load_network(weights, "background")
    sizes = preset.distillation
    assert network.config == SRVGGConfig(sizes.scale, sizes.features, sizes.convolutions, tone_radius=sizes.tone_radius)
