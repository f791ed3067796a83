"""Options of a restoration, and those of the reversal of retouching, as the command line and the library take them.

Imports no torch: options are checked, and a run whose photos are all done ends, before torch is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gfprestore.errors import UsageError
from gfprestore.networks.retouching_operations import OPERATIONS
from gfprestore.photo.photo import DEFAULT_MAX_PIXELS

Sampler = Literal["ddim", "ddpm"]
SAMPLERS: tuple[Sampler, ...] = ("ddim", "ddpm")

FRRFFUSION = "frrffusion"
"""Name of the restorer in `--restorer`."""

COLOR_MODES = ("auto", "keep", "restore")


@dataclass(frozen=True)
class RunOptions:
    """Options of a restoration; the fields are those of `gfprestore run`.

    Attributes:
        upscale: Enlargement of the photo, 1 to 4; None is 2, or 1 where retouching is reversed.
        restorer: `auto`, `none`, `frrffusion`, or a name of `weights list`.
        weights: A custom checkpoint instead of `restorer`, recognized by its tensors; with `frrffusion` it must be one.
        background: `auto`, `none`, `lanczos`, or a name of `weights list`; `auto` is `none` where retouching is
            reversed.
        strength: 0 keeps the original faces, 1 uses the fully restored ones.
        color: `auto` and `keep` preserve the tone of a monochrome or toned photo; `restore` lets the network color it.
        aligned: Inputs are aligned face crops; they are resized to the network's input.
        only_center_face: Restore only the face nearest the center.
        min_face: Skip faces with a narrower box than this, in photo pixels.
        detection_threshold: Skip detections below this score, 0 to 1; None uses the detector's default.
        detector: `auto`, `mtcnn`, `retinaface-resnet50` or `retinaface-mobilenet`.
        device: `auto` or a torch device name.
        precision: `auto`, `fp32`, `fp16` or `bf16`.
        batch_size: Maximum number of faces per batch; None chooses by device.
        tile: Side of the background's tiles in input pixels; None chooses it from the free memory.
        offline: Do not access the network.
        weights_dir: Folder that is searched for weights first.
        seed: Random seed of the network's noise, drawn per face; None uses the noise stored with the weights, or the
            same noise for all faces.
        max_pixels: Maximum number of pixels of a photo.
        accept_truncated: Restore what is there of a truncated photo.
        reversal: Options of `frrffusion`; None uses the defaults.
    """

    upscale: float | None = None
    restorer: str = "auto"
    weights: Path | None = None
    background: str = "auto"
    strength: float = 1.0
    color: str = "auto"
    aligned: bool = False
    only_center_face: bool = False
    min_face: float = 16.0
    detection_threshold: float | None = None
    detector: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    tile: int | None = None
    offline: bool = False
    weights_dir: Path | None = None
    seed: int | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    accept_truncated: bool = False
    reversal: ReversalOptions | None = None

    def check(self) -> None:
        """Check all values that do not depend on the machine.

        Raises:
            UsageError: A value is out of range.
        """
        _check(
            self.upscale is None or 1.0 <= self.upscale <= 4.0, f"--upscale {self.upscale} is out of range. Use 1 to 4."
        )
        _check(0.0 <= self.strength <= 1.0, f"--strength {self.strength:g} is out of range. Use 0 to 1.")
        _check(self.color in COLOR_MODES, f"--color {self.color} is unknown. Use auto, keep or restore.")
        _check(self.min_face >= 0, f"--min-face {self.min_face:g} is negative. Use 0 or more.")
        threshold = self.detection_threshold
        _check(
            threshold is None or 0 <= threshold <= 1,
            f"--detection-threshold {threshold} is out of range. Use 0 to 1.",
        )
        _check(self.batch_size is None or self.batch_size >= 1, f"--batch-size {self.batch_size} is below 1.")
        _check(self.tile is None or self.tile >= 64, f"--tile {self.tile} is below 64 pixels.")
        _check(self.max_pixels >= 1, f"--max-pixels {self.max_pixels} is below 1.")
        _check(
            self.weights is None or self.restorer in ("auto", FRRFFUSION),
            "--weights and --restorer cannot be combined. Remove one of the options.",
        )


@dataclass(frozen=True)
class ReversalOptions:
    """Options of the reversal; the fields are those of `gfprestore run`.

    Attributes:
        sampling_steps: Number of diffusion steps; None uses the timesteps that the network was tuned for.
        sampler: `ddim`, or `ddpm`, which takes every step of the diffusion.
        eta: Share of fresh noise in each DDIM step, from 0 (deterministic) to 1.
        levels: Levels of the six operations of `OPERATIONS`, each in [0, 1]; None estimates them for each face.

    Raises:
        UsageError: A value is out of range, or the options contradict one another.
    """

    sampling_steps: int | None = None
    sampler: str = "ddim"
    eta: float = 0.0
    levels: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise UsageError(f"--sampler {self.sampler} is unknown. Use one of {', '.join(SAMPLERS)}.")
        if self.sampling_steps is not None and self.sampling_steps < 1:
            raise UsageError(f"--sampling-steps must be 1 or more, not {self.sampling_steps}.")
        if self.sampler == "ddpm" and (self.sampling_steps is not None or self.eta > 0):
            raise UsageError("--sampling-steps and --eta belong to --sampler ddim. The sampler ddpm takes every step.")
        if not 0 <= self.eta <= 1:
            raise UsageError(f"--eta must be from 0 to 1, not {self.eta:g}.")


def reversal_options(levels: str, sampler: str, sampling_steps: int | None, eta: float) -> ReversalOptions | None:
    """Options of the reversal from those of the command line.

    Args:
        levels: See `parse_levels`.
        sampler: `ddim` or `ddpm`.
        sampling_steps: Number of DDIM steps; None uses the timesteps that the network was tuned for.
        eta: Share of fresh noise in each DDIM step.

    Returns:
        The options; None if all have their defaults.

    Raises:
        UsageError: A value is invalid.
    """
    options = ReversalOptions(sampling_steps, sampler, eta, parse_levels(levels))
    return None if options == ReversalOptions() else options


def parse_levels(text: str) -> tuple[float, ...] | None:
    """Read the option `--retouch-levels`.

    Args:
        text: `auto`, one number for all operations, or such as `smooth=30,slim=60`; operations that are not named
            are 0.

    Returns:
        Levels in [0, 1] in the order of `OPERATIONS`; None for `auto`.

    Raises:
        UsageError: An operation is unknown or named twice, or a level is not a number from 0 to 100.
    """
    text = text.strip()
    if text == "auto":
        return None
    if "=" not in text:
        return (_level(text),) * len(OPERATIONS)
    levels = dict.fromkeys(OPERATIONS, 0.0)
    seen = set()
    for part in text.split(","):
        name, _, value = (item.strip() for item in part.partition("="))
        if name not in levels:
            raise UsageError(f"--retouch-levels: {name or part!r} is unknown. Use {', '.join(OPERATIONS)}.")
        if name in seen:
            raise UsageError(f"--retouch-levels names {name} twice.")
        seen.add(name)
        levels[name] = _level(value)
    return tuple(levels.values())


def _level(text: str) -> float:
    try:
        level = float(text)
    except ValueError:
        level = -1.0
    if not 0 <= level <= 100:
        raise UsageError(
            f"--retouch-levels: {text!r} is not a level. Use auto, a number from 0 to 100, or a list such as "
            "smooth=30,slim=60."
        )
    return level / 100


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(message)
