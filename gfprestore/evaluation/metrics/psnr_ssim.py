"""PSNR and SSIM (Wang et al., 2004), plain and with matched mean and deviation.

Images are (H, W, 3) in [0, 255], uint8 or float. Scores equal those of basicsr's calculate_psnr and calculate_ssim on
RGB without border crop.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

PEAK = 255.0
HIGHEST_PSNR = 60.0  # dB, of `psnr_capped`
WINDOW = 11
SIGMA = 1.5
LUMINANCE_CONSTANT = (0.01 * PEAK) ** 2
CONTRAST_CONSTANT = (0.03 * PEAK) ** 2


def psnr(restored: NDArray[Any], gt: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio over all channels, in dB; infinity for identical images."""
    error = float(np.mean(np.square(restored.astype(np.float64) - gt.astype(np.float64))))
    return math.inf if error == 0 else 10 * math.log10(PEAK**2 / error)


def ssim(restored: NDArray[Any], gt: NDArray[Any]) -> float:
    """Structural similarity, mean over channels and valid windows; NaN if a side is below 11 pixels."""
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
    """Match mean and standard deviation of each restored channel to the gt; float, not clipped.

    A constant channel has no contrast to stretch and gets the mean of the gt.
    """
    x, y = restored.astype(np.float64), gt.astype(np.float64)
    if np.array_equal(x, y):
        return x  # avoids rounding, which would give identical images a finite PSNR
    deviation = x.std((0, 1))
    stretch = np.divide(y.std((0, 1)), deviation, out=np.ones_like(deviation), where=deviation > 0)
    return np.asarray((x - x.mean((0, 1))) * stretch + y.mean((0, 1)))


def _windowed(values: NDArray[np.float64]) -> NDArray[Any]:
    """Gaussian means of the valid windows, (H, W, 3) -> (H - 10, W - 10, 3)."""
    kernel = cv2.getGaussianKernel(WINDOW, SIGMA)
    margin = WINDOW // 2
    inner = slice(margin, -margin)
    return np.asarray(cv2.sepFilter2D(values, cv2.CV_64F, kernel, kernel))[inner, inner]
