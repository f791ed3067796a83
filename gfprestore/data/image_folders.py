"""Folders of faces: the images in them, and the table `index.csv` that may stand beside them.

The table has a column `file` (a path within the folder) and may have `split`, whose rows `test` are held out from
training, `landmarks` and whatever else is known of an image.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

from gfprestore.batch.walk import natural_key
from gfprestore.errors import FolderError
from gfprestore.files import TEMPORARY_PREFIX
from gfprestore.photo.photo import PHOTO_SUFFIXES

TABLE_NAME = "index.csv"


def images_in(folder: Path) -> list[Path]:
    """Images in a folder and those below it, in the natural order of their names; nothing hidden.

    Raises:
        FolderError: A folder cannot be read.
    """
    found = []
    for place, folders, names in os.walk(folder, onerror=_tell_unreadable):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural_key)
        images = (name for name in names if not name.startswith((".", TEMPORARY_PREFIX)))
        found += [Path(place, name) for name in sorted(images, key=natural_key) if _is_image(name)]
    return found


def table_rows(folder: Path) -> list[dict[str, str]]:
    """The rows of a folder's `index.csv`, each with at least `file`.

    Raises:
        FolderError: The table cannot be read, or a row names no file.
    """
    try:
        with (folder / TABLE_NAME).open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise table_error(folder, error) from error
    if any(not row.get("file") for row in rows):
        raise table_error(folder, ValueError("a row names no file"))
    return rows


def is_held_out(row: dict[str, str]) -> bool:
    """Whether a row of the table must not be trained on."""
    return row.get("split") == "test"


def table_error(folder: Path, error: Exception) -> FolderError:
    """What is told of a table that cannot be used."""
    return FolderError(
        f"{folder / TABLE_NAME} cannot be read ({type(error).__name__}: {error}). It needs a column `file`, and may "
        "have `landmarks` (ten numbers) and `split`. Mend it or take it away."
    )


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in PHOTO_SUFFIXES


def _tell_unreadable(error: OSError) -> None:
    raise FolderError(
        f"The folder {error.filename} cannot be read: {error.strerror}. Check its permissions."
    ) from error
