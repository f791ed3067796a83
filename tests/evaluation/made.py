"""Pictures, sets and metrics that the tests of the evaluation are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pictures import save

from gfprestore.errors import MetricUnavailable
from gfprestore.evaluation.metrics import METRICS


def smooth(seed: int, size: int = 32, channels: int = 3) -> NDArray[np.uint8]:
    """A smooth random picture of levels 10 to 240, (size, size, 3), or (size, size) with one channel."""
    coarse = np.random.default_rng(seed).integers(20, 236, (4, 4, channels), dtype=np.uint8)
    picture = np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8).clip(10, 240)
    return picture.reshape(size, size) if channels == 1 else picture


def make_set(folder: Path, count: int = 4, size: int = 32) -> Path:
    """A set with gt: the lq are the gt two levels brighter."""
    for number in range(count):
        gt = smooth(number, size)
        save(folder / "gt" / f"{number:02d}.png", gt)
        save(folder / "lq" / f"{number:02d}.png", gt + np.uint8(2))
    return folder


class Difference:
    """Stands for `psnr`: the mean absolute difference, which arithmetic foretells. Counts the pictures it is given."""

    def __init__(self, name: str = "psnr") -> None:
        self.spec = METRICS[name]
        self.seen = 0
        self.largest_batch = 0

    def score(self, restored: Sequence[Any], gt: Sequence[Any] | None) -> list[float]:
        self.seen += len(restored)
        self.largest_batch = max(self.largest_batch, len(restored))
        pairs = zip(restored, gt or [np.zeros(1)] * len(restored), strict=True)
        return [float(np.abs(one.astype(float) - other.astype(float)).mean()) for one, other in pairs]

    def summarise(self, scores: Sequence[float]) -> float:
        return float(np.mean(scores))


class MeanColour:
    """Stands for `fid`: the mean of the pictures' mean red."""

    def __init__(self) -> None:
        self.spec = METRICS["fid"]
        self.seen = 0

    def features(self, restored: Sequence[Any]) -> NDArray[np.float32]:
        self.seen += len(restored)
        return np.array([picture.mean(axis=(0, 1)) for picture in restored], np.float32)

    def value(self, features: NDArray[np.float32]) -> float:
        return float(features[:, 0].mean()) if len(features) > 1 else float("nan")

    def warning(self, count: int) -> str | None:
        return f"{count} pictures are few." if count < 10 else None


class Opener:
    """Opens the metrics above by name; those it has not are unavailable."""

    def __init__(self, *metrics: Any) -> None:
        self.metrics = {metric.spec.name: metric for metric in metrics}

    def __call__(self, name: str, weights_used: dict[str, str]) -> Any:
        if name not in self.metrics:
            raise MetricUnavailable(METRICS[name].label, "it is not here.", "Run `get it`.")
        weights_used["network"] = "abc"
        return self.metrics[name]
