"""Results of one step of the evaluation, kept so that an interrupted run resumes.

A step writes some images per case, and a line of JSON with the key of its inputs, the SHA-256 of the images, and what
else is to be remembered. A case is done if its key is the same and its images are unchanged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gfprestore.batch.output_folder import create_folder_within
from gfprestore.data.images import Pixels, sha256_of, write_png
from gfprestore.errors import PhotoError
from gfprestore.files import append

RECORD_NAME = "done.jsonl"


def key_of(*parts: object) -> str:
    """Key of a step's inputs: SHA-256 of their JSON, in hex digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8", "surrogateescape")).hexdigest()


class Kept:
    """Images and data of one step, by case.

    Args:
        folder: Folder of the step; created if it is missing.
        root: Output folder of the evaluation, which exists.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        create_folder_within(folder, root)
        self.folder = folder
        self._root = root
        self._path = folder / RECORD_NAME
        self._lines: dict[str, dict[str, Any]] = {}
        if self._path.is_file():
            for line in self._path.read_bytes().splitlines():
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    document = json.loads(line)
                    self._lines[str(document["name"])] = document

    def is_done(self, name: str, key: str) -> bool:
        """Whether the case is done with the same inputs and its images are unchanged."""
        line = self._lines.get(name)
        if line is None or line.get("key") != key:
            return False
        try:
            return all(sha256_of(self.path(part, name)) == digest for part, digest in line["images"].items())
        except (PhotoError, AttributeError, KeyError):
            return False

    def put(self, name: str, key: str, images: Mapping[str, Pixels], data: Mapping[str, Any] | None = None) -> None:
        """Write the images of a case by part, then its line.

        Raises:
            PhotoError: An image cannot be written.
            FolderError: The output folder cannot be written.
        """
        hashes = {}
        for part, pixels in images.items():
            path = self.path(part, name)
            create_folder_within(path.parent, self._root)
            write_png(path, pixels)
            hashes[part] = sha256_of(path)
        line = {"name": name, "key": key, "images": hashes, "data": dict(data or {})}
        append(self._path, (json.dumps(line) + "\n").encode("ascii"), b"\n")
        self._lines[name] = line

    def path(self, part: str, name: str) -> Path:
        """File of an image."""
        return self.folder / part / f"{name}.png"

    def parts(self, name: str) -> list[str]:
        """Parts that were written for a case; empty if it is not done."""
        return list(self._lines.get(name, {}).get("images", ()))

    def data(self, name: str) -> dict[str, Any]:
        """What is remembered of a case; empty if it is not done."""
        found: dict[str, Any] = self._lines.get(name, {}).get("data", {})
        return found
