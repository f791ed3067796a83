"""What people see: messages, progress and tables on stderr, JSON lines on stdout. The only door to rich.

On a terminal a run shows one moving bar; elsewhere it writes one quiet line a photo. Imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # to a terminal; line ends are not


def printable(text: str) -> str:
    """Text that any stream can encode and no terminal obeys: what a hostile file name may hold becomes escapes."""
    encodable = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), encodable)


class ConsoleHandler(logging.Handler):
    """Shows the log of the package on stderr: warnings and errors marked, debug records with their logger's name."""

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
    """Show the log of the package on stderr while the block runs.

    Args:
        level: The least level that is shown.
    """
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
    """The console that the log is shown on, so that a progress bar and messages share the terminal; else a new one."""
    handlers = logging.getLogger("gfprestore").handlers
    shared = [handler.console for handler in handlers if isinstance(handler, ConsoleHandler)]
    return shared[-1] if shared else Console(stderr=True, highlight=False, soft_wrap=True)


class Reporter:
    """Tells people on stderr what happens and, with `json_output`, scripts on stdout what came out.

    Args:
        json_output: Write one JSON object a line to stdout.
    """

    def __init__(self, json_output: bool = False) -> None:
        self.json_output = json_output
        self.console = _console()

    def note(self, message: str) -> None:
        """One plain line."""
        self.console.print(escape(printable(message)))

    def warn(self, message: str) -> None:
        """One line that deserves attention; the work goes on."""
        self.console.print(f"[yellow]warning:[/yellow] {escape(printable(message))}")

    def error(self, message: str) -> None:
        """One line that says what failed and what to do."""
        self.console.print(f"[red]error:[/red] {escape(printable(message))}")

    def record(self, values: Mapping[str, Any]) -> None:
        """One JSON object on stdout, written out at once; nothing without `json_output`."""
        if self.json_output:
            sys.stdout.write(json.dumps(values, ensure_ascii=True) + "\n")
            sys.stdout.flush()

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table on stderr."""
        self.console.print(make_table(title, columns, rows))

    def listing(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table on stdout, for commands whose answer it is; wide where stdout is no terminal, so nothing is cut."""
        out = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=400)
        out.print(make_table(title, columns, rows))

    def answer(self, text: str) -> None:
        """One line on stdout, for commands whose answer it is."""
        sys.stdout.write(printable(text) + "\n")
        sys.stdout.flush()


def make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A rich table of plain texts; markup in them is shown, not obeyed."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    return table


class RunProgress:
    """Progress of a run: a bar with photos, faces, rate and time left on a terminal, one line a photo elsewhere.

    Args:
        reporter: Where to write.
        total: Number of photos of the run.
    """

    def __init__(self, reporter: Reporter, total: int) -> None:
        self.reporter = reporter
        self.total = total
        self.done = 0
        self.faces = 0
        self.started = time.monotonic()
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        if reporter.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.completed:.0f}/{task.total:.0f} photos"),
                BarColumn(),
                TextColumn("{task.fields[faces]} faces"),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[current]}"),
                console=reporter.console,
                transient=True,
            )
            self.task = self.bar.add_task("run", total=total, faces=0, rate="", current="")

    def __enter__(self) -> RunProgress:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def working_on(self, what: str, fraction: float = 0.0) -> None:
        """Shows what is being done now, with the done share 0..1 of this photo; only on a terminal."""
        if self.bar is not None and self.task is not None:
            self.bar.update(
                self.task, current=escape(printable(what)), completed=min(self.done + fraction, float(self.total))
            )

    def at(self, done: int, total: int) -> None:
        """So many photos of so many are done; a line at every tenth where there is no bar."""
        self.done, self.total = done, total
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=done, total=total, rate=self._rate())
        elif 10 * done // max(total, 1) != 10 * (done - 1) // max(total, 1):
            self.reporter.note(f"[{done}/{total}]")

    def _rate(self) -> str:
        rate = self.done / max(time.monotonic() - self.started, 1e-9)
        return f"{rate:.1f} photos/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s/photo"

    def advance(self, line: str, faces: int, failed: bool) -> None:
        """One photo is finished; `line` is its quiet line, shown on a terminal only where it failed."""
        self.done += 1
        self.faces += faces
        if self.bar is None:
            share = f"[{self.done}/{self.total}] "
            (self.reporter.error if failed else self.reporter.note)(share + line)
            return
        if failed:
            self.reporter.error(line)
        if self.task is not None:
            self.bar.update(self.task, completed=self.done, faces=self.faces, rate=self._rate())


class StageProgress:
    """Progress of work in several stages: a bar for the present one on a terminal, a line at each tenth elsewhere.

    Args:
        reporter: Where to write.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.last: tuple[str, int] = ("", -1)
        self.task: TaskID | None = None
        self.bar: Progress | None = None
        if reporter.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TimeRemainingColumn(),
                console=reporter.console,
                transient=True,
            )

    def __enter__(self) -> StageProgress:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """So many of so many are done in a stage."""
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


class DownloadProgress:
    """Progress of one download: a bar on a terminal, a line at every tenth elsewhere.

    Args:
        reporter: Where to write.
        name: What is being downloaded.
    """

    def __init__(self, reporter: Reporter, name: str) -> None:
        self.reporter = reporter
        self.name = name
        self.last_tenth = -1

    def __call__(self, received: int, total: int | None) -> None:
        """Told by the download: bytes received so far, and the total where the server says it."""
        if not total:
            return
        tenth = 10 * received // total
        if tenth == self.last_tenth:
            return
        self.last_tenth = tenth
        line = f"{self.name}: {received / 1e6:.0f} of {total / 1e6:.0f} MB"
        if self.reporter.console.is_terminal and received < total:
            self.reporter.console.print(escape(line), end="\r")
        else:
            self.reporter.note(line)


def download_reporter(reporter: Reporter) -> Callable[[str], DownloadProgress]:
    """A factory of download progress by name, for the weights store's callers."""
    return lambda name: DownloadProgress(reporter, name)
