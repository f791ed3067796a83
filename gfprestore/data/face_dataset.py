"""Endless, reproducible stream of training pairs (GFP-GAN, section 4.1).

The position in the stream determines the pair: its epoch gives the order of the images, and (seed, position) the flip
and the degradation. The images therefore do not depend on the number of workers or processes, or on resuming.

A data folder is one of:

- a set made by `gfprestore prepare`, with its index;
- a folder of aligned faces with an `index.csv` (columns `file`, `landmarks` and `split`; the split `test` is skipped);
- any folder of aligned faces, flat or nested. FFHQ's component or landmark file may be in it or beside it.
"""

from __future__ import annotations

import signal
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from gfprestore.data.epoch_order import EpochOrder
from gfprestore.data.image_folders import (
    TABLE_NAME,
    images_in,
    is_held_out,
    nothing_usable,
    table_error,
    table_rows,
)
from gfprestore.data.images import square_face
from gfprestore.data.prepared_index import INDEX_NAME, read_index
from gfprestore.errors import FolderError, PhotoError
from gfprestore.photo.reading import read_photo
from gfprestore.pixels import nearest_levels
from gfprestore.tensors import full_scale, pixels_to_signed

WORKER_GRACE_SECONDS = 300
"""Time that a worker keeps running after SIGTERM, enough for a training step and a checkpoint."""

_ORDER, _SAMPLE = 0, 1  # purposes of random generators with the same seed


