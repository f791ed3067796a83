"""The log, the speed meter and the sample images of a training."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from gfprestore.errors import FolderError
from gfprestore.tensors import signed_to_pixels
from gfprestore.training.training_state import write_whole

LOG_NAME = "log.jsonl"


class SpeedMeter:
    """Measures images per second and the share of the time spent waiting for images."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.start = self.last = time.perf_counter()
        self.steps = self.steps_since = 0
        self.waited = self.waited_since = 0.0

    def add(self, waited: float) -> None:
        """Count one step that waited so many seconds for images."""
        self.steps += 1
        self.steps_since += 1
        self.waited += waited
        self.waited_since += waited

    def since_last(self) -> tuple[float, float]:
        """Images per second and waiting share since the last call."""
        now = time.perf_counter()
        seconds = max(now - self.last, 1e-9)
        pace, wait = self.steps_since * self.batch_size / seconds, self.waited_since / seconds
        self.last, self.steps_since, self.waited_since = now, 0, 0.0
        return pace, wait

    @property
    def total_pace(self) -> float:
        """Images per second since the start."""
        return self.steps * self.batch_size / max(time.perf_counter() - self.start, 1e-9)

    @property
    def total_wait(self) -> float:
        """Share of the time since the start that was spent waiting for images."""
        return self.waited / max(time.perf_counter() - self.start, 1e-9)


class TrainingLog:
    """Log of a training: `log.jsonl` with one object per logged step, and TensorBoard files if it is installed.

    A rollback also removes the lines of the discarded steps.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / LOG_NAME
        self.board = _tensorboard(folder / "tensorboard", step)
        self.rewind(step)

    def write(self, values: Mapping[str, float]) -> None:
        """Append one step.

        Raises:
            FolderError: The line cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(values) + "\n")
        except OSError as error:
            raise FolderError(
                f"{self.path} cannot be written: {error.strerror or error}. Free some disk space. Run the same command "
                "again to resume from the last checkpoint."
            ) from error
        if self.board is not None:
            for name, value in values.items():
                if name != "step":
                    self.board.add_scalar(name, value, int(values["step"]))

    def rewind(self, step: int) -> None:
        """Remove the lines after `step`, and damaged lines.

        Raises:
            FolderError: The log cannot be written.
        """
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if 0 < _step_of(line) <= step]
        if kept != lines:
            content = "".join(f"{line}\n" for line in kept).encode()
            write_whole(self.path, lambda stream: stream.write(content))

    def close(self) -> None:
        """Close the TensorBoard files."""
        if self.board is not None:
            self.board.close()


def _step_of(line: str) -> int:
    """Step of a line of the log; 0 for a damaged line."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 0


def _tensorboard(folder: Path, step: int) -> Any:
    """TensorBoard writer that discards events after `step`; None if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def write_png(image: Tensor, path: Path) -> None:
    """Write an image (3, H, W) RGB in [-1, 1] as PNG.

    Raises:
        FolderError: The disk is full, or the folder is missing or not writable.
    """
    pixels = signed_to_pixels(image[None], np.dtype(np.uint8))
    content = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
    write_whole(path, lambda stream: stream.write(content))
