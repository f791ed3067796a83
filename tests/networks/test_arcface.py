"""ArcFace's ResNet-18 against the official class."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gfprestore.networks.arcface import ArcFaceResNet18


def random_statistics(module: nn.Module) -> nn.Module:
    """Normalizations that do something, as trained ones do."""
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_(std=0.2)
            layer.running_var.uniform_(0.5, 2)
        elif isinstance(layer, nn.PReLU):
            nn.init.uniform_(layer.weight, 0.1, 0.4)
    return module


def test_embeddings_and_their_gradients_equal_the_official_ones(official: None) -> None:
    from gfpgan.archs.arcface_arch import ResNetArcFace

    theirs = random_statistics(ResNetArcFace(block="IRBlock", layers=(2, 2, 2, 2), use_se=False)).eval()
    state: dict[str, Tensor] = theirs.state_dict()
    ours = ArcFaceResNet18.from_state(state)
    gray = (torch.rand(2, 1, 128, 128) * 2 - 1).requires_grad_()
    expected, embeddings = theirs(gray), ours(gray.contiguous(memory_format=torch.channels_last))
    assert embeddings.shape == (2, 512) and expected.std() > 0.1
    assert (expected[0] - expected[1]).abs().max() > 0.01
    assert (embeddings - expected).abs().max() <= 1e-5 * expected.abs().max()
    direction = torch.randn_like(expected)
    (expected_gradient,) = torch.autograd.grad((expected * direction).sum(), gray)
    (gradient,) = torch.autograd.grad((embeddings * direction).sum(), gray)
    assert (gradient - expected_gradient).abs().max() <= 1e-4 * expected_gradient.abs().max()
    assert all(not parameter.requires_grad for parameter in ours.parameters()) and not ours.training


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="not the weights of ArcFace's ResNet-18"):
        ArcFaceResNet18.from_state({"conv1.weight": torch.zeros(64, 3, 7, 7)})
