"""A small training set made on the spot, configs of tiny networks, and a recipe that is arithmetic only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pictures import save
from torch import Tensor

from gfprestore.degradation import DegradationOptions
from gfprestore.training.config import LossWeights, TrainConfig, make_config
from gfprestore.training.loop import Batch

EYES_NOSE_MOUTH = ((0.38, 0.48), (0.63, 0.48), (0.50, 0.62), (0.40, 0.75), (0.61, 0.75))  # in shares of the side

MILD = DegradationOptions(sigma=(0.2, 1.0), downscale=(1.0, 2.0), noise=(0.0, 5.0), shift_probability=0.0,
                          jitter_probability=0.0, grey_probability=0.0)  # fmt: skip


def make_faces(folder: Path, count: int = 6, size: int = 32) -> Path:
    """Writes smooth coloured pictures with an `index.csv` that knows five landmarks of each."""
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
    """A config of a network of 32 pixels and 16 channels; `options` go to the config, else to the preset."""
    config = make_config(data, output, preset, without=("perceptual", "identity"), size=32)
    of_config = {name: value for name, value in options.items() if name in TrainConfig.__dataclass_fields__}
    of_preset = {name: value for name, value in options.items() if name not in of_config}
    tiny: dict[str, Any] = {
        "narrow": 1 / 32,
        "style_dim": 32,
        "mlp_layers": 2,
        "channel_multiplier": 1.0,
        "critics_after": 0,
        "decoder_noise": True,
        "gradient_limit": None,
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
    """These losses alone."""
    off = dict.fromkeys(LossWeights.__dataclass_fields__, 0.0)
    return LossWeights(**{**off, **weights})


class Descent:
    """A recipe whose only weight walks towards the mean of the gt; the networks of others stay out of the loop's tests.

    Args:
        breaks: Steps at which the loss comes out as NaN, each as often as it stands here.
        poisons: The step after which the weight is NaN though the loss is not.
    """

    def __init__(self, breaks: Sequence[int] = (), poisons: int | None = None) -> None:
        self.weight = torch.zeros(4)
        self.breaks = list(breaks)
        self.poisons = poisons
        self.last_rate = 0.0
        self.rates: list[tuple[int, float]] = []

    def step(self, batches: Sequence[Batch], step: int, rate_scale: float) -> dict[str, Tensor]:
        target = torch.cat([batch.sample.gt.flatten() for batch in batches]).mean()
        noise = 1e-3 * torch.randn(4) + 1e-3 * float(np.random.rand())
        self.last_rate = 0.1 * rate_scale
        self.rates.append((step, self.last_rate))
        self.weight = self.weight + self.last_rate * (target - self.weight) + noise
        loss = (self.weight - target).abs().mean()
        if step in self.breaks:
            self.breaks.remove(step)
            loss = loss * torch.nan
        if step == self.poisons:
            self.poisons = None
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

    def rate(self) -> float:
        return self.last_rate

    def pictures(self, batch: Batch) -> list[Tensor]:
        return [batch.sample.lq, batch.sample.gt]

    def export(self, folder: Path, step: int) -> Path:
        path = folder / "weight.txt"
        path.write_text(f"{step} {self.weight.tolist()}", encoding="utf-8")
        return path
