"""The commands: parse, call one function, report. `main` maps every error to its exit code.

Heavy imports wait until a command runs: `--help` and `--version` import neither torch nor cv2.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, ParamSpec, cast

import typer

from gfprestore._version import __version__
from gfprestore.errors import ExitCode, GfprestoreError

if TYPE_CHECKING:
    from gfprestore.batch.folders import PhotoTask, Plan
    from gfprestore.batch.journal import Journal
    from gfprestore.batch.results import OutputOptions, PhotoResult
    from gfprestore.console import Reporter
    from gfprestore.restoration.restoration import Restoration
    from gfprestore.training.loop import Progress
    from gfprestore.training.presets import IdentityNetwork, PerceptualNetwork
    from gfprestore.weights.store import WeightsStatus

Arguments = ParamSpec("Arguments")

app = typer.Typer(
    name="gfprestore",
    help="Restores folders of old photos: faces with GFP-GAN, the rest with Real-ESRGAN, all else of the file kept.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
weights_app = typer.Typer(
    help="The released networks: list, fetch, verify, find them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(weights_app, name="weights")


class Color(str, Enum):
    """What happens to the tone of a monochrome, sepia or otherwise toned photo."""

    AUTO = "auto"
    KEEP = "keep"
    RESTORE = "restore"


class Precision(str, Enum):
    """The floating-point type of the networks."""

    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class Format(str, Enum):
    """The format of the outputs."""

    KEEP = "keep"
    JPG = "jpg"
    PNG = "png"
    WEBP = "webp"
    TIFF = "tiff"


class Alignment(str, Enum):
    """What the inputs of an evaluation are."""

    AUTO = "auto"
    ALIGNED = "aligned"
    PHOTO = "photo"


Offline = Annotated[bool, typer.Option("--offline", help="Never touch the network.")]
WeightsDir = Annotated[
    Path | None, typer.Option("--weights-dir", metavar="DIR", help="Folder of weights, looked into before all others.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and what is decided along the way.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout and nothing else there.")]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line and leaves the process with the exit code of `ExitCode`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show must not end a run
    app(args=list(sys.argv[1:] if argv is None else argv), prog_name="gfprestore")


def command(function: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Maps what a command raises to a message and an exit code; its option `debug` shows tracebacks."""

    @functools.wraps(function)
    def told(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        debug = bool(kwargs.get("debug", False))
        if debug:
            logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s")
            logging.getLogger("gfprestore").setLevel(logging.DEBUG)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _interrupt)
        from gfprestore.console import Reporter

        reporter = Reporter()
        try:
            function(*args, **kwargs)
        except GfprestoreError as error:
            if debug:
                logging.getLogger("gfprestore").debug("traceback", exc_info=error)
            reporter.error(str(error))
            raise typer.Exit(int(error.exit_code)) from None
        except KeyboardInterrupt:
            reporter.error("interrupted; whatever is written is whole. Run the same command again to go on.")
            raise typer.Exit(int(ExitCode.INTERRUPTED)) from None
        except BrokenPipeError:
            raise typer.Exit(int(ExitCode.SOME_FAILED)) from None
        except Exception as error:
            if isinstance(error, typer.Exit) or debug:
                raise
            reporter.error(
                f"{type(error).__name__}: {error}. This is a bug of gfprestore; run the command again with --debug and "
                "report what that shows."
            )
            raise typer.Exit(int(ExitCode.SOME_FAILED)) from None

    return told


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _show_version(value: bool) -> None:
    if value:
        sys.stdout.write(f"gfprestore {__version__}\n")
        raise typer.Exit


