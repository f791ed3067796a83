"""Downloads of weights: resumable, verified by SHA-256, moved into place atomically, one process at a time.

A download is written to `NAME.part` in the target folder and renamed once its SHA-256 is correct. The partial file of
an interrupted download is kept and resumed (HTTP Range, RFC 9110 section 14). `http` sends the requests.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
"""Called with the number of bytes received and the total number of bytes (None if unknown)."""

BLOCK = 1 << 16
"""Maximum number of bytes per read and progress report."""


@dataclass(frozen=True)
class Patience:
    """Timeouts and retry limits of a download.

    Attributes:
        connect_seconds: Timeout for connecting, including the TLS handshake.
        read_seconds: Timeout for the next byte of an open connection.
        attempts: Number of consecutive attempts without progress before the next address is tried.
        first_pause: Seconds before the second attempt. Each further pause is twice as long.
        longest_pause: Maximum pause in seconds, even if the server asks for a longer one.
        worthwhile: Number of bytes that an attempt must add to count as progress.
        sleep: Called with the length of a pause in seconds.
    """

    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    attempts: int = 5
    first_pause: float = 1.0
    longest_pause: float = 30.0
    worthwhile: int = 1 << 20
    sleep: Callable[[float], None] = time.sleep


class _AddressFailedError(Exception):
    """The file cannot be downloaded from this address; another address may work."""


class _UnreachableError(_AddressFailedError):
    """The host of the address cannot be reached."""


class _ChangedFileError(_AddressFailedError):
    """The address served a complete file, but not the one in the table."""


class _TransientError(Exception):
    """The attempt failed, but another attempt at the same address may succeed."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class Downloader:
    """Downloads files of the table. Remembers unreachable hosts, so that a run waits for each only once."""

    def __init__(self, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()
        self._web = WebClient(self._patience.connect_seconds, self._patience.read_seconds)
        self._unreachable: set[str] = set()

    def forget_failures(self) -> None:
        """Forget unreachable hosts, so that they are tried again."""
        self._unreachable.clear()

    def download(
        self,
        row: WeightsFile,
        folder: Path,
        is_ready: Callable[[Path], bool],
        progress: Progress | None = None,
    ) -> Path:
        """Download a file into a folder. If another process is downloading it, wait for that process.

        Args:
            row: The file to download.
            folder: The target folder; created if it does not exist.
            is_ready: Tells whether the target file is already complete. Called while this process holds the lock.
            progress: Called with the bytes received and the total. If it is also a context manager, such as a progress
                bar, it is entered before the download and left after it.

        Returns:
            Path of the complete file.

        Raises:
            DownloadError: The file could not be downloaded from any address, or the folder cannot store it.
            WeightsDamagedError: Every address served a complete file with a different SHA-256.
        """
        report = progress or (lambda done, total: None)
        target = folder / row.file_name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            part = _PartialFile(folder, row)
            with _shown(progress), _only_process(folder, row, part, report):
                if not is_ready(target):
                    part.prepare()
                    _check_room(folder, row, part)
                    self._try_addresses(row, folder, part, report)
                    part.place(target)
        except OSError as error:
            raise DownloadError(_folder_message(row, folder, error)) from error
        except NotImplementedError as error:
            raise DownloadError(
                f"{folder} is on a file system without file locks, so {row.file_name} cannot be downloaded to it "
                "safely. Choose another folder with --weights-dir or GFPRESTORE_WEIGHTS."
            ) from error
        return target

    def _try_addresses(self, row: WeightsFile, folder: Path, part: _PartialFile, report: Progress) -> None:
        failures: list[tuple[str, _AddressFailedError]] = []
        for url in row.urls:
            host = urlsplit(url).netloc
            try:
                if host in self._unreachable:
                    raise _AddressFailedError(f"skipped, because {host} did not respond earlier")
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
                f"{row.name}: the downloaded {row.file_name} is not the released file and was discarded:{reasons}\n"
                f"A proxy may have modified it. {placing_advice(row, folder)}"
            )
        raise DownloadError(
            f"{row.name}: {row.file_name} ({row.size_text}) could not be downloaded to {folder}:{reasons}\n"
            f"Run `gfprestore weights fetch {row.name}` to try again. The partial download is kept. "
            f"{placing_advice(row, folder)}"
        )

    def _receive_intact(self, url: str, row: WeightsFile, part: _PartialFile, report: Progress) -> None:
        """Download the file and verify it. If a resumed file is wrong, download it once more from the start."""
        for last in (False, True):
            resumed = self._receive(url, row, part, report)
            found = sha256_of(part.path)
            if found == row.sha256:
                return
            part.clear()
            if last or not resumed:
                raise _ChangedFileError(f"the SHA-256 is {found} instead of {row.sha256}")

    def _receive(self, url: str, row: WeightsFile, part: _PartialFile, report: Progress) -> bool:
        """Complete the partial file in as many attempts as needed. Return whether it was resumed."""
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
        """Raise the error for an HTTP status other than success."""
        reason = f"HTTP {response.status} {response.reason}"
        if response.status == 416:
            part.clear()
            raise _TransientError("the server cannot resume the file; the download restarts")
        if response.status in (408, 429) or response.status >= 500:
            wait = response.headers.get("Retry-After", "")
            raise _TransientError(reason, float(wait) if wait.isdigit() else None)
        raise _AddressFailedError(reason)