@dataclass(frozen=True)
class Sample:
    """One training pair, or a batch of pairs with an additional first dimension B.

    Attributes:
        lq: Low-quality image (3, S, S) float32 RGB in [-1, 1].
        gt: Ground truth (3, S, S) float32 RGB in [-1, 1].
        boxes: Left, top, right and bottom edges (3, 4) float32 in pixels, of the left eye, right eye and mouth as seen
            in the image; NaN if unknown.
        skipped: Unusable files that precede this pair in the stream.
        levels: Levels of the six retouching operations (6,) float32 in [0, 1], for retouched pairs whose levels are
            known.
        field: Backward field (2, s, s) float32 in pixels of the images, which moves the pixels of the lq back to their
            places in the gt; for retouched pairs whose geometry is known.
        mask: Damage (1, S, S) float32, 1 where the lq is damaged; for damaged prints.
    """

    lq: Tensor
    gt: Tensor
    boxes: Tensor
    skipped: tuple[Skipped, ...] = ()
    levels: Tensor | None = None
    field: Tensor | None = None
    mask: Tensor | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> Sample:
        """Copy the pair to another device."""
        return self._changed(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Sample:
        """Copy the pair to pinned memory; a DataLoader calls this method."""
        return self._changed(Tensor.pin_memory)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Sample:
        lq, gt, boxes = change(self.lq), change(self.gt), change(self.boxes)
        optional = (self.levels, self.field, self.mask)
        return Sample(lq, gt, boxes, self.skipped, *(None if part is None else change(part) for part in optional))


@dataclass(frozen=True)
class Face:
    """A face image of the data folder.

    Attributes:
        path: Path of the image, one aligned, square face.
        boxes: Component boxes (3, 4), relative to the side; None if unknown.
        landmarks: Landmarks (5, 2) in pixels; None if unknown.
    """

    path: Path
    boxes: Boxes | None = None
    landmarks: NDArray[np.float64] | None = None

    @property
    def has_boxes(self) -> bool:
        """Whether the boxes are known."""
        return self.boxes is not None or self.landmarks is not None

    def boxes_at(self, size: int, side: int) -> Boxes:
        """Boxes (3, 4) after the image has been resized from `side` to `size` pixels."""
        if self.boxes is not None:
            return np.asarray(self.boxes * np.float32(size), np.float32)
        if self.landmarks is not None:
            return np.asarray(boxes_from_five(self.landmarks, side) * np.float32(size / side))
        return unknown_boxes()


class SampleStream(torch.utils.data.Dataset[Sample]):
    """Samples by their position in an endless stream of shuffled epochs.

    An item that cannot be used is skipped, and the next item of the stream is used instead.

    Args:
        folder: Data folder.
        paths: Path of each item, for messages.
        seed: Random seed of order and samples.
    """

    items = "images"
    """What the folder holds, for messages."""

    def __init__(self, folder: Path, paths: Sequence[Path], seed: int) -> None:
        self.folder = folder
        self.paths = paths
        self.seed = seed
        self._unusable: dict[int, Skipped] = {}
        self._order = EpochOrder(seed, _ORDER, len(paths))

    @property
    def count(self) -> int:
        """Number of items per epoch."""
        return len(self.paths)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Unusable files that this process has found; worker processes report theirs with the samples."""
        return tuple(self._unusable.values())

    def __getitem__(self, position: int) -> Sample:
        """The sample at a position of the stream, 0 or more.

        Raises:
            FolderError: No item of the folder can be used.
        """
        skipped: dict[Skipped, None] = {}
        for offset in range(2 * self.count):  # contains a complete epoch, so every item
            index = self._order.index_at(position + offset)
            if index not in self._unusable:
                random = np.random.default_rng([self.seed, _SAMPLE, position])
                try:
                    return self._sample(index, random, tuple(skipped))
                except PhotoError as error:
                    self._unusable[index] = Skipped(self.paths[index], str(error), is_problem=True)
            skipped[self._unusable[index]] = None
        raise nothing_usable(self.folder, self.count, self.items, self._unusable.values())

    @abstractmethod
    def _sample(self, index: int, random: np.random.Generator, skipped: tuple[Skipped, ...]) -> Sample:
        """A sample made from an item.

        Raises:
            PhotoError: The item cannot be used.
        """


class FaceDataset(SampleStream):
    """Training pairs by their position in the endless stream.

    An image that is damaged, not square or smaller than `size` is skipped, and the next image of the stream is used
    instead.

    Args:
        folder: Data folder, see the module.
        size: Side of the images; larger images are downscaled.
        degradation: Degradation that computes the lq; with None the lq is the gt.
        seed: Random seed of order, flips and degradations.
        flip: Whether to mirror images at random.
        boxes: Whether component boxes are needed; if not, all boxes are NaN.
        components: FFHQ's component or landmark file; None searches the folder and its parent.
        jitter: Maximum random shift relative to the side, change of the size, and rotation in radians.
        found: Boxes (3, 4), relative to the side, of images whose boxes are unknown otherwise.

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
        found: Mapping[Path, Boxes] | None = None,
    ) -> None:
        self.size = size
        self.degradation = degradation
        self.flip = flip
        self.jitter = jitter
        self.boxes = boxes
        self.faces = list_faces(folder, components if boxes else None, want_boxes=boxes)
        if found:
            self.faces = [face if face.has_boxes else replace(face, boxes=found.get(face.path)) for face in self.faces]
        super().__init__(folder, [face.path for face in self.faces], seed)
        if boxes and not any(face.has_boxes for face in self.faces):
            raise FolderError(
                f"The component losses need boxes of eyes and mouths, which are missing in {folder}. Create the set "
                f"with `gfprestore prepare`, put FFHQ's {COMPONENT_FILE} into the folder, or train with "
                "`--without components`."
            )

    def _sample(self, index: int, random: np.random.Generator, skipped: tuple[Skipped, ...]) -> Sample:
        face = self.faces[index]
        pixels, side = self._read(face.path)
        return self._pair(pixels, face.boxes_at(self.size, side), random, skipped)

    def _read(self, path: Path) -> tuple[NDArray[Any], int]:
        """Read an image and downscale it; also return its original side.

        Raises:
            PhotoError: The image is damaged, not square, or too small.
        """
        pixels = read_photo(path).pixels
        return square_face(path, pixels, self.size, "the training is at"), len(pixels)

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
            pixels = nearest_levels(gray_of(gt) * levels, pixels.dtype)
        lq = nearest_levels(degraded.lq * 255, np.uint8)
        return Sample(_tensor(lq), _tensor(pixels), torch.from_numpy(known), skipped)


