"""Threads that read and write photos."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Value = TypeVar("Value")


def wait_for_result(future: Future[Value]) -> Value:
    """Wait for a future's result with a polling loop, so that Ctrl-C works on every platform."""
    while not future.done():
        concurrent.futures.wait([future], timeout=0.2)
    return future.result()


@contextlib.contextmanager
def worker_threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Thread pool that finishes its current files and cancels queued ones when the run ends early."""
    threads = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield threads
    finally:
        threads.shutdown(wait=True, cancel_futures=True)
