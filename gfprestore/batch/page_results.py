"""Result of a file of several pages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gfprestore.batch.results import FaceDetail, PhotoResult, face_details, invalid_faces

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
    details: list[FaceDetail] | None = None
    for page in pages:
        height, width = page.after.pixels.shape[:2]
        size = size or (width, height)
        count = page.number
        faces += max(len(page.finished.faces), len(page.finished.crops))
        crops += len(page.finished.crops)
        restored += page.finished.restored_faces
        untouched += page.finished.untouched_faces
        of_page = face_details(page.finished)
        if of_page is not None:
            details = [*(details or ()), *(replace(detail, page=page.number) for detail in of_page)]
        warnings += [f"page {page.number}: {note}" for note in (*page.after.metadata.warnings, *page.notes)]
    missing = crops - restored - untouched
    error = invalid_faces(source, missing, crops, names.restorer) if missing else None
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
        face_details=None if details is None else tuple(details),
        pages=count,
    )
