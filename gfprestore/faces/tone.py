"""Detect monochrome and toned photos, and apply their tone to faces that the network colored.

A gray, sepia or cyanotype print has one color for each brightness, in any file format: chroma is a function of luma.
The function is fitted to the photo, and the size of the residuals distinguishes toned photos from color photos,
including those with faded colors. Pixels are RGB (H, W, 3) uint8 or uint16; luma is that of JPEG (BT.601), computed
from the stored values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.pixels import LUMA, nearest_levels
from gfprestore.tensors import full_scale

Floats = NDArray[np.float32]

SAMPLE_SIDE = 192  # chroma is judged on a copy this small, to average out the noise of JPEG's chroma
KNOTS = 32

# Residual chroma not explained by luma, in 8-bit levels, measured on old photographs and on color photographs.
EVEN_RESIDUAL = 10.5  # 90th percentile: evenly toned prints stay below
UNEVEN_RESIDUAL = 20.0  # 90th percentile for prints whose tone varies over the sheet (stains, faded edges), if
FINE_RESIDUAL = 7.2  # it varies smoothly (90th percentile of the residuals minus a blurred copy) and
OTHER_HUE_RESIDUAL = 4.5  # varies in strength, not in hue (90th percentile perpendicular to the main direction)
COLORED_SPOT = 16.0  # 99th percentile: a gray scene may contain a small colored object
COLORED_SPOT_OF_TONE = 0.4  # strong tones leave larger residuals: this fraction of the tone's chroma is added
AROUND_FACE_RESIDUAL = 9.0  # 90th percentile around a face: skin, hair and lips differ in every color photo
AROUND_FACE_OFF_TONE = 13.0  # 75th percentile around the faces: distance from the tone of an image toned as a whole
AROUND_FACE = 0.5  # margin around a face's box, in sides of the box

BRIGHTNESS_LIMIT = 0.15


@dataclass(frozen=True)
class Toning:
    """Tone of a photo: one color for each brightness.

    Attributes:
        chroma: (33, 2) float32 R - Y and B - Y at lumas from 0 to 1 in equal steps, of full scale.
    """

    chroma: Floats

    def apply(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Replace the color of pixels (H, W, 3) uint8 or uint16 by the photo's tone and keep their luma."""
        levels = full_scale(pixels.dtype)
        luma = (pixels.astype(np.float32) / np.float32(levels)) @ LUMA  # (H, W)
        chroma = _interpolated(self.chroma, luma)
        red, blue = chroma[..., 0], chroma[..., 1]
        green = -(LUMA[0] * red + LUMA[2] * blue) / LUMA[1]
        toned = luma[..., None] + np.stack([red, green, blue], axis=-1)
        return nearest_levels(toned * levels, pixels.dtype)


def toning_of(pixels: NDArray[Any], boxes: Sequence[NDArray[Any]] = ()) -> Toning | None:
    """Tone of a monochrome or toned photo, None for a color photo (including faded color).

    Faces are the best evidence, because skin, hair and lips have different colors in every color photo. If face boxes
    are given, the areas around them decide and determine the tone. A colored mount, a stain at the edge of a print or a
    scene that is gray except for its people then has no effect. Without boxes the whole image decides.

    Args:
        pixels: The photo (H, W, 3) RGB uint8 or uint16.
        boxes: Boxes (4,) of its faces: left, top, right, bottom.
    """
    whole = _sample(pixels)
    toned = not _is_colored(*_residual_and_tone(whole))
    tone = Toning(_fitted(whole @ LUMA, _chroma(whole)))
    if not len(boxes):
        return tone if toned else None
    samples = [_sample(_around(pixels, box)) for box in boxes]
    sizes = [np.linalg.norm(_residual_and_tone(sample)[0], axis=2) for sample in samples]
    colors = np.concatenate([sample.reshape(-1, 3) for sample in samples])
    off_tone = 255 * np.linalg.norm(_chroma(colors) - _interpolated(tone.chroma, colors @ LUMA), axis=1)
    alike = float(np.median([np.percentile(size, 90) for size in sizes])) < AROUND_FACE_RESIDUAL
    if alike or (toned and float(np.percentile(off_tone, 75)) < AROUND_FACE_OFF_TONE):
        return Toning(_fitted(colors @ LUMA, _chroma(colors)))
    return None


def match_brightness(restored: NDArray[Any], original: NDArray[Any], mask: Floats) -> NDArray[Any]:
    """Match the mean brightness of a restored face to the original: networks tend to darken or lighten whole faces.

    All pixels get the same factor, computed from the mean lumas under the mask and limited to 15 %, so that neither the
    contrast nor the repaired parts change.

    Args:
        restored: (T, T, 3) uint8 or uint16.
        original: (S, S, 3) the crop before restoration, of the same type.
        mask: (T, T) float32 in [0, 1], where the face is.
    """
    before = cv2.resize(original, restored.shape[1::-1], interpolation=cv2.INTER_AREA).astype(np.float32) @ LUMA
    after = restored.astype(np.float32) @ LUMA
    means = [float((luma * mask).sum()) for luma in (before, after)]
    if min(means) <= 0:
        return restored
    factor = float(np.clip(means[0] / means[1], 1 - BRIGHTNESS_LIMIT, 1 + BRIGHTNESS_LIMIT))
    return nearest_levels(restored * np.float32(factor), restored.dtype)


def _residual_and_tone(sample: Floats) -> tuple[Floats, float]:
    """Residual chroma not explained by luma (h, w, 2), and the chroma of the median pixel, in 8-bit levels."""
    luma, chroma = sample @ LUMA, _chroma(sample)
    residual = 255 * (chroma - _interpolated(_fitted(luma, chroma), luma))
    return residual, 255 * float(np.linalg.norm(np.median(chroma.reshape(-1, 2), axis=0)))


def _is_colored(residual: Floats, tone: float) -> bool:
    """Whether the residual chroma (h, w, 2), in 8-bit levels, is larger than that of a toned print."""
    size = np.linalg.norm(residual, axis=2)
    if np.percentile(size, 99) > COLORED_SPOT + COLORED_SPOT_OF_TONE * tone:
        return True
    most = float(np.percentile(size, 90))
    if most < EVEN_RESIDUAL:
        return False
    fine = residual - cv2.GaussianBlur(residual, (0, 0), max(residual.shape) / 24)
    _, directions = np.linalg.eigh(np.cov(residual.reshape(-1, 2).T))
    across = np.abs(residual.reshape(-1, 2) @ directions[:, 0])
    return bool(
        most > UNEVEN_RESIDUAL
        or np.percentile(np.linalg.norm(fine, axis=2), 90) > FINE_RESIDUAL
        or np.percentile(across, 90) > OTHER_HUE_RESIDUAL
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
    """Fit chroma as a function of luma: smoothed medians over bands of luma, constant at both ends."""
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
    """Evaluate the curve (33, 2) at lumas of any shape: (..., 2)."""
    knots = np.linspace(0, 1, len(curve))
    return np.stack([np.interp(luma, knots, curve[:, channel]) for channel in (0, 1)], axis=-1).astype(np.float32)
