"""Inputs of 4x face super-resolution (Wang et al., CVPR 2021, section 4.2, table 2): bicubic to a quarter and back.

The paper only says that images are upsampled before its network sees them. The filter here is the one that the
super-resolution literature calls bicubic: Keys' cubic with a = -0.5, widened by the factor when it shrinks
(antialiasing), as MATLAB's `imresize` and Pillow compute it. OpenCV's INTER_CUBIC is another filter (a = -0.75, no
antialiasing). At the border the weights that remain are normalized, as in Pillow; MATLAB mirrors the image instead,
which changes the outermost 14 pixels of an image that was shrunk by 4 and enlarged again. The small image is rounded to
8 bits, as the file that it would be. Images are (H, W, 3) float32 RGB in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gfprestore.data.capture import Image

CUBIC = -0.5
"""Parameter a of Keys' cubic (IEEE Transactions on Acoustics, Speech, and Signal Processing, 1981)."""


@dataclass(frozen=True)
class SuperResolutionOptions:
    """What an input of super-resolution is made with.

    Attributes:
        factor: Ratio of the sides of the image and of its small version.
        filter: Name of the filter, for descriptions.

    Raises:
        ValueError: The factor is below 1.
    """

    factor: int = 4
    filter: str = "bicubic, a = -0.5, antialiased"

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"factor must be 1 or more, not {self.factor}")


SUPER_RESOLUTION_4 = SuperResolutionOptions()
"""512 pixels to 128 and back, the setting of the paper's table 2."""


def shrunk_and_enlarged(gt: Image, options: SuperResolutionOptions) -> Image:
    """Shrink an image by a factor and enlarge it to its size, each bicubically and rounded to 8-bit levels.

    Args:
        gt: (H, W, 3) float32 RGB in [0, 1]; not modified.
        options: The factor.

    Raises:
        ValueError: The sides are not multiples of the factor.
    """
    height, width = gt.shape[:2]
    factor = options.factor
    if height % factor or width % factor:
        raise ValueError(f"{width} x {height} pixels are not a multiple of {factor}")
    small = _rounded(bicubic(gt, height // factor, width // factor))
    return _rounded(bicubic(small, height, width))


def bicubic(image: Image, height: int, width: int) -> Image:
    """Resize an image (H, W, 3) bicubically, antialiased; levels may overshoot [0, 1]."""
    rows, columns = cubic_weights(image.shape[0], height), cubic_weights(image.shape[1], width)
    wide = np.tensordot(rows, image, axes=1)  # (height, H) x (H, W, 3) -> (height, W, 3)
    resized = np.tensordot(columns, wide, axes=(1, 1))  # (width, W) x (height, W, 3) -> (width, height, 3)
    return np.ascontiguousarray(resized.transpose(1, 0, 2), np.float32)


def cubic_weights(before: int, after: int) -> NDArray[np.float64]:
    """Weights (after, before) of the pixels of a row in each pixel of the resized row; each sums to 1."""
    scale = before / after
    stretch = max(scale, 1.0)  # antialiasing: a filter as wide as the new pixels
    centers = (np.arange(after) + 0.5) * scale - 0.5
    weights = _cubic((np.arange(before) - centers[:, None]) / stretch)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = (CUBIC + 2) * x**3 - (CUBIC + 3) * x**2 + 1
    far = CUBIC * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _rounded(image: Image) -> Image:
    return np.asarray(np.rint(np.clip(image, 0, 1) * 255) / np.float32(255), np.float32)