@app.callback()
def gfprestore(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Restores folders of old photos: faces with GFP-GAN, the rest with Real-ESRGAN, all else of the file kept."""


@app.command()
@command
def run(
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTOS...", help="Photos, folders or patterns such as '*.jpg'.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where to write; default: <folder>-restored beside it."),
    ] = None,
    upscale: Annotated[float, typer.Option("--upscale", metavar="1..4", help="Enlargement of the photo.")] = 2.0,
    restorer: Annotated[
        str, typer.Option("--restorer", metavar="NAME", help="Face restorer: auto, none, or a name of `weights list`.")
    ] = "auto",
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="Own face restorer, recognized by its tensors.")
    ] = None,
    background: Annotated[
        str, typer.Option("--background", metavar="NAME", help="auto, none, lanczos, or a name of `weights list`.")
    ] = "auto",
    strength: Annotated[
        float, typer.Option("--strength", metavar="0..1", help="Blend of the restored (1) and the original (0) face.")
    ] = 1.0,
    color: Annotated[
        Color,
        typer.Option(
            "--color", "--colour", help="Toned photos: keep their tone (auto, keep), or let the network color them."
        ),
    ] = Color.AUTO,
    aligned: Annotated[bool, typer.Option("--aligned", help="Inputs are aligned face crops.")] = False,
    only_center_face: Annotated[
        bool, typer.Option("--only-center-face", help="Restore only the face nearest the center.")
    ] = False,
    min_face: Annotated[
        float, typer.Option("--min-face", metavar="PX", help="Leave out faces smaller than this in the photo.")
    ] = 16.0,
    detector: Annotated[
        str,
        typer.Option("--detector", metavar="NAME", help="auto, mtcnn, retinaface-resnet50 or retinaface-mobilenet."),
    ] = "auto",
    detection_threshold: Annotated[
        float | None, typer.Option("--detection-threshold", metavar="0..1", help="Leave out less certain detections.")
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        Precision, typer.Option("--precision", help="Floating-point type of the networks.")
    ] = Precision.AUTO,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", help="Faces computed together.")
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option("--tile", metavar="PX", help="Side of the background's tiles; default: by free memory."),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", metavar="N", min=1, help="Threads that read and write.")] = 2,
    file_format: Annotated[Format, typer.Option("--format", help="Format of the outputs.")] = Format.KEEP,
    quality: Annotated[
        int | None,
        typer.Option(
            "--quality", metavar="1..100", min=1, max=100, help="Of JPEG or WebP; default: the source's or better."
        ),
    ] = None,
    save_faces: Annotated[
        bool, typer.Option("--save-faces", help="Also write each face, before and after, to _faces.")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also write before and after side by side to _compare.")
    ] = False,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="PATTERN", help="Leave out matching names; repeatable.")
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option("--max-pixels", metavar="N", help="Refuse photos with more pixels.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do again what is done already.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done and do nothing.")] = False,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", help="Draw the network's noise from this; default: the stored noise."),
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
    from gfprestore.restoration.restoration import Restoration, RunOptions

    options = RunOptions(
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
    restoration = Restoration(options, reporter.note, download_reporter(reporter))
    failed = _run_photos(plan, restoration, how, reporter)
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


def _run_photos(plan: Plan, restoration: Restoration, how: OutputOptions, reporter: Reporter) -> int:
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


@weights_app.command("list")
@command
def weights_list(weights_dir: WeightsDir = None, json_output: Json = False, debug: Debug = False) -> None:
    """Show the known networks: what is here, its size and its license."""
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
        ["name", "for", "here", "size", "license", "note"],
        [
            [row.file.name, row.file.role, row.state, row.file.size_text, row.file.license, _note_on(row)]
            for row in rows
        ],
    )


def _note_on(row: WeightsStatus) -> str:
    """What a careful user should know of a network, and where its model card lies."""
    return row.file.note if row.card is None else f"{row.file.note} Card: {row.card}".strip()


@weights_app.command("fetch")
@command
def weights_fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of `weights list`.")],
    weights_dir: WeightsDir = None,
    offline: Offline = False,
    debug: Debug = False,
) -> None:
    """Download networks, check their SHA-256 and keep them."""
    from gfprestore.console import DownloadProgress, Reporter
    from gfprestore.weights.store import WeightsStore

    reporter = Reporter()
    store = WeightsStore(weights_dir, offline=offline)
    for row in [store.row(name) for name in names]:
        path = store.fetch(row.name, DownloadProgress(reporter, row.name))
        reporter.answer(f"{row.name}: {path}")
        reporter.note(f"license of {row.name}: {row.license}")


@weights_app.command("verify")
@command
def weights_verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Names of `weights list`; default: all that are here.")
    ] = None,
    weights_dir: WeightsDir = None,
    debug: Debug = False,
) -> None:
    """Check the SHA-256 of the networks that are here."""
    from gfprestore.console import Reporter
    from gfprestore.weights.store import WeightsStore

    reporter = Reporter()
    store = WeightsStore(weights_dir, offline=True)
    here = names or [row.file.name for row in store.status() if row.state not in ("missing", "partial")]
    checked = [store.verify(name) for name in here]
    for row in checked:
        reporter.answer(f"{row.file.name}: {row.state} {row.path}")
        if row.problem:
            reporter.error(row.problem)
    if not checked:
        reporter.note(f"no weights are in {store.folder}; `gfprestore weights fetch NAME` brings them")
    if any(row.problem for row in checked):
        raise typer.Exit(int(ExitCode.WEIGHTS))


@weights_app.command("path")
@command
def weights_path(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A name of `weights list`; default: the folder itself.")
    ] = None,
    weights_dir: WeightsDir = None,
    debug: Debug = False,
) -> None:
    """Show where a network is, or where a download would put it."""
    from gfprestore.console import Reporter
    from gfprestore.weights.store import WeightsStore

    store = WeightsStore(weights_dir, offline=True)
    Reporter().answer(str(store.folder if name is None else store.path(name)))


@app.command()
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


@app.command()
@command
def bench(
    photo: Annotated[
        Path | None, typer.Argument(metavar="PHOTO", help="What to time on; default: a portrait of the demo.")
    ] = None,
    megapixels: Annotated[float, typer.Option("--megapixels", help="Size that the photo is resized to.")] = 0.5,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", help="How often to time each part.")] = 3,
    restorer: Annotated[str, typer.Option("--restorer", metavar="NAME", help="As for run.")] = "auto",
    weights: Annotated[Path | None, typer.Option("--weights", metavar="FILE", help="As for run.")] = None,
    background: Annotated[str, typer.Option("--background", metavar="NAME", help="As for run.")] = "auto",
    upscale: Annotated[float, typer.Option("--upscale", metavar="1..4", help="As for run.")] = 2.0,
    detector: Annotated[str, typer.Option("--detector", metavar="NAME", help="As for run.")] = "auto",
    device: Device = "auto",
    precision: Annotated[
        Precision, typer.Option("--precision", help="Floating-point type of the networks.")
    ] = Precision.AUTO,
    batch_size: Annotated[int | None, typer.Option("--batch-size", metavar="N", help="As for run.")] = None,
    tile: Annotated[int | None, typer.Option("--tile", metavar="PX", help="As for run.")] = None,
    weights_dir: WeightsDir = None,
    offline: Offline = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Time a face and a megapixel on this machine, with the networks that `run` would take."""
    from gfprestore.commands.bench import bench as time_parts
    from gfprestore.console import Reporter, download_reporter
    from gfprestore.restoration.restoration import RunOptions

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
        options,
        photo,
        megapixels=megapixels,
        rounds=rounds,
        tell=reporter.note,
        download_progress=download_reporter(reporter),
    )
    if json_output:
        reporter.record(asdict(report))
        return
    rows = [
        [timing.part, timing.name, timing.precision or "", f"{timing.seconds:.3g} s a {timing.per}",
         f"{timing.fastest:.3g} to {timing.slowest:.3g}"]
        for timing in report.parts
    ]  # fmt: skip
    reporter.listing(f"on {report.device}", ["part", "by", "computes in", "takes", "rounds"], rows)


