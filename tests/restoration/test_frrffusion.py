"""FRRffusion behind the Restorer protocol: start noise, seeds, batches, levels, both stages, small memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubles import Finder, smooth
from safetensors.torch import save_file
from torch import Tensor, nn

from gfprestore.errors import UsageError, WeightsMismatchError
from gfprestore.networks.configs import (
    DiffusionUNetConfig,
    FRRffusionConfig,
    GFPGANConfig,
    HATConfig,
    LevelEstimatorConfig,
)
from gfprestore.networks.diffusion_unet import COMPACT_TIMESTEPS
from gfprestore.networks.frrffusion import FRRffusion, part_of
from gfprestore.networks.gfpgan import GFPGAN
from gfprestore.networks.level_estimator import LevelEstimator
from gfprestore.restoration import frrffusion as module_under_test
from gfprestore.restoration.frrffusion import FRRffusionRestorer, changed_places
from gfprestore.restoration.options import ReversalOptions, RunOptions, parse_levels, reversal_options
from gfprestore.restoration.restoration import Restoration
from gfprestore.weights.checkpoints import load_network

CPU = torch.device("cpu")
PLAIN = DiffusionUNetConfig(size=32, channels=32, multipliers=(1, 2), blocks=1, attention=())
LEVELED = replace(PLAIN, prediction="x0", residual=True, prior_std=0.05, warp=True, levels=True)
ESTIMATOR = LevelEstimatorConfig(channels=(8, 8), hidden=8)
ENLARGER = HATConfig(embed_dim=12, depths=(2,), heads=2, window_size=4, overlap_window_size=6, compress_ratio=3,
                     squeeze_factor=3, features=8)  # fmt: skip
WHOLE = FRRffusionConfig(LEVELED, ESTIMATOR, ENLARGER)


def network(config: FRRffusionConfig, seed: int = 0) -> FRRffusion:
    """Random weights, also in the layers that start at zero."""
    torch.manual_seed(seed)
    module = FRRffusion(config).eval().requires_grad_(False)
    for parameter in module.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.02)
    return module


def restorer_of(config: FRRffusionConfig = WHOLE, **options: Any) -> FRRffusionRestorer:
    return FRRffusionRestorer(network(config), "tiny", CPU, options=ReversalOptions(**options))


def faces(count: int, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_chain_starts_from_normal_noise_of_each_faces_own_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[Tensor] = []

    class Recording:
        def sample_ddim(self, denoiser: Any, x: Tensor, steps: Any, **options: Any) -> Tensor:
            starts.append(x.clone())
            return x

    restorer = restorer_of(FRRffusionConfig(PLAIN))
    monkeypatch.setattr(restorer, "_diffusion", Recording())
    restorer.reverse(faces(6), [5, 6, 7, 8, 9, 10])
    restorer.reverse(faces(1), [7])
    restorer.reverse(faces(1), [11])
    noise = starts[0][2]
    assert torch.equal(starts[1][0], noise)
    assert not torch.equal(starts[2][0], noise)
    assert abs(float(starts[0].mean())) < 0.03
    assert abs(float(starts[0].std()) - 1) < 0.02


@pytest.mark.parametrize("options", [{}, {"sampling_steps": 5, "eta": 1.0}])
def test_a_face_does_not_depend_on_its_batch(options: dict[str, Any]) -> None:
    restorer, crops = restorer_of(**options), faces(6)
    levels = torch.full((6, 6), 0.7)
    together = restorer.reverse(crops, [1, 2, 3, 4, 5, 6], levels)
    again = restorer.reverse(crops, [1, 2, 3, 4, 5, 6], levels)
    assert torch.equal(together.at_256, again.at_256)
    alone = restorer.reverse(crops[2:3], [3], levels[:1])
    other = restorer.reverse(crops[2:3], [4], levels[:1])
    level = 2 / 255
    assert (together.restored[2] - alone.restored[0]).abs().max() < level
    assert (alone.at_256 - other.at_256).abs().max() > (together.at_256[2] - alone.at_256[0]).abs().max()


def test_every_step_of_ddpm_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    config = FRRffusionConfig(replace(PLAIN, timesteps=7))
    restorer = restorer_of(config, sampler="ddpm")
    seen: list[int] = []
    forward = restorer._fmar.forward

    def recording(x: Tensor, timesteps: Tensor, levels: Tensor | None = None) -> Tensor:
        seen.append(int(timesteps[0]))
        return forward(x, timesteps, levels)

    monkeypatch.setattr(restorer._fmar, "forward", recording)
    restorer.reverse(faces(1), [1])
    assert seen == [6, 5, 4, 3, 2, 1, 0]


def test_the_timesteps_are_those_the_network_was_tuned_for() -> None:
    assert restorer_of()._timesteps == COMPACT_TIMESTEPS
    assert restorer_of(sampling_steps=9)._timesteps == 9
    assert restorer_of(FRRffusionConfig(PLAIN))._timesteps == 50


def test_levels_are_estimated_given_with_the_options_or_given_with_the_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = restorer_of()
    estimates = torch.tensor([[0.6] * 6, [0.1] * 6, [0.0, 0.0, 0.9, 0.9, 0.9, 0.0]])
    remaining = list(estimates)
    crops = faces(3)

    def estimated(both: Tensor) -> Tensor:
        assert torch.equal(both[1], both[0].flip(2))  # the face and its mirror image, whose mean counts
        level = remaining.pop(0)
        return torch.stack([level - 0.05, level + 0.05])

    monkeypatch.setattr(restorer._estimator, "forward", estimated)
    result = restorer.reverse(crops, [1, 2, 3])
    assert torch.allclose(result.levels, estimates)
    assert result.untouched.tolist() == [False, True, False]
    assert torch.equal(result.at_256[1], crops[1])
    assert not torch.equal(result.at_256[0], crops[0])
    named = restorer_of(levels=(0.0, 0.0, 0.3, 0.0, 0.0, 0.0)).reverse(crops)
    assert named.levels.tolist() == [pytest.approx([0, 0, 0.3, 0, 0, 0])] * 3
    assert not named.untouched.any()
    assert restorer.reverse(crops, levels=torch.zeros(3, 6)).untouched.all()


def test_without_an_estimator_all_levels_are_full_and_a_plain_network_refuses_levels() -> None:
    without = restorer_of(FRRffusionConfig(LEVELED)).reverse(faces(1))
    assert without.levels.tolist() == [[1.0] * 6]
    with pytest.raises(UsageError, match="does not use levels of retouching"):
        restorer_of(FRRffusionConfig(PLAIN), levels=(1.0,) * 6)


def test_the_second_stage_enlarges_and_small_memory_makes_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = restorer_of()
    monkeypatch.setattr(module_under_test, "HAT_TILE", 16)
    monkeypatch.setattr(module_under_test, "HAT_OVERLAP", 4)
    crops = faces(2)
    whole = restorer.enlarge(crops)
    assert whole.shape == (2, 3, 128, 128)
    assert restorer.output_size == 128
    hfdg = restorer._hfdg
    assert hfdg is not None
    forward = hfdg.forward

    def small(lq: Tensor) -> Tensor:
        if lq.shape[-1] > 16:
            raise torch.OutOfMemoryError("out of memory")
        return forward(lq)

    monkeypatch.setattr(hfdg, "forward", small)
    assert (restorer.enlarge(crops) - whole).abs().mean() < 0.05
    with pytest.raises(UsageError, match="has no second stage"):
        restorer_of(FRRffusionConfig(LEVELED)).enlarge(crops)


def test_what_changed_outside_the_face_is_pasted_and_nothing_else() -> None:
    crops = torch.zeros(2, 3, 256, 256)
    reversed_faces = crops.clone()
    reversed_faces[0, :, 60:90, 20:50] = 20 / 127.5  # twenty levels brighter
    reversed_faces[1] = 2 / 127.5  # two levels, as a network changes any background
    masks = changed_places(crops, reversed_faces, 512)
    assert masks.shape == (2, 512, 512)
    assert masks[0, 130:170, 50:90].min() == 1
    assert masks[0, :, 200:].max() == 0
    assert masks[1].max() == 0
    everywhere = changed_places(crops, crops + 1, 256)[0]
    assert everywhere[128, 128] == 1
    assert everywhere[[0, 128, 255], [128, 0, 128]].max() < 0.1  # no edge where the crop ends


def test_memory_for_two_faces_is_enough_for_six(monkeypatch: pytest.MonkeyPatch) -> None:
    restorer, crops, seeds = restorer_of(), faces(6), [1, 2, 3, 4, 5, 6]
    levels = torch.full((6, 6), 0.5)
    expected = restorer.reverse(crops, seeds, levels)
    sampled = restorer._sampled

    def small(part: Tensor, *arguments: Any) -> Tensor:
        if len(part) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return sampled(part, *arguments)

    monkeypatch.setattr(restorer, "_sampled", small)
    assert (restorer.reverse(crops, seeds, levels).at_256 - expected.at_256).abs().max() < 2 / 255


def test_half_precision_that_overflows_is_computed_again_in_full() -> None:
    module = network(FRRffusionConfig(LEVELED))
    full = FRRffusionRestorer(network(FRRffusionConfig(LEVELED)), "tiny", CPU)
    half = FRRffusionRestorer(module, "tiny", CPU, torch.bfloat16)
    forward = half._fmar.forward

    def broken(x: Tensor, timesteps: Tensor, levels: Tensor | None = None) -> Tensor:
        return forward(x, timesteps, levels) * float("nan")

    half._fmar.forward = broken  # type: ignore[method-assign]
    levels = torch.full((1, 6), 0.5)
    result = half.reverse(faces(1), [1], levels).at_256
    assert not result.isfinite().all()  # the copy in full precision is as broken
    half._fmar.forward = forward  # type: ignore[method-assign]
    close = half.reverse(faces(1), [1], levels).at_256 - full.reverse(faces(1), [1], levels).at_256
    assert close.abs().mean() < 0.05


def test_levels_that_overflow_in_half_precision_are_estimated_again_in_full() -> None:
    config = FRRffusionConfig(LEVELED, ESTIMATOR)
    half = FRRffusionRestorer(network(config), "tiny", CPU, torch.bfloat16)
    full = FRRffusionRestorer(network(config), "tiny", CPU)
    estimator = half._estimator
    assert estimator is not None
    forward = type(estimator).forward

    def overflowing(self: LevelEstimator, retouched: Tensor, *, clamp: bool = True) -> Tensor:
        levels = forward(self, retouched, clamp=clamp)
        return levels * float("nan") if next(self.parameters()).dtype == torch.bfloat16 else levels

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(estimator), "forward", overflowing)
        levels = half.reverse(faces(2), [1, 2]).levels
    assert levels.isfinite().all()
    assert (levels - full.reverse(faces(2), [1, 2]).levels).abs().max() < 0.02


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", None),
        ("60", (0.6,) * 6),
        (" 0 ", (0.0,) * 6),
        ("smooth=30,slim=60", (0.3, 0.0, 0.0, 0.6, 0.0, 0.0)),
        ("brow = 100", (0.0, 0.0, 0.0, 0.0, 0.0, 1.0)),
    ],
)
def test_levels_of_the_command_line(text: str, expected: Sequence[float] | None) -> None:
    assert parse_levels(text) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("text", ["", "101", "-1", "nan", "smooth", "smooth=", "nose=3", "slim=3,slim=4", "slim=101"])
def test_invalid_levels_are_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--retouch-levels"):
        parse_levels(text)


def test_options_that_contradict_one_another_are_a_usage_error() -> None:
    assert reversal_options("auto", "ddim", None, 0.0) is None
    for options in ({"sampler": "euler"}, {"sampling_steps": 0}, {"eta": 1.5}, {"sampler": "ddpm", "eta": 0.5}):
        with pytest.raises(UsageError):
            ReversalOptions(**options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at most 1000"):
        restorer_of(sampling_steps=1001)
    with pytest.raises(UsageError, match="only apply to FRRffusion"):
        Restoration(RunOptions(restorer="none", background="lanczos", reversal=ReversalOptions(eta=1.0)))


@pytest.mark.parametrize("prefixes", [True, False])
def test_files_of_one_part_or_several_are_recognized(tmp_path: Path, prefixes: bool) -> None:
    state = network(WHOLE).state_dict()
    if prefixes:
        save_file(state, tmp_path / "whole.safetensors")
        loaded = load_network(tmp_path / "whole.safetensors", "restorer")
        assert (loaded.name, loaded.config) == ("frrffusion", WHOLE)
        return
    for part, name in (("fmar", "frrffusion-fmar"), ("hfdg", "frrffusion-hfdg")):
        save_file(part_of(state, part), tmp_path / f"{part}.safetensors")
        loaded = load_network(tmp_path / f"{part}.safetensors", "restorer")
        assert (loaded.name, loaded.config.parts) == (name, (part,))


def options_with(weights: Path, **options: Any) -> RunOptions:
    return RunOptions(restorer="frrffusion", weights=weights, detector="mtcnn", device="cpu", offline=True, **options)


def test_files_that_cannot_run_are_refused(tmp_path: Path) -> None:
    state = network(WHOLE).state_dict()
    save_file(part_of(state, "hfdg"), tmp_path / "hfdg.safetensors")
    with pytest.raises(WeightsMismatchError, match=r"has only hfdg of FRRffusion, not its first stage"):
        Restoration(options_with(tmp_path / "hfdg.safetensors"))
    sizes = GFPGANConfig.from_widths("clean", size=64, narrow=0.0625, channel_multiplier=1, style_dim=8, mlp_layers=1)
    save_file(GFPGAN(sizes).state_dict(), tmp_path / "gfpgan.safetensors")
    with pytest.raises(WeightsMismatchError, match="is gfpgan-clean, not FRRffusion"):
        Restoration(options_with(tmp_path / "gfpgan.safetensors"))
    torn = {name: tensor for name, tensor in state.items() if name != "fmar.out.2.weight"}
    save_file(torn, tmp_path / "torn.safetensors")
    with pytest.raises(WeightsMismatchError):
        Restoration(options_with(tmp_path / "torn.safetensors"))


def test_a_photo_keeps_size_and_background_and_an_untouched_face_keeps_every_pixel(tmp_path: Path) -> None:
    save_file(network(WHOLE).state_dict(), tmp_path / "w.safetensors")
    photo = smooth(3, 160)
    restoration = Restoration(options_with(tmp_path / "w.safetensors"))
    restoration.detector = Finder([(80, 80)])
    restoration.parser = None
    assert (restoration.upscale, restoration.background_name) == (1.0, "none")
    given = replace(restoration.options, reversal=ReversalOptions(levels=(1.0,) * 6))
    changed = Restoration(given)
    changed.detector, changed.parser = Finder([(80, 80)]), None
    result = changed.restore(photo)
    assert result.pixels.shape == photo.shape
    assert result.restored_faces == 1
    assert np.array_equal(result.pixels[:20], photo[:20])
    assert not np.array_equal(result.pixels, photo)
    untouched = Restoration(replace(given, reversal=ReversalOptions(levels=(0.0,) * 6)))
    untouched.detector, untouched.parser = Finder([(80, 80)]), None
    kept = untouched.restore(photo)
    assert (kept.restored_faces, kept.untouched_faces) == (0, 1)
    assert np.array_equal(kept.pixels, photo)
