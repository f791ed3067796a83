"""Endless, reproducible stream of degraded photo patches for the training of a background network.

The position in the stream determines the patch: its epoch gives the order of the photos, and (seed, position) the
location, the downscaling and the degradation. Every run therefore sees the same patches.

A data folder holds photos of any size, flat or nested. If it or a subfolder has an `index.csv` (columns `file` and
`split`), photos of the split `test` are skipped.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.batch.walk import Skipped
from gfprestore.data.degradation import DegradationOptions, degrade
from gfprestore.data.epoch_order import EpochOrder
from gfprestore.data.image_folders import TABLE_NAME, images_in, is_held_out, nothing_usable, table_rows
from gfprestore.errors import FolderError, PhotoError
from gfprestore.photo.reading import photo_size, read_photo
from gfprestore.pixels import nearest_levels
from gfprestore.tensors import full_scale

PIXELS_PER_PATCH = 512 * 512
"""An epoch has one patch of a photo per so many pixels, so that larger photos give more patches."""

RIM = 8
"""Pixels that are degraded with a patch and then cut off at random, so that JPEG blocks start at any offset."""

_ORDER, _PATCH = 0, 1  # purposes of random generators with the same seed


@dataclass(frozen=True)
class PatchOptions:
    """Options of the patches.

    Attributes:
        size: Side of the patches in pixels.
        shrink: Range of the factor by which the photo is downscaled first; the factor is log-uniform.
        clean: Share of the patches that are not degraded.
        degradation: Degradation of the other patches.
    """

    size: int
    shrink: tuple[float, float]
    clean: float
    degradation: DegradationOptions


class ScenePatches:
    """Patches by their position in the endless stream.

    A photo that is damaged or too small is skipped, and the next photo of the stream is used instead.

    Args:
        folder: Data folder, see the module.
        options: Options of the patches.
        seed: Random seed of order, locations and degradations.

    Raises:
        FolderError: The folder cannot be read, or has no usable photos.
    """

    def __init__(self, folder: Path, options: PatchOptions, seed: int) -> None:
        self.folder = folder
        self.options = options
        self.seed = seed
        self.photos = list_photos(folder)
        self._unusable: dict[Path, Skipped] = {}
        self._epoch = self._list_epoch()
        self._order = EpochOrder(seed, _ORDER, len(self._epoch))

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Photos that cannot be used."""
        return tuple(self._unusable.values())

    def patch(self, position: int) -> NDArray[np.uint8]:
        """The patch (size, size, 3) RGB at a position of the stream, 0 or more.

        Raises:
            FolderError: No photo of the folder can be used.
        """
        for offset in range(2 * len(self._epoch)):  # contains a complete epoch, so every photo
            path = self._epoch[self._order.index_at(position + offset)]
            if path in self._unusable:
                continue
            try:
                pixels = read_photo(path).pixels
            except PhotoError as error:
                self._unusable[path] = Skipped(path, str(error), is_problem=True)
                continue
            return self._cut(pixels, np.random.default_rng([self.seed, _PATCH, position]))
        raise self._nothing_usable()

    def _list_epoch(self) -> list[Path]:
        """The photos of an epoch; larger ones appear several times.

        Raises:
            FolderError: No photo can be used.
        """
        pixels, left_out = large_photos(self.photos, self._cut_size)
        self._unusable = {entry.path: entry for entry in left_out}
        if not pixels:
            raise self._nothing_usable()
        return [path for path, count in pixels.items() for _ in range(math.ceil(count / PIXELS_PER_PATCH))]

    @property
    def _cut_size(self) -> int:
        return self.options.size + RIM

    def _cut(self, pixels: NDArray[Any], random: np.random.Generator) -> NDArray[np.uint8]:
        """Cut a random square out of a photo, downscale and degrade it."""
        height, width = pixels.shape[:2]
        size = self._cut_size
        least, most = self.options.shrink
        shrink = math.exp(random.uniform(math.log(least), math.log(most)))
        side = min(max(round(size * shrink), size), height, width)
        top, left = (int(random.integers(length - side, endpoint=True)) for length in (height, width))
        square = pixels[top : top + side, left : left + side].astype(np.float32) / np.float32(full_scale(pixels.dtype))
        image = np.asarray(cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA))
        if random.random() >= self.options.clean:
            image = degrade(image, self.options.degradation, random).lq
        top, left = (int(place) for place in random.integers(RIM, size=2, endpoint=True))
        kept = image[top : top + self.options.size, left : left + self.options.size]
        return nearest_levels(kept * 255, np.uint8)

    def _nothing_usable(self) -> FolderError:
        return nothing_usable(self.folder, len(self.photos), "photos", self._unusable.values())


def large_photos(photos: Iterable[Path], least_side: int) -> tuple[dict[Path, int], tuple[Skipped, ...]]:
    """Numbers of pixels of the photos that are at least this large, from their headers, and the photos left out."""
    pixels: dict[Path, int] = {}
    left_out: list[Skipped] = []
    for path in photos:
        try:
            width, height = photo_size(path)
        except PhotoError as error:
            left_out.append(Skipped(path, str(error), is_problem=True))
            continue
        if min(width, height) >= least_side:
            pixels[path] = width * height
            continue
        reason = f"{path} is too small ({width} x {height} pixels). Each side needs {least_side} pixels."
        left_out.append(Skipped(path, reason, is_problem=True))
    return pixels, tuple(left_out)


def list_photos(folder: Path) -> list[Path]:
    """Photos of a folder and its subfolders, in natural order, without those of the split `test`.

    Raises:
        FolderError: The folder or a table in it cannot be read, or there are no photos.
    """
    if not folder.is_dir():
        raise FolderError(f"{folder} is not a folder. Use a folder of sharp photos with --data.")
    held_out = {
        Path(place, row["file"])
        for place, _, names in os.walk(folder)
        if TABLE_NAME in names
        for row in table_rows(Path(place))
        if is_held_out(row)
    }
    photos = [path for path in images_in(folder) if path not in held_out]
    if not photos:
        raise FolderError(f"There are no photos to train on in {folder}. Use a folder of sharp photos with --data.")
    return photos
