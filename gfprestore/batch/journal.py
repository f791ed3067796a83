"""Journal of an output folder: finished photos and their settings, for skipping, resuming and reporting.

The journal is the file `.gfprestore.jsonl` in the output folder. It is append-only and has one JSON object per line. A
line describes settings (`settings` and their `fingerprint`), a file that is about to be moved to its place (`file` and
its `sha256`), or one attempt at one photo (`JournalEntry`); the last line of a photo counts. Every line is one write to
a file opened for appending. A killed process therefore leaves complete lines and at most one incomplete line at the
end, which readers skip. The content of a journal is not trusted: damaged, oversized or malformed lines are counted and
skipped, and paths outside the folder are never followed.

Only one run at a time writes to an output folder. The operating system locks the journal while it is open and releases
the lock when the process dies. A second run is refused. On a file system without locks both runs proceed; their lines
do not mix, but both may restore the same photo.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from gfprestore._version import __version__
from gfprestore.batch.hash_index import HashIndex
from gfprestore.batch.journal_file import end_last_line, lock, sync_folder
from gfprestore.batch.source_state import SourceState, read_source_state
from gfprestore.batch.walk import JOURNAL_NAME
from gfprestore.batch.written_files import FileKeptError, FileState, WrittenFiles
from gfprestore.errors import FolderError, PhotoError
from gfprestore.files import remove_leftovers

Json: TypeAlias = "None | bool | int | float | str | Sequence[Json] | Mapping[str, Json]"

STARTED, RESTORED, FAILED = "started", "restored", "failed"
LONGEST_LINE = 1 << 20  # bytes; lines stay below 100 kB even with the longest paths


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One attempt at one photo.

    Attributes:
        relative: the photo's mirrored path (`PhotoTask.relative` with forward slashes).
        status: `started`, `restored` or `failed`.
        output: the result's path in the output folder with forward slashes; None if there is no result.
        output_size: the result's size in bytes, as for the next two fields as it was written.
        output_modified_ns: modification time of the result, in nanoseconds since the Unix epoch.
        output_sha256: the result's hash; None in the journal of an earlier version.
        source: the original's absolute path.
        source_sha256: the original's hash; None if it could not be read, as for the next two fields.
        source_size: the original's size in bytes.
        source_modified_ns: modification time of the original, in nanoseconds since the Unix epoch.
        fingerprint: fingerprint of the settings (`settings_fingerprint`).
        faces: number of detected faces.
        restored_faces: number of faces restored and pasted.
        orientation: EXIF orientation by which the stored pixels were turned; None if there is no result.
        seconds: time spent.
        error: error message of a failed attempt.
        started: UTC time in ISO 8601.
        finished: UTC time in ISO 8601; None while in progress.
    """

    relative: str
    status: str
    output: str | None = None
    output_size: int | None = None
    output_modified_ns: int | None = None
    output_sha256: str | None = None
    source: str
    source_sha256: str | None = None
    source_size: int | None = None
    source_modified_ns: int | None = None
    fingerprint: str
    faces: int = 0
    restored_faces: int = 0
    orientation: int | None = None
    seconds: float = 0.0
    error: str | None = None
    started: str | None = None
    finished: str | None = None


