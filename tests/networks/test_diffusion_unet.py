"""The diffusion U-Net: published sizes, official names and results, its options, and that a tiny one learns."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gfprestore.networks.configs import FMAR_64, FMAR_256, FMAR_COMPACT, FMAR_M, FMAR_S, DiffusionUNetConfig
from gfprestore.networks.diffusion_blocks import AttentionBlock, timestep_embedding
from gfprestore.networks.diffusion_unet import COMPACT_TIMESTEPS, DiffusionUNet, config_from_state
from gfprestore.networks.gaussian_diffusion import face_noise
from gfprestore.networks.srvgg import SRVGGConfig, SRVGGNetCompact

TINY = DiffusionUNetConfig(size=32, channels=32, multipliers=(1, 2), blocks=1, attention=(16,))
REVERSAL = replace(TINY, prediction="x0", residual=True, prior_std=0.05, warp=True, levels=True)
FOLDED = replace(
    REVERSAL,
    channels=16,
    multipliers=(2, 3),
    groups=8,
    attention=(8,),
    unshuffle=2,
    coordinates=True,
    light_decoder=True,
    schedule="cosine",
)
CONFIGS = [TINY, REVERSAL, FOLDED]


def randomized(config: DiffusionUNetConfig) -> DiffusionUNet:
    """A network whose last layers are not zero, as they are at the start of a training."""
    network = DiffusionUNet(config).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    return network


def inputs(config: DiffusionUNetConfig, count: int = 3) -> tuple[Tensor, Tensor, Tensor | None]:
    """x_t and condition, timesteps, levels."""
    levels = torch.rand(count, 6) if config.levels else None
    return torch.randn(count, 6, config.size, config.size), torch.tensor([5, 500, 999])[:count], levels


def waves(network: nn.Module) -> nn.Module:
    """Weights that are the same wherever they are computed; the stored numbers were made with them."""
    with torch.no_grad():
        for index, (name, parameter) in enumerate(sorted(network.named_parameters())):
            wave = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) * (0.7 + 0.013 * index) + index)
            gain = 0.3 if parameter.ndim == 1 else 1.4 * parameter[0].numel() ** -0.5
            center = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_((gain * wave + center).view(parameter.shape))
    return network.eval()


@pytest.mark.parametrize(
    ("config", "parameters", "tensors"),
    [
        (FMAR_64, 92_029_187, 338),
        (FMAR_256, 124_056_707, 456),
        (FMAR_S, 20_184_515, 282),
        (FMAR_M, 31_050_307, 456),
    ],
)
def test_parameters_are_as_many_as_guided_diffusion_has(
    config: DiffusionUNetConfig, parameters: int, tensors: int
) -> None:
    with torch.device("meta"):
        network = DiffusionUNet(config)
    counts = [parameter.numel() for parameter in network.parameters()]
    assert (sum(counts), len(counts)) == (parameters, tensors)


def test_the_names_are_the_official_ones() -> None:
    """As guided-diffusion 22e0df8 lists them for these sizes."""
    residual = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3")
    attention = ("norm", "qkv", "proj_out")
    expected = {"time_embed.0", "time_embed.2", "input_blocks.0.0", "input_blocks.2.0.op", "out.0", "out.2"}
    expected |= {"input_blocks.3.0.skip_connection", "output_blocks.1.2.conv"}
    expected |= {f"output_blocks.{index}.0.skip_connection" for index in range(4)}
    for block in ("input_blocks.1.0", "input_blocks.3.0", "middle_block.0", "middle_block.2"):
        expected |= {f"{block}.{layer}" for layer in residual}
    expected |= {f"output_blocks.{index}.0.{layer}" for index in range(4) for layer in residual}
    for block in ("input_blocks.3.1", "middle_block.1", "output_blocks.0.1", "output_blocks.1.1"):
        expected |= {f"{block}.{layer}" for layer in attention}
    state = DiffusionUNet(replace(TINY, size=16, attention=(8,))).state_dict()
    assert set(state) == {f"{layer}.{kind}" for layer in expected for kind in ("weight", "bias")}
    assert state["middle_block.1.qkv.weight"].shape == (192, 64, 1)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (TINY, [[0.452044, -0.299449, -0.031628], [0.437008, -0.228351, -0.062472]]),
        (
            replace(TINY, multipliers=(1, 1, 2), blocks=2, attention=(16, 8), head_channels=16),
            [[-0.106369, 1.723897, -0.231333], [-0.221132, 1.540315, -0.226848]],
        ),
    ],
)
def test_the_result_is_the_one_stored_from_guided_diffusion(
    config: DiffusionUNetConfig, expected: list[list[float]]
) -> None:
    """The numbers come from guided-diffusion 22e0df8 with torch 2.14.1, with these weights and this input."""
    network = waves(DiffusionUNet(config))
    x = torch.sin(torch.arange(6 * 16 * 16, dtype=torch.float64) ** 1.5 * 0.01).float().view(1, 6, 16, 16)
    with torch.no_grad():
        result = network(x.expand(2, -1, -1, -1), torch.tensor([7, 901]))
    torch.testing.assert_close(result[:, [0, 1, 2], [0, 9, 15], [3, 15, 8]], torch.tensor(expected), rtol=0, atol=1e-5)


def test_the_timestep_embedding_has_the_cosines_first() -> None:
    embedding = timestep_embedding(torch.tensor([0, 7]), 6)
    angles = [7.0, 7 / 10000 ** (1 / 3), 7 / 10000 ** (2 / 3)]
    expected = [[1, 1, 1, 0, 0, 0], [*map(math.cos, angles), *map(math.sin, angles)]]
    torch.testing.assert_close(embedding, torch.tensor(expected, dtype=torch.float32))


def test_attention_takes_query_key_and_value_of_one_head_after_another() -> None:
    block = AttentionBlock(8, heads=2, groups=4).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(1, 8, 3, 5)
    channels = (block.qkv.weight[:, :, 0] @ block.norm(x).view(8, 15) + block.qkv.bias[:, None]).view(24, 15)
    heads = []
    for first in (0, 12):
        query, key, value = channels[first : first + 12].split(4)
        heads.append(value @ (query.T @ key / 2).softmax(1).T)
    added = block.proj_out.weight[:, :, 0] @ torch.cat(heads) + block.proj_out.bias[:, None]
    torch.testing.assert_close(block(x), x + added.view(1, 8, 3, 5), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        *CONFIGS,
        FMAR_COMPACT,
        replace(TINY, size=64, attention=(64, 32), heads=2, blocks=2, timesteps=200, prediction="x0"),
        replace(REVERSAL, warp=False, head_channels=16, prior_std=0.0),
        replace(REVERSAL, levels=False),
    ],
)
def test_sizes_and_options_are_told_from_the_weights(config: DiffusionUNetConfig) -> None:
    network = DiffusionUNet(config)
    assert config_from_state({name: tensor.half() for name, tensor in network.state_dict().items()}) == config
    DiffusionUNet(config).load_state_dict(network.state_dict())


def test_the_official_sizes_need_no_stored_numbers() -> None:
    for config in (FMAR_64, FMAR_256):
        with torch.device("meta"):
            network = DiffusionUNet(config)
            assert dict(network.named_buffers()) == {}
            assert config_from_state(network.state_dict()) == config


def test_other_networks_and_impossible_numbers_are_not_recognized() -> None:
    assert config_from_state({}) is None
    assert config_from_state(SRVGGNetCompact(SRVGGConfig(features=6, convolutions=1)).state_dict()) is None
    state = DiffusionUNet(REVERSAL).state_dict()
    assert config_from_state({**state, "input_blocks.0.0.weight": torch.zeros(32, 3, 3, 3)}) is None
    assert config_from_state({**state, "out.2.weight": torch.zeros(6, 32, 3, 3)}) is None
    for name, value in (("prior_std", -1.0), ("timesteps", 1e9), ("groups", 7.0), ("heads", math.nan), ("heads", 5.0)):
        assert config_from_state({**state, name: torch.tensor(value)}) is None


def test_a_damaged_state_is_still_recognized_so_that_loading_can_name_what_is_missing() -> None:
    state = DiffusionUNet(TINY).state_dict()
    del state["output_blocks.1.0.in_layers.2.bias"]
    config = config_from_state(state)
    assert config == TINY
    with pytest.raises(RuntimeError, match=r"output_blocks\.1\.0\.in_layers\.2\.bias"):
        DiffusionUNet(config).load_state_dict(state)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_face_does_not_depend_on_the_others_of_its_batch_and_repeats_to_the_bit(config: DiffusionUNetConfig) -> None:
    network = randomized(config)
    x, timesteps, levels = inputs(config)
    with torch.no_grad():
        together = network(x, timesteps, levels)
        alone = network(x[1:2], timesteps[1:2], None if levels is None else levels[1:2])
        assert torch.equal(together, network(x, timesteps, levels))
    assert together.shape == (3, 3, 32, 32)
    assert (together[1:2] - alone).abs().max() < 1e-5


@pytest.mark.parametrize("config", CONFIGS)
def test_memory_format_does_not_change_the_result(config: DiffusionUNetConfig) -> None:
    network = randomized(config)
    x, timesteps, levels = inputs(config)
    with torch.no_grad():
        expected = network(x, timesteps, levels)
        network.to(memory_format=torch.channels_last)
        result = network(x.contiguous(memory_format=torch.channels_last), timesteps, levels)
    assert (result - expected).abs().max() < 1e-5


@pytest.mark.parametrize("config", [TINY, replace(FOLDED, warp=False)])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_half_precision_gives_nearly_the_same_result(
    config: DiffusionUNetConfig, dtype: torch.dtype, limit: float
) -> None:
    network = randomized(config)
    x, timesteps, levels = inputs(config)
    with torch.no_grad():
        expected = network(x, timesteps, levels)
        with torch.autocast("cpu", dtype):
            autocast = network(x, timesteps, levels)
        whole = copy.deepcopy(network).to(dtype)(x, timesteps, levels)
    for result in (autocast, whole):
        assert result.dtype == torch.float32
        assert 0 < (result - expected).abs().mean() <= limit * expected.std()


@pytest.mark.parametrize("config", CONFIGS)
def test_every_parameter_learns(config: DiffusionUNetConfig) -> None:
    network = randomized(config).train()
    network(*inputs(config)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_a_fresh_network_predicts_no_noise_or_stays_at_the_retouched_face() -> None:
    x, timesteps, levels = inputs(REVERSAL)
    with torch.no_grad():
        assert DiffusionUNet(TINY)(x, timesteps).abs().max() == 0
        plain = replace(REVERSAL, warp=False, levels=False, prior_std=0.0)
        assert torch.equal(DiffusionUNet(plain)(x, timesteps), x[:, 3:])
        x0, field = DiffusionUNet(REVERSAL)(x, timesteps, levels, return_field=True)
    assert torch.equal(field, torch.zeros(3, 2, 32, 32))
    assert (x0[2] - x[2, 3:]).abs().max() < 1e-2  # at t = 999 x_t tells next to nothing


def test_level_0_gives_the_retouched_face_to_the_bit_in_the_network_and_after_sampling() -> None:
    network = randomized(REVERSAL)
    x, timesteps, _ = inputs(REVERSAL, 2)
    levels = torch.stack([torch.zeros(6), torch.full((6,), 0.5)])
    retouched = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        x0 = network(torch.cat([x[:, :3], retouched], 1), timesteps, levels)
        sampled = REVERSAL.diffusion().sample_ddim(network.denoiser(retouched, levels), x[:, :3], COMPACT_TIMESTEPS)
    for result in (x0, sampled):
        assert torch.equal(result[0], retouched[0])
        assert (result[1] - retouched[1]).abs().max() > 0.01


def test_a_low_level_changes_a_face_by_its_share() -> None:
    network = randomized(replace(REVERSAL, warp=False))
    nn.init.zeros_(network.level_embed[0].weight)  # so that the network's output does not depend on the levels
    x, timesteps, _ = inputs(REVERSAL, 1)
    with torch.no_grad():
        at = {level: network(x, timesteps, torch.tensor([[0, 0, 0, level, 0, 0.0]])) for level in (0.05, 0.2, 0.9)}
    torch.testing.assert_close(at[0.05] - x[:, 3:], 0.25 * (at[0.2] - x[:, 3:]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(at[0.9], at[0.2])


def test_the_condition_and_the_levels_count() -> None:
    network = randomized(REVERSAL)
    x, timesteps, levels = inputs(REVERSAL)
    assert levels is not None
    with torch.no_grad():
        here, field = network(x, timesteps, levels, return_field=True)
        assert (network(x, timesteps, levels.flip(0)) - here).abs().max() > 1e-3
        assert (network(torch.cat([x[:, :3], x[:, 3:].flip(0)], 1), timesteps, levels) - here).abs().max() > 1e-3
        assert torch.equal(network.denoiser(x[:, 3:], levels)(x[:, :3], timesteps), here)
    assert field.abs().max() > 1e-3


def test_contradicting_options_and_inputs_are_refused() -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        ({"residual": True}, "residual needs the prediction x0"),
        ({"warp": True}, "need residual"),
        ({"size": 33}, "multiple of 2"),
        ({"channels": 24}, "multiples of 32 groups"),
        ({"attention": (8,)}, "attention must be at"),
        ({"heads": 5}, "into attention heads"),
        ({"multipliers": ()}, "positive"),
        ({"blocks": 0}, "positive"),
        ({"timesteps": 1}, "timesteps must be"),
    ]
    for change, message in changes:
        with pytest.raises(ValueError, match=message):
            replace(TINY, **change)
    x, timesteps, levels = inputs(REVERSAL, 1)
    with pytest.raises(ValueError, match="needs levels"):
        DiffusionUNet(REVERSAL)(x, timesteps)
    with pytest.raises(ValueError, match="takes no levels"):
        DiffusionUNet(TINY)(x, timesteps, levels)
    with pytest.raises(ValueError, match="no warp head"):
        DiffusionUNet(TINY)(x, timesteps, return_field=True)
    with pytest.raises(ValueError, match="multiples of 2"):
        DiffusionUNet(TINY)(x[:, :, 1:], timesteps)


def discs(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Discs of a random radius, and the same ones smaller by a fifth and brighter by 0.2: (count, 3, 16, 16) each."""
    radius = 3 + 3 * torch.rand(count, 1, 1, 1, generator=generator)
    axis = torch.arange(16) - 7.5
    distance = torch.hypot(axis.view(-1, 1), axis)
    clean = 1.2 * (radius - distance + 0.5).clamp(0, 1) - 0.6
    retouched = 1.2 * (0.8 * radius - distance + 0.5).clamp(0, 1) - 0.4
    return clean.expand(-1, 3, -1, -1), retouched.expand(-1, 3, -1, -1)


