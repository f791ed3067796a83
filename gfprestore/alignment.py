"""From landmarks to an upright face crop, and from the restored crop back into the enlarged photo.

The crop follows FFHQ's five-point template (Karras et al., CVPR 2019, as GFP-GAN uses it). Pixels are RGB uint8 or
uint16. Every coordinate here is that of pixel centres: (0, 0) is the centre of the first pixel, and a picture enlarged
by s has the same point at (x + 0.5) * s - 0.5. Whatever shrinks is low-passed first, so that nothing aliases; whatever
grows is interpolated by cubics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.detection import DetectedFace
from gfprestore.tensors import full_scale

Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]  # (2, 3): a point (x, y, 1) of one picture to (x, y) of another

TEMPLATE_SIZE = 512
FFHQ_TEMPLATE: Matrix = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)

# The face's outline on the template: centre, half width, half height, of the part from hair-line to chin.
FACE_CENTRE = (256.0, 288.0)
FACE_RADII = (156.0, 196.0)

FACE_ON_TEMPLATE = (120, 160, 392, 432)
"""Left, top, right and bottom of a face on the template of 512: the box in which dlib looks for landmarks."""

FACE_ITSELF = (0.205, 0.234, 0.795, 0.879)
"""Left, top, right and bottom of the face without hair and background, in shares of the crop."""

BAND_PIXELS = 1 << 20
NARROW = 32
CHANGED_STRUCTURE = 0.08  # mean change of luma, of full scale, at which half of the photo's own fine detail is left out


@dataclass(frozen=True)
class FaceCrop:
    """A face, upright and of the template's size.

    Attributes:
        pixels: (S, S, 3) RGB of the photo's type.
        photo_to_crop: (2, 3) float64, photo coordinates to crop coordinates, both of pixel centres.
    """

    pixels: NDArray[Any]
    photo_to_crop: Matrix

    @property
    def side_in_photo(self) -> float:
        """Side of the crop in pixels of the photo."""
        return float(len(self.pixels) / np.hypot(*self.photo_to_crop[:, 0]))


def align_face(pixels: NDArray[Any], face: DetectedFace, size: int) -> FaceCrop:
    """The face cut out upright, turned and scaled onto the template, in one interpolation.

    Where the crop reaches beyond the photo, the photo is mirrored at its border.

    Args:
        pixels: The photo (H, W, 3) RGB uint8 or uint16.
        face: Its landmarks in photo pixels.
        size: Side of the crop.
    """
    template = rescaled(FFHQ_TEMPLATE, size / TEMPLATE_SIZE)
    photo_to_crop = fit_landmarks(face.landmarks.astype(np.float64), template)
    crop = np.rint(np.clip(_aligned(pixels, photo_to_crop, size), 0, full_scale(pixels.dtype)))
    return FaceCrop(crop.astype(pixels.dtype), photo_to_crop)


def face_turn(landmarks: NDArray[Any]) -> float:
    """How far a face with five landmarks (5, 2) is turned: the nose's way off the eyes' middle, in eye distances."""
    left_eye, right_eye, nose = np.asarray(landmarks[:3], np.float64)
    across = right_eye - left_eye
    return float((nose - (left_eye + right_eye) / 2) @ across / max(float(across @ across), 1e-6))


def crop_sharpness(pixels: NDArray[Any]) -> float:
    """How much finest detail a crop (S, S, 3) has beside its coarser detail: 0.3 is blurred, 0.7 is sharp.

    The ratio of the standard deviations of two bands of the luma of the face itself: between Gaussian blurs of 1 and 2
    pixels, and of 2 and 4.
    """
    size = len(pixels)
    left, top, right, bottom = (round(share * size) for share in FACE_ITSELF)
    face = np.ascontiguousarray(pixels[top:bottom, left:right]).astype(np.float32)
    luma = np.asarray(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), np.float32)
    fine, middle, coarse = (np.asarray(cv2.GaussianBlur(luma, (0, 0), sigma)) for sigma in (1.0, 2.0, 4.0))
    return float((fine - middle).std() / max(float((middle - coarse).std()), 1e-6))


def rescaled(points: Matrix, scale: float) -> Matrix:
    """Points (N, 2) of a picture in the same picture enlarged by `scale`."""
    return (points + 0.5) * scale - 0.5


def fit_similarity(source: Matrix, target: Matrix, weights: Matrix) -> Matrix:
    """Rotation, uniform scale and shift that bring `source` nearest to `target`: least squares in closed form.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991, without
    reflection; in two dimensions the rotation follows from one complex division.

    Args:
        source: (N, 2) points.
        target: (N, 2) points.
        weights: (N,) how much each pair counts.

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