def utc_now() -> str:
    """Current UTC time in ISO 8601 with milliseconds, as stored in entries."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def settings_fingerprint(settings: Mapping[str, Json]) -> str:
    """SHA-256 of the program version and the settings that affect the pixels, in hex digits.

    The order of keys does not matter, and 2 equals 2.0.

    Args:
        settings: everything that affects the result, including the SHA-256 of the weights.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    document = json.dumps(
        {"gfprestore": __version__, "settings": _canonical(settings)},
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
    return hashlib.sha256(document.encode("ascii")).hexdigest()


class Journal:
    """Journal of one output folder, a context manager. Methods are thread-safe."""

    def __init__(self, folder: Path, descriptor: int | None, *, read_only: bool) -> None:
        """Wrap an open file; use `Journal.open` instead. A `descriptor` of None is an empty journal."""
        self.folder = folder
        self.path = folder / JOURNAL_NAME
        self.read_only = read_only
        self.damaged_lines = 0
        self.settings: list[dict[str, Json]] = []  # all that the journal holds, in order
        self._descriptor = descriptor
        self._guard = threading.RLock()
        self._last = HashIndex()  # photo -> offset of its last line
        self._begun: set[str] = set()  # photos whose last line has the status `started`
        self._written = WrittenFiles()
        self._fingerprints: set[str] = set()
        if descriptor is not None:
            self._load(descriptor)

    @classmethod
    def open(cls, folder: Path, *, read_only: bool = False) -> Journal:
        """Open the journal of an existing output folder; creates it if missing, locks and repairs it.

        Unfinished files of a killed run are removed from the folder.

        Args:
            folder: the output folder.
            read_only: only read; creates, locks and repairs nothing, and entries cannot be recorded.

        Raises:
            FolderError: Another run has locked the journal, it cannot be opened, or it is not a regular file.
        """
        path = folder / JOURNAL_NAME
        access = os.O_RDONLY if read_only else os.O_RDWR | os.O_APPEND | os.O_CREAT
        # Links are not followed: an untrusted folder must not redirect writes to another file. Pipes must not block.
        flags = access | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(path, flags, 0o666)
        except FileNotFoundError as error:
            if read_only:
                return cls(folder, None, read_only=True)
            raise FolderError(_unusable(path, error)) from None
        except OSError as error:
            raise FolderError(_unusable(path, error)) from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FolderError(f"{path} is not a regular file. Remove it, or choose another folder with --output.")
            is_locked = not read_only and lock(descriptor, path)
            if not read_only:
                end_last_line(descriptor)
                sync_folder(folder)
            journal = cls(folder, descriptor, read_only=read_only)
            if is_locked and journal.interrupted:
                remove_leftovers(folder)
            return journal
        except OSError as error:
            os.close(descriptor)
            raise FolderError(_unusable(path, error)) from None
        except BaseException:
            os.close(descriptor)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the journal and release its lock."""
        with self._guard:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    @property
    def interrupted(self) -> tuple[str, ...]:
        """Photos that a killed run started but did not finish, sorted by name."""
        with self._guard:
            return tuple(sorted(self._begun))

    def note_settings(self, settings: Mapping[str, Json]) -> str:
        """Record settings that are new to this journal and return their fingerprint.

        Raises:
            FolderError: The journal cannot be written.
        """
        fingerprint = settings_fingerprint(settings)
        with self._guard:
            if fingerprint not in self._fingerprints and not self.read_only:
                line: dict[str, Json] = {
                    "settings": settings,
                    "fingerprint": fingerprint,
                    "gfprestore": __version__,
                    "time": utc_now(),
                }
                self._append(line)
            self._fingerprints.add(fingerprint)
        return fingerprint

    def last(self, relative: str) -> JournalEntry | None:
        """Last entry of a photo; None if it is missing or invalid."""
        with self._guard:
            offset = self._last.get(relative)
            if offset is None or self._descriptor is None:
                return None
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            with os.fdopen(os.dup(self._descriptor), "rb") as file:
                entry = _parse_entry(file.readline(LONGEST_LINE))
        return entry if entry is not None and entry.relative == relative else None

    def is_done(self, relative: str, source: Path, fingerprint: str | None, output: Path | None = None) -> bool:
        """Whether a photo was restored with these settings and neither original nor result has changed since.

        An original with the same path, size and time counts as unchanged; one that was touched, moved or copied back is
        compared by its hash.

        Args:
            relative: the photo's mirrored path.
            source: the original.
            fingerprint: fingerprint of the current settings; None accepts any.
            output: the planned path of the result; a result with another path does not count.
        """
        entry = self.last(relative)
        if entry is None or entry.status != RESTORED or entry.output is None:
            return False
        if fingerprint is not None and entry.fingerprint != fingerprint:
            return False
        if output is not None and output != self.folder / entry.output:
            return False
        return self._holds_result(entry) and _is_unchanged(source, entry)

    def state_of(self, output: Path) -> FileState:
        """State of a path in the output folder; reads the whole file if a run wrote one there."""
        return self._written.state_of(self.folder, output.relative_to(self.folder).as_posix())

    def note_file(self, output: Path, temporary: Path, *, overwrite: bool) -> SourceState:
        """Record a file that is complete under a temporary name, before it is moved to its place, with fsync.

        A run that is killed or loses power at any moment leaves either the earlier file or the new one, and `state_of`
        recognizes both.

        Args:
            output: the final path in the output folder.
            temporary: the complete file.
            overwrite: replace a file that was changed after a run wrote it, or that no run wrote.

        Returns:
            Hash, size and time of the file.

        Raises:
            FileKeptError: A file is there that must not be replaced.
            FolderError: The journal cannot be written.
            PhotoError: The file cannot be read.
        """
        if not overwrite and (there := self.state_of(output)) in (FileState.CHANGED, FileState.TAKEN):
            raise FileKeptError(output, there)
        state, name = read_source_state(temporary), output.relative_to(self.folder).as_posix()
        with self._guard:
            self._append({"file": name, "sha256": state.sha256, "size": state.size})
            self._written.add(name, state.sha256, state.size)
            self._sync()
        return state

    def begin(self, relative: str, source: Path, output: Path, fingerprint: str) -> None:
        """Record that a result is about to be written, so that unfinished files of a killed run are removed.

        There is no fsync, because the line only has to survive the process.

        Raises:
            FolderError: The journal cannot be written.
        """
        name = output.relative_to(self.folder).as_posix()
        self._record(
            JournalEntry(
                relative=relative,
                status=STARTED,
                output=name,
                source=_absolute(source),
                fingerprint=fingerprint,
                started=utc_now(),
            )
        )

    def record(self, entry: JournalEntry) -> None:
        """Append an entry with fsync; the result must already be on disk.

        Raises:
            FolderError: The journal cannot be written: the disk is full, or the folder no longer exists.
        """
        with self._guard:
            self._record(entry)
            self._sync()

    def _record(self, entry: JournalEntry) -> None:
        with self._guard:
            line = asdict(entry)
            self._keep(line, self._append(line))

    def _sync(self) -> None:
        try:
            os.fsync(self._open_descriptor())
        except OSError as error:
            raise FolderError(_unwritable(self.path, error)) from None

    def _append(self, line: Mapping[str, Json]) -> int:
        """Write one line completely or not at all, and return its offset."""
        descriptor = self._open_descriptor()
        data = json.dumps(line, separators=(", ", ": ")).encode("ascii") + b"\n"
        try:
            self._check_still_there(descriptor)
            start = os.lseek(descriptor, 0, os.SEEK_END)
            written = os.write(descriptor, data)
            if written < len(data):
                os.ftruncate(descriptor, start)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise FolderError(_unwritable(self.path, error)) from None
        return start

    def _open_descriptor(self) -> int:
        if self._descriptor is None or self.read_only:
            raise ValueError("the journal is closed or was opened for reading only")
        return self._descriptor

    def _check_still_there(self, descriptor: int) -> None:
        """Check that the journal was not removed; writes to a removed file succeed but are lost.

        Raises:
            FileNotFoundError: The journal is no longer at its path.
        """
        there, ours = self.path.stat(), os.fstat(descriptor)
        if there.st_ino and (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            raise FileNotFoundError(errno.ENOENT, "it was removed or replaced during the run")

    def _load(self, descriptor: int) -> None:
        """Index the last line of each photo by offset: 48 to 96 bytes a photo, and seconds for a million lines."""
        os.lseek(descriptor, 0, os.SEEK_SET)
        offset = 0
        with os.fdopen(os.dup(descriptor), "rb") as file:
            while line := file.readline(LONGEST_LINE):
                start, offset = offset, offset + len(line)
                while len(line) == LONGEST_LINE and not line.endswith(b"\n"):  # an oversized line, discarded in pieces
                    rest = file.readline(LONGEST_LINE)
                    offset += len(rest)
                    line = rest if len(rest) == LONGEST_LINE else b"damaged"
                self._take(line, start)

    def _take(self, line: bytes, start: int) -> None:
        try:
            document = json.loads(line)
            if "settings" in document:
                self._fingerprints.add(document["fingerprint"])
                if isinstance(document["settings"], dict):
                    self.settings.append(document["settings"])
                return
            if "file" in document:
                self._written.add(_text(document["file"]), _text(document["sha256"]), None)
                return
            _text(document["relative"])
            if document["output"] is not None:
                _text(document["output"])
            self._keep(document, start)
        except (ValueError, RecursionError, TypeError, KeyError):
            self.damaged_lines += 1

    def _keep(self, line: Mapping[str, Json], start: int) -> None:
        """Index the entry of a photo at an offset."""
        relative, output = str(line["relative"]), line["output"]
        self._last.set(relative, start)
        if line["status"] == STARTED:
            self._begun.add(relative)
            return
        self._begun.discard(relative)
        sha256, size = line.get("output_sha256"), line.get("output_size")
        if isinstance(output, str) and isinstance(size, int):
            self._written.add(output, sha256 if isinstance(sha256, str) else None, size)

    def _holds_result(self, entry: JournalEntry) -> bool:
        """Whether the result is there as it was written; one with another time is compared by its hash."""
        path = PurePosixPath(entry.output or "")
        if path.is_absolute() or ".." in path.parts:
            return False
        try:
            status = (self.folder / path).lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_size != entry.output_size:
                return False
            if entry.output_sha256 is None or status.st_mtime_ns == entry.output_modified_ns:
                return True
            return read_source_state(self.folder / path).sha256 == entry.output_sha256
        except (OSError, ValueError, PhotoError):
            return False


def _canonical(value: Json) -> Json:
    """Canonical form of a value: whole numbers as integers, sequences as lists."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_canonical(item) for item in value]
    return value


def _is_unchanged(source: Path, entry: JournalEntry) -> bool:
    try:
        status = source.stat()
        if status.st_size != entry.source_size:
            return False
        if status.st_mtime_ns == entry.source_modified_ns and _absolute(source) == entry.source:
            return True
        return read_source_state(source).sha256 == entry.source_sha256
    except (OSError, ValueError, PhotoError):  # an unreadable original is not done; restoring it reports why
        return False


def _parse_entry(line: bytes) -> JournalEntry | None:
    """Parse a line of the journal; None if its values do not have the declared types."""
    try:
        document = json.loads(line)
        entry = JournalEntry(**{field.name: document.get(field.name) for field in fields(JournalEntry)})
    except (ValueError, RecursionError, AttributeError):
        return None
    texts = (entry.source, entry.fingerprint, entry.status)
    optional_texts = (entry.source_sha256, entry.output, entry.output_sha256, entry.error)
    optional_numbers = (
        entry.source_size,
        entry.source_modified_ns,
        entry.output_size,
        entry.output_modified_ns,
        entry.orientation,
    )
    is_valid = (
        all(isinstance(value, str) for value in texts)
        and all(value is None or isinstance(value, str) for value in optional_texts)
        and all(value is None or isinstance(value, int) for value in optional_numbers)
        and isinstance(entry.faces, int)
        and isinstance(entry.restored_faces, int)
        and isinstance(entry.seconds, (int, float))
    )
    return entry if is_valid else None


def _text(value: object) -> str:
    """The value itself.

    Raises:
        TypeError: It is not text.
    """
    if not isinstance(value, str):
        raise TypeError("paths and hashes must be text")
    return value


def _absolute(path: Path) -> str:
    return str(path.absolute())


def _unusable(path: Path, error: OSError) -> str:
    why = "it is a link" if error.errno == errno.ELOOP else error.strerror or error
    return f"The journal {path} cannot be opened: {why}. Check the output folder, or choose another with --output."


def _unwritable(path: Path, error: OSError) -> str:
    return (
        f"The journal {path} cannot be written: {error.strerror or error}. "
        "Check that the output folder still exists and the disk has space. Then run again; finished photos are skipped."
    )
