"""SRVGGNetCompact against the official class, its half precision, its sizes told from a state dict."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gfprestore.networks.srvgg import SRVGGConfig, SRVGGNetCompact, config_from_state

TINY = SRVGGConfig(scale=2, features=6, convolutions=3)


def randomized(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=(parameter[0].numel() if parameter.ndim > 1 else 4) ** -0.5)
    return module.eval().requires_grad_(False)


@pytest.mark.usefixtures("official")
@pytest.mark.parametrize(
    "config", [TINY, SRVGGConfig(scale=3, features=8, convolutions=2), SRVGGConfig(), SRVGGConfig(convolutions=16)]
)
def test_random_network_equals_the_official_one(config: SRVGGConfig) -> None:
    from basicsr.archs.srvgg_arch import SRVGGNetCompact as OfficialSRVGG

    official = randomized(OfficialSRVGG(3, 3, config.features, config.convolutions, config.scale, "prelu"))
    ours = SRVGGNetCompact(config)
    ours.load_state_dict(official.state_dict())
    lq = torch.rand(2, 3, 20, 28)
    expected = official(lq)
    actual = ours.eval()(lq)
    assert actual.shape == (2, 3, 20 * config.scale, 28 * config.scale)
    assert expected.std() > 1e-3
    span = expected.abs().max()
    assert (actual / span - expected / span).abs().max() <= 1e-4


def test_the_tones_are_kept_over_every_neighborhood_and_the_radius_is_read_from_the_weights() -> None:
    plain = randomized(SRVGGNetCompact(TINY))
    state = {**plain.state_dict(), "tone_radius": torch.tensor(3.0, dtype=torch.float16)}
    config = config_from_state(state)
    assert config == replace(TINY, tone_radius=3)
    network = SRVGGNetCompact(config).eval()
    network.load_state_dict(state)
    lq = torch.rand(2, 3, 18, 24)
    with torch.no_grad():
        repeated = F.interpolate(lq, scale_factor=2, mode="nearest")
        added, detail = network(lq) - repeated, plain(lq) - repeated
    shrunk = F.interpolate(detail, scale_factor=0.5, mode="area")
    for row, column in ((9, 12), (3, 20), (0, 0), (17, 5)):
        around = shrunk[:, :, max(row - 3, 0) : row + 4, max(column - 3, 0) : column + 4].mean((2, 3))
        here = detail[:, :, 2 * row, 2 * column] - added[:, :, 2 * row, 2 * column]
        assert around.abs().min() > 1e-3
        torch.testing.assert_close(here, around, rtol=1e-4, atol=1e-5)


def test_flat_colors_come_out_as_they_went_in_where_tones_are_kept() -> None:
    network = randomized(SRVGGNetCompact(replace(TINY, tone_radius=2)))
    lq = torch.rand(4, 3, 1, 1).expand(4, 3, 40, 40)
    with torch.no_grad():
        inside = network(lq)[:, :, 24:-24, 24:-24].unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))
    assert (inside - lq[:, :, :1, :1]).abs().max() < 1e-5


def test_lower_precision_leaves_the_first_and_last_layer_and_changes_the_image_little() -> None:
    network = randomized(SRVGGNetCompact(TINY))
    lq = torch.rand(1, 3, 16, 16)
    exact = network(lq)
    lowered = network.lower_precision(torch.bfloat16)
    kept = {name for name, tensor in lowered.state_dict().items() if tensor.dtype == torch.float32}
    assert kept == {"body.0.weight", "body.0.bias", "body.8.weight", "body.8.bias"}
    relative = (lowered(lq) - exact).abs().mean() / exact.abs().mean()
    assert 0 < relative < 2**-6


@pytest.mark.parametrize("config", [TINY, SRVGGConfig(), SRVGGConfig(scale=4, features=64, convolutions=16)])
def test_sizes_are_told_from_the_shapes(config: SRVGGConfig) -> None:
    assert config_from_state(SRVGGNetCompact(config).state_dict()) == config


def test_other_networks_are_not_taken_for_a_srvgg() -> None:
    state = SRVGGNetCompact(TINY).state_dict()
    without_last = {name: tensor for name, tensor in state.items() if not name.startswith("body.8.")}
    assert config_from_state({}) is None
    assert config_from_state(without_last) is None
    assert config_from_state({**state, "body.8.weight": torch.zeros(13, 6, 3, 3)}) is None
    for radius in (torch.tensor(-1.0), torch.tensor(torch.nan), torch.tensor(1e9), torch.zeros(2)):
        assert config_from_state({**state, "tone_radius": radius}) is None
    assert config_from_state({"body.0.rdb1.conv1.weight": torch.zeros(4, 8, 3, 3)}) is None
