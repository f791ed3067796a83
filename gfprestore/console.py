"""Messages, progress and tables on stderr, JSON lines on stdout. The only module that imports rich.

On a terminal, a run shows a progress bar; elsewhere, it writes one line per photo. Imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

Bar = TypeVar("Bar", bound="_ProgressBar")

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # but not tab and line feed


def printable(text: str) -> str:
    """Escape characters that control a terminal or cannot be encoded, such as those of a hostile file name."""
    encodable = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), encodable)


class ConsoleHandler(logging.Handler):
    """Print log records on stderr; mark warnings and errors, and add the logger's name to debug records."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        text = escape(printable(self.format(record)))
        if record.levelno >= logging.ERROR:
            text = f"[red]error:[/red] {text}"
        elif record.levelno >= logging.WARNING:
            text = f"[yellow]warning:[/yellow] {text}"
        elif record.levelno < logging.INFO:
            text = f"{record.name}: {text}"
        self.console.print(text)


@contextlib.contextmanager
def log_on_console(level: int = logging.INFO) -> Iterator[None]:
    """Print the package's log records of at least this level on stderr while the block runs."""
    logger, handler = logging.getLogger("gfprestore"), ConsoleHandler()
    level_before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level_before)


def _console() -> Console:
    """The console of the log, so that messages do not tear a progress bar; a new one if the log is not shown."""
    handlers = logging.getLogger("gfprestore").handlers
    shared = [handler.console for handler in handlers if isinstance(handler, ConsoleHandler)]
    return shared[-1] if shared else Console(stderr=True, highlight=False, soft_wrap=True)


class Reporter:
    """Messages for people on stderr and, with `json_output`, one JSON object per line for scripts on stdout."""

    def __init__(self, json_output: bool = False) -> None:
        self.json_output = json_output
        self.console = _console()
        self._bars: list[Progress] = []

    def note(self, message: str) -> None:
        """Print a message."""
        self.console.print(escape(printable(message)))

    def warn(self, message: str) -> None:
        """Print a warning."""
        self.console.print(f"[yellow]warning:[/yellow] {escape(printable(message))}")

    def error(self, message: str) -> None:
        """Print an error."""
        self.console.print(f"[red]error:[/red] {escape(printable(message))}")

    def record(self, values: Mapping[str, Any]) -> None:
        """Write one JSON object to stdout and flush it, if `json_output` is set."""
        if self.json_output:
            sys.stdout.write(json.dumps(values, ensure_ascii=True) + "\n")
            sys.stdout.flush()

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table on stderr."""
        self.console.print(make_table(title, columns, rows))

    def listing(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table on stdout; 400 columns wide if stdout is not a terminal, so that no cell is wrapped."""
        out = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=400)
        out.print(make_table(title, columns, rows))

    def answer(self, text: str) -> None:
        """Print one line on stdout."""
        sys.stdout.write(printable(text) + "\n")
        sys.stdout.flush()

    def new_bar(self, *columns: ProgressColumn, transient: bool = True) -> Progress | None:
        """Make a progress bar for `show`, removed at its end if `transient`; None if stderr is not a terminal."""
        if not self.console.is_terminal:
            return None
        # rich would redirect stdout to stderr, so that the file of `--json > FILE` would stay empty
        return Progress(*columns, console=self.console, transient=transient, redirect_stdout=sys.stdout.isatty())

    def show(self, bar: Progress) -> None:
        """Show a progress bar in place of the present one, which returns when this one is hidden."""
        if self._bars:
            self._bars[-1].stop()
        self._bars.append(bar)
        bar.start()

    def hide(self, bar: Progress) -> None:
        """End a progress bar that `show` started."""
        bar.stop()
        was_visible = self._bars[-1] is bar
        self._bars.remove(bar)
        if was_visible and self._bars:
            self._bars[-1].start()


def make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Make a rich table of plain texts, in which markup has no effect."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    return table


class _ProgressBar:
    """Base of the progress that shows a bar, on a terminal, while its block runs."""

    def __init__(self, reporter: Reporter, *columns: ProgressColumn) -> None:
        self.reporter = reporter
        self.bar = reporter.new_bar(*columns)

    def __enter__(self: Bar) -> Bar:
        if self.bar is not None:
            self.reporter.show(self.bar)
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.reporter.hide(self.bar)


