"""Output options of a run and the result of each photo."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfprestore.errors import GfprestoreError

if TYPE_CHECKING:
    from gfprestore.restoration.restoration import RestoredPhoto

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutputOptions:
    """Options for writing results.

    Attributes:
        format: `keep`, `jpg`, `png`, `webp` or `tiff`.
        quality: JPEG or WebP quality 1 to 100; None keeps the source's quality or raises it.
        overwrite: Restore finished photos again and replace existing files.
        save_faces: Write each face before and after into `_faces`.
        compare: Write before and after side by side into `_compare`.
        workers: Threads that decode and encode.
        auto_rotate: Write a photo upright if all its faces are turned in the same direction.
    """

    format: str = "keep"
    quality: int | None = None
    overwrite: bool = False
    save_faces: bool = False
    compare: bool = False
    workers: int = 2
    auto_rotate: bool = False


@dataclass(frozen=True)
class FaceDetail:
    """What was done to one face; the fields are those of `--json`.

    Attributes:
        box: Left, top, right and bottom edges in pixels of the input; None for an aligned input.
        outcome: `restored`, `untouched` (taken for untouched and not changed) or `failed`.
        levels: Levels, 0 to 100, of the retouching operations that were assumed; None if unknown.
        page: Number of the page in a file of several pages; otherwise None, and not part of `--json`.
    """

    box: tuple[float, ...] | None
    outcome: str
    levels: dict[str, int] | None
    page: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The JSON object of this face."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("page", None)}


@dataclass(frozen=True)
class PhotoResult:
    """Result of one photo; the fields are those of `--json`.

    Attributes:
        source: The photo.
        output: The written file; None if nothing was written.
        status: `restored`, `skipped` or `failed`.
        faces: Number of detected faces.
        restored_faces: Number of faces restored and pasted.
        width: Width of the output in pixels; None if nothing was written.
        height: Height of the output in pixels; None if nothing was written.
        seconds: Time spent on this photo.
        restorer: Name of the face restorer.
        background: Name of the background method.
        error: Error message; None if there was no error.
        warnings: Warnings of the photo's reader and writer; printed, not part of `--json`.
        untouched_faces: Number of faces that were taken for untouched and not changed (FRRffusion only).
        skipped_because: `done` by an earlier run, `changed` after a run wrote the result, or `taken` by a file that no
            run wrote; None if the photo was not skipped.
        pages: Number of pages of the file.
        face_details: What was done to each face; None with restorers that have nothing to say beyond the counts.
        rotated: Degrees by which the photo, or its first page, was turned to the right, because its faces were turned
            to the left.
    """

    source: Path
    output: Path | None
    status: str
    faces: int
    restored_faces: int
    width: int | None
    height: int | None
    seconds: float
    restorer: str
    background: str
    error: str | None = None
    warnings: tuple[str, ...] = ()
    untouched_faces: int = 0
    face_details: tuple[FaceDetail, ...] | None = None
    rotated: int = 0
    skipped_because: str | None = None
    pages: int = 1

    def as_json(self) -> dict[str, Any]:
        """The JSON object of `--json`, in the documented order of its fields."""
        return {
            "source": str(self.source),
            "output": None if self.output is None else str(self.output),
            "status": self.status,
            "faces": self.faces,
            "restored_faces": self.restored_faces,
            "width": self.width,
            "height": self.height,
            "seconds": round(self.seconds, 3),
            "restorer": self.restorer,
            "background": self.background,
            "error": self.error,
            **({} if self.pages == 1 else {"pages": self.pages}),
            **({} if self.skipped_because is None else {"skipped_because": self.skipped_because}),
            **({"rotated": self.rotated} if self.rotated else {}),
            **({} if self.face_details is None else {"face_details": [face.as_json() for face in self.face_details]}),
        }


class ResultCounts(Counter[str]):
    """Counts over the results of a run: by status and reason of skipping, and of the faces."""

    def add(self, result: PhotoResult) -> None:
        """Count one result."""
        self[result.status] += 1
        if result.skipped_because is not None:
            self[result.skipped_because] += 1
        self["faces"] += result.faces
        self["restored_faces"] += result.restored_faces


def face_details(photo: RestoredPhoto) -> tuple[FaceDetail, ...] | None:
    """What was done to each face of a photo; None if no face has levels of retouching."""
    if all(face is None or face.levels is None for face in photo.restored):
        return None
    boxes = [tuple(round(float(edge), 1) for edge in face.box) for face in photo.faces]
    details = []
    for index, face in enumerate(photo.restored):
        box = boxes[index] if len(boxes) == len(photo.restored) else None
        levels = None
        if face is not None and face.levels is not None:
            levels = {name: round(100 * level) for name, level in face.levels.items()}
        outcome = "failed" if face is None else "untouched" if face.is_untouched else "restored"
        details.append(FaceDetail(box, outcome, levels))
    return tuple(details)


def invalid_faces(source: Path, missing: int, count: int, restorer: str) -> str:
    """Error message for a photo some of whose faces a network gave no valid result."""
    return (
        f"{source}: {missing} of {count} faces could not be restored: the output of {restorer} is NaN or infinite, in "
        "fp32 too. They were left unchanged. Check the weights file."
    )


def error_message(error: Exception, source: Path) -> str:
    """Error message for one photo; the traceback of a bug goes to the log, visible with `--debug`."""
    if isinstance(error, GfprestoreError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{source} does not fit into memory. Close other programs, or lower --workers."
    log.debug("%s failed", source, exc_info=error)
    return (
        f"{source} could not be restored: {type(error).__name__}: {error}. This is a bug of gfprestore. "
        "Run it again with --debug and report the output."
    )
