"""Images of the rows: faces reversed by a network, enlarged, pasted back, and untouched faces as inputs.

A network is given the crop at 256 pixels. Its result is scored unchanged as a crop, and pasted back into the photo with
the masks of `run`. Nothing matches its brightness to the input's, which would bring the whitening back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gfprestore.data.images import Pixels, read_pixels, sha256_of
from gfprestore.data.retouching_levels import OPERATIONS, Levels
from gfprestore.device import face_seed
from gfprestore.errors import FaceError
from gfprestore.evaluation.metrics.psnr_ssim import HIGHEST_PSNR, psnr
from gfprestore.evaluation.reversal.crops import SMALL, Pair, found_crop, small
from gfprestore.evaluation.reversal.kept import Kept, key_of
from gfprestore.faces.alignment import FaceCrop
from gfprestore.faces.detection import Detector
from gfprestore.faces.pasting import face_mask, paste_face
from gfprestore.pixels import resized
from gfprestore.restoration.frrffusion import changed_places
from gfprestore.tensors import pixels_to_signed, signed_to_pixels

AT_256, AT_1024, IN_PHOTO = "at-256", "at-1024", "photo-256"
SEED = 0
VERSION = 3  # of what is written here, part of the keys

Progress = Callable[[int], None]


class ReversedFaces(Protocol):
    """One batch of reversed faces."""

    @property
    def levels(self) -> Tensor:
        """(B, 6) in [0, 1], what the reversal took as the levels."""

    @property
    def untouched(self) -> Tensor:
        """(B,) bool: passed through unchanged."""

    @property
    def at_256(self) -> Tensor:
        """(B, 3, 256, 256) in [-1, 1], result of the first stage."""

    @property
    def at_1024(self) -> Tensor | None:
        """(B, 3, 1024, 1024) in [-1, 1], result of both stages; None without the second."""


class Reverser(Protocol):
    """A network of face retouching reversal."""

    @property
    def name(self) -> str:
        """Name in reports."""

    def reverse(self, crops: Tensor, seeds: Sequence[int] | None = None, levels: Tensor | None = None) -> ReversedFaces:
        """Reverse crops (B, 3, 256, 256) in [-1, 1].

        Args:
            crops: Aligned retouched faces.
            seeds: One random seed per face.
            levels: (B, 6) in [0, 1], used as they are, without the gate for untouched faces; None estimates them.
        """

    def enlarge(self, faces: Tensor) -> Tensor:
        """Enlarge faces (B, 3, 256, 256) to (B, 3, 1024, 1024) with the second stage alone."""


@dataclass(frozen=True)
class Network:
    """A network in the table.

    Attributes:
        label: Name in tables.
        reverser: The network.
        key: What identifies its weights and settings.
        has_second_stage: It enlarges to 1024.
        takes_levels: It reads levels; otherwise it has no row with given ones.
        size: Side of its input in pixels.
    """

    label: str
    reverser: Reverser
    key: str
    has_second_stage: bool
    takes_levels: bool = True
    size: int = SMALL


@dataclass
class Row:
    """Images of one method by name, for each frame of the comparison, and what is known of each face.

    Attributes:
        small: Crops at 256 pixels.
        large: Crops at 1024 pixels.
        photo: Photos at 256 pixels wide.
        untouched: Whether the face was passed through unchanged.
        levels: The levels that the reversal took, 0 to 1.
        failed: Errors.
    """

    small: dict[str, Path] = field(default_factory=dict)
    large: dict[str, Path] = field(default_factory=dict)
    photo: dict[str, Path] = field(default_factory=dict)
    untouched: dict[str, bool] = field(default_factory=dict)
    levels: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What every step needs.

    Attributes:
        root: Output folder of the evaluation, which exists.
        batch_size: Faces per batch.
        on_progress: Called with the number of finished faces of the step.
    """

    root: Path
    batch_size: int
    on_progress: Progress


def levels_tensor(levels: Sequence[Levels]) -> Tensor:
    """Levels 0 to 100 as (B, 6) in [0, 1]."""
    return torch.tensor([[getattr(one, name) / 100 for name in OPERATIONS] for one in levels])


