"""`gfprestore run`: restore photos and folders into a mirrored folder."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfprestore.commands.boundary import command
from gfprestore.commands.options import (
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
    behavior_option,
    faces_option,
    io_option,
    performance_option,
    reversal_option,
)
from gfprestore.errors import ExitCode, UsageError
from gfprestore.streams import failure_of

if TYPE_CHECKING:
    from gfprestore.batch.folders import Plan
    from gfprestore.batch.journal import Journal
    from gfprestore.batch.left_out import LeftOut
    from gfprestore.batch.results import OutputOptions, PhotoResult, ResultCounts
    from gfprestore.batch.task_list import PhotoTask
    from gfprestore.batch.written_files import FileState
    from gfprestore.console import Reporter, RunProgress
    from gfprestore.restoration.planned import NetworkNames, PlannedRestoration
    from gfprestore.stopwatch import Stopwatch


@command
def run(
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTOS...", help="Photos, folders or patterns such as '*.jpg'.")
    ],
    output: Annotated[
        Path | None,
        io_option(
            "--output",
            "-o",
            metavar="DIR",
            help="Output folder, or a file for one photo; default: <folder>-restored beside the input folder.",
        ),
    ] = None,
    upscale: Upscale = None,
    restorer: RestorerName = "auto",
    weights: OwnRestorer = None,
    background: BackgroundName = "auto",
    strength: Annotated[
        float, faces_option("--strength", metavar="0..1", help="Blend of the restored (1) and the original (0) face.")
    ] = 1.0,
    color: Annotated[
        Color,
        faces_option(
            "--color",
            "--colour",
            help="Toned photos: keep their tone (auto, keep), or let the network color them (restore).",
        ),
    ] = Color.AUTO,
    aligned: Annotated[bool, faces_option("--aligned", help="Treat the inputs as aligned face crops.")] = False,
    only_center_face: Annotated[
        bool, faces_option("--only-center-face", help="Restore only the face nearest the center.")
    ] = False,
    min_face: Annotated[
        float, faces_option("--min-face", metavar="PX", help="Minimum size of a face in the photo.")
    ] = 16.0,
    detector: DetectorName = "auto",
    detection_threshold: Annotated[
        float | None, faces_option("--detection-threshold", metavar="0..1", help="Minimum score of a detection.")
    ] = None,
    auto_rotate: Annotated[
        bool,
        faces_option("--auto-rotate", help="Write photos upright whose faces are all turned in the same direction."),
    ] = False,
    retouch_levels: Annotated[
        str,
        reversal_option(
            "--retouch-levels",
            metavar="LEVELS",
            help="How strongly the faces were retouched: auto (estimated), 0 to 100, or such as smooth=30,slim=60.",
        ),
    ] = "auto",
    sampler: Annotated[
        str, reversal_option("--sampler", metavar="NAME", help="Sampler of the diffusion: ddim or ddpm.")
    ] = "ddim",
    sampling_steps: Annotated[
        int | None,
        reversal_option(
            "--sampling-steps",
            metavar="N",
            help="Number of DDIM steps; default: those that the network was tuned for.",
        ),
    ] = None,
    eta: Annotated[
        float, reversal_option("--eta", metavar="0..1", help="Share of fresh noise in each DDIM step.")
    ] = 0.0,
    device: Device = "auto",
    precision: NamedPrecision = Precision.AUTO,
    batch_size: BatchSize = None,
    tile: Tile = None,
    workers: Annotated[
        int, performance_option("--workers", metavar="N", min=1, help="Number of threads that read and write.")
    ] = 2,
    file_format: Annotated[
        Format, io_option("--format", metavar="NAME", help="Format of the outputs: keep, jpg, png, webp or tiff.")
    ] = Format.KEEP,
    quality: Annotated[
        int | None,
        io_option(
            "--quality",
            metavar="N",
            min=1,
            max=100,
            help="Quality of JPEG, WebP, AVIF or HEIC; default: the source's or better.",
        ),
    ] = None,
    save_faces: Annotated[
        bool, io_option("--save-faces", help="Write each face, before and after, to _faces.")
    ] = False,
    compare: Annotated[bool, io_option("--compare", help="Write a side-by-side comparison to _compare.")] = False,
    exclude: Exclude = None,
    max_pixels: Annotated[
        int | None, io_option("--max-pixels", metavar="N", help="Maximum number of pixels of a photo.")
    ] = None,
    include_system_folders: Annotated[
        bool,
        io_option("--include-system-folders", help="Restore photos in system and trash folders such as @eaDir, too."),
    ] = False,
    accept_truncated: Annotated[
        bool,
        io_option("--accept-truncated", help="Restore what is there of truncated photos, and say how much is missing."),
    ] = False,
    overwrite: Annotated[
        bool,
        behavior_option(
            "--overwrite", help="Restore finished photos again, and replace files that you changed or no run wrote."
        ),
    ] = False,
    dry_run: Annotated[bool, behavior_option("--dry-run", help="Show the plan and restore nothing.")] = False,
    seed: Annotated[
        int | None,
        behavior_option("--seed", metavar="N", help="Random seed of the network's noise; default: the stored noise."),
    ] = None,
    profile: Annotated[
        bool, behavior_option("--profile", help="Show at the end how many seconds each part of the run took.")
    ] = False,
    weights_dir: WeightsDir = None,
    offline: Offline = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Restore photos and folders into a mirrored folder."""
    from gfprestore.batch.folders import plan_photos
    from gfprestore.batch.left_out import image_warnings, left_out_of
    from gfprestore.batch.results import OutputOptions
    from gfprestore.batch.sidecars import sidecar_warning, with_sidecars
    from gfprestore.batch.single_file import names_a_file, plan_single_file
    from gfprestore.console import Reporter, download_reporter
    from gfprestore.photo.photo import DEFAULT_MAX_PIXELS, PHOTO_SUFFIXES, READABLE_KINDS
    from gfprestore.photo.writing import output_suffix
    from gfprestore.restoration.options import RunOptions, reversal_options
    from gfprestore.restoration.planned import PlannedRestoration
    from gfprestore.stopwatch import Stopwatch

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
        accept_truncated=accept_truncated,
    )
    options.check()
    _check_rotation(auto_rotate, aligned or restorer == "none")
    how = OutputOptions(file_format.value, quality, overwrite, save_faces, compare, workers, auto_rotate)
    reporter = Reporter(json_output)
    stopwatch = Stopwatch()
    with stopwatch.part("plan"):
        plan = (
            plan_single_file(
                photos,
                output,
                format=how.format,
                suffixes=PHOTO_SUFFIXES,
                exclude=exclude or (),
                kinds=READABLE_KINDS,
                system_folders=include_system_folders,
            )
            if output is not None and names_a_file(output)
            else plan_photos(
                photos,
                output,
                suffixes=PHOTO_SUFFIXES,
                rename=lambda source: output_suffix(source, how.format),
                exclude=exclude or (),
                kinds=READABLE_KINDS,
                system_folders=include_system_folders,
            )
        )
        plan = with_sidecars(plan, exclude or ())
    for entry in plan.problems:
        reporter.warn(f"{entry.path}: {entry.described}")
    for message in image_warnings(left_out_of(entry for entry in plan.skipped if not entry.is_problem)):
        reporter.warn(message)
    if message_about_sidecars := sidecar_warning(plan.skipped):
        reporter.warn(message_about_sidecars)
    if dry_run:
        _show_plan(plan, how, reporter)
        return
    restoration = PlannedRestoration(options, download_reporter(reporter))
    failed = run_photos(plan, restoration, how, reporter, stopwatch if profile else None)
    if failed or plan.problems:
        raise typer.Exit(int(ExitCode.SOME_FAILED))


