"""Face retouching as beauty filters do it: smooth, whiten, larger eyes, slimmer and smaller face, faded brows.

FRRffusion's data set, deepFRR, was made with a commercial filter of these six sliders. The formulas here are our own,
after published ones: the guided filter (He et al., ECCV 2010) for smoothing, a logarithmic curve for whitening,
normalized convolution for the brows, and the maps of `retouching_geometry`. All lengths are pixels of the 512-pixel
FFHQ template, scaled to the face.

Photos are (H, W, 3) RGB uint8. Nothing is random: the same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.data.retouching_geometry import FaceShape, face_shape, pixel_grid, warp_field
from gfprestore.data.retouching_levels import Levels
from gfprestore.pixels import LUMA, nearest_levels

__all__ = ["RECIPE_VERSION", "Levels", "face_region", "limit_levels", "retouch", "skin_mask", "warp_field"]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Points = NDArray[np.float64]

RECIPE_VERSION = 1
"""Changes whenever the same levels give other pixels."""

SMOOTH_RADIUS, SMOOTH_EPSILON = 12, 0.01
WHITEN_GAIN = 2.0
WHITEN_MAX_YAW = 0.13  # in eye distances; in faces turned further the mean outline covers background
BROW_DROP, BROW_THICKNESS, BROW_GAIN, BROW_FILL, BROW_BLUR, BROW_CONTRAST = 3.0, 24, 0.8, 8.0, 1.5, 0.08
CHEEKS, CHEEK_RADIUS = ((165.0, 330.0), (347.0, 330.0)), 26
EYE_RADII = (34, 16)
MOUTH_RADII, MOUTH_SHARE, MOUTH_DROP = (62.0, 24), 0.555, 2.7  # half the width as a share of the corners' distance
FACE_SOFTNESS, FEATURE_SOFTNESS, SKIN_SOFTNESS = 8.0, 4.0, 3.0

MARGIN, CANVAS = 96, 704  # masks are drawn on the template with a margin all around
SUBPIXEL = 4  # bits of OpenCV's drawing coordinates after the binary point


def limit_levels(levels: Levels, landmarks: NDArray[Any]) -> Levels:
    """The levels that `retouch` applies: a face turned beyond `WHITEN_MAX_YAW` is not whitened, nor the wall behind it.

    Args:
        levels: Requested levels.
        landmarks: (5, 2) of the face.
    """
    left_eye, right_eye, nose = np.asarray(landmarks, np.float64)[:3]
    across = right_eye - left_eye
    yaw = float((nose - (left_eye + right_eye) / 2) @ across / max(float(across @ across), 1e-12))
    return levels if abs(yaw) <= WHITEN_MAX_YAW else replace(levels, whiten=0)


def retouch(
    pixels: Pixels,
    landmarks: NDArray[Any],
    levels: Levels,
    points: NDArray[Any] | None = None,
) -> Pixels:
    """Retouch one face of a photo; everything beyond the face's surroundings stays as it is, to the bit.

    The colors are changed first (smooth, brow, whiten); then all geometric maps are applied in one bicubic resampling.

    Args:
        pixels: (H, W, 3) RGB uint8, an aligned face or a whole photo; not changed.
        landmarks: (5, 2) eyes, nose, mouth corners of the face in photo pixels, left ones first.
        levels: Strength of each operation.
        points: (68, 2) landmarks in photo pixels, in dlib's order, for a better jaw and better brows.

    Returns:
        (H, W, 3) RGB uint8; with all levels 0 an unchanged copy.

    Raises:
        ValueError: An array has another shape or type, or the landmarks do not span a face.
    """
    _check(pixels)
    shape = face_shape(landmarks, points)
    levels = limit_levels(levels, landmarks)
    result: Pixels = pixels.copy()
    box = shape.box(*pixels.shape[:2])
    if levels == Levels() or box is None:
        return result
    rows, columns = box
    image = _recolored(pixels[box], shape.seen_from(columns.start, rows.start), levels)
    if levels.eyes or levels.slim or levels.shrink:
        x, y = pixel_grid(box)
        dx, dy = shape.displacement(levels, x, y)
        from_x, from_y = x - np.float32(columns.start) + dx, y - np.float32(rows.start) + dy
        image = np.asarray(cv2.remap(image, from_x, from_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101))
    result[box] = nearest_levels(image * np.float32(255), np.uint8)
    return result


def face_region(landmarks: NDArray[Any], size: tuple[int, int], points: NDArray[Any] | None = None) -> Floats:
    """The face from jaw to hairline, with soft edges.

    Args:
        landmarks: (5, 2) of the face in photo pixels.
        size: Height and width of the photo.
        points: (68, 2) landmarks in photo pixels, for a better jaw.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        ValueError: An array has another shape or is not finite, or the landmarks do not span a face.
    """
    face, _, _ = _masks(face_shape(landmarks, points), size)
    return face


def skin_mask(
    pixels: Pixels,
    landmarks: NDArray[Any],
    points: NDArray[Any] | None = None,
) -> Floats:
    """The skin that is smoothed: the face without eyes, brows and lips, where its color is that of the cheeks.

    Args:
        pixels: (H, W, 3) RGB uint8.
        landmarks: (5, 2) of the face in photo pixels.
        points: (68, 2) landmarks in photo pixels, for a better jaw and better brows.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        ValueError: An array has another shape or type, or the landmarks do not span a face.
    """
    _check(pixels)
    shape = face_shape(landmarks, points)
    _, skin, _ = _masks(shape, pixels.shape[:2])
    return np.asarray(skin * _skin_probability(pixels, shape))


def _check(pixels: Pixels) -> None:
    """Raise ValueError if the array has another shape or type than documented."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(f"pixels must be (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}")


