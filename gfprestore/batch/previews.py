"""Preview images: side-by-side comparisons (`--compare`) and each face before and after (`--save-faces`).

They are written to `_compare` and `_faces` in the output folder, mirrored like the photos, always as 8-bit PNG.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gfprestore.batch.journal import Journal
from gfprestore.batch.output_folder import create_folder_within, name_with
from gfprestore.batch.task_list import PhotoTask
from gfprestore.batch.written_files import FileKeptError
from gfprestore.file_attributes import FileAttributes, without_tags
from gfprestore.photo.metadata import Metadata
from gfprestore.photo.photo import Photo
from gfprestore.photo.writing import write_photo
from gfprestore.pixels import resized, to_8_bit

if TYPE_CHECKING:
    from gfprestore.restoration.restoration import RestoredPhoto

Pixels = NDArray[Any]

GAP = 8  # white pixels between the images
TALLEST = 2000  # pixels; a comparison is for the screen


class PreviewWriter:
    """Writer of the previews of one photo, recorded in the journal like results.

    Args:
        task: The photo.
        journal: Journal of the output folder.
        overwrite: Replace files that were changed after a run wrote them or that no run wrote.
        attributes: Permissions of the photo; previews are open to no more people.

    Attributes:
        kept: Messages about files that were not replaced.
    """

    def __init__(self, task: PhotoTask, journal: Journal, overwrite: bool, attributes: FileAttributes | None) -> None:
        self.task = task
        self._attributes = None if attributes is None else without_tags(attributes)
        self.kept: list[str] = []
        self._journal = journal
        self._overwrite = overwrite

    def write(self, pixels: NDArray[np.uint8], path: Path, source: Path) -> None:
        """Write one preview, (H, W, 3), to a folder that mirrors `source`.

        Raises:
            FolderError: The output folder no longer exists, or the journal cannot be written.
            PhotoError: It cannot be written.
        """
        create_folder_within(path.parent, self.task.folder, source)
        metadata = Metadata("PNG", (pixels.shape[1], pixels.shape[0]), file_attributes=self._attributes)
        preview = Photo(self.task.source, pixels, None, metadata, gray=False)
        note = functools.partial(self._journal.note_file, path, overwrite=self._overwrite)
        try:
            write_photo(preview, path, on_complete=note)
        except FileKeptError as kept:
            self.kept.append(str(kept))


def write_comparison(previews: PreviewWriter, before: Photo, after: Photo) -> None:
    """Write before and after side by side to `_compare/<name>.png`, with the before image enlarged to the after.

    Raises:
        FolderError: The output folder no longer exists.
        PhotoError: It cannot be written.
    """
    task = previews.task
    name = name_with(task.relative.name, ".png", task.folder)
    path = task.folder / "_compare" / task.relative.parent / name
    previews.write(side_by_side([before.pixels, after.pixels]), path, task.source.parent)


def write_faces(previews: PreviewWriter, finished: RestoredPhoto) -> None:
    """Write network input and output of each face to `_faces/<name>/01-before.png` and `01-after.png`.

    Raises:
        FolderError: The output folder no longer exists.
        PhotoError: One cannot be written.
    """
    folder = previews.task.folder / "_faces" / previews.task.relative
    for number, (crop, face) in enumerate(zip(finished.crops, finished.restored, strict=True), start=1):
        for word, pixels in (("before", crop.pixels), ("after", None if face is None else face.pixels)):
            if pixels is not None:
                previews.write(to_8_bit(pixels), folder / f"{number:02d}-{word}.png", previews.task.source)


def side_by_side(images: list[Pixels]) -> NDArray[np.uint8]:
    """Join images (H, W, 3) of one aspect ratio side by side, resized to the height of the tallest."""
    height = min(max(image.shape[0] for image in images), TALLEST)
    gap = np.full((height, GAP, 3), 255, np.uint8)
    row: list[NDArray[np.uint8]] = []
    for image in images:
        width = max(round(image.shape[1] * height / image.shape[0]), 1)
        row += [gap, resized(to_8_bit(image), width, height)]
    return np.concatenate(row[1:], axis=1)
