"""Helpers of the commands that write sets of image pairs: sources, description, work ahead, files of a pair.

A set is a folder with `lq/NAME.png`, `gt/NAME.png` and its options in `set.json`. A set is only resumed with the same
options, and is never inside its source.
"""

from __future__ import annotations

import fnmatch
import json
import unicodedata
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gfprestore.batch.output_folder import create_folder_within
from gfprestore.batch.walk import Skipped
from gfprestore.data.image_folders import TABLE_NAME, images_in, table_rows
from gfprestore.data.images import Pixels, sha256_of, write_png
from gfprestore.errors import FolderError, PhotoError, UsageError
from gfprestore.files import write_whole

LQ, GT = "lq", "gt"
SET_NAME = "set.json"

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class SetReport:
    """Result of a command that writes a set.

    Attributes:
        made: Number of pairs that this run created.
        done_before: Number of pairs that an earlier run had created.
        failed: Images that cannot be used.
    """

    made: int
    done_before: int
    failed: tuple[Skipped, ...]


def find_sources(source: Path, split: str | None, exclude: Sequence[str]) -> list[Path]:
    """List the source images of a set in natural order.

    Args:
        source: The folder.
        split: Use only the rows of the folder's `index.csv` with this `split`; None uses all images.
        exclude: Shell patterns of names and paths to skip.

    Raises:
        FolderError: The folder cannot be read or has no images.
        UsageError: The split does not exist.
    """
    if not source.is_dir():
        raise FolderError(f"{source} is not a folder. Use a folder of aligned faces.")
    found = images_in(source) if split is None else _of_split(source, split)
    paths = [path for path in found if not _is_excluded(path.relative_to(source), exclude)]
    if not paths:
        raise FolderError(f"There are no images to use in {source}. Use a folder of aligned faces.")
    return paths


def read_description(folder: Path) -> dict[str, Any] | None:
    """Read the options of a set; None if the folder is not a set.

    Raises:
        FolderError: The description exists and cannot be read.
    """
    path = folder / SET_NAME
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise TypeError("it is not a JSON object")
    except (OSError, ValueError, TypeError) as error:
        raise FolderError(f"{path} cannot be read ({error}). Create the set again in another folder.") from error
    return document


def check_apart(source: Path, output: Path) -> None:
    """Check that neither the set is within the source nor the source within the set.

    Raises:
        FolderError: One is within the other.
    """
    inner, outer = output.resolve(), source.resolve()
    if inner.is_relative_to(outer) or outer in ((inner / LQ).resolve(), (inner / GT).resolve()):
        raise FolderError(
            f"The set {output} would be within its source {source}, which is never modified. "
            "Use another folder with --output."
        )


def check_description(output: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Write the description of a new set, or check that an existing set has the same options.

    Args:
        output: The set.
        wanted: Options of the set, with values that JSON supports.

    Returns:
        The description as read back from JSON.

    Raises:
        FolderError: The folder has a set with other options, or images that are not a set.
    """
    description: dict[str, Any] = json.loads(json.dumps(wanted))
    found = read_description(output)
    if found is None:
        if any((output / part).exists() for part in (LQ, GT)):
            raise FolderError(f"{output} contains images that this command did not create. Use another folder.")
        write_description(output, description)
        return description
    changed = [key for key, value in description.items() if found.get(key) != value]
    if changed:
        raise FolderError(f"{output} is a set with another {', '.join(changed)}. Use another folder with --output.")
    return description


def write_description(output: Path, description: Mapping[str, Any]) -> None:
    """Write `set.json`.

    Raises:
        FolderError: It cannot be written.
    """
    write_whole(output / SET_NAME, (json.dumps(description, indent=2, sort_keys=True) + "\n").encode("utf-8"))


def worked_ahead(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Generator[Result, None, None]:
    """Yield the results in the order of the items; a limited number is computed ahead in threads."""
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
    """A name without case and Unicode normalization, as some file systems compare names."""
    return unicodedata.normalize("NFC", name).casefold()


def taken_name(path: Path, first: Path) -> Skipped:
    """Report an image whose name in the set belongs to another image."""
    return Skipped(
        path, f"{path} and {first} would have the same name in the set. Rename one of them.", is_problem=True
    )


def image_path(output: Path, part: str, name: str) -> Path:
    """Path of an image of a set; `part` is `lq` or `gt`."""
    return output / part / f"{name}.png"


def write_part(pixels: Pixels, output: Path, part: str, name: str) -> str:
    """Write an image of a set and return the SHA-256 of its file.

    Raises:
        FolderError: The set no longer exists.
        PhotoError: The image cannot be written.
    """
    path = image_path(output, part, name)
    create_folder_within(path.parent, output)
    write_png(path, pixels)
    return sha256_of(path)


def is_whole(output: Path, name: str, hashes: Mapping[str, str]) -> bool:
    """Whether the files of a pair are unchanged; `hashes` by part."""
    try:
        return all(sha256_of(image_path(output, part, name)) == digest for part, digest in hashes.items())
    except PhotoError:
        return False


def _of_split(source: Path, split: str) -> list[Path]:
    if not (source / TABLE_NAME).is_file():
        raise UsageError(f"--split {split} needs a {TABLE_NAME} with a column `split` in {source}, which is missing.")
    rows = table_rows(source)
    paths = [source / row["file"] for row in rows if row.get("split") == split]
    if not paths:
        known = sorted({row.get("split") or "" for row in rows} - {""})
        raise UsageError(
            f"No row of {source / TABLE_NAME} has the split {split}. Available splits: {', '.join(known) or 'none'}."
        )
    return paths


def _is_excluded(relative: Path, patterns: Sequence[str]) -> bool:
    names = (relative.name, relative.as_posix())
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns for name in names)
