"""`gfprestore run`: restore photos and folders into a mirrored folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfprestore.commands.boundary import command
from gfprestore.commands.options import (
    BEHAVIOR,
    FACES,
    INPUT_OUTPUT,
    PERFORMANCE,
    REVERSAL,
    BackgroundName,
    BatchSize,
    Color,
    Debug,
    DetectorName,
    Device,
    Exclude,
    Format,
    Json,
    NamedPrecision,
    Offline,
    OwnRestorer,
    Precision,
    RestorerName,
    Tile,
    Upscale,
    WeightsDir,
)
from gfprestore.errors import ExitCode

if TYPE_CHECKING:
    from gfprestore.batch.folders import PhotoTask, Plan
    from gfprestore.batch.journal import Journal
    from gfprestore.batch.results import OutputOptions, PhotoResult
    from gfprestore.console import Reporter
    from gfprestore.restoration.restoration import Restoration


@command
def run(
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTOS...", help="Photos, folders or patterns such as '*.jpg'.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Output folder; default: <folder>-restored beside the input folder.",
            rich_help_panel=INPUT_OUTPUT,
        ),
    ] = None,
    upscale: Upscale = None,
    restorer: RestorerName = "auto",
    weights: OwnRestorer = None,
    background: BackgroundName = "auto",
    strength: Annotated[
        float,
        typer.Option(
            "--strength",
            metavar="0..1",
            help="Blend of the restored (1) and the original (0) face.",
            rich_help_panel=FACES,
        ),
    ] = 1.0,
    color: Annotated[
        Color,
        typer.Option(
            "--color",
            "--colour",
            help="Toned photos: keep their tone (auto, keep), or let the network color them (restore).",
            rich_help_panel=FACES,
        ),
    ] = Color.AUTO,
    aligned: Annotated[
        bool, typer.Option("--aligned", help="Treat the inputs as aligned face crops.", rich_help_panel=FACES)
    ] = False,
    only_center_face: Annotated[
        bool,
        typer.Option("--only-center-face", help="Restore only the face nearest the center.", rich_help_panel=FACES),
    ] = False,
    min_face: Annotated[
        float,
        typer.Option("--min-face", metavar="PX", help="Minimum size of a face in the photo.", rich_help_panel=FACES),
    ] = 16.0,
    detector: DetectorName = "auto",
    detection_threshold: Annotated[
        float | None,
        typer.Option(
            "--detection-threshold", metavar="0..1", help="Minimum score of a detection.", rich_help_panel=FACES
        ),
    ] = None,
    retouch_levels: Annotated[
        str,
        typer.Option(
            "--retouch-levels",
            metavar="LEVELS",
            help="How strongly the faces were retouched: auto (estimated), 0 to 100, or a list such as "
            "smooth=30,slim=60.",
            rich_help_panel=REVERSAL,
        ),
    ] = "auto",
    sampler: Annotated[
        str,
        typer.Option(
            "--sampler", metavar="NAME", help="Sampler of the diffusion: ddim or ddpm.", rich_help_panel=REVERSAL
        ),
    ] = "ddim",
    sampling_steps: Annotated[
        int | None,
        typer.Option(
            "--sampling-steps",
            metavar="N",
            help="Number of DDIM steps; default: those that the network was tuned for.",
            rich_help_panel=REVERSAL,
        ),
    ] = None,
    eta: Annotated[
        float,
        typer.Option("--eta", metavar="0..1", help="Share of fresh noise in each DDIM step.", rich_help_panel=REVERSAL),
    ] = 0.0,
    device: Device = "auto",
    precision: NamedPrecision = Precision.AUTO,
    batch_size: BatchSize = None,
    tile: Tile = None,
    workers: Annotated[
        int,
        typer.Option(
            "--workers", metavar="N", min=1, help="Number of threads that read and write.", rich_help_panel=PERFORMANCE
        ),
    ] = 2,
    file_format: Annotated[
        Format, typer.Option("--format", help="Format of the outputs.", rich_help_panel=INPUT_OUTPUT)
    ] = Format.KEEP,
    quality: Annotated[
        int | None,
        typer.Option(
            "--quality",
            metavar="1..100",
            min=1,
            max=100,
            help="Quality of JPEG, WebP, AVIF or HEIC; default: the source's or better.",
            rich_help_panel=INPUT_OUTPUT,
        ),
    ] = None,
    save_faces: Annotated[
        bool,
        typer.Option(
            "--save-faces", help="Write each face, before and after, to _faces.", rich_help_panel=INPUT_OUTPUT
        ),
    ] = False,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Write a side-by-side comparison to _compare.", rich_help_panel=INPUT_OUTPUT),
    ] = False,
    exclude: Exclude = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            "--max-pixels", metavar="N", help="Maximum number of pixels of a photo.", rich_help_panel=INPUT_OUTPUT
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Restore again what is already done, and replace other files.", rich_help_panel=BEHAVIOR
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done and do nothing.", rich_help_panel=BEHAVIOR)
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            metavar="N",
            help="Random seed of the network's noise; default: the stored noise.",
            rich_help_panel=BEHAVIOR,
        ),
    ] = None,
    weights_dir: WeightsDir = None,
    offline: Offline = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Restore photos and folders into a mirrored folder."""
    from gfprestore.batch.folders import plan_photos
    from gfprestore.batch.results import OutputOptions
    from gfprestore.console import Reporter, download_reporter
    from gfprestore.photo.photo import DEFAULT_MAX_PIXELS, PHOTO_SUFFIXES
    from gfprestore.photo.writing import output_suffix
    from gfprestore.restoration.frrffusion import reversal_options
    from gfprestore.restoration.restoration import Restoration, RunOptions

    reversal = reversal_options(retouch_levels, sampler, sampling_steps, eta)
    options = RunOptions(
        reversal=reversal,
        upscale=upscale,
        restorer=restorer,
        weights=weights,
        background=background,
        strength=strength,
        color=color.value,
        aligned=aligned,
        only_center_face=only_center_face,
        min_face=min_face,
        detection_threshold=detection_threshold,
        detector=detector,
        device=device,
        precision=precision.value,
        batch_size=batch_size,
        tile=tile,
        offline=offline,
        weights_dir=weights_dir,
        seed=seed,
        max_pixels=DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels,
    )
    options.check()
    how = OutputOptions(file_format.value, quality, overwrite, save_faces, compare, workers)
    reporter = Reporter(json_output)
    plan = plan_photos(
        photos,
        output,
        suffixes=PHOTO_SUFFIXES,
        rename=lambda source: output_suffix(source, how.format),
        exclude=exclude or (),
    )
    for entry in plan.problems:
        reporter.warn(f"{entry.path}: {entry.reason}")
    if dry_run:
        _show_plan(plan, how, reporter)
        return
    restoration = Restoration(options, download_reporter(reporter))
    failed = run_photos(plan, restoration, how, reporter)
    if failed or plan.problems:
        raise typer.Exit(int(ExitCode.SOME_FAILED))


