"""The face's shape on the FFHQ template, and the geometric maps of retouching: larger eyes, slimmer and smaller face.

Local scaling follows Gustafsson, "Interactive image warping", 1993; the pulls on the jaw follow the open beauty filter
GPUPixel. All lengths are pixels of the 512-pixel template; a face anywhere in a photo is reached through its own
similarity. The outline and the brows are the mean of 142 hand-marked faces, or come from the face's own 68 landmarks.
All maps are backward (from a pixel of the retouched photo to its place in the original); coordinates are of pixel
centers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfprestore.data.retouching_levels import Levels

Floats = NDArray[np.float32]
Points = NDArray[np.float64]  # (N, 2) x, y
Point = tuple[float, float]
Box = tuple[slice, slice]  # rows and columns of a photo

TEMPLATE: Points = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
EYE_DISTANCE = 125.9
MIRROR = 511.9  # the x of a point and of its mirror image add up to this

# The mean face: left jaw from the ear to beside the chin, chin, left temple from below, hairline, left brow.
JAW = ((118.5, 247.4), (120.7, 301.6), (134.5, 372.8), (161.0, 419.6), (220.4, 458.8))
CHIN = (255.9, 465.1)
TEMPLE = ((122.0, 195.0), (142.0, 140.0), (190.0, 102.0))
HAIRLINE = (256.0, 90.0)
BROW = ((141.0, 222.0), (171.0, 201.0), (196.0, 201.0), (228.0, 212.0))
NOSE_LINE = ((256.0, 265.0), (256.0, 290.0), (256.6, 314.0), (257.0, 327.0))  # from the bridge to the base

# Where JAW's points lie among the first 17 of the 68 landmarks, and which of the 68 are CHIN and NOSE_LINE.
JAW_AMONG_68 = (0.0, 1.5, 3.5, 5.0, 7.0)
CHIN_AMONG_68 = 8
NOSE_AMONG_68 = (28, 29, 30, 33)

EYE_RADIUS, EYE_GAIN = 0.35 * EYE_DISTANCE, 0.20
SLIM_GAIN = 0.05
SHRINK_CENTER, SHRINK_RADIUS, SHRINK_GAIN = (256.0, 300.0), 250.0, 0.05
COLOR_MARGIN = 32.0  # how far the soft edges of the color operations reach beyond the outline
INVERSE_STEPS = 12


@dataclass(frozen=True, eq=False)
class FaceShape:
    """A face's outline and features on the template, and the similarity from the photo to there.

    Attributes:
        to_template: (2, 3) float64 from photo to template coordinates.
        eyes: (2, 2) centers of the eyes.
        mouth: (2, 2) mouth corners.
        outline: (N, 2) polygon from jaw to hairline.
        brows: Two lines (N, 2) along the brows.
        pulls: Points of the jaw with the points of the nose that `slim` pulls them toward.
    """

    to_template: Points
    eyes: Points
    mouth: Points
    outline: Points
    brows: tuple[Points, Points]
    pulls: tuple[tuple[Point, Point], ...]

    @property
    def scale(self) -> float:
        """Pixels of the photo in one of the template."""
        return float(1 / np.hypot(*self.to_template[:, 0]))

    def to_photo(self, points: Points) -> Points:
        """Template points (N, 2) in photo coordinates."""
        return np.asarray((points - self.to_template[:, 2]) @ np.linalg.inv(self.to_template[:, :2]).T)

    def seen_from(self, left: int, top: int) -> FaceShape:
        """The same face in a part of the photo whose first pixel is (left, top)."""
        turn = self.to_template[:, :2]
        shift = self.to_template[:, 2] + turn @ np.array([left, top], np.float64)
        return replace(self, to_template=np.column_stack([turn, shift]))

    def box(self, height: int, width: int) -> Box | None:
        """Rows and columns of a photo that retouching can change; None where all of them lie outside."""
        circles = [(SHRINK_CENTER, SHRINK_RADIUS), *((jaw, _distance(jaw, nose)) for jaw, nose in self.pulls)]
        edges = [np.add(center, way * radius) for center, radius in circles for way in (-1, 1)]
        edges += [self.outline.min(axis=0) - COLOR_MARGIN, self.outline.max(axis=0) + COLOR_MARGIN]
        (left, top), (right, bottom) = np.min(edges, axis=0), np.max(edges, axis=0)
        corners = self.to_photo(np.array([(left, top), (left, bottom), (right, top), (right, bottom)]))
        low = np.maximum(np.floor(corners.min(axis=0)) - 2, 0)
        high = np.minimum(np.ceil(corners.max(axis=0)) + 3, (width, height))
        if (low >= high).any():
            return None
        return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))

    def displacement(self, levels: Levels, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """How far from (x, y) of the retouched photo the same spot lay in the original, in photo pixels.

        Args:
            levels: Of them eyes, slim and shrink.
            x: Any shape, photo coordinates.
            y: The same shape.
        """
        (a, b, right), (c, d, down) = self.to_template.tolist()
        start_x, start_y = a * x + b * y + right, c * x + d * y + down
        end_x, end_y = start_x, start_y
        if levels.shrink:
            end_x, end_y = _scaled(end_x, end_y, SHRINK_CENTER, SHRINK_RADIUS, SHRINK_GAIN * levels.shrink / 100)
        if levels.slim:
            for jaw, nose in self.pulls:
                end_x, end_y = _pulled(end_x, end_y, jaw, nose, SLIM_GAIN * levels.slim / 100)
        if levels.eyes:
            for center_x, center_y in self.eyes.tolist():
                gain = -EYE_GAIN * levels.eyes / 100
                end_x, end_y = _scaled(end_x, end_y, (center_x, center_y), EYE_RADIUS, gain)
        dx, dy = end_x - start_x, end_y - start_y
        square = a * a + c * c  # the inverse of a similarity's turn is its transpose over its squared scale
        return (a * dx + c * dy) / square, (b * dx + d * dy) / square

    def inverse_displacement(self, levels: Levels, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """How far from (x, y) of the original photo the same spot lies in the retouched one, in photo pixels.

        Args:
            levels: Of them eyes, slim and shrink.
            x: Any shape, photo coordinates.
            y: The same shape.
        """
        dx, dy = np.zeros_like(x), np.zeros_like(y)
        for _ in range(INVERSE_STEPS):
            back_x, back_y = self.displacement(levels, x + dx, y + dy)
            dx, dy = -back_x, -back_y
        return dx, dy


def face_shape(landmarks: NDArray[Any], points: NDArray[Any] | None = None) -> FaceShape:
    """The shape of a face.

    Args:
        landmarks: (5, 2) eyes, nose, mouth corners in photo pixels, left ones first.
        points: (68, 2) landmarks in photo pixels, in dlib's order; None for the mean outline and brows.

    Raises:
        ValueError: An array has another shape or is not finite, or the landmarks do not span a face.
    """
    five = np.asarray(landmarks, np.float64)
    if five.shape != TEMPLATE.shape or not np.isfinite(five).all():
        raise ValueError(f"landmarks must be five finite points (5, 2), not {five.shape}")
    to_template = _similarity(five)
    eyes, mouth = np.split(_transformed(to_template, five)[[0, 1, 3, 4]], 2)
    if points is None:
        jaw, brow, nose, chin = (np.array(part) for part in (JAW, BROW, NOSE_LINE, CHIN))
        jaws, brows, noses = (jaw, _mirrored(jaw)), (brow, _mirrored(brow)), (nose, _mirrored(nose))
    else:
        many = np.asarray(points, np.float64)
        if many.shape != (68, 2) or not np.isfinite(many).all():
            raise ValueError(f"points must be 68 finite landmarks (68, 2), not {many.shape}")
        many = _transformed(to_template, many)
        jaws = (_between(many[:17], JAW_AMONG_68), _between(many[16::-1], JAW_AMONG_68))
        brows, nose, chin = (many[17:22], many[22:27]), many[list(NOSE_AMONG_68)], many[CHIN_AMONG_68]
        noses = (nose, nose)
    temple, top = np.array(TEMPLE), np.array([HAIRLINE])
    upper = np.concatenate([_mirrored(temple), top, temple[::-1]])
    upper[:, 0] = np.interp(upper[:, 0], (JAW[0][0], MIRROR - JAW[0][0]), (jaws[0][0, 0], jaws[1][0, 0]))
    around = (jaws[0], chin[None], jaws[1][::-1], upper)
    ends = [pair for jaw, nose in zip(jaws, noses, strict=True) for pair in zip(jaw[1:], nose, strict=True)]
    pulls = tuple((_point(origin), _point(target)) for origin, target in [*ends, (chin, noses[0][-1])])
    return FaceShape(to_template, eyes, mouth, np.concatenate(around), brows, pulls)


def warp_field(
    landmarks: NDArray[Any],
    levels: Levels,
    size: tuple[int, int],
    points: NDArray[Any] | None = None,
    *,
    inverse: bool = False,
) -> Floats:
    """The backward field of the geometric operations: retouched(p) = original(p + field(p)).

    Args:
        landmarks: (5, 2) of the original face, in pixels of the field's grid.
        levels: Levels of the retouching; eyes, slim and shrink count.
        size: Height and width of the grid.
        points: (68, 2) landmarks, if the face was retouched with them.
        inverse: Give the field that undoes the retouching, original(p) = retouched(p + field(p)), found by 12
            fixed-point steps.

    Returns:
        (H, W, 2) float32 x, y in pixels of the grid.

    Raises:
        ValueError: An array has another shape or is not finite, or the landmarks do not span a face.
    """
    shape = face_shape(landmarks, points)
    x, y = pixel_grid((slice(0, size[0]), slice(0, size[1])))
    return np.stack((shape.inverse_displacement if inverse else shape.displacement)(levels, x, y), axis=-1)


def retouched_places(
    landmarks: NDArray[Any], levels: Levels, places: NDArray[Any], points: NDArray[Any] | None = None
) -> Points:
    """Where places of the original photo lie in the retouched one.

    Args:
        landmarks: (5, 2) of the original face in photo pixels.
        levels: Levels of the retouching; eyes, slim and shrink count.
        places: (N, 2) in photo pixels.
        points: (68, 2) landmarks, if the face was retouched with them.

    Returns:
        (N, 2) float64.

    Raises:
        ValueError: An array has another shape or is not finite, or the landmarks do not span a face.
    """
    places = np.asarray(places, np.float64)
    moves = face_shape(landmarks, points).inverse_displacement(levels, places[:, 0], places[:, 1])
    return np.asarray(places + np.stack(moves, axis=-1))


def pixel_grid(box: Box) -> tuple[Floats, Floats]:
    """Coordinates x and y of the pixels of a part of a photo, each (H, W) float32."""
    rows, columns = box
    x, y = np.meshgrid(
        np.arange(columns.start, columns.stop, dtype=np.float32), np.arange(rows.start, rows.stop, dtype=np.float32)
    )
    return x, y


def _scaled(x: Floats, y: Floats, center: Point, radius: float, gain: float) -> tuple[Floats, Floats]:
    """Gustafsson's local scaling within a disc: by 1 + gain at its center, by 1 at its edge."""
    dx, dy = x - center[0], y - center[1]
    change: Floats = np.maximum(1 - (dx * dx + dy * dy) / np.float32(radius**2), 0, dtype=np.float32) * np.float32(gain)
    return np.asarray(x + dx * change, np.float32), np.asarray(y + dy * change, np.float32)


