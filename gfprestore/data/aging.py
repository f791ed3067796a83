"""What old prints suffer: grain, fading, yellowing, halftone, stains, scratches, dust."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.data.capture import Capture, Picture, Range, captured, grey_of, luma_of

SEPIA = np.array([1.0, 0.86, 0.66], np.float32)  # the tint of an old print's white, in RGB


@dataclass(frozen=True)
class Ageing:
    """What happened to an old print before it was scanned; each probability is for one photo.

    Lengths are shares of the picture's side, so that a scratch looks alike at any size.

    Attributes:
        copy_probability: The print is a copy of a copy: one more blur, downscale, noise and JPEG before the main ones.
        copy_sigma: Blur of the copy in pixels.
        copy_downscale: Factor by which the copy is smaller.
        copy_noise: Noise of the copy in levels of 255.
        copy_jpeg_quality: JPEG quality of the copy.
        grain_probability: Film grain, strongest in the mid-tones, the same in all channels.
        grain: Its standard deviation in levels of 255.
        grain_size: Its blur in shares of the side.
        fading_probability: Blacks have turned grey and whites dull.
        fading_black: Level to which black has risen.
        fading_white: Level to which white has sunk.
        sepia_probability: The print is monochrome and yellowed.
        sepia_strength: Share of the full tint.
        halftone_probability: The print is from a newspaper: a raster of dots.
        halftone_period: Distance of the dots in shares of the side.
        halftone_strength: Share of the raster in the picture.
        scratch_probability: Thin, long, bright or dark lines.
        scratches: How many.
        scratch_width: Their width in shares of the side.
        dust_probability: Specks and short hairs.
        specks: How many.
        speck_size: Their radius in shares of the side.
        stain_probability: Large, soft patches of another lightness.
        stain_strength: How much lighter or darker, at most.
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


def aged(picture: Picture, ageing: Ageing, random: np.random.Generator, drawn: dict[str, float]) -> Picture:
    """The print as it lies on the scanner: copied, grainy, faded, yellowed, rastered, stained, scratched, dusty."""
    steps = (
        (ageing.copy_probability, _copied),
        (ageing.grain_probability, _grainy),
        (ageing.fading_probability, _faded),
        (ageing.sepia_probability, _yellowed),
        (ageing.halftone_probability, _rastered),
        (ageing.stain_probability, _stained),
        (ageing.scratch_probability, _scratched),
        (ageing.dust_probability, _dusty),
    )
    for probability, step in steps:
        if random.random() < probability:
            picture = np.clip(step(picture, ageing, random, drawn), 0, 1)
    return picture


def _copied(picture: Picture, ageing: Ageing, random: np.random.Generator, drawn: dict[str, float]) -> Picture:
    height, width = picture.shape[:2]
    ranges = Capture(21, 0.5, ageing.copy_sigma, ageing.copy_downscale, ageing.copy_noise, ageing.copy_jpeg_quality)
    smaller = captured(picture, ranges, random, drawn, "copy_")
    ways = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA)
    return np.asarray(cv2.resize(smaller, (width, height), interpolation=ways[int(random.integers(len(ways)))]))


def _grainy(picture: Picture, ageing: Ageing, random: np.random.Generator, drawn: dict[str, float]) -> Picture:
    grain = random.standard_normal(picture.shape[:2], np.float32)
    sigma = random.uniform(*ageing.grain_size) * len(picture)
    if sigma > 0.3:
        grain = np.asarray(cv2.GaussianBlur(grain, (0, 0), sigma))
        grain /= grain.std()
    level = drawn["grain"] = random.uniform(*ageing.grain)
    luma = np.clip(luma_of(picture), 0, 1)
    mid_tones = np.float32(0.4) + np.float32(2.4) * luma * (1 - luma)  # 1 in the middle, 0.4 in black and white
    return np.asarray(picture + (grain * mid_tones * np.float32(level / 255))[..., None], np.float32)


def _faded(picture: Picture, ageing: Ageing, random: np.random.Generator, drawn: dict[str, float]) -> Picture:
    black = drawn["fading_black"] = random.uniform(*ageing.fading_black)
    white = drawn["fading_white"] = random.uniform(*ageing.fading_white)
    return np.asarray(picture * np.float32(white - black) + np.float32(black), np.float32)


