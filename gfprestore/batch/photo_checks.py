"""What a run knows of a photo besides its pixels: their memory, whether the file changed meanwhile, and its errors."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from gfprestore.batch.source_state import SourceState
from gfprestore.errors import GfprestoreError, PhotoError
from gfprestore.photo.photo import Photo
from gfprestore.photo.reading import photo_size

log = logging.getLogger(__name__)


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


def error_message(error: Exception, source: Path) -> str:
    """Error message for one photo; the traceback of a bug goes to the log, visible with `--debug`."""
    if isinstance(error, GfprestoreError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{source} does not fit into memory. Close other programs, or lower --workers."
    log.debug("%s failed", source, exc_info=error)
    return (
        f"{source} could not be restored: {type(error).__name__}: {error}. This is a bug of gfprestore. "
        "Run it again with --debug and report the output."
    )