def _recolored(view: Pixels, shape: FaceShape, levels: Levels) -> Floats:
    """The part of a photo (H, W, 3) after smooth, brow and whiten, float32 in [0, 1]."""
    image: Floats = view.astype(np.float32) / np.float32(255)
    if not (levels.smooth or levels.brow or levels.whiten):
        return image
    face, skin, brows = _masks(shape, view.shape[:2])
    color = _skin_probability(view, shape)
    if levels.smooth:
        smooth = _guided_filter(image, max(1, round(SMOOTH_RADIUS * shape.scale)))
        image = _mixed(image, smooth, skin * color * np.float32(levels.smooth / 100))
    if levels.brow:
        image = _without_brows(image, brows, BROW_GAIN * levels.brow / 100, shape.scale)
    if levels.whiten:
        gain = WHITEN_GAIN * levels.whiten / 100
        bright = np.log1p(np.clip(image, 0, 1) * np.float32(gain)) / np.float32(np.log1p(gain))
        image = _mixed(image, bright, face * color)
    return image


def _without_brows(image: Floats, brows: Floats, strength: float, scale: float) -> Floats:
    """Fade what is darker than the skin around it toward that skin, within the brows (H, W)."""
    beside = 1 - brows
    weight = np.maximum(_blurred(beside, BROW_FILL * scale), np.float32(1e-3))
    fill = _blurred(image * beside[..., None], BROW_FILL * scale) / weight[..., None]  # normalized convolution
    darker = fill @ LUMA - _blurred(image @ LUMA, BROW_BLUR * scale)
    gate = np.clip(darker / np.float32(BROW_CONTRAST), 0, 1)
    return _mixed(image, fill, brows * gate * np.float32(strength))


def _skin_probability(view: Pixels, shape: FaceShape) -> Floats:
    """How much each pixel (H, W) has the color of the cheeks, whatever its brightness: 0 to 1."""
    chroma = np.asarray(cv2.cvtColor(view, cv2.COLOR_RGB2YCrCb))[..., 1:].astype(np.float32)
    cheeks = _cheek_samples(chroma, shape)
    apart = ((cheeks - np.median(cheeks, axis=0)) ** 2).sum(axis=1)
    cheeks = cheeks[apart <= np.median(apart)]  # the half nearest the median has no beard, shadow or background
    (a, b), (_, c) = np.linalg.inv(3 * np.cov(cheeks.T) + 25 * np.eye(2)).tolist()
    red, blue = (chroma - cheeks.mean(axis=0).astype(np.float32)).transpose(2, 0, 1)
    distance = a * red**2 + 2 * b * red * blue + c * blue**2  # squared Mahalanobis distance
    return _blurred(np.exp(distance / np.float32(-18)), SKIN_SOFTNESS * shape.scale)


