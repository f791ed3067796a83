"""Component boxes of aligned faces that come without landmarks, found by a face detector and kept in an index.

The index has one JSON object per image, written as soon as its boxes are found, so that an interrupted search resumes.
A line counts while size and time of its image are unchanged. Several processes write an index each, and read all.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfprestore.batch.journal_file import end_last_line
from gfprestore.data.component_boxes import Boxes, boxes_from_68, boxes_from_five
from gfprestore.data.dlib_landmarks import FindLandmarks
from gfprestore.errors import FolderError, PhotoError
from gfprestore.faces.alignment import FFHQ_TEMPLATE, TEMPLATE_SIZE
from gfprestore.faces.detection import Detector
from gfprestore.faces.geometry import rescaled
from gfprestore.photo.reading import read_photo
from gfprestore.pixels import resized, to_8_bit

log = logging.getLogger(__name__)

INDEX_NAME = "component-boxes.jsonl"

SEARCH_SIZE = 512
"""Side in pixels to which larger images are reduced for the search."""

LARGEST_DISAGREEMENT = 40
"""Pixels at 512 between box centers from 68 and from 5 landmarks; the 68 are wrong beyond."""

MOST_MISPLACED = 0.1
"""Mean distance of the five landmarks from the FFHQ template, in sides, up to which a face counts as aligned."""

LEAST_FOUND = 0.5
"""Share of images with an aligned face, below which the folder is not a set of aligned faces."""

SYNC_EVERY = 64
"""Images between two syncs of the index to the disk."""


class BoxIndex:
    """The index of found boxes in a folder.

    Args:
        data: Folder of the images.
        folder: Folder of the index.
        rank: Number of this process, if several search together.

    Raises:
        FolderError: An index cannot be read.
    """

    def __init__(self, data: Path, folder: Path, rank: int = 0) -> None:
        self._data = data
        self._folder = folder
        self.path = folder / (INDEX_NAME if rank == 0 else INDEX_NAME.replace(".", f"-{rank}.", 1))
        self._found: dict[str, tuple[tuple[int, int], Boxes | None]] = {}
        self.reload()

    def reload(self) -> None:
        """Read the indexes of all processes.

        Raises:
            FolderError: An index cannot be read.
        """
        for path in sorted(self._folder.glob(INDEX_NAME.replace(".", "*."))):
            try:
                lines = path.read_bytes().split(b"\n")
            except OSError as error:
                raise FolderError(
                    f"{path} cannot be read: {error.strerror or error}. Check its permissions."
                ) from error
            for line in lines[:-1]:  # the part after the last newline is incomplete
                entry = _parsed(line)
                if entry is not None:
                    name, stamp, boxes = entry
                    self._found[name] = (stamp, boxes)

    def boxes(self, paths: Sequence[Path]) -> dict[Path, Boxes | None]:
        """Boxes (3, 4), relative to the side, of the images that were searched and have not changed; None: no face."""
        searched = ((path, self._found.get(self._name(path))) for path in paths)
        return {path: entry[1] for path, entry in searched if entry is not None and entry[0] == _stamp(path)}

    def search(
        self,
        paths: Sequence[Path],
        detector: Detector,
        find_landmarks: FindLandmarks | None,
        on_progress: Callable[[int, int], None],
    ) -> None:
        """Find the boxes of images and append them to the index.

        Args:
            paths: Images that are not in the index yet.
            detector: Face detector.
            find_landmarks: Finder of 68 landmarks; None takes the detector's five.
            on_progress: Receives (finished images, total images).

        Raises:
            FolderError: The index cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as stream:
                end_last_line(stream.fileno())
                for number, path in enumerate(paths, start=1):
                    stamp = _stamp(path)
                    boxes = _found_boxes(path, detector, find_landmarks)
                    values = None if boxes is None else np.round(boxes.astype(np.float64), 6).tolist()
                    line = {"file": self._name(path), "bytes": stamp[0], "modified_ns": stamp[1], "boxes": values}
                    stream.write(json.dumps(line, ensure_ascii=True).encode("ascii") + b"\n")
                    stream.flush()
                    if number % SYNC_EVERY == 0 or number == len(paths):
                        os.fsync(stream.fileno())
                    on_progress(number, len(paths))
        except OSError as error:
            raise FolderError(
                f"{self.path} cannot be written: {error.strerror or error}. Images that were searched are kept in it. "
                "Free disk space, or use another folder with --output."
            ) from error

    def _name(self, path: Path) -> str:
        return path.relative_to(self._data).as_posix()


def check_found(boxes: Mapping[Path, Boxes | None], data: Path) -> None:
    """Check that most images show an aligned face.

    Raises:
        FolderError: Too few do.
    """
    found = sum(entry is not None for entry in boxes.values())
    if found < LEAST_FOUND * len(boxes):
        raise FolderError(
            f"Only {found} of {len(boxes)} images in {data} show a face that is aligned as in FFHQ. Run `gfprestore "
            f"prepare {data} -o FOLDER` to crop and align them, or train with `--without components`."
        )


def consistent_boxes(crop: NDArray[np.uint8], points: NDArray[Any], find_landmarks: FindLandmarks | None) -> Boxes:
    """Boxes (3, 4) from 68 landmarks if available and consistent with the five landmarks, else from the five.

    Args:
        crop: Aligned face (S, S, 3).
        points: Its five landmarks (5, 2).
        find_landmarks: Finder of 68 landmarks.
    """
    size = len(crop)
    by_five = boxes_from_five(points, size)
    if find_landmarks is None:
        return by_five
    boxes = boxes_from_68(find_landmarks(crop), size)
    apart = np.abs((boxes[:, :2] + boxes[:, 2:]) - (by_five[:, :2] + by_five[:, 2:])).max() / 2
    return boxes if apart <= LARGEST_DISAGREEMENT * size / TEMPLATE_SIZE else by_five


def _found_boxes(path: Path, detector: Detector, find_landmarks: FindLandmarks | None) -> Boxes | None:
    """Boxes (3, 4) relative to the side; None for an image without an aligned face or that cannot be read."""
    try:
        pixels = to_8_bit(read_photo(path).pixels)
    except PhotoError as error:
        log.debug(str(error))  # the training names the images that it cannot use
        return None
    side = len(pixels)
    if pixels.shape[1] != side:
        return None
    if side > SEARCH_SIZE:
        pixels, side = resized(pixels, SEARCH_SIZE, SEARCH_SIZE), SEARCH_SIZE
    template = rescaled(FFHQ_TEMPLATE, side / TEMPLATE_SIZE)
    faces = [face for face in detector.detect(pixels) if face.score >= detector.default_threshold]
    distances = [float(np.hypot(*(face.landmarks - template).T).mean()) for face in faces]
    if not faces or min(distances) > MOST_MISPLACED * side:
        return None
    points = faces[int(np.argmin(distances))].landmarks.astype(np.float64)
    return np.asarray(consistent_boxes(pixels, points, find_landmarks) / np.float32(side), np.float32)


def _parsed(line: bytes) -> tuple[str, tuple[int, int], Boxes | None] | None:
    """Name, stamp and boxes of a line; None if it is damaged."""
    try:
        entry = json.loads(line)
        boxes = None if entry["boxes"] is None else np.array(entry["boxes"], np.float32).reshape(3, 4)
        return str(entry["file"]), (int(entry["bytes"]), int(entry["modified_ns"])), boxes
    except (ValueError, KeyError, TypeError):
        return None


def _stamp(path: Path) -> tuple[int, int]:
    """Size and modification time of a file; -1 if it cannot be accessed."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
