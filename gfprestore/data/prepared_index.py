"""The index of a prepared training set: one JSON object per photo, in processing order.

A line is written after the crops of its photo, so that the index is correct even if `prepare` is killed. A later line
replaces an earlier line for the same photo. An incomplete last line is ignored.
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
    """A crop of the set; coordinates are in pixels of the crop unless stated otherwise.

    Attributes:
        file: Path within the set.
        size: Side of the crop.
        box: Left, top, right and bottom edge of the face in the photo.
        landmarks: Pixel centers (5, 2); empty if the boxes come from FFHQ's files.
        eye_px: Distance of the eyes in the photo, in pixels.
        sharpness: Variance of the Laplacian of the face, see `face_sharpness`.
        yaw: Rotation of the head: offset of the nose from the middle in eye distances, positive to the right.
        boxes: Edges (3, 4) of left eye, right eye and mouth.
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
    """Result for one photo.

    Attributes:
        source: Path within the source folder.
        bytes: Size of the file when it was read.
        modified_ns: Modification time of the file when it was read.
        settings: Hash of the options.
        faces: Crops in the set.
        rejected: Number of rejected faces by reason.
        error: Reason why the photo cannot be used; empty if it can.
    """

    source: str
    bytes: int
    modified_ns: int
    settings: str
    faces: tuple[IndexedFace, ...] = ()
    rejected: dict[str, int] = field(default_factory=dict)
    error: str = ""


def read_index(folder: Path) -> list[IndexedPhoto]:
    """Read the photos of a prepared set, each once, in the order of the index.

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
    for number, line in enumerate(lines[:-1], start=1):  # the part after the last newline is incomplete
        try:
            photo = _photo_of(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FolderError(
                f"{path}, line {number}, is damaged ({type(error).__name__}: {error}). Delete this line and run "
                "`gfprestore prepare` again."
            ) from error
        photos[photo.source] = photo
    return list(photos.values())


def line_of(photo: IndexedPhoto) -> bytes:
    """Line of the index for a photo."""
    return json.dumps(asdict(photo), ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def write_index(folder: Path, photos: Iterable[IndexedPhoto]) -> None:
    """Write the complete index atomically.

    Raises:
        OSError: The file cannot be written.
    """
    with whole_file(folder / INDEX_NAME) as stream:
        for photo in photos:
            stream.write(line_of(photo))


def _photo_of(values: dict[str, Any]) -> IndexedPhoto:
    """Parse the values of a line.

    Raises:
        ValueError: A value is invalid, or a crop lies outside the set.
        KeyError: A value is missing.
        TypeError: A value has another type.
        AttributeError: A value has another type.
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
        raise ValueError(f"{file} has no valid size, or not exactly three boxes")
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
        raise ValueError(f"expected {count} numbers, not {len(values)}")
    return tuple(float(value) for value in values)
