"""`gfprestore eval`: restore a test set and score it, or score the images of any method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gfprestore.commands.boundary import command
from gfprestore.commands.options import (
    Alignment,
    BatchSize,
    Debug,
    DetectorName,
    Device,
    Json,
    NamedPrecision,
    Offline,
    OwnRestorer,
    Precision,
    WeightsDir,
    behavior_option,
    faces_option,
    io_option,
)
from gfprestore.errors import ExitCode


@command
def evaluate(
    test_set: Annotated[
        str | None,
        io_option(
            "--set",
            metavar="NAME|DIR",
            help="celeba-test, celeba-test-sr4, lfw-test, celebchild-test, webphoto-test, or any folder.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        io_option("--data", metavar="DIR", help="Folder of the named set; a missing set says where it is expected."),
    ] = None,
    restored: Annotated[
        list[Path] | None,
        io_option("--restored", metavar="DIR", help="Folder of restored images to score, from any method; repeatable."),
    ] = None,
    gt: Annotated[
        Path | None, io_option("--gt", metavar="DIR", help="Folder of ground truth images; default: the set's own.")
    ] = None,
    lq: Annotated[
        Path | None, io_option("--lq", metavar="DIR", help="Folder of low-quality inputs; default: the set's own.")
    ] = None,
    metrics: Annotated[
        str | None,
        behavior_option("--metrics", metavar="A,B", help="Metrics to compute; default: all. A wrong name lists them."),
    ] = None,
    statistics: Annotated[
        Path | None,
        behavior_option(
            "--statistics",
            metavar="FILE|DIR",
            help="Statistics for the FID, or a folder of images to compute them from.",
        ),
    ] = None,
    restorer: Annotated[
        str | None,
        faces_option(
            "--restorer",
            metavar="NAME",
            help="Face restorer, as for run; with --restored, nothing is restored unless named.",
        ),
    ] = None,
    weights: OwnRestorer = None,
    alignment: Annotated[
        Alignment,
        faces_option("--alignment", help="Kind of inputs: aligned crops, or whole photos with one face each."),
    ] = Alignment.AUTO,
    detector: DetectorName = "auto",
    output: Annotated[
        Path | None,
        io_option(
            "--output", "-o", metavar="DIR", help="Output folder; default: gfprestore-eval-<set> in the current folder."
        ),
    ] = None,
    device: Device = "auto",
    precision: NamedPrecision = Precision.AUTO,
    batch_size: BatchSize = None,
    weights_dir: WeightsDir = None,
    offline: Offline = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Restore and score a test set and compare it with published results, or score existing images."""
    from gfprestore.console import Reporter, StageProgress, download_reporter
    from gfprestore.evaluation.evaluate import EvalOptions, Evaluation, Listener
    from gfprestore.evaluation.report import as_json, published_notes, table_of

    options = EvalOptions(
        test_set=test_set,
        data=data,
        restored=tuple(restored or ()),
        gt=gt,
        lq=lq,
        metrics=None if metrics is None else tuple(dict.fromkeys(filter(None, metrics.replace(" ", "").split(",")))),
        statistics=statistics,
        restorer=restorer,
        weights=weights,
        alignment=alignment.value,
        detector=detector,
        output=output,
        device=device,
        precision=precision.value,
        batch_size=batch_size,
        offline=offline,
        weights_dir=weights_dir,
    )
    reporter = Reporter(json_output)
    with StageProgress(reporter) as progress:
        report = Evaluation(options, Listener(progress, download_reporter(reporter))).run()
    reporter.record(as_json(report, with_images=False))
    (reporter.table if json_output else reporter.listing)("", *table_of(report))
    for line in [*report.unavailable, *published_notes(report)]:
        reporter.note(line)
    for line in report.warnings:
        reporter.warn(line)
    for method in report.methods:
        for name, reason in method.failed.items():
            reporter.error(f"{name}: {reason}")
    if any(method.failed for method in report.methods):
        raise typer.Exit(int(ExitCode.SOME_FAILED))