def _cheek_samples(chroma: Floats, shape: FaceShape) -> Points:
    """Colors (N, 2) of the nearest pixels to points of two discs on the cheeks; N is the same for any face."""
    steps = np.arange(-CHEEK_RADIUS, CHEEK_RADIUS + 1, 2, dtype=np.float64)
    disc = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    disc = disc[(disc**2).sum(axis=1) < CHEEK_RADIUS**2]
    places = np.rint(shape.to_photo(np.concatenate([disc + center for center in CHEEKS]))).astype(int)
    x, y = np.clip(places, 0, np.array(chroma.shape[1::-1]) - 1).T
    return np.asarray(chroma[y, x], np.float64)


def _guided_filter(image: Floats, radius: int) -> Floats:
    """Each channel of (H, W, 3) smoothed with itself as guide (He et al., ECCV 2010, equations 4 to 8)."""
    side = (2 * radius + 1, 2 * radius + 1)

    def mean(values: Floats) -> Floats:
        return np.asarray(cv2.blur(values, side, borderType=cv2.BORDER_REFLECT))

    average = mean(image)
    variance = np.maximum(mean(image * image) - average * average, 0)
    slope = variance / (variance + np.float32(SMOOTH_EPSILON))
    return mean(slope) * image + mean(average - slope * average)


def _masks(shape: FaceShape, size: tuple[int, ...]) -> tuple[Floats, Floats, Floats]:
    """Face, skin (the face without eyes, brows and lips) and brows in a photo of `size`, each (H, W) in [0, 1]."""
    brow_lines = [_fixed(line + (0, BROW_DROP)) for line in shape.brows]
    face = _drawn(lambda canvas: cv2.fillPoly(canvas, [_fixed(shape.outline)], 1.0, shift=SUBPIXEL))
    brows = _drawn(
        lambda canvas: cv2.polylines(canvas, brow_lines, False, 1.0, BROW_THICKNESS, cv2.LINE_AA, shift=SUBPIXEL)
    )
    features = np.maximum(_drawn(lambda canvas: _draw_eyes_and_mouth(canvas, shape)), brows)
    face, brows = _blurred(face, FACE_SOFTNESS), _blurred(brows, FEATURE_SOFTNESS)
    skin = face * (1 - _blurred(features, FEATURE_SOFTNESS))
    to_canvas = shape.to_template + np.array([[0, 0, MARGIN], [0, 0, MARGIN]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = (cv2.warpAffine(mask, to_canvas, (size[1], size[0]), flags=flags) for mask in (face, skin, brows))
    first, second, third = (np.asarray(np.clip(mask, 0, 1), np.float32) for mask in seen)
    return first, second, third


def _draw_eyes_and_mouth(canvas: Floats, shape: FaceShape) -> None:
    one = 1 << SUBPIXEL
    for eye in shape.eyes:
        radii = (EYE_RADII[0] * one, EYE_RADII[1] * one)
        cv2.ellipse(canvas, _fixed(eye).tolist(), radii, 0, 0, 360, 1.0, -1, shift=SUBPIXEL)
    across = shape.mouth[1] - shape.mouth[0]
    half_width = max(MOUTH_RADII[0], MOUTH_SHARE * float(np.hypot(*across)))
    radii = (round(half_width * one), MOUTH_RADII[1] * one)
    angle = float(np.degrees(np.arctan2(across[1], across[0])))
    middle = _fixed(shape.mouth.mean(axis=0) + (0, MOUTH_DROP))
    cv2.ellipse(canvas, middle.tolist(), radii, angle, 0, 360, 1.0, -1, shift=SUBPIXEL)


def _drawn(draw: Callable[[Floats], object]) -> Floats:
    """An empty canvas of the template, drawn on."""
    canvas = np.zeros((CANVAS, CANVAS), np.float32)
    draw(canvas)
    return np.minimum(canvas, 1)


def _fixed(points: Points) -> NDArray[np.int32]:
    """Template points (..., 2) on the canvas, as OpenCV's fixed-point numbers."""
    return np.rint((points + MARGIN) * (1 << SUBPIXEL)).astype(np.int32)


def _blurred(image: Floats, sigma: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))


def _mixed(image: Floats, other: Floats, share: Floats) -> Floats:
    """Moves (H, W, 3) toward another image by a share (H, W)."""
    return image + share[..., None] * (other - image)
