"""Test doubles for networks, detectors, metrics and recipes, small data sets, and the command line as a function."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from samples import save
from torch import Tensor

from gfprestore.commands.app import main
from gfprestore.data.degradation import DegradationOptions
from gfprestore.errors import MetricUnavailable
from gfprestore.evaluation.metrics.specs import METRICS
from gfprestore.faces.detection import DetectedFace
from gfprestore.restoration.options import RunOptions
from gfprestore.restoration.restoration import Restoration
from gfprestore.restoration.restorers import FaceLimits
from gfprestore.training.config import TrainConfig, make_config
from gfprestore.training.presets import LossWeights
from gfprestore.training.recipe import Batch


@contextlib.contextmanager
def logged(lines: list[str]) -> Iterator[None]:
    """Collect the messages of the package's log, as a user of the library would."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger("gfprestore"), Collector()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def call(*arguments: object) -> int:
    """Run the command line in this process and return its exit code."""
    with pytest.raises(SystemExit) as exit_info:
        main([str(argument) for argument in arguments])
    return int(exit_info.value.code or 0)


def records(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """JSON objects of stdout by the file name of the source, and the summary."""
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {Path(line["source"]).name: line for line in lines[:-1]}, lines[-1]["summary"]


class Painter:
    """A restorer that fills every face with one color or returns it unchanged, and fails for the faces in `broken`."""

    name = "painter"
    input_size = output_size = 64

    def __init__(
        self, color: Sequence[float] | None = None, broken: Sequence[int] = (), limits: FaceLimits | None = None
    ) -> None:
        self.limits = limits
        self.color = color
        self.broken = broken
        self.seen: list[tuple[int, list[int] | None]] = []

    def restore(self, crops: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        first = sum(count for count, _ in self.seen)
        self.seen.append((len(crops), None if seeds is None else list(seeds)))
        restored = crops.clone()
        if self.color is not None:
            restored = torch.tensor(self.color).view(1, 3, 1, 1).expand_as(crops).clone()
        for index in self.broken:
            if first <= index < first + len(crops):
                restored[index - first] = torch.nan
        return restored


class Finder:
    """A detector that finds frontal faces at given centers, all with an eye distance of `eyes` pixels."""

    name = "finder"
    default_threshold = 0.5

    def __init__(self, centers: Sequence[tuple[float, float]], eyes: float = 20) -> None:
        points = np.array([[-0.5, 0], [0.5, 0], [0, 0.59], [-0.43, 1.04], [0.45, 1.04]], np.float32) * eyes
        self.faces = []
        for x, y in centers:
            box = np.array([x - 1.2 * eyes, y - 1.2 * eyes, x + 1.2 * eyes, y + 2 * eyes], np.float32)
            self.faces.append(DetectedFace(box, points + np.array([x, y], np.float32), 0.99))

    def detect(self, pixels: NDArray[Any]) -> list[DetectedFace]:
        return self.faces


def opened(painter: Painter, finder: Finder, options: RunOptions | None = None) -> Restoration:
    """A restoration that uses the two doubles above as its networks."""
    options = replace(options or RunOptions(), restorer="none", background="lanczos")
    restoration = Restoration(options)
    restoration.restorer = painter
    restoration.detector = finder  # type: ignore[assignment]
    return restoration


def smooth(seed: int, size: int = 32, channels: int = 3) -> NDArray[np.uint8]:
    """A smooth random image of levels 10 to 240, (size, size, 3), or (size, size) with one channel."""
    coarse = np.random.default_rng(seed).integers(20, 236, (4, 4, channels), dtype=np.uint8)
    image = np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8).clip(10, 240)
    return image.reshape(size, size) if channels == 1 else image


def make_set(folder: Path, count: int = 4, size: int = 32) -> Path:
    """Create a test set with ground truth, whose lq images are two levels brighter."""
    for number in range(count):
        gt = smooth(number, size)
        save(folder / "gt" / f"{number:02d}.png", gt)
        save(folder / "lq" / f"{number:02d}.png", gt + np.uint8(2))
    return folder


class Difference:
    """Double of `psnr`: the mean absolute difference, which is easy to predict. Counts the images."""

    def __init__(self, name: str = "psnr") -> None:
        self.spec = METRICS[name]
        self.seen = 0
        self.largest_batch = 0

    def score(self, restored: Sequence[Any], gt: Sequence[Any] | None) -> list[float]:
        self.seen += len(restored)
        self.largest_batch = max(self.largest_batch, len(restored))
        pairs = zip(restored, gt or [np.zeros(1)] * len(restored), strict=True)
        return [float(np.abs(one.astype(float) - other.astype(float)).mean()) for one, other in pairs]

    def summarize(self, scores: Sequence[float]) -> float:
        return float(np.mean(scores))


class MeanColor:
    """Double of `fid`: the mean of the red channel over all images."""

    def __init__(self) -> None:
        self.spec = METRICS["fid"]
        self.seen = 0

    def features(self, restored: Sequence[Any]) -> NDArray[np.float32]:
        self.seen += len(restored)
        return np.array([image.mean(axis=(0, 1)) for image in restored], np.float32)

    def value(self, features: NDArray[np.float32]) -> float:
        return float(features[:, 0].mean()) if len(features) > 1 else float("nan")

    def warning(self, count: int) -> str | None:
        return f"{count} images are few." if count < 10 else None


class Opener:
    """Opens the given metrics by name; all others are unavailable."""

    def __init__(self, *metrics: Any) -> None:
        self.metrics = {metric.spec.name: metric for metric in metrics}

    def __call__(self, name: str, weights_used: dict[str, str]) -> Any:
        if name not in self.metrics:
            raise MetricUnavailable(METRICS[name].label, "it is not installed.", "Run `get it`.")
        weights_used["network"] = "abc"
        return self.metrics[name]


EYES_NOSE_MOUTH = ((0.38, 0.48), (0.63, 0.48), (0.50, 0.62), (0.40, 0.75), (0.61, 0.75))  # relative to the side

MILD = DegradationOptions(sigma=(0.2, 1.0), downscale=(1.0, 2.0), noise=(0.0, 5.0), shift_probability=0.0,
                          jitter_probability=0.0, gray_probability=0.0)  # fmt: skip


def make_faces(folder: Path, count: int = 6, size: int = 32) -> Path:
    """Create smooth color images with an `index.csv` that has five landmarks for each."""
    random = np.random.default_rng(5)
    landmarks = " ".join(f"{share * size:.2f}" for point in EYES_NOSE_MOUTH for share in point)
    rows = ["file,landmarks"]
    for number in range(count):
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        pixels = np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)
        save(folder / f"{number:02d}.png", pixels)
        rows.append(f"{number:02d}.png,{landmarks}")
    (folder / "index.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def tiny_config(
    data: Path, output: Path, preset: str = "compact", *, losses: dict[str, float] | None = None, **options: Any
) -> TrainConfig:
    """Configuration of a network of 32 pixels and 16 channels; `options` are values of the config or of the preset."""
    config = make_config(data, output, preset, without=("perceptual", "identity"), size=32)
    of_config = {name: value for name, value in options.items() if name in TrainConfig.__dataclass_fields__}
    of_preset = {name: value for name, value in options.items() if name not in of_config}
    tiny: dict[str, Any] = {
        "narrow": 1 / 32,
        "style_dim": 32,
        "mlp_layers": 2,
        "channel_multiplier": 1.0,
        "discriminator_start_step": 0,
        "decoder_noise": True,
        "max_grad_norm": None,
        "exports_half": False,
        "jitter": 0.0,
        "component_width": 8,
        "batch_size": 2,
        "steps": 4,
        "degradation": MILD,
    }
    weights = config.preset.losses if losses is None else none_but(**losses)
    changed = replace(config.preset, **{**tiny, "losses": weights, **of_preset})
    defaults: dict[str, Any] = {"device": "cpu", "workers": 0, "log_every": 1, "sample_every": 1000, "save_every": 1000}
    return replace(config, preset=changed, **{**defaults, **of_config})


