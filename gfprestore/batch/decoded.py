"""Decode one photo of a run, with all checks that need no computing."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from gfprestore.batch.folders import PhotoTask
from gfprestore.batch.source_state import SourceState, read_source_state
from gfprestore.errors import PhotoError
from gfprestore.photo.photo import Photo
from gfprestore.photo.reading import photo_size, read_photo
from gfprestore.photo.writing import check_pages, check_size
from gfprestore.pixels import enlarged_size
from gfprestore.restoration.options import RunOptions


@dataclass(frozen=True)
class DecodedPhoto:
    """A decoded photo or its first page, the state of its file at that time, and the seconds spent."""

    task: PhotoTask
    photo: Photo
    state: SourceState
    seconds: float


def decode_photo(task: PhotoTask, options: RunOptions, upscale: float) -> DecodedPhoto:
    """Decode a photo, or the first of its pages, and check that its result fits into the output's format.

    Raises:
        PhotoError: The photo cannot be read or changed meanwhile, or its result could not be written.
    """
    started = time.monotonic()
    state = read_source_state(task.source)
    photo = read_photo(task.source, options.max_pixels, accept_truncated=options.accept_truncated, first_page=True)
    check_unchanged(task.source, state, photo)
    check_pages(task.output, photo)
    if not options.aligned:
        height, width = enlarged_size(photo.pixels.shape[0], photo.pixels.shape[1], upscale)
        check_size(task.output, width, height, photo)
    return DecodedPhoto(task, photo, state, time.monotonic() - started)


def decoded_bytes(path: Path) -> int:
    """Memory of a photo's pixels in bytes, from its header; 0 if it is unreadable, which decoding reports."""
    try:
        width, height = photo_size(path)
    except Exception:  # a malformed header must not end the run; decoding fails for that photo only
        return 0
    return 3 * width * height


def check_unchanged(source: Path, state: SourceState, photo: Photo) -> None:
    """Check that the decoded original is the one that was hashed for the journal.

    An original that was deleted after decoding is accepted.

    Raises:
        PhotoError: The file was changed after its hash was taken or while it was decoded.
    """
    times = photo.metadata.file_times
    changed = times is not None and times[1] != state.modified_ns
    with contextlib.suppress(OSError):
        status = source.stat()
        changed = changed or (status.st_size, status.st_mtime_ns) != (state.size, state.modified_ns)
    if changed:
        raise PhotoError(f"{source} changed while it was read. Run again when no other program is writing to it.")
