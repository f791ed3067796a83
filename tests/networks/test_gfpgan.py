"""GFP-GAN: names, shapes and numbers of the official networks, in both layouts; batches, precisions, gradients."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfprestore.networks.configs import GFPGANConfig, Layout, Modulation
from gfprestore.networks.gfpgan import GFPGAN, ChannelSplitSFT, config_from_state

LAYOUTS: tuple[Layout, ...] = ("paper", "clean")


def make_official(classes: dict[str, Any], layout: Layout, size: int, **options: Any) -> nn.Module:
    defaults = {"input_is_latent": True, "different_w": True, "sft_half": True}
    network: nn.Module = classes[layout](size, **{**defaults, **options})
    return network


def randomize(network: nn.Module) -> nn.Module:
    """Makes everything that starts at a constant (biases, noise strengths) random; the rest starts random.

    The modulation of many scales multiplies up, so it is kept moderate.
    """
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("condition_") and name.endswith("2.weight"):
                parameter.mul_(0.3)
            if parameter.ndim == 1 or parameter.shape[0] == parameter.shape[-1] == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return network.eval()


def ours_with_the_weights_of(official: nn.Module) -> GFPGAN:
    state = official.state_dict()
    config = config_from_state(state)
    assert config is not None
    ours = GFPGAN(config)
    ours.load_state_dict(state)
    return ours.eval().to(memory_format=torch.channels_last)


def assert_same_images(ours: Tensor, expected: Tensor) -> None:
    """To 1e-4 of the images' scale, and to 1e-4 in [-1, 1] once they are scaled to fill it.

    The image is linear in the weights of the RGB layers, so scaled images are those of other random weights.
    """
    scale = 2 * expected.std()
    assert torch.isfinite(expected).all() and 0.1 < scale < 20
    assert (ours - expected).abs().max() / scale <= 1e-4
    assert ((ours / scale).clamp(-1, 1) - (expected / scale).clamp(-1, 1)).abs().max() <= 1e-4


def tiny(layout: Layout, size: int = 32, modulation: Modulation = "split") -> GFPGAN:
    config = GFPGANConfig.from_widths(
        layout, size=size, narrow=0.0625, style_dim=16, mlp_layers=2, modulation=modulation
    )
    network = GFPGAN(config)
    randomize(network)
    return network.to(memory_format=torch.channels_last)


def with_stored(plain: GFPGAN, **numbers: Any) -> GFPGAN:
    """The same weights with numbers beside the layers, as its own state makes it be built."""
    stored = {name.replace("color_", "colour_"): torch.tensor(number).half() for name, number in numbers.items()}
    state = {**plain.state_dict(), **stored}
    config = config_from_state(state)
    assert config == replace(plain.config, **numbers)
    network = GFPGAN(config)
    network.load_state_dict(state)
    return network


def faces(count: int, size: int) -> Tensor:
    return (torch.rand(count, 3, size, size) * 2 - 1).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "options",
    [
        {"out_size": 16, "narrow": 1, "channel_multiplier": 1},
        {"out_size": 32, "narrow": 0.5, "num_style_feat": 96, "num_mlp": 3},
        {"out_size": 64, "narrow": 0.3125, "channel_multiplier": 2, "different_w": False},
        {"out_size": 128, "narrow": 0.25, "channel_multiplier": 1, "sft_half": False},
        {"out_size": 256, "narrow": 0.25, "channel_multiplier": 0.5},
        {"out_size": 512, "narrow": 1, "channel_multiplier": 2},
        {"out_size": 512, "narrow": 1, "channel_multiplier": 1, "different_w": False, "sft_half": False},
        {"out_size": 1024, "narrow": 0.5, "channel_multiplier": 2, "num_mlp": 1},
    ],
)
def test_names_and_shapes_are_the_official_ones(
    layout: Layout, options: dict[str, Any], official_gfpgan: dict[str, Any]
) -> None:
    options = dict(options)
    with torch.device("meta"):
        official = make_official(official_gfpgan, layout, options.pop("out_size"), **options)
        expected = {name: tuple(tensor.shape) for name, tensor in official.state_dict().items()}
        config = config_from_state(official.state_dict())
        assert config is not None
        ours = GFPGAN(config).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == expected
    assert config == GFPGANConfig.from_widths(
        layout,
        size=config.size,
        narrow=options["narrow"],
        channel_multiplier=options.get("channel_multiplier", 1),
        style_dim=options.get("num_style_feat", 512),
        mlp_layers=options.get("num_mlp", 8),
        different_w=options.get("different_w", True),
        modulation="split" if options.get("sft_half", True) else "all",
    )


def test_both_layouts_at_full_size_have_285_tensors() -> None:
    for layout in LAYOUTS:
        with torch.device("meta"):
            assert len(GFPGAN(GFPGANConfig.from_widths(layout)).state_dict()) == 285


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("size", "options"),
    [
        (16, {"narrow": 0.0625, "num_mlp": 2}),
        (128, {"narrow": 0.0625, "channel_multiplier": 2, "num_mlp": 1}),
        (64, {"narrow": 0.09375, "channel_multiplier": 1, "different_w": False}),
        (32, {"narrow": 0.0625, "sft_half": False}),
    ],
)
def test_images_are_the_official_ones(
    layout: Layout, size: int, options: dict[str, Any], official_gfpgan: dict[str, Any]
) -> None:
    official = randomize(make_official(official_gfpgan, layout, size, num_style_feat=48, **options))
    ours = ours_with_the_weights_of(official)
    lq = faces(2, size)
    with torch.no_grad():
        expected, expected_pyramid = official(lq.contiguous(), randomize_noise=False)
        restored, pyramid = ours(lq, return_pyramid=True)
    assert_same_images(restored, expected)
    assert [image.shape[2] for image in pyramid] == [8 << index for index in range(len(pyramid))]
    for image, official_image in zip(pyramid, expected_pyramid, strict=True):
        assert (image - official_image).abs().max() <= 1e-4 * official_image.abs().max()


@pytest.mark.parametrize(("layout", "channel_multiplier"), [("clean", 2), ("paper", 1)])
def test_images_at_full_size_are_the_official_ones(
    layout: Layout, channel_multiplier: int, official_gfpgan: dict[str, Any]
) -> None:
    official = randomize(make_official(official_gfpgan, layout, 512, channel_multiplier=channel_multiplier))
    ours = ours_with_the_weights_of(official)
    lq = faces(1, 512)
    with torch.inference_mode():
        restored = ours(lq)
        expected, _ = official(lq.contiguous(), return_rgb=False, randomize_noise=False)
    assert_same_images(restored, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_our_weights_load_into_the_official_network(layout: Layout, official_gfpgan: dict[str, Any]) -> None:
    ours = tiny(layout)
    official = make_official(
        official_gfpgan, layout, 32, narrow=0.0625, channel_multiplier=2, num_style_feat=16, num_mlp=2
    ).eval()
    official.load_state_dict(ours.state_dict())
    lq = faces(1, 32)
    with torch.no_grad():
        assert_same_images(ours(lq), official(lq.contiguous(), randomize_noise=False)[0])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seeds", [None, [11, 12, 13, 14, 15]])
def test_a_batch_of_five_equals_five_singles(layout: Layout, seeds: list[int] | None) -> None:
    network, lq = tiny(layout, size=64), faces(5, 64)
    with torch.no_grad():
        together = network(lq, seeds)
        singles = [network(lq[i : i + 1], None if seeds is None else [seeds[i]]) for i in range(5)]
    assert together.std() > 0.1
    assert (together - torch.cat(singles)).abs().max() <= 1e-5 * together.abs().max().clamp_min(1)


def test_seeds_draw_other_noise_than_the_stored_and_repeat_themselves() -> None:
    network, lq = tiny("clean"), faces(1, 32).expand(2, -1, -1, -1)
    with torch.no_grad():
        stored, seeded, again = network(lq), network(lq, [1, 2]), network(lq, [2, 1])
    assert torch.equal(stored[0], stored[1])
    assert (seeded[0] - seeded[1]).abs().max() > 1e-3 and (seeded[0] - stored[0]).abs().max() > 1e-3
    assert torch.equal(seeded[0], again[1]) and torch.equal(seeded[1], again[0])
    with pytest.raises(ValueError, match="one seed for each of the 2 faces, not 1"):
        network(lq, [1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_format_does_not_change_the_image(layout: Layout) -> None:
    network, lq = tiny(layout), faces(2, 32)
    with torch.no_grad():
        expected = network(lq)
        result = network.to(memory_format=torch.contiguous_format)(lq.contiguous())
    assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_half_precision_gives_nearly_the_same_image(layout: Layout, dtype: torch.dtype, limit: float) -> None:
    network, lq = tiny(layout), faces(1, 32)
    with torch.no_grad():
        expected = network(lq)
        result = copy.deepcopy(network).to(dtype)(lq.to(dtype))
    assert result.dtype == torch.float32
    assert 0 < (result - expected).abs().mean() <= limit * expected.std()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("modulation", ["split", "all", "none"])
def test_every_parameter_that_restores_learns(layout: Layout, modulation: Modulation) -> None:
    network = tiny(layout, modulation=modulation).train()
    restored, pyramid = network(faces(2, 32), [1, 2], return_pyramid=True)
    (restored.square().mean() + sum(image.square().mean() for image in pyramid)).backward()
    for name, parameter in network.named_parameters():
        if "style_mlp" in name:  # the U-Net gives w, not z
            assert parameter.grad is None
        else:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inference_in_place_equals_training(layout: Layout) -> None:
    network, lq = tiny(layout), faces(1, 32)
    trained = network(lq)
    assert trained.requires_grad
    with torch.inference_mode():
        assert (network(lq) - trained).abs().max() <= 1e-5 * trained.abs().max()


def test_split_modulation_leaves_the_first_half_alone() -> None:
    prior, scale, shift = torch.randn(1, 6, 4, 4), torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    expected = prior.clone()
    for channel in range(3):
        expected[:, 3 + channel] = prior[:, 3 + channel] * scale[:, channel] + shift[:, channel]
    assert torch.equal(ChannelSplitSFT()(prior, scale, shift), expected)
    with torch.no_grad():
        assert torch.equal(ChannelSplitSFT()(prior.clone(), scale, shift), expected)


def test_without_modulation_the_image_depends_on_the_style_code_only() -> None:
    network, lq = tiny("clean", modulation="none"), faces(1, 32)
    with torch.no_grad():
        latents, _ = network.remove_degradation(lq)
        assert torch.equal(network(lq), network.stylegan_decoder(latents))
    config = config_from_state(network.state_dict())
    assert config == network.config


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_share_of_the_input_stays_in_the_images_and_is_read_from_the_weights(layout: Layout) -> None:
    plain, lq = tiny(layout), faces(2, 32)
    network = with_stored(plain, input_share=0.25)
    with torch.no_grad():
        theirs, their_pyramid = plain(lq, return_pyramid=True)
        restored, pyramid = network(lq, return_pyramid=True)
        for ours, their in zip(pyramid, their_pyramid, strict=True):
            expected = 0.25 * F.interpolate(lq, size=ours.shape[-1], mode="area") + 0.75 * their
            assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()
        expected = 0.25 * pyramid[-1] + 0.75 * theirs
        assert (restored - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert torch.equal(restored, network(lq))
        assert network.to(torch.bfloat16)(lq.to(torch.bfloat16)).dtype == torch.float32


def test_the_colors_around_a_place_stay_and_the_radius_is_read_from_the_weights() -> None:
    plain, lq = tiny("clean"), faces(2, 32)
    network = with_stored(plain, color_radius=3)
    luma = torch.tensor([0.299, 0.587, 0.114])
    with torch.no_grad():
        theirs, ours = plain(lq), network(lq)
    assert torch.einsum("bchw,c->bhw", ours - theirs, luma).abs().max() < 1e-5
    for row, column in ((16, 16), (3, 20), (0, 0), (31, 5)):
        around = (slice(None), slice(None), slice(max(row - 3, 0), row + 4), slice(max(column - 3, 0), column + 4))
        differs = (theirs - lq)[around].mean((2, 3))
        colors = differs - (differs @ luma)[:, None]
        assert colors.abs().max() > 1e-3
        torch.testing.assert_close((theirs - ours)[:, :, row, column], colors, rtol=1e-4, atol=1e-5)


def test_a_gray_face_stays_gray_where_its_colors_are_kept_as_wide_as_it_is() -> None:
    network = GFPGAN(replace(tiny("clean").config, color_radius=31))
    lq = faces(1, 32).mean(1, keepdim=True).expand(-1, 3, -1, -1)
    with torch.no_grad():
        restored = network(lq)
    means = restored.mean((2, 3))
    assert restored.std() > 1e-2
    torch.testing.assert_close(means, means.mean(1, keepdim=True).expand(-1, 3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("radius", [torch.tensor(-1.0), torch.tensor(1e9), torch.tensor(torch.inf), torch.zeros(2)])
def test_weights_with_an_impossible_radius_are_not_recognized(radius: Tensor) -> None:
    assert config_from_state({**tiny("clean").state_dict(), "colour_radius": radius}) is None


@pytest.mark.parametrize("share", [torch.tensor(-0.5), torch.tensor(1.0), torch.tensor(torch.nan), torch.zeros(2)])
def test_weights_whose_share_is_none_are_not_recognized(share: Tensor) -> None:
    assert config_from_state({**tiny("clean").state_dict(), "input_share": share}) is None


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_leaves_nothing_to_restore_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="input_share"):
        GFPGANConfig("clean", (8, 8), input_share=share)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_fresh_network_starts_with_sound_features(layout: Layout) -> None:
    network = GFPGAN(GFPGANConfig.from_widths(layout, size=64, narrow=0.125, style_dim=64))
    with torch.no_grad():
        latents, features = network.remove_degradation(faces(4, 64))
        restored = network(faces(4, 64))
    assert 0.1 < latents.std() < 10
    assert all(0.1 < feature.std() < 10 for feature in features)
    assert torch.isfinite(restored).all() and restored.std() < 100


def test_other_networks_are_not_recognized(official_gfpgan: dict[str, Any]) -> None:
    from basicsr.archs.rrdbnet_arch import RRDBNet
    from basicsr.archs.stylegan2_arch import StyleGAN2Discriminator

    with torch.device("meta"):
        others = [
            RRDBNet(3, 3, num_feat=8, num_block=1),
            StyleGAN2Discriminator(32, narrow=0.0625),
            tiny_prior_of(official_gfpgan),
        ]
    for other in others:
        assert config_from_state(other.state_dict()) is None, type(other).__name__
    assert config_from_state({}) is None


def tiny_prior_of(classes: dict[str, Any]) -> nn.Module:
    network = make_official(classes, "paper", 32, narrow=0.0625)
    prior = network.stylegan_decoder
    assert isinstance(prior, nn.Module)
    return prior


def test_a_damaged_state_is_still_recognized_so_that_loading_can_name_what_is_missing() -> None:
    network = tiny("clean")
    state = network.state_dict()
    del state["condition_shift.1.2.bias"]
    state["conv_body_up.1.conv2.weight"] = torch.zeros(3, 3, 3, 3)
    config = config_from_state(state)
    assert config == network.config
    with pytest.raises(RuntimeError, match=r"(?s)condition_shift\.1\.2\.bias.*conv_body_up\.1\.conv2\.weight"):
        GFPGAN(config).load_state_dict(state)
    del state["final_linear.weight"]
    assert config_from_state(state) is None


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="size must be a power of two"):
        GFPGANConfig.from_widths("clean", size=500)
    with pytest.raises(ValueError, match="channels must be even"):
        GFPGANConfig("clean", (33, 32))
    with pytest.raises(ValueError, match="at least two"):
        GFPGANConfig("clean", (32,))