def _check_rotation(auto_rotate: bool, without_faces: bool) -> None:
    """Check that faces are searched where they decide how a photo is turned.

    Raises:
        UsageError: They are not.
    """
    if auto_rotate and without_faces:
        raise UsageError(
            "--auto-rotate goes by the faces, which are not searched here. Remove it, or --aligned, or --restorer none."
        )


def _show_plan(plan: Plan, how: OutputOptions, reporter: Reporter) -> None:
    """Show each photo, its output path and what is there now; open no network."""
    from gfprestore.batch.journal import Journal
    from gfprestore.batch.left_out import left_out_of
    from gfprestore.batch.single_file import SingleFileJournal
    from gfprestore.batch.written_files import FileState

    counts = {state.value: 0 for state in FileState}
    replaced = 0
    with contextlib.ExitStack() as stack:
        recorded = plan.tasks[0].recorded
        journals = {
            folder: stack.enter_context(Journal.open(folder, read_only=True) if recorded else SingleFileJournal(folder))
            for folder in plan.output_folders
        }
        for task in plan.tasks:
            found = _state_of(task, journals[task.folder])
            state = FileState.NEW if how.overwrite else found
            counts[state.value] += 1
            replaces = how.overwrite and found is FileState.CHANGED
            replaced += replaces
            if reporter.json_output:
                values = {"source": str(task.source), "output": str(task.output), "state": state.value}
                reporter.record({**values, "replaces_changed": True} if replaces else values)
            else:
                planned = _PLANNED[state.value] if recorded or state is FileState.NEW else " (exists)"
                suffix = " (replaces a file that you changed)" if replaces else planned
                reporter.answer(f"{task.source} -> {task.output}{suffix}")
    folders = ", ".join(str(folder) for folder in plan.output_folders)
    reporter.note(f"{_photos(counts['new'])} would be restored into {folders}")
    if sidecars := sum(len(task.sidecars) for task in plan.tasks):
        reporter.note(f"XMP sidecars that go with their photos: {sidecars}")
    if replaced:
        reporter.warn(f"{replaced} results that you changed after a run wrote them would be replaced.")
    if counts["restored"]:
        reporter.note(
            f"{counts['restored']} were restored by an earlier run. They are skipped if the settings are the same, and "
            "restored again otherwise."
        )
    _note_kept(counts["changed"], counts["taken"], plan, reporter)
    left_out = left_out_of(plan.skipped)
    _show_left_out(left_out, reporter)
    listed = [entry.as_json() for entry in left_out]
    reporter.record({"summary": {"photos": len(plan.tasks), **counts, "left_out": listed, "dry_run": True}})


