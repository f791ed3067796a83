"""`gfprestore eval`: restore a test set and score it, or score the images of any method."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    Precision,
    WeightsDir,
    behavior_option,
    faces_option,
    io_option,
)
from gfprestore.errors import ExitCode

if TYPE_CHECKING:
    from gfprestore.console import Reporter
    from gfprestore.evaluation.evaluate import Listener
    from gfprestore.evaluation.reversal.options import ReversalEvalOptions

RETOUCHED_SET = "deepfrr"


@command
def evaluate(
    test_set: Annotated[
        str | None,
        io_option(
            "--set",
            metavar="NAME|DIR",
            help="celeba-test, celeba-test-sr4, lfw-test, celebchild-test, webphoto-test, deepfrr, or any folder.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        io_option("--data", metavar="DIR", help="Folder of the named set; a missing set says where it is expected."),
    ] = None,
    restored: Annotated[
        list[str] | None,
        io_option(
            "--restored",
            metavar="[NAME=]DIR",
            help="Folder of restored images to score, from any method; repeatable.",
        ),
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
    weights: Annotated[
        list[Path] | None,
        faces_option(
            "--weights",
            metavar="FILE",
            help="Your own face restorer, recognized by its tensors; repeatable with deepfrr.",
        ),
    ] = None,
    constant_from: Annotated[
        Path | None,
        io_option(
            "--constant-from", metavar="DIR", help="Training pairs for the row of the constant inverse (deepfrr)."
        ),
    ] = None,
    study: Annotated[
        Path | None,
        io_option("--study", metavar="DIR", help="Write a page for a blind user study of the methods to DIR/page."),
    ] = None,
    votes: Annotated[
        list[Path] | None,
        io_option(
            "--votes", metavar="FILE|DIR", help="Count the votes of the study in --study, and nothing else; repeatable."
        ),
    ] = None,
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
    from gfprestore.evaluation.options import CommonOptions
    from gfprestore.evaluation.report import as_json, published_notes, table_of
    from gfprestore.evaluation.reversal.options import ReversalEvalOptions
    from gfprestore.evaluation.study import check_new, methods_of, write_study

    reporter = Reporter(json_output)
    if votes:
        _count_votes(reporter, votes, study)
        return
    if study is not None:
        check_new(study)
    named = [_named_folder(text) for text in restored or ()]
    chosen = None if metrics is None else tuple(dict.fromkeys(filter(None, metrics.replace(" ", "").split(","))))
    common = CommonOptions(
        data=data,
        restored=tuple(folder for _, folder in named),
        names=tuple(name for name, _ in named),
        metrics=chosen,
        restorer=restorer,
        detector=detector,
        output=output,
        device=device,
        precision=precision.value,
        batch_size=batch_size,
        offline=offline,
        weights_dir=weights_dir,
    )
    if test_set == RETOUCHED_SET:
        _refuse_for_deepfrr({"--gt": gt, "--lq": lq, "--statistics": statistics})
        reversal = ReversalEvalOptions(**vars(common), weights=tuple(weights or ()), constant_from=constant_from)
        with StageProgress(reporter) as progress:
            _evaluate_reversal(reporter, reversal, Listener(progress, download_reporter(reporter)), study)
        return
    _check_only_deepfrr(constant_from, weights)
    options = EvalOptions(
        **vars(common),
        test_set=test_set,
        gt=gt,
        lq=lq,
        statistics=statistics,
        weights=weights[0] if weights else None,
        alignment=alignment.value,
    )
    with StageProgress(reporter) as progress:
        report = Evaluation(options, Listener(progress, download_reporter(reporter))).run()
        if study is not None:
            write_study(study, methods_of(report.methods), report.test_set.gt, functools.partial(progress, "study"))
    reporter.record(as_json(report, with_images=False))
    (reporter.table if json_output else reporter.listing)("", *table_of(report))
    for line in [*report.unavailable, *published_notes(report)]:
        reporter.note(line)
    for line in report.warnings:
        reporter.warn(line)
    _tell_study(reporter, study)
    for method in report.methods:
        for name, reason in method.failed.items():
            reporter.error(f"{name}: {reason}")
    if any(method.failed for method in report.methods):
        raise typer.Exit(int(ExitCode.SOME_FAILED))


def _refuse_for_deepfrr(values: dict[str, Path | None]) -> None:
    """Refuse options that a set of retouched pairs does not have."""
    from gfprestore.errors import UsageError

    for option, value in values.items():
        if value is not None:
            raise UsageError(f"{option} is not supported with --set deepfrr. Name the set's folder with --data.")


def _check_only_deepfrr(constant_from: Path | None, weights: list[Path] | None) -> None:
    """Refuse options that only a set of retouched pairs has."""
    from gfprestore.errors import UsageError

    if constant_from is not None:
        raise UsageError("--constant-from is only for --set deepfrr.")
    if weights is not None and len(weights) > 1:
        raise UsageError("Several --weights are only for --set deepfrr. Evaluate them one by one.")


def _evaluate_reversal(
    reporter: Reporter, options: ReversalEvalOptions, listener: Listener, study: Path | None
) -> None:
    """Evaluate retouched pairs and report; failed pairs end the command with their exit code."""
    from gfprestore.evaluation.report import table_of
    from gfprestore.evaluation.reversal.comparisons import RETOUCHED
    from gfprestore.evaluation.reversal.evaluate import ReversalEvaluation
    from gfprestore.evaluation.reversal.report import (
        WHAT_IT_IS,
        as_json,
        comparison_table,
        published_lines,
        unavailable_lines,
        untouched_table,
    )
    from gfprestore.evaluation.reversal.views import for_study
    from gfprestore.evaluation.study import methods_of, write_study

    evaluation = ReversalEvaluation(options, listener)
    report = evaluation.run()
    if study is not None:
        frame, rows = for_study(evaluation.frames)
        methods = methods_of(rows, also=RETOUCHED)
        write_study(study, methods, frame.test_set.gt, functools.partial(listener.progress, "study"))
    reporter.record(as_json(report, with_images=False))
    show = reporter.table if reporter.json_output else reporter.listing
    for view in report.views:
        show(view.title, *table_of(view.report))
        if view.comparisons:
            show("Compared image by image", *comparison_table(view))
    if report.untouched:
        show("Untouched and slightly retouched faces", *untouched_table(report))
    for line in [WHAT_IT_IS, *published_lines(), *report.notes, *unavailable_lines(report)]:
        reporter.note(line)
    for line in report.warnings:
        reporter.warn(line)
    _tell_study(reporter, study)
    for name, reason in report.failed.items():
        reporter.error(f"{name}: {reason}")
    if report.failed:
        raise typer.Exit(int(ExitCode.SOME_FAILED))


def _count_votes(reporter: Reporter, files: list[Path], study: Path | None) -> None:
    """Count the votes of a study."""
    from gfprestore.errors import UsageError
    from gfprestore.evaluation.study import read_key
    from gfprestore.evaluation.votes import as_json, read_ballots, table_of, tally

    if study is None:
        raise UsageError("--votes needs the folder of the study. Name it with --study.")
    key = read_key(study)
    found = tally(read_ballots(files, key), key)
    reporter.record(as_json(found))
    show = reporter.table if reporter.json_output else reporter.listing
    show(f"{found.votes} votes of {found.voters} voters", *table_of(found.methods))
    show("In pairs", *table_of(found.pairs))
    if found.voters > 1:
        reporter.note("Wilson's interval treats all votes as independent. Quote the interval over voters.")
    if not found.reference:
        reporter.note("The voters did not see the originals.")


def _tell_study(reporter: Reporter, study: Path | None) -> None:
    if study is not None:
        reporter.note(
            f"Study: give {study / 'page'} to the voters and keep {study / 'key.json'}. Then count their files with "
            f"`gfprestore eval --study {study} --votes FILE`."
        )


def _named_folder(text: str) -> tuple[str, Path]:
    """Name and folder of `NAME=DIR`; an existing folder with such a name is a folder."""
    name, equals, folder = text.partition("=")
    if not equals or not name or Path(text).exists():
        return "", Path(text)
    return name, Path(folder)
