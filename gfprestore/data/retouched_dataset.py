"""Endless, reproducible streams of training pairs for FRRffusion: retouched faces, and patches to enlarge.

As in `face_dataset`, the position in the stream determines the pair. A data folder is a set made by `gfprestore
retouch`, or has the authors' layout: `rawimage/N.png` is the original of `deimage/faceN.png`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gfprestore.batch.walk import Skipped
from gfprestore.data.component_boxes import unknown_boxes
from gfprestore.data.face_dataset import Sample, SampleStream, list_faces
from gfprestore.data.images import Pixels, read_pixels
from gfprestore.data.pair_folders import GT, LQ, image_path
from gfprestore.data.photo_variations import varied
from gfprestore.data.retouched_pairs import (
    ORIGINAL_FOLDER,
    PAIRS_NAME,
    RETOUCHED_FOLDER,
    RetouchedPair,
    read_frr_pairs,
    read_retouched_pairs,
)
from gfprestore.errors import FolderError, PhotoError
from gfprestore.pixels import resized
from gfprestore.tensors import pixels_to_signed

ENLARGEMENT = 4
"""Output pixels per input pixel of HFDG along a side."""


@dataclass(frozen=True)
class PairFiles:
    """A retouched face and its original.

    Attributes:
        name: Name for messages.
        lq: Path of the retouched image.
        gt: Path of the original.
        known: What was done; None if unknown, as in the authors' layout.
    """

    name: str
    lq: Path
    gt: Path
    known: RetouchedPair | None = None


def list_pairs(folder: Path) -> list[PairFiles]:
    """List the pairs of a data folder, see the module; see `images_without_partner` for the images left out.

    Raises:
        FolderError: The folder is not a set of pairs, cannot be read, or has no pairs.
    """
    if (folder / PAIRS_NAME).is_file():
        known = sorted(read_retouched_pairs(folder), key=lambda pair: pair.name)
        pairs = [
            PairFiles(pair.name, image_path(folder, LQ, pair.name), image_path(folder, GT, pair.name), pair)
            for pair in known
        ]
    elif (folder / RETOUCHED_FOLDER).is_dir() or (folder / ORIGINAL_FOLDER).is_dir():
        pairs = [PairFiles(pair.name, pair.retouched, pair.original) for pair in read_frr_pairs(folder)[0]]
    else:
        raise FolderError(
            f"{folder} is not a set of retouched faces: it has neither a {PAIRS_NAME} nor the folders "
            f"{RETOUCHED_FOLDER} and {ORIGINAL_FOLDER}. Create one with `gfprestore retouch FACES -o {folder}`."
        )
    if not pairs:
        raise FolderError(f"{folder} has no pairs. Create them with `gfprestore retouch FACES -o {folder}`.")
    return pairs


def is_pair_set(folder: Path) -> bool:
    """Whether a folder is meant as a set of pairs, of either layout."""
    return any((folder / part).exists() for part in (PAIRS_NAME, RETOUCHED_FOLDER, ORIGINAL_FOLDER))


def images_without_partner(folder: Path) -> list[Skipped]:
    """Images in the authors' layout that belong to no pair; empty for a set of `gfprestore retouch`.

    Raises:
        FolderError: The folder cannot be read, or has no pairs.
    """
    if (folder / PAIRS_NAME).is_file() or not (folder / RETOUCHED_FOLDER).is_dir():
        return []
    return read_frr_pairs(folder)[1]


class RetouchedDataset(SampleStream):
    """Pairs of a retouched face (lq) and its original (gt), with levels and field where they are known.

    Args:
        folder: Data folder, see the module.
        size: Side of the images; larger ones are downscaled.
        field_size: Side of the grid of the fields; None leaves the fields out.
        seed: Random seed of order and flips.
        needs_levels: Whether pairs with unknown levels are an error.
        vary: Vary the lq at random, see `photo_variations`. It then does not match the gt and the field any more.

    Raises:
        FolderError: The folder cannot be used, or the levels that are needed are unknown.
    """

    items = "pairs"

    def __init__(
        self,
        folder: Path,
        size: int,
        field_size: int | None,
        seed: int,
        *,
        needs_levels: bool,
        vary: bool = False,
    ) -> None:
        self.vary = vary
        self.pairs = list_pairs(folder)
        self.size = size
        self.field_size = field_size
        if needs_levels and self.pairs[0].known is None:
            raise FolderError(
                f"The levels of retouching of the pairs in {folder} are unknown, but the preset trains with them. Use "
                "a set made by `gfprestore retouch`, or the preset frrffusion."
            )
        super().__init__(folder, [pair.lq for pair in self.pairs], seed)

    def _sample(self, index: int, random: np.random.Generator, skipped: tuple[Skipped, ...]) -> Sample:
        pair = self.pairs[index]
        lq, gt = read_pair(pair, self.size)
        levels = field = None
        if pair.known is not None:
            levels = np.array(pair.known.levels.shares, np.float32)
            if self.field_size is not None:
                field = pair.known.field(self.field_size) * np.float32(self.size / self.field_size)
        if random.random() < 0.5:
            lq, gt = lq[:, ::-1], gt[:, ::-1]
            if field is not None:
                field = field[:, ::-1] * np.array([-1, 1], np.float32)
        return Sample(
            _tensor(varied(lq, random) if self.vary else lq),
            _tensor(gt),
            torch.from_numpy(unknown_boxes()),
            skipped,
            None if levels is None else torch.from_numpy(levels),
            None if field is None else torch.from_numpy(np.ascontiguousarray(field.transpose(2, 0, 1))),
        )


class EnlargementDataset(SampleStream):
    """Patches for HFDG: the lq has a quarter of the gt's side.

    The lq is the reduced gt with a little noise or, for a share of the patches, what the first stage makes of the
    retouched face, so that the second stage sees the errors that it will get.

    Args:
        folder: A set of pairs, or a folder of aligned faces.
        size: Side of the gt patches.
        seed: Random seed.
        reversed_faces: For some names of pairs, the file with the first stage's result, a quarter of the gt's side.
        reversed_share: Share of the patches whose lq is such a result, where there is one.
        noise: Maximum standard deviation of the noise, relative to white.

    Raises:
        FolderError: The folder cannot be used.
    """

    items = "pairs"

    def __init__(
        self,
        folder: Path,
        size: int,
        seed: int,
        *,
        reversed_faces: dict[str, Path] | None = None,
        reversed_share: float = 0.5,
        noise: float = 0.02,
    ) -> None:
        self.faces = faces_to_enlarge(folder)
        self.size = size
        self.reversed_faces = reversed_faces or {}
        self.reversed_share = reversed_share
        self.noise = noise
        super().__init__(folder, [path for _, path in self.faces], seed)

    def _sample(self, index: int, random: np.random.Generator, skipped: tuple[Skipped, ...]) -> Sample:
        name, path = self.faces[index]
        gt = square_pixels(path)
        side = len(gt)
        if side < self.size or side % ENLARGEMENT:
            raise PhotoError(
                f"{path} has {side} pixels a side; it must be a multiple of {ENLARGEMENT}, and {self.size} or more."
            )
        top, left = random.integers(0, (side - self.size) // ENLARGEMENT + 1, 2)
        rows, columns = (slice(start * ENLARGEMENT, start * ENLARGEMENT + self.size) for start in (top, left))
        gt = gt[rows, columns]
        inner = self.size // ENLARGEMENT
        reversed_path = self.reversed_faces.get(name) if random.random() < self.reversed_share else None
        if reversed_path is None:
            lq = resized(gt, inner, inner)
            noise = random.normal(0, random.uniform(0, self.noise) * 255, lq.shape)
            lq = np.clip(np.rint(lq + noise), 0, 255).astype(np.uint8)
        else:
            whole = square_pixels(reversed_path)
            if len(whole) * ENLARGEMENT != side:
                raise PhotoError(f"{reversed_path} has {len(whole)} pixels a side, not a quarter of {path}'s {side}.")
            lq = whole[top : top + inner, left : left + inner]
        turns, is_mirrored = int(random.integers(0, 4)), random.random() < 0.5
        lq, gt = (np.rot90(image[:, ::-1] if is_mirrored else image, turns) for image in (lq, gt))
        return Sample(_tensor(lq), _tensor(gt), torch.from_numpy(unknown_boxes()), skipped)


def faces_to_enlarge(folder: Path) -> list[tuple[str, Path]]:
    """The sharp faces of a data folder, by the names of their pairs; a set of pairs has one for each pair.

    Raises:
        FolderError: The folder cannot be used.
    """
    if is_pair_set(folder):
        return [(pair.name, pair.gt) for pair in list_pairs(folder)]
    return [(str(face.path), face.path) for face in list_faces(folder, want_boxes=False)]


def read_pair(pair: PairFiles, size: int) -> tuple[Pixels, Pixels]:
    """The retouched face and the original, each (S, S, 3) uint8 RGB with S = `size`.

    Raises:
        PhotoError: An image cannot be read, is not square or too small, or the two differ in size.
    """
    lq, gt = read_matching(pair)
    if len(lq) < size:
        raise PhotoError(f"{pair.lq} has {len(lq)} pixels a side, but the training is at {size}. Use --size {len(lq)}.")
    return (lq, gt) if len(lq) == size else (resized(lq, size, size), resized(gt, size, size))


def read_matching(pair: PairFiles) -> tuple[Pixels, Pixels]:
    """The retouched face and the original, each (S, S, 3) uint8 RGB at their own size.

    Raises:
        PhotoError: An image cannot be read or is not square, or the two differ in size.
    """
    lq, gt = square_pixels(pair.lq), square_pixels(pair.gt)
    if lq.shape != gt.shape:
        raise PhotoError(
            f"{pair.lq} has {len(lq)} pixels a side, but its original {pair.gt} has {len(gt)}. Create the pair again."
        )
    return lq, gt


def square_pixels(path: Path) -> Pixels:
    """A square image as 8-bit RGB.

    Raises:
        PhotoError: It cannot be read or is not square.
    """
    pixels = read_pixels(path).pixels
    if pixels.shape[0] != pixels.shape[1]:
        raise PhotoError(f"{path} is {pixels.shape[1]} x {pixels.shape[0]} pixels, but an aligned face is square.")
    return pixels


def _tensor(pixels: NDArray[Any]) -> torch.Tensor:
    return pixels_to_signed(pixels)[0].contiguous()  # (S, S, 3) -> (3, S, S)
