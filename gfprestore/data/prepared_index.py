"""The index of a prepared training set: one JSON object a photo, in the order in which photos were done.

A line is written when the photo's crops are on the disk, so that whatever stops `prepare`, the index tells the truth. A
later line about a photo replaces an earlier one; a line that was cut short at the end is as if never written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gfprestore.errors import FolderError
from gfprestore.files import whole_file

INDEX_NAME = "index.jsonl"

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class IndexedFace:
    """A crop of the set; coordinates are in its pixels unless said otherwise.

    Attributes:
        file: Its path within the set.
        size: Its side.
        box: Left, top, right, bottom edge of the face in the photo.
        landmarks: (5, 2), pixel centers; empty where the boxes come from elsewhere.
        eye_px: Distance of the eyes in the photo.
        sharpness: Variance of the Laplacian of the crop's face, see `prepare`.
        yaw: How far the face is turned: the nose's way off the middle in eye distances, to the right positive.
        boxes: (3, 4) edges of left eye, right eye, mouth.
    """

    file: str
    size: int
    box: Numbers
    landmarks: tuple[Numbers, ...]
    eye_px: float
    sharpness: float
    yaw: float
    boxes: tuple[Numbers, ...]


@dataclass(frozen=True)
class IndexedPhoto:
    """What became of one photo.

    Attributes:
        source: Its path within the source folder.
        bytes: Its size when it was read.
        modified_ns: Its time when it was read.
        settings: What it was done with, in a word.
        faces: The crops that were kept.
        rejected: How many faces were not, by reason.
        error: Why the photo could not be used; empty where it could.
    """

    source: str
    bytes: int
    modified_ns: int
    settings: str
    faces: tuple[IndexedFace, ...] = ()
    rejected: dict[str, int] = field(default_factory=dict)
    error: str = ""


def read_index(folder: Path) -> list[IndexedPhoto]:
    """The photos of a prepared set, each once, in the order of the index.

    Raises:
        FolderError: The index cannot be read, or a line other than the last is damaged.
    """
    path = folder / INDEX_NAME
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise FolderError(
            f"{path} cannot be read: {error.strerror or error}. Run `gfprestore prepare` again."
        ) from error
    photos: dict[str, IndexedPhoto] = {}
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line end was cut short
        try:
            photo = _photo_of(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FolderError(
                f"{path}, line {number}, is damaged ({type(error).__name__}: {error}). Take that line out and run "
                "`gfprestore prepare` again."
            ) from error
        photos[photo.source] = photo
    return list(photos.values())


def line_of(photo: IndexedPhoto) -> bytes:
    """A photo as one line of the index."""
    return json.dumps(asdict(photo), ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def write_index(folder: Path, photos: Iterable[IndexedPhoto]) -> None:
    """Writes the whole index anew, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    with whole_file(folder / INDEX_NAME) as stream:
        for photo in photos:
            stream.write(line_of(photo))


def _photo_of(values: dict[str, Any]) -> IndexedPhoto:
    """A photo from its line's values.

    Raises:
        ValueError: A crop lies outside the set.
        KeyError: Something is missing.
        TypeError: Something is of another kind.
        AttributeError: The same.
    """
    return IndexedPhoto(
        str(values["source"]),
        int(values["bytes"]),
        int(values["modified_ns"]),
        str(values["settings"]),
        tuple(_face_of(face) for face in values["faces"]),
        {str(reason): int(count) for reason, count in values["rejected"].items()},
        str(values["error"]),
    )


def _face_of(values: dict[str, Any]) -> IndexedFace:
    file = str(values["file"])
    if ".." in Path(file).parts or not (Path("set") / file).is_relative_to("set"):
        raise ValueError(f"{file} lies outside the set")
    size = int(values["size"])
    if size < 1 or len(values["boxes"]) != 3:
        raise ValueError(f"{file} has no size or not three boxes")
    return IndexedFace(
        file,
        size,
        _numbers(values["box"], 4),
        tuple(_numbers(point, 2) for point in values["landmarks"]),
        float(values["eye_px"]),
        float(values["sharpness"]),
        float(values["yaw"]),
        tuple(_numbers(box, 4) for box in values["boxes"]),
    )


def _numbers(values: Any, count: int) -> Numbers:
    if len(values) != count:
        raise ValueError(f"{count} numbers are needed, not {len(values)}")
    return tuple(float(value) for value in values)
