"""The command line: every command registered, and the entry point.

Heavy imports wait until a command runs: `--help` and `--version` import neither torch nor cv2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from gfprestore._version import __version__
from gfprestore.commands.data import degrade, prepare, retouch, sample
from gfprestore.commands.eval import evaluate
from gfprestore.commands.info import bench, demo, doctor
from gfprestore.commands.run import run
from gfprestore.commands.train import train
from gfprestore.commands.weights import weights_app
from gfprestore.errors import ExitCode
from gfprestore.streams import lenient_streams

app = typer.Typer(
    name="gfprestore",
    help="Restore folders of old photos: faces with GFP-GAN, the rest with Real-ESRGAN; metadata are kept.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with a code of `ExitCode`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name that the terminal cannot encode must not end it
    with lenient_streams() as (out, err):
        try:
            app(args=arguments, prog_name="gfprestore")
            code: int | str | None = 0
        except SystemExit as leaving:
            code = leaving.code
        out.flush()
        err.flush()
        if out.failure:
            err.write(f"The output could not be printed on stdout: {out.failure}. Files were written as usual.\n")
        if err.failure and "--json" not in arguments:  # with --json, stdout carries nothing but JSON
            out.write(f"The messages could not be printed on stderr: {err.failure}. Files were written as usual.\n")
    sys.exit(code or (int(ExitCode.SOME_FAILED) if out.failure or err.failure else 0))


def _show_version(value: bool) -> None:
    if value:
        sys.stdout.write(f"gfprestore {__version__}\n")
        raise typer.Exit


@app.callback()
def gfprestore(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Restore folders of old photos: faces with GFP-GAN, the rest with Real-ESRGAN; metadata are kept."""


app.command()(run)
app.add_typer(weights_app, name="weights")
app.command()(doctor)
app.command()(bench)
app.command()(demo)
app.command()(prepare)
app.command()(train)
app.command("eval")(evaluate)
app.command()(degrade)
app.command()(sample)
app.command()(retouch)
