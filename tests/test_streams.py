"""Standard output or standard error that is closed, full or a broken pipe: results go on being written."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest
from doubles import call
from samples import save, size_of

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full and a POSIX shell")

NAMES = [f"{index}.png" for index in range(6)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams") / "in"
    for index, name in enumerate(NAMES):
        save(folder / name, np.full((30, 36, 3), 40 * index, np.uint8))
    return folder


def full() -> TextIO:
    return open("/dev/full", "w", encoding="utf-8")  # noqa: PTH123, SIM115 - a device, closed by the test


def broken() -> TextIO:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w", encoding="utf-8")


def closed() -> None:
    """What Python makes of a stream that was closed before it started."""


GONE = {full: "No space left on device", broken: "Broken pipe", closed: "it is closed"}


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[TextIO | None, TextIO | None]]]:
    """Replace stdout and stderr; closing them at the end must not fail, as it must not at the end of Python."""
    opened: list[TextIO] = []

    def replaced(
        out: Callable[[], TextIO | None], err: Callable[[], TextIO | None]
    ) -> tuple[TextIO | None, TextIO | None]:
        made = out(), err()
        opened.extend(stream for stream in made if stream is not None)
        monkeypatch.setattr(sys, "stdout", made[0])
        monkeypatch.setattr(sys, "stderr", made[1])
        return made

    yield replaced
    monkeypatch.undo()
    for stream in opened:
        stream.close()


def run(photos: Path, out: Path, *options: str) -> int:
    return call("run", photos, "-o", out, "--restorer", "none", "--background", "lanczos", *options)


def assert_all_written(out: Path) -> None:
    assert sorted(path.name for path in out.glob("*.png")) == NAMES
    for name in NAMES:
        assert size_of(out / name) == (72, 60)
    for line in (out / ".gfprestore.jsonl").read_text().splitlines():
        json.loads(line)  # nothing was printed into the journal


@pytest.mark.parametrize("gone", GONE)
def test_stdout_that_takes_no_records_costs_no_result(
    gone: Callable[[], TextIO | None], photos: Path, tmp_path: Path, streams: Callable[..., tuple[TextIO, TextIO]]
) -> None:
    _, err = streams(gone, io.StringIO)
    assert run(photos, tmp_path / "out", "--json") == 1
    assert_all_written(tmp_path / "out")
    assert isinstance(err, io.StringIO)
    told = [line for line in err.getvalue().splitlines() if "could not be printed" in line]
    assert len(told) == 1 and "stdout" in told[0] and GONE[gone] in told[0]
    assert "bug of gfprestore" not in err.getvalue()


@pytest.mark.parametrize("gone", GONE)
def test_stderr_that_takes_no_messages_costs_no_result(
    gone: Callable[[], TextIO | None], photos: Path, tmp_path: Path, streams: Callable[..., tuple[TextIO, TextIO]]
) -> None:
    out, _ = streams(io.StringIO, gone)
    assert run(photos, tmp_path / "out") == 1
    assert_all_written(tmp_path / "out")
    assert isinstance(out, io.StringIO)
    (told,) = out.getvalue().splitlines()
    assert "could not be printed" in told and "stderr" in told and GONE[gone] in told


def test_stdout_carries_only_json_even_where_stderr_is_full(
    photos: Path, tmp_path: Path, streams: Callable[..., tuple[TextIO, TextIO]]
) -> None:
    out, _ = streams(io.StringIO, full)
    assert run(photos, tmp_path / "out", "--json") == 1
    assert isinstance(out, io.StringIO)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert len(lines) == len(NAMES) + 1
    assert lines[-1]["summary"]["stderr_error"] == "No space left on device"


@pytest.mark.parametrize("gone", GONE)
def test_both_streams_gone_cost_no_result(
    gone: Callable[[], TextIO | None], photos: Path, tmp_path: Path, streams: Callable[..., tuple[TextIO, TextIO]]
) -> None:
    streams(gone, gone)
    assert run(photos, tmp_path / "out", "--json") == 1
    assert_all_written(tmp_path / "out")


def test_a_run_that_prints_nothing_on_a_closed_stdout_ends_well(
    photos: Path, tmp_path: Path, streams: Callable[..., tuple[TextIO, TextIO]]
) -> None:
    _, err = streams(closed, io.StringIO)
    assert run(photos, tmp_path / "out") == 0
    assert_all_written(tmp_path / "out")
    assert isinstance(err, io.StringIO) and "could not be printed" not in err.getvalue()


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("weights", "list"), ("weights", "list", "--json")])
def test_other_commands_say_that_their_answer_could_not_be_printed(
    arguments: tuple[str, ...], streams: Callable[..., tuple[TextIO, TextIO]]
) -> None:
    _, err = streams(full, io.StringIO)
    assert call(*arguments) == 1
    assert isinstance(err, io.StringIO)
    assert err.getvalue() == (
        "The output could not be printed on stdout: No space left on device. Files were written as usual.\n"
    )


def test_a_worse_exit_code_stays(tmp_path: Path, streams: Callable[..., tuple[TextIO, TextIO]]) -> None:
    streams(full, full)
    assert run(tmp_path / "absent", tmp_path / "out", "--json") == 4


def test_a_program_started_without_any_stream_writes_everything(photos: Path, tmp_path: Path) -> None:
    options = ["run", str(photos), "-o", str(tmp_path / "out"), "--restorer", "none", "--background", "lanczos"]
    command = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "gfprestore", *options, "--json"]
    assert subprocess.run(command, check=False).returncode == 1
    assert_all_written(tmp_path / "out")


def test_a_closed_stream_does_not_lend_its_number_to_a_photo(tmp_path: Path) -> None:
    """A file opened as number 2 would hold what a library prints on its standard error."""
    program = (
        "import os\nfrom gfprestore.streams import reserve_standard_descriptors\nreserve_standard_descriptors()\n"
        f"stream = open({str(tmp_path / 'photo')!r}, 'wb')\nassert stream.fileno() > 2\n"
        "os.write(2, b'a warning of libtiff')\n"
    )
    subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program], check=True)
    assert (tmp_path / "photo").stat().st_size == 0
