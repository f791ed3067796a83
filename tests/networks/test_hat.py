"""HAT: published sizes, the official network's results, windows, tiles, and the sizes told from a state dict."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfprestore.networks import diffusion_unet, srvgg
from gfprestore.networks.configs import HAT_BASE, HAT_L, HAT_S, HFDG_S, HATConfig
from gfprestore.networks.hat import HAT, config_from_state, tile_spans
from gfprestore.networks.hat_attention import (
    HybridAttentionBlock,
    join_windows,
    overlapping_position_index,
    seam_mask,
    split_windows,
    window_position_index,
)

SMALL = HATConfig(embed_dim=24, depths=(2, 2), heads=3, compress_ratio=3, squeeze_factor=6)
TINY = HATConfig(
    scale=2,
    embed_dim=12,
    depths=(2, 2),
    heads=2,
    window_size=8,
    overlap_window_size=12,
    compress_ratio=3,
    squeeze_factor=6,
)
MEAN = torch.tensor([0.4488, 0.4371, 0.4040])


def spandrel_hat(config: HATConfig) -> nn.Module:
    """The HAT of spandrel, which takes its code from the authors."""
    module: Any = pytest.importorskip(
        "spandrel.architectures.HAT.__arch.HAT", reason="oracle of HAT", exc_type=ImportError
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torch.meshgrid in an old way
        network: nn.Module = module.HAT(
            upscale=config.scale,
            img_size=64,
            embed_dim=config.embed_dim,
            depths=config.depths,
            num_heads=[config.heads] * len(config.depths),
            window_size=config.window_size,
            overlap_ratio=config.overlap_window_size / config.window_size - 1,
            compress_ratio=config.compress_ratio,
            squeeze_factor=config.squeeze_factor,
            mlp_ratio=config.mlp_ratio,
            num_feat=config.features,
            upsampler="pixelshuffle",
        )
    return network


def randomized(network: nn.Module) -> nn.Module:
    """Random weights with which every part counts and an image in [0, 1] gives one of about that spread."""
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            center = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            nn.init.normal_(parameter, center, 0.1)
        elif name.endswith("bias_table"):
            nn.init.normal_(parameter)
        else:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return network.eval().requires_grad_(False)


def tiny(config: HATConfig = TINY) -> HAT:
    network = randomized(HAT(config))
    assert isinstance(network, HAT)
    return network


def waves(network: nn.Module) -> nn.Module:
    """Weights that are the same wherever they are computed; the stored numbers were made with them."""
    with torch.no_grad():
        for index, (name, parameter) in enumerate(sorted(network.named_parameters())):
            wave = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) * (0.7 + 0.013 * index) + index)
            gain = 0.3 if parameter.ndim == 1 else 1.4 * parameter[0].numel() ** -0.5
            gain = 1.0 if name.endswith("bias_table") else gain
            center = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_((gain * wave + center).view(parameter.shape))
    return network.eval()


@pytest.mark.parametrize(
    ("config", "count"), [(HAT_S, 9_621_183), (HAT_BASE, 20_772_507), (HAT_L, 40_846_575), (HFDG_S, 1_312_039)]
)
def test_parameters_are_as_many_as_the_official_network_has(config: HATConfig, count: int) -> None:
    with torch.device("meta"):
        network = HAT(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize(("height", "width"), [(32, 48), (64, 64)])
def test_random_network_equals_the_one_of_spandrel(height: int, width: int) -> None:
    official = randomized(spandrel_hat(SMALL))
    ours = HAT(SMALL).eval()
    ours.load_state_dict(official.state_dict())
    lq = torch.rand(2, 3, height, width)
    with torch.no_grad():
        expected = official(lq)
        found = (ours(2 * lq - 1) + 1) / 2
    assert found.shape == (2, 3, 4 * height, 4 * width)
    assert 0.1 < expected.std() < 1
    assert (found - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("config", [SMALL, TINY, replace(TINY, scale=3), replace(TINY, features=16, mlp_ratio=1.5)])
def test_names_and_shapes_are_those_of_spandrel(config: HATConfig) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in spandrel_hat(config).state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in HAT(config).state_dict().items()} == expected


def test_the_result_is_the_one_stored_from_the_official_network() -> None:
    """The numbers come from XPixelGroup/HAT 1638a9a with torch 2.14.1, with these weights and this image."""
    network = waves(HAT(TINY))
    lq = torch.sin(torch.arange(3 * 16 * 24, dtype=torch.float64) ** 1.5 * 0.01).float().view(1, 3, 16, 24)
    with torch.no_grad():
        result = network(lq)
    expected = [[-0.249695, -0.285384, -0.280085], [0.138475, 0.176352, 0.166623], [0.402347, 0.362556, 0.376645]]
    assert result.std().item() == pytest.approx(0.2714, abs=1e-4)
    torch.testing.assert_close(result[0][:, [0, 13, 31], [47, 20, 0]], torch.tensor(expected), rtol=0, atol=1e-5)


def test_a_corrected_position_index_of_the_overlapping_attention_gives_another_image() -> None:
    network, lq = tiny(SMALL), torch.rand(1, 3, 32, 32) * 2 - 1
    corrected = copy.deepcopy(network)
    rows = corrected.relative_position_index_OCA
    assert (rows.min(), rows.max()) == (-880, 640)
    rows.add_(22 * 39 + 22)
    assert (rows.min(), rows.max()) == (0, 1520)
    assert (corrected(lq) - network(lq)).abs().max() > 1e-3


def test_the_overlapping_index_uses_a_row_for_every_offset() -> None:
    index = overlapping_position_index(16, 24)
    assert index.shape == (256, 576)
    assert set((index % 1521).flatten().tolist()) == set(range(1521))
    # The query in row 2, column 5 and the key in row 10, column 1 of its larger window: 8 down, 4 to the left.
    assert index[2 * 16 + 5, 10 * 24 + 1] == (8 - 7) * 39 + (-4 - 7)


def test_the_window_index_counts_from_the_query_to_the_key() -> None:
    index = window_position_index(16)
    assert set(index.flatten().tolist()) == set(range(31**2))
    # The query in row 2, column 5 and the key in row 10, column 1: the query is 8 above and 4 to the right.
    assert index[2 * 16 + 5, 10 * 16 + 1] == (-8 + 15) * 31 + (4 + 15)


def test_windows_are_split_in_reading_order_and_joined_again() -> None:
    tokens = torch.arange(2 * 8 * 12 * 3).view(2, 8, 12, 3)
    windows = split_windows(tokens, 4)
    assert windows.shape == (2, 2, 3, 16, 3)
    assert torch.equal(windows[1, 1, 2], tokens[1, 4:8, 8:12].reshape(16, 3))
    assert torch.equal(join_windows(windows, 4), tokens)


def test_pixels_of_opposite_borders_do_not_attend_to_one_another() -> None:
    for bottom in (False, True):
        for right in (False, True):
            mask = seam_mask(4, 2, bottom=bottom, right=right).view(4, 4, 4, 4)
            for row in range(4):
                for column in range(4):
                    same_rows = torch.tensor([not bottom or (row < 2) == (other < 2) for other in range(4)])
                    same_columns = torch.tensor([not right or (column < 2) == (other < 2) for other in range(4)])
                    allowed = same_rows.view(4, 1) & same_columns
                    assert torch.equal(mask[row, column], torch.where(allowed, 0.0, -100.0))


def test_a_shifted_block_equals_attention_between_all_pixels_with_everything_else_masked() -> None:
    block = HybridAttentionBlock(
        6, heads=2, window=4, shift=2, compressed=2, squeezed=1, hidden=12, drop_path=0.5
    ).eval()
    randomized(block)
    tokens = torch.randn(1, 8, 12, 6)
    found = block(tokens, window_position_index(4))
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(12), indexing="ij")
    window = ((rows + 2) // 4 * 10 + (columns + 2) // 4).flatten()  # shifted windows are cut off at the borders
    offset_rows = rows.flatten().view(-1, 1) - rows.flatten()
    offset_columns = columns.flatten().view(-1, 1) - columns.flatten()
    near = window.view(-1, 1) == window
    positions = torch.where(near, (offset_rows + 3) * 7 + offset_columns + 3, 0)
    normalized = block.norm1(tokens)
    query, key, value = block.attn.qkv(normalized.view(96, 6)).view(96, 3, 2, 3).permute(1, 2, 0, 3)
    logits = query @ key.transpose(1, 2) / 3**0.5 + block.attn.relative_position_bias_table[positions].permute(2, 0, 1)
    weights = logits.masked_fill(~near, -torch.inf).softmax(-1)
    attended = block.attn.proj((weights @ value).transpose(0, 1).reshape(1, 8, 12, 6))
    convolved = block.conv_block(normalized.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    middle = tokens + attended + 0.01 * convolved
    torch.testing.assert_close(found, middle + block.mlp(block.norm2(middle)), rtol=0, atol=1e-5)


def test_without_its_last_layer_the_network_gives_the_mean_color_in_the_outer_range() -> None:
    network = tiny()
    nn.init.zeros_(network.conv_last.weight)
    nn.init.zeros_(network.conv_last.bias)
    result = network(torch.rand(1, 3, 8, 8) * 2 - 1)
    torch.testing.assert_close(result, (2 * MEAN - 1).view(1, 3, 1, 1).expand(1, 3, 16, 16))


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_every_scale_gives_an_image_of_that_size(scale: int) -> None:
    network = tiny(replace(TINY, scale=scale, depths=(1,)))
    assert network(torch.zeros(1, 3, 8, 16)).shape == (1, 3, 8 * scale, 16 * scale)
    assert config_from_state(network.state_dict()) == network.config


@pytest.mark.parametrize(("height", "width"), [(13, 17), (3, 5), (1, 8)])
def test_sides_that_are_no_multiples_of_the_window_are_padded_and_cropped(height: int, width: int) -> None:
    network, lq = tiny(), torch.rand(1, 3, height, width) * 2 - 1
    mode = "reflect" if height > 8 else "replicate"
    padded = F.pad(lq, (0, -width % 8, 0, -height % 8), mode=mode)
    result = network(lq)
    assert result.shape == (1, 3, 2 * height, 2 * width)
    assert torch.equal(result, network(padded)[:, :, : 2 * height, : 2 * width])


def test_tiles_cover_a_side_once_and_overlap_by_as_much_as_asked() -> None:
    assert tile_spans(256, 64, 16) == [(0, 64), (48, 112), (96, 160), (144, 208), (192, 256)]
    assert tile_spans(100, 64, 16) == [(0, 64), (48, 100)]
    assert tile_spans(64, 64, 16) == tile_spans(64, 64, 0) == [(0, 64)]
    assert tile_spans(10, 64, 16) == [(0, 10)]


def test_an_image_within_one_tile_is_that_of_the_whole_to_the_bit() -> None:
    network, lq = tiny(), torch.rand(1, 3, 32, 24) * 2 - 1
    assert torch.equal(network.forward_in_tiles(lq, tile=32, overlap=8), network(lq))


def test_tiles_never_exceed_their_side_and_fade_into_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    network, lq, seen = tiny(), torch.rand(2, 3, 43, 70) * 2 - 1, []

    def repeated(tile: Tensor) -> Tensor:
        seen.append(tuple(tile.shape[-2:]))
        return F.interpolate(tile, scale_factor=2, mode="nearest")

    monkeypatch.setattr(network, "forward", repeated)
    result = network.forward_in_tiles(lq, tile=24, overlap=8)
    torch.testing.assert_close(result, F.interpolate(lq, scale_factor=2, mode="nearest"), rtol=0, atol=1e-6)
    assert len(seen) == 3 * 4 and max(max(sides) for sides in seen) == 24


def test_an_image_in_tiles_is_near_that_of_the_whole() -> None:
    network = tiny()
    lq = F.interpolate(torch.rand(1, 3, 6, 8), scale_factor=8, mode="bicubic") * 2 - 1
    whole, tiled = network(lq), network.forward_in_tiles(lq, tile=32, overlap=16)
    assert (tiled - whole).abs().mean() < 0.2 * whole.std()


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (20, 8), (32, 4), (32, 24), (8, 8), (32, -8)])
def test_tiles_that_do_not_fit_the_windows_are_refused(tile: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        tiny().forward_in_tiles(torch.zeros(1, 3, 64, 64), tile=tile, overlap=overlap)


def test_an_image_does_not_depend_on_the_others_of_its_batch_and_repeats_to_the_bit() -> None:
    network, lq = tiny(), torch.rand(3, 3, 16, 24) * 2 - 1
    together = network(lq)
    assert torch.equal(together, network(lq))
    assert (together[1:2] - network(lq[1:2])).abs().max() <= 1e-5


def test_memory_format_does_not_change_the_image() -> None:
    network, lq = tiny(), torch.rand(2, 3, 16, 16) * 2 - 1
    expected = network(lq)
    network.to(memory_format=torch.channels_last)
    assert (network(lq.contiguous(memory_format=torch.channels_last)) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_half_precision_gives_nearly_the_same_image(dtype: torch.dtype, limit: float) -> None:
    network, lq = tiny(), torch.rand(1, 3, 16, 16) * 2 - 1
    expected = network(lq)
    with torch.autocast("cpu", dtype):
        autocast = network(lq)
    for result in (autocast, copy.deepcopy(network).to(dtype)(lq)):
        assert result.dtype == torch.float32
        assert 0 < (result - expected).abs().mean() <= limit * expected.std()


def test_every_parameter_learns() -> None:
    network = tiny(replace(TINY, squeeze_factor=1)).requires_grad_(True).train()
    network(torch.rand(2, 3, 16, 24) * 2 - 1).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_branches_are_left_out_while_training_only_and_keep_their_mean() -> None:
    network, lq = tiny(), torch.rand(1, 3, 8, 8) * 2 - 1
    assert torch.equal(network(lq), network(lq))
    network.train()
    assert not torch.equal(network(lq.expand(64, -1, -1, -1)), network(lq.expand(64, -1, -1, -1)))
    assert [block.drop_path for group in network.layers for block in group.residual_group.blocks] == pytest.approx(
        [0, 0.1 / 3, 0.2 / 3, 0.1]
    )
    block = network.layers[1].residual_group.blocks[1]
    dropped = block._dropped(torch.ones(20000, 1, 1, 1))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.9])
    assert dropped.mean() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    "config",
    [HAT_S, HAT_BASE, HAT_L, HFDG_S, SMALL, TINY, replace(TINY, overlap_window_size=8), replace(TINY, depths=(1, 3))],
)
def test_sizes_are_told_from_the_shapes(config: HATConfig) -> None:
    with torch.device("meta"):
        assert config_from_state(HAT(config).state_dict()) == config


def test_other_networks_are_not_taken_for_a_hat() -> None:
    assert config_from_state({}) is None
    others: list[nn.Module] = [
        srvgg.SRVGGNetCompact(srvgg.SRVGGConfig(features=8, convolutions=1)),
        diffusion_unet.DiffusionUNet(
            diffusion_unet.DiffusionUNetConfig(size=16, channels=8, multipliers=(1,), attention=(), groups=4, heads=1)
        ),
    ]
    for other in others:
        assert config_from_state(other.state_dict()) is None


def test_a_damaged_state_is_still_recognized_so_that_loading_can_name_what_is_missing() -> None:
    state = HAT(TINY).state_dict()
    del state["layers.1.residual_group.blocks.1.attn.proj.bias"]
    config = config_from_state(state)
    assert config == TINY
    with pytest.raises(RuntimeError, match=r"layers\.1\.residual_group\.blocks\.1\.attn\.proj\.bias"):
        HAT(config).load_state_dict(state)
    del state["conv_last.weight"]
    assert config_from_state(state) is None
    assert config_from_state({**state, "conv_last.weight": torch.zeros(0)}) is None


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 5},
        {"depths": ()},
        {"heads": 5},
        {"overlap_window_size": 11},
        {"overlap_window_size": 6},
        {"compress_ratio": 13},
        {"squeeze_factor": 0},
        {"mlp_ratio": 0.0},
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(TINY, **change)
