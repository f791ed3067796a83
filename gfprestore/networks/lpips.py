"""LPIPS, the learned perceptual distance (Zhang et al., CVPR 2018), on VGG-16 or AlexNet.

Also its shift-tolerant variant (Ghildyal and Liu, ECCV 2022), which is the same distance on a VGG-16 with blurred
poolings. Pure torch: opens no file, chooses no device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfprestore.networks.vgg import IMAGENET_DEVIATION, IMAGENET_MEAN, VGGFeatures

VGG_LAYERS = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")
ALEX_PLACES = (0, 3, 6, 8, 10)
"""Indices of the convolutions in torchvision's features of AlexNet."""

_EPSILON = 1e-10


class AlexFeatures(nn.Module):
    """Features of AlexNet's five convolutions before the ReLU, in torchvision's variant."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            nn.Conv2d(256, 256, 3, padding=1),
        )
        mean, deviation = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_DEVIATION)
        self.register_buffer("mean", (2 * mean - 1).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", (2 * deviation).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> AlexFeatures:
        """Build the network with these weights, frozen: without gradients of its own.

        Args:
            state: Weights of torchvision's AlexNet, with or without its classifier.

        Raises:
            ValueError: The tensors do not belong to this network.
        """
        module = cls()
        try:
            module.load_state_dict({name: value for name, value in state.items() if name.startswith("features.")})
        except RuntimeError as error:
            raise ValueError(f"these are not the weights of torchvision's AlexNet: {error}") from error
        return module.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) RGB in [-1, 1], of 63 pixels or more, to features by name, from the first to the last."""
        x = (images - self.mean) / self.deviation
        taken = {}
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in ALEX_PLACES:
                taken[f"conv{ALEX_PLACES.index(place) + 1}"] = x
        return taken


class LPIPS(nn.Module):
    """Distance of two images: squared differences of unit features, weighted by learned heads, over five layers.

    Args:
        backbone: Network that returns features before the ReLU.
        heads: A weight for each channel of each layer, (C,) each.

    Raises:
        ValueError: The number of heads is not five.
    """

    def __init__(self, backbone: VGGFeatures | AlexFeatures, heads: Sequence[Tensor]) -> None:
        super().__init__()
        if len(heads) != len(VGG_LAYERS):
            raise ValueError(f"LPIPS must have {len(VGG_LAYERS)} heads, not {len(heads)}")
        self.backbone = backbone
        for number, head in enumerate(heads):
            self.register_buffer(f"head{number}", head.detach().clone().view(1, -1, 1, 1))

    def forward(self, restored: Tensor, gt: Tensor) -> Tensor:
        """Compute differentiable distances.

        Args:
            restored: (B, 3, H, W) RGB in [-1, 1].
            gt: The same shape.

        Returns:
            (B,), 0 for identical images.
        """
        features = self.backbone(torch.cat([restored, gt]))
        distance = restored.new_zeros(len(restored))
        for number, both in enumerate(features.values()):
            one, other = _unit(F.relu(both)).chunk(2)
            distance = distance + ((one - other).square() * self.get_buffer(f"head{number}")).sum(1).mean((1, 2))
        return distance


def vgg_lpips(backbone: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> LPIPS:
    """LPIPS on VGG-16, frozen.

    Args:
        backbone: torchvision's VGG-16, or that of shift-tolerant LPIPS.
        heads: The linear layers of the package lpips; for shift-tolerant LPIPS the same tensors as `backbone`.

    Raises:
        ValueError: The tensors belong to another network.
    """
    return LPIPS(VGGFeatures.from_state(backbone, VGG_LAYERS), head_weights(heads, (64, 128, 256, 512, 512))).eval()


def alex_lpips(backbone: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> LPIPS:
    """LPIPS on AlexNet, frozen.

    Args:
        backbone: torchvision's AlexNet.
        heads: The linear layers of the package lpips.

    Raises:
        ValueError: The tensors belong to another network.
    """
    return LPIPS(AlexFeatures.from_state(backbone), head_weights(heads, (64, 192, 384, 256, 256))).eval()


def head_weights(state: Mapping[str, Tensor], channels: Sequence[int]) -> list[Tensor]:
    """Read the heads (C,) from a state dict with LPIPS's names, `lin0.model.1.weight` and so on.

    Raises:
        ValueError: They are missing or have other shapes.
    """
    found = {int(match[1]): value for name, value in state.items()
             if (match := re.fullmatch(r"lin(\d)\.model\.\d\.weight", name))}  # fmt: skip
    shapes = [tuple(found[number].shape) for number in sorted(found)]
    if shapes != [(1, count, 1, 1) for count in channels]:
        raise ValueError(f"these are not the heads of LPIPS for {list(channels)} channels: {shapes}")
    return [found[number].flatten() for number in sorted(found)]


def _unit(features: Tensor) -> Tensor:
    """(B, C, H, W) with the features of every position normalized to length 1; zeros stay zero."""
    length = features.square().sum(1, keepdim=True).sqrt()
    return features / (length + _EPSILON)
