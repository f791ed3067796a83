"""`gfprestore bench`: how long a face and a megapixel take on this machine, with the networks that `run` would take.

Times networks, not files: reading, pasting and writing come on top, and are little beside them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from gfprestore.commands.demo import PORTRAITS, portrait_path
from gfprestore.device import precision_name
from gfprestore.errors import UsageError
from gfprestore.photo.reading import read_photo
from gfprestore.restoration.background import NetworkBackground
from gfprestore.restoration.model_loader import DownloadReport
from gfprestore.restoration.restoration import Restoration, RunOptions, whole_image_crop
from gfprestore.tensors import pixels_to_signed

Pixels = NDArray[Any]

LEAST_MEGAPIXELS = 0.01


@dataclass(frozen=True)
class Timing:
    """How long one part of a restoration takes.

    Attributes:
        part: `detector`, `restorer` or `background`.
        name: Of the network or method.
        precision: What it computes in; None where it is no network.
        per: What the seconds are for: a `face`, or a `megapixel` of the photo as it comes.
        seconds: Median over the rounds.
        fastest: Of the rounds.
        slowest: Of the rounds.
    """

    part: Literal["detector", "restorer", "background"]
    name: str
    precision: str | None
    per: Literal["face", "megapixel"]
    seconds: float
    fastest: float
    slowest: float


@dataclass(frozen=True)
class BenchReport:
    """What was timed: on which device, and each part's time."""

    device: str
    parts: tuple[Timing, ...]


def bench(
    options: RunOptions,
    photo: Path | None = None,
    *,
    megapixels: float = 0.5,
    rounds: int = 3,
    download_progress: DownloadReport | None = None,
) -> BenchReport:
    """Times the parts of a restoration, each once to warm up and then `rounds` times.

    Args:
        options: What `run` would be asked for.
        photo: What to time on; None takes a portrait of the demo. Only the detector's time depends on what it shows.
        megapixels: Size that the photo is resized to.
        rounds: How often to time.
        download_progress: See `Restoration`.

    Raises:
        UsageError: A value is out of range, or no photo was named and no package has the portrait.
        PhotoError: The photo cannot be read.
        WeightsError: Weights are missing, damaged or of another network.
        DeviceError: The device is not usable, or its memory does not suffice.
    """
    if not LEAST_MEGAPIXELS <= megapixels < math.inf:
        raise UsageError(f"--megapixels is {LEAST_MEGAPIXELS} or more, not {megapixels:g}.")
    if rounds < 1:
        raise UsageError(f"--rounds is 1 or more, not {rounds}.")
    options.check()
    package, file, _ = PORTRAITS["astronaut"]
    source = read_photo(photo or portrait_path(package, file), options.max_pixels)
    pixels = of_size(source.pixels, megapixels * 1e6)
    restoration = Restoration(options, download_progress)
    return BenchReport(str(restoration.device), tuple(_timings(restoration, pixels, rounds)))


def _timings(restoration: Restoration, pixels: Pixels, rounds: int) -> Iterator[Timing]:
    size = pixels.shape[0] * pixels.shape[1] / 1e6
    detector, restorer, background = restoration.detector, restoration.restorer, restoration.background
    if detector is not None:
        durations = _durations(lambda: detector.detect(pixels), rounds, size)
        yield _timing("detector", detector.name, torch.float32, "megapixel", durations)
    if restorer is not None:
        crop = pixels_to_signed(whole_image_crop(pixels, restorer.input_size).pixels)
        crops = crop.repeat(restoration.batch_size, 1, 1, 1)
        durations = _durations(lambda: restorer.restore(crops), rounds, len(crops))
        yield _timing("restorer", restorer.name, restoration.dtype, "face", durations)
    if background is not None:
        upscale = restoration.upscale
        durations = _durations(lambda: background.enlarge(pixels, upscale), rounds, size)
        dtype = background.dtype if isinstance(background, NetworkBackground) else None
        yield _timing("background", background.name, dtype, "megapixel", durations)


def of_size(pixels: Pixels, count: float) -> Pixels:
    """An image (H, W, 3) resized to about `count` pixels, its shape kept."""
    scale = math.sqrt(count / (pixels.shape[0] * pixels.shape[1]))
    width, height = (max(1, round(side * scale)) for side in (pixels.shape[1], pixels.shape[0]))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=interpolation))


def _durations(work: Callable[[], object], rounds: int, amount: float) -> list[float]:
    """Seconds for one unit, each round's, when `work` does `amount` of them."""
    work()
    durations = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        durations.append((time.perf_counter() - start) / amount)
    return durations


def _timing(
    part: Literal["detector", "restorer", "background"],
    name: str,
    dtype: torch.dtype | None,
    per: Literal["face", "megapixel"],
    durations: list[float],
) -> Timing:
    precision = None if dtype is None else precision_name(dtype)
    return Timing(part, name, precision, per, statistics.median(durations), min(durations), max(durations))
