"""Boxes of the facial components: left eye, right eye and mouth, as seen in the image (GFP-GAN, section 3.4).

Landmarks are (x, y) of pixel centers of an aligned, square face. Boxes are left, top, right and bottom edges (3, 4)
float32, NaN if unknown. A box over the whole image is (0, 0, S, S), as for ROI align with `aligned=True`. The rules are
for the FFHQ crop of 512 pixels and are scaled to other sizes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gfprestore.errors import FolderError

Boxes = NDArray[np.float32]
Points = NDArray[Any]

PARTS = ("left_eye", "right_eye", "mouth")
COMPONENT_FILE = "FFHQ_eye_mouth_landmarks_512.pth"
LANDMARK_FILE = "ffhq-dataset-v2.json"
FFHQ_FOLDER = "images1024x1024"

RULE_SIZE = 512
FFHQ_SIZE = 1024
EYE_ENLARGEMENT = 1.4
SMALLEST_HALF = 16.0

# Rule for five landmarks, at 512 pixels: means of the rule for 68 landmarks on manually annotated faces.
EYE_HALF = 26.5  # before `EYE_ENLARGEMENT`
EYE_DROP = 3.5  # the middle of the eyelids lies below the pupil
MOUTH_HALF = 49.0

_LEFT_EYE, _RIGHT_EYE, _MOUTH = slice(36, 42), slice(42, 48), slice(48, 68)


def unknown_boxes() -> Boxes:
    """Boxes (3, 4) of NaN, for a face with unknown components."""
    return np.full((3, 4), np.nan, np.float32)


def boxes_from_68(landmarks: Points, size: int) -> Boxes:
    """Boxes of a face from its 68 landmarks.

    The center is the mean of the component's landmarks, and the half side is half of their larger extent, at least 16
    pixels at 512. Eye boxes are enlarged by 1.4.

    Args:
        landmarks: Landmarks (68, 2), pixel centers.
        size: Side of the image.
    """
    scale = size / RULE_SIZE
    parts = [np.asarray(landmarks[part], np.float64) for part in (_LEFT_EYE, _RIGHT_EYE, _MOUTH)]
    centers = np.stack([part.mean(axis=0) for part in parts])
    halves = np.array([max(float(np.max(np.ptp(part, axis=0))) / 2, SMALLEST_HALF * scale) for part in parts])
    return _square_boxes(centers, halves)


def boxes_from_five(landmarks: Points, size: int) -> Boxes:
    """Boxes of an aligned face from its five landmarks.

    At 512 pixels, the half side of an eye is 26.5 pixels, enlarged by 1.4, because all eyes of aligned faces have
    nearly the same size. The center of an eye is 3.5 pixels below its landmark. The half side of the mouth is half the
    distance of its corners, at least 49 pixels.

    Args:
        landmarks: Pixel centers (5, 2) of left eye, right eye, nose, left and right mouth corner, as seen in the image.
        size: Side of the image.
    """
    points = np.asarray(landmarks, np.float64)
    scale = size / RULE_SIZE
    mouth = max(float(np.hypot(*(points[4] - points[3]))) / 2, MOUTH_HALF * scale)
    drop = np.array([0.0, EYE_DROP * scale])
    centers = np.stack([points[0] + drop, points[1] + drop, (points[3] + points[4]) / 2])
    return _square_boxes(centers, np.array([EYE_HALF * scale, EYE_HALF * scale, mouth]))


def mirrored_boxes(boxes: Boxes, size: float) -> Boxes:
    """Boxes in the mirrored image, where the eyes are swapped; returns a new array."""
    left, top, right, bottom = boxes[[1, 0, 2]].T
    return np.stack([size - right, top, size - left, bottom], axis=1)


def read_component_file(path: Path) -> dict[int, Boxes]:
    """Read the official component file of FFHQ: boxes (3, 4) relative to the side, by the number of the image.

    The file is a nested table: `%08d` -> part -> center x, y and half side at 512 pixels, with eyes not yet enlarged.

    Raises:
        FolderError: The file cannot be read, holds code, or is another kind of file.
    """
    try:
        with torch.serialization.safe_globals(_number_types()):
            table = torch.load(path, map_location="cpu", weights_only=True)
        return {int(name): _from_centers(entry) for name, entry in table.items()}
    except Exception as error:  # torch raises many error types for damaged files
        raise FolderError(
            f"{path} cannot be read as a component file ({type(error).__name__}: {str(error)[:200]}). Download the "
            f"official {COMPONENT_FILE} again, or run `gfprestore prepare` to compute boxes."
        ) from error


def read_landmark_file(path: Path) -> dict[int, Boxes]:
    """Read the landmark file of FFHQ: boxes (3, 4) relative to the side, by the number of the image.

    Raises:
        FolderError: The file cannot be read or is another kind of file.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {
            int(number): boxes_from_68(np.asarray(entry["image"]["face_landmarks"], np.float64), FFHQ_SIZE)
            / np.float32(FFHQ_SIZE)
            for number, entry in table.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise FolderError(
            f"{path} cannot be read as FFHQ's landmark file ({type(error).__name__}: {error}). Download "
            f"{LANDMARK_FILE} again, or delete it to continue without it."
        ) from error


def known_boxes(folder: Path, components: Path | None = None) -> dict[int, Boxes]:
    """Boxes (3, 4) relative to the side, by the numbers of the images, from FFHQ's files; empty without such a file.

    Args:
        folder: Folder of aligned faces.
        components: FFHQ's component or landmark file; None searches the folder and its parent.

    Raises:
        FolderError: The file is missing or cannot be read.
    """
    if components is not None and not components.is_file():
        raise FolderError(f"{components} does not exist. Use FFHQ's {COMPONENT_FILE} or {LANDMARK_FILE}.")
    places = [place / name for place in (folder, folder.parent) for name in (COMPONENT_FILE, LANDMARK_FILE)]
    path = components or next((place for place in places if place.is_file()), None)
    if path is None:
        return {}
    return read_landmark_file(path) if path.suffix == ".json" else read_component_file(path)


def number_of(path: Path) -> int:
    """Number of an FFHQ image, which is its file name; -1 for other names."""
    return int(path.stem) if path.stem.isascii() and path.stem.isdigit() else -1


def aligned_part(folder: Path) -> Path:
    """Folder of the aligned images; in the layout of FFHQ it is a subfolder."""
    return folder / FFHQ_FOLDER if (folder / FFHQ_FOLDER).is_dir() else folder


def _square_boxes(centers: Points, halves: Points) -> Boxes:
    """Square boxes (3, 4) around pixel centers, with enlarged eyes."""
    reach = (halves * np.array([EYE_ENLARGEMENT, EYE_ENLARGEMENT, 1.0]))[:, None]
    edges = centers + 0.5
    return np.concatenate([edges - reach, edges + reach], axis=1).astype(np.float32)


def _from_centers(entry: Mapping[str, Any]) -> Boxes:
    """Boxes relative to the side, from the centers and half sides of the official file."""
    parts = np.array([np.asarray(entry[part], np.float64) for part in PARTS])  # (3, 3)
    return np.asarray(_square_boxes(parts[:, :2], parts[:, 2]) / np.float32(RULE_SIZE))


def _number_types() -> list[Any]:
    """The numpy types that a component file may contain, under the names of numpy 1 and 2."""
    types: list[Any] = [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8"))]
    for name, example in (("_reconstruct", np.zeros(1)), ("scalar", np.float64(0))):
        rebuild = example.__reduce__()[0]
        types += [(rebuild, f"{module}.multiarray.{name}") for module in ("numpy.core", "numpy._core")]
    return types
