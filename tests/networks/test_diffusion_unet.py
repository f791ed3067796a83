"""The diffusion U-Net: published sizes, official names, and what its options promise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gfprestore.networks.diffusion_unet import DiffusionUNet, DiffusionUNetConfig, config_from_state

FULL = DiffusionUNetConfig(size=256, multipliers=(1, 1, 2, 2, 4, 4))
TINY = DiffusionUNetConfig(size=32, channels=32, multipliers=(1, 2), blocks=1, attention=(16,))
REVERSAL = replace(TINY, prediction="x0", residual=True, prior_std=0.05, warp=True, levels=True)


def randomized(config: DiffusionUNetConfig) -> DiffusionUNet:
    """A network whose last layers are not zero, as they are at the start of a training."""
    network = DiffusionUNet(config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (DiffusionUNetConfig(), 92_029_187),
        (FULL, 124_056_707),
        (replace(FULL, channels=64, blocks=1, attention=(16,), head_channels=64), 20_184_515),
    ],
)
def test_parameters_are_as_many_as_guided_diffusion_has(config: DiffusionUNetConfig, count: int) -> None:
    with torch.device("meta"):
        network = DiffusionUNet(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_the_names_are_the_official_ones() -> None:
    names = set(DiffusionUNet(TINY).state_dict())
    assert {
        "time_embed.0.weight", "input_blocks.0.0.weight", "input_blocks.1.0.in_layers.2.weight",
        "middle_block.1.qkv.weight", "output_blocks.0.0.skip_connection.weight", "out.2.bias",
    } <= names  # fmt: skip


@pytest.mark.parametrize("config", [TINY, REVERSAL, replace(TINY, unshuffle=2, coordinates=True, light_decoder=True)])
def test_the_sizes_are_read_from_the_weights(config: DiffusionUNetConfig) -> None:
    network = randomized(config)
    found = config_from_state(network.state_dict())
    assert found == config
    DiffusionUNet(found).load_state_dict(network.state_dict())
    assert config_from_state({"conv_first.weight": torch.zeros(1)}) is None


@pytest.mark.parametrize("config", [TINY, REVERSAL])
def test_a_face_does_not_depend_on_the_others_of_its_batch(config: DiffusionUNetConfig) -> None:
    network = randomized(config)
    x, timesteps = torch.randn(3, 6, 32, 32), torch.tensor([5, 500, 999])
    levels = torch.rand(3, 6) if config.levels else None
    with torch.no_grad():
        together = network(x, timesteps, levels)
        alone = network(x[1:2], timesteps[1:2], None if levels is None else levels[1:2])
    assert together.shape == (3, 3, 32, 32)
    assert (together[1:2] - alone).abs().max() < 1e-4


def test_level_0_gives_the_retouched_face_to_the_bit() -> None:
    network = randomized(REVERSAL)
    x, timesteps = torch.randn(2, 6, 32, 32), torch.tensor([300, 60])
    levels = torch.stack([torch.zeros(6), torch.full((6,), 0.5)])
    with torch.no_grad():
        x0 = network(x, timesteps, levels)
    assert torch.equal(x0[0], x[0, 3:])
    assert not torch.equal(x0[1], x[1, 3:])


def test_contradicting_options_are_refused() -> None:
    with pytest.raises(ValueError, match="residual needs the prediction x0"):
        replace(TINY, residual=True)
    with pytest.raises(ValueError, match="needs levels"):
        randomized(REVERSAL)(torch.zeros(1, 6, 32, 32), torch.zeros(1))
    with pytest.raises(ValueError, match="multiples of"):
        randomized(TINY)(torch.zeros(1, 6, 33, 32), torch.zeros(1))
