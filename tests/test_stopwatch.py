"""The stopwatch of a run: parts of one thread follow one another, those of other threads are counted apart."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from gfprestore import stopwatch as module
from gfprestore.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still until it is set."""
    now = SimpleNamespace(time=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.time))
    return now


def test_an_inner_part_is_not_counted_for_the_outer_one(clock: SimpleNamespace) -> None:
    watch = Stopwatch()
    with watch.part("align"):
        clock.time += 1
        with watch.part("detect"):
            clock.time += 10
        clock.time += 2
        with watch.part("detect"):
            clock.time += 20
    clock.time += 5
    assert dict(watch.seconds) == {"detect": 30, "align": 3}
    assert watch.elapsed == 38


def test_a_part_that_fails_is_counted(clock: SimpleNamespace) -> None:
    watch = Stopwatch()
    with pytest.raises(KeyError), watch.part("align"), watch.part("detect"):
        clock.time += 4
        raise KeyError
    with watch.part("align"):
        clock.time += 1
    assert dict(watch.seconds) == {"detect": 4, "align": 1}


def test_parts_of_other_threads_overlap_and_are_counted_apart() -> None:
    watch = Stopwatch()

    def work() -> None:
        with watch.part("decode"):
            time.sleep(0.01)

    threads = [threading.Thread(target=work) for _ in range(3)]
    with watch.part("waiting"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(watch.seconds) == {"waiting"}
    assert set(watch.in_threads) == {"decode"}
    assert watch.in_threads["decode"] >= 0.03