_PLANNED = {
    "new": "",
    "restored": " (restored before)",
    "changed": " (changed by you, kept)",
    "taken": " (exists and no run wrote it)",
}


def _show_left_out(left_out: Sequence[LeftOut], reporter: Reporter) -> None:
    """Show what is left out, by reason and kind."""
    if left_out:
        rows = [(str(entry.count), entry.kind, entry.reason) for entry in left_out]
        reporter.table("", ["left out", "kind", "reason"], rows)


def _note_kept(changed: int, taken: int, plan: Plan, reporter: Reporter) -> None:
    """Say how many files are in the place of results and are not replaced."""
    if taken and not plan.tasks[0].recorded:  # a single file: whether a run wrote it is not known
        reporter.note(f"{plan.tasks[0].output} already exists. It is kept. Use --overwrite to replace it.")
        return
    if changed:
        reporter.note(f"changed by you: {changed}. These results are kept. Use --overwrite to replace them.")
    if taken:
        reporter.note(f"taken by files that no run wrote: {taken}. They are kept. Use --overwrite to replace them.")


def _state_of(task: PhotoTask, journal: Journal) -> FileState:
    """State of a result, which an earlier run may have written with any settings."""
    from gfprestore.batch.written_files import FileState

    if journal.is_done(task.relative.as_posix(), task.source, None, task.output):
        return FileState.RESTORED
    state = journal.state_of(task.output)
    return FileState.NEW if state is FileState.RESTORED else state  # the original changed, or the run did not end


def _prepare_outputs(plan: Plan, restoration: PlannedRestoration) -> list[tuple[Path, Path]]:
    """Create the output folders, after checks whose errors leave none; returns new ones with their input folders."""
    from gfprestore.batch.output_folder import prepare_output
    from gfprestore.batch.walk import JOURNAL_NAME

    is_first_run = not any((folder / JOURNAL_NAME).exists() for folder in plan.output_folders)
    if is_first_run and restoration.must_open_first:
        restoration.opened()  # an error leaves no output folder
    elif is_first_run:
        restoration.settings()
    new_folders: list[tuple[Path, Path]] = []
    for folder in plan.output_folders:
        sources = [source for output, source in plan.mirrored if output == folder]
        if prepare_output(folder, sources) and len(sources) == 1:
            new_folders.append((folder, sources[0]))
    return new_folders