def jittered(
    pixels: NDArray[Any], boxes: Boxes, jitter: float, random: np.random.Generator
) -> tuple[NDArray[Any], Boxes]:
    """Change the alignment of a face at random, as another detector would: shift, rotate and scale it.

    Args:
        pixels: Aligned face (S, S, 3).
        boxes: Component boxes (3, 4) in pixels.
        jitter: Maximum shift relative to S, change of the size, and rotation in radians.
        random: Random generator.

    Returns:
        Pixels of the same shape, filled by reflection at the borders, and the boxes, which stay axis-aligned.
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
    """Stack samples to a batch: each tensor with an additional first dimension B."""
    return Sample(
        torch.stack([sample.lq for sample in samples]),
        torch.stack([sample.gt for sample in samples]),
        torch.stack([sample.boxes for sample in samples]),
        tuple(dict.fromkeys(skipped for sample in samples for skipped in sample.skipped)),
        _stacked([sample.levels for sample in samples]),
        _stacked([sample.field for sample in samples]),
        _stacked([sample.mask for sample in samples]),
    )


def _stacked(tensors: Sequence[Tensor | None]) -> Tensor | None:
    known = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(known) if len(known) == len(tensors) else None


class StreamSampler(torch.utils.data.Sampler[int]):
    """Endless positions of the stream for one of several processes.

    Together the processes see every position once: process `rank` gets start + rank, and from there every
    `world_size`-th position. To resume, start at the number of positions that all processes together have used.

    Args:
        start: First position of all processes.
        rank: Number of this process.
        world_size: Number of processes.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, start: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if not (start >= 0 and 0 <= rank < world_size):
            raise ValueError(f"invalid stream: start {start}, process {rank} of {world_size}")
        self.start = start
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[int]:
        position = self.start + self.rank
        while True:
            yield position
            position += self.world_size


def single_threaded(_worker: int) -> None:
    """Restrict a DataLoader worker to one thread, so that the workers do not compete for cores.

    This is a `worker_init_fn`. It also makes the worker survive the signals that stop a training. Such signals often
    reach all processes of a group, but the main process needs its workers until the checkpoint is written, and then
    ends them itself. An orphaned worker ends `WORKER_GRACE_SECONDS` after the signal.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def list_faces(folder: Path, components: Path | None = None, *, want_boxes: bool = True) -> list[Face]:
    """List the images of a training set in natural order, with their known boxes or landmarks.

    Args:
        folder: Data folder, see the module.
        components: FFHQ's component or landmark file; None searches the folder and its parent.
        want_boxes: Whether to look for boxes.

    Raises:
        FolderError: The folder or a file in it cannot be read, or there are no images.
    """
    if not folder.is_dir():
        raise FolderError(f"{folder} is not a folder. Use a folder of aligned faces with --data.")
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
            f"There are no images in {folder}. Use a folder of aligned faces, or run "
            "`gfprestore prepare PHOTOS -o FOLDER` to create one from photos."
        )
    return faces


def held_out(folder: Path) -> frozenset[str]:
    """Images of the split `test` in `index.csv`, by their paths within the folder; they are never trained on.

    Raises:
        FolderError: The table cannot be read.
    """
    if not (folder / TABLE_NAME).is_file():
        return frozenset()
    return frozenset(row["file"] for row in table_rows(folder) if is_held_out(row))


def _faces_of_table(folder: Path) -> list[Face]:
    """List the faces of an `index.csv` without those of the split `test`.

    Raises:
        FolderError: The table cannot be read or is invalid.
    """
    rows = [row for row in table_rows(folder) if not is_held_out(row)]
    try:
        return [Face(folder / row["file"], None, _five_points(row.get("landmarks"))) for row in rows]
    except ValueError as error:
        raise table_error(folder, error) from error


def _five_points(text: str | None) -> NDArray[np.float64] | None:
    return np.array([float(number) for number in text.split()]).reshape(5, 2) if text else None


def _end_later(_number: int, _frame: FrameType | None) -> None:
    if hasattr(signal, "alarm"):  # not on Windows, which never sends SIGTERM
        signal.alarm(WORKER_GRACE_SECONDS)  # by default SIGALRM ends the process
