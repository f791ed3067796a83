"""Messages through logging, and progress bars on a terminal and elsewhere."""

from __future__ import annotations

import io
import logging
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from gfprestore.console import DownloadProgress, Reporter, RunProgress, StageProgress, download_reporter, log_on_console

LOG = logging.getLogger("gfprestore.somewhere.deep")


def test_records_are_shown_with_their_level_while_the_block_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with log_on_console():
        LOG.debug("not shown")
        LOG.info("a [plain] line")
        LOG.warning("careful")
        LOG.error("no \x1b[31m color")
    LOG.warning("after the block")
    shown = capsys.readouterr()
    assert shown.err.splitlines() == ["a [plain] line", "warning: careful", "error: no \\x1b[31m color"]
    assert shown.out == ""


def test_debug_records_name_their_logger(capsys: pytest.CaptureFixture[str]) -> None:
    with log_on_console(logging.DEBUG):
        LOG.debug("chosen: x")
    assert capsys.readouterr().err == "gfprestore.somewhere.deep: chosen: x\n"


def test_other_packages_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with log_on_console():
        logging.getLogger("elsewhere").info("silent")
    assert capsys.readouterr().err == ""


def test_a_reporter_shares_the_console_of_the_log_so_that_a_bar_is_not_torn() -> None:
    with log_on_console():
        first, second = Reporter(), Reporter()
        assert first.console is second.console
    assert Reporter().console is not first.console


def test_the_level_of_a_library_user_is_put_back() -> None:
    logger = logging.getLogger("gfprestore")
    before = (logger.level, list(logger.handlers))
    with log_on_console(logging.DEBUG):
        assert logger.level == logging.DEBUG
    assert (logger.level, logger.handlers) == before


def on_terminal() -> tuple[Reporter, io.StringIO]:
    """A reporter on a terminal of 120 columns, and the stream with its output."""
    reporter, shown = Reporter(), io.StringIO()
    reporter.console = Console(
        file=shown, force_terminal=True, force_interactive=True, width=120, highlight=False, soft_wrap=True, _environ={}
    )
    return reporter, shown


def lines_of(shown: io.StringIO) -> list[str]:
    """The lines of the output without control sequences."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    return [line.strip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def test_a_download_on_a_terminal_shows_bytes_speed_and_time_left() -> None:
    reporter, shown = on_terminal()
    with DownloadProgress(reporter, "gfpgan-[1.4]") as progress:
        assert progress.bar is not None
        now = 0.0
        progress.bar.get_time = lambda: now
        progress(100_000_000, 350_000_000)  # resumed
        for megabytes in (110, 120, 130):
            now += 1.0
            progress(megabytes * 1_000_000, 350_000_000)
        progress.bar.refresh()
    last = lines_of(shown)[-1]
    assert last.startswith("gfpgan-[1.4] ")
    assert "130.0/350.0 MB" in last
    assert "10.0 MB/s" in last  # 10 MB each second; the 100 MB of the earlier attempt do not count
    assert "0:00:22" in last  # 220 MB are left


def test_a_download_of_unknown_size_is_shown_on_a_terminal() -> None:
    reporter, shown = on_terminal()
    with DownloadProgress(reporter, "parser") as progress:
        progress(2_000_000, None)
    assert "2.0/? MB" in lines_of(shown)[-1]


def test_a_failed_download_leaves_no_bar_and_shows_the_cursor_again() -> None:
    reporter, shown = on_terminal()
    with pytest.raises(OSError), DownloadProgress(reporter, "parser") as progress:
        progress(1_000_000, 5_000_000)
        raise OSError
    assert shown.getvalue().rindex("\x1b[?25h") > shown.getvalue().rindex("\x1b[?25l")
    before = len(shown.getvalue())
    reporter.note("next")
    assert shown.getvalue()[before:] == "next\n"


def test_a_download_within_a_run_takes_the_place_of_its_bar_and_gives_it_back() -> None:
    reporter, shown = on_terminal()
    with RunProgress(reporter, 4) as run:
        assert run.bar is not None
        run.advance("a.jpg", 1, False)
        with download_reporter(reporter)("parser") as progress:
            progress(1_000_000, 2_000_000)
            assert progress.bar is not None
            assert (run.bar.live.is_started, progress.bar.live.is_started) == (False, True)
            run.advance("b.jpg", 1, False)
            progress(2_000_000, 2_000_000)
        assert (run.bar.live.is_started, progress.bar.live.is_started) == (True, False)
        run.bar.refresh()
        assert any(line.startswith("2/4 photos") for line in lines_of(shown))
    assert not run.bar.live.is_started
    assert any("2.0/2.0 MB" in line for line in lines_of(shown))


def test_a_bar_that_ends_below_a_download_does_not_return() -> None:
    reporter, _ = on_terminal()
    stages = StageProgress(reporter).__enter__()
    with DownloadProgress(reporter, "parser") as progress:
        progress(1, 2)
        stages.__exit__(None, None, None)
        assert progress.bar is not None and progress.bar.live.is_started
    assert stages.bar is not None and not stages.bar.live.is_started and not progress.bar.live.is_started


def test_stdout_that_is_a_file_is_not_diverted_by_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reporter, shown = on_terminal()
    reporter.json_output = True
    with (tmp_path / "out.jsonl").open("w", encoding="utf-8") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with RunProgress(reporter, 1) as progress:
            reporter.record({"source": "a.jpg"})
            progress.advance("a.jpg", 1, False)
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == '{"source": "a.jpg"}\n'
    assert "source" not in shown.getvalue()


def test_a_download_without_a_terminal_writes_a_line_at_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with DownloadProgress(Reporter(), "parser") as progress:
        for percent in range(1, 101):
            progress(percent * 1_000_000, 100_000_000)
        progress(5, None)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"parser: {megabytes} of 100 MB" for megabytes in (1, *range(10, 101, 10))]
