"""A photo of a run from stage to stage: decoded, waiting for its faces, being encoded, written."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gfprestore.batch.results import PhotoResult
from gfprestore.batch.source_state import SourceState
from gfprestore.batch.task_list import PhotoTask
from gfprestore.photo.photo import Photo

if TYPE_CHECKING:
    from gfprestore.restoration.restoration import PreparedPhoto


@dataclass(frozen=True)
class DecodedPhoto:
    """A decoded photo or its first page, the state of its file at that time, and the seconds spent."""

    task: PhotoTask
    photo: Photo
    state: SourceState
    seconds: float


@dataclass(frozen=True)
class PendingPhoto:
    """A photo whose faces are waiting for a batch."""

    decoded: DecodedPhoto
    prepared: PreparedPhoto
    seconds: float
    rotated: int

    @property
    def task(self) -> PhotoTask:
        """The photo to restore."""
        return self.decoded.task

    @property
    def photo(self) -> Photo:
        """The photo as it was read."""
        return self.decoded.photo


@dataclass(frozen=True)
class WrittenPhoto:
    """Report of the encoder.

    Attributes:
        state: Hash, size and time of the file.
        seconds: Time spent.
        warnings: Metadata that the output format could not keep.
        problem: Error message if a preview could not be written.
    """

    state: SourceState
    seconds: float
    warnings: tuple[str, ...]
    problem: str | None


@dataclass(frozen=True)
class EncodingPhoto:
    """A result being written, and its report."""

    photo: PendingPhoto
    result: PhotoResult
    held_bytes: int
    written: Future[WrittenPhoto]
