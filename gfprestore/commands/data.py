"""`gfprestore prepare`, `degrade`, `sample` and `retouch`: make training and test sets."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfprestore.commands.boundary import command
from gfprestore.commands.options import (
    BatchSize,
    Debug,
    DetectorName,
    Device,
    Exclude,
    Json,
    Offline,
    SetOutput,
    SetSeed,
    Split,
    Threads,
    WeightsDir,
    behavior_option,
    faces_option,
    io_option,
)
from gfprestore.errors import ExitCode

if TYPE_CHECKING:
    from gfprestore.console import Reporter
    from gfprestore.data.pair_folders import SetReport


@command
def prepare(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of photos, or FFHQ with its landmark file.")],
    output: Annotated[Path, io_option("--output", "-o", metavar="DIR", help="Output folder.")],
    size: Annotated[int, io_option("--size", metavar="PX", help="Side of the images.")] = 512,
    min_eye_distance: Annotated[
        float | None,
        faces_option(
            "--min-eye-distance", metavar="PX", help="Minimum eye distance in the photo; default: a fifth of --size."
        ),
    ] = None,
    min_sharpness: Annotated[
        float, faces_option("--min-sharpness", help="Minimum variance of the Laplacian of the face, for a crop of 512.")
    ] = 15.0,
    max_yaw: Annotated[
        float, faces_option("--max-yaw", help="Maximum distance of the nose from between the eyes, in eye distances.")
    ] = 0.45,
    max_outside: Annotated[
        float, faces_option("--max-outside", metavar="0..1", help="Maximum share of a crop outside the photo.")
    ] = 0.15,
    min_score: Annotated[
        float | None, faces_option("--detection-threshold", metavar="0..1", help="Minimum score of a detection.")
    ] = None,
    quality: Annotated[
        int | None,
        io_option("--quality", metavar="1..100", help="Write the crops as JPEG of this quality; default: PNG."),
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
        download_report=download_reporter(reporter),
    )
    with RunProgress(reporter, 0) as progress:
        report = prepare_set(source, output, options, lambda: opener.detector(detector), progress.at)
    for entry in report.failed:
        reporter.warn(f"{entry.path}: {entry.reason}")
    counts = {"photos": report.photos, "done_before": report.done_before, "faces": report.faces}
    rejected = dict(report.rejected)
    reporter.record({"summary": {**counts, "rejected": rejected, "failed": len(report.failed)}})
    rows = [*counts.items(), *((f"rejected: {reason}", count) for reason, count in rejected.items())]
    reporter.table("", ["what", "count"], [[name, str(count)] for name, count in rows])
    reporter.note(f"index: {report.index}")
    if report.failed:
        raise typer.Exit(int(ExitCode.SOME_FAILED))


@command
def degrade(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of aligned, square faces.")],
    output: SetOutput,
    seed: SetSeed,
    preset: Annotated[
        str,
        behavior_option(
            "--preset",
            help="Ranges: celeba-test, celeba-test-sr4 (4x super-resolution), paper, official, heavy, old-prints or "
            "damaged (with masks).",
        ),
    ] = "celeba-test",
    size: Annotated[int, io_option("--size", metavar="PX", help="Side of the images.")] = 512,
    split: Split = None,
    exclude: Exclude = None,
    workers: Threads = 2,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Make a low-quality test set in the way of CelebA-Test; the same command gives the same bytes."""
    from gfprestore.console import Reporter, StageProgress
    from gfprestore.data.degrade_folder import DegradeOptions, degrade_folder

    options = DegradeOptions(seed, preset, size, split, tuple(exclude or ()))
    reporter = Reporter(json_output)
    with StageProgress(reporter) as progress:
        report = degrade_folder(source, output, options, functools.partial(progress, "degrade"), workers)
    _report_set(reporter, report, output, "images", f" Next: gfprestore eval --set {output}")


