"""Synthetic damage of prints, from scratches to missing corners, with the mask of what is lost.

The damage is drawn on the print; blur, grain and compression of a scan follow. Images are (H, W, 3) float32 RGB in
[0, 1]. Lengths are relative to the longer side of the whole photo, so that a patch of a photo is damaged as the photo
would be. The mask has the places where the original is covered or gone and where this can be seen. Stains, tape and
silvering change the print but do not hide it, and are not part of the mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gfprestore.data.capture import Image, Range, luma_of
from gfprestore.data.damage_shapes import (
    Shape,
    area,
    blurred,
    broken,
    clouds,
    crack_lines,
    curve,
    distance_outside,
    jagged,
    line,
    resampled,
    shifted,
)

VISIBLE = 7 / 255
"""Smallest change of a color channel that counts as damage."""

MASK_OPACITY = 0.2
"""Smallest opacity that counts as damage."""


@dataclass(frozen=True)
class Damage:
    """How often each kind of damage occurs, and its sizes relative to the longer side of the photo.

    Attributes:
        probabilities: Probability of each kind, by name, in the order in which they are drawn.
        scratches: Number of scratches.
        scratch_width: Width of scratches.
        crack_length: Length of the longest line of a crack.
        crack_width: Width of cracks.
        fold_width: Width of the shading on both sides of a fold.
        tear_length: Length of a tear from the border.
        loss: Share of the longer side that a missing corner or edge reaches into the photo.
        specks: Number of specks of dust.
        speck_size: Radius of specks.
        hair_length: Length of hairs.
        pinhole_size: Radius of pinholes.
        stain_strength: Largest opacity of stains.
        tape_width: Width of strips of tape.
    """

    probabilities: dict[str, float] = field(
        default_factory=lambda: {
            "silvering": 0.06,
            "stains": 0.12,
            "tape": 0.05,
            "folds": 0.2,
            "cracks": 0.35,
            "scratches": 0.5,
            "peeled": 0.1,
            "tears": 0.15,
            "missing": 0.15,
            "pinholes": 0.06,
            "dust": 0.5,
            "hairs": 0.2,
        }
    )
    scratches: tuple[int, int] = (1, 8)
    scratch_width: Range = (0.0006, 0.004)
    crack_length: Range = (0.1, 0.8)
    crack_width: Range = (0.0008, 0.006)
    fold_width: Range = (0.004, 0.03)
    tear_length: Range = (0.05, 0.4)
    loss: Range = (0.015, 0.12)
    specks: tuple[int, int] = (5, 120)
    speck_size: Range = (0.0005, 0.003)
    hair_length: Range = (0.03, 0.2)
    pinhole_size: Range = (0.002, 0.006)
    stain_strength: Range = (0.1, 0.5)
    tape_width: Range = (0.04, 0.12)

    def __post_init__(self) -> None:
        unknown = set(self.probabilities) - set(KINDS)
        if unknown or not all(0 <= value <= 1 for value in self.probabilities.values()):
            raise ValueError(f"probabilities must be from 0 to 1, of {', '.join(KINDS)}; not {self.probabilities}")


@dataclass(frozen=True)
class DamagedImage:
    """A damaged print.

    Attributes:
        image: (H, W, 3) float32 RGB in [0, 1].
        mask: (H, W) bool: what is lost and can be seen.
    """

    image: Image
    mask: NDArray[np.bool_]


@dataclass
class _Print:
    """A print while it is damaged.

    Attributes:
        image: The print (H, W, 3).
        scale: Pixels of the longer side of the whole photo.
        random: Random generator.
        paper: Color (3,) of the bare paper.
        lost: Opacity (H, W) of what covers the original.
    """

    image: Image
    scale: float
    random: np.random.Generator
    paper: Image
    lost: Image

    @property
    def shape(self) -> Shape:
        return self.image.shape[0], self.image.shape[1]

    def length(self, bounds: Range) -> float:
        """A random length in pixels, log-uniform."""
        low, high = np.log(bounds)
        return float(np.exp(self.random.uniform(low, high)) * self.scale)

    def place(self) -> NDArray[np.float64]:
        """A random point (2,) x, y."""
        return self.random.uniform(0, 1, 2) * self.shape[::-1]

    def paint(self, opacity: Image, color: Image | float, *, covers: bool = True) -> None:
        """Blend a color, or an image of colors, over the print."""
        share = opacity[..., None]
        self.image = np.asarray(self.image + (np.asarray(color, np.float32) - self.image) * share, np.float32)
        if covers:
            self.lost = np.maximum(self.lost, opacity)

    def light_or_dark(self, light: float = 0.75) -> Image:
        """A color of scratches: bare paper or nearly white with probability `light`, otherwise nearly black."""
        if self.random.random() < light:
            return np.asarray(self.paper * self.random.uniform(0.8, 1.0), np.float32)
        return np.asarray(self.paper * self.random.uniform(0.0, 0.2), np.float32)


def damaged(
    image: Image,
    damage: Damage,
    random: np.random.Generator,
    drawn: dict[str, float] | None = None,
    *,
    photo_side: float | None = None,
) -> DamagedImage:
    """Damage a print.

    Args:
        image: (H, W, 3) float32 RGB in [0, 1]; not modified.
        damage: What occurs, and how strongly.
        random: Random generator.
        drawn: Receives the number of each kind of damage by name.
        photo_side: Longer side of the whole photo in pixels, if the image is a part of it.

    Returns:
        The damaged print and its mask.
    """
    height, width = image.shape[:2]
    gray = float(luma_of(image).mean())
    paper = np.array([1.0, random.uniform(0.93, 1.0), random.uniform(0.8, 1.0)], np.float32)
    state = _Print(
        np.asarray(image, np.float32),
        float(photo_side or max(height, width)),
        random,
        np.asarray(paper * random.uniform(max(0.7, min(gray + 0.2, 0.9)), 1.0), np.float32),
        np.zeros((height, width), np.float32),
    )
    for name, probability in damage.probabilities.items():
        if random.random() < probability:
            count = KINDS[name](state, damage)
            if drawn is not None:
                drawn[name] = float(count)
    result = np.asarray(np.clip(state.image, 0, 1), np.float32)
    visible = np.abs(result - image).max(2) >= VISIBLE
    return DamagedImage(result, np.asarray((state.lost >= MASK_OPACITY) & visible, np.bool_))


def _scratches(print_: _Print, damage: Damage) -> int:
    """Thin, long, hardly bent lines, some in parallel, some with a shadow beside them."""
    random = print_.random
    count = int(random.integers(*damage.scratches, endpoint=True))
    direction, agree = random.uniform(0, np.pi), random.random() < 0.4
    for _ in range(count):
        angle = direction + random.normal(0, 0.1) if agree else random.uniform(0, np.pi)
        length = print_.scale * random.uniform(0.05, 0.9)
        start = print_.place() - length / 2 * np.array([np.cos(angle), np.sin(angle)])
        points = curve(start, angle, length, random.choice([0.02, 0.2, 0.8]), random)
        width = print_.length(damage.scratch_width)
        opacity = line(print_.shape, points, width * broken(points, random.choice([0.0, 0.2, 0.5]), random))
        color = print_.light_or_dark()
        if random.random() < 0.25:  # the rim throws a shadow
            shade = shifted(opacity, *random.uniform(-1, 1, 2) * max(1.0, width))
            print_.paint(blurred(shade, 0.7) * np.float32(random.uniform(0.2, 0.5)), 1 - color, covers=False)
        print_.paint(opacity * np.float32(random.uniform(0.5, 1.0)), color)
    return count


def _cracks(print_: _Print, damage: Damage) -> int:
    """Branching cracks of the emulsion, filled with the color of the paper, dark on one side."""
    random = print_.random
    count = int(random.integers(1, 5))
    for _ in range(count):
        length, width = print_.length(damage.crack_length), print_.length(damage.crack_width)
        opacity = np.zeros(print_.shape, np.float32)
        for points, depth in crack_lines(print_.place(), random.uniform(0, 2 * np.pi), length, random):
            fine = jagged(resampled(points, 2.5), 0.3, random)
            taper = np.linspace(1.0, random.uniform(0.1, 0.7), len(fine) - 1) * 0.7**depth
            varying = np.exp(random.normal(0, 0.35, len(fine) - 1))
            opacity = np.maximum(
                opacity, line(print_.shape, fine, width * taper * varying * broken(fine, 0.08, random))
            )
        _crack(print_, opacity, width)
    return count


def _crack(print_: _Print, opacity: Image, width: float) -> None:
    """Paint a crack: its shadow, then the bare paper or the dark gap."""
    random = print_.random
    shade = shifted(opacity, *random.uniform(-1, 1, 2) * max(0.8, width / 2))
    print_.paint(blurred(shade, 0.8) * np.float32(random.uniform(0.1, 0.6)), 0.05, covers=False)
    print_.paint(opacity * np.float32(random.uniform(0.6, 1.0)), print_.light_or_dark(0.85))


def _folds(print_: _Print, damage: Damage) -> int:
    """Straight lines through the photo: light on one side, dark on the other, broken emulsion along them."""
    random = print_.random
    count = int(random.integers(1, 4))
    height, width = print_.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    for _ in range(count):
        angle = random.choice([0.0, np.pi / 2, random.uniform(0, np.pi)]) + random.normal(0, 0.03)
        middle = print_.place()
        across = (x - middle[0]) * np.float32(-np.sin(angle)) + (y - middle[1]) * np.float32(np.cos(angle))
        reach = np.float32(print_.length(damage.fold_width))
        shading = np.exp(-np.abs(across) / reach) * np.sign(across) * np.float32(random.uniform(-0.25, 0.25))
        print_.image = np.asarray(print_.image * (1 + shading)[..., None], np.float32)
        reach_out = float(height + width)
        ends = middle + np.array([[-1], [1]]) * reach_out * np.array([np.cos(angle), np.sin(angle)])
        points = jagged(resampled(ends, 3.0), 0.25, random)
        core = print_.length(damage.crack_width) * broken(points, random.uniform(0.1, 0.8), random)
        opacity = line(print_.shape, points, core * np.exp(random.normal(0, 0.4, len(points) - 1)))
        _crack(print_, opacity, float(core.max()))
    return count


def _tears(print_: _Print, damage: Damage) -> int:
    """Jagged cuts from the border, wide where they begin, with fibers of the paper at their edges."""
    random = print_.random
    count = int(random.integers(1, 3))
    for _ in range(count):
        start, inward = _border_point(print_)
        length = print_.length(damage.tear_length)
        points = jagged(resampled(curve(start, inward, length, 0.6, random), 4.0), 0.35, random)
        widest = length * random.uniform(0.01, 0.08)
        widths = np.linspace(widest, 0.5, len(points) - 1) * np.exp(random.normal(0, 0.15, len(points) - 1))
        _tear_out(print_, line(print_.shape, points, widths))
    return count


def _missing(print_: _Print, damage: Damage) -> int:
    """A corner or a part of an edge is gone."""
    random = print_.random
    count = int(random.integers(1, 4))
    height, width = print_.shape
    for _ in range(count):
        start, inward = _border_point(print_, corner=random.random() < 0.6)
        reach = print_.scale * random.uniform(*damage.loss)
        along = np.linspace(-1, 1, 24)
        depth = (1 - np.abs(along) ** random.uniform(0.8, 3)) * np.exp(np.cumsum(random.normal(0, 0.12, 24)))
        across = along * reach * random.uniform(0.8, 2.5)
        inner = start + np.stack(
            [
                depth * reach * np.cos(inward) - across * np.sin(inward),
                depth * reach * np.sin(inward) + across * np.cos(inward),
            ],
            axis=1,
        )
        outside = start - 3 * reach * np.array([np.cos(inward), np.sin(inward)])
        outline = np.vstack([inner, outside])
        _tear_out(print_, area((height, width), jagged(resampled(outline, 4.0), 0.3, random)))
    return count


def _tear_out(print_: _Print, opacity: Image) -> None:
    """Remove the print from an area: bare, rough paper around it, and what lies under the print inside."""
    random = print_.random
    rim = print_.scale * random.uniform(0.001, 0.012)
    rough = rim * (1 + 0.5 * clouds(print_.shape, max(3.0, rim), random, octaves=3))
    fibers = np.clip(rough - distance_outside(opacity), 0, 1)
    texture = 1 + 0.04 * clouds(print_.shape, 3.0, random, octaves=2)
    print_.paint(fibers, print_.paper * texture[..., None])
    print_.paint(opacity, random.choice([1.0, 0.97, 0.5, 0.02]))


def _peeled(print_: _Print, damage: Damage) -> int:
    """Blotches of lost emulsion, most of them near a border."""
    random = print_.random
    height, width = print_.shape
    x, y = np.meshgrid(np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32))
    angle, reach = random.uniform(0, 2 * np.pi), print_.scale * random.uniform(0.01, 0.06)
    border = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    field_ = clouds(print_.shape, reach, random, octaves=5) + np.float32(random.uniform(0.5, 2.5)) * border
    level = np.quantile(field_, 1 - random.uniform(0.002, 0.06))
    opacity = blurred(np.asarray(field_ > level, np.float32), 0.6)
    print_.paint(opacity, print_.light_or_dark(0.5))
    return 1


def _dust(print_: _Print, damage: Damage) -> int:
    """Specks, mostly light."""
    random = print_.random
    count = int(random.integers(*damage.specks, endpoint=True) * _share_of_photo(print_)) + 1
    opacity = np.zeros(print_.shape, np.float32)
    for _ in range(count):
        radius = print_.length(damage.speck_size)
        points = print_.place() + np.cumsum(random.normal(0, radius, (3, 2)), axis=0)
        opacity = np.maximum(opacity, line(print_.shape, points, float(max(0.5, radius * 1.5))))
    print_.paint(opacity * np.float32(random.uniform(0.5, 1.0)), print_.light_or_dark(0.8))
    return count


def _hairs(print_: _Print, damage: Damage) -> int:
    """Strongly bent fibers."""
    random = print_.random
    count = int(random.integers(1, 5))
    for _ in range(count):
        length = print_.length(damage.hair_length)
        bend = random.uniform(0.5, 5.0)
        points = curve(print_.place(), random.uniform(0, 2 * np.pi), length, bend, random, step=2.0)
        width = float(max(0.6, print_.length((0.0005, 0.0018))))
        print_.paint(
            line(print_.shape, points, width) * np.float32(random.uniform(0.5, 1.0)), print_.light_or_dark(0.5)
        )
    return count


def _pinholes(print_: _Print, damage: Damage) -> int:
    """Round holes with a light rim."""
    random = print_.random
    count = int(random.integers(1, 5))
    for _ in range(count):
        center, radius = print_.place(), max(1.0, print_.length(damage.pinhole_size))
        turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        ring = np.stack([np.cos(turns), np.sin(turns)], axis=1)
        rough = radius * random.uniform(0.85, 1.15, (24, 1))
        print_.paint(area(print_.shape, center + ring * rough * random.uniform(1.2, 1.8)), print_.paper)
        print_.paint(area(print_.shape, center + ring * rough), random.choice([0.02, 0.02, 1.0]))
    return count


def _stains(print_: _Print, damage: Damage) -> int:
    """Translucent blotches of a brown liquid, darker at their rims."""
    random = print_.random
    count = int(random.integers(1, 4))
    for _ in range(count):
        size = print_.scale * random.uniform(0.05, 0.4)
        x, y = np.meshgrid(np.arange(print_.shape[1], dtype=np.float32), np.arange(print_.shape[0], dtype=np.float32))
        center = print_.place()
        away = np.hypot(x - np.float32(center[0]), y - np.float32(center[1])) / np.float32(size)
        field_ = 1 - away + 0.25 * clouds(print_.shape, size / 2, random, octaves=5)
        inside = np.clip(field_ * 12, 0, 1)
        rim = np.exp(-((field_ * 14) ** 2)) * np.float32(random.uniform(0, 1.5))
        strength = np.float32(random.uniform(*damage.stain_strength))
        tint = np.array([random.uniform(0.6, 0.95), random.uniform(0.45, 0.8), random.uniform(0.2, 0.6)], np.float32)
        opacity = np.clip((inside * np.float32(0.5) + rim) * strength, 0, 0.9)
        print_.paint(np.asarray(opacity, np.float32), print_.image * tint, covers=False)
    return count


def _tape(print_: _Print, damage: Damage) -> int:
    """A translucent, yellowed strip with visible edges."""
    random = print_.random
    angle, center = random.choice([0, np.pi / 2, random.uniform(0, np.pi)]), print_.place()
    half = np.array([print_.scale * random.uniform(0.1, 0.4), print_.length(damage.tape_width) / 2])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    outline = jagged(resampled(np.vstack([corners, corners[:1]]) @ turn.T + center, 6.0), 0.06, random)
    inside = area(print_.shape, outline)
    color = np.array([0.85, 0.72, random.uniform(0.35, 0.6)], np.float32)
    print_.paint(inside * np.float32(random.uniform(0.15, 0.5)), color, covers=False)
    print_.paint(line(print_.shape, outline, 1.0) * np.float32(random.uniform(0.1, 0.4)), color * 0.5, covers=False)
    return 1


def _silvering(print_: _Print, damage: Damage) -> int:
    """A bluish shine over the dark parts, strongest toward the borders."""
    random = print_.random
    height, width = print_.shape
    x, y = np.meshgrid(np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32))
    border = np.maximum(np.abs(x), np.abs(y)) ** 3
    patches = np.clip(0.5 + 0.5 * clouds(print_.shape, print_.scale / 4, random), 0, 1)
    dark = np.clip(1 - 2 * luma_of(print_.image), 0, 1)
    opacity = border * patches * dark * np.float32(random.uniform(0.2, 0.6))
    print_.paint(np.asarray(opacity, np.float32), np.array([0.62, 0.66, 0.74], np.float32), covers=False)
    return 1


def _border_point(print_: _Print, *, corner: bool = False) -> tuple[NDArray[np.float64], float]:
    """A point (2,) on the border or at a corner, and the direction inward."""
    random = print_.random
    height, width = print_.shape
    if corner:
        point = np.array([random.integers(2) * (width - 1.0), random.integers(2) * (height - 1.0)])
    else:
        along = random.uniform(0, 1)
        sides = [
            (along * width, 0.0),
            (along * width, height - 1.0),
            (0.0, along * height),
            (width - 1.0, along * height),
        ]
        point = np.array(sides[int(random.integers(4))])
    toward = np.array([width / 2, height / 2]) - point
    return point, float(np.arctan2(toward[1], toward[0])) + random.normal(0, 0.3)


def _share_of_photo(print_: _Print) -> float:
    """Share of the photo that the image shows, taken as a square."""
    return min(1.0, print_.shape[0] * print_.shape[1] / print_.scale**2)


KINDS: dict[str, Callable[[_Print, Damage], int]] = {
    "silvering": _silvering,
    "stains": _stains,
    "tape": _tape,
    "folds": _folds,
    "cracks": _cracks,
    "scratches": _scratches,
    "peeled": _peeled,
    "tears": _tears,
    "missing": _missing,
    "pinholes": _pinholes,
    "dust": _dust,
    "hairs": _hairs,
}
"""Functions that draw each kind of damage and return its number."""
