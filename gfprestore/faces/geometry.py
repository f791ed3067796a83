"""Similarity transforms between photo, face crop and output, and resampling of pixels with them."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]  # (2, 3): a point (x, y, 1) of one image to (x, y) of another
NARROW = 32


def rescaled(points: Matrix, scale: float) -> Matrix:
    """Map points (N, 2) of an image to the same image enlarged by `scale`."""
    return (points + 0.5) * scale - 0.5


def fit_similarity(source: Matrix, target: Matrix, weights: Matrix) -> Matrix:
    """Fit rotation, uniform scale and shift from `source` to `target` by least squares, in closed form.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991, without
    reflection; in two dimensions the rotation follows from one complex division.

    Args:
        source: (N, 2) points.
        target: (N, 2) points.
        weights: (N,) weight of each pair.

    Returns:
        (2, 3) matrix from source to target.
    """
    share = (weights / weights.sum())[:, None]
    source_mean, target_mean = (source * share).sum(axis=0), (target * share).sum(axis=0)
    away, goal = source - source_mean, target - target_mean
    spread = float((share * away**2).sum())
    cosine = float((share * away * goal).sum()) / max(spread, 1e-12)
    sine = float((share[:, 0] * (away[:, 0] * goal[:, 1] - away[:, 1] * goal[:, 0])).sum()) / max(spread, 1e-12)
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([rotation, target_mean - rotation @ source_mean])


def transformed(matrix: Matrix, points: Matrix) -> Matrix:
    """Transform points (N, 2) by a (2, 3) matrix."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


def clipped_box(points: Matrix, shape: tuple[int, ...], margin: int) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of the pixels around the points, clipped to the image; None if none are inside."""
    low = np.maximum(np.floor(points.min(axis=0)).astype(int) - margin, 0)
    high = np.minimum(np.ceil(points.max(axis=0)).astype(int) + margin + 1, [shape[1], shape[0]])
    if (high <= low).any():
        return None
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def aligned(pixels: NDArray[Any], matrix: Matrix, size: int) -> Floats:
    """Resample a part of the image to a square of `size` with `matrix`; beyond its border the image is mirrored.

    Only the required part is read.
    """
    corners = np.array([[0, 0], [0, size - 1], [size - 1, 0], [size - 1, size - 1]], np.float64)
    margin = int(np.ceil(8 / min(scale_of(matrix), 1.0)))
    box = clipped_box(transformed(inverse_matrix(matrix), corners), pixels.shape, margin)
    left, top, right, bottom = box or (0, 0, pixels.shape[1], pixels.shape[0])
    to_part = matrix_product(shift_matrix(-left, -top), inverse_matrix(matrix))
    narrow = (
        min(bottom - top, right - left) < NARROW
    )  # OpenCV mirrors step by step, which takes forever for a narrow strip
    border = cv2.BORDER_REPLICATE if narrow else cv2.BORDER_REFLECT_101
    return resampled(pixels[top:bottom, left:right], to_part, (size, size), border)


def resampled(image: NDArray[Any], to_image: Matrix, size: tuple[int, int], border: int) -> Floats:
    """Resample `image` to `size` (width, height) without aliasing or blur; `to_image` maps output to image points.

    For downscaling, the single cubic interpolation uses a grid as fine as the image, and a Lanczos kernel reduces that
    grid by an integer factor; a much finer image is first averaged over blocks.
    """
    blocks = int(scale_of(to_image) / 2)
    if blocks > 1:
        height, width = image.shape[:2]
        smaller = (max(1, round(width / blocks)), max(1, round(height / blocks)))
        image = np.asarray(cv2.resize(image, smaller, interpolation=cv2.INTER_AREA))
        to_image = matrix_product(enlargement(smaller[0] / width, smaller[1] / height), to_image)
    finer = finer_sampling(to_image)
    to_image = matrix_product(to_image, enlargement(1 / finer, 1 / finer))
    values = warped(image.astype(np.float32), to_image, (size[0] * finer, size[1] * finer), border=border)
    if finer == 1:
        return values
    values = np.tensordot(_lanczos_weights(size[1], finer), values, axes=(1, 0))  # (h, w * finer, 3)
    values = np.tensordot(_lanczos_weights(size[0], finer), values, axes=(1, 1))  # (w, h, 3)
    return np.ascontiguousarray(np.swapaxes(values, 0, 1))


def finer_sampling(to_image: Matrix) -> int:
    """Factor by which the grid must be finer so that no pixel of the image is skipped."""
    return int(np.ceil(scale_of(to_image) / 1.15))


def _lanczos_weights(length: int, finer: int) -> Floats:
    """Lanczos-3 low-pass (length, length * finer): weight of each pixel of the finer grid in each pixel."""
    centers = (np.arange(length) + 0.5) * finer - 0.5
    distance = (np.arange(length * finer)[None, :] - centers[:, None]) / finer
    weights = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def warped(
    image: Floats,
    to_image: Matrix,
    size: tuple[int, int],
    interpolation: int = cv2.INTER_CUBIC,
    border: int = cv2.BORDER_REPLICATE,
) -> Floats:
    """Warp `image` to `size` (width, height); `to_image` maps output to image points, and a constant border is zero."""
    flags = interpolation | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, to_image, size, flags=flags, borderMode=border))


def scale_of(matrix: Matrix) -> float:
    """Scale factor of a transform (2, 3)."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def shift_matrix(x: float, y: float) -> Matrix:
    """Transform (2, 3) of a translation."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y]])


def enlargement(horizontal: float, vertical: float) -> Matrix:
    """Transform (2, 3) from an image to the same image enlarged."""
    return np.array([[horizontal, 0, 0.5 * horizontal - 0.5], [0, vertical, 0.5 * vertical - 0.5]])


def matrix_product(second: Matrix, first: Matrix) -> Matrix:
    """Compose two transforms: `first`, then `second`."""
    return np.column_stack([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2]])


def inverse_matrix(matrix: Matrix) -> Matrix:
    """Inverse of a transform (2, 3)."""
    back = np.linalg.inv(matrix[:, :2])
    return np.column_stack([back, -back @ matrix[:, 2]])
