"""Endless, reproducible stream of patches of damaged prints, with masks, for the training of a damage detector.

As in `face_dataset`, the position in the stream determines the patch. A data folder holds photos of any size, flat or
nested; photos of the split `test` of an `index.csv` are skipped. Some patches are aged and scanned but not damaged, and
some have lettering, so that the detector learns what is no damage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gfprestore.batch.walk import Skipped
from gfprestore.data.capture import Image
from gfprestore.data.component_boxes import unknown_boxes
from gfprestore.data.degradation import DAMAGED, DegradationOptions, degrade
from gfprestore.data.face_dataset import Sample, SampleStream
from gfprestore.data.image_folders import nothing_usable
from gfprestore.data.scene_patches import large_photos, list_photos
from gfprestore.photo.reading import read_photo
from gfprestore.pixels import nearest_levels, resized
from gfprestore.tensors import full_scale, pixels_to_signed

PIXELS_PER_PATCH = 192 * 192
"""An epoch has one patch of a photo per so many pixels, so that larger photos give more patches."""

MOST_PATCHES = 24
"""Of one photo in an epoch."""

SHRINK = (1.0, 3.0)
"""Range of the factor by which a photo is downscaled before a patch is cut out; it is log-uniform."""

PRINT_SCALE = (1.0, 3.0)
"""Range of how much larger the print is than the photo that the patch is cut from; it is log-uniform."""

RIM = 8
"""Pixels that are degraded with a patch and then cut off at random, so that JPEG blocks start at any offset."""


@dataclass(frozen=True)
class DamagePatchOptions:
    """Options of the patches.

    Attributes:
        size: Side of the patches in pixels.
        clean: Share of the patches without damage.
        lettered: Share of the patches with lettering, which is no damage.
        degradation: Damage, aging and scan of the print.
    """

    size: int = 256
    clean: float = 0.35
    lettered: float = 0.08
    degradation: DegradationOptions = DAMAGED


class DamagePatches(SampleStream):
    """Patches by their position in the endless stream: lq is damaged, gt is not, mask is the damage.

    Args:
        folder: Data folder, see the module.
        options: Options of the patches.
        seed: Random seed of order, places, damage and scan.

    Attributes:
        photos: The photos that patches are cut from.
        left_out: Photos that are too small or cannot be read.

    Raises:
        FolderError: The folder cannot be read, or has no usable photos.
    """

    items = "photos"

    def __init__(self, folder: Path, options: DamagePatchOptions, seed: int) -> None:
        self.options = options
        photos = list_photos(folder)
        pixels, self.left_out = large_photos(photos, options.size)
        if not pixels:
            raise nothing_usable(folder, len(photos), self.items, self.left_out)
        self.photos = list(pixels)
        counts = {path: min(math.ceil(count / PIXELS_PER_PATCH), MOST_PATCHES) for path, count in pixels.items()}
        super().__init__(folder, [path for path, count in counts.items() for _ in range(count)], seed)

    def _sample(self, index: int, random: np.random.Generator, skipped: tuple[Skipped, ...]) -> Sample:
        options, size = self.options, self.options.size
        pixels = read_photo(self.paths[index]).pixels
        gt, photo_side = _cut(pixels, size + RIM, random)
        if random.random() < options.lettered:
            gt = _lettered(gt, random)
        is_clean = random.random() < options.clean
        degradation = replace(options.degradation, damage=None) if is_clean else options.degradation
        scale = math.exp(random.uniform(*np.log(PRINT_SCALE)))
        degraded = degrade(gt, degradation, random, photo_side=photo_side * scale)
        mask = np.zeros(gt.shape[:2], bool) if degraded.mask is None else degraded.mask
        top, left = (int(place) for place in random.integers(RIM, size=2, endpoint=True))
        part = (slice(top, top + size), slice(left, left + size))
        return Sample(
            _tensor(degraded.lq[part]),
            _tensor(gt[part]),
            torch.from_numpy(unknown_boxes()),
            skipped,
            mask=torch.from_numpy(mask[part].astype(np.float32))[None],
        )


def _cut(pixels: NDArray[Any], size: int, random: np.random.Generator) -> tuple[Image, float]:
    """A random square of a photo, downscaled, turned and mirrored; and the longer side of the downscaled photo."""
    height, width = pixels.shape[:2]
    shrink = math.exp(random.uniform(*np.log(SHRINK)))
    side = min(round(size * shrink), height, width)
    top, left = (int(random.integers(length - side, endpoint=True)) for length in (height, width))
    square = pixels[top : top + side, left : left + side]
    square = np.rot90(square, int(random.integers(4)))
    square = square[:, ::-1] if random.random() < 0.5 else square
    image = resized(np.ascontiguousarray(square), size, size).astype(np.float32) / np.float32(full_scale(pixels.dtype))
    return np.asarray(image), max(height, width) * size / side


def _lettered(image: Image, random: np.random.Generator) -> Image:
    """A photo with a line of letters on it, as on posters, jerseys and album pages."""
    letters = "".join(chr(int(code)) for code in random.integers(33, 127, int(random.integers(2, 14))))
    fonts = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX)
    place = (int(random.integers(0, image.shape[1] // 2)), int(random.integers(20, image.shape[0])))
    color = [int(random.choice([0, 25, 230, 255])) for _ in range(3)]
    size, thickness = random.uniform(0.3, 2.0), int(random.integers(1, 4))
    font = fonts[int(random.integers(len(fonts)))]
    levels = nearest_levels(image * 255, np.uint8)
    lettered = cv2.putText(levels, letters, place, font, size, color, thickness, cv2.LINE_AA)
    return np.asarray(lettered.astype(np.float32) / np.float32(255))


def _tensor(image: Image) -> Tensor:
    return pixels_to_signed(nearest_levels(image * 255, np.uint8))[0].contiguous()  # (S, S, 3) -> (3, S, S)
