"""Synthetic aging of prints: grain, fading, yellowing, halftone, stains, scratches, dust."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.data.capture import Capture, Image, Range, captured, gray_of, luma_of

SEPIA = np.array([1.0, 0.86, 0.66], np.float32)  # RGB tint of the white of an old print


@dataclass(frozen=True)
class Aging:
    """Ranges of the aging of a print before it was scanned; each probability is per photo.

    Lengths are relative to the side of the image, so that a scratch looks the same at any size.

    Attributes:
        copy_probability: Probability of a copy of a copy: another blur, downscale, noise and JPEG before the main ones.
        copy_sigma: Blur of the copy in pixels.
        copy_downscale: Downscale factor of the copy.
        copy_noise: Noise of the copy in levels of 255.
        copy_jpeg_quality: JPEG quality of the copy.
        grain_probability: Probability of film grain, strongest in the mid-tones and equal in all channels.
        grain: Standard deviation of the grain in levels of 255.
        grain_size: Blur of the grain, relative to the side.
        fading_probability: Probability of fading: blacks turn gray and whites turn dull.
        fading_black: Level of the faded black.
        fading_white: Level of the faded white.
        sepia_probability: Probability of a monochrome, yellowed print.
        sepia_strength: Share of the full tint.
        halftone_probability: Probability of a newspaper print with a halftone of dots.
        halftone_period: Distance of the dots, relative to the side.
        halftone_strength: Opacity of the halftone.
        scratch_probability: Probability of scratches: thin, long, bright or dark lines.
        scratches: Number of scratches.
        scratch_width: Width of the scratches, relative to the side.
        dust_probability: Probability of dust: specks and short hairs.
        specks: Number of specks.
        speck_size: Radius of the specks, relative to the side.
        stain_probability: Probability of stains: large, soft areas of another brightness.
        stain_strength: Maximum change of the brightness.
    """

    copy_probability: float = 0.2
    copy_sigma: Range = (0.2, 2.0)
    copy_downscale: Range = (1.0, 2.0)
    copy_noise: Range = (0.0, 8.0)
    copy_jpeg_quality: tuple[int, int] = (50, 95)
    grain_probability: float = 0.35
    grain: Range = (2.0, 18.0)
    grain_size: Range = (0.0, 0.0025)
    fading_probability: float = 0.1
    fading_black: Range = (0.0, 0.15)
    fading_white: Range = (0.8, 1.0)
    sepia_probability: float = 0.15
    sepia_strength: Range = (0.2, 1.0)
    halftone_probability: float = 0.04
    halftone_period: Range = (0.008, 0.016)
    halftone_strength: Range = (0.2, 0.6)
    scratch_probability: float = 0.2
    scratches: tuple[int, int] = (1, 6)
    scratch_width: Range = (0.001, 0.006)
    dust_probability: float = 0.2
    specks: tuple[int, int] = (3, 40)
    speck_size: Range = (0.001, 0.006)
    stain_probability: float = 0.1
    stain_strength: Range = (0.03, 0.2)


def aged(image: Image, aging: Aging, random: np.random.Generator, drawn: dict[str, float]) -> Image:
    """Apply each kind of aging with its probability: copy, grain, fading, sepia, halftone, stains, scratches, dust."""
    steps = (
        (aging.copy_probability, _copied),
        (aging.grain_probability, _grainy),
        (aging.fading_probability, _faded),
        (aging.sepia_probability, _yellowed),
        (aging.halftone_probability, _halftoned),
        (aging.stain_probability, _stained),
        (aging.scratch_probability, _scratched),
        (aging.dust_probability, _dusty),
    )
    for probability, step in steps:
        if random.random() < probability:
            image = np.clip(step(image, aging, random, drawn), 0, 1)
    return image


def _copied(image: Image, aging: Aging, random: np.random.Generator, drawn: dict[str, float]) -> Image:
    height, width = image.shape[:2]
    ranges = Capture(21, 0.5, aging.copy_sigma, aging.copy_downscale, aging.copy_noise, aging.copy_jpeg_quality)
    smaller = captured(image, ranges, random, drawn, "copy_")
    ways = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA)
    return np.asarray(cv2.resize(smaller, (width, height), interpolation=ways[int(random.integers(len(ways)))]))


def _grainy(image: Image, aging: Aging, random: np.random.Generator, drawn: dict[str, float]) -> Image:
    grain = random.standard_normal(image.shape[:2], np.float32)
    sigma = random.uniform(*aging.grain_size) * len(image)
    if sigma > 0.3:
        grain = np.asarray(cv2.GaussianBlur(grain, (0, 0), sigma))
        grain /= grain.std()
    level = drawn["grain"] = random.uniform(*aging.grain)
    luma = np.clip(luma_of(image), 0, 1)
    mid_tones = np.float32(0.4) + np.float32(2.4) * luma * (1 - luma)  # 1 in the middle, 0.4 in black and white
    return np.asarray(image + (grain * mid_tones * np.float32(level / 255))[..., None], np.float32)


def _faded(image: Image, aging: Aging, random: np.random.Generator, drawn: dict[str, float]) -> Image:
    black = drawn["fading_black"] = random.uniform(*aging.fading_black)
    white = drawn["fading_white"] = random.uniform(*aging.fading_white)
    return np.asarray(image * np.float32(white - black) + np.float32(black), np.float32)


def _yellowed(image: Image, aging: Aging, random: np.random.Generator, drawn: dict[str, float]) -> Image:
    strength = drawn["sepia"] = random.uniform(*aging.sepia_strength)
    drawn["grey"] = 1.0
    tint = SEPIA ** np.float32(strength)
    return np.asarray(gray_of(image) * tint, np.float32)


def _halftoned(image: Image, aging: Aging, random: np.random.Generator, drawn: dict[str, float]) -> Image:
    """Halftone dots on a rotated grid, larger in dark areas."""
    height, width = image.shape[:2]
    period = drawn["halftone_period"] = random.uniform(*aging.halftone_period) * height
    angle = random.uniform(0, np.pi / 2)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    turn = np.float32(2 * np.pi / period)
    across = (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) * turn
    down = (y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))) * turn
    threshold = (np.float32(2) + np.cos(across) + np.cos(down)) / 4  # (H, W) in [0, 1]
    dots = np.clip((image - threshold[..., None]) * np.float32(period) + np.float32(0.5), 0, 1)
    strength = np.float32(random.uniform(*aging.halftone_strength))
    drawn["halftone_strength"] = float(strength)
    return np.asarray(image + (dots - image) * strength, np.float32)


def _stained(image: Image, aging: Aging, random: np.random.Generator, drawn: dict[str, float]) -> Image:
    height, width = image.shape[:2]
    coarse = random.standard_normal((5, 5), np.float32)
    patch = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    strength = drawn["stain"] = random.uniform(*aging.stain_strength)
    return np.asarray(image + (np.tanh(patch) * np.float32(strength))[..., None], np.float32)


def _scratched(image: Image, aging: Aging, random: np.random.Generator, drawn: dict[str, float]) -> Image:
    """Long, slightly curved lines through the image."""
    side = len(image)
    count = int(random.integers(*aging.scratches, endpoint=True))
    drawn["scratches"] = count
    for _ in range(count):
        start, end = random.uniform(0, side, 2), random.uniform(0, side, 2)
        bend = (start + end) / 2 + random.normal(0, side / 30, 2)
        share = np.linspace(0, 1, 12)[:, None]
        points = (1 - share) ** 2 * start + 2 * share * (1 - share) * bend + share**2 * end
        opacity = _drawn_line(image.shape[:2], points, random.uniform(*aging.scratch_width) * side)
        image = _blended(image, opacity, random)
    return image


def _dusty(image: Image, aging: Aging, random: np.random.Generator, drawn: dict[str, float]) -> Image:
    """Specks, one in four of them a short hair."""
    side = len(image)
    count = int(random.integers(*aging.specks, endpoint=True))
    drawn["specks"] = count
    opacity = np.zeros(image.shape[:2], np.float32)
    for _ in range(count):
        radius = random.uniform(*aging.speck_size) * side
        start = random.uniform(0, side, 2)
        length = radius if random.random() < 0.75 else side * random.uniform(0.01, 0.06)
        points = start + np.cumsum(random.normal(0, length / 2, (4, 2)), axis=0)
        opacity = np.maximum(opacity, _drawn_line(image.shape[:2], points, radius))
    return _blended(image, opacity, random)


def _drawn_line(shape: tuple[int, ...], points: NDArray[np.float64], width: float) -> Image:
    """Draw an anti-aliased line through the points (N, 2); a line thinner than a pixel is fainter.

    Returns:
        Opacity (H, W) float32 in [0, 1].
    """
    canvas = np.zeros(shape, np.uint8)
    sixteenths = np.rint(points * 16).astype(np.int32)[:, None]
    cv2.polylines(canvas, [sixteenths], False, 255, max(1, round(width)), cv2.LINE_AA, 4)
    return np.asarray(canvas.astype(np.float32) * np.float32(min(1.0, width) / 255))


def _blended(image: Image, opacity: Image, random: np.random.Generator) -> Image:
    """Blend a bright (probability 0.75) or dark level over the image."""
    level = random.uniform(0.75, 1) if random.random() < 0.75 else random.uniform(0, 0.25)
    share = (opacity * np.float32(random.uniform(0.4, 1)))[..., None]
    return np.asarray(image + (np.float32(level) - image) * share, np.float32)
