"""Whether a photo is monochrome or toned, and how to give its tone to a face that the network colored.

A gray, sepia or cyanotype print has one color for each brightness, however it is stored: chroma is a function of luma.
The function is fitted to the photo, and what it leaves unexplained tells toned photos from colored ones, faded colors
included. Pixels are RGB (H, W, 3) uint8 or uint16; luma is that of JPEG (BT.601) on the stored values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.pixels import LUMA
from gfprestore.tensors import full_scale

Floats = NDArray[np.float32]

SAMPLE_SIDE = 192  # chroma is judged on a copy this small, where the noise of JPEG's chroma has been averaged away
KNOTS = 32

# Chroma that luma does not explain, in 8-bit levels, measured on old photographs and on color photographs.
EVEN_LEFTOVER = 10.5  # of nine pixels in ten: prints toned evenly stay below
UNEVEN_LEFTOVER = 20.0  # the same, of prints whose tone changes over the sheet (stains, faded edges), ...
FINE_LEFTOVER = 7.2  # ... where it changes smoothly: nine in ten of what a blur takes away, ...
OTHER_HUE_LEFTOVER = 4.5  # ... and changes in strength, not in hue: nine in ten across the main direction
COLORED_SPOT = 16.0  # of 99 in a hundred: a gray scene may hold a small colored thing, ...
COLORED_SPOT_OF_TONE = 0.4  # ... and a strong tone leaves more: this share of the tone's own chroma is added
AROUND_FACE_LEFTOVER = 9.0  # of nine pixels in ten around a face: skin, hair and lips differ in any color photo
AROUND_FACE_OFF_TONE = 13.0  # of three in four around the faces, from the tone of an image that looks toned as a whole
AROUND_FACE = 0.5  # how far around a face's box, in sides of the box

BRIGHTNESS_LIMIT = 0.15


@dataclass(frozen=True)
class Toning:
    """The one color that a photo has for each brightness.

    Attributes:
        chroma: (33, 2) float32 R - Y and B - Y at lumas from 0 to 1 in equal steps, of full scale.
    """

    chroma: Floats

    def apply(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """The pixels (H, W, 3) uint8 or uint16 with their luma kept and their color replaced by the photo's tone."""
        levels = full_scale(pixels.dtype)
        luma = (pixels.astype(np.float32) / np.float32(levels)) @ LUMA  # (H, W)
        chroma = _interpolated(self.chroma, luma)
        red, blue = chroma[..., 0], chroma[..., 1]
        green = -(LUMA[0] * red + LUMA[2] * blue) / LUMA[1]
        toned = luma[..., None] + np.stack([red, green, blue], axis=-1)
        return np.asarray(np.rint(np.clip(toned, 0, 1) * levels), pixels.dtype)


def toning_of(pixels: NDArray[Any], boxes: Sequence[NDArray[Any]] = ()) -> Toning | None:
    """The photo's tone where it is monochrome or toned, None where it is in color (faded color is color).

    Faces tell best, since skin, hair and lips have their own colors in any color photo: where boxes of faces are
    given, what lies around them decides and gives the tone, so that neither a colored mount nor a stain on the rim
    of a print, nor a scene that is gray but for its people, misleads. Without them the whole image decides.

    Args:
        pixels: The photo (H, W, 3) RGB uint8 or uint16.
        boxes: Boxes (4,) of its faces: left, top, right, bottom.
    """
    whole = _sample(pixels)
    toned = not _is_colored(*_leftover_and_tone(whole))
    tone = Toning(_fitted(whole @ LUMA, _chroma(whole)))
    if not len(boxes):
        return tone if toned else None
    samples = [_sample(_around(pixels, box)) for box in boxes]
    sizes = [np.linalg.norm(_leftover_and_tone(sample)[0], axis=2) for sample in samples]
    colors = np.concatenate([sample.reshape(-1, 3) for sample in samples])
    off_tone = 255 * np.linalg.norm(_chroma(colors) - _interpolated(tone.chroma, colors @ LUMA), axis=1)
    alike = float(np.median([np.percentile(size, 90) for size in sizes])) < AROUND_FACE_LEFTOVER
    if alike or (toned and float(np.percentile(off_tone, 75)) < AROUND_FACE_OFF_TONE):
        return Toning(_fitted(colors @ LUMA, _chroma(colors)))
    return None


