"""Boundary between commands and the shell: errors become messages and exit codes."""

from __future__ import annotations

import functools
import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import ParamSpec

import typer

from gfprestore.errors import ExitCode, GfprestoreError

Arguments = ParamSpec("Arguments")

log = logging.getLogger(__name__)


def command(function: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Map the errors of a command to a message and an exit code; its option `debug` shows tracebacks."""

    @functools.wraps(function)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        debug = bool(kwargs.get("debug", False))
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _interrupt)
        from gfprestore.console import log_on_console

        with log_on_console(logging.DEBUG if debug else logging.INFO):
            _run(lambda: function(*args, **kwargs), debug)

    return wrapper


def _run(function: Callable[[], None], debug: bool) -> None:
    """Run a command; log its error and exit with the error's exit code.

    Raises:
        typer.Exit: The command failed or was interrupted.
    """
    try:
        function()
    except GfprestoreError as error:
        log.error(str(error), exc_info=error if debug else None)
        raise typer.Exit(int(error.exit_code)) from None
    except KeyboardInterrupt:
        log.error("Interrupted. No output file is incomplete. Run the same command again to resume.")
        raise typer.Exit(int(ExitCode.INTERRUPTED)) from None
    except Exception as error:
        if isinstance(error, typer.Exit) or debug:
            raise
        log.error(
            f"{type(error).__name__}: {error}. This is a bug of gfprestore. Run the command again with --debug and "
            "report the output."
        )
        raise typer.Exit(int(ExitCode.SOME_FAILED)) from None


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
