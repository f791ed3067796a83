"""What commands that make pairs of images in a folder share: sources, description, work ahead, files of a pair.

A set is a folder with `lq/NAME.png`, `gt/NAME.png` and `set.json`, which holds the options it was made with. A set is
only resumed with the same options, and never lies in its source.
"""

from __future__ import annotations

import fnmatch
import json
import unicodedata
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from gfprestore.batch.output_folder import create_folder_within
from gfprestore.batch.walk import Skipped
from gfprestore.data.degrade_folder import GT, LQ, SET_NAME, read_description
from gfprestore.data.image_folders import TABLE_NAME, images_in, table_rows
from gfprestore.data.images import Pixels, sha256_of, write_png
from gfprestore.errors import FolderError, PhotoError, UsageError
from gfprestore.files import write_whole

Item = TypeVar("Item")
Result = TypeVar("Result")


def find_sources(source: Path, split: str | None, exclude: Sequence[str]) -> list[Path]:
    """The images that a set is made of, in natural order.

    Args:
        source: The folder.
        split: Take only the rows of the folder's `index.csv` with this `split`; None takes every image.
        exclude: Shell patterns of names and paths to leave out.

    Raises:
        FolderError: The folder cannot be read or has no images.
        UsageError: There is no such split.
    """
    if not source.is_dir():
        raise FolderError(f"{source} is not a folder. Name a folder of aligned faces.")
    found = images_in(source) if split is None else _of_split(source, split)
    paths = [path for path in found if not _is_excluded(path.relative_to(source), exclude)]
    if not paths:
        raise FolderError(f"There are no images to use in {source}. Name a folder of aligned faces.")
    return paths


def check_apart(source: Path, output: Path) -> None:
    """Refuses a set that would lie in its source, and a source in the set.

    Raises:
        FolderError: They are not apart.
    """
    inner, outer = output.resolve(), source.resolve()
    if inner.is_relative_to(outer) or outer in ((inner / LQ).resolve(), (inner / GT).resolve()):
        raise FolderError(
            f"The set {output} would lie within its source {source}, and originals are never written to. "
            "Name another folder with --output."
        )


def check_description(output: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the description of a set, or finds that it is the same.

    Args:
        output: The set.
        wanted: What it is made with, values that JSON knows.

    Returns:
        The description as JSON gives it back.

    Raises:
        FolderError: The folder holds a set made with other options, or images that are no set of ours.
    """
    description: dict[str, Any] = json.loads(json.dumps(wanted))
    found = read_description(output)
    if found is None:
        if any((output / part).exists() for part in (LQ, GT)):
            raise FolderError(f"{output} holds images that this command did not make. Name another folder.")
        write_description(output, description)
        return description
    changed = [key for key, value in description.items() if found.get(key) != value]
    if changed:
        raise FolderError(
            f"{output} holds a set made with another {', '.join(changed)}. Name another folder with --output."
        )
    return description


def write_description(output: Path, description: Mapping[str, Any]) -> None:
    """Writes `set.json`.

    Raises:
        FolderError: It cannot be written.
    """
    write_whole(output / SET_NAME, (json.dumps(description, indent=2, sort_keys=True) + "\n").encode("utf-8"))


def worked_ahead(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Generator[Result, None, None]:
    """The results in the order of the items; a few are worked on ahead in threads, so that memory stays bounded."""
    threads = ThreadPoolExecutor(max(workers, 1), thread_name_prefix="pairs")
    ahead: list[Future[Result]] = []
    try:
        for item in items:
            ahead.append(threads.submit(work, item))
            if len(ahead) >= 2 * max(workers, 1):
                yield ahead.pop(0).result()
        for future in ahead:
            yield future.result()
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def folded(name: str) -> str:
    """A name as a file system that folds case and normal form sees it."""
    return unicodedata.normalize("NFC", name).casefold()


def taken_name(path: Path, first: Path) -> Skipped:
    """The problem of an image whose name in the set is taken by another."""
    return Skipped(path, f"{path} would have the name of {first} in the set. Rename one of them.", is_problem=True)


def image_path(output: Path, part: str, name: str) -> Path:
    """Where an image of a set lies: `part` is `lq` or `gt`."""
    return output / part / f"{name}.png"


def write_part(pixels: Pixels, output: Path, part: str, name: str) -> str:
    """Writes an image of a set and gives the SHA-256 of its file.

    Raises:
        FolderError: The set is gone.
        PhotoError: The image cannot be written.
    """
    path = image_path(output, part, name)
    create_folder_within(path.parent, output)
    write_png(path, pixels)
    return sha256_of(path)


def is_whole(output: Path, name: str, hashes: Mapping[str, str]) -> bool:
    """Whether the files of a pair are what was written; `hashes` by part."""
    try:
        return all(sha256_of(image_path(output, part, name)) == digest for part, digest in hashes.items())
    except PhotoError:
        return False


def _of_split(source: Path, split: str) -> list[Path]:
    if not (source / TABLE_NAME).is_file():
        raise UsageError(f"--split {split} needs a {TABLE_NAME} with a column `split` in {source}; there is none.")
    rows = table_rows(source)
    paths = [source / row["file"] for row in rows if row.get("split") == split]
    if not paths:
        known = sorted({row.get("split") or "" for row in rows} - {""})
        raise UsageError(
            f"No row of {source / TABLE_NAME} has the split {split}. There are: {', '.join(known) or 'none'}."
        )
    return paths


def _is_excluded(relative: Path, patterns: Sequence[str]) -> bool:
    names = (relative.name, relative.as_posix())
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns for name in names)