@app.command()
@command
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where to write.")] = Path(
        "gfprestore-demo"
    ),
    restorer: Annotated[
        str, typer.Option("--restorer", metavar="NAME", help="As for run; none enlarges only.")
    ] = "auto",
    weights: Annotated[Path | None, typer.Option("--weights", metavar="FILE", help="As for run.")] = None,
    background: Annotated[str, typer.Option("--background", metavar="NAME", help="As for run.")] = "auto",
    upscale: Annotated[float, typer.Option("--upscale", metavar="1..4", help="As for run.")] = 2.0,
    device: Device = "auto",
    weights_dir: WeightsDir = None,
    offline: Offline = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Age two public-domain portraits, restore them, and write before and after."""
    from gfprestore.batch.folders import plan_photos
    from gfprestore.batch.results import OutputOptions
    from gfprestore.commands.demo import write_aged_portraits
    from gfprestore.console import Reporter, download_reporter
    from gfprestore.photo.photo import PHOTO_SUFFIXES
    from gfprestore.photo.writing import output_suffix
    from gfprestore.restoration.restoration import Restoration, RunOptions

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
    reporter.note(f"{len(aged)} portraits were aged into {output / 'aged'}")
    restoration = Restoration(options, reporter.note, download_reporter(reporter))
    plan = plan_photos(
        [output / "aged"],
        output / "restored",
        suffixes=PHOTO_SUFFIXES,
        rename=lambda source: output_suffix(source, "keep"),
    )
    failed = _run_photos(plan, restoration, OutputOptions(overwrite=True, compare=True), reporter)
    reporter.note(f"before and after, side by side: {output / 'restored' / '_compare'}")
    if failed:
        raise typer.Exit(int(ExitCode.SOME_FAILED))


@app.command()
@command
def prepare(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of photos, or FFHQ with its landmark file.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The training set.")],
    size: Annotated[int, typer.Option("--size", metavar="PX", help="Side of the crops.")] = 512,
    min_eye_distance: Annotated[
        float | None, typer.Option("--min-eye-distance", metavar="PX", help="In the photo; default: a fifth of --size.")
    ] = None,
    min_sharpness: Annotated[
        float, typer.Option("--min-sharpness", help="Variance of the Laplacian of the face, for a crop of 512.")
    ] = 15.0,
    max_yaw: Annotated[
        float, typer.Option("--max-yaw", help="The nose's distance from between the eyes, in eye distances.")
    ] = 0.45,
    max_outside: Annotated[
        float, typer.Option("--max-outside", metavar="0..1", help="Share of a crop that lies outside the photo.")
    ] = 0.15,
    min_score: Annotated[
        float | None, typer.Option("--detection-threshold", metavar="0..1", help="Leave out less certain detections.")
    ] = None,
    quality: Annotated[
        int | None, typer.Option("--quality", metavar="1..100", help="Crops as JPEG of this quality; default: PNG.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="PATTERN", help="Leave out matching names; repeatable.")
    ] = None,
    detector: Annotated[
        str, typer.Option("--detector", metavar="NAME", help="auto, mtcnn, retinaface-resnet50 or -mobilenet.")
    ] = "auto",
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


@app.command()
@command
def train(
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="Aligned faces: FFHQ, or a set of `prepare`.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Default: gfprestore-<preset>, here.")
    ] = None,
    preset: Annotated[str, typer.Option("--preset", help="paper, official, compact or finetune.")] = "paper",
    stage: Annotated[
        str,
        typer.Option("--stage", help="prior: StyleGAN2 alone; then restoration; background: what enlarges photos."),
    ] = "restoration",
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="Start from this prior or restorer.")
    ] = None,
    prior: Annotated[
        Path | None, typer.Option("--prior", metavar="FILE", help="Put this prior into the restorer of --weights.")
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option("--teacher", metavar="FILE", help="Learn what this restorer makes of faces, too.")
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change the preset: losses.identity=8; repeatable."),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="Steps in all.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", metavar="N", help="Images a step.")] = None,
    accumulate: Annotated[
        int, typer.Option("--accumulate", metavar="N", help="Parts that a step is computed in, to spare memory.")
    ] = 1,
    size: Annotated[int | None, typer.Option("--size", metavar="PX", help="Side of the images.")] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="LOSS", help="Leave a loss out; repeatable.")
    ] = None,
    ablation: Annotated[
        str | None, typer.Option("--ablation", metavar="NAME", help="One of the paper's; a wrong name lists them.")
    ] = None,
    perceptual: Annotated[
        str | None,
        typer.Option("--perceptual", metavar="NET", help="vgg19 (the paper's) or vgg16 (in the extra train)."),
    ] = None,
    perceptual_weights: Annotated[
        Path | None, typer.Option("--perceptual-weights", metavar="FILE", help="Torchvision's file of that network.")
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option("--identity", metavar="NET", help="arcface (the paper's) or dlib (in the extra train)."),
    ] = None,
    identity_weights: Annotated[
        Path | None, typer.Option("--identity-weights", metavar="FILE", help="The recognizer's file.")
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        Precision, typer.Option("--precision", help="Floating-point type of the networks.")
    ] = Precision.AUTO,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", help="Processes that load images; default: as measured.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of everything random.")] = 0,
    log_every: Annotated[int, typer.Option("--log-every", metavar="N", help="Steps between lines of the log.")] = 10,
    sample_every: Annotated[int, typer.Option("--sample-every", metavar="N", help="Steps between images.")] = 500,
    save_every: Annotated[int, typer.Option("--save-every", metavar="N", help="Steps between checkpoints.")] = 500,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and the memory it needs.")] = False,
    weights_dir: WeightsDir = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Train GFP-GAN as the paper does; the same command goes on where it stopped."""
    from gfprestore.console import Reporter
    from gfprestore.training.config import make_config
    from gfprestore.training.plan import plan
    from gfprestore.training.train import train as train_networks
    from gfprestore.weights.store import WeightsStore

    config = make_config(
        data,
        output or Path(f"gfprestore-{preset}" if stage == "restoration" else f"gfprestore-{preset}-{stage}"),
        preset,
        stage=stage,
        without=without or (),
        ablation=ablation,
        steps=steps,
        batch_size=batch_size,
        size=size,
        perceptual_network=cast("PerceptualNetwork | None", perceptual),  # make_config refuses other names
        identity_network=cast("IdentityNetwork | None", identity),
        weights=weights,
        prior=prior,
        teacher=teacher,
        values=values or (),
        perceptual_weights=perceptual_weights,
        identity_weights=identity_weights,
        accumulate=accumulate,
        device=device,
        precision=precision.value,
        workers=workers,
        seed=seed,
        log_every=log_every,
        sample_every=sample_every,
        save_every=save_every,
    )
    reporter = Reporter(json_output)
    store = WeightsStore(weights_dir, offline=True)
    if dry_run:
        rows = plan(config, store)
        reporter.record(dict(rows))
        if not json_output:
            reporter.listing("", ["what", "value"], [list(row) for row in rows])
        return

    def show(progress: Progress) -> None:
        reporter.note(progress.line)
        reporter.record(
            {"step": progress.step, **progress.losses, "images_per_second": round(progress.images_per_second, 3)}
        )

    report = train_networks(config, reporter.note, show, store)
    summary = asdict(report)
    summary["returns"] = summary.pop("rollbacks")  # the field's name since the first version
    reporter.record({"summary": {**summary, "weights": str(report.weights)}})
    reporter.note(f"{report.step} steps done, {report.images_per_second:.3g} images/s; weights: {report.weights}")


