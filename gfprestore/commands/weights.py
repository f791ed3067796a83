"""`gfprestore weights`: list, fetch, verify and locate the known networks."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from gfprestore.commands.boundary import command
from gfprestore.commands.options import Debug, Json, Offline, WeightsDir, behavior_option
from gfprestore.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from gfprestore.console import Reporter
    from gfprestore.weights.store import WeightsStatus, WeightsStore
    from gfprestore.weights.table import WeightsFile


class Purpose(str, Enum):
    """A command that uses downloaded networks."""

    RUN = "run"
    TRAIN = "train"
    EVAL = "eval"


weights_app = typer.Typer(
    help="List, download, verify and locate released networks.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@weights_app.command("list")
@command
def weights_list(weights_dir: WeightsDir = None, json_output: Json = False, debug: Debug = False) -> None:
    """List the known networks with their state on this machine, size and license."""
    from gfprestore.console import Reporter
    from gfprestore.weights.store import WeightsStore

    reporter = Reporter(json_output)
    store = WeightsStore(weights_dir, offline=True)
    rows = store.status()
    if json_output:
        for row in rows:
            card = None if row.card is None else str(row.card)
            about = {"state": row.state, "path": str(row.path), "problem": row.problem, "card": card}
            reporter.record({**asdict(row.file), **about})
        return
    reporter.listing(
        f"Weights in {store.folder}",
        ["name", "role", "state", "size", "license", "note"],
        [
            [row.file.name, row.file.role, row.state, row.file.size_text, row.file.license, _note_on(row)]
            for row in rows
        ],
    )


def _note_on(row: WeightsStatus) -> str:
    """Note on a network, and the path of its model card."""
    return row.file.note if row.card is None else f"{row.file.note} Card: {row.card}".strip()


@weights_app.command("fetch")
@command
def weights_fetch(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Names from `weights list`.")] = None,
    purpose: Annotated[
        Purpose | None,
        behavior_option("--for", help="Fetch everything that this command can use, and ask first."),
    ] = None,
    yes: Annotated[bool, behavior_option("--yes", "-y", help="Fetch without asking.")] = False,
    weights_dir: WeightsDir = None,
    offline: Offline = False,
    debug: Debug = False,
) -> None:
    """Download networks and verify their SHA-256."""
    from gfprestore.console import DownloadProgress, Reporter
    from gfprestore.weights.store import WeightsStore

    reporter = Reporter()
    store = WeightsStore(weights_dir, offline=offline)
    wanted = [store.row(name) for name in _wanted_names(names, purpose)]
    if purpose is not None and not _agree(wanted, store, reporter, yes):
        raise typer.Exit(int(ExitCode.SOME_FAILED))
    for row in wanted:
        path = store.fetch(row.name, DownloadProgress(reporter, row.name))
        reporter.answer(f"{row.name}: {path}")
        reporter.note(f"license of {row.name}: {row.license}")


def _wanted_names(names: list[str] | None, purpose: Purpose | None) -> tuple[str, ...]:
    """Names of the networks to fetch.

    Raises:
        UsageError: Neither names nor a purpose are given, or both.
    """
    from gfprestore.weights.table import WEIGHTS_FOR

    if bool(names) == bool(purpose):
        raise UsageError("Name the networks to fetch, or use --for run, --for train or --for eval.")
    return WEIGHTS_FOR[purpose.value] if purpose is not None else tuple(names or ())


def _agree(wanted: list[WeightsFile], store: WeightsStore, reporter: Reporter, yes: bool) -> bool:
    """Show sizes and licenses of the files that are missing, and ask whether to download them.

    Raises:
        UsageError: There is no terminal to ask on.
    """
    missing = [row for row in wanted if store.find(row.name) is None]
    if not missing:
        reporter.note(f"All {len(wanted)} files are in {store.folder} already.")
        return True
    rows = [[row.name, row.size_text, row.license, row.note] for row in missing]
    reporter.table(f"To download into {store.folder}:", ["name", "size", "license", "note"], rows)
    total = sum(row.bytes or row.about_bytes or 0 for row in missing)
    reporter.note(f"{len(missing)} files, about {total / 1e6:.0f} MB.")
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError("Add --yes to download these files.")
    return typer.confirm("Download them?", err=True)


@weights_app.command("verify")
@command
def weights_verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Names from `weights list`; default: all available.")
    ] = None,
    weights_dir: WeightsDir = None,
    debug: Debug = False,
) -> None:
    """Verify the SHA-256 of the available networks."""
    from gfprestore.console import Reporter
    from gfprestore.weights.store import WeightsStore

    reporter = Reporter()
    store = WeightsStore(weights_dir, offline=True)
    available = names or [row.file.name for row in store.status() if row.state not in ("missing", "partial")]
    checked = [store.verify(name) for name in available]
    for row in checked:
        reporter.answer(f"{row.file.name}: {row.state} {row.path}")
        if row.problem:
            reporter.error(row.problem)
    if not checked:
        reporter.note(f"No weights are in {store.folder}. Run `gfprestore weights fetch NAME` to download them.")
    if any(row.problem for row in checked):
        raise typer.Exit(int(ExitCode.WEIGHTS))


@weights_app.command("path")
@command
def weights_path(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name from `weights list`; default: the folder itself.")
    ] = None,
    weights_dir: WeightsDir = None,
    debug: Debug = False,
) -> None:
    """Show the path of a network, or where a download would store it."""
    from gfprestore.console import Reporter
    from gfprestore.weights.store import WeightsStore

    store = WeightsStore(weights_dir, offline=True)
    Reporter().answer(str(store.folder if name is None else store.path(name)))