def test_a_tiny_network_learns_to_reverse_a_change_and_reads_its_condition() -> None:
    config = replace(TINY, size=16, channels=16, attention=(8,), groups=8, prediction="x0")
    network, process, generator = DiffusionUNet(config), config.diffusion(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters())
    for step in range(400):
        clean, retouched = discs(12, generator)
        timesteps = torch.randint(1000, (12,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        optimizer.param_groups[0]["lr"] = 4e-3 * min(1, (step + 1) / 20) * (1 - step / 400)
        loss = process.loss(network.denoiser(retouched), clean, timesteps, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clean, retouched = discs(64, generator)
    network.eval()

    def reversed_from(condition: Tensor, faces: slice = slice(None)) -> Tensor:
        seeds = range(64)[faces]
        start = face_noise([torch.Generator().manual_seed(seed) for seed in seeds], 16, 16)
        return process.sample_ddim(network.denoiser(condition[faces]), start, 10)

    untouched = (retouched - clean).square().mean()
    together = reversed_from(retouched)
    assert (together - clean).square().mean() <= 0.25 * untouched
    assert (reversed_from(retouched.roll(1, 0)) - clean).square().mean() > untouched
    assert (reversed_from(retouched, slice(3, 4)) - together[3]).abs().max() < 2 / 255  # a gray level
