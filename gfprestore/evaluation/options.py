"""Options that every kind of evaluation has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gfprestore.errors import UsageError
from gfprestore.evaluation.metrics.specs import METRICS


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Options that every kind of evaluation has; the fields are those of `gfprestore eval`.

    Attributes:
        data: Folder of the set; None for its default below the user's data folder.
        restored: Folders of images restored by other programs.
        names: Their names in tables; a missing or empty one is the folder's own.
        metrics: Keys of `METRICS`; None for the default ones.
        restorer: `auto` or a name of `weights list`; None restores nothing if `restored` is given.
        detector: Face detector for photos, as in `gfprestore run`.
        output: Output folder; None for `gfprestore-eval-<set>` in the current folder.
        device: `auto` or a torch device name.
        precision: Precision of the networks: `auto`, `fp32`, `fp16` or `bf16`.
        batch_size: Maximum number of faces per batch; None chooses by device.
        offline: Disable network access.
        weights_dir: Weights folder searched before all others.
    """

    data: Path | None = None
    restored: tuple[Path, ...] = ()
    names: tuple[str, ...] = ()
    metrics: tuple[str, ...] | None = None
    restorer: str | None = None
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
        if unknown:
            raise UsageError(
                f"--metrics: unknown metric {', '.join(unknown)}. Available metrics: {', '.join(METRICS)}."
            )
        if self.metrics == ():
            raise UsageError(f"--metrics is empty. Available metrics: {', '.join(METRICS)}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"--batch-size must be at least 1, not {self.batch_size}.")

    def named_folders(self) -> list[tuple[Path, str]]:
        """The folders in `restored` with their names; an empty name is to be derived from the folder."""
        names = [*self.names, *[""] * len(self.restored)]
        return list(zip(self.restored, names, strict=False))
