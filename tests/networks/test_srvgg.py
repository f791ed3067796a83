"""SRVGGNetCompact against the official class, its half precision, its sizes told from a state dict."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gfprestore.networks.srvgg import SRVGGConfig, SRVGGNetCompact, config_from_state

TINY = SRVGGConfig(scale=2, features=6, convolutions=3)


def randomised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=(parameter[0].numel() if parameter.ndim > 1 else 4) ** -0.5)
    return module.eval().requires_grad_(False)


@pytest.mark.usefixtures("official")
@pytest.mark.parametrize(
    "config", [TINY, SRVGGConfig(scale=3, features=8, convolutions=2), SRVGGConfig(), SRVGGConfig(convolutions=16)]
)
def test_random_network_equals_the_official_one(config: SRVGGConfig) -> None:
    from basicsr.archs.srvgg_arch import SRVGGNetCompact as OfficialSRVGG

    official = randomised(OfficialSRVGG(3, 3, config.features, config.convolutions, config.scale, "prelu"))
    ours = SRVGGNetCompact(config)
    ours.load_state_dict(official.state_dict())
    lq = torch.rand(2, 3, 20, 28)
    expected = official(lq)
    actual = ours.eval()(lq)
    assert actual.shape == (2, 3, 20 * config.scale, 28 * config.scale)
    assert expected.std() > 1e-3
    span = expected.abs().max()
    assert (actual / span - expected / span).abs().max() <= 1e-4


def test_lower_precision_leaves_the_first_and_last_layer_and_changes_the_picture_little() -> None:
    network = randomised(SRVGGNetCompact(TINY))
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
    assert config_from_state({"body.0.rdb1.conv1.weight": torch.zeros(4, 8, 3, 3)}) is None