def reversed_row(network: Network, pairs: Sequence[Pair], work: Work, *, with_levels: bool) -> Row:
    """Reverse the retouched crops of all pairs and paste the results into their photos.

    Args:
        network: The network.
        pairs: The pairs; those without known levels are left out if `with_levels`.
        work: Output folder, batch size and progress.
        with_levels: Give the true levels instead of letting the network estimate them.

    Raises:
        FolderError: The output folder cannot be written.
        DeviceError: The memory is too small for one face.
        UsageError: The network takes no levels.
    """
    kept = Kept(work.root / "rows" / f"{network.key[:16]}-{'given' if with_levels else 'estimated'}", work.root)
    used = [pair for pair in pairs if pair.case.levels is not None or not with_levels]
    row = Row()

    def key(pair: Pair) -> str:
        levels = str(pair.case.levels) if with_levels else None
        return key_of("reverse", VERSION, network.key, levels, sha256_of(pair.lq_small), sha256_of(pair.case.lq))

    def compute(batch: list[Pair]) -> None:
        crops = _batch([pair.lq_small for pair in batch], network.size)
        known = [pair.case.levels for pair in batch if pair.case.levels is not None]
        given = levels_tensor(known) if with_levels else None
        result = network.reverser.reverse(crops, _seeds(batch), given)
        for index, pair in enumerate(batch):
            _keep(kept, pair, key(pair), result, index, row)

    _in_batches(used, lambda pair: kept.is_done(pair.name, key(pair)), compute, work)
    _collect(row, used, kept)
    return row


def ceiling_row(network: Network, pairs: Sequence[Pair], work: Work) -> Row:
    """Enlarge the original crops at 256 pixels with the second stage alone: the best that any first stage allows.

    Raises:
        FolderError: The output folder cannot be written.
        DeviceError: The memory is too small for one face.
    """
    kept = Kept(work.root / "rows" / f"{network.key[:16]}-ceiling", work.root)

    def key(pair: Pair) -> str:
        return key_of("enlarge", VERSION, network.key, sha256_of(pair.gt_small))

    def compute(batch: list[Pair]) -> None:
        faces = network.reverser.enlarge(_batch([pair.gt_small for pair in batch], network.size))
        for pair, face in zip(batch, faces, strict=True):
            kept.put(pair.name, key(pair), {AT_1024: _pixels(face)})

    _in_batches(pairs, lambda pair: kept.is_done(pair.name, key(pair)), compute, work)
    return Row(large={pair.name: kept.path(AT_1024, pair.name) for pair in pairs if kept.parts(pair.name)})


def bicubic_row(pairs: Sequence[Pair], work: Work) -> Row:
    """Enlarge the original crops at 256 pixels bicubically to their own size.

    Raises:
        FolderError: The output folder cannot be written.
    """
    kept = Kept(work.root / "rows" / "bicubic", work.root)
    row = Row()
    for number, pair in enumerate(pairs, 1):
        key = key_of("bicubic", VERSION, pair.side, sha256_of(pair.gt_small))
        if not kept.is_done(pair.name, key):
            enlarged = resized(read_pixels(pair.gt_small).pixels, pair.side, pair.side)
            kept.put(pair.name, key, {AT_1024: np.asarray(enlarged, np.uint8)})
        row.large[pair.name] = kept.path(AT_1024, pair.name)
        work.on_progress(number)
    return row


@dataclass(frozen=True)
class UntouchedFace:
    """An original that was given to the network as if it were retouched.

    Attributes:
        psnr: Of the result against the original, in dB, at most 60.
        passed: It was passed through unchanged.
    """

    psnr: float
    passed: bool


def untouched_faces(
    network: Network, pairs: Sequence[Pair], detector: Detector | None, work: Work
) -> tuple[dict[str, UntouchedFace], dict[str, str]]:
    """Give the originals to the network, with estimated levels.

    Where the photos arrive unaligned, the face is found on the original and the result is pasted back and compared in
    the photo at 256 pixels wide; otherwise the crops at 256 pixels are compared.

    Returns:
        Results by name, and errors by name.

    Raises:
        FolderError: The output folder cannot be written.
        DeviceError: The memory is too small for one face.
    """
    kept = Kept(work.root / "rows" / f"{network.key[:16]}-untouched", work.root)
    failed: dict[str, str] = {}

    def key(pair: Pair) -> str:
        found = None if detector is None else detector.name
        return key_of("untouched", VERSION, network.key, found, sha256_of(pair.case.gt))

    def compute(batch: list[Pair]) -> None:
        crops: list[tuple[Pair, FaceCrop | None, Pixels]] = []
        for pair in batch:
            try:
                crops.append((pair, *_untouched_crop(pair, detector)))
            except FaceError as error:
                failed[pair.name] = str(error)
        if not crops:
            return
        inputs = torch.cat([_input(pixels, network.size) for _, _, pixels in crops])
        result = network.reverser.reverse(inputs, _seeds([pair for pair, _, _ in crops]), None)
        for index, (pair, crop, pixels) in enumerate(crops):
            passed = bool(result.untouched[index])
            face = _finest(result, index)
            if crop is None:
                image, expected = pixels if passed else small(_pixels(result.at_256[index])), pixels
            else:
                photo = read_pixels(pair.case.gt).pixels
                expected = small(photo)
                image = expected if passed else small(_pasted(photo, _pixels(face), crop))
            score = min(psnr(image, expected), HIGHEST_PSNR)
            kept.put(pair.name, key(pair), {IN_PHOTO: image}, {"psnr": score, "passed": passed})

    _in_batches(pairs, lambda pair: kept.is_done(pair.name, key(pair)), compute, work)
    found = {}
    for pair in pairs:
        data = kept.data(pair.name)
        if data and pair.name not in failed:
            found[pair.name] = UntouchedFace(float(data["psnr"]), bool(data["passed"]))
    return found, failed


