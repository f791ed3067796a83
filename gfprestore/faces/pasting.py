"""Paste restored face crops back into the enlarged photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.faces.alignment import TEMPLATE_SIZE, FaceCrop
from gfprestore.faces.geometry import (
    Floats,
    Matrix,
    aligned,
    clipped_box,
    enlargement,
    finer_sampling,
    inverse_matrix,
    matrix_product,
    resampled,
    rescaled,
    scale_of,
    shift_matrix,
    transformed,
    warped,
)
from gfprestore.tensors import full_scale

# Outline of the face on the template, from hairline to chin: center, half width, half height.
FACE_CENTER = (256.0, 288.0)
FACE_RADII = (156.0, 196.0)

BAND_PIXELS = 1 << 20
CHANGED_STRUCTURE = 0.08  # mean change of luma, of full scale, at which half of the photo's own fine detail is dropped


def face_mask(size: int) -> Floats:
    """Default mask of a crop: a feathered oval from hairline to chin, zero well inside the crop's border.

    Returns:
        (size, size) float32 in [0, 1].
    """
    grid = rescaled(np.arange(size, dtype=np.float64)[:, None], TEMPLATE_SIZE / size)[:, 0]
    radius = _face_radius(grid[None, :], grid[:, None])
    return _smooth_step((1.12 - radius) / 0.3).astype(np.float32)


def yield_to_neighbors(mask: Floats, crop: FaceCrop, neighbors: Sequence[FaceCrop]) -> Floats:
    """Restrict the mask of a face to its own side where a neighboring face is close.

    The mask falls off softly at the line of equal distance to both faces, relative to their sizes, so that the order
    of pasting hardly matters.

    Args:
        mask: (T, T) mask of the face, in its own crop.
        crop: The face.
        neighbors: The other faces of the photo; distant ones are skipped.
    """
    size = len(mask)
    grid = np.arange(size, dtype=np.float64)
    to_template = TEMPLATE_SIZE / size
    own = None
    for other in neighbors:
        crop_to_other = matrix_product(other.photo_to_crop, inverse_matrix(crop.photo_to_crop))
        to_crop = len(crop.pixels) / size
        x, y = np.meshgrid(rescaled(grid, to_crop), rescaled(grid, to_crop))  # crop coordinates of the mask's pixels
        points = transformed(crop_to_other, np.stack([x.ravel(), y.ravel()], axis=1))
        points = rescaled(points, TEMPLATE_SIZE / len(other.pixels)).reshape(size, size, 2)
        theirs = _face_radius(points[..., 0], points[..., 1])
        if np.min(theirs) > 1.3:
            continue
        if own is None:
            template_grid = rescaled(grid, to_template)
            own = _face_radius(template_grid[None, :], template_grid[:, None])
        mask = mask * _smooth_step(0.5 + (theirs - own) / 0.3).astype(np.float32)
    return mask


def paste_face(
    background: NDArray[Any],
    restored: NDArray[Any],
    crop: FaceCrop,
    upscale: float | tuple[float, float],
    mask: Floats,
    strength: float,
) -> None:
    """Blend a restored face into the enlarged photo, in place, changing only the pixels under the mask.

    If the face is larger in the enlarged photo than the network's output, the restored face is enlarged, and detail of
    the photo that is too fine for the network's output is added, so that the face never becomes softer. No detail is
    added where the network changed the structure of the image (so that scratches do not return).

    Args:
        background: (H * s, W * s, 3) uint8 or uint16, the enlarged photo; written in place.
        restored: (T, T, 3) restored crop: uint8 or uint16 (converted to the background's type), or float32 in levels of
            the background's type.
        crop: The face crop before restoration.
        upscale: Scale from the photo to the background, one number or (horizontal, vertical).
        mask: (T, T) float32 in [0, 1] in the restored crop; should be zero at its border.
        strength: 0 leaves the background as it is, 1 pastes the restored face fully.
    """
    if strength <= 0:
        return
    levels = full_scale(background.dtype)
    share = 1.0 if np.issubdtype(restored.dtype, np.floating) else levels / full_scale(restored.dtype)
    restored = restored.astype(np.float32) * np.float32(share)
    background_to_restored = _background_to_restored(crop, upscale, len(restored))
    box = _mask_box(mask, background_to_restored, background.shape)
    if box is None:
        return
    left, top, right, bottom = box
    canvas = background[top:bottom, left:right]
    to_restored = matrix_product(background_to_restored, shift_matrix(left, top))
    scale = 1 / scale_of(to_restored)  # background pixels to a pixel of the restored crop
    cover = np.asarray(mask, np.float32) * np.float32(strength)
    if scale < 1:
        size = (canvas.shape[1], canvas.shape[0])
        face = resampled(restored, to_restored, size, cv2.BORDER_REPLICATE)
        _blend(canvas, face, _resampled_mask(cover, to_restored, size), levels)
        return
    coarse = aligned(canvas, to_restored, len(restored))
    gate = min((scale - 1) / 0.25, 1.0) * _unchanged_structure(restored, coarse, levels)
    layers = _Layers(to_restored, cover, restored - gate[..., None] * coarse, gate)
    rows = max(1, BAND_PIXELS // canvas.shape[1])
    for start in range(0, len(canvas), rows):
        _paste_band(canvas[start : start + rows], layers, start, levels)


@dataclass(frozen=True)
class _Layers:
    """Layers that are blended into the box of a large face, in coordinates of the restored crop.

    Attributes:
        to_layers: (2, 3) transform from the box to the layers.
        cover: (T, T) weight of the face.
        change: (T, T, 3) restored face minus `gate` times the background at the same resolution.
        gate: (T, T) weight of the background that is added to `change`, so that its finer detail is kept.
    """

    to_layers: Matrix
    cover: Floats
    change: Floats
    gate: Floats


def _paste_band(band: NDArray[Any], layers: _Layers, start: int, levels: float) -> None:
    """Blend some rows of the face's box in place; `start` is the first row."""
    size = (band.shape[1], band.shape[0])
    to_layers = matrix_product(layers.to_layers, shift_matrix(0, start))
    cover = warped(layers.cover, to_layers, size, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
    if not cover.any():
        return
    face = warped(layers.change, to_layers, size)
    face += warped(layers.gate, to_layers, size, cv2.INTER_LINEAR)[..., None] * band
    _blend(band, face, cover, levels)


def _blend(canvas: NDArray[Any], face: Floats, cover: Floats, levels: float) -> None:
    """Blend the face (h, w, 3) into the canvas (h, w, 3) with weights `cover` (h, w), in place, rounded."""
    np.clip(face, 0, levels, out=face)
    face -= canvas
    face *= cover[..., None]
    face += canvas
    np.rint(face, out=face)
    np.copyto(canvas, face.astype(canvas.dtype), where=cover[..., None] > 0)


def _unchanged_structure(restored: Floats, coarse: Floats, levels: float) -> Floats:
    """Weights near 1 where the network kept the structure of the image and near 0 elsewhere, independent of its tone.

    Only where the structure was kept does detail finer than the network's output still fit the image.

    Returns:
        (T, T) float32.
    """
    difference = (restored - coarse).mean(axis=2) / np.float32(levels)
    difference -= cv2.GaussianBlur(difference, (0, 0), len(difference) / 32)
    activity = cv2.GaussianBlur(np.abs(difference), (0, 0), len(difference) / 128)
    return np.asarray(1 / (1 + (activity / CHANGED_STRUCTURE) ** 2), np.float32)


def _background_to_restored(crop: FaceCrop, upscale: float | tuple[float, float], size: int) -> Matrix:
    """Transform from the enlarged photo to the restored crop with sides of `size` pixels."""
    horizontal, vertical = upscale if isinstance(upscale, tuple) else (upscale, upscale)
    growth = size / len(crop.pixels)
    to_photo = enlargement(1 / horizontal, 1 / vertical)
    return matrix_product(enlargement(growth, growth), matrix_product(crop.photo_to_crop, to_photo))


def _mask_box(mask: Floats, to_mask: Matrix, shape: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of the background pixels under the mask; None if there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    corners = [(x, y) for x in (columns[0] - 1, columns[-1] + 1) for y in (rows[0] - 1, rows[-1] + 1)]
    return clipped_box(transformed(inverse_matrix(to_mask), np.array(corners, np.float64)), shape, margin=1)


def _resampled_mask(mask: Floats, to_mask: Matrix, size: tuple[int, int]) -> Floats:
    """Resample a mask to `size` (width, height), linearly and averaged over areas, so that it does not overshoot."""
    finer = finer_sampling(to_mask)
    to_mask = matrix_product(to_mask, enlargement(1 / finer, 1 / finer))
    values = warped(mask, to_mask, (size[0] * finer, size[1] * finer), cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA))


def _face_radius(x: Matrix, y: Matrix) -> Matrix:
    """Distance from the face's center on the template, 1 on its outline."""
    return np.asarray(np.hypot((x - FACE_CENTER[0]) / FACE_RADII[0], (y - FACE_CENTER[1]) / FACE_RADII[1]))


def _smooth_step(values: Matrix) -> Matrix:
    """Smoothstep: 0 below 0, 1 above 1, a smooth rise between."""
    steps = np.clip(values, 0, 1)
    return np.asarray(steps * steps * (3 - 2 * steps))
