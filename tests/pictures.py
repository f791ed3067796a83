"""Pictures read and written by Pillow alone, for comparison with what the tool does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def pixels_of(path: Path | str) -> NDArray[Any]:
    """The file's samples as they are stored, decoded to their end."""
    with Image.open(path) as picture:
        return np.array(picture)


def size_of(path: Path | str) -> tuple[int, int]:
    """Width and height."""
    with Image.open(path) as picture:
        return picture.size


def info_of(path: Path | str) -> dict[str, Any]:
    """What Pillow reads beside the pixels."""
    with Image.open(path) as picture:
        picture.load()
        return dict(picture.info)


def save(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    """Writes pixels, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path
