"""Level estimator: how strongly a face was retouched, by each of the six operations of FRRffusion's data set.

Not in the paper, whose faces all have the same level. A small convolutional network on pixel-unshuffled input. The mean
colors of 3 x 3 parts of the face are a second input of the last layers. Images are (B, 3, H, W) float RGB in [-1, 1],
fastest in channels-last. Pure torch: opens no file, chooses no device.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfprestore.networks.configs import ESTIMATOR_GROUPS, LevelEstimatorConfig
from gfprestore.networks.retouching_operations import OPERATIONS
from gfprestore.networks.retouching_reversal import coordinates

UNSHUFFLE = 4
POOLED_SIDE = 4
COLOR_SIDE = 3
MEAN_LEVEL = 0.48
"""Estimate of an untrained network: the mean level where every operation is on with probability 0.8, at 20 to 100."""


class LevelEstimator(nn.Module):
    """Estimates the six levels from a retouched face.

    Args:
        config: Sizes.
        dropout: Share of features dropped before the last layers while training.
    """

    def __init__(self, config: LevelEstimatorConfig, *, dropout: float = 0.2) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        count = 3 * UNSHUFFLE**2 + 3
        for scale, channels in enumerate(config.channels):
            layers += _activated_convolution(count, channels, stride=1 if scale == 0 else 2)
            layers += _activated_convolution(channels, channels, stride=1)
            count = channels
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(count * POOLED_SIDE**2 + 3 * COLOR_SIDE**2, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, len(OPERATIONS)),
        )
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        nn.init.constant_(last.bias, MEAN_LEVEL)

    def forward(self, retouched: Tensor, *, clamp: bool = True) -> Tensor:
        """Estimates the levels; no face's result depends on the others of the batch.

        Args:
            retouched: (B, 3, H, W), sides multiples of 4; 256 pixels in FRRffusion.
            clamp: Limit the levels to [0, 1]. Turn it off for training, because a clamped level has no gradient.

        Returns:
            (B, 6) float32 in the order of `OPERATIONS`.
        """
        dtype = next(self.parameters()).dtype
        folded = F.pixel_unshuffle(retouched.to(dtype), UNSHUFFLE)
        folded = torch.cat([folded, coordinates(folded.shape[-2], folded.shape[-1], folded)], 1)
        pooled = F.adaptive_avg_pool2d(self.features(folded), POOLED_SIDE).flatten(1).to(dtype)
        colors = F.adaptive_avg_pool2d(retouched.to(dtype), COLOR_SIDE).flatten(1)
        levels: Tensor = self.head(torch.cat([pooled, colors], 1)).float()
        return levels.clamp(0, 1) if clamp else levels


def config_from_state(state: Mapping[str, Tensor]) -> LevelEstimatorConfig | None:
    """Recognizes a level estimator by its tensor names and reads its sizes from their shapes.

    Args:
        state: Tensors by name, without prefix.

    Returns:
        The configuration to build the network with; None for another network.
    """
    first, hidden, last = state.get("features.0.weight"), state.get("head.1.weight"), state.get("head.3.weight")
    if first is None or hidden is None or last is None or first.ndim != 4 or not hidden.ndim == last.ndim == 2:
        return None
    if first.shape[1] != 3 * UNSHUFFLE**2 + 3 or last.shape[0] != len(OPERATIONS):
        return None
    channels: list[int] = []
    while (weight := state.get(f"features.{6 * len(channels)}.weight")) is not None:
        channels.append(len(weight))
    try:
        return LevelEstimatorConfig(channels=tuple(channels), hidden=hidden.shape[0])
    except ValueError:
        return None


def _activated_convolution(in_channels: int, channels: int, *, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1)
    return [convolution, nn.GroupNorm(ESTIMATOR_GROUPS, channels), nn.SiLU()]
