"""The endless, repeatable stream of patches that a background network learns from: cut out of any photos, as scanned.

A position in the stream says everything: its epoch gives the order of the photos, and (seed, position) the place, how
far the photo is made smaller, and what the scanner and the years did to it. So any run sees the same patches.

A folder of data holds photos of any size, flat or nested. Where a folder or one below it has an `index.csv` (columns
`file` and `split`), the photos of its rows `test` are left out.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.batch.walk import Skipped
from gfprestore.data.degradation import DegradationOptions, degrade
from gfprestore.data.image_folders import TABLE_NAME, images_in, is_held_out, table_rows
from gfprestore.errors import FolderError, PhotoError
from gfprestore.photo.reading import photo_size, read_photo
from gfprestore.tensors import full_scale

PIXELS_A_PLACE = 512 * 512
"""A photo stands in an epoch once for each so many pixels that it has, so that large ones give more patches."""

RIM = 8
"""Pixels around a patch that are degraded with it and cut off: the raster of JPEG's blocks then begins anywhere."""

_ORDER, _PATCH = 0, 1  # what a generator is for: the same seed must not give both the same numbers


@dataclass(frozen=True)
class PatchOptions:
    """How a patch is made of a photo.

    Attributes:
        size: Its side in pixels.
        shrink: Factor by which the photo is made smaller first; drawn with equal chances for equal ratios.
        clean: Share of the patches that stay as they are.
        degradation: What happens to the others.
    """

    size: int
    shrink: tuple[float, float]
    clean: float
    degradation: DegradationOptions


class ScenePatches:
    """Patches by their position in the endless stream.

    A photo that is damaged or too small is left out; the stream's next photo takes its place.

    Args:
        folder: The data, see the module.
        options: How patches are made.
        seed: Of order, places and degradations.

    Raises:
        FolderError: The folder cannot be read or has no photos that can be used.
    """

    def __init__(self, folder: Path, options: PatchOptions, seed: int) -> None:
        self.folder = folder
        self.options = options
        self.seed = seed
        self.photos = list_photos(folder)
        self._unusable: dict[Path, Skipped] = {}
        self._places = self._list_places()
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Photos that were found to be of no use."""
        return tuple(self._unusable.values())

    def patch(self, position: int) -> NDArray[np.uint8]:
        """The patch (size, size, 3) RGB at a position of the stream, 0 or more.

        Raises:
            FolderError: No photo of the set can be used.
        """
        for later in range(2 * len(self._places)):  # holds one whole epoch, so every photo
            path = self._photo_at(position + later)
            if path in self._unusable:
                continue
            try:
                pixels = read_photo(path).pixels
            except PhotoError as error:
                self._unusable[path] = Skipped(path, str(error), is_problem=True)
                continue
            return self._cut(pixels, np.random.default_rng([self.seed, _PATCH, position]))
        raise self._nothing_usable()

    def _list_places(self) -> list[Path]:
        """The photos of an epoch, larger ones several times."""
        places = []
        for path in self.photos:
            try:
                width, height = photo_size(path)
            except PhotoError as error:
                self._unusable[path] = Skipped(path, str(error), is_problem=True)
                continue
            if min(width, height) < self._cut_size:
                reason = f"{path} is {width} x {height} pixels, and patches are cut from {self._cut_size} a side."
                self._unusable[path] = Skipped(path, reason, is_problem=True)
                continue
            places += [path] * math.ceil(width * height / PIXELS_A_PLACE)
        if not places:
            raise self._nothing_usable()
        return places

    def _photo_at(self, position: int) -> Path:
        """Which photo stands at a position; each epoch has an order of its own."""
        epoch, place = divmod(position, len(self._places))
        if self._order[0] != epoch:
            random = np.random.default_rng([self.seed, _ORDER, epoch])
            self._order = (epoch, random.permutation(len(self._places)))
        return self._places[int(self._order[1][place])]

    @property
    def _cut_size(self) -> int:
        return self.options.size + RIM

    def _cut(self, pixels: NDArray[Any], random: np.random.Generator) -> NDArray[np.uint8]:
        """A square of the photo, made smaller and degraded."""
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
        return np.asarray(np.rint(np.clip(kept, 0, 1) * 255), np.uint8)

    def _nothing_usable(self) -> FolderError:
        first = next(iter(self._unusable.values()))
        return FolderError(
            f"None of the {len(self.photos)} photos in {self.folder} can be used. The first: {first.reason}"
        )


def list_photos(folder: Path) -> list[Path]:
    """The photos of a folder and those below it, in the natural order of their names, without those held out.

    Raises:
        FolderError: The folder or a table in it cannot be read, or there are no photos.
    """
    if not folder.is_dir():
        raise FolderError(f"{folder} is no folder. Name a folder of sharp photos with --data.")
    held_out = {
        Path(place, row["file"])
        for place, _, names in os.walk(folder)
        if TABLE_NAME in names
        for row in table_rows(Path(place))
        if is_held_out(row)
    }
    photos = [path for path in images_in(folder) if path not in held_out]
    if not photos:
        raise FolderError(f"There are no photos to train on in {folder}. Name a folder of sharp photos with --data.")
    return photos
