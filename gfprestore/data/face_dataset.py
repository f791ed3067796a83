"""The endless, repeatable stream of training pairs (GFP-GAN, section 4.1).

A position in the stream says everything: its epoch gives the order of the images, and (seed, position) the flip and
the degradation. So any number of workers or processes, and a run that is stopped and resumed, see the same images.

A folder of data is one of: a set made by `gfprestore prepare` (it has an index), a folder of aligned faces with an
`index.csv` (columns `file`, `landmarks`, and `split`, whose rows `test` are left out), or any folder of aligned faces,
flat or nested. FFHQ's component and landmark files are found in the folder or beside it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import numpy as np
import torch
import torch.utils.data
from numpy.typing import NDArray
from torch import Tensor

from gfprestore.batch.walk import Skipped
from gfprestore.data.capture import gray_of
from gfprestore.data.component_boxes import (
    COMPONENT_FILE,
    Boxes,
    aligned_part,
    boxes_from_five,
    known_boxes,
    mirrored_boxes,
    number_of,
    unknown_boxes,
)
from gfprestore.data.degradation import DegradationOptions, degrade
from gfprestore.data.image_folders import TABLE_NAME, images_in, is_held_out, table_error, table_rows
from gfprestore.data.prepared_index import INDEX_NAME, read_index
from gfprestore.errors import FolderError, PhotoError
from gfprestore.photo.reading import read_photo
from gfprestore.tensors import full_scale, pixels_to_signed

SECONDS_TO_OUTLIVE = 300  # of a worker that was told to end: a step and a checkpoint of its training must fit in

_ORDER, _IMAGE = 0, 1  # what a generator is for: the same seed must not give both the same numbers


@dataclass(frozen=True)
class Sample:
    """One training pair, or a batch of them with B before each shape.

    Attributes:
        lq: (3, S, S) float32 RGB in [-1, 1].
        gt: (3, S, S) float32 RGB in [-1, 1].
        boxes: (3, 4) float32 left, top, right, bottom edges in pixels of S: left eye, right eye, mouth as seen in the
            image; NaN where unknown.
        skipped: Files that should have been here and could not be used.
    """

    lq: Tensor
    gt: Tensor
    boxes: Tensor
    skipped: tuple[Skipped, ...] = ()

    def to(self, device: torch.device, non_blocking: bool = False) -> Sample:
        """The same pair on another device."""
        lq, gt, boxes = (part.to(device, non_blocking=non_blocking) for part in (self.lq, self.gt, self.boxes))
        return Sample(lq, gt, boxes, self.skipped)

    def pin_memory(self) -> Sample:
        """The same pair in memory from which a device reads fastest; a DataLoader calls it."""
        return Sample(self.lq.pin_memory(), self.gt.pin_memory(), self.boxes.pin_memory(), self.skipped)


@dataclass(frozen=True)
class Face:
    """An image of the set.

    Attributes:
        path: The file: one aligned, square face.
        boxes: (3, 4) in shares of its side; None where only landmarks or nothing is known.
        landmarks: (5, 2) in its pixels.
    """

    path: Path
    boxes: Boxes | None = None
    landmarks: NDArray[np.float64] | None = None

    def boxes_at(self, size: int, side: int) -> Boxes:
        """Boxes (3, 4) in an image of `size` made from this one of `side` pixels."""
        if self.boxes is not None:
            return np.asarray(self.boxes * np.float32(size), np.float32)
        if self.landmarks is not None:
            return np.asarray(boxes_from_five(self.landmarks, side) * np.float32(size / side))
        return unknown_boxes()


class FaceDataset(torch.utils.data.Dataset[Sample]):
    """Training pairs by their position in the endless stream.

    An image that is damaged, not square or smaller than `size` is left out; the stream's next image takes its place.

    Args:
        folder: The data, see the module.
        size: Side of the images; larger ones are made smaller.
        degradation: What makes the lq; None leaves it the gt, where nobody looks at it.
        seed: Of order, flips and degradations.
        flip: Mirror every other image.
        jitter: How far faces are moved, in shares of the side, and changed in size; they are turned by as many radians.
        boxes: Component boxes are needed; without, they are all NaN.
        components: FFHQ's component or landmark file; None looks in the folder and beside it.

    Raises:
        FolderError: The folder cannot be read or has no images, or boxes are needed and none is known.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        degradation: DegradationOptions | None,
        seed: int,
        flip: bool = True,
        boxes: bool = True,
        components: Path | None = None,
        jitter: float = 0.0,
    ) -> None:
        self.folder = folder
        self.size = size
        self.degradation = degradation
        self.seed = seed
        self.flip = flip
        self.jitter = jitter
        self.boxes = boxes
        self.faces = list_faces(folder, components if boxes else None, want_boxes=boxes)
        self._unusable: dict[int, Skipped] = {}
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))
        if boxes and all(face.boxes is None and face.landmarks is None for face in self.faces):
            raise FolderError(
                f"Nothing is known of the eyes and mouths in {folder}, which the component losses need. Make the set "
                f"with `gfprestore prepare`, put FFHQ's {COMPONENT_FILE} into the folder, or train with "
                "`--without components`."
            )

    @property
    def count(self) -> int:
        """Images in an epoch."""
        return len(self.faces)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Files that this process found it cannot use; those of a worker process come with its samples."""
        return tuple(self._unusable.values())

    def __getitem__(self, position: int) -> Sample:
        """The pair at a position of the stream, 0 or more.

        Raises:
            FolderError: No image of the set can be used.
        """
        passed_over: dict[Skipped, None] = {}
        for later in range(2 * self.count):  # holds one whole epoch, so every image
            index = self._image_at(position + later)
            face = self.faces[index]
            if index not in self._unusable:
                try:
                    pixels, side = self._read(face.path)
                except PhotoError as error:
                    self._unusable[index] = Skipped(face.path, str(error), is_problem=True)
                else:
                    random = np.random.default_rng([self.seed, _IMAGE, position])
                    return self._pair(pixels, face.boxes_at(self.size, side), random, tuple(passed_over))
            passed_over[self._unusable[index]] = None
        first = next(iter(self._unusable.values()))
        raise FolderError(f"None of the {self.count} images in {self.folder} can be used. The first: {first.reason}")

    def _image_at(self, position: int) -> int:
        """Which image stands at a position; each epoch has an order of its own."""
        epoch, place = divmod(position, self.count)
        if self._order[0] != epoch:
            random = np.random.default_rng([self.seed, _ORDER, epoch])
            self._order = (epoch, random.permutation(self.count))
        return int(self._order[1][place])

    def _read(self, path: Path) -> tuple[NDArray[Any], int]:
        """The image at the set's size, and the side it had.

        Raises:
            PhotoError: It is damaged, not square, or too small.
        """
        pixels = read_photo(path).pixels
        height, width = pixels.shape[:2]
        if height != width:
            raise PhotoError(f"{path} is {width} x {height} pixels, and an aligned face is square. Use `prepare`.")
        if height < self.size:
            raise PhotoError(
                f"{path} is {height} pixels a side, and the training is at {self.size}. Train with --size {height}."
            )
        if height > self.size:
            pixels = cv2.resize(pixels, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return pixels, height

    def _pair(
        self,
        pixels: NDArray[Any],
        boxes: Boxes,
        random: np.random.Generator,
        skipped: tuple[Skipped, ...],
    ) -> Sample:
        if random.random() < 0.5 and self.flip:
            pixels, boxes = np.ascontiguousarray(pixels[:, ::-1]), mirrored_boxes(boxes, self.size)
        if self.jitter > 0:
            pixels, boxes = jittered(pixels, boxes, self.jitter, random)
        known = boxes if self.boxes else unknown_boxes()
        if self.degradation is None:
            face = _tensor(pixels)
            return Sample(face, face, torch.from_numpy(known), skipped)
        levels = full_scale(pixels.dtype)
        gt = pixels.astype(np.float32) / np.float32(levels)
        degraded = degrade(gt, self.degradation, random)
        if self.degradation.gray_gt and "grey" in degraded.parameters:
            pixels = np.rint(gray_of(gt) * levels).astype(pixels.dtype)
        lq = np.rint(degraded.lq * 255).astype(np.uint8)
        return Sample(_tensor(lq), _tensor(pixels), torch.from_numpy(known), skipped)


def jittered(
    pixels: NDArray[Any], boxes: Boxes, jitter: float, random: np.random.Generator
) -> tuple[NDArray[Any], Boxes]:
    """A face aligned a little differently, as another detector would have: moved, turned, larger or smaller.

    Args:
        pixels: (S, S, 3).
        boxes: (3, 4) in its pixels.
        jitter: The most it moves in shares of S, changes in size as a factor, and turns in radians.
        random: Draws how far.

    Returns:
        Pixels of the same shape, mirrored beyond the old rims, and the boxes there: as upright as before.
    """
    shift_x, shift_y, growth, angle = random.uniform(-jitter, jitter, 4)
    side = len(pixels)
    scale = np.exp(growth)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.full(2, (side - 1) / 2)
    matrix = np.column_stack([turn, middle + side * np.array([shift_x, shift_y]) - turn @ middle])
    moved = cv2.warpAffine(pixels, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5  # edges -> pixel centers
    centers = centers @ matrix[:, :2].T + matrix[:, 2] + 0.5
    halves = (boxes[:, 2:] - boxes[:, :2]) / 2 * scale
    return np.asarray(moved), np.concatenate([centers - halves, centers + halves], axis=1).astype(np.float32)


def _tensor(pixels: NDArray[Any]) -> Tensor:
    return pixels_to_signed(pixels)[0].contiguous()  # (S, S, 3) -> (3, S, S)


def collate(samples: Sequence[Sample]) -> Sample:
    """A batch: lq and gt (B, 3, S, S), boxes (B, 3, 4)."""
    return Sample(
        torch.stack([sample.lq for sample in samples]),
        torch.stack([sample.gt for sample in samples]),
        torch.stack([sample.boxes for sample in samples]),
        tuple(dict.fromkeys(skipped for sample in samples for skipped in sample.skipped)),
    )


class StreamSampler(torch.utils.data.Sampler[int]):
    """Positions of the stream for one of several processes, without end.

    Together the processes see every position once: process `rank` of `world_size` gets start + rank, and from there
    every `world_size`-th. To resume, start at the number of positions that all processes together have used.

    Args:
        start: The first position of all.
        rank: This process.
        world_size: How many processes there are.
    """

    def __init__(self, start: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if not (start >= 0 and 0 <= rank < world_size):
            raise ValueError(f"no stream starts at {start} for process {rank} of {world_size}")
        self.start = start
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[int]:
        position = self.start + self.rank
        while True:
            yield position
            position += self.world_size


def single_threaded(_worker: int) -> None:
    """For `worker_init_fn` of a DataLoader: each worker is one thread, so that workers do not fight for the cores.

    A worker outlives the signals that stop a training: they often go to all processes of a group, and the first one
    needs its workers until its checkpoint is written. It ends its workers itself; one that was forgotten ends
    `SECONDS_TO_OUTLIVE` after the signal.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def list_faces(folder: Path, components: Path | None = None, *, want_boxes: bool = True) -> list[Face]:
    """The images of a training set in the natural order of their names, with what is known of each.

    Args:
        folder: The data, see the module.
        components: FFHQ's component or landmark file; None looks in the folder and beside it.
        want_boxes: Look for boxes at all.

    Raises:
        FolderError: The folder or a file of it cannot be read, or there are no images.
    """
    if not folder.is_dir():
        raise FolderError(f"{folder} is no folder. Name a folder of aligned faces with --data.")
    if (folder / INDEX_NAME).is_file():
        faces = [
            Face(folder / face.file, np.asarray(face.boxes, np.float32) / np.float32(face.size))
            for photo in read_index(folder)
            for face in photo.faces
        ]
    elif (folder / TABLE_NAME).is_file():
        faces = _faces_of_table(folder)
    else:
        numbered = known_boxes(folder, components) if want_boxes else {}
        faces = [Face(path, numbered.get(number_of(path))) for path in images_in(aligned_part(folder))]
    if not faces:
        raise FolderError(
            f"There are no images in {folder}. Name a folder of aligned faces, or make one of photos with: "
            "gfprestore prepare PHOTOS -o FOLDER."
        )
    return faces


def held_out(folder: Path) -> frozenset[str]:
    """Images that must not be trained on, by their paths in the folder: the split `test` of its `index.csv`.

    Raises:
        FolderError: The table cannot be read.
    """
    if not (folder / TABLE_NAME).is_file():
        return frozenset()
    return frozenset(row["file"] for row in table_rows(folder) if is_held_out(row))


def _faces_of_table(folder: Path) -> list[Face]:
    """Faces by an `index.csv`, those of the split `test` left out.

    Raises:
        FolderError: The table cannot be read or makes no sense.
    """
    rows = [row for row in table_rows(folder) if not is_held_out(row)]
    try:
        return [Face(folder / row["file"], None, _five_points(row.get("landmarks"))) for row in rows]
    except ValueError as error:
        raise table_error(folder, error) from error


def _five_points(text: str | None) -> NDArray[np.float64] | None:
    return np.array([float(number) for number in text.split()]).reshape(5, 2) if text else None


def _end_later(_number: int, _frame: FrameType | None) -> None:
    if hasattr(signal, "alarm"):  # not on Windows, where SIGTERM is never seen
        signal.alarm(SECONDS_TO_OUTLIVE)  # its default is to end the process