def _yellowed(picture: Picture, ageing: Ageing, random: np.random.Generator, drawn: dict[str, float]) -> Picture:
    strength = drawn["sepia"] = random.uniform(*ageing.sepia_strength)
    drawn["grey"] = 1.0
    tint = SEPIA ** np.float32(strength)
    return np.asarray(grey_of(picture) * tint, np.float32)


def _rastered(picture: Picture, ageing: Ageing, random: np.random.Generator, drawn: dict[str, float]) -> Picture:
    """Dots on a turned grid whose size follows the darkness."""
    height, width = picture.shape[:2]
    period = drawn["halftone_period"] = random.uniform(*ageing.halftone_period) * height
    angle = random.uniform(0, np.pi / 2)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    turn = np.float32(2 * np.pi / period)
    across = (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) * turn
    down = (y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))) * turn
    threshold = (np.float32(2) + np.cos(across) + np.cos(down)) / 4  # (H, W) in [0, 1]
    dots = np.clip((picture - threshold[..., None]) * np.float32(period) + np.float32(0.5), 0, 1)
    strength = np.float32(random.uniform(*ageing.halftone_strength))
    drawn["halftone_strength"] = float(strength)
    return np.asarray(picture + (dots - picture) * strength, np.float32)


def _stained(picture: Picture, ageing: Ageing, random: np.random.Generator, drawn: dict[str, float]) -> Picture:
    height, width = picture.shape[:2]
    coarse = random.standard_normal((5, 5), np.float32)
    patch = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    strength = drawn["stain"] = random.uniform(*ageing.stain_strength)
    return np.asarray(picture + (np.tanh(patch) * np.float32(strength))[..., None], np.float32)


def _scratched(picture: Picture, ageing: Ageing, random: np.random.Generator, drawn: dict[str, float]) -> Picture:
    """Long, slightly bent lines through the picture."""
    side = len(picture)
    count = int(random.integers(*ageing.scratches, endpoint=True))
    drawn["scratches"] = count
    for _ in range(count):
        start, end = random.uniform(0, side, 2), random.uniform(0, side, 2)
        bend = (start + end) / 2 + random.normal(0, side / 30, 2)
        share = np.linspace(0, 1, 12)[:, None]
        points = (1 - share) ** 2 * start + 2 * share * (1 - share) * bend + share**2 * end
        cover = _drawn_line(picture.shape[:2], points, random.uniform(*ageing.scratch_width) * side)
        picture = _covered(picture, cover, random)
    return picture


def _dusty(picture: Picture, ageing: Ageing, random: np.random.Generator, drawn: dict[str, float]) -> Picture:
    """Specks, every fourth of them a short hair."""
    side = len(picture)
    count = int(random.integers(*ageing.specks, endpoint=True))
    drawn["specks"] = count
    cover = np.zeros(picture.shape[:2], np.float32)
    for _ in range(count):
        radius = random.uniform(*ageing.speck_size) * side
        start = random.uniform(0, side, 2)
        length = radius if random.random() < 0.75 else side * random.uniform(0.01, 0.06)
        points = start + np.cumsum(random.normal(0, length / 2, (4, 2)), axis=0)
        cover = np.maximum(cover, _drawn_line(picture.shape[:2], points, radius))
    return _covered(picture, cover, random)


def _drawn_line(shape: tuple[int, ...], points: NDArray[np.float64], width: float) -> Picture:
    """A line through the points (N, 2), smooth at its rim; thinner than a pixel it is fainter.

    Returns:
        (H, W) float32 in [0, 1].
    """
    canvas = np.zeros(shape, np.uint8)
    sixteenths = np.rint(points * 16).astype(np.int32)[:, None]
    cv2.polylines(canvas, [sixteenths], False, 255, max(1, round(width)), cv2.LINE_AA, 4)
    return np.asarray(canvas.astype(np.float32) * np.float32(min(1.0, width) / 255))


def _covered(picture: Picture, cover: Picture, random: np.random.Generator) -> Picture:
    """The picture with something bright (three times of four) or dark over it."""
    level = random.uniform(0.75, 1) if random.random() < 0.75 else random.uniform(0, 0.25)
    share = (cover * np.float32(random.uniform(0.4, 1)))[..., None]
    return np.asarray(picture + (np.float32(level) - picture) * share, np.float32)
