"""The level estimator: its size, its range, and that it learns what it is for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gfprestore.networks.configs import HATConfig, LevelEstimatorConfig
from gfprestore.networks.hat import HAT
from gfprestore.networks.level_estimator import LevelEstimator, config_from_state

TINY = LevelEstimatorConfig(channels=(8, 16), hidden=24)


def test_the_default_has_the_parameters_that_its_layers_add_up_to() -> None:
    widths = (51, 48, 48, 64, 64, 96, 96, 128, 128)
    convolutions = sum(9 * before * after + 3 * after for before, after in zip(widths[:-1], widths[1:], strict=True))
    with torch.device("meta"):
        network = LevelEstimator(LevelEstimatorConfig())
    expected = convolutions + (128 * 16 + 27 + 1) * 128 + 129 * 6
    assert sum(parameter.numel() for parameter in network.parameters()) == expected == 772_086


def test_faces_of_256_pixels_give_six_levels_from_0_to_1_that_start_near_the_mean() -> None:
    network = LevelEstimator(LevelEstimatorConfig()).eval()
    with torch.no_grad():
        levels = network(torch.rand(2, 3, 256, 256) * 2 - 1)
    assert levels.shape == (2, 6) and levels.dtype == torch.float32
    assert (levels - 0.48).abs().max() < 0.4


def test_levels_are_limited_unless_training_needs_their_gradient() -> None:
    network = LevelEstimator(TINY).eval()
    last = network.head[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([-0.5, 0, 0.25, 0.75, 1, 1.5]))
        faces = torch.rand(1, 3, 32, 32)
        assert network(faces).tolist() == [[0, 0, 0.25, 0.75, 1, 1]]
        assert network(faces, clamp=False).tolist() == [[-0.5, 0, 0.25, 0.75, 1, 1.5]]


def test_brightness_and_position_of_a_spot_are_learned() -> None:
    network = LevelEstimator(TINY, dropout=0.0)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)

    def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        truth = torch.rand(count, 6)
        faces = (truth[:, 0].view(-1, 1, 1, 1) - 0.5).expand(-1, 3, 32, 32).clone()
        columns = torch.arange(32) / 31
        faces += torch.exp(-((columns - truth[:, 1].view(-1, 1, 1, 1)) ** 2) / 0.02)
        return faces, truth

    for _ in range(150):
        faces, truth = batch(16)
        loss = (network(faces, clamp=False) - truth)[:, :2].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    faces, truth = batch(64)
    with torch.no_grad():
        errors = (network.eval()(faces) - truth).square().mean(0)
    assert (errors[:2] < 0.25 / 12).all(), "a quarter of the variance of the levels"
    assert (errors[2:] > 0.5 / 12).all(), "nothing in the faces tells the others"


def test_a_face_does_not_depend_on_the_others_of_its_batch() -> None:
    network, faces = LevelEstimator(TINY).eval(), torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        assert (network(faces)[1:2] - network(faces[1:2])).abs().max() <= 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same_levels(dtype: torch.dtype) -> None:
    network, faces = LevelEstimator(TINY).eval().to(memory_format=torch.channels_last), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(faces)
        with torch.autocast("cpu", dtype):
            autocast = network(faces)
        whole = network.to(dtype)(faces)
    for levels in (autocast, whole):
        assert levels.dtype == torch.float32
        assert (levels - expected).abs().max() < 0.02


@pytest.mark.parametrize("config", [LevelEstimatorConfig(), TINY, LevelEstimatorConfig(channels=(16,), hidden=3)])
def test_sizes_are_told_from_the_shapes(config: LevelEstimatorConfig) -> None:
    network = LevelEstimator(config)
    assert config_from_state(network.state_dict()) == config


def test_other_networks_are_not_taken_for_a_level_estimator() -> None:
    assert config_from_state({}) is None
    hat = HAT(HATConfig(embed_dim=12, depths=(1,), heads=2, compress_ratio=3, squeeze_factor=6))
    assert config_from_state(hat.state_dict()) is None
    state = LevelEstimator(TINY).state_dict()
    assert config_from_state({**state, "head.3.weight": torch.zeros(5, 24)}) is None
    assert config_from_state({**state, "features.0.weight": torch.zeros(7, 51, 3, 3)}) is None


def test_impossible_sizes_are_refused() -> None:
    for channels, hidden in (((), 8), ((12,), 8), ((8,), 0)):
        with pytest.raises(ValueError, match="multiples of 8"):
            LevelEstimatorConfig(channels=channels, hidden=hidden)