def none_but(**weights: float) -> LossWeights:
    """Loss weights with all other losses switched off."""
    off = dict.fromkeys(LossWeights.__dataclass_fields__, 0.0)
    return LossWeights(**{**off, **weights})


class Descent:
    """A recipe without networks, for tests of the loop: its only weight moves toward the mean of the gt.

    Args:
        nan_steps: Steps with a NaN loss; a step that appears n times fails n times.
        nan_weights_after: Step after which the weight is NaN although the loss is finite.
    """

    def __init__(self, nan_steps: Sequence[int] = (), nan_weights_after: int | None = None) -> None:
        self.weight = torch.zeros(4)
        self.nan_steps = list(nan_steps)
        self.nan_weights_after = nan_weights_after
        self.last_learning_rate = 0.0
        self.learning_rates: list[tuple[int, float]] = []

    def step(self, batches: Sequence[Batch], step: int, learning_rate_scale: float) -> dict[str, Tensor]:
        target = torch.cat([batch.sample.gt.flatten() for batch in batches]).mean()
        noise = 1e-3 * torch.randn(4) + 1e-3 * float(np.random.rand())
        self.last_learning_rate = 0.1 * learning_rate_scale
        self.learning_rates.append((step, self.last_learning_rate))
        self.weight = self.weight + self.last_learning_rate * (target - self.weight) + noise
        loss = (self.weight - target).abs().mean()
        if step in self.nan_steps:
            self.nan_steps.remove(step)
            loss = loss * torch.nan
        if step == self.nan_weights_after:
            self.nan_weights_after = None
            self.weight = self.weight * torch.nan
        return {"distance": loss}

    def state(self) -> dict[str, Any]:
        return {"weight": self.weight}

    def load_state(self, state: dict[str, Any]) -> None:
        self.weight = state["weight"].clone()

    def sizes(self) -> dict[str, Any]:
        return {"weights": len(self.weight)}

    def is_finite(self) -> bool:
        return bool(self.weight.isfinite().all())

    def learning_rate(self) -> float:
        return self.last_learning_rate

    def images(self, batch: Batch) -> list[Tensor]:
        return [batch.sample.lq, batch.sample.gt]

    def export(self, folder: Path, step: int) -> Path:
        path = folder / "weight.txt"
        path.write_text(f"{step} {self.weight.tolist()}", encoding="utf-8")
        return path