def _show_plan(plan: Plan, how: OutputOptions, reporter: Reporter) -> None:
    """What `--dry-run` tells: each photo, where its result would go and what is there; opens no network."""
    from gfprestore.batch.journal import Journal

    counts = dict.fromkeys(("new", "restored", "taken"), 0)
    with contextlib.ExitStack() as stack:
        journals = {folder: stack.enter_context(Journal.open(folder, read_only=True)) for folder in plan.output_folders}
        for task in plan.tasks:
            state = "new" if how.overwrite else _state_of(task, journals[task.folder])
            counts[state] += 1
            if reporter.json_output:
                reporter.record({"source": str(task.source), "output": str(task.output), "state": state})
            else:
                reporter.answer(f"{task.source} -> {task.output}{_PLANNED[state]}")
    folders = ", ".join(str(folder) for folder in plan.output_folders)
    reporter.note(f"{counts['new']} photos would be restored into {folders}")
    if counts["restored"]:
        reporter.note(
            f"{counts['restored']} were restored by an earlier run: skipped where the settings are the same, restored "
            "again where they are not"
        )
    if counts["taken"]:
        reporter.note(f"{counts['taken']} would be skipped: a file that no run wrote is in their place (--overwrite)")
    if reporter.json_output:
        reporter.record({"summary": {"photos": len(plan.tasks), **counts, "dry_run": True}})


