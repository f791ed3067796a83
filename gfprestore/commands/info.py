"""`gfprestore doctor`, `bench` and `demo`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gfprestore.commands.boundary import command
from gfprestore.commands.options import (
    BackgroundName,
    BatchSize,
    Debug,
    DetectorName,
    Device,
    Json,
    NamedPrecision,
    Offline,
    OwnRestorer,
    Precision,
    RestorerName,
    Tile,
    Upscale,
    WeightsDir,
    behavior_option,
    io_option,
)
from gfprestore.commands.run import run_photos
from gfprestore.errors import ExitCode


@command
def doctor(
    device: Device = "auto",
    weights_dir: WeightsDir = None,
    offline: Offline = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Show versions, devices, memory, weights, and what `run` would use."""
    from gfprestore.commands.doctor import examine
    from gfprestore.console import Reporter

    reporter = Reporter(json_output)
    findings = examine(device, weights_dir)
    if json_output:
        reporter.record({finding.name: finding.value for finding in findings})
    else:
        reporter.listing("", ["what", "found"], [[finding.name, finding.value] for finding in findings])
    for finding in findings:
        if finding.advice:
            reporter.warn(finding.advice)


@command
def bench(
    photo: Annotated[
        Path | None, typer.Argument(metavar="PHOTO", help="Photo to measure with; default: a portrait of the demo.")
    ] = None,
    megapixels: Annotated[float, behavior_option("--megapixels", help="Size to which the photo is resized.")] = 0.5,
    rounds: Annotated[int, behavior_option("--rounds", metavar="N", help="Number of times each part is measured.")] = 3,
    restorer: RestorerName = "auto",
    weights: OwnRestorer = None,
    background: BackgroundName = "auto",
    upscale: Upscale = None,
    detector: DetectorName = "auto",
    device: Device = "auto",
    precision: NamedPrecision = Precision.AUTO,
    batch_size: BatchSize = None,
    tile: Tile = None,
    weights_dir: WeightsDir = None,
    offline: Offline = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Measure the time per face and per megapixel with the networks that `run` would use."""
    from gfprestore.commands.bench import bench as time_parts
    from gfprestore.console import Reporter, download_reporter
    from gfprestore.restoration.options import RunOptions

    options = RunOptions(
        upscale=upscale,
        restorer=restorer,
        weights=weights,
        background=background,
        detector=detector,
        device=device,
        precision=precision.value,
        batch_size=batch_size,
        tile=tile,
        offline=offline,
        weights_dir=weights_dir,
    )
    reporter = Reporter(json_output)
    report = time_parts(
        options, photo, megapixels=megapixels, rounds=rounds, download_progress=download_reporter(reporter)
    )
    if json_output:
        reporter.record(asdict(report))
        return
    rows = [
        [timing.part, timing.name, timing.precision or "", f"{timing.seconds:.3g} s per {timing.per}",
         f"{timing.fastest:.3g} to {timing.slowest:.3g}"]
        for timing in report.parts
    ]  # fmt: skip
    reporter.listing(f"on {report.device}", ["part", "network", "precision", "median", "rounds"], rows)


@command
def demo(
    output: Annotated[Path, io_option("--output", "-o", metavar="DIR", help="Output folder.")] = Path(
        "gfprestore-demo"
    ),
    restorer: RestorerName = "auto",
    weights: OwnRestorer = None,
    background: BackgroundName = "auto",
    upscale: Upscale = None,
    device: Device = "auto",
    weights_dir: WeightsDir = None,
    offline: Offline = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Age two public-domain portraits, restore them, and write a side-by-side comparison."""
    from gfprestore.batch.folders import plan_photos
    from gfprestore.batch.results import OutputOptions
    from gfprestore.commands.demo import write_aged_portraits
    from gfprestore.console import Reporter, download_reporter
    from gfprestore.photo.photo import PHOTO_SUFFIXES
    from gfprestore.photo.writing import output_suffix
    from gfprestore.restoration.options import RunOptions
    from gfprestore.restoration.planned import PlannedRestoration

    options = RunOptions(
        upscale=upscale,
        restorer=restorer,
        weights=weights,
        background=background,
        device=device,
        offline=offline,
        weights_dir=weights_dir,
    )
    options.check()
    reporter = Reporter(json_output)
    aged = write_aged_portraits(output / "aged")
    reporter.note(f"{len(aged)} aged portraits were written to {output / 'aged'}")
    restoration = PlannedRestoration(options, download_reporter(reporter))
    plan = plan_photos(
        [output / "aged"],
        output / "restored",
        suffixes=PHOTO_SUFFIXES,
        rename=lambda source: output_suffix(source, "keep"),
    )
    failed = run_photos(plan, restoration, OutputOptions(overwrite=True, compare=True), reporter)
    reporter.note(f"Comparison of before and after: {output / 'restored' / '_compare'}")
    if failed:
        raise typer.Exit(int(ExitCode.SOME_FAILED))
