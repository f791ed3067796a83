"""Modification times of mirrored folders: those of their sources, which writing results into them changes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from gfprestore.batch.task_list import PhotoTask


def keep_folder_times(tasks: Iterable[PhotoTask], new_folders: Iterable[tuple[Path, Path]]) -> None:
    """Give the folders of results the times of their sources, when a run has ended.

    Args:
        tasks: The photos of the run. Their folders inside the output folder are mirrored; the output folder itself may
            hold other things, and its time stays.
        new_folders: Output folders that the run created, each with the one input folder that it mirrors.
    """
    pairs: dict[Path, Path] = {}
    for task in tasks:
        place, source = task.output.parent, task.source.absolute().parent
        while place != task.folder and place not in pairs:
            pairs[place] = source
            place, source = place.parent, source.parent
    pairs |= dict(new_folders)
    for place, source in pairs.items():
        with contextlib.suppress(OSError):
            status = source.stat()
            os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))