def _pulled(x: Floats, y: Floats, origin: Point, target: Point, gain: float) -> tuple[Floats, Floats]:
    """A shift that falls off linearly with the distance from `origin`; what was there moves toward `target`."""
    distance = np.hypot(x - origin[0], y - origin[1])
    share = gain * np.maximum(1 - distance / max(_distance(origin, target), 1e-6), 0)
    return x - share * (target[0] - origin[0]), y - share * (target[1] - origin[1])


def _similarity(landmarks: Points) -> Points:
    """Least-squares similarity (2, 3) from five landmarks to the template (Umeyama 1991), by one complex division.

    Raises:
        ValueError: The landmarks do not span a face.
    """
    source, target = landmarks @ (1, 1j), TEMPLATE @ (1, 1j)
    away, goal = source - source.mean(), target - target.mean()
    spread = float((away * away.conj()).real.sum())
    turn = complex((away.conj() * goal).sum()) / max(spread, 1e-12)
    if spread < 1e-6 or abs(turn) < 1e-6:
        raise ValueError("the landmarks do not span a face: the points lie on one another")
    shift = complex(target.mean() - turn * source.mean())
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def _transformed(matrix: Points, points: Points) -> Points:
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


def _mirrored(points: Points) -> Points:
    return np.column_stack([MIRROR - points[:, 0], points[:, 1]])


def _between(contour: Points, places: tuple[float, ...]) -> Points:
    """Points (N, 2) of a contour at fractional indices."""
    return np.stack([np.interp(places, range(len(contour)), contour[:, axis]) for axis in (0, 1)], axis=1)


def _point(values: Points) -> Point:
    return float(values[0]), float(values[1])


def _distance(one: Point, other: Point) -> float:
    return float(np.hypot(other[0] - one[0], other[1] - one[1]))
