"""Cache of image scores and image features.

A key is the SHA-256 of the metric, its protocol, its weights, the program version and the bytes of the images, so no
entry has to be invalidated. Both files are append-only with one write per batch. An incomplete entry at the end, left
by a killed run, is skipped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gfprestore._version import __version__
from gfprestore.data.images import sha256_of
from gfprestore.errors import PhotoError
from gfprestore.files import append

SCORES_NAME = "scores.jsonl"
KEY_BYTES = 32

Features = NDArray[np.float32]


def metric_key(name: str, protocol: str, weights: Mapping[str, str]) -> str:
    """Cache key of a metric in hex digits; includes the program version."""
    document = json.dumps([__version__, name, protocol, sorted(weights.items())])
    return hashlib.sha256(document.encode("utf-8")).hexdigest()


def image_key(metric: str, restored_sha256: str, gt_sha256: str | None) -> str:
    """Cache key of one image's result, in hex digits."""
    return hashlib.sha256(f"{metric}\0{restored_sha256}\0{gt_sha256 or ''}".encode()).hexdigest()


class FileHashes:
    """SHA-256 of files, each computed once.

    Attributes:
        known: Hashes so far.
    """

    def __init__(self) -> None:
        self.known: dict[Path, str] = {}

    def __call__(self, path: Path) -> str:
        """Hash of a file; empty if it is unreadable, which decoding reports later."""
        if path not in self.known:
            try:
                self.known[path] = sha256_of(path)
            except PhotoError:
                self.known[path] = ""
        return self.known[path]


class ScoreCache:
    """Cache of scores and of notes on how images were read, by image key.

    Args:
        folder: An existing folder; scores are stored in `scores.jsonl`.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / SCORES_NAME
        self._scores: dict[str, float] = {}
        self._notes: dict[str, list[str]] = {}
        if self.path.is_file():
            for line in self.path.read_bytes().splitlines():
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    document = json.loads(line)
                    if "notes" in document:
                        self._notes[str(document["key"])] = [str(note) for note in document["notes"]]
                    else:
                        self._scores[str(document["key"])] = float(document["score"])

    def get(self, key: str) -> float | None:
        """Cached score; None if it is missing."""
        return self._scores.get(key)

    def put(self, scores: Mapping[str, float]) -> None:
        """Store scores, including infinite ones.

        Raises:
            FolderError: The cache cannot be written.
        """
        lines = [json.dumps({"key": key, "score": repr(float(score))}) + "\n" for key, score in scores.items()]
        append(self.path, "".join(lines).encode("ascii"), b"\n")
        self._scores.update({key: float(score) for key, score in scores.items()})

    def notes(self, key: str) -> list[str] | None:
        """Notes on how an image was read; None if it has not been read yet."""
        return self._notes.get(key)

    def put_notes(self, notes: Mapping[str, list[str]]) -> None:
        """Store notes on images; unchanged notes are not written again.

        Raises:
            FolderError: The cache cannot be written.
        """
        fresh = {key: value for key, value in notes.items() if self._notes.get(key) != value}
        if fresh:
            lines = [json.dumps({"key": key, "notes": value}) + "\n" for key, value in fresh.items()]
            append(self.path, "".join(lines).encode("ascii"), b"\n")
            self._notes.update(fresh)


class FeatureCache:
    """Cache of one metric's feature vectors (D,), by image key.

    Args:
        folder: An existing folder.
        metric: Cache key of the metric.
    """

    def __init__(self, folder: Path, metric: str) -> None:
        self._folder = folder
        self._metric = metric[:16]
        self._rows: dict[str, Features] = {}
        for path in sorted(folder.glob(f"features-{self._metric}-*.bin")):
            with contextlib.suppress(ValueError):
                self._load(path, int(path.stem.rsplit("-", 1)[1]))

    def _load(self, path: Path, length: int) -> None:
        size = KEY_BYTES + 4 * length
        data = path.read_bytes()
        whole = len(data) - len(data) % size
        if whole < len(data):
            os.truncate(path, whole)
        for start in range(0, whole, size):
            key = data[start : start + KEY_BYTES].hex()
            self._rows[key] = np.frombuffer(data, "<f4", length, start + KEY_BYTES).astype(np.float32)

    def get(self, key: str) -> Features | None:
        """Cached vector (D,); None if it is missing."""
        return self._rows.get(key)

    def put(self, keys: Sequence[str], features: Features) -> None:
        """Store feature vectors.

        Args:
            keys: Image keys, one per row.
            features: (B, D).

        Raises:
            FolderError: The cache cannot be written.
        """
        rows = [bytes.fromhex(key) + row.astype("<f4").tobytes() for key, row in zip(keys, features, strict=True)]
        append(self._folder / f"features-{self._metric}-{features.shape[1]}.bin", b"".join(rows))
        self._rows.update(zip(keys, features, strict=True))
