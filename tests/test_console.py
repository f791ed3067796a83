"""Messages of the package on the console: through logging, marked by their level, harmless to a terminal."""

from __future__ import annotations

import logging

import pytest

from gfprestore.console import Reporter, log_on_console

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