@command
def retouch(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of aligned, square faces.")],
    output: SetOutput,
    seed: SetSeed,
    preset: Annotated[
        str,
        behavior_option(
            "--preset", help="Levels: deepfrr (all at 100), mixed, or single-OPERATION-LEVEL such as single-smooth-60."
        ),
    ] = "deepfrr",
    variants: Annotated[int, behavior_option("--variants", metavar="K", help="Number of pairs per face.")] = 1,
    keep_alignment: Annotated[
        bool,
        faces_option(
            "--keep-alignment",
            help="Keep the alignment of the originals instead of aligning pairs on the retouched face.",
        ),
    ] = False,
    size: Annotated[
        int | None, io_option("--size", metavar="PX", help="Side of the images; default: that of each face.")
    ] = None,
    split: Split = None,
    exclude: Exclude = None,
    detector: DetectorName = "auto",
    device: Device = "auto",
    workers: Threads = 2,
    weights_dir: WeightsDir = None,
    offline: Offline = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Make pairs of retouched and original faces in the way of deepFRR; the same command gives the same bytes."""
    from gfprestore.console import Reporter, StageProgress, download_reporter
    from gfprestore.data.dlib_landmarks import open_landmarks
    from gfprestore.data.retouch_folder import RetouchOptions, retouch_folder
    from gfprestore.device import choose_device
    from gfprestore.restoration.model_loader import Opener
    from gfprestore.weights.store import WeightsStore

    options = RetouchOptions(seed, preset, variants, size, split, tuple(exclude or ()), keep_alignment)
    reporter = Reporter(json_output)
    finder = None
    if not keep_alignment:
        store = WeightsStore(weights_dir, offline=offline)
        opener = Opener(store=store, device=choose_device(device), download_report=download_reporter(reporter))
        finder = opener.detector(detector)
    with StageProgress(reporter) as progress:
        report = retouch_folder(
            source, output, options, finder, open_landmarks(), functools.partial(progress, "retouch"), workers
        )
    _report_set(reporter, report, output, "pairs")


@command
def sample(
    weights: Annotated[
        str,
        typer.Argument(
            metavar="WEIGHTS",
            help="StyleGAN2 prior: a file such as `train --stage prior` writes, or stylegan2-ffhq-512.",
        ),
    ],
    count: Annotated[int, io_option("--count", metavar="N", help="Number of faces.")],
    output: SetOutput,
    seed: SetSeed,
    truncation: Annotated[
        float,
        behavior_option(
            "--truncation",
            metavar="0..1",
            help="Variety: 1 draws from the whole distribution, less gives more typical faces, 0 the mean face.",
        ),
    ] = 1.0,
    size: Annotated[
        int | None,
        io_option("--size", metavar="PX", help="Side of the images; default: the prior's."),
    ] = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    workers: Threads = 2,
    weights_dir: WeightsDir = None,
    offline: Offline = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Draw faces from a StyleGAN2 prior; the same command gives the same bytes, and a larger count adds faces."""
    from gfprestore.console import Reporter, StageProgress, download_reporter
    from gfprestore.data.sample_folder import SampleOptions, sample_folder
    from gfprestore.device import choose_device
    from gfprestore.restoration.model_loader import Opener
    from gfprestore.weights.store import WeightsStore

    options = SampleOptions(count, seed, truncation, size, batch_size)
    reporter = Reporter(json_output)
    chosen = choose_device(device)
    opener = Opener(WeightsStore(weights_dir, offline=offline), chosen, download_reporter(reporter))
    prior = opener.prior(weights)
    with StageProgress(reporter) as progress:
        report = sample_folder(prior, output, options, chosen, functools.partial(progress, "sample"), workers)
    reporter.record({"summary": {"made": report.made, "done_before": report.done_before, "output": str(output)}})
    numbers = f"{report.made} faces drawn, {report.done_before} done before"
    reporter.note(f"{numbers}: {output}. Next: gfprestore retouch {output} -o pairs --seed {seed}")


def _report_set(reporter: Reporter, report: SetReport, output: Path, what: str, next_step: str = "") -> None:
    """Report the images of a set; exit with an error if any failed."""
    for entry in report.failed:
        reporter.error(f"{entry.path}: {entry.reason}")
    counts = {"made": report.made, "done_before": report.done_before, "failed": len(report.failed)}
    reporter.record({"summary": {**counts, "output": str(output)}})
    numbers = f"{report.made} {what} made, {report.done_before} done before, {len(report.failed)} failed"
    reporter.note(f"{numbers}: {output}.{next_step}")
    if report.failed:
        raise typer.Exit(int(ExitCode.SOME_FAILED))
