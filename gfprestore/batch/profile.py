"""The table of `run --profile`: seconds by part of the run."""

from __future__ import annotations

from typing import Any

from gfprestore.stopwatch import Stopwatch

PARTS = {
    "plan": "find the photos and choose the paths of the results",
    "start": "import torch and open the networks",
    "compare": "compare with the journal",
    "decode": "read the photos",
    "detect": "detect faces",
    "align": "crop them",
    "restore": "restore them",
    "background": "enlarge the photos",
    "paste": "finish the faces and paste them",
    "encode": "write the results",
    "journal": "record them",
    "waiting": "wait for reading and writing",
    "report": "print the results",
}
"""Parts of a run, in order."""

NETWORK_PARTS = ("detect", "restore", "background")


def profile_rows(stopwatch: Stopwatch) -> list[list[str]]:
    """Rows of the table: part, seconds of the main thread, their share of the run, and seconds in other threads."""
    elapsed = stopwatch.elapsed
    rows = []
    for name, what in PARTS.items():
        own, others = stopwatch.seconds.get(name, 0.0), stopwatch.in_threads.get(name, 0.0)
        if own or others:
            rows.append([f"{name}: {what}", f"{own:.2f}", f"{own / elapsed:.1%}", f"{others:.2f}" if others else ""])
    counted = sum(stopwatch.seconds.values())
    rows.append(["not counted", f"{elapsed - counted:.2f}", f"{1 - counted / elapsed:.1%}", ""])
    rows.append(["whole run", f"{elapsed:.2f}", "100.0%", ""])
    return rows


def profile_json(stopwatch: Stopwatch) -> dict[str, Any]:
    """The object `profile` in the summary of `--json`."""
    return {
        "seconds": {name: round(stopwatch.seconds[name], 3) for name in PARTS if name in stopwatch.seconds},
        "in_threads": {name: round(stopwatch.in_threads[name], 3) for name in PARTS if name in stopwatch.in_threads},
        "whole_run": round(stopwatch.elapsed, 3),
        "network_share": round(network_share(stopwatch), 3),
    }


def network_share(stopwatch: Stopwatch) -> float:
    """Share of the networks in the time of the main thread after the networks were opened."""
    work = sum(spent for name, spent in stopwatch.seconds.items() if name not in ("plan", "start"))
    return sum(stopwatch.seconds.get(name, 0.0) for name in NETWORK_PARTS) / max(work, 1e-9)
