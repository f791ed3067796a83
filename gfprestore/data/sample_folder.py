"""Folders of faces drawn from a StyleGAN2 prior, as deepFRR begins (its faces are StyleGAN's, then retouched).

A set is a folder with `000000.png`, `000001.png`, ..., `index.csv` with the origin of each face, and `set.json` with
the options. Face number i of a seed is the same whatever the number of faces; see `sampled_faces`. A larger `count`
adds faces to a set.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from gfprestore._version import __version__
from gfprestore.batch.journal import Journal
from gfprestore.batch.output_folder import create_folder_within, prepare_output
from gfprestore.data.image_folders import TABLE_NAME, images_in
from gfprestore.data.images import Pixels, sha256_of, write_png
from gfprestore.data.pair_folders import check_description, read_description, worked_ahead, write_description
from gfprestore.data.sampled_faces import MEAN_SAMPLES, FacePrior
from gfprestore.errors import FolderError, PhotoError, UsageError
from gfprestore.files import append, write_whole
from gfprestore.pixels import resized
from gfprestore.tensors import signed_to_pixels
from gfprestore.weights.checkpoints import LoadedNetwork

log = logging.getLogger(__name__)

SMALLEST_SIDE = 16


@dataclass(frozen=True)
class SampleOptions:
    """Options of a set of faces.

    Attributes:
        count: Number of faces.
        seed: Random seed, 0 or more.
        truncation: Share of each style's distance from the mean style that is kept, 0 to 1; see `FacePrior`.
        size: Side of the images; None for the prior's own. Larger faces are averaged, smaller ones enlarged.
        batch_size: Maximum number of faces computed at once on a GPU; None chooses it. It changes no face on a CPU,
            where each is computed alone.

    Raises:
        UsageError: A value is out of range.
    """

    count: int
    seed: int
    truncation: float = 1.0
    size: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"--count must be 1 or more, not {self.count}.")
        if self.seed < 0:
            raise UsageError(f"--seed must be 0 or more, not {self.seed}.")
        if not (math.isfinite(self.truncation) and 0 <= self.truncation <= 1):
            raise UsageError(f"--truncation must be 0 to 1, not {self.truncation}.")
        if self.size is not None and self.size < SMALLEST_SIDE:
            raise UsageError(f"--size must be {SMALLEST_SIDE} or more, not {self.size}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"--batch-size must be 1 or more, not {self.batch_size}.")


@dataclass(frozen=True)
class SampleReport:
    """Result of `sample_folder`.

    Attributes:
        made: Number of faces that this run drew.
        done_before: Number of faces that an earlier run had drawn.
    """

    made: int
    done_before: int


@dataclass(frozen=True)
class SampledFace:
    """One face of a set; the fields are the columns of `index.csv`.

    Attributes:
        file: File name.
        index: Number of the face within the set, from 0.
        seed: Random seed of the set.
        truncation: Truncation of the set.
        weights_sha256: SHA-256 of the prior's file.
        sha256: SHA-256 of the image file.
    """

    file: str
    index: int
    seed: int
    truncation: float
    weights_sha256: str
    sha256: str


COLUMNS = tuple(field.name for field in fields(SampledFace))


def sample_folder(
    prior: LoadedNetwork,
    output: Path,
    options: SampleOptions,
    device: torch.device,
    on_progress: Callable[[int, int], None] | None = None,
    workers: int = 2,
) -> SampleReport:
    """Draw a set of faces; finished faces are kept, so that an interrupted run can be resumed.

    Args:
        prior: The prior, see `Opener.prior`.
        output: Folder of the set.
        options: Options of the set.
        device: Device to compute on.
        on_progress: Receives the number of finished faces and the total number.
        workers: Number of threads that write images.

    Raises:
        FolderError: The folder cannot be written, holds other images, or holds a set with other options.
        PhotoError: An image cannot be written.
        DeviceError: The memory is too small for a single face.
        WeightsDamagedError: The prior draws NaN or infinite values.
    """
    prepare_output(output)
    with Journal.open(output):  # as a lock: two runs must not write into one set
        _check_is_ours(output)
        description = check_description(output, _description(prior, options, device))
        known = {face.index: face for face in read_sampled_faces(output)}
        # Anew: an incomplete last line may hold an open quotation mark, which would swallow the next row.
        _write_table(output, known.values())
        wanted = range(options.count)
        missing = [index for index in wanted if not _is_whole(output, known.get(index))]
        done = len(wanted) - len(missing)
        if on_progress is not None and done:
            on_progress(done, len(wanted))
        if missing:
            painter = _Painter(FacePrior(prior, device, options.truncation, options.batch_size), output, options)
            with contextlib.closing(worked_ahead(painter.write, painter.drawn(missing), workers)) as faces:
                for number, face in enumerate(faces, start=done + 1):
                    known[face.index] = face
                    append(output / TABLE_NAME, _line(astuple(face)), b"\n")
                    if on_progress is not None:
                        on_progress(number, len(wanted))
        _write_table(output, sorted(known.values(), key=lambda face: face.index))
        write_description(output, {**description, "weights": prior.path.name, "count": len(known)})
    return SampleReport(len(missing), done)


def read_sampled_faces(folder: Path) -> list[SampledFace]:
    """Read the faces of a set from its `index.csv`; damaged rows are ignored.

    Raises:
        FolderError: The table cannot be read.
    """
    path = folder / TABLE_NAME
    if not path.is_file():
        return []
    try:
        rows = list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8", "replace"), newline="")))
    except (OSError, csv.Error) as error:
        raise FolderError(f"{path} cannot be read ({error}). Draw the faces into another folder.") from error
    faces: dict[int, SampledFace] = {}
    for row in rows[1:]:
        with contextlib.suppress(ValueError):
            file, index, seed, truncation, weights_sha256, sha256 = row
            face = SampledFace(file, int(index), int(seed), float(truncation), weights_sha256, sha256)
            faces[face.index] = face
    return list(faces.values())


@dataclass(frozen=True)
class _Painter:
    """Painter that draws faces and writes them as images."""

    prior: FacePrior
    output: Path
    options: SampleOptions

    def __post_init__(self) -> None:
        size = self.options.size
        if size is not None and size > self.prior.size:
            log.warning(f"The prior draws faces of {self.prior.size} pixels. They are enlarged to {size}.")

    def drawn(self, indices: list[int]) -> Iterator[tuple[int, Pixels]]:
        """Draw the faces with these numbers: number and pixels (S, S, 3) of each."""
        batch = self.prior.most_at_once
        for start in range(0, len(indices), batch):
            part = indices[start : start + batch]
            faces = self.prior.draw(self.options.seed, part)
            for index, face in zip(part, faces, strict=True):
                yield index, signed_to_pixels(face[None], np.dtype(np.uint8))

    def write(self, drawn: tuple[int, Pixels]) -> SampledFace:
        """Write a face at the size of the set.

        Raises:
            FolderError: The set is gone.
            PhotoError: The image cannot be written.
        """
        index, pixels = drawn
        size = self.options.size or self.prior.size
        if len(pixels) != size:
            pixels = resized(pixels, size, size)
        name = f"{index:06d}.png"
        create_folder_within(self.output, self.output)
        write_png(self.output / name, pixels)
        options, weights = self.options, self.prior.network.sha256
        return SampledFace(name, index, options.seed, options.truncation, weights, sha256_of(self.output / name))


def _check_is_ours(output: Path) -> None:
    """Check that the folder is a set or has no images.

    Raises:
        FolderError: It has images or a table, but no description.
    """
    if read_description(output) is None and ((output / TABLE_NAME).exists() or images_in(output)):
        raise FolderError(f"{output} holds images that this command did not create. Use another folder.")


def _is_whole(output: Path, face: SampledFace | None) -> bool:
    """Whether the file of a face is unchanged."""
    try:
        return face is not None and sha256_of(output / face.file) == face.sha256
    except PhotoError:
        return False


def _description(prior: LoadedNetwork, options: SampleOptions, device: torch.device) -> dict[str, Any]:
    """What `set.json` says about the options and the libraries of a set."""
    return {
        "made_by": "gfprestore sample",
        "gfprestore": __version__,
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "weights_sha256": prior.sha256,
        "device": device.type,
        "seed": options.seed,
        "truncation": options.truncation,
        "mean_samples": MEAN_SAMPLES,
        "size": options.size or prior.config.size,
    }


def _write_table(output: Path, faces: Iterable[SampledFace]) -> None:
    write_whole(output / TABLE_NAME, _line(COLUMNS) + b"".join(_line(astuple(face)) for face in faces))


def _line(values: Iterable[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode("utf-8")
