"""Output options of a run and the result of each photo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
    """

    format: str = "keep"
    quality: int | None = None
    overwrite: bool = False
    save_faces: bool = False
    compare: bool = False
    workers: int = 2


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
        }
