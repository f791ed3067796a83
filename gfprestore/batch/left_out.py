"""Report of the files and folders that a run leaves out, counted by reason and kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gfprestore.batch.walk import UNSUPPORTED_IMAGE, Skipped
from gfprestore.photo.kinds import advice_for

MOST_NAMED = 20  # in a message; `--json` names all


@dataclass(frozen=True)
class LeftOut:
    """Files or folders of one kind that are left out for one reason.

    Attributes:
        reason: Why.
        kind: What they are: the kind of an image, such as `HEIC`, `folder`, or the suffix of other files.
        count: How many.
        files: Their paths if they are images of an unsupported kind, otherwise empty.
    """

    reason: str
    kind: str
    count: int
    files: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The JSON object in `left_out` of the summary; `files` only where they are named."""
        values = asdict(self) | {"files": list(self.files)}
        return values if self.files else {name: value for name, value in values.items() if name != "files"}


def left_out_of(skipped: Iterable[Skipped]) -> tuple[LeftOut, ...]:
    """Count skipped files by reason and kind, images of unsupported kinds first, then the most frequent."""
    paths: dict[tuple[str, str], list[Path]] = {}
    for entry in skipped:
        paths.setdefault((entry.reason, entry.kind), []).append(entry.path)
    found = [
        LeftOut(reason, kind, len(files), tuple(map(str, files)) if reason == UNSUPPORTED_IMAGE else ())
        for (reason, kind), files in paths.items()
    ]
    return tuple(sorted(found, key=lambda entry: (not entry.files, -entry.count, entry.reason, entry.kind)))


def image_warnings(left_out: Iterable[LeftOut]) -> tuple[str, ...]:
    """One message for each kind of unsupported images, with their names and what to do."""
    messages = []
    for entry in left_out:
        if entry.files:
            more = f" and {entry.count - MOST_NAMED} more" if entry.count > MOST_NAMED else ""
            names = ", ".join(entry.files[:MOST_NAMED]) + more
            what = "1 image is" if entry.count == 1 else f"{entry.count} images are"
            messages.append(
                f"{what} left out, because {entry.kind} is not supported: {names}. {advice_for(entry.kind)}"
            )
    return tuple(messages)
