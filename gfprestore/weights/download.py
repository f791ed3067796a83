"""Downloads of weights: resumed, checked by SHA-256, moved into place whole, one process at a time.

A file grows as `NAME.part` in its own folder and gets its name only when its SHA-256 is right. What an interrupted or
cut download received is kept and continued (HTTP Range, RFC 9110 section 14). Requests are those of `http`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from urllib3 import BaseHTTPResponse, HTTPHeaderDict
from urllib3.exceptions import HTTPError, LocationValueError, ReadTimeoutError

from gfprestore._version import __version__
from gfprestore.errors import DownloadError, WeightsDamagedError
from gfprestore.files import sha256_of, sync_folder
from gfprestore.weights.http import RedirectRefusedError, WebClient, cause_of, connection_reason, is_unreachable
from gfprestore.weights.table import WeightsFile

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are here and the bytes in all (None where nobody said)."""

BLOCK = 1 << 16
"""Bytes read and reported at once."""


@dataclass(frozen=True)
class Patience:
    """How long a download waits and how often it tries again.

    Attributes:
        connect_seconds: For a connection, its TLS handshake included.
        read_seconds: For the next byte of an open connection.
        attempts: Fruitless attempts at one address before the next address is tried.
        first_pause: Seconds before the second attempt; each further pause is twice as long.
        longest_pause: Seconds that no pause exceeds, whatever the server asks for.
        worthwhile: Bytes that an attempt must add to count as fruitful.
        sleep: Called with the seconds of a pause.
    """

    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    attempts: int = 5
    first_pause: float = 1.0
    longest_pause: float = 30.0
    worthwhile: int = 1 << 20
    sleep: Callable[[float], None] = time.sleep


class _AddressFailedError(Exception):
    """This address will not give the file; another may."""


class _UnreachableError(_AddressFailedError):
    """No connection to the address's host."""


class _ChangedFileError(_AddressFailedError):
    """The address gave a whole file, but not the one of the table."""