def match_brightness(restored: NDArray[Any], original: NDArray[Any], mask: Floats) -> NDArray[Any]:
    """The restored face as bright on average as it was: networks tend to darken or lighten faces as a whole.

    One factor for all pixels, from the mean lumas under the mask and within 15 %, so that nothing else changes: neither
    contrast nor what the network repaired.

    Args:
        restored: (T, T, 3) uint8 or uint16.
        original: (S, S, 3) the crop it was made from, of the same type.
        mask: (T, T) float32 in [0, 1], where the face is.
    """
    levels = full_scale(restored.dtype)
    before = cv2.resize(original, restored.shape[1::-1], interpolation=cv2.INTER_AREA).astype(np.float32) @ LUMA
    after = restored.astype(np.float32) @ LUMA
    means = [float((luma * mask).sum()) for luma in (before, after)]
    if min(means) <= 0:
        return restored
    factor = float(np.clip(means[0] / means[1], 1 - BRIGHTNESS_LIMIT, 1 + BRIGHTNESS_LIMIT))
    return np.asarray(np.rint(np.clip(restored * np.float32(factor), 0, levels)), restored.dtype)


def _leftover_and_tone(sample: Floats) -> tuple[Floats, float]:
    """Chroma that luma does not explain (h, w, 2), and how much chroma the median pixel has, in 8-bit levels."""
    luma, chroma = sample @ LUMA, _chroma(sample)
    leftover = 255 * (chroma - _interpolated(_fitted(luma, chroma), luma))
    return leftover, 255 * float(np.linalg.norm(np.median(chroma.reshape(-1, 2), axis=0)))


def _is_colored(leftover: Floats, tone: float) -> bool:
    """Whether the chroma that luma does not explain (h, w, 2), in 8-bit levels, is more than a toned print has."""
    size = np.linalg.norm(leftover, axis=2)
    if np.percentile(size, 99) > COLORED_SPOT + COLORED_SPOT_OF_TONE * tone:
        return True
    most = float(np.percentile(size, 90))
    if most < EVEN_LEFTOVER:
        return False
    fine = leftover - cv2.GaussianBlur(leftover, (0, 0), max(leftover.shape) / 24)
    _, directions = np.linalg.eigh(np.cov(leftover.reshape(-1, 2).T))
    across = np.abs(leftover.reshape(-1, 2) @ directions[:, 0])
    return bool(
        most > UNEVEN_LEFTOVER
        or np.percentile(np.linalg.norm(fine, axis=2), 90) > FINE_LEFTOVER
        or np.percentile(across, 90) > OTHER_HUE_LEFTOVER
    )


def _sample(pixels: NDArray[Any]) -> Floats:
    """A small copy (h, w, 3) float32 in [0, 1]."""
    height, width = pixels.shape[:2]
    scale = min(1.0, SAMPLE_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.asarray(np.asarray(small, np.float32) / np.float32(full_scale(pixels.dtype)))


def _around(pixels: NDArray[Any], box: NDArray[Any]) -> NDArray[Any]:
    """The part of the photo around a face's box, at least one pixel."""
    height, width = pixels.shape[:2]
    corners = np.asarray(box, np.float64).reshape(2, 2)
    margin = (corners[1] - corners[0]) * AROUND_FACE
    first = np.clip(corners[0] - margin, 0, [width - 1, height - 1]).astype(int)
    last = np.clip(np.ceil(corners[1] + margin), first + 1, [width, height]).astype(int)
    return pixels[first[1] : last[1], first[0] : last[0]]


def _chroma(sample: Floats) -> Floats:
    """R - Y and B - Y of a sample (..., 3): (..., 2)."""
    return np.asarray(sample[..., [0, 2]] - (sample @ LUMA)[..., None])


def _fitted(luma: Floats, chroma: Floats) -> Floats:
    """Chroma as a function of luma: medians over bands of luma, held beyond the darkest and the brightest, smoothed."""
    luma, chroma = luma.ravel(), chroma.reshape(-1, 2)
    band = np.clip((luma * KNOTS).astype(int), 0, KNOTS - 1)
    counts = np.bincount(band, minlength=KNOTS)
    filled = np.flatnonzero(counts >= min(max(8, len(luma) // 2000), int(np.max(counts))))
    centers = [float(luma[band == index].mean()) for index in filled]
    medians = np.array([np.median(chroma[band == index], axis=0) for index in filled])
    knots = np.linspace(0, 1, KNOTS + 1)
    curve = np.stack([np.interp(knots, centers, medians[:, channel]) for channel in (0, 1)], axis=1)
    padded = np.pad(curve, ((1, 1), (0, 0)), mode="edge")
    return np.asarray((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4, np.float32)


def _interpolated(curve: Floats, luma: Floats) -> Floats:
    """The curve (33, 2) at lumas of any shape: (..., 2)."""
    knots = np.linspace(0, 1, len(curve))
    return np.stack([np.interp(luma, knots, curve[:, channel]) for channel in (0, 1)], axis=-1).astype(np.float32)
