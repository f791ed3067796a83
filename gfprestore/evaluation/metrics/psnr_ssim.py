"""How near a restored image is to its gt, pixel by pixel: PSNR and SSIM (Wang et al., 2004), plain and matched.

Images are (H, W, 3) of levels 0..255, uint8 or float. Numbers equal those of basicsr's calculate_psnr and
calculate_ssim on RGB with no border crop.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

PEAK = 255.0
WINDOW = 11
SIGMA = 1.5
LUMINANCE_CONSTANT = (0.01 * PEAK) ** 2
CONTRAST_CONSTANT = (0.03 * PEAK) ** 2


def psnr(restored: NDArray[Any], gt: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio in dB, of all channels together; infinity for identical images."""
    error = float(np.mean(np.square(restored.astype(np.float64) - gt.astype(np.float64))))
    return math.inf if error == 0 else 10 * math.log10(PEAK**2 / error)


def ssim(restored: NDArray[Any], gt: NDArray[Any]) -> float:
    """Structural similarity, the mean over channels and over windows that lie within; NaN below 11 pixels a side."""
    if min(restored.shape[:2]) < WINDOW:
        return math.nan
    x, y = restored.astype(np.float64), gt.astype(np.float64)
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x = _windowed(x * x) - mean_x * mean_x
    variance_y = _windowed(y * y) - mean_y * mean_y
    covariance = _windowed(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + LUMINANCE_CONSTANT) / (mean_x**2 + mean_y**2 + LUMINANCE_CONSTANT)
    structure = (2 * covariance + CONTRAST_CONSTANT) / (variance_x + variance_y + CONTRAST_CONSTANT)
    return float(np.mean(luminance * structure))


def matched(restored: NDArray[Any], gt: NDArray[Any]) -> NDArray[np.float64]:
    """The restored image with each channel's mean and standard deviation made the gt's; float, not clipped.

    A channel of one level only has no contrast to stretch: it takes the gt's mean.
    """
    x, y = restored.astype(np.float64), gt.astype(np.float64)
    if np.array_equal(x, y):
        return x  # without the rounding that would give identical images a finite PSNR
    deviation = x.std((0, 1))
    stretch = np.divide(y.std((0, 1)), deviation, out=np.ones_like(deviation), where=deviation > 0)
    return np.asarray((x - x.mean((0, 1))) * stretch + y.mean((0, 1)))


def _windowed(values: NDArray[np.float64]) -> NDArray[Any]:
    """(H, W, 3) -> (H - 10, W - 10, 3): Gaussian means of the windows that lie within."""
    kernel = cv2.getGaussianKernel(WINDOW, SIGMA)
    margin = WINDOW // 2
    inner = slice(margin, -margin)
    return np.asarray(cv2.sepFilter2D(values, cv2.CV_64F, kernel, kernel))[inner, inner]
