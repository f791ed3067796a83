"""VGG's features: against torchvision's networks, against the official extractor, and with the weights of a package."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

from gfprestore.networks.vgg import BlurredMaxPool, VGGConfig, VGGFeatures, VGGLayout, config_from_state

LAST = {"vgg19": "conv5_4", "vgg16": "conv5_3"}
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def torchvision_features(layout: VGGLayout) -> nn.Sequential:
    """Random weights; the classifier, of a hundred million, is never built."""
    letter = {"vgg19": "E", "vgg16": "D"}[layout]
    from torchvision.models.vgg import cfgs, make_layers

    features: nn.Sequential = make_layers(cfgs[letter])
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.1)
    return features


def state_of(features: nn.Sequential) -> dict[str, Tensor]:
    return {f"features.{name}": tensor for name, tensor in features.state_dict().items()}


def shift_tolerant_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same VGG-16 under the names of shift-tolerant LPIPS, whose poolings take two places each."""
    poolings = (4, 9, 16, 23)  # in torchvision's count
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        _, place, kind = name.split(".")
        block = sum(int(place) > pooling for pooling in poolings)
        renamed[f"net.slice{block + 1}.{int(place) + block}.{kind}"] = tensor
    for block, (place, channels) in enumerate(((5, 64), (11, 128), (19, 256), (27, 512)), 2):
        renamed[f"net.slice{block}.{place}.filt"] = torch.zeros(channels, 1, 3, 3)
    renamed["scaling_layer.shift"] = torch.zeros(1, 3, 1, 1)
    renamed["lin0.model.1.weight"] = torch.zeros(1, 64, 1, 1)
    return renamed


def packaged_file() -> Path:
    spec = importlib.util.find_spec("stlpips_pytorch")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("stlpips-pytorch is not installed")
    return Path(spec.submodule_search_locations[0], "weights", "vST0.0", "vgg_shift_tolerant.pth")


def near(ours: Tensor, expected: Tensor) -> bool:
    assert ours.shape == expected.shape
    return bool((ours - expected).abs().max() <= 1e-5 * expected.abs().max())


@pytest.mark.parametrize("layout", ["vgg19", "vgg16"])
def test_features_are_torchvisions_before_the_relu(layout: VGGLayout) -> None:
    features = torchvision_features(layout)
    index = len(features) - 3  # ends with convolution, ReLU, pooling
    ours = VGGFeatures.from_state(state_of(features), [LAST[layout], "conv1_2"])
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        normalized = ((images + 1) / 2 - MEAN) / DEVIATION
        expected = {"conv1_2": features[:3](normalized), LAST[layout]: features[: index + 1](normalized)}
        taken = ours(images)
    assert list(taken) == ["conv1_2", LAST[layout]]
    for layer, values in expected.items():
        assert near(taken[layer], values)
        assert values.min() < 0, "before the ReLU"


