"""Standard output and standard error that may be closed or full without ending a run.

A run writes photos for hours; that a record or a message cannot be printed must not stop it. The first failure of a
stream is remembered, later output to it is discarded, and the command line says so at its end. Imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class LenientStream:
    """A text stream that remembers its first error instead of raising it.

    Args:
        stream: The stream; None if it was closed before the program started.

    Attributes:
        failure: Why text could not be written, in the operating system's words; None if all was written.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.failure: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, or discard it if the stream failed before."""
        if self._stream is None:
            self.failure = "it is closed"
        elif self.failure is None:
            try:
                return self._stream.write(text)
            except (OSError, ValueError) as error:
                self._fail(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, unless it failed before."""
        if self._stream is not None and self.failure is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._fail(error)

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """The stream's file descriptor.

        Raises:
            OSError: It has none.
        """
        if self._stream is None:
            raise io.UnsupportedOperation("the stream is closed")
        return self._stream.fileno()

    def _fail(self, error: OSError | ValueError) -> None:
        """Remember an error, and let the buffered rest of the output go nowhere, or Python would fail at its exit."""
        self.failure = (error.strerror if isinstance(error, OSError) else None) or str(error)
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)


@contextlib.contextmanager
def lenient_streams() -> Iterator[tuple[LenientStream, LenientStream]]:
    """Make standard output and standard error lenient while the block runs, and flush them at its end."""
    reserve_standard_descriptors()
    before = sys.stdout, sys.stderr
    out, err = LenientStream(sys.stdout), LenientStream(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out, err
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def reserve_standard_descriptors() -> None:
    """Open the null device as each of the descriptors 0 to 2 that is closed.

    Otherwise the next file that is opened gets this number, and what a library writes to its standard error would end
    up in a photo.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


def failure_of(stream: TextIO) -> str | None:
    """Why text could not be written to a stream of `lenient_streams`; None if all was written."""
    failure: str | None = getattr(stream, "failure", None)
    return failure
