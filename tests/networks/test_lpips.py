"""LPIPS and ST-LPIPS: against the packages' own modules, with the same weights."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from gfprestore.networks.lpips import LPIPS, AlexFeatures, alex_lpips, head_weights, vgg_lpips

CHANNELS = {"vgg": (64, 128, 256, 512, 512), "alex": (64, 192, 384, 256, 256)}


def torchvision_features(net: str) -> nn.Sequential:
    """Random weights; the classifier, of a hundred million, is never built."""
    from torchvision.models.vgg import cfgs, make_layers

    if net == "vgg":
        features: nn.Sequential = make_layers(cfgs["D"])
    else:
        features = torchvision.models.AlexNet(num_classes=1).features
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.1)
    return features


def state_of(features: nn.Sequential) -> dict[str, Tensor]:
    return {f"features.{name}": tensor.clone() for name, tensor in features.state_dict().items()}


def random_heads(net: str) -> dict[str, Tensor]:
    return {f"lin{number}.model.1.weight": torch.rand(1, count, 1, 1) for number, count in enumerate(CHANNELS[net])}


def two_images(height: int = 72, width: int = 96) -> tuple[Tensor, Tensor]:
    one = torch.rand(2, 3, height, width) * 2 - 1
    return one, torch.stack([one[0] * 0.7 + 0.1, torch.roll(one[1], 2, -1)])


@pytest.mark.parametrize("net", ["vgg", "alex"])
@pytest.mark.filterwarnings("ignore")  # of the package lpips
def test_distances_equal_those_of_the_package(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lpips: Any = pytest.importorskip("lpips", exc_type=ImportError)
    features, heads = torchvision_features(net), random_heads(net)
    state = state_of(features)
    holder = nn.Module()
    holder.features = features
    name = {"vgg": "vgg16", "alex": "alexnet"}[net]
    monkeypatch.setattr(lpips.pretrained_networks.tv, name, lambda **_options: holder)
    theirs = lpips.LPIPS(pretrained=False, net=net, verbose=False)
    misfit = theirs.load_state_dict(heads, strict=False)
    assert not misfit.unexpected_keys
    ours = {"vgg": vgg_lpips, "alex": alex_lpips}[net](state, heads)
    restored, gt = two_images()
    with torch.no_grad():
        expected = theirs(restored, gt).flatten()
        distances = ours(*(tensor.contiguous(memory_format=torch.channels_last) for tensor in (restored, gt)))
    assert distances.shape == (2,) and expected.min() > 0.01
    assert (distances - expected).abs().max() <= 1e-5 * expected.max()


@pytest.mark.filterwarnings("ignore")  # of the package stlpips_pytorch
def test_shift_tolerant_distances_equal_those_of_the_package_with_its_own_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = importlib.util.find_spec("stlpips_pytorch")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("stlpips-pytorch is not installed")
    for module, attribute in (("IPython", "embed"), ("torchsummary", "summary")):  # imported, not declared, not used
        stub = types.ModuleType(module)
        setattr(stub, attribute, None)
        monkeypatch.setitem(sys.modules, module, stub)
    monkeypatch.setattr(nn.init, "normal_", lambda tensor, *_arguments, **_options: tensor)  # its VGG takes 10 s of it
    stlpips: Any = importlib.import_module("stlpips_pytorch.stlpips")
    path = Path(spec.submodule_search_locations[0], "weights", "vST0.0", "vgg_shift_tolerant.pth")
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    assert len(state) == 37
    theirs = stlpips.LPIPS(net="vgg", variant="shift_tolerant", pretrained=False, verbose=False)
    misfit = theirs.load_state_dict(state, strict=False)
    assert not misfit.unexpected_keys and all(name.startswith("lins.") for name in misfit.missing_keys)
    ours = vgg_lpips(state, state)
    restored, gt = two_images(64, 80)
    with torch.no_grad():
        expected = theirs(restored, gt).flatten()
        assert ours(restored, gt) == pytest.approx(expected, rel=1e-4)
    assert expected.min() > 0.002


def test_a_distance_is_nought_for_identical_images_symmetric_and_has_gradients() -> None:
    module = vgg_lpips(state_of(torchvision_features("vgg")), random_heads("vgg"))
    restored, gt = two_images(32, 32)
    restored.requires_grad_()
    distances = module(restored, gt)
    assert torch.allclose(distances, module(gt, restored), rtol=1e-5)
    assert module(gt, gt).tolist() == [0, 0]
    distances.sum().backward()
    assert restored.grad is not None and restored.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_weights_and_heads_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="not the weights of torchvision's AlexNet"):
        AlexFeatures.from_state(state_of(torchvision_features("vgg")))
    with pytest.raises(ValueError, match="not the heads of LPIPS"):
        head_weights(random_heads("alex"), CHANNELS["vgg"])
    with pytest.raises(ValueError, match="5 heads, not 4"):
        LPIPS(AlexFeatures(), [torch.ones(count) for count in CHANNELS["alex"][:4]])
