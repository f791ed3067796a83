"""The discriminators: against the official classes, against plain arithmetic, and differentiated twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gfprestore.networks.discriminators import FacialComponentDiscriminator, StyleGAN2Discriminator, minibatch_stddev
from gfprestore.networks.layers import EqualizedDownBlock


def unsettled(module: nn.Module) -> nn.Module:
    """Biases start at zero; here they count."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def near(ours: Tensor, expected: Tensor) -> bool:
    """Within 1e-5 of the expected values' spread."""
    assert ours.shape == expected.shape
    return bool((ours - expected).abs().max() <= 1e-5 * expected.abs().max())


@pytest.fixture
def official_discriminator(official_gfpgan: dict[str, Any]) -> Any:
    from basicsr.archs.stylegan2_arch import StyleGAN2Discriminator as Official

    return unsettled(Official(32, channel_multiplier=1, narrow=0.03125))


@pytest.fixture
def official_component_discriminator(official_gfpgan: dict[str, Any]) -> Any:
    from gfpgan.archs.gfpganv1_arch import FacialComponentDiscriminator as Official

    return unsettled(Official())


@pytest.mark.parametrize("batch", [1, 3, 4, 8])
def test_logits_and_their_gradients_equal_the_official_ones(batch: int, official_discriminator: Any) -> None:
    ours = StyleGAN2Discriminator((16, 16, 16, 16))
    ours.load_state_dict(official_discriminator.state_dict())
    images = torch.randn(batch, 3, 32, 32, requires_grad=True)
    expected = official_discriminator(images)
    logits = ours(images.contiguous(memory_format=torch.channels_last))
    assert expected.abs().max() > 0.1
    assert near(logits, expected)
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), images)
    assert near(gradient, expected_gradient)


@pytest.mark.parametrize("size", [20, 30, 80])
def test_component_logits_and_features_equal_the_official_ones(
    size: int, official_component_discriminator: Any
) -> None:
    ours = FacialComponentDiscriminator()
    ours.load_state_dict(official_component_discriminator.state_dict())
    patches = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected, expected_features = official_component_discriminator(patches, return_feats=True)
        logits, features = ours(patches, with_features=True)
        alone = ours(patches)
    assert near(logits, expected) and torch.equal(alone, logits)
    assert expected.std() > 0.1
    for mine, theirs in zip(features, expected_features, strict=True):
        assert near(mine, theirs)


def test_a_batch_without_patches_goes_through_and_back() -> None:
    discriminator = FacialComponentDiscriminator(4)
    logits, features = discriminator(torch.zeros(0, 3, 20, 20), with_features=True)
    (logits.sum() + features[0].sum() + features[1].sum()).backward()
    assert logits.shape == (0, 1, 5, 5)
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


def test_minibatch_stddev_is_one_number_a_group() -> None:
    x = torch.randn(8, 5, 4, 4)
    result = minibatch_stddev(x)
    assert result.shape == (8, 1, 4, 4)
    for first in (0, 1):  # images 0, 2, 4, 6 and 1, 3, 5, 7
        group = x[first::2].numpy()
        expected = torch.tensor(group.std(axis=0).mean())
        assert torch.allclose(result[first::2], expected.expand(4, 1, 4, 4), rtol=1e-5)


@pytest.mark.parametrize(("batch", "group"), [(1, 1), (2, 2), (5, 1), (6, 3), (7, 1), (9, 3), (12, 4)])
def test_groups_are_as_large_as_the_batch_allows(batch: int, group: int) -> None:
    x = torch.randn(batch, 2, 4, 4)
    expected = x.view(group, batch // group, -1).std(0, unbiased=False).mean(1).repeat(group)
    assert torch.allclose(minibatch_stddev(x)[:, 0, 0, 0], expected, rtol=1e-4, atol=2e-4)


def test_gradients_and_their_gradients_are_those_of_finite_differences() -> None:
    block = unsettled(EqualizedDownBlock(2, 3)).double()
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,))
    assert torch.autograd.gradgradcheck(block, (x,))
    discriminator = unsettled(FacialComponentDiscriminator(1)).double()
    patches = torch.randn(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(discriminator, (patches,))


def test_every_weight_of_the_discriminator_learns_from_its_gradient_penalty() -> None:
    discriminator = unsettled(StyleGAN2Discriminator((8, 8, 6)))
    images = torch.randn(4, 3, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    gradient.square().sum().backward()
    for name, parameter in discriminator.named_parameters():
        if name.endswith("weight"):  # biases shift what is linear almost everywhere
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_autocast_keeps_the_logits_float32_and_near() -> None:
    discriminator = unsettled(StyleGAN2Discriminator((16, 16, 16)))
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        expected = discriminator(images)
        with torch.autocast("cpu", torch.bfloat16):
            logits = discriminator(images)
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()


def test_a_discriminator_needs_two_resolutions() -> None:
    with pytest.raises(ValueError, match="at least two"):
        StyleGAN2Discriminator((16,))
    assert StyleGAN2Discriminator((4, 4)).size == 8
