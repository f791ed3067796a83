"""What a run was asked to write, and what became of each photo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class OutputOptions:
    """How results are written.

    Attributes:
        format: `keep`, `jpg`, `png`, `webp` or `tiff`.
        quality: JPEG or WebP quality 1 to 100; None keeps the source's or betters it.
        overwrite: Do again what is done already.
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
    """What became of one photo; the fields are those of `--json`.

    Attributes:
        source: The photo.
        output: The written file; None where nothing was written.
        status: `restored`, `skipped` or `failed`.
        faces: Faces found.
        restored_faces: Faces restored and pasted.
        width: Width of the output in pixels; None where nothing was written.
        height: Height of the output in pixels; None where nothing was written.
        seconds: Time spent on this photo.
        restorer: Name of the face restorer.
        background: Name of the background method.
        error: What went wrong; None where nothing did.
        warnings: What the photo's reader had to say; for people, not in `--json`.
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
        """The object that `--json` writes, in the documented order of its fields."""
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