class RunProgress(_ProgressBar):
    """Progress of a run: a bar with photos, faces, rate and time left on a terminal, one line per photo elsewhere."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        super().__init__(
            reporter,
            TextColumn("{task.completed:.0f}/{task.total:.0f} photos"),
            BarColumn(),
            TextColumn("{task.fields[faces]} faces"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[current]}"),
        )
        self.total = total
        self.done = 0
        self.faces = 0
        self.started = time.monotonic()
        self.task = TaskID(0)
        if self.bar is not None:
            self.task = self.bar.add_task("run", total=total, faces=0, rate="", current="")

    def working_on(self, what: str, fraction: float = 0.0) -> None:
        """Show the current step and the finished fraction (0 to 1) of the current photo; only on a terminal."""
        if self.bar is not None:
            completed = min(self.done + fraction, float(self.total))
            self.bar.update(self.task, current=escape(printable(what)), completed=completed)

    def at(self, done: int, total: int) -> None:
        """Show the number of finished photos; print a line at each tenth if there is no bar."""
        self.done, self.total = done, total
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=total, rate=self._rate())
        elif 10 * done // max(total, 1) != 10 * (done - 1) // max(total, 1):
            self.reporter.note(f"[{done}/{total}]")

    def _rate(self) -> str:
        rate = self.done / max(time.monotonic() - self.started, 1e-9)
        return f"{rate:.1f} photos/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s/photo"

    def advance(self, line: str, faces: int, failed: bool, is_notable: bool = False) -> None:
        """Count a finished photo. A terminal shows its line only if the photo failed or the line is notable."""
        self.done += 1
        self.faces += faces
        if self.bar is None:
            share = f"[{self.done}/{self.total}] "
            (self.reporter.error if failed else self.reporter.note)(share + line)
            return
        if failed or is_notable:
            (self.reporter.error if failed else self.reporter.note)(line)
        self.bar.update(self.task, completed=self.done, faces=self.faces, rate=self._rate())


class StageProgress(_ProgressBar):
    """Progress of work in stages: a bar for the current stage on a terminal, a line at each tenth elsewhere."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(
            reporter,
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(),
        )
        self.last: tuple[str, int] = ("", -1)
        self.task: TaskID | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how much of a stage is done."""
        now = (stage, 10 * done // max(total, 1))
        if self.bar is None:
            if now != self.last and done:
                self.reporter.note(f"{stage} [{done}/{total}]")
        elif stage != self.last[0] or self.task is None:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.task = self.bar.add_task(escape(printable(stage)), total=total, completed=done)
        else:
            self.bar.update(self.task, completed=done, total=total)
        self.last = now


class StageBar:
    """A `StageProgress` that is visible only while a stage is under way; not a context manager."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self._shown: StageProgress | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how much of a stage is done."""
        if self._shown is None:
            self._shown = StageProgress(self.reporter).__enter__()
        self._shown(stage, done, total)
        if done >= total:
            self._shown.__exit__()
            self._shown = None


class DownloadProgress:
    """Progress of a download: a bar with size, speed and time left on a terminal, a line at each tenth elsewhere.

    The bar is visible from the first report to the end of the `with` block.
    """

    def __init__(self, reporter: Reporter, name: str) -> None:
        self.reporter = reporter
        self.name = name
        self.last_tenth = -1
        self.task: TaskID | None = None
        self.bar = reporter.new_bar(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            transient=False,
        )

    def __enter__(self) -> DownloadProgress:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None and self.task is not None:
            self.reporter.hide(self.bar)
            self.bar.remove_task(self.task)
            self.task = None

    def __call__(self, received: int, total: int | None) -> None:
        """Show the number of bytes received so far, and the total if the server sent it."""
        if self.bar is None:
            if total and 10 * received // total != self.last_tenth:
                self.last_tenth = 10 * received // total
                self.reporter.note(f"{self.name}: {received / 1e6:.0f} of {total / 1e6:.0f} MB")
        elif self.task is None:  # bytes of an earlier attempt do not count as speed
            self.task = self.bar.add_task(escape(printable(self.name)), total=total, completed=received)
            self.reporter.show(self.bar)
        else:
            self.bar.update(self.task, completed=received, total=total)


def download_reporter(reporter: Reporter) -> Callable[[str], DownloadProgress]:
    """Return a function that makes the progress of a download from the name of the weights."""
    return lambda name: DownloadProgress(reporter, name)
