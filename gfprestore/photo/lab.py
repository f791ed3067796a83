"""CIE L*a*b* samples of a TIFF as sRGB.

CIELab (photometric interpretation 8, TIFF 6.0 section 23) has signed a* and b*; ICCLab (9, Adobe Photoshop TIFF
technical note) has an offset instead, and at 16 bits another scale of L*. White is D50, as Adobe's note states.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfprestore.photo.icc import SRGB_TO_XYZ, bands
from gfprestore.pixels import nearest_levels

Pixels = NDArray[Any]

CIELAB, ICCLAB = 8, 9
_D50 = SRGB_TO_XYZ.sum(axis=1)  # so that a* = b* = 0 gives equal channels
_FROM_XYZ = np.linalg.inv(SRGB_TO_XYZ)
_BAND_PIXELS = 1 << 16


def lab_to_srgb(samples: Pixels, photometric: int) -> Pixels:
    """Convert samples (H, W, 3) uint8 or uint16 as stored to sRGB levels of the same type; other colors are clipped."""
    out = np.empty_like(samples)
    full = np.iinfo(samples.dtype).max
    for rows in bands(samples.shape[0], samples.shape[1], _BAND_PIXELS):
        light = _xyz(_coordinates(samples[rows], photometric)) @ _FROM_XYZ.T
        light = np.clip(light, 0, 1)
        encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        out[rows] = nearest_levels(encoded * full, samples.dtype)
    return out


def _coordinates(stored: Pixels, photometric: int) -> NDArray[np.float64]:
    """L* (0 to 100), a* and b* (about -128 to 127) of a band."""
    bits = 8 * stored.dtype.itemsize
    step = 1 << (bits - 8)
    lightest = 65280 if bits == 16 and photometric == ICCLAB else (1 << bits) - 1
    lab = stored.astype(np.float64)
    lab[..., 0] *= 100 / lightest
    if photometric == ICCLAB:
        lab[..., 1:] = lab[..., 1:] / step - 128
    else:
        lab[..., 1:] = stored[..., 1:].astype(f"i{stored.dtype.itemsize}") / step
    return lab


def _xyz(lab: NDArray[np.float64]) -> NDArray[np.float64]:
    """XYZ relative to white with Y = 1 (CIE 15:2018, section 8.2.1)."""
    middle = (lab[..., 0] + 16) / 116
    ratios = np.stack([middle + lab[..., 1] / 500, middle, middle - lab[..., 2] / 200], axis=-1)
    cubes = np.where(ratios > 6 / 29, ratios**3, 3 * (6 / 29) ** 2 * (ratios - 4 / 29))
    return np.asarray(cubes * _D50)
