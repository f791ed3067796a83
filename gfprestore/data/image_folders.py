"""Folders of faces: their images and their optional table `index.csv`.

The table has a column `file` (a path within the folder). It may have a column `split`, whose value `test` excludes an
image from training, a column `landmarks`, and others.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path

from gfprestore.batch.names import natural_key
from gfprestore.batch.walk import Skipped
from gfprestore.errors import FolderError
from gfprestore.files import TEMPORARY_PREFIX
from gfprestore.photo.photo import PHOTO_SUFFIXES

TABLE_NAME = "index.csv"


def images_in(folder: Path) -> list[Path]:
    """Images of a folder and its subfolders, in natural order, without hidden files.

    Raises:
        FolderError: A folder cannot be read.
    """
    found = []
    for place, folders, names in os.walk(folder, onerror=_raise_unreadable):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural_key)
        images = (name for name in names if not name.startswith((".", TEMPORARY_PREFIX)))
        found += [Path(place, name) for name in sorted(images, key=natural_key) if _is_image(name)]
    return found


def table_rows(folder: Path) -> list[dict[str, str]]:
    """Rows of the `index.csv` of a folder, each with at least `file`.

    Raises:
        FolderError: The table cannot be read, or a row has no file name.
    """
    try:
        with (folder / TABLE_NAME).open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise table_error(folder, error) from error
    if any(not row.get("file") for row in rows):
        raise table_error(folder, ValueError("a row has no file name"))
    return rows


def is_held_out(row: dict[str, str]) -> bool:
    """Whether a row of the table is excluded from training."""
    return row.get("split") == "test"


def table_error(folder: Path, error: Exception) -> FolderError:
    """Error for a table that cannot be used."""
    return FolderError(
        f"{folder / TABLE_NAME} cannot be read ({type(error).__name__}: {error}). It needs a column `file`, and may "
        "have columns `landmarks` (ten numbers) and `split`. Correct or delete it."
    )


def nothing_usable(folder: Path, count: int, items: str, left_out: Iterable[Skipped]) -> FolderError:
    """Error for a folder of which nothing can be used; `items` is what it holds, and the first reason is named."""
    first = next(iter(left_out))
    return FolderError(f"None of the {count} {items} in {folder} can be used. First problem: {first.reason}")


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in PHOTO_SUFFIXES


def _raise_unreadable(error: OSError) -> None:
    raise FolderError(
        f"The folder {error.filename} cannot be read: {error.strerror}. Check its permissions."
    ) from error
