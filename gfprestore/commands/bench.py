"""`gfprestore bench`: time per face and per megapixel on this machine, with the networks that `run` would use.

Only networks are timed. Reading, pasting and writing take little time in comparison.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray

from gfprestore.commands.demo import PORTRAITS, portrait_path
from gfprestore.device import precision_name
from gfprestore.errors import UsageError
from gfprestore.photo.reading import read_photo
from gfprestore.pixels import resized
from gfprestore.restoration.background import NetworkBackground
from gfprestore.restoration.choices import DownloadReport
from gfprestore.restoration.options import RunOptions
from gfprestore.restoration.restoration import Restoration, whole_image_crop
from gfprestore.tensors import pixels_to_signed

Pixels = NDArray[Any]

LEAST_MEGAPIXELS = 0.01


@dataclass(frozen=True)
class Timing:
    """Duration of one part of a restoration.

    Attributes:
        part: `detector`, `restorer` or `background`.
        name: Name of the network or method.
        precision: Floating-point type; None if it is not a network.
        per: Unit of the time: `face`, or `megapixel` of the input photo.
        seconds: Median of the rounds.
        fastest: Fastest round in seconds.
        slowest: Slowest round in seconds.
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
    """Device and duration of each part."""

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
    """Time the parts of a restoration: each once to warm up, then `rounds` times.

    Args:
        options: Options of `run`.
        photo: Input; None uses a portrait of the demo. Only the time of the detector depends on its content.
        megapixels: Size to which the photo is resized.
        rounds: Number of measurements.
        download_progress: See `Restoration`.

    Raises:
        UsageError: A value is out of range, or no photo is given and the package with the portrait is missing.
        PhotoError: The photo cannot be read.
        WeightsError: Weights are missing, damaged or for another network.
        DeviceError: The device is not usable or has too little memory.
    """
    if not LEAST_MEGAPIXELS <= megapixels < math.inf:
        raise UsageError(f"--megapixels must be at least {LEAST_MEGAPIXELS}, not {megapixels:g}.")
    if rounds < 1:
        raise UsageError(f"--rounds must be at least 1, not {rounds}.")
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
    """Resize an image (H, W, 3) to about `count` pixels at the same aspect ratio."""
    scale = math.sqrt(count / (pixels.shape[0] * pixels.shape[1]))
    width, height = (max(1, round(side * scale)) for side in (pixels.shape[1], pixels.shape[0]))
    return resized(pixels, width, height)


def _durations(work: Callable[[], object], rounds: int, amount: float) -> list[float]:
    """Seconds per unit in each round; `work` processes `amount` units."""
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
