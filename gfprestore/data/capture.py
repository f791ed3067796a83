"""Blur, noise, downscaling and JPEG: one capture of an image, the core of every degradation."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Range = tuple[float, float]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float, angle: float) -> NDArray[np.float64]:
    """A Gaussian with two standard deviations in pixels, the first along `angle` (radians, from x toward y).

    Returns:
        (size, size) with the sum 1.
    """
    steps = np.arange(size) - (size - 1) / 2
    x, y = np.meshgrid(steps, steps)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    kernel = np.exp(-0.5 * ((along / sigma_x) ** 2 + (across / sigma_y) ** 2))
    return np.asarray(kernel / kernel.sum())


def jpeg(image: Image, quality: int) -> Image:
    """The image (H, W, 3) in [0, 1] after OpenCV's JPEG of that quality."""
    levels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(levels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return np.asarray(decoded[..., ::-1].astype(np.float32) / np.float32(255))


def gray_of(image: Image) -> Image:
    """The image (H, W, 3) without its colors, the same gray in three channels."""
    return np.repeat(luma_of(image)[..., None], 3, axis=2)


def luma_of(image: Image) -> Image:
    """The luma (H, W) of an RGB image (H, W, 3)."""
    return np.asarray(image @ LUMA, np.float32)  # (H, W, 3) -> (H, W)


@dataclass(frozen=True)
class Capture:
    """Ranges of one pass of the paper's model, named as in the options."""

    kernel_size: int
    isotropic_probability: float
    sigma: Range
    downscale: Range
    noise: Range
    jpeg_quality: tuple[int, int]


def captured(
    image: Image, ranges: Capture, random: np.random.Generator, drawn: dict[str, float], prefix: str = ""
) -> Image:
    """Blurred, made smaller, noisy and compressed: (H, W, 3) to (H // r, W // r, 3).

    What is drawn goes into `drawn`, each name with `prefix` before it.
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
        return _blurred_round(image, ranges.kernel_size, sigma_x)
    sigma_y = drawn[f"{prefix}sigma_y"] = random.uniform(*ranges.sigma)
    angle = drawn[f"{prefix}angle"] = random.uniform(-np.pi, np.pi)
    kernel = gaussian_kernel(ranges.kernel_size, sigma_x, sigma_y, angle)
    light = _light_border(kernel.max(axis=0), kernel.max(axis=1))
    kernel = kernel[light : len(kernel) - light, light : len(kernel) - light]
    return np.asarray(cv2.filter2D(image, -1, kernel))


def _blurred_round(image: Image, size: int, sigma: float) -> Image:
    """The same as with the whole round kernel, whose rows and columns are one profile: two cheap passes."""
    steps = np.arange(size) - (size - 1) / 2
    profile = np.exp(-0.5 * (steps / sigma) ** 2)
    profile /= profile.sum()
    light = _light_border(profile)
    profile = profile[light : size - light]
    return np.asarray(cv2.sepFilter2D(image, -1, profile, profile))


def _light_border(*profiles: NDArray[np.float64]) -> int:
    """Width of a kernel's border that weighs nothing in 8-bit levels: without it narrow blurs are cheap."""
    return min(int(np.argmax(profile > np.max(profile) * 1e-7)) for profile in profiles)