@app.command("eval")
@command
def evaluate(
    test_set: Annotated[
        str | None,
        typer.Option(
            "--set", metavar="NAME|DIR", help="celeba-test, lfw-test, celebchild-test, webphoto-test, or any folder."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Where the named set lies; a missing set says where it would."),
    ] = None,
    restored: Annotated[
        list[Path] | None,
        typer.Option("--restored", metavar="DIR", help="Score these images, of any method; repeatable."),
    ] = None,
    gt: Annotated[Path | None, typer.Option("--gt", metavar="DIR", help="Originals; default: the set's own.")] = None,
    lq: Annotated[Path | None, typer.Option("--lq", metavar="DIR", help="Inputs; default: the set's own.")] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="A,B", help="Default: all. A wrong name lists them.")
    ] = None,
    statistics: Annotated[
        Path | None,
        typer.Option("--statistics", metavar="FILE|DIR", help="For the FID: statistics, or images to compare with."),
    ] = None,
    restorer: Annotated[
        str | None,
        typer.Option("--restorer", metavar="NAME", help="As for run; with --restored nothing is restored without it."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="Own face restorer, recognized by its tensors.")
    ] = None,
    alignment: Annotated[
        Alignment, typer.Option("--alignment", help="Inputs are aligned crops, or whole photos with a face each.")
    ] = Alignment.AUTO,
    detector: Annotated[
        str, typer.Option("--detector", metavar="NAME", help="As for run; for whole photos only.")
    ] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Default: gfprestore-eval-<set>, here.")
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        Precision, typer.Option("--precision", help="Floating-point type of the restorer.")
    ] = Precision.AUTO,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", help="Faces restored together.")
    ] = None,
    weights_dir: WeightsDir = None,
    offline: Offline = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Restore a test set, score it, and report beside the published rows; or score anyone's images."""
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
        report = Evaluation(options, Listener(reporter.note, progress, download_reporter(reporter))).run()
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


@app.command()
@command
def degrade(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of aligned, square faces.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The set: lq/, gt/, what was drawn.")],
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of everything random.")],
    preset: Annotated[
        str, typer.Option("--preset", help="Ranges: celeba-test, paper, official, heavy or old-prints.")
    ] = "celeba-test",
    size: Annotated[int, typer.Option("--size", metavar="PX", help="Side of the images.")] = 512,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Only these rows of the source's index.csv.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="PATTERN", help="Leave out matching names; repeatable.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", metavar="N", min=1, help="Threads.")] = 2,
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
