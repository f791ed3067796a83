"""The StyleGAN2 prior: against its equations, against plain operations, and against the official classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gfprestore.networks.configs import Layout
from gfprestore.networks.layers import FirFilter
from gfprestore.networks.stylegan2 import (
    ModulatedConv2d,
    StyleGAN2Generator,
    ToRGB,
    UpsampledConvolution,
    upsample_bilinear,
)

LAYOUTS: tuple[Layout, ...] = ("paper", "clean")


@pytest.fixture
def official_stylegan2(official_layers: None) -> dict[str, Any]:
    """The official generators by layout."""
    from basicsr.archs.stylegan2_arch import StyleGAN2Generator
    from gfpgan.archs.stylegan2_clean_arch import StyleGAN2GeneratorClean

    return {"paper": StyleGAN2Generator, "clean": StyleGAN2GeneratorClean}


def tiny_generator(layout: Layout) -> StyleGAN2Generator:
    generator = StyleGAN2Generator((16, 16, 12, 8), style_dim=24, mlp_layers=3, layout=layout)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return generator.eval()


def test_fir_filter_weighs_neighbors_one_three_three_one() -> None:
    impulse = torch.zeros(1, 2, 7, 7)
    impulse[0, 1, 3, 3] = 64.0
    smooth = FirFilter(padding=3)(impulse)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    assert smooth.shape == (1, 2, 10, 10)
    assert torch.equal(smooth[0, 1, 3:7, 3:7], torch.outer(taps, taps))
    assert smooth.sum() == 64.0 and smooth[0, 0].abs().sum() == 0.0


@pytest.mark.parametrize("shape", [(32, 32), (33, 41), (9, 12)])
def test_convolving_before_upsampling_equals_convolving_after_it(shape: tuple[int, int]) -> None:
    x = torch.randn(2, 5, *shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    ours = UpsampledConvolution("bilinear").double()(x, weight)
    plain = F.conv2d(upsample_bilinear(x), weight, padding=1)
    assert torch.allclose(ours, plain, rtol=0, atol=1e-11)
    direction = torch.randn_like(plain)
    for mine, expected in zip(
        torch.autograd.grad((ours * direction).sum(), (x, weight)),
        torch.autograd.grad((plain * direction).sum(), (x, weight)),
        strict=True,
    ):
        assert torch.allclose(mine, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_modulated_convolution_equals_each_samples_own_weights(layout: Layout) -> None:
    layer = ModulatedConv2d(6, 7, 3, 10, layout).double()
    x, style = torch.randn(3, 6, 9, 8).double(), torch.randn(3, 10).double()
    gain = 1 / 54**0.5 if layout == "paper" else 1.0
    modulation_gain = 1 / 10**0.5 if layout == "paper" else 1.0
    features, demodulation = layer(x, style)
    for index in range(3):
        scales = layer.modulation.weight @ style[index] * modulation_gain + layer.modulation.bias
        weight = layer.weight * gain * scales[None, :, None, None]  # equation 1
        weight = weight / torch.sqrt(weight.square().sum((1, 2, 3), keepdim=True) + 1e-8)  # equation 3
        expected = F.conv2d(x[index : index + 1], weight, padding=1)
        # Styles are float32 whatever the weights are.
        assert torch.allclose(features[index] * demodulation[index, :, None, None], expected[0], rtol=0, atol=2e-6)


def test_styles_far_beyond_half_precision_do_not_overflow() -> None:
    layer = ModulatedConv2d(16, 16, 3, 8, "clean")
    x, style = torch.randn(2, 16, 8, 8), 4e4 * torch.randn(2, 8)

    def output(layer: ModulatedConv2d, x: Tensor, style: Tensor) -> Tensor:
        features, demodulation = layer(x, style)
        return features.float() * demodulation[:, :, None, None]

    expected = output(layer, x, style)
    layer.half()
    result = output(layer, x.half(), style)
    assert torch.isfinite(result).all()
    assert (result - expected).abs().max() < 0.01 * expected.abs().max()


def test_to_rgb_adds_to_the_upsampled_smaller_image() -> None:
    layer = ToRGB(5, 4, "clean")
    torch.nn.init.constant_(layer.bias, 0.25)
    features, smaller = torch.zeros(1, 5, 8, 8), torch.randn(1, 3, 4, 4)
    rgb = layer(features, torch.randn(1, 4), smaller)
    assert torch.allclose(rgb, upsample_bilinear(smaller) + 0.25)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_generator_equals_the_official_one_from_z_on(layout: Layout, official_stylegan2: dict[str, Any]) -> None:
    official = official_stylegan2[layout](32, num_style_feat=32, num_mlp=3, channel_multiplier=2, narrow=0.03125).eval()
    with torch.no_grad():
        for parameter in official.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours = StyleGAN2Generator((16, 16, 16, 16), 32, 3, layout).eval()
    ours.load_state_dict(official.state_dict())
    z, other, mean = torch.randn(2, 32), torch.randn(2, 32), torch.randn(1, 32)
    with torch.no_grad():
        expected = official([z], randomize_noise=False)[0]
        assert expected.std() > 0.1
        assert torch.allclose(ours(ours.latents(z)), expected, rtol=1e-5, atol=1e-5)
        expected = official([z, other], randomize_noise=False, truncation=0.7, truncation_latent=mean, inject_index=3)[
            0
        ]
        latents = ours.latents(z, mixed_z=other, crossover=3, truncation=0.7, mean_w=mean)
        assert torch.allclose(ours(latents), expected, rtol=1e-5, atol=1e-5)
        noise = [torch.randn(2, 1, size, size) for size in ours.noise_sizes]
        expected = official([z], noise=noise)[0]
        assert torch.allclose(ours(ours.latents(z), noise), expected, rtol=1e-5, atol=1e-5)


def test_style_mixing_and_truncation_ask_for_what_they_need() -> None:
    generator = tiny_generator("clean")
    z = torch.randn(1, 24)
    for crossover in (None, 0, 8):
        with pytest.raises(ValueError, match="crossover must be 1 to 7"):
            generator.latents(z, mixed_z=z, crossover=crossover)
    with pytest.raises(ValueError, match="mean_w"):
        generator.latents(z, truncation=0.5)


def test_mean_latent_is_the_mean_of_the_style_networks_outputs() -> None:
    generator = tiny_generator("paper")
    drawn = torch.randn(50, 24, generator=torch.Generator().manual_seed(5))
    expected = generator.style_mlp(drawn).mean(0, keepdim=True)
    assert torch.allclose(generator.mean_latent(50, torch.Generator().manual_seed(5)), expected)


def test_an_images_noise_depends_on_its_own_seed_only() -> None:
    generator = tiny_generator("clean")
    together, alone = generator.seeded_noise([3, 1 << 62, 3]), generator.seeded_noise([1 << 62])
    assert [noise.shape[2] for noise in together] == [4, 8, 8, 16, 16, 32, 32]
    for ours, other in zip(together, alone, strict=True):
        assert ours.shape == (3, 1, *other.shape[2:])
        assert torch.equal(ours[1:2], other)
        assert torch.equal(ours[0], ours[2]) and not torch.equal(ours[0], ours[1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_parameter_of_the_prior_learns(layout: Layout) -> None:
    generator = tiny_generator(layout)
    image = generator(generator.latents(torch.randn(2, 24)), generator.seeded_noise([1, 2]))
    image.square().mean().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_autocast_keeps_the_image_float32_and_near(layout: Layout) -> None:
    generator = tiny_generator(layout)
    latents = generator.latents(torch.randn(2, 24))
    with torch.no_grad():
        expected = generator(latents)
        with torch.autocast("cpu", torch.bfloat16):
            image = generator(latents)
    assert image.dtype == torch.float32
    assert (image - expected).abs().mean() < 0.02 * expected.std()


def test_a_fresh_generator_gives_unit_features() -> None:
    for layout in LAYOUTS:
        generator = StyleGAN2Generator((64, 64, 64, 64), 64, 4, layout)
        w = generator.style_mlp(torch.randn(200, 64))
        assert 0.3 < w.std() < 3, layout
        features = generator.style_conv1(generator.constant_input(2), w[:2], generator.stored_noise()[0])
        assert 0.5 < features.square().mean().sqrt() < 2, layout