def run_photos(
    plan: Plan,
    restoration: PlannedRestoration,
    how: OutputOptions,
    reporter: Reporter,
    profile: Stopwatch | None = None,
) -> int:
    """Run a plan, report each result, and return the number of failed photos.

    Args:
        plan: The photos.
        restoration: The planned restoration.
        how: Output options.
        reporter: Shows results and messages.
        profile: Measures the run, whose parts are then shown; None shows none.
    """
    import time

    from gfprestore.stopwatch import Stopwatch

    stopwatch = profile or Stopwatch()
    with stopwatch.part("start"):
        from gfprestore.batch.folder_times import keep_folder_times
        from gfprestore.batch.pipeline import PhotoRun
        from gfprestore.batch.results import ResultCounts
        from gfprestore.console import RunProgress

        new_folders = _prepare_outputs(plan, restoration)

    def tell_networks(names: NetworkNames) -> None:
        reporter.note(
            f"{_photos(len(plan.tasks))}, faces with {names.restorer}, background with {names.background}, "
            f"on {restoration.device_name}"
        )

    started = time.monotonic()
    counts = ResultCounts()
    try:
        with RunProgress(reporter, len(plan.tasks)) as progress:
            photo_run = PhotoRun(
                restoration, how, lambda path, share: progress.working_on(path.name, share), tell_networks, stopwatch
            )
            for result in photo_run.results(plan.tasks):
                with stopwatch.part("report"):
                    counts.add(result)
                    _report(result, reporter, progress)
    finally:
        with stopwatch.part("report"):
            keep_folder_times(plan.tasks, new_folders)
        _summarize(counts, time.monotonic() - started, plan, reporter, profile)
    return counts["failed"]


def _report(result: PhotoResult, reporter: Reporter, progress: RunProgress) -> None:
    """Report one result, and its warnings."""
    reporter.record(result.as_json())
    is_failed, is_kept = result.status == "failed", result.skipped_because in ("changed", "taken")
    progress.advance(_line_of(result), result.restored_faces, is_failed, is_notable=is_kept)
    for warning in result.warnings:
        reporter.warn(f"{result.source}: {warning}")


def _line_of(result: PhotoResult) -> str:
    """The line of one photo."""
    if result.status == "failed":
        return result.error or f"{result.source} failed"
    if result.status == "skipped":
        return f"{result.source}: skipped, {result.error or 'already done'}"
    faces = f"{result.restored_faces} face{'' if result.restored_faces == 1 else 's'}"
    if result.untouched_faces:
        faces += f" ({result.untouched_faces} more taken for untouched and left unchanged)"
    beyond = result.faces - result.restored_faces - result.untouched_faces
    if beyond > 0:
        faces += f" ({beyond} more too small or too sharp for {result.restorer})"
    return f"{result.source}: {faces}, {result.width} x {result.height}, {result.seconds:.1f} s -> {result.output}"


def _summarize(
    counts: ResultCounts, seconds: float, plan: Plan, reporter: Reporter, profile: Stopwatch | None = None
) -> None:
    """Show the final tables, and write the summary of `--json`."""
    from gfprestore.batch.left_out import left_out_of
    from gfprestore.batch.profile import network_share, profile_json, profile_rows

    total = len(plan.tasks)
    statuses = {status: counts[status] for status in ("restored", "skipped", "failed")}
    kept = {name: counts[name] for name in ("changed", "taken")}
    faces, restored_faces = counts["faces"], counts["restored_faces"]
    summary: dict[str, object] = {
        "photos": total,
        **statuses,
        **kept,
        "faces": faces,
        "restored_faces": restored_faces,
        "seconds": round(seconds, 3),
        "output": [str(folder) for folder in plan.output_folders],
    }
    left_out = left_out_of(plan.skipped)
    summary["left_out"] = [entry.as_json() for entry in left_out]
    if unprinted := failure_of(sys.stderr):
        summary["stderr_error"] = unprinted
    if profile is not None:
        summary["profile"] = profile_json(profile)
    reporter.record({"summary": summary})
    not_started = total - sum(statuses.values())
    numbers = [str(number) for number in (total, *statuses.values(), not_started)]
    columns = ["photos", *statuses, "not started", "faces restored", "seconds"]
    reporter.table("", columns, [[*numbers, f"{restored_faces} of {faces}", f"{seconds:.1f}"]])
    _show_left_out(left_out, reporter)
    if profile is not None:
        reporter.table("", ["part", "seconds", "share", "in other threads"], profile_rows(profile))
        reporter.note(f"Networks (detect, restore, background): {network_share(profile):.1%} after the start.")
    _note_kept(kept["changed"], kept["taken"], plan, reporter)
    reporter.note("written to " + ", ".join(str(folder) for folder in plan.output_folders))


def _photos(count: int) -> str:
    """A number of photos in words."""
    return "1 photo" if count == 1 else f"{count} photos"
