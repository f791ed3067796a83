"""`gfprestore prepare` and `degrade`: make training and test sets."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfprestore.commands.boundary import command
from gfprestore.commands.options import (
    BEHAVIOR,
    FACES,
    INPUT_OUTPUT,
    PERFORMANCE,
    Debug,
    DetectorName,
    Device,
    Exclude,
    Json,
    Offline,
    WeightsDir,
)
from gfprestore.errors import ExitCode

if TYPE_CHECKING:
    pass


@command
def prepare(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of photos, or FFHQ with its landmark file.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Output folder.", rich_help_panel=INPUT_OUTPUT)
    ],
    size: Annotated[
        int, typer.Option("--size", metavar="PX", help="Side of the images.", rich_help_panel=INPUT_OUTPUT)
    ] = 512,
    min_eye_distance: Annotated[
        float | None,
        typer.Option(
            "--min-eye-distance",
            metavar="PX",
            help="Minimum eye distance in the photo; default: a fifth of --size.",
            rich_help_panel=FACES,
        ),
    ] = None,
    min_sharpness: Annotated[
        float,
        typer.Option(
            "--min-sharpness",
            help="Minimum variance of the Laplacian of the face, for a crop of 512.",
            rich_help_panel=FACES,
        ),
    ] = 15.0,
    max_yaw: Annotated[
        float,
        typer.Option(
            "--max-yaw",
            help="Maximum distance of the nose from between the eyes, in eye distances.",
            rich_help_panel=FACES,
        ),
    ] = 0.45,
    max_outside: Annotated[
        float,
        typer.Option(
            "--max-outside",
            metavar="0..1",
            help="Maximum share of a crop that lies outside the photo.",
            rich_help_panel=FACES,
        ),
    ] = 0.15,
    min_score: Annotated[
        float | None,
        typer.Option(
            "--detection-threshold", metavar="0..1", help="Minimum score of a detection.", rich_help_panel=FACES
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(
            "--quality",
            metavar="1..100",
            help="Write the crops as JPEG of this quality; default: PNG.",
            rich_help_panel=INPUT_OUTPUT,
        ),
    ] = None,
    exclude: Exclude = None,
    detector: DetectorName = "auto",
    device: Device = "auto",
    weights_dir: WeightsDir = None,
    offline: Offline = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Crop, align and box the faces of a folder into a training set."""
    from gfprestore.console import Reporter, RunProgress, download_reporter
    from gfprestore.data.prepare import PrepareOptions
    from gfprestore.data.prepare import prepare as prepare_set
    from gfprestore.device import choose_device
    from gfprestore.restoration.model_loader import Opener
    from gfprestore.weights.store import WeightsStore

    options = PrepareOptions(
        size, min_eye_distance, min_sharpness, max_yaw, max_outside, min_score, quality, tuple(exclude or ())
    )
    reporter = Reporter(json_output)
    opener = Opener(
        store=WeightsStore(weights_dir, offline=offline),
        device=choose_device(device),
        tell=reporter.note,
        download_report=download_reporter(reporter),
    )
    with RunProgress(reporter, 0) as progress:
        report = prepare_set(source, output, options, lambda: opener.detector(detector), reporter.note, progress.at)
    for entry in report.failed:
        reporter.warn(f"{entry.path}: {entry.reason}")
    counts = {"photos": report.photos, "done_before": report.done_before, "faces": report.faces}
    rejected = dict(report.rejected)
    reporter.record({"summary": {**counts, "rejected": rejected, "failed": len(report.failed)}})
    rows = [*counts.items(), *((f"left out: {reason}", count) for reason, count in rejected.items())]
    reporter.table("", ["what", "count"], [[name, str(count)] for name, count in rows])
    reporter.note(f"index: {report.index}")
    if report.failed:
        raise typer.Exit(int(ExitCode.SOME_FAILED))


@command
def degrade(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of aligned, square faces.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Output folder.", rich_help_panel=INPUT_OUTPUT)
    ],
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Random seed.", rich_help_panel=BEHAVIOR)],
    preset: Annotated[
        str,
        typer.Option(
            "--preset", help="Ranges: celeba-test, paper, official, heavy or old-prints.", rich_help_panel=BEHAVIOR
        ),
    ] = "celeba-test",
    size: Annotated[
        int, typer.Option("--size", metavar="PX", help="Side of the images.", rich_help_panel=INPUT_OUTPUT)
    ] = 512,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="NAME",
            help="Use only these rows of the source's index.csv.",
            rich_help_panel=INPUT_OUTPUT,
        ),
    ] = None,
    exclude: Exclude = None,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, help="Number of threads.", rich_help_panel=PERFORMANCE)
    ] = 2,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Make a low-quality test set as CelebA-Test was made; the same command gives the same bytes."""
    from gfprestore.console import Reporter, StageProgress
    from gfprestore.data.degrade_folder import DegradeOptions, degrade_folder

    options = DegradeOptions(seed, preset, size, split, tuple(exclude or ()))
    reporter = Reporter(json_output)
    with StageProgress(reporter) as progress:
        report = degrade_folder(source, output, options, functools.partial(progress, "degrade"), workers)
    for entry in report.failed:
        reporter.error(f"{entry.path}: {entry.reason}")
    counts = {"made": report.made, "done_before": report.done_before, "failed": len(report.failed)}
    reporter.record({"summary": {**counts, "output": str(output)}})
    reporter.note(
        f"{report.made} images made, {report.done_before} done before, {len(report.failed)} failed: {output}. "
        f"Next: gfprestore eval --set {output}"
    )
    if report.failed:
        raise typer.Exit(int(ExitCode.SOME_FAILED))