@pytest.mark.parametrize("layout", ["vgg19", "vgg16"])
def test_layers_are_the_official_extractors(layout: VGGLayout, official: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from basicsr.archs import vgg_arch

    features = torchvision_features(layout)
    network = nn.Module()
    network.features = features
    monkeypatch.setattr(vgg_arch.vgg, layout, lambda **_options: network)
    layers = {
        "vgg19": ["conv1_2", "conv2_2", "conv3_4", "conv4_4", "conv5_4"],
        "vgg16": ["conv1_1", "conv2_2", "conv3_3", "conv4_3", "conv5_3"],
    }[layout]
    state = {name: tensor.clone() for name, tensor in state_of(features).items()}
    extractor = vgg_arch.VGGFeatureExtractor(layers, layout, use_input_norm=True, range_norm=True)
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    expected = extractor(images)
    taken = VGGFeatures.from_state(state, layers)(images)
    assert list(taken) == list(expected) == layers
    for layer in layers:
        assert near(taken[layer], expected[layer]), layer


def test_blurred_pooling_takes_the_maximum_and_weighs_neighbors_one_two_one() -> None:
    x = torch.randn(1, 2, 6, 8)
    result = BlurredMaxPool()(x)
    assert result.shape == (1, 2, 4, 5)
    values = x.numpy()
    corners = [values[..., row : row + 5, column : column + 7] for row in (0, 1) for column in (0, 1)]
    largest = np.maximum.reduce(corners)
    padded = np.pad(largest, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    weights = np.outer([1, 2, 1], [1, 2, 1]) / 16
    for row in range(4):
        for column in range(5):
            window = padded[..., 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            assert np.allclose(result[..., row, column], (window * weights).sum((-2, -1)), atol=1e-6)


def test_shift_tolerant_weights_are_recognized_and_run_with_blurred_poolings() -> None:
    features = torchvision_features("vgg16")
    state = shift_tolerant_names(state_of(features))
    assert config_from_state(state) == VGGConfig("vgg16", blurred=True)
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        taken = VGGFeatures.from_state(state, ["conv2_2", "conv5_3"])(images)
        x = ((images + 1) / 2 - MEAN) / DEVIATION
        for layer in features[:-2]:
            if isinstance(layer, nn.MaxPool2d):
                x = F.pad(F.max_pool2d(x, 2, stride=1), (2, 2, 2, 2), mode="reflect")
                kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
                x = torch.stack([F.conv2d(plane[:, None], kernel[None, None], stride=2)[:, 0] for plane in x])
            else:
                x = layer(x)
    assert near(taken["conv5_3"], x)
    assert taken["conv2_2"].shape == (1, 128, 17, 17)


def test_each_kind_of_weights_is_told_apart() -> None:
    vgg16, vgg19 = state_of(torchvision_features("vgg16")), state_of(torchvision_features("vgg19"))
    assert config_from_state(vgg16) == VGGConfig("vgg16")
    assert config_from_state(vgg19 | {"classifier.0.weight": torch.zeros(4, 4)}) == VGGConfig("vgg19")
    renamed = shift_tolerant_names(vgg16)
    plain = {name: tensor for name, tensor in renamed.items() if not name.endswith("filt")}
    assert config_from_state(plain) == VGGConfig("vgg16"), "LPIPS as its authors train it"
    assert config_from_state(dict(reversed(list(vgg19.items())))) == VGGConfig("vgg19"), "in any order"
    short = {name: tensor for name, tensor in vgg16.items() if name != "features.28.bias"}
    batch_normalized = torchvision.models.vgg16_bn(num_classes=1, init_weights=False).features
    for other in (short, state_of(batch_normalized), {}, {"conv1.weight": torch.zeros(1)}):
        assert config_from_state(other) is None
        with pytest.raises(ValueError, match="not the weights"):
            VGGFeatures.from_state(other, ["conv1_2"])


@pytest.mark.parametrize("layers", [["conv3_4"], ["relu1_1", "conv1_1"], []])
def test_layers_that_a_network_lacks_are_refused(layers: Sequence[str]) -> None:
    with pytest.raises(ValueError, match="layers must be some of conv1_1, conv1_2"):
        VGGFeatures("vgg16", layers)


def test_names_are_torchvisions_and_later_layers_are_not_built() -> None:
    module = VGGFeatures("vgg19", ["conv2_1", "conv1_2"])
    assert list(module.state_dict()) == [
        f"features.{place}.{kind}" for place in (0, 2, 5) for kind in ("weight", "bias")
    ]
    assert len(module.features) == 6


@pytest.mark.parametrize("blurred", [False, True])
def test_gradients_reach_the_images_and_not_the_weights(blurred: bool) -> None:
    state = state_of(torchvision_features("vgg16"))
    module = VGGFeatures.from_state(shift_tolerant_names(state) if blurred else state, ["conv1_2", "conv3_3"])
    assert not module.training
    images = torch.rand(1, 3, 16, 16, requires_grad=True)
    sum(features.square().mean() for features in module(images).values()).backward()  # type: ignore[union-attr]
    assert images.grad is not None and (images.grad != 0).all()
    assert all(parameter.grad is None for parameter in module.parameters())


def test_the_packages_weights_give_the_distances_of_its_own_module(astronaut: NDArray[np.uint8]) -> None:
    """The two numbers are what stlpips_pytorch 0.0.2's LPIPS(net="vgg", variant="shift_tolerant") gives these images.

    With plain poolings the shift would cost 0.0218, without ImageNet's normalization the blur 0.450.
    """
    state: dict[str, Any] = torch.load(packaged_file(), map_location="cpu", weights_only=True)
    module = VGGFeatures.from_state(state, ["conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"])
    assert module.config == VGGConfig("vgg16", blurred=True)
    heads = [state[f"lin{index}.model.1.weight"] for index in range(5)]
    photo = torch.from_numpy(astronaut[40:170, 160:290]).permute(2, 0, 1)[None].float() / 127.5 - 1

    def distance(one: Tensor, other: Tensor) -> float:
        """LPIPS: unit features after the ReLU, squared differences weighed by the learned heads."""
        total = torch.zeros(())
        for head, a, b in zip(heads, module(one).values(), module(other).values(), strict=True):
            difference = F.normalize(F.relu(a), dim=1) - F.normalize(F.relu(b), dim=1)
            total += F.conv2d(difference.square(), head).mean()
        return float(total)

    here, shifted = photo[..., 1:129, 1:129], photo[..., 2:130, 1:129]
    blurred = F.avg_pool2d(F.pad(here, (3, 3, 3, 3), mode="reflect"), 7, stride=1)
    with torch.no_grad():
        assert distance(here, shifted) == pytest.approx(0.0121251, rel=1e-3)
        assert distance(here, blurred) == pytest.approx(0.5778657, rel=1e-3)
