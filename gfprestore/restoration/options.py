"""Options of a restoration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gfprestore.errors import UsageError
from gfprestore.photo.photo import DEFAULT_MAX_PIXELS
from gfprestore.restoration.frrffusion import FRRFFUSION, ReversalOptions

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


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(message)