@dataclass(frozen=True)
class _PartialFile:
    """`NAME.part` and a record of its origin, so that only the same file is resumed."""

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
        """Delete a partial file of another release."""
        if self.origin().get("sha256", self.row.sha256) != self.row.sha256:
            self.clear()

    def origin(self) -> dict[str, str]:
        try:
            origin = json.loads(self.origin_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return origin if isinstance(origin, dict) else {}

    def remember(self, url: str, headers: HTTPHeaderDict) -> None:
        """Record the origin of the bytes, with a validator suitable for If-Range (RFC 9110, section 13.1.5)."""
        etag = headers.get("ETag", "")
        validator = etag if etag.startswith('"') else headers.get("Last-Modified", "")
        origin = {"sha256": self.row.sha256, "url": url, "validator": validator}
        if origin != self.origin():
            self.origin_path.write_text(json.dumps(origin), encoding="utf-8")

    def range_headers(self, url: str) -> dict[str, str]:
        """Headers that request the missing bytes; from the original address, only if the file has not changed."""
        offset = self.size()
        if offset == 0:
            return {}
        origin = self.origin()
        validator = origin.get("validator") if origin.get("url") == url else None
        return {"Range": f"bytes={offset}-"} | ({"If-Range": validator} if validator else {})

    def place(self, target: Path) -> None:
        """Flush the complete file to the disk, then rename it atomically."""
        with self.path.open("rb+") as stream:
            os.fsync(stream.fileno())
        self.path.replace(target)
        self.origin_path.unlink(missing_ok=True)
        sync_folder(self.folder)


def placing_advice(row: WeightsFile, folder: Path) -> str:
    """How to install the file without the built-in download."""
    return f"Alternatively, download {row.url} by other means and save it as {folder / row.file_name}."


def _check_answer(
    response: BaseHTTPResponse, offset: int, row: WeightsFile, part: _PartialFile
) -> tuple[int, int | None]:
    """Offset of the response body in the file, and the size of the file if the server states it."""
    content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type in ("text/html", "application/xhtml+xml"):
        raise _AddressFailedError(
            "the server sent a web page instead of the file (possibly the sign-in page of a network)"
        )
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if found is None or int(found[1]) != offset:
            part.clear()
            raise _TransientError("the server resumed at the wrong position; the download restarts")
        start, total = offset, None if found[2] == "*" else int(found[2])
    else:
        length = response.headers.get("Content-Length", "")
        start, total = 0, int(length) if length.isdigit() else None
    if row.bytes is not None and total is not None and total != row.bytes:
        raise _ChangedFileError(f"the file has {total} bytes instead of {row.bytes}")
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
                raise _ChangedFileError(f"the server sent more than {most} bytes")
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
        reason = "the server stopped sending data" if is_silent else f"the connection failed ({cause_of(error)})"
        raise _TransientError(reason) from error


def _is_whole(headers: HTTPHeaderDict, offset: int) -> bool:
    """Whether "range not satisfiable" means that the file is already complete."""
    found = re.fullmatch(r"bytes \*/(\d+)", headers.get("Content-Range", "").strip())
    return found is not None and int(found[1]) == offset


def _check_room(folder: Path, row: WeightsFile, part: _PartialFile) -> None:
    needed = (row.bytes or row.about_bytes or 0) - part.size()
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _folder_message(row: WeightsFile, folder: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        try:
            free = f", but only {shutil.disk_usage(folder).free / 1e6:.1f} MB are free"
        except OSError:
            free = ""
        return (
            f"The disk is full: {row.file_name} needs {row.size_text} in {folder}{free}. "
            "Free some space, or choose another folder with --weights-dir or GFPRESTORE_WEIGHTS. "
            "The partial download is kept."
        )
    return (
        f"{row.file_name} cannot be written to {folder}: {error.strerror or error}. "
        "Choose another folder with --weights-dir or GFPRESTORE_WEIGHTS."
    )


def _shown(progress: Progress | None) -> AbstractContextManager[object]:
    """The progress itself if it is a context manager, else one that does nothing."""
    return progress if isinstance(progress, AbstractContextManager) else nullcontext()


@contextmanager
def _only_process(folder: Path, row: WeightsFile, part: _PartialFile, report: Progress) -> Iterator[None]:
    """Hold the file's lock. While another process holds it, report the progress of that process."""
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
