"""Options of the evaluation of face retouching reversal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gfprestore.errors import UsageError
from gfprestore.evaluation.options import CommonOptions


@dataclass(frozen=True, kw_only=True)
class ReversalEvalOptions(CommonOptions):
    """Options of the evaluation of retouching reversal, `gfprestore eval --set deepfrr`.

    `restorer` is the name of a network; None uses the packaged one if nothing else is named.

    Attributes:
        weights: Files of networks, one row each.
        constant_from: Training pairs of the constant inverse; None leaves its row out.
    """

    weights: tuple[Path, ...] = ()
    constant_from: Path | None = None

    def check(self) -> None:
        """Check the options that do not depend on files.

        Raises:
            UsageError: A metric is unknown, or a number is out of range.
        """
        super().check()
        if "fid" in (self.metrics or ()):
            raise UsageError("--metrics: fid is not computed for retouched pairs. Leave it out.")