# What the plan says after a photo: nothing stands in its place, a result of an earlier run, or a file of the user.
_PLANNED = {"new": "", "restored": " (restored before)", "taken": " (exists and no run wrote it)"}


def _state_of(task: PhotoTask, journal: Journal) -> str:
    """`new`, `restored` by an earlier run under whatever settings, or `taken` by a file that no run wrote."""
    if journal.is_done(task.relative.as_posix(), task.source, None, task.output):
        return "restored"
    return "taken" if os.path.lexists(task.output) and not journal.owns(task.output) else "new"


def run_photos(plan: Plan, restoration: Restoration, how: OutputOptions, reporter: Reporter) -> int:
    """Runs a plan, tells each result as it comes, and gives the number of failed photos."""
    import time

    from gfprestore.batch.output_folder import prepare_output
    from gfprestore.batch.pipeline import PhotoRun
    from gfprestore.console import RunProgress

    for folder in plan.output_folders:
        prepare_output(folder)
    reporter.note(
        f"{len(plan.tasks)} photos, faces with {restoration.restorer_name}, background with "
        f"{restoration.background_name}, on {restoration.device}"
    )
    started = time.monotonic()
    results: list[PhotoResult] = []
    try:
        with RunProgress(reporter, len(plan.tasks)) as progress:
            photo_run = PhotoRun(restoration, how, lambda path, share: progress.working_on(path.name, share))
            for result in photo_run.results(plan.tasks):
                results.append(result)
                reporter.record(result.as_json())
                progress.advance(_line_of(result), result.restored_faces, result.status == "failed")
                for warning in result.warnings:
                    reporter.warn(f"{result.source}: {warning}")
    finally:
        _summarize(results, len(plan.tasks), time.monotonic() - started, plan, reporter)
    return sum(result.status == "failed" for result in results)


def _line_of(result: PhotoResult) -> str:
    """The quiet line of one photo."""
    if result.status == "failed":
        return result.error or f"{result.source} failed"
    if result.status == "skipped":
        return f"{result.source}: skipped, {result.error or 'done already'}"
    faces = f"{result.restored_faces} face{'' if result.restored_faces == 1 else 's'}"
    if result.untouched_faces:
        faces += f" ({result.untouched_faces} more taken for untouched and left unchanged)"
    return f"{result.source}: {faces}, {result.width} x {result.height}, {result.seconds:.1f} s -> {result.output}"


def _summarize(results: Sequence[PhotoResult], total: int, seconds: float, plan: Plan, reporter: Reporter) -> None:
    """The final table, and the summary line of `--json`."""
    counts = {
        status: sum(result.status == status for result in results) for status in ("restored", "skipped", "failed")
    }
    faces = sum(result.faces for result in results)
    restored_faces = sum(result.restored_faces for result in results)
    summary = {
        "photos": total,
        **counts,
        "faces": faces,
        "restored_faces": restored_faces,
        "seconds": round(seconds, 3),
        "output": [str(folder) for folder in plan.output_folders],
    }
    reporter.record({"summary": summary})
    not_begun = total - len(results)
    numbers = [str(number) for number in (total, *counts.values(), not_begun)]
    columns = ["photos", *counts, "not begun", "faces restored", "seconds"]
    reporter.table("", columns, [[*numbers, f"{restored_faces} of {faces}", f"{seconds:.1f}"]])
    reporter.note("written to " + ", ".join(str(folder) for folder in plan.output_folders))
