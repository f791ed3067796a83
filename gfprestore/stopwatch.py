"""Where the time of a run goes: seconds by part, in the thread that runs the networks and in the others.

Imports nothing of ours.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Measures named parts of the work; may be used from any thread.

    The parts of the thread that made the stopwatch follow one another: a part within another one is not counted for
    the outer one. The times of other threads overlap with them and are counted apart.

    Attributes:
        seconds: Seconds by part in the thread that made the stopwatch.
        in_threads: Seconds by part in all other threads together.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.in_threads: defaultdict[str, float] = defaultdict(float)
        self._started = time.monotonic()
        self._thread = threading.get_ident()
        self._inner = [0.0]  # seconds of the parts within each part that is open
        self._guard = threading.Lock()

    @property
    def elapsed(self) -> float:
        """Seconds since the stopwatch was made."""
        return time.monotonic() - self._started

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of the block for a part."""
        started = time.monotonic()
        is_own = threading.get_ident() == self._thread
        if is_own:
            self._inner.append(0.0)
        try:
            yield
        finally:
            spent = time.monotonic() - started
            if is_own:
                self.seconds[name] += spent - self._inner.pop()
                self._inner[-1] += spent
            else:
                with self._guard:
                    self.in_threads[name] += spent
