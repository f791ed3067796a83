"""VGG features before the ReLU (Simonyan and Zisserman, ICLR 2015), for the perceptual loss.

Three sets of weights are supported: torchvision's VGG-19 (the paper's) and VGG-16, and the VGG-16 of
shift-tolerant LPIPS (Ghildyal and Liu, ECCV 2022), with blurred poolings. Tensors have torchvision's names.
Pure torch: opens no file, chooses no device.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VGGLayout = Literal["vgg19", "vgg16"]

BLOCKS: dict[VGGLayout, tuple[int, ...]] = {"vgg19": (2, 2, 4, 4, 4), "vgg16": (2, 2, 3, 3, 3)}
"""Convolutions in each block; a pooling ends the block."""

CHANNELS = (64, 128, 256, 512, 512)

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1]
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class VGGConfig:
    """Configuration of a VGG, recognized by its weights.

    Attributes:
        layout: `vgg19` or `vgg16`.
        blurred: The poolings are blurred, as in shift-tolerant LPIPS.
    """

    layout: VGGLayout
    blurred: bool = False


class BlurredMaxPool(nn.Module):
    """Max pooling that does not depend on even or odd positions: maximum, blur, stride 2."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(taps, taps).view(1, 1, 3, 3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H // 2 + 1, W // 2 + 1); H and W are 4 or more."""
        channels = x.shape[1]
        x = F.pad(F.max_pool2d(x, 2, stride=1), (2, 2, 2, 2), mode="reflect")
        return F.conv2d(x, self.kernel.to(x.dtype).expand(channels, 1, 3, 3), stride=2, groups=channels)


class VGGFeatures(nn.Module):
    """Features of some of VGG's convolutions. Layers after the last requested one are not built.

    Args:
        layout: `vgg19` or `vgg16`.
        layers: Convolutions such as `conv3_4`: the fourth of the third block.
        blurred: Blurred poolings, for the weights of shift-tolerant LPIPS.

    Raises:
        ValueError: A layer is unknown, or no layer is requested.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, layout: VGGLayout, layers: Sequence[str], *, blurred: bool = False) -> None:
        super().__init__()
        self.config = VGGConfig(layout, blurred)
        places = _places(layout)
        unknown = [layer for layer in layers if layer not in places]
        if unknown or not layers:
            raise ValueError(
                f"layers must be some of {', '.join(places)} for {layout}, not {', '.join(unknown) or 'none'}"
            )
        self.taps = {places[layer]: layer for layer in layers}
        self.features = nn.Sequential(*_modules(layout, blurred, self.taps))
        # [-1, 1] -> [0, 1] -> ImageNet's mean and deviation, in one step
        mean, deviation = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_DEVIATION)
        self.register_buffer("mean", (2 * mean - 1).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", (2 * deviation).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], layers: Sequence[str]) -> VGGFeatures:
        """Build the network for these weights, frozen: without gradients of its own.

        Args:
            state: Weights of torchvision's VGG-19 or VGG-16, with or without its classifier, or of the VGG-16 of
                shift-tolerant LPIPS.
            layers: See the class; the layout is recognized by `config_from_state`.

        Raises:
            ValueError: The weights are for another network, or a layer is unknown.
        """
        config = config_from_state(state)
        if config is None:
            raise ValueError("these are not the weights of torchvision's VGG-19 or VGG-16, nor of shift-tolerant LPIPS")
        module = cls(config.layout, layers, blurred=config.blurred)
        wanted = module.state_dict()
        converted = dict(zip(_names(config.layout), _convolutions(state), strict=True))
        module.load_state_dict({name: converted[name] for name in wanted}, strict=True)
        return module.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute features before the ReLU.

        Args:
            images: (B, 3, H, W) RGB in [-1, 1], of at least 16 pixels times the scale of the last layer.

        Returns:
            (B, C, H', W') by layer name, from the first layer to the last.
        """
        x = (images - self.mean) / self.deviation
        taken = {}
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                taken[self.taps[index]] = x
        return taken


def config_from_state(state: Mapping[str, Tensor]) -> VGGConfig | None:
    """Recognize VGG-19 and VGG-16 by the shapes of their convolutions, and blurred poolings by their kernels.

    Args:
        state: Tensors by name, without prefix.

    Returns:
        The configuration; None if this is not a supported VGG.
    """
    shapes = [tuple(tensor.shape) for tensor in _convolutions(state)]
    for layout in BLOCKS:
        if shapes == _shapes(layout):
            return VGGConfig(layout, blurred="net.slice2.5.filt" in state)
    return None


def _convolutions(state: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Weight and bias of every convolution, in order, from either naming scheme."""
    pattern = re.compile(r"(?:features|net\.slice[1-5])\.(\d+)\.(weight|bias)")
    found = {(int(match[1]), match[2] == "bias"): name for name in state if (match := pattern.fullmatch(name))}
    return (state[found[place]] for place in sorted(found))


def _names(layout: VGGLayout) -> list[str]:
    """Names of weight and bias of every convolution in torchvision, in order."""
    return [f"features.{place}.{kind}" for place in _places(layout).values() for kind in ("weight", "bias")]


def _shapes(layout: VGGLayout) -> list[tuple[int, ...]]:
    """Shapes of weight and bias of every convolution, in order."""
    shapes: list[tuple[int, ...]] = []
    in_channels = 3
    for count, channels in zip(BLOCKS[layout], CHANNELS, strict=True):
        for _ in range(count):
            shapes += [(channels, in_channels, 3, 3), (channels,)]
            in_channels = channels
    return shapes


def _places(layout: VGGLayout) -> dict[str, int]:
    """Index of each convolution among the features: each is followed by a ReLU, each block by a pooling."""
    places = {}
    index = 0
    for block, count in enumerate(BLOCKS[layout], 1):
        for number in range(1, count + 1):
            places[f"conv{block}_{number}"] = index
            index += 2
        index += 1
    return places


def _modules(layout: VGGLayout, blurred: bool, taps: Mapping[int, str]) -> list[nn.Module]:
    """Features up to the last requested one."""
    modules: list[nn.Module] = []
    in_channels = 3
    for count, channels in zip(BLOCKS[layout], CHANNELS, strict=True):
        for _ in range(count):
            taken = len(modules) in taps  # requested features must not be overwritten by the ReLU
            modules += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU(inplace=not taken)]
            in_channels = channels
        modules.append(BlurredMaxPool() if blurred else nn.MaxPool2d(2))
    return modules[: max(taps) + 1]
