"""The border between commands and the shell: errors become messages and exit codes."""

from __future__ import annotations

import functools
import logging
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import ParamSpec

import typer

from gfprestore.errors import ExitCode, GfprestoreError

Arguments = ParamSpec("Arguments")


def command(function: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Map the errors of a command to a message and an exit code; its option `debug` shows tracebacks."""

    @functools.wraps(function)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        debug = bool(kwargs.get("debug", False))
        if debug:
            logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s")
            logging.getLogger("gfprestore").setLevel(logging.DEBUG)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _interrupt)
        from gfprestore.console import Reporter

        reporter = Reporter()
        try:
            function(*args, **kwargs)
        except GfprestoreError as error:
            if debug:
                logging.getLogger("gfprestore").debug("traceback", exc_info=error)
            reporter.error(str(error))
            raise typer.Exit(int(error.exit_code)) from None
        except KeyboardInterrupt:
            reporter.error("Interrupted. No output file is incomplete. Run the same command again to resume.")
            raise typer.Exit(int(ExitCode.INTERRUPTED)) from None
        except BrokenPipeError:
            raise typer.Exit(int(ExitCode.SOME_FAILED)) from None
        except Exception as error:
            if isinstance(error, typer.Exit) or debug:
                raise
            reporter.error(
                f"{type(error).__name__}: {error}. This is a bug of gfprestore; run the command again with --debug and "
                "report what that shows."
            )
            raise typer.Exit(int(ExitCode.SOME_FAILED)) from None

    return wrapper


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
