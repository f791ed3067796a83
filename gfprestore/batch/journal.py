"""What was done in an output folder with which settings: skip, resume, report.

The journal is the file `.gfprestore.jsonl` in the output folder, one JSON object a line, only ever appended to. A line
describes settings (`settings` and their `fingerprint`) or one attempt at one photo (`JournalEntry`); the last line of a
photo counts. Every line is one write to a file opened for appending, so that a killed process leaves whole lines and at
most one torn one at the end, which is skipped by every reader. Nothing in a journal is trusted: lines that are damaged,
huge or of another shape are counted and skipped, names that leave the folder are never followed.

One run at a time writes into an output folder: the journal is locked while it is open, by the operating system, which
forgets the lock when the process dies. A second run is refused. Where a file system knows no locks, both run; their
lines do not mix, but both may restore the same photo.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TypeAlias

from gfprestore._version import __version__
from gfprestore.batch.source_state import read_source_state
from gfprestore.batch.walk import JOURNAL_NAME
from gfprestore.errors import FolderError, PhotoError
from gfprestore.files import remove_leftovers

Json: TypeAlias = "None | bool | int | float | str | Sequence[Json] | Mapping[str, Json]"

STARTED, RESTORED, FAILED = "started", "restored", "failed"
LONGEST_LINE = 1 << 20  # bytes; ours stay below 100 kB with the longest paths
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}  # a file system without locks


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One attempt at one photo.

    Attributes:
        relative: the photo's mirrored name (`PhotoTask.relative` with forward slashes).
        status: `started`, `restored` or `failed`.
        output: the result's name in the output folder with forward slashes; None where there is none.
        output_size: the result's bytes.
        output_sha256: the result's hash, where it was computed.
        source: the original's absolute path.
        source_sha256: the original's hash; None where it could not be read, as the next two.
        source_size: the original's bytes.
        source_modified_ns: when the original was changed last, in nanoseconds of the Unix epoch.
        fingerprint: of the settings (`settings_fingerprint`).
        faces: faces found.
        restored_faces: faces restored and pasted.
        seconds: time spent.
        error: why it failed.
        started: UTC time in ISO 8601.
        finished: UTC time in ISO 8601; None while under way.
    """

    relative: str
    status: str
    output: str | None = None
    output_size: int | None = None
    output_sha256: str | None = None
    source: str
    source_sha256: str | None = None
    source_size: int | None = None
    source_modified_ns: int | None = None
    fingerprint: str
    faces: int = 0
    restored_faces: int = 0
    seconds: float = 0.0
    error: str | None = None
    started: str | None = None
    finished: str | None = None