def paste_small(pair: Pair, face: Pixels) -> Pixels:
    """Paste a crop (T, T, 3) into the retouched photo of a pair; returns the photo at 256 pixels wide."""
    assert pair.photo_to_crop is not None
    crop = FaceCrop(read_pixels(pair.lq).pixels, pair.photo_to_crop)
    return small(_pasted(read_pixels(pair.case.lq).pixels, face, crop))


def _untouched_crop(pair: Pair, detector: Detector | None) -> tuple[FaceCrop | None, Pixels]:
    """The crop of an original and its pixels at 256; no crop where it is aligned already."""
    if detector is None or pair.photo_to_crop is None:
        return None, read_pixels(pair.gt_small).pixels
    photo = read_pixels(pair.case.gt).pixels
    crop = found_crop(photo, detector, min(photo.shape[:2]), pair.case.gt)
    return crop, small(np.asarray(crop.pixels, np.uint8))


def _pasted(photo: Pixels, face: Pixels, crop: FaceCrop) -> Pixels:
    canvas: Pixels = photo.copy()
    size = len(crop.pixels)
    changed = changed_places(pixels_to_signed(crop.pixels), pixels_to_signed(resized(face, size, size)), len(face))
    paste_face(canvas, face, crop, 1.0, np.maximum(face_mask(len(face)), changed[0].numpy()), 1.0)
    return canvas


def _keep(kept: Kept, pair: Pair, key: str, result: ReversedFaces, index: int, row: Row) -> None:
    """Write one face of a batch."""
    face = result.at_256[index]
    large = None if result.at_1024 is None else result.at_1024[index]
    if not all(bool(part.isfinite().all()) for part in (face, large) if part is not None):
        row.failed[pair.name] = "The network produced NaN or infinite values for this face."
        return
    passed = bool(result.untouched[index])
    images = {AT_256: _pixels(face)}
    if large is not None:
        images[AT_1024] = read_pixels(pair.lq).pixels if passed else _pixels(large)
    if pair.lq_photo is not None:
        pasted = read_pixels(pair.lq_photo).pixels if passed else paste_small(pair, _pixels(_finest(result, index)))
        images[IN_PHOTO] = pasted
    levels = [round(float(level), 6) for level in result.levels[index]]
    kept.put(pair.name, key, images, {"levels": levels, "untouched": passed})


def _collect(row: Row, pairs: Sequence[Pair], kept: Kept) -> None:
    for pair in pairs:
        if pair.name in row.failed:
            continue
        parts, data = kept.parts(pair.name), kept.data(pair.name)
        for part, images in ((AT_256, row.small), (AT_1024, row.large), (IN_PHOTO, row.photo)):
            if part in parts:
                images[pair.name] = kept.path(part, pair.name)
        if parts:
            row.untouched[pair.name], row.levels[pair.name] = data["untouched"], data["levels"]


def _in_batches(
    pairs: Sequence[Pair], is_done: Callable[[Pair], bool], compute: Callable[[list[Pair]], None], work: Work
) -> None:
    waiting: list[Pair] = []
    for number, pair in enumerate(pairs, 1):
        if not is_done(pair):
            waiting.append(pair)
        if waiting and (len(waiting) >= work.batch_size or number == len(pairs)):
            compute(waiting)
            waiting = []
        work.on_progress(number)


def _batch(paths: Sequence[Path], size: int) -> Tensor:
    return torch.cat([_input(read_pixels(path).pixels, size) for path in paths])  # (B, 3, size, size)


def _input(pixels: Pixels, size: int) -> Tensor:
    """Input (1, 3, size, size) in [-1, 1] of a network from a crop at 256 pixels."""
    return pixels_to_signed(pixels if len(pixels) == size else resized(pixels, size, size))


def _seeds(pairs: Sequence[Pair]) -> list[int]:
    return [face_seed(SEED, pair.name, 0) for pair in pairs]


def _finest(result: ReversedFaces, index: int) -> Tensor:
    return result.at_256[index] if result.at_1024 is None else result.at_1024[index]


def _pixels(face: Tensor) -> Pixels:
    return np.asarray(signed_to_pixels(face.unsqueeze(0), np.dtype(np.uint8)), np.uint8)
