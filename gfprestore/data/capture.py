"""Blur, noise, downscaling and JPEG: one capture of an image, the core of every degradation."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.pixels import LUMA, nearest_levels

Image = NDArray[np.float32]
Range = tuple[float, float]


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float, angle: float) -> NDArray[np.float64]:
    """Anisotropic Gaussian kernel.

    Args:
        size: Side of the kernel in pixels.
        sigma_x: Standard deviation along `angle` in pixels.
        sigma_y: Standard deviation across `angle` in pixels.
        angle: Direction in radians, from x toward y.

    Returns:
        Kernel (size, size) with sum 1.
    """
    steps = np.arange(size) - (size - 1) / 2
    x, y = np.meshgrid(steps, steps)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    kernel = np.exp(-0.5 * ((along / sigma_x) ** 2 + (across / sigma_y) ** 2))
    return np.asarray(kernel / kernel.sum())


def jpeg(image: Image, quality: int) -> Image:
    """Compress an image (H, W, 3) in [0, 1] with OpenCV's JPEG encoder and decode it."""
    levels = nearest_levels(image * 255, np.uint8)
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(levels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return np.asarray(decoded[..., ::-1].astype(np.float32) / np.float32(255))


def gray_of(image: Image) -> Image:
    """Convert an image (H, W, 3) to gray, repeated in three channels."""
    return np.repeat(luma_of(image)[..., None], 3, axis=2)


def luma_of(image: Image) -> Image:
    """Luma (H, W) of an RGB image (H, W, 3)."""
    return np.asarray(image @ LUMA, np.float32)  # (H, W, 3) -> (H, W)


@dataclass(frozen=True)
class Capture:
    """Ranges of one pass of the degradation model, named as in `DegradationOptions`."""

    kernel_size: int
    isotropic_probability: float
    sigma: Range
    downscale: Range
    noise: Range
    jpeg_quality: tuple[int, int]


def captured(
    image: Image, ranges: Capture, random: np.random.Generator, drawn: dict[str, float], prefix: str = ""
) -> Image:
    """Blur, downscale, add noise and compress: (H, W, 3) to (H // r, W // r, 3).

    The drawn values are stored in `drawn`, under names that start with `prefix`.
    """
    height, width = image.shape[:2]
    image = _blurred(image, ranges, random, drawn, prefix)
    factor = drawn[f"{prefix}downscale"] = random.uniform(*ranges.downscale)
    size = (max(1, int(width // factor)), max(1, int(height // factor)))
    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR))
    level = drawn[f"{prefix}noise"] = random.uniform(*ranges.noise)
    image = image + random.standard_normal(image.shape, np.float32) * np.float32(level / 255)
    quality = int(random.integers(*ranges.jpeg_quality, endpoint=True))
    drawn[f"{prefix}jpeg_quality"] = quality
    return jpeg(image, quality)


def _blurred(image: Image, ranges: Capture, random: np.random.Generator, drawn: dict[str, float], prefix: str) -> Image:
    sigma_x = drawn[f"{prefix}sigma_x"] = random.uniform(*ranges.sigma)
    if random.random() < ranges.isotropic_probability:
        drawn[f"{prefix}sigma_y"], drawn[f"{prefix}angle"] = sigma_x, 0.0
        return _blurred_isotropic(image, ranges.kernel_size, sigma_x)
    sigma_y = drawn[f"{prefix}sigma_y"] = random.uniform(*ranges.sigma)
    angle = drawn[f"{prefix}angle"] = random.uniform(-np.pi, np.pi)
    kernel = gaussian_kernel(ranges.kernel_size, sigma_x, sigma_y, angle)
    border = _negligible_border(kernel.max(axis=0), kernel.max(axis=1))
    kernel = kernel[border : len(kernel) - border, border : len(kernel) - border]
    return np.asarray(cv2.filter2D(image, -1, kernel))


def _blurred_isotropic(image: Image, size: int, sigma: float) -> Image:
    """Blur with a round kernel as two one-dimensional passes."""
    steps = np.arange(size) - (size - 1) / 2
    profile = np.exp(-0.5 * (steps / sigma) ** 2)
    profile /= profile.sum()
    border = _negligible_border(profile)
    profile = profile[border : size - border]
    return np.asarray(cv2.sepFilter2D(image, -1, profile, profile))


def _negligible_border(*profiles: NDArray[np.float64]) -> int:
    """Width of the border of a kernel that is negligible in 8-bit levels; cutting it off makes narrow blurs fast."""
    return min(int(np.argmax(profile > np.max(profile) * 1e-7)) for profile in profiles)