class _TransientError(Exception):
    """The attempt failed; the next one at the same address may not."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class Downloader:
    """Fetches files of the table. Remembers hosts that did not answer, so that a run waits for each only once."""

    def __init__(self, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()
        self._web = WebClient(self._patience.connect_seconds, self._patience.read_seconds)
        self._unreachable: set[str] = set()

    def forget_failures(self) -> None:
        """Hosts that did not answer are asked again."""
        self._unreachable.clear()

    def download(
        self,
        row: WeightsFile,
        folder: Path,
        is_ready: Callable[[Path], bool],
        progress: Progress | None = None,
    ) -> Path:
        """Downloads `row` into `folder`, where a second process waits for the first.

        Args:
            row: The file.
            folder: Made where it does not exist.
            is_ready: Asked, once no other process is at it, whether the file at its place is complete already.
            progress: Told the bytes received.

        Returns:
            The path of the complete file.

        Raises:
            DownloadError: No address gave the file, or the folder cannot hold it.
            WeightsDamagedError: Every address gave a whole file with another SHA-256.
        """
        report = progress or (lambda done, total: None)
        target = folder / row.file_name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            part = _PartialFile(folder, row)
            with _only_process(folder, row, part, report):
                if not is_ready(target):
                    part.prepare()
                    _check_room(folder, row, part)
                    self._try_addresses(row, folder, part, report)
                    part.place(target)
        except OSError as error:
            raise DownloadError(_folder_message(row, folder, error)) from error
        except NotImplementedError as error:
            raise DownloadError(
                f"{folder} is on a file system without locks, so {row.file_name} cannot be downloaded into it safely. "
                "Name another folder with --weights-dir or GFPRESTORE_WEIGHTS."
            ) from error
        return target

    def _try_addresses(self, row: WeightsFile, folder: Path, part: _PartialFile, report: Progress) -> None:
        failures: list[tuple[str, _AddressFailedError]] = []
        for url in row.urls:
            host = urlsplit(url).netloc
            try:
                if host in self._unreachable:
                    raise _AddressFailedError(f"not asked again: {host} did not answer before")
                self._receive_intact(url, row, part, report)
            except _AddressFailedError as failure:
                failures.append((url, failure))
                if isinstance(failure, _UnreachableError):
                    self._unreachable.add(host)
            else:
                return
        reasons = "".join(f"\n  {url}: {failure}" for url, failure in failures)
        if all(isinstance(failure, _ChangedFileError) for _url, failure in failures):
            raise WeightsDamagedError(
                f"{row.name}: what was received for {row.file_name} is not the released file, and was thrown away:"
                f"{reasons}\nA proxy may have changed it. {placing_advice(row, folder)}"
            )
        raise DownloadError(
            f"{row.name}: {row.file_name} ({row.size_text}) could not be downloaded into {folder}:{reasons}\n"
            f"Run `gfprestore weights fetch {row.name}` to try again; what was received is kept. "
            f"{placing_advice(row, folder)}"
        )

    def _receive_intact(self, url: str, row: WeightsFile, part: _PartialFile, report: Progress) -> None:
        """Receives the file and checks it; a resumed file that turns out wrong is received once more, whole."""
        for last in (False, True):
            resumed = self._receive(url, row, part, report)
            found = sha256_of(part.path)
            if found == row.sha256:
                return
            part.clear()
            if last or not resumed:
                raise _ChangedFileError(f"the SHA-256 is {found} instead of {row.sha256}")

    def _receive(self, url: str, row: WeightsFile, part: _PartialFile, report: Progress) -> bool:
        """Fills the partial file, in as many attempts as it takes; True where it was put together from several."""
        patience = self._patience
        resumed = part.size() > 0
        fruitless = 0
        answered = False
        while True:
            before = part.size()
            resumed = resumed or before > 0
            try:
                self._attempt(url, row, part, report)
                return resumed
            except _UnreachableError as failure:
                if not answered:
                    raise
                error = _TransientError(str(failure))
            except _TransientError as failure:
                error = failure
                answered = True
            fruitless = 0 if part.size() - before >= patience.worthwhile else fruitless + 1
            if fruitless >= patience.attempts:
                raise _AddressFailedError(f"{error} (tried {fruitless} times)")
            pause = patience.first_pause * 2 ** max(fruitless - 1, 0) if error.pause is None else error.pause
            patience.sleep(min(pause, patience.longest_pause))

    def _attempt(self, url: str, row: WeightsFile, part: _PartialFile, report: Progress) -> None:
        offset = part.size()
        if row.bytes is not None and offset >= row.bytes:
            if offset == row.bytes:
                return
            part.clear()
            offset = 0
        headers = {"User-Agent": f"gfprestore/{__version__}", "Accept-Encoding": "identity"}
        try:
            response = self._web.get(url, headers | part.range_headers(url))
        except (RedirectRefusedError, LocationValueError) as error:
            raise _AddressFailedError(str(error)) from error
        except HTTPError as error:
            failure = _UnreachableError if is_unreachable(error) else _TransientError
            raise failure(connection_reason(url, error)) from error
        with response:
            if response.status == 416 and _is_whole(response.headers, offset):
                return
            if not 200 <= response.status < 300:
                self._refused(response, part)
            start, total = _check_answer(response, offset, row, part)
            part.remember(url, response.headers)
            _copy(response, part, start, total, row, report)

    def _refused(self, response: BaseHTTPResponse, part: _PartialFile) -> None:
        """Raises what an HTTP status other than success means."""
        reason = f"HTTP {response.status} {response.reason}"
        if response.status == 416:
            part.clear()
            raise _TransientError("the server does not continue the file; it is received from the start")
        if response.status in (408, 429) or response.status >= 500:
            wait = response.headers.get("Retry-After", "")
            raise _TransientError(reason, float(wait) if wait.isdigit() else None)
        raise _AddressFailedError(reason)


@dataclass(frozen=True)
class _PartialFile:
    """`NAME.part` and, beside it, where it came from, so that only the same file is continued."""

    folder: Path
    row: WeightsFile
    path: Path = field(init=False)
    origin_path: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", self.folder / f"{self.row.file_name}.part")
        object.__setattr__(self, "origin_path", self.folder / f".{self.row.file_name}.part.json")

    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
        self.origin_path.unlink(missing_ok=True)

    def prepare(self) -> None:
        """Drops what belongs to another release of the file."""
        if self.origin().get("sha256", self.row.sha256) != self.row.sha256:
            self.clear()

    def origin(self) -> dict[str, str]:
        try:
            origin = json.loads(self.origin_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return origin if isinstance(origin, dict) else {}

    def remember(self, url: str, headers: HTTPHeaderDict) -> None:
        """Writes down where the bytes come from, with a validator strong enough for If-Range (RFC 9110, 13.1.5)."""
        etag = headers.get("ETag", "")
        validator = etag if etag.startswith('"') else headers.get("Last-Modified", "")
        origin = {"sha256": self.row.sha256, "url": url, "validator": validator}
        if origin != self.origin():
            self.origin_path.write_text(json.dumps(origin), encoding="utf-8")

    def range_headers(self, url: str) -> dict[str, str]:
        """Asks for what is missing; from the address it began with, only if the file there is still the same."""
        offset = self.size()
        if offset == 0:
            return {}
        origin = self.origin()
        validator = origin.get("validator") if origin.get("url") == url else None
        return {"Range": f"bytes={offset}-"} | ({"If-Range": validator} if validator else {})

    def place(self, target: Path) -> None:
        """Gives the complete file its name: flushed to the disk first, then renamed in one step."""
        with self.path.open("rb+") as stream:
            os.fsync(stream.fileno())
        self.path.replace(target)
        self.origin_path.unlink(missing_ok=True)
        sync_folder(self.folder)


def placing_advice(row: WeightsFile, folder: Path) -> str:
    """How to do without the tool's own download."""
    return f"Or download it by other means from {row.url} and put it into {folder} as {row.file_name}."


