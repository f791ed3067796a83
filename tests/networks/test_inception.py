"""The FID's Inception: against pytorch-fid's and the official one, with the same random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gfprestore.networks.inception import InceptionFeatures


def random_state() -> dict[str, Tensor]:
    """Weights that keep the size of what passes through, with the released file's classifier."""
    module = InceptionFeatures()
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_(std=0.2)
            layer.running_var.uniform_(0.5, 2)
    return module.state_dict() | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}


def without_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the released file was written, by a torch that did not count batches."""
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("package", ["pytorch_fid", "basicsr"])
@pytest.mark.filterwarnings("ignore")  # of these packages and of the torchvision that they call
def test_features_equal_those_of_the_reference(
    package: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if package == "basicsr":
        request.getfixturevalue("official")
    module: Any = pytest.importorskip(
        "pytorch_fid.inception" if package == "pytorch_fid" else "basicsr.archs.inception"
    )
    state = random_state()
    loader = "load_state_dict_from_url" if package == "pytorch_fid" else "load_url"
    monkeypatch.setattr(module, loader, lambda *_arguments, **_options: state)
    theirs = module.InceptionV3([3]).eval()
    ours = InceptionFeatures.from_state(without_counters(state))
    images = torch.rand(2, 3, 299, 299)
    images[1] = torch.nn.functional.avg_pool2d(images[1], 9, stride=1, padding=4)
    with torch.no_grad():
        expected = theirs(images)[0].flatten(1)
        features = ours((images * 2 - 1).contiguous(memory_format=torch.channels_last))
    assert features.shape == (2, 2048)
    assert expected.std() > 0.05 and (expected[0] - expected[1]).abs().mean() > 0.01
    assert (features - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_weights_of_another_network_are_refused() -> None:
    state = InceptionFeatures().state_dict()
    with pytest.raises(ValueError, match="not the weights of the FID's Inception"):
        InceptionFeatures.from_state({name: value for name, value in state.items() if "Mixed_7c" not in name})
    with pytest.raises(ValueError, match="not the weights"):
        InceptionFeatures.from_state(state | {"AuxLogits.conv0.conv.weight": torch.zeros(1)})


def test_the_network_is_frozen() -> None:
    module = InceptionFeatures.from_state(InceptionFeatures().state_dict())
    assert not module.training and not any(parameter.requires_grad for parameter in module.parameters())
