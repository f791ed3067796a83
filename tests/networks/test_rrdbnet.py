"""RRDBNet against the official class, its strips, its half precision, its sizes told from a state dict."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gfprestore.networks import rrdbnet
from gfprestore.networks.rrdbnet import RRDBNet, RRDBNetConfig, config_from_state

TINY = RRDBNetConfig(features=8, growth=4, blocks=2)


def randomized(module: nn.Module) -> nn.Module:
    """Weights large enough that every layer shows in the output, and biases that are not zero."""
    for parameter in module.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
        nn.init.normal_(parameter, std=fan_in**-0.5)
    return module.eval().requires_grad_(False)


def official_and_ours(config: RRDBNetConfig) -> tuple[nn.Module, RRDBNet]:
    from basicsr.archs.rrdbnet_arch import RRDBNet as OfficialRRDBNet

    official = OfficialRRDBNet(
        config.channels, config.channels, config.scale, config.features, config.blocks, config.growth
    )
    ours = RRDBNet(config)
    ours.load_state_dict(randomized(official).state_dict())
    return official, ours.eval().requires_grad_(False)


def difference_to_official(config: RRDBNetConfig, height: int, width: int) -> tuple[float, Tensor]:
    official, ours = official_and_ours(config)
    lq = torch.rand(2, 3, height, width)
    expected = official(lq)
    # random weights give values far outside [-1, 1]: bring both to it, so that the difference means something
    span = expected.abs().max()
    return float((ours(lq) / span - expected / span).abs().max()), expected


@pytest.mark.usefixtures("official")
@pytest.mark.parametrize("scale", [4, 2, 1])
def test_tiny_random_network_equals_the_official_one(scale: int) -> None:
    config = RRDBNetConfig(scale=scale, features=8, growth=4, blocks=2)
    difference, expected = difference_to_official(config, 24, 36)
    assert expected.shape == (2, 3, 24 * scale, 36 * scale)
    assert expected.std() > 1e-3
    assert difference <= 1e-4


@pytest.mark.usefixtures("official")
@pytest.mark.parametrize(("scale", "blocks", "side"), [(4, 23, 12), (2, 23, 24), (4, 6, 12)])
def test_full_size_random_network_equals_the_official_one(scale: int, blocks: int, side: int) -> None:
    difference, expected = difference_to_official(RRDBNetConfig(scale=scale, blocks=blocks), side, side)
    assert expected.std() > 1e-3
    assert difference <= 1e-4


def test_image_enlarged_in_strips_is_the_image_enlarged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = randomized(RRDBNet(TINY))
    lq = torch.rand(1, 3, 61, 30)
    at_once = network(lq)
    monkeypatch.setattr(rrdbnet, "STRIP_PIXELS", 22 * 30)
    in_strips = network(lq)
    assert in_strips.shape == at_once.shape == (1, 3, 244, 120)
    torch.testing.assert_close(in_strips, at_once, rtol=1e-5, atol=1e-5 * float(at_once.abs().max()))


def test_lower_precision_leaves_the_first_and_last_layer_and_changes_the_image_little() -> None:
    network = randomized(RRDBNet(TINY))
    lq = torch.rand(1, 3, 32, 32)
    exact = network(lq)
    lowered = network.lower_precision(torch.bfloat16)
    kept = {name for name, tensor in lowered.state_dict().items() if tensor.dtype == torch.float32}
    assert kept == {"conv_first.weight", "conv_first.bias", "conv_last.weight", "conv_last.bias"}
    approximate = lowered(lq)
    assert approximate.dtype == torch.float32
    relative = (approximate - exact).abs().mean() / exact.abs().mean()
    assert 0 < relative < 2**-6


def test_input_stays_as_it_was() -> None:
    lq = torch.rand(1, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    before = lq.clone()
    randomized(RRDBNet(TINY))(lq)
    assert torch.equal(lq, before)


@pytest.mark.parametrize(
    "config",
    [
        RRDBNetConfig(),
        RRDBNetConfig(scale=2),
        RRDBNetConfig(blocks=6),
        RRDBNetConfig(scale=1, features=16, growth=8, blocks=3),
    ],
)
def test_sizes_are_told_from_the_shapes(config: RRDBNetConfig) -> None:
    with torch.device("meta"):
        state = RRDBNet(config).state_dict()
    assert config_from_state(state) == config


def test_other_networks_are_not_taken_for_an_rrdbnet() -> None:
    state = RRDBNet(TINY).state_dict()
    assert config_from_state({}) is None
    assert config_from_state({"conv_first.weight": torch.zeros(8, 3, 3, 3)}) is None
    assert config_from_state({**state, "conv_first.weight": torch.zeros(8, 7, 3, 3)}) is None
    assert config_from_state({**state, "conv_first.weight": torch.zeros(8)}) is None
