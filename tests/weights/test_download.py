"""Downloads against a local server that misbehaves in every way seen in the field."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gfprestore.errors import DownloadError, ExitCode, WeightsDamagedError
from gfprestore.files import sha256_of
from gfprestore.weights.download import Downloader, Patience
from gfprestore.weights.http import RedirectRefusedError, redirect_target
from gfprestore.weights.table import WeightsFile

CONTENT = hashlib.shake_256(b"weights").digest(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers each request with the next entry of the server's script for the path, the last one for ever."""

    server: Server

    def do_GET(self) -> None:
        path = self.path
        self.server.requests.append((path, dict(self.headers.items())))
        answers = self.server.scripts[path]
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the test's output quiet."""

    def start(self, status: int, length: int | None, **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.scripts: dict[str, list[Answer]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the tests."""

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _path, headers in self.requests]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def serve(
    content: bytes = CONTENT,
    stop_at: int | None = None,
    etag: str = '"one"',
    pause: float = 0.0,
    tell_length: bool = True,
) -> Answer:
    """A correct server with Range and If-Range; ends the connection early at byte `stop_at` of the file."""

    def answer(handler: Handler) -> None:
        asked = handler.headers.get("Range")
        if asked and handler.headers.get("If-Range", etag) == etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                handler.start(416, 0, Content_Range=f"bytes */{len(content)}")
                return
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            handler.start(206, len(content) - start, Content_Range=span, ETag=etag)
        else:
            start = 0
            handler.start(200, len(content) if tell_length else None, ETag=etag)
        handler.wfile.write(content[start:stop_at])
        handler.wfile.flush()
        time.sleep(pause)

    return answer


def status(code: int, **headers: str) -> Answer:
    return lambda handler: handler.start(code, 0, **headers)


def without_range(handler: Handler) -> None:
    handler.start(200, len(CONTENT))
    handler.wfile.write(CONTENT)


def row_at(*urls: str, size: int | None = len(CONTENT), sha256: str = SHA256) -> WeightsFile:
    return WeightsFile(
        name="tiny",
        network="none",
        role="data",
        url=urls[0],
        mirrors=urls[1:],
        sha256=sha256,
        bytes=size,
        license="none",
        source_page="none",
        trained_on="none",
        released_name="tiny.pth",
    )


def patience(pauses: list[float] | None = None, **changes: Any) -> Patience:
    waited = [] if pauses is None else pauses
    quick = Patience(connect_seconds=5, read_seconds=5, attempts=3, worthwhile=50_000, sleep=waited.append)
    return replace(quick, **changes)


def is_whole(path: Path) -> bool:
    return path.exists() and sha256_of(path) == SHA256


def download(row: WeightsFile, folder: Path, **options: Any) -> Path:
    return Downloader(patience(**options)).download(row, folder, is_whole)


def leftovers(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.endswith(".lock"))


def test_a_file_arrives_whole_and_its_progress_is_told(server: Server, tmp_path: Path) -> None:
    server.scripts["/a"] = [serve()]
    told: list[tuple[int, int | None]] = []
    folder = tmp_path / "new" / "folder"
    path = Downloader(patience()).download(
        row_at(server.url("/a")), folder, is_whole, lambda done, total: told.append((done, total))
    )
    assert path == folder / "tiny.pth"
    assert path.read_bytes() == CONTENT
    assert leftovers(folder) == ["tiny.pth"]
    assert told[0] == (0, 300_000)
    assert told[-1] == (300_000, 300_000)
    assert told == sorted(told)


def test_a_cut_connection_is_continued_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.scripts["/a"] = [serve(stop_at=100_000), serve(stop_at=200_000), serve()]
    path = download(row_at(server.url("/a")), tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=100000-", "bytes=200000-"]
    assert [headers.get("If-Range") for _path, headers in server.requests] == [None, '"one"', '"one"']


def test_attempts_that_bring_bytes_are_not_counted_against_a_bad_line(server: Server, tmp_path: Path) -> None:
    server.scripts["/a"] = [*(serve(stop_at=stop) for stop in range(50_000, 300_000, 50_000)), serve()]
    assert download(row_at(server.url("/a")), tmp_path, attempts=2).read_bytes() == CONTENT
    assert len(server.requests) == 6


def test_a_line_that_brings_nothing_is_given_up_and_continued_by_the_next_run(server: Server, tmp_path: Path) -> None:
    server.scripts["/a"] = [serve(stop_at=100_000)]
    pauses: list[float] = []
    with pytest.raises(DownloadError) as caught:
        download(row_at(server.url("/a")), tmp_path, pauses=pauses, attempts=4)
    text = str(caught.value)
    assert caught.value.exit_code == ExitCode.WEIGHTS == 3
    for part in (
        "tiny.pth",
        server.url("/a"),
        "100000 of 300000 bytes",
        str(tmp_path),
        "gfprestore weights fetch tiny",
        f"save it as {tmp_path / 'tiny.pth'}",
    ):
        assert part in text
    assert pauses == [1.0, 1.0, 2.0, 4.0]  # the first attempt was fruitful; four more were not
    assert (tmp_path / "tiny.pth.part").read_bytes() == CONTENT[:100_000]
    server.requests.clear()
    server.scripts["/a"] = [serve()]
    assert download(row_at(server.url("/a")), tmp_path).read_bytes() == CONTENT
    assert server.ranges() == ["bytes=100000-"]


def test_a_server_that_ignores_ranges_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    server.scripts["/a"] = [serve(stop_at=100_000), without_range]
    assert download(row_at(server.url("/a")), tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=100000-"]


def test_a_file_that_changed_at_its_address_is_received_anew(server: Server, tmp_path: Path) -> None:
    server.scripts["/a"] = [serve(b"x" * 300_000, stop_at=100_000, etag='"old"'), serve(etag='"new"')]
    assert download(row_at(server.url("/a")), tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_wrong_beginning_left_behind_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny.pth.part").write_bytes(b"x" * 1000)
    server.scripts["/a"] = [serve()]
    assert download(row_at(server.url("/a")), tmp_path).read_bytes() == CONTENT
    assert server.ranges() == ["bytes=1000-", None]


def test_the_beginning_of_an_older_release_is_not_continued(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny.pth.part").write_bytes(b"x" * 1000)
    (tmp_path / ".tiny.pth.part.json").write_text(json.dumps({"sha256": "0" * 64, "url": "", "validator": ""}))
    server.scripts["/a"] = [serve()]
    assert download(row_at(server.url("/a")), tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_complete_part_is_recognized(server: Server, tmp_path: Path, size: int | None) -> None:
    (tmp_path / "tiny.pth.part").write_bytes(CONTENT)
    server.scripts["/a"] = [serve()]
    assert download(row_at(server.url("/a"), size=size), tmp_path).read_bytes() == CONTENT
    assert server.ranges() == ([] if size else ["bytes=300000-"])  # without a size only the server knows: 416


def test_a_part_longer_than_the_file_is_received_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny.pth.part").write_bytes(CONTENT + b"more")
    server.scripts["/a"] = [serve()]
    assert download(row_at(server.url("/a"), size=None), tmp_path).read_bytes() == CONTENT
    assert server.ranges() == ["bytes=300004-", None]


def test_an_answer_for_another_range_is_not_appended(server: Server, tmp_path: Path) -> None:
    def elsewhere(handler: Handler) -> None:
        handler.start(206, 100, Content_Range=f"bytes 0-99/{len(CONTENT)}")
        handler.wfile.write(CONTENT[:100])

    server.scripts["/a"] = [serve(stop_at=100_000), elsewhere, serve()]
    assert download(row_at(server.url("/a")), tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=100000-", None]


def test_a_corrupted_address_is_left_for_the_mirror(server: Server, tmp_path: Path) -> None:
    server.scripts["/a"] = [serve(b"x" + CONTENT[1:])]
    server.scripts["/b"] = [serve()]
    assert download(row_at(server.url("/a"), server.url("/b")), tmp_path).read_bytes() == CONTENT
    assert [path for path, _headers in server.requests] == ["/a", "/b"]
    assert server.ranges() == [None, None]


def test_a_file_corrupted_everywhere_is_never_kept(server: Server, tmp_path: Path) -> None:
    wrong = b"x" + CONTENT[1:]
    server.scripts["/a"] = server.scripts["/b"] = [serve(wrong)]
    with pytest.raises(WeightsDamagedError) as caught:
        download(row_at(server.url("/a"), server.url("/b")), tmp_path)
    assert caught.value.exit_code == 3
    assert SHA256 in str(caught.value)
    assert hashlib.sha256(wrong).hexdigest() in str(caught.value)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_is_told_and_the_mirror_tried_at_once(server: Server, tmp_path: Path, code: int) -> None:
    server.scripts["/a"] = [status(code)]
    server.scripts["/b"] = [serve()]
    pauses: list[float] = []
    assert download(row_at(server.url("/a"), server.url("/b")), tmp_path, pauses=pauses).read_bytes() == CONTENT
    assert [path for path, _headers in server.requests] == ["/a", "/b"]
    assert pauses == []
    with pytest.raises(DownloadError, match=f"HTTP {code}"):
        download(row_at(server.url("/a"), sha256="0" * 64), tmp_path / "other")


def test_server_errors_are_tried_again_and_its_waiting_time_respected(server: Server, tmp_path: Path) -> None:
    server.scripts["/a"] = [status(500), status(503, Retry_After="7"), serve()]
    pauses: list[float] = []
    assert download(row_at(server.url("/a")), tmp_path, pauses=pauses).read_bytes() == CONTENT
    assert pauses == [1.0, 7.0]


def test_no_server_makes_us_wait_for_ever(server: Server, tmp_path: Path) -> None:
    server.scripts["/a"] = [status(429, Retry_After="86400")]
    pauses: list[float] = []
    with pytest.raises(DownloadError, match="HTTP 429"):
        download(row_at(server.url("/a")), tmp_path, pauses=pauses)
    assert pauses == [30.0, 30.0]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_followed_with_the_range(server: Server, tmp_path: Path, code: int) -> None:
    server.scripts["/a"] = [status(code, Location="/b")]
    server.scripts["/b"] = [serve(stop_at=100_000), serve()]
    assert download(row_at(server.url("/a")), tmp_path).read_bytes() == CONTENT
    assert [(path, headers.get("Range")) for path, headers in server.requests] == [
        ("/a", None),
        ("/b", None),
        ("/a", "bytes=100000-"),
        ("/b", "bytes=100000-"),
    ]


def test_redirects_in_a_circle_end(server: Server, tmp_path: Path) -> None:
    server.scripts["/a"] = [status(302, Location="/b")]
    server.scripts["/b"] = [status(302, Location="/a")]
    with pytest.raises(DownloadError, match="HTTP 302"):
        download(row_at(server.url("/a")), tmp_path)
    assert len(server.requests) == 6


def test_five_redirects_are_followed(server: Server, tmp_path: Path) -> None:
    for number in range(5):
        server.scripts[f"/{number}"] = [status(302, Location=f"/{number + 1}")]
    server.scripts["/5"] = [serve()]
    assert download(row_at(server.url("/0")), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("headers", [{}, {"Location": "http://["}, {"Location": "http://127.0.0.1:x/"}])
def test_a_redirect_to_an_invalid_address_is_an_error_of_that_address(
    server: Server, tmp_path: Path, headers: dict[str, str]
) -> None:
    server.scripts["/a"] = [status(302, **headers)]
    server.scripts["/b"] = [serve()]
    assert download(row_at(server.url("/a"), server.url("/b")), tmp_path).read_bytes() == CONTENT
    assert [path for path, _headers in server.requests] == ["/a", "/b"]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:text/plain,x"])
def test_redirects_off_the_web_are_refused(server: Server, tmp_path: Path, target: str) -> None:
    server.scripts["/a"] = [status(302, Location=target)]
    with pytest.raises(DownloadError, match="not an http or https address"):
        download(row_at(server.url("/a")), tmp_path)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("location", ["http://example.org/a", "HTTP://mirror.invalid/a"])
def test_a_redirect_from_https_to_http_is_refused(location: str) -> None:
    with pytest.raises(RedirectRefusedError, match="redirect from https to http is not secure"):
        redirect_target("https://example.org/a", location)
    assert redirect_target("https://example.org/a/b", "//mirror.invalid/c d") == "https://mirror.invalid/c%20d"


def test_a_file_of_another_length_is_refused_before_it_is_received(server: Server, tmp_path: Path) -> None:
    server.scripts["/a"] = [serve(CONTENT + b"more")]
    told: list[int] = []
    with pytest.raises(WeightsDamagedError, match="300004 bytes instead of 300000"):
        Downloader(patience()).download(
            row_at(server.url("/a")), tmp_path, is_whole, lambda done, total: told.append(done)
        )
    assert told == []
    assert leftovers(tmp_path) == []


def test_a_stream_without_length_is_cut_at_the_files_size(server: Server, tmp_path: Path) -> None:
    server.scripts["/a"] = [serve(CONTENT + b"x" * 500_000, tell_length=False)]
    with pytest.raises(WeightsDamagedError, match="more than 300000 bytes"):
        download(row_at(server.url("/a")), tmp_path)
    assert leftovers(tmp_path) == []


def test_a_short_stream_without_length_is_continued(server: Server, tmp_path: Path) -> None:
    server.scripts["/a"] = [serve(stop_at=100_000, tell_length=False), serve()]
    assert download(row_at(server.url("/a")), tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=100000-"]


def test_a_sign_in_page_is_told_as_such(server: Server, tmp_path: Path) -> None:
    def page(handler: Handler) -> None:
        handler.start(200, 13, Content_Type="text/html; charset=utf-8")
        handler.wfile.write(b"<html></html>")

    server.scripts["/a"] = [page]
    with pytest.raises(DownloadError, match="web page"):
        download(row_at(server.url("/a")), tmp_path)
    assert leftovers(tmp_path) == []


def test_a_line_that_falls_silent_is_dropped_and_continued(server: Server, tmp_path: Path) -> None:
    server.scripts["/a"] = [serve(stop_at=100_000, pause=1.5), serve()]
    began = time.monotonic()
    path = download(row_at(server.url("/a")), tmp_path, read_seconds=0.2)
    assert time.monotonic() - began < 1.4
    assert path.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=100000-"]


def test_a_host_that_does_not_answer_is_asked_once_a_run(server: Server, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    pauses: list[float] = []
    downloader = Downloader(patience(pauses))
    row = row_at(f"http://127.0.0.1:{port}/a")
    with pytest.raises(DownloadError, match=r"could not connect to 127\.0\.0\.1"):
        downloader.download(row, tmp_path, is_whole)
    with pytest.raises(DownloadError, match=r"skipped, because 127\.0\.0\.1:\d+ did not respond earlier"):
        downloader.download(row, tmp_path, is_whole)
    downloader.forget_failures()
    with pytest.raises(DownloadError, match="could not connect"):
        downloader.download(row, tmp_path, is_whole)
    assert pauses == []


def test_a_host_that_accepts_connections_but_never_speaks_tls_is_asked_once(server: Server, tmp_path: Path) -> None:
    pauses: list[float] = []
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        row = row_at(f"https://127.0.0.1:{silent.getsockname()[1]}/a")
        began = time.monotonic()
        with pytest.raises(DownloadError, match=r"127\.0\.0\.1 did not respond in time"):
            Downloader(patience(pauses, connect_seconds=0.3)).download(row, tmp_path, is_whole)
    assert time.monotonic() - began < 3  # the timeout of connections, not the 5 s of reading
    assert pauses == []


def test_a_server_without_tls_and_an_answer_that_is_not_http_are_errors(server: Server, tmp_path: Path) -> None:
    pauses: list[float] = []
    with pytest.raises(DownloadError, match=r"could not connect to 127\.0\.0\.1 \(.*SSL"):
        download(row_at(server.url("/a").replace("http:", "https:")), tmp_path, pauses=pauses)
    assert pauses == []
    server.scripts["/b"] = [lambda handler: handler.connection.sendall(b"nonsense\r\n\r\n"), serve()]
    assert download(row_at(server.url("/b")), tmp_path, pauses=pauses).read_bytes() == CONTENT
    assert pauses == [1.0]


def test_a_broken_chunk_is_asked_for_again(server: Server, tmp_path: Path) -> None:
    def chunked(handler: Handler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.start(200, None, Transfer_Encoding="chunked", ETag='"one"')
        handler.wfile.write(b"186a0\r\n" + CONTENT[:100_000] + b"\r\nno number\r\n")

    server.scripts["/a"] = [chunked, serve()]
    assert download(row_at(server.url("/a")), tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=100000-"]


def test_nothing_is_compressed_on_the_way(server: Server, tmp_path: Path) -> None:
    server.scripts["/a"] = [serve()]
    download(row_at(server.url("/a")), tmp_path)
    assert [headers["Accept-Encoding"] for _path, headers in server.requests] == ["identity"]


def test_an_interrupt_leaves_what_was_received(server: Server, tmp_path: Path) -> None:
    server.scripts["/a"] = [serve()]

    def interrupt(done: int, total: int | None) -> None:
        if done >= 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Downloader(patience()).download(row_at(server.url("/a")), tmp_path, is_whole, interrupt)
    part = (tmp_path / "tiny.pth.part").read_bytes()
    assert 100_000 <= len(part) < 300_000
    assert part == CONTENT[: len(part)]
    assert download(row_at(server.url("/a")), tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None, f"bytes={len(part)}-"]


def test_too_little_room_is_told_before_anything_is_received(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 200_000})
    monkeypatch.setattr("gfprestore.weights.download.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(DownloadError, match=r"disk is full: tiny\.pth needs 0\.3 MB .* but only 0\.2 MB are free"):
        download(row_at(server.url("/a")), tmp_path)
    assert server.requests == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_disk_that_fills_up_midway_is_told(server: Server, tmp_path: Path) -> None:
    server.scripts["/a"] = [serve()]
    (tmp_path / "tiny.pth.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match="disk is full") as caught:
        download(row_at(server.url("/a")), tmp_path)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert not (tmp_path / "tiny.pth").exists()


def test_a_folder_that_cannot_be_made_is_told(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match=r"tiny\.pth cannot be written to .*--weights-dir or GFPRESTORE_WEIGHTS"):
        download(row_at(server.url("/a")), tmp_path / "file" / "folder")
    assert server.requests == []


def test_the_proxy_of_the_environment_is_used_and_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url("").replace("//", "//user:secret@"))
    monkeypatch.setenv("no_proxy", "")
    server.scripts["http://weights.invalid/a"] = [serve()]
    assert download(row_at("http://weights.invalid/a"), tmp_path).read_bytes() == CONTENT
    assert server.requests[0][1]["Proxy-Authorization"] == "Basic dXNlcjpzZWNyZXQ="  # user:secret
    server.shutdown()
    server.socket.close()
    with pytest.raises(DownloadError, match=r"weights\.invalid through the proxy 127\.0\.0\.1") as caught:
        download(row_at("http://weights.invalid/a", sha256="0" * 64), tmp_path / "other")
    assert "secret" not in str(caught.value)


def test_a_proxy_that_refuses_to_connect_is_asked_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", f"user:secret@127.0.0.1:{server.server_port}")  # no CONNECT here: 501
    monkeypatch.setenv("no_proxy", "")
    pauses: list[float] = []
    with pytest.raises(DownloadError, match=r"weights\.invalid through the proxy 127\.0\.0\.1 .*501") as caught:
        download(row_at("https://weights.invalid/a"), tmp_path, pauses=pauses)
    assert pauses == []
    assert "secret" not in str(caught.value)


def test_a_host_of_no_proxy_is_asked_directly(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.scripts["/a"] = [serve()]
    assert download(row_at(server.url("/a")), tmp_path).read_bytes() == CONTENT


CHILD = """
import sys
from pathlib import Path
from gfprestore.weights.download import Downloader, Patience
from gfprestore.files import sha256_of
from gfprestore.weights.table import WeightsFile
url, folder, sha256, size = sys.argv[1:]
row = WeightsFile("tiny", "none", "data", url, sha256, int(size), "none", "none", "none", released_name="tiny.pth")
is_ready = lambda path: path.exists() and sha256_of(path) == sha256
print(Downloader(Patience(sleep=lambda seconds: None)).download(row, Path(folder), is_ready))
"""


def child(server: Server, folder: Path) -> subprocess.Popen[str]:
    arguments = [server.url("/a"), str(folder), SHA256, str(len(CONTENT))]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def trickle(handler: Handler) -> None:
    handler.start(200, len(CONTENT), ETag='"one"')
    for start in range(0, len(CONTENT), 30_000):
        handler.wfile.write(CONTENT[start : start + 30_000])
        time.sleep(0.15)


def test_two_processes_download_once(server: Server, tmp_path: Path) -> None:
    server.scripts["/a"] = [trickle]
    processes = [child(server, tmp_path) for _ in range(2)]
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert output.strip() == str(tmp_path / "tiny.pth")
    assert (tmp_path / "tiny.pth").read_bytes() == CONTENT
    assert len(server.requests) == 1


@pytest.mark.skipif(os.name == "nt", reason="no kill -9")
def test_a_killed_process_leaves_a_part_that_the_next_continues(server: Server, tmp_path: Path) -> None:
    server.scripts["/a"] = [trickle, serve()]
    process = child(server, tmp_path)
    part = tmp_path / "tiny.pth.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size >= 60_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    left = part.stat().st_size
    assert 60_000 <= left < 300_000
    assert not (tmp_path / "tiny.pth").exists()
    assert download(row_at(server.url("/a")), tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None, f"bytes={left}-"]
