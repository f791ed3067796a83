"""Result of a file of several pages."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from gfprestore.batch.results import PhotoResult

if TYPE_CHECKING:
    from gfprestore.restoration.pages import RestoredPage
    from gfprestore.restoration.planned import NetworkNames


def result_of_pages(pages: Iterable[RestoredPage], source: Path, output: Path, names: NetworkNames) -> PhotoResult:
    """Sum up all pages; width and height are those of the first, and warnings name their page.

    Args:
        pages: The pages, which are restored while they are counted.
        source: The file.
        output: The written file.
        names: Names of the networks.
    """
    faces = restored = untouched = crops = count = 0
    size: tuple[int, int] | None = None
    warnings: list[str] = []
    for page in pages:
        height, width = page.after.pixels.shape[:2]
        size = size or (width, height)
        count = page.number
        faces += max(len(page.finished.faces), len(page.finished.crops))
        crops += len(page.finished.crops)
        restored += page.finished.restored_faces
        untouched += page.finished.untouched_faces
        warnings += [f"page {page.number}: {note}" for note in (*page.after.metadata.warnings, *page.notes)]
    missing = crops - restored - untouched
    error = None
    if missing:
        error = (
            f"{source}: {missing} of {crops} faces could not be restored: the output of {names.restorer} is NaN or "
            "infinite, in fp32 too. They were left unchanged. Check the weights file."
        )
    return PhotoResult(
        source=source,
        output=output,
        status="failed" if missing else "restored",
        faces=faces,
        restored_faces=restored,
        width=size[0] if size else None,
        height=size[1] if size else None,
        seconds=0.0,
        restorer=names.restorer,
        background=names.background,
        error=error,
        warnings=tuple(warnings),
        untouched_faces=untouched,
        pages=count,
    )