DOTTED_SIDE = 128
SHARES = np.array([[0.377, 0.469], [0.623, 0.469], [0.501, 0.613], [0.393, 0.725], [0.611, 0.725]])  # as FFHQ aligns
PLACES = SHARES * DOTTED_SIDE - 0.5


def marked_face(seed: int, places: NDArray[np.float64] = PLACES, size: int = DOTTED_SIDE) -> NDArray[np.uint8]:
    """Skin of smooth tones with five green dots where the landmarks are."""
    random = np.random.default_rng(seed)
    tone = np.asarray(cv2.resize(random.normal(0, 1, (8, 8)), (size, size), interpolation=cv2.INTER_CUBIC))
    pixels = np.clip(np.array([170.0, 130.0, 110.0]) + 25 * tone[..., None], 0, 255).astype(np.uint8)
    for x, y in places:
        cv2.circle(pixels, (round(x * 16), round(y * 16)), 48, (0, 255, 0), -1, cv2.LINE_AA, shift=4)
    return pixels


def dots_of(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Centers of the five green dots in the order of landmarks; fewer where there are fewer."""
    green = pixels[..., 1].astype(float) - pixels[..., [0, 2]].max(axis=2)
    _, _, _, centers = cv2.connectedComponentsWithStats((green > 100).astype(np.uint8))
    rows = sorted(centers[1:].tolist(), key=lambda point: point[1])
    if len(rows) != 5:
        return np.array(rows).reshape(-1, 2)
    return np.array([*sorted(rows[:2]), rows[2], *sorted(rows[3:])])


class DotFinder:
    """A detector of faces whose landmarks are green dots."""

    name, default_threshold = "dots", 0.5

    def detect(self, pixels: NDArray[Any]) -> list[DetectedFace]:
        points = dots_of(pixels)
        if len(points) != 5:
            return []
        box = np.concatenate([points.min(axis=0), points.max(axis=0)])
        return [DetectedFace(box.astype(np.float32), points.astype(np.float32), 1.0)]