def fit_landmarks(landmarks: Matrix, template: Matrix) -> Matrix:
    """Similarity from five landmarks (5, 2) to the template (5, 2) that one misplaced point cannot spoil.

    Where four points fit the template several times better than all five, the fifth is taken for misplaced and left
    out. A face that turns away strains all points alike and keeps them.
    """
    everyone = np.ones(len(template))
    matrix = fit_similarity(landmarks, template, everyone)
    misfit = _misfit(matrix, landmarks, template, everyone)
    if misfit < 0.08 * float(np.hypot(*(template[1] - template[0]))):
        return matrix
    without_one = []
    for index in range(len(template)):
        weights = everyone.copy()
        weights[index] = 0
        fitted = fit_similarity(landmarks, template, weights)
        without_one.append((_misfit(fitted, landmarks, template, weights), index, fitted))
    best = min(without_one)
    return best[2] if best[0] < 0.3 * misfit else matrix


def _misfit(matrix: Matrix, landmarks: Matrix, template: Matrix, weights: Matrix) -> float:
    """Root mean square distance of the weighted points from the template."""
    squares = ((transformed(matrix, landmarks) - template) ** 2).sum(axis=1)
    return float(np.sqrt((weights * squares).sum() / weights.sum()))


def transformed(matrix: Matrix, points: Matrix) -> Matrix:
    """Points (N, 2) moved by a (2, 3) matrix."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


def face_mask(size: int) -> Floats:
    """The default mask of a crop: an egg from hair-line to chin, feathered, zero well before the crop's border.

    Returns:
        (size, size) float32 in [0, 1].
    """
    grid = rescaled(np.arange(size, dtype=np.float64)[:, None], TEMPLATE_SIZE / size)[:, 0]
    radius = _face_radius(grid[None, :], grid[:, None])
    return _smooth_step((1.12 - radius) / 0.3).astype(np.float32)


def yield_to_neighbours(mask: Floats, crop: FaceCrop, neighbours: Sequence[FaceCrop]) -> Floats:
    """The mask of a face without what belongs to faces beside it: cheek to cheek, each face keeps its own side.

    Along the line where a pixel is as near to one face as to the other, in the sizes of the faces, the mask falls off
    softly, so that the order of pasting hardly matters.

    Args:
        mask: (T, T) mask of the face, in its own crop.
        crop: The face.
        neighbours: The other faces of the photo; those too far away to touch cost nothing.
    """
    size = len(mask)
    grid = np.arange(size, dtype=np.float64)
    to_template = TEMPLATE_SIZE / size
    own = None
    for other in neighbours:
        crop_to_other = _product(other.photo_to_crop, _inverse(crop.photo_to_crop))
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
    """Blends a restored face into the enlarged photo, in place, touching only the pixels under the mask.

    Where the face is larger in the enlarged photo than the network's output, the restored face is enlarged and gets the
    photo's own detail that is finer than the network could give, so that it never comes out softer than before. The
    detail is left out where the network changed the picture's structure (a scratch does not return).

    Args:
        background: (H * s, W * s, 3) uint8 or uint16, the enlarged photo; written in place.
        restored: (T, T, 3) restored crop: uint8 or uint16 (brought to the background's type), or float32 in levels of
            the background's type.
        crop: The face as it was cut out.
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
    to_restored = _product(background_to_restored, _shift(left, top))
    scale = 1 / _scale(to_restored)  # background pixels to a pixel of the restored crop
    cover = np.asarray(mask, np.float32) * np.float32(strength)
    if scale < 1:
        size = (canvas.shape[1], canvas.shape[0])
        face = _resampled(restored, to_restored, size, cv2.BORDER_REPLICATE)
        _blend(canvas, face, _resampled_mask(cover, to_restored, size), levels)
        return
    coarse = _aligned(canvas, to_restored, len(restored))
    gate = min((scale - 1) / 0.25, 1.0) * _unchanged_structure(restored, coarse, levels)
    layers = _Layers(to_restored, cover, restored - gate[..., None] * coarse, gate)
    rows = max(1, BAND_PIXELS // canvas.shape[1])
    for start in range(0, len(canvas), rows):
        _paste_band(canvas[start : start + rows], layers, start, levels)


@dataclass(frozen=True)
class _Layers:
    """What is blended into a large face's box, all in the restored crop's coordinates, and the way there from the box.

    Attributes:
        to_layers: (2, 3) from the box to the layers.
        cover: (T, T) share of the face.
        change: (T, T, 3) restored face less the background as seen at its resolution, the latter times `gate`.
        gate: (T, T) share of the background that is added to `change`, which leaves its finer detail.
    """

    to_layers: Matrix
    cover: Floats
    change: Floats
    gate: Floats


def _paste_band(band: NDArray[Any], layers: _Layers, start: int, levels: float) -> None:
    """Blends some rows of the face's box in place; `start` is the first of them."""
    size = (band.shape[1], band.shape[0])
    to_layers = _product(layers.to_layers, _shift(0, start))
    cover = _warped(layers.cover, to_layers, size, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
    if not cover.any():
        return
    face = _warped(layers.change, to_layers, size)
    face += _warped(layers.gate, to_layers, size, cv2.INTER_LINEAR)[..., None] * band
    _blend(band, face, cover, levels)


def _blend(canvas: NDArray[Any], face: Floats, cover: Floats, levels: float) -> None:
    """Moves the canvas (h, w, 3) towards the face (h, w, 3) by the share `cover` (h, w), in place, rounded."""
    np.clip(face, 0, levels, out=face)
    face -= canvas
    face *= cover[..., None]
    face += canvas
    np.rint(face, out=face)
    np.copyto(canvas, face.astype(canvas.dtype), where=cover[..., None] > 0)


def _unchanged_structure(restored: Floats, coarse: Floats, levels: float) -> Floats:
    """1 where the network kept the picture's structure, towards 0 where it did not, whatever it did to the tone.

    Only there does detail finer than the network's output still fit what it lies on.

    Returns:
        (T, T) float32.
    """
    difference = (restored - coarse).mean(axis=2) / np.float32(levels)
    difference -= cv2.GaussianBlur(difference, (0, 0), len(difference) / 32)
    activity = cv2.GaussianBlur(np.abs(difference), (0, 0), len(difference) / 128)
    return np.asarray(1 / (1 + (activity / CHANGED_STRUCTURE) ** 2), np.float32)


def _background_to_restored(crop: FaceCrop, upscale: float | tuple[float, float], size: int) -> Matrix:
    """From the enlarged photo to the restored crop of `size` pixels a side."""
    horizontal, vertical = upscale if isinstance(upscale, tuple) else (upscale, upscale)
    growth = size / len(crop.pixels)
    to_photo = _enlargement(1 / horizontal, 1 / vertical)
    return _product(_enlargement(growth, growth), _product(crop.photo_to_crop, to_photo))


def _mask_box(mask: Floats, to_mask: Matrix, shape: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of the background's pixels that the mask can touch; None if there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    corners = [(x, y) for x in (columns[0] - 1, columns[-1] + 1) for y in (rows[0] - 1, rows[-1] + 1)]
    return _clipped_box(transformed(_inverse(to_mask), np.array(corners, np.float64)), shape, margin=1)


def _clipped_box(points: Matrix, shape: tuple[int, ...], margin: int) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of the whole pixels around the points and within the picture; None if it misses them."""
    low = np.maximum(np.floor(points.min(axis=0)).astype(int) - margin, 0)
    high = np.minimum(np.ceil(points.max(axis=0)).astype(int) + margin + 1, [shape[1], shape[0]])
    if (high <= low).any():
        return None
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _aligned(pixels: NDArray[Any], matrix: Matrix, size: int) -> Floats:
    """The square of `size` to which `matrix` brings a part of the picture; beyond its border the picture is mirrored.

    Only the part needed is read.
    """
    corners = np.array([[0, 0], [0, size - 1], [size - 1, 0], [size - 1, size - 1]], np.float64)
    margin = int(np.ceil(8 / min(_scale(matrix), 1.0)))
    box = _clipped_box(transformed(_inverse(matrix), corners), pixels.shape, margin)
    left, top, right, bottom = box or (0, 0, pixels.shape[1], pixels.shape[0])
    to_part = _product(_shift(-left, -top), _inverse(matrix))
    narrow = min(bottom - top, right - left) < NARROW  # OpenCV mirrors step by step: endless for a strip
    border = cv2.BORDER_REPLICATE if narrow else cv2.BORDER_REFLECT_101
    return _resampled(pixels[top:bottom, left:right], to_part, (size, size), border)


def _resampled(picture: NDArray[Any], to_picture: Matrix, size: tuple[int, int], border: int) -> Floats:
    """A picture of `size` (width, height) whose points `to_picture` finds in `picture`, without aliasing or blur.

    Where it shrinks, the one cubic interpolation is done on a grid as fine as the picture, and a Lanczos kernel takes
    that grid down by a whole number; a picture much finer still is averaged over blocks before.
    """
    blocks = int(_scale(to_picture) / 2)
    if blocks > 1:
        height, width = picture.shape[:2]
        smaller = (max(1, round(width / blocks)), max(1, round(height / blocks)))
        picture = np.asarray(cv2.resize(picture, smaller, interpolation=cv2.INTER_AREA))
        to_picture = _product(_enlargement(smaller[0] / width, smaller[1] / height), to_picture)
    finer = _finer(to_picture)
    to_picture = _product(to_picture, _enlargement(1 / finer, 1 / finer))
    values = _warped(picture.astype(np.float32), to_picture, (size[0] * finer, size[1] * finer), border=border)
    if finer == 1:
        return values
    values = np.tensordot(_lanczos_weights(size[1], finer), values, axes=(1, 0))  # (h, w * finer, 3)
    values = np.tensordot(_lanczos_weights(size[0], finer), values, axes=(1, 1))  # (w, h, 3)
    return np.ascontiguousarray(np.swapaxes(values, 0, 1))


def _resampled_mask(mask: Floats, to_mask: Matrix, size: tuple[int, int]) -> Floats:
    """A mask of `size` (width, height), linear and averaged over the area, so that nothing overshoots."""
    finer = _finer(to_mask)
    to_mask = _product(to_mask, _enlargement(1 / finer, 1 / finer))
    values = _warped(mask, to_mask, (size[0] * finer, size[1] * finer), cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA))


def _finer(to_picture: Matrix) -> int:
    """How many times finer the grid has to be to step through the picture without skipping a pixel."""
    return int(np.ceil(_scale(to_picture) / 1.15))


def _lanczos_weights(length: int, finer: int) -> Floats:
    """(length, length * finer): share of each pixel of a finer grid in each pixel, a Lanczos-3 low-pass."""
    centres = (np.arange(length) + 0.5) * finer - 0.5
    distance = (np.arange(length * finer)[None, :] - centres[:, None]) / finer
    weights = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _warped(
    picture: Floats,
    to_picture: Matrix,
    size: tuple[int, int],
    interpolation: int = cv2.INTER_CUBIC,
    border: int = cv2.BORDER_REPLICATE,
) -> Floats:
    """A picture of `size` (width, height) whose points `to_picture` finds in `picture`; a constant border is zero."""
    flags = interpolation | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(picture, to_picture, size, flags=flags, borderMode=border))


def _face_radius(x: Matrix, y: Matrix) -> Matrix:
    """Distance from the face's centre on the template, 1 on its outline."""
    return np.asarray(np.hypot((x - FACE_CENTRE[0]) / FACE_RADII[0], (y - FACE_CENTRE[1]) / FACE_RADII[1]))


def _smooth_step(values: Matrix) -> Matrix:
    """0 below 0, 1 above 1, a smooth rise between."""
    steps = np.clip(values, 0, 1)
    return np.asarray(steps * steps * (3 - 2 * steps))


def _scale(matrix: Matrix) -> float:
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def _shift(x: float, y: float) -> Matrix:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y]])


def _enlargement(horizontal: float, vertical: float) -> Matrix:
    """From a picture to the same picture enlarged."""
    return np.array([[horizontal, 0, 0.5 * horizontal - 0.5], [0, vertical, 0.5 * vertical - 0.5]])


def _product(second: Matrix, first: Matrix) -> Matrix:
    """The matrix that does `first`, then `second`."""
    return np.column_stack([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2]])


def _inverse(matrix: Matrix) -> Matrix:
    back = np.linalg.inv(matrix[:, :2])
    return np.column_stack([back, -back @ matrix[:, 2]])
