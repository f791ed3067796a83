"""Options of the evaluation of face retouching reversal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gfprestore.errors import UsageError
from gfprestore.evaluation.metrics.specs import METRICS


@dataclass(frozen=True)
class ReversalOptions:
    """Options of the evaluation; the fields are those of `gfprestore eval --set deepfrr`.

    Attributes:
        data: Folder of the set, see `retouched_set`; None for the default folder.
        weights: Files of networks, one row each.
        restorer: Name of a network; None uses the packaged one if there is one and nothing else is named.
        restored: Folders of images of other methods.
        names: Their names in tables; a missing or empty one is the folder's own.
        constant_from: Training pairs of the constant inverse; None leaves its row out.
        metrics: Keys of `METRICS`; None for those of reversal.
        detector: Face detector, as in `gfprestore run`.
        output: Output folder; None for `gfprestore-eval-deepfrr` in the current folder.
        device: `auto` or a torch device name.
        precision: Precision of the networks: `auto`, `fp32`, `fp16` or `bf16`.
        batch_size: Maximum number of faces per batch; None chooses by device.
        offline: Disable network access.
        weights_dir: Weights folder searched before all others.
    """

    data: Path | None = None
    weights: tuple[Path, ...] = ()
    restorer: str | None = None
    restored: tuple[Path, ...] = ()
    names: tuple[str, ...] = ()
    constant_from: Path | None = None
    metrics: tuple[str, ...] | None = None
    detector: str = "auto"
    output: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    offline: bool = False
    weights_dir: Path | None = None

    def check(self) -> None:
        """Check the options that do not depend on files.

        Raises:
            UsageError: A metric is unknown, or a number is out of range.
        """
        unknown = [name for name in self.metrics or () if name not in METRICS]
        if unknown or self.metrics == ():
            what = f"unknown metric {', '.join(unknown)}" if unknown else "empty"
            raise UsageError(f"--metrics: {what}. Available metrics: {', '.join(METRICS)}.")
        if "fid" in (self.metrics or ()):
            raise UsageError("--metrics: fid is not computed for retouched pairs. Leave it out.")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"--batch-size must be at least 1, not {self.batch_size}.")