def utc_now() -> str:
    """The present moment as entries hold it: UTC, ISO 8601, milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def settings_fingerprint(settings: Mapping[str, Json]) -> str:
    """SHA-256 of the settings that decide the pixels and of this program's version, in hex digits.

    The order of keys does not matter, nor whether a whole number came as 2 or 2.0.

    Args:
        settings: everything that changes the result, the SHA-256 of the weights included.

    Raises:
        ValueError: A number is infinite or not a number.
    """
    document = json.dumps(
        {"gfprestore": __version__, "settings": _canonical(settings)},
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
    return hashlib.sha256(document.encode("ascii")).hexdigest()


class Journal:
    """The journal of one output folder; a context manager. Its methods may be called from several threads."""

    def __init__(self, folder: Path, descriptor: int | None, *, read_only: bool) -> None:
        """Takes over an open journal; `Journal.open` is the way in. A `descriptor` of None is an empty journal."""
        self.folder = folder
        self.path = folder / JOURNAL_NAME
        self.read_only = read_only
        self.damaged_lines = 0
        self._descriptor = descriptor
        self._guard = threading.RLock()
        self._last: dict[str, int] = {}  # photo -> where its last line begins
        self._begun: set[str] = set()  # photos whose last line is that they were begun
        self._outputs: set[str] = set()  # every name that was ever given to a result
        self._fingerprints: set[str] = set()
        if descriptor is not None:
            self._load(descriptor)

    @classmethod
    def open(cls, folder: Path, *, read_only: bool = False) -> Journal:
        """Opens the journal of an existing output folder, creates it where there is none, locks and repairs it.

        Unfinished files of a run that was killed are removed from the folder.

        Args:
            folder: the output folder.
            read_only: only look: nothing is created, locked or repaired, and nothing can be recorded.

        Raises:
            FolderError: Another run holds the journal, or it cannot be opened or is no regular file.
        """
        path = folder / JOURNAL_NAME
        access = os.O_RDONLY if read_only else os.O_RDWR | os.O_APPEND | os.O_CREAT
        # No link is followed: a folder nobody vetted must not make us append to a file elsewhere. No pipe blocks us.
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
                raise FolderError(f"{path} is no regular file. Remove it, or name another folder with --output.")
            is_alone = not read_only and _lock(descriptor, path)
            if not read_only:
                _end_last_line(descriptor)
                _sync_folder(folder)
            journal = cls(folder, descriptor, read_only=read_only)
            if is_alone and journal.interrupted:
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the journal and so lets the next run in."""
        with self._guard:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    @property
    def interrupted(self) -> tuple[str, ...]:
        """Photos that were begun and not ended: what a killed run was at, sorted by name."""
        with self._guard:
            return tuple(sorted(self._begun))

    def __len__(self) -> int:
        return len(self._last)

    def note_settings(self, settings: Mapping[str, Json]) -> str:
        """Writes settings down where they are new to this journal and returns their fingerprint.

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
        """The last entry of a photo; None where there is none that can be read."""
        with self._guard:
            offset = self._last.get(relative)
            if offset is None or self._descriptor is None:
                return None
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            with os.fdopen(os.dup(self._descriptor), "rb") as file:
                entry = _parse_entry(file.readline(LONGEST_LINE))
        return entry if entry is not None and entry.relative == relative else None

    def entries(self) -> Iterator[JournalEntry]:
        """The last entry of every photo, in the order of first appearance."""
        for relative in list(self._last):
            entry = self.last(relative)
            if entry is not None:
                yield entry

    def is_done(self, relative: str, source: Path, fingerprint: str | None, output: Path | None = None) -> bool:
        """Whether a photo was restored under these settings, and original and result are still what they were.

        An original of the same path, size and time is taken for unchanged; one that was touched, moved or copied back
        is compared by its hash.

        Args:
            relative: the photo's mirrored name.
            source: the original.
            fingerprint: of the settings now asked for; None takes any.
            output: where the result is planned now; a result under another name does not count.
        """
        entry = self.last(relative)
        if entry is None or entry.status != RESTORED or entry.output is None:
            return False
        if fingerprint is not None and entry.fingerprint != fingerprint:
            return False
        if output is not None and output != self.folder / entry.output:
            return False
        return self._holds_result(entry.output, entry.output_size) and _is_unchanged(source, entry)

    def owns(self, output: Path) -> bool:
        """Whether a file in the output folder is a result of ours, finished or not, and so may be replaced."""
        return output.relative_to(self.folder).as_posix() in self._outputs

    def begin(self, relative: str, source: Path, output: Path, fingerprint: str) -> None:
        """Notes that a result is about to be written, so that one left by a killed run is known as ours.

        Not forced to the disk: it outlives the process, which is what it is for.

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
        """Appends an entry and forces it to the disk; the result must be on the disk before.

        Raises:
            FolderError: The journal cannot be written: the disk is full, or the folder is gone.
        """
        with self._guard:
            self._record(entry)
            try:
                os.fsync(self._open_descriptor())
            except OSError as error:
                raise FolderError(_unwritable(self.path, error)) from None

    def _record(self, entry: JournalEntry) -> None:
        with self._guard:
            start = self._append(asdict(entry))
            self._keep(entry.relative, entry.status, entry.output, start)

    def _append(self, line: Mapping[str, Json]) -> int:
        """Writes one line whole or not at all and returns where it begins."""
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
        """A removed file takes writes without complaint; lines there would be lost.

        Raises:
            FileNotFoundError: The journal is no longer at its path.
        """
        there, ours = self.path.stat(), os.fstat(descriptor)
        if there.st_ino and (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            raise FileNotFoundError(errno.ENOENT, "it was removed or replaced during the run")

    def _load(self, descriptor: int) -> None:
        """Notes where the last line of each photo begins; a million lines take seconds and little memory."""
        os.lseek(descriptor, 0, os.SEEK_SET)
        offset = 0
        with os.fdopen(os.dup(descriptor), "rb") as file:
            while line := file.readline(LONGEST_LINE):
                start, offset = offset, offset + len(line)
                while len(line) == LONGEST_LINE and not line.endswith(b"\n"):  # a huge line, read away in pieces
                    rest = file.readline(LONGEST_LINE)
                    offset += len(rest)
                    line = rest if len(rest) == LONGEST_LINE else b"damaged"
                self._take(line, start)

    def _take(self, line: bytes, start: int) -> None:
        try:
            document = json.loads(line)
            if "settings" in document:
                self._fingerprints.add(document["fingerprint"])
                return
            relative, status, output = document["relative"], document["status"], document["output"]
            if not isinstance(relative, str) or not isinstance(output, (str, type(None))):
                raise TypeError("names are text")
        except (ValueError, RecursionError, TypeError, KeyError):
            self.damaged_lines += 1
            return
        self._keep(relative, status, output, start)

    def _keep(self, relative: str, status: str, output: str | None, start: int) -> None:
        self._last[relative] = start
        if status == STARTED:
            self._begun.add(relative)
        else:
            self._begun.discard(relative)
        if output is not None:
            self._outputs.add(relative if output == relative else output)  # one string in memory for both

    def _holds_result(self, output: str, size: int | None) -> bool:
        if PurePosixPath(output).is_absolute() or ".." in PurePosixPath(output).parts:
            return False
        try:
            status = (self.folder / output).lstat()
        except (OSError, ValueError):
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == size


def _canonical(value: Json) -> Json:
    """The same value for all ways to write it: whole numbers as integers, sequences as lists."""
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
    except (OSError, ValueError, PhotoError):  # an original that cannot be read is not done; restoring it will tell why
        return False


def _parse_entry(line: bytes) -> JournalEntry | None:
    """The entry in a line of the journal; None where its values are not of the declared types."""
    try:
        document = json.loads(line)
        entry = JournalEntry(**{field.name: document.get(field.name) for field in fields(JournalEntry)})
    except (ValueError, RecursionError, AttributeError):
        return None
    texts = (entry.source, entry.fingerprint, entry.status)
    optional_texts = (entry.source_sha256, entry.output, entry.error)
    optional_numbers = (entry.source_size, entry.source_modified_ns, entry.output_size)
    is_sound = (
        all(isinstance(value, str) for value in texts)
        and all(value is None or isinstance(value, str) for value in optional_texts)
        and all(value is None or isinstance(value, int) for value in optional_numbers)
        and isinstance(entry.faces, int)
        and isinstance(entry.restored_faces, int)
        and isinstance(entry.seconds, (int, float))
    )
    return entry if is_sound else None


def _absolute(path: Path) -> str:
    return str(path.absolute())


def _lock(descriptor: int, path: Path) -> bool:
    """Locks an open journal for this process; False where the file system knows no locks.

    Raises:
        FolderError: Another process holds it.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(
                descriptor, 1 << 40, os.SEEK_SET
            )  # far behind the end: Windows keeps others from reading a locked byte
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise FolderError(
            f"Another run is writing into {path.parent}. Wait for it to end, or name another folder with --output."
        ) from None
    return True


def _end_last_line(descriptor: int) -> None:
    """Ends a line that a killed process left torn, so that the next one begins on its own."""
    size = os.fstat(descriptor).st_size
    if size:
        os.lseek(descriptor, size - 1, os.SEEK_SET)
        if os.read(descriptor, 1) != b"\n":
            os.write(descriptor, b"\n")


def _sync_folder(folder: Path) -> None:
    """Forces the journal's name to the disk where the system can do so for folders."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        finally:
            os.close(descriptor)


def _unusable(path: Path, error: OSError) -> str:
    why = "it is a link" if error.errno == errno.ELOOP else error.strerror or error
    return f"The journal {path} cannot be opened: {why}. Check the output folder, or name another with --output."


def _unwritable(path: Path, error: OSError) -> str:
    return (
        f"The journal {path} cannot be written: {error.strerror or error}. "
        "Check that the output folder is still there and has room, then run again: what is done is skipped."
    )
