"""Detect the faces of a photo and, if all are turned in the same direction, turn the photo or tell its user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gfprestore.faces.detection import DetectedFace, quarter_turns
from gfprestore.photo.photo import Photo
from gfprestore.photo.turning import turned_right

if TYPE_CHECKING:
    from gfprestore.restoration.restoration import PreparedPhoto, Restoration


def prepared_upright(
    restoration: Restoration, photo: Photo, name: str, auto_rotate: bool
) -> tuple[Photo, PreparedPhoto, int]:
    """Detect and crop the faces of a photo, turned upright if that is asked for.

    Args:
        restoration: The opened restoration.
        photo: The photo.
        name: Name from which the seeds of the faces are derived.
        auto_rotate: Turn a photo whose faces agree; otherwise a warning tells that it would help.

    Returns:
        The photo, its faces, and the degrees by which it was turned to the right.
    """
    prepared = restoration.prepare(restoration.without_hidden_colors(photo.pixels, photo.alpha), name)
    turns = _common_turns(prepared.faces)
    if not turns:
        return photo, prepared, 0
    if not auto_rotate:
        warning = _turned_warning(len(prepared.faces), turns)
        return replace(photo, metadata=photo.metadata.warned(warning)), prepared, 0
    photo = turned_right(photo, turns)
    pixels = restoration.without_hidden_colors(photo.pixels, photo.alpha)
    return photo, restoration.prepare(pixels, name), 90 * turns


def _common_turns(faces: Sequence[DetectedFace]) -> int:
    """Quarter turns to the left by which all faces are turned; 0 if they differ, or there are none."""
    turns = {quarter_turns(face) for face in faces}
    return turns.pop() if len(turns) == 1 else 0


def _turned_warning(count: int, turns: int) -> str:
    subject = "its face is" if count == 1 else f"its {count} faces are"
    how = {1: "turned to the left", 2: "upside down", 3: "turned to the right"}[turns]
    return f"{subject} {how}; --auto-rotate writes such a photo upright"
