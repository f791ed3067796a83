"""Preview images: side-by-side comparisons (`--compare`) and each face before and after (`--save-faces`).

They are written to `_compare` and `_faces` in the output folder, mirrored like the photos, always as 8-bit PNG.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gfprestore.batch.folders import PhotoTask
from gfprestore.batch.output_folder import create_folder_within, name_with
from gfprestore.photo.metadata import Metadata
from gfprestore.photo.photo import Photo
from gfprestore.photo.writing import write_photo
from gfprestore.pixels import resized, to_8_bit

if TYPE_CHECKING:
    from gfprestore.restoration.restoration import RestoredPhoto

Pixels = NDArray[Any]

GAP = 8  # white pixels between the images
TALLEST = 2000  # pixels; a comparison is for the screen


def write_comparison(task: PhotoTask, before: Photo, after: Photo) -> Path:
    """Write before and after side by side to `_compare/<name>.png`, with the before image enlarged to the after.

    Raises:
        FolderError: The output folder no longer exists.
        PhotoError: It cannot be written.
    """
    name = name_with(task.relative.name, ".png", task.folder)
    path = task.folder / "_compare" / task.relative.parent / name
    _write(side_by_side([before.pixels, after.pixels]), path, task.folder)
    return path


def write_faces(task: PhotoTask, finished: RestoredPhoto) -> list[Path]:
    """Write network input and output of each face to `_faces/<name>/01-before.png` and `01-after.png`.

    Raises:
        FolderError: The output folder no longer exists.
        PhotoError: One cannot be written.
    """
    folder = task.folder / "_faces" / task.relative
    paths = []
    for number, (crop, face) in enumerate(zip(finished.crops, finished.restored, strict=True), start=1):
        for word, pixels in (("before", crop.pixels), ("after", None if face is None else face.pixels)):
            if pixels is not None:
                paths.append(folder / f"{number:02d}-{word}.png")
                _write(to_8_bit(pixels), paths[-1], task.folder)
    return paths


def side_by_side(images: list[Pixels]) -> NDArray[np.uint8]:
    """Join images (H, W, 3) of one aspect ratio side by side, resized to the height of the tallest."""
    height = min(max(image.shape[0] for image in images), TALLEST)
    gap = np.full((height, GAP, 3), 255, np.uint8)
    row: list[NDArray[np.uint8]] = []
    for image in images:
        width = max(round(image.shape[1] * height / image.shape[0]), 1)
        row += [gap, resized(to_8_bit(image), width, height)]
    return np.concatenate(row[1:], axis=1)


def _write(pixels: NDArray[np.uint8], path: Path, folder: Path) -> None:
    create_folder_within(path.parent, folder)
    metadata = Metadata("PNG", (pixels.shape[1], pixels.shape[0]))
    write_photo(Photo(path, pixels, None, metadata, gray=False), path)