def _check_answer(
    response: BaseHTTPResponse, offset: int, row: WeightsFile, part: _PartialFile
) -> tuple[int, int | None]:
    """Where the answer's bytes belong, and the bytes of the whole file where the server says."""
    content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type in ("text/html", "application/xhtml+xml"):
        raise _AddressFailedError("a web page came instead of the file (the sign-in page of a network?)")
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if found is None or int(found[1]) != offset:
            part.clear()
            raise _TransientError("the server continued at another place; the file is received from the start")
        start, total = offset, None if found[2] == "*" else int(found[2])
    else:
        length = response.headers.get("Content-Length", "")
        start, total = 0, int(length) if length.isdigit() else None
    if row.bytes is not None and total is not None and total != row.bytes:
        raise _ChangedFileError(f"the file there has {total} bytes instead of {row.bytes}")
    return start, total


def _copy(
    response: BaseHTTPResponse,
    part: _PartialFile,
    start: int,
    total: int | None,
    row: WeightsFile,
    report: Progress,
) -> None:
    whole = row.bytes if row.bytes is not None else total
    most = whole if whole is not None else 2 * (row.about_bytes or 1 << 33)
    done = start
    with part.path.open("ab" if start else "wb") as stream:
        report(done, whole)
        while block := _next_block(response):
            if done + len(block) > most:
                part.clear()
                raise _ChangedFileError(f"more than {most} bytes came")
            stream.write(block)
            done += len(block)
            report(done, whole)
    if whole is not None and done < whole:
        raise _TransientError(f"the connection ended after {done} of {whole} bytes")


def _next_block(response: BaseHTTPResponse) -> bytes:
    try:
        return response.read1(BLOCK)
    except HTTPError as error:
        is_silent = isinstance(error, ReadTimeoutError)
        reason = "nothing more came" if is_silent else f"the connection broke ({cause_of(error)})"
        raise _TransientError(reason) from error


def _is_whole(headers: HTTPHeaderDict, offset: int) -> bool:
    """Whether "range not satisfiable" only says that nothing is missing."""
    found = re.fullmatch(r"bytes \*/(\d+)", headers.get("Content-Range", "").strip())
    return found is not None and int(found[1]) == offset


def _check_room(folder: Path, row: WeightsFile, part: _PartialFile) -> None:
    needed = (row.bytes or row.about_bytes or 0) - part.size()
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _folder_message(row: WeightsFile, folder: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        try:
            free = f", {shutil.disk_usage(folder).free / 1e6:.1f} MB are free"
        except OSError:
            free = ""
        return (
            f"The disk is full: {row.file_name} needs {row.size_text} in {folder}{free}. "
            "Make room, or name another folder with --weights-dir or GFPRESTORE_WEIGHTS; what was received is kept."
        )
    return (
        f"{row.file_name} cannot be written into {folder}: {error.strerror or error}. "
        "Name another folder with --weights-dir or GFPRESTORE_WEIGHTS."
    )


@contextmanager
def _only_process(folder: Path, row: WeightsFile, part: _PartialFile, report: Progress) -> Iterator[None]:
    """Holds the file's lock; while another process has it, reports how far that one is."""
    lock = FileLock(folder / f".{row.file_name}.lock")
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            report(part.size(), row.bytes)
    try:
        yield
    finally:
        lock.release()
