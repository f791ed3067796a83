"""`gfprestore train`: train the networks as the papers do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from gfprestore.commands.boundary import command
from gfprestore.commands.options import (
    BEHAVIOR,
    INITIAL_WEIGHTS,
    INPUT_OUTPUT,
    LOSSES,
    PERFORMANCE,
    TRAINING,
    Debug,
    Device,
    Json,
    NamedPrecision,
    Precision,
    WeightsDir,
)

if TYPE_CHECKING:
    from gfprestore.training.loop import Progress
    from gfprestore.training.presets import IdentityNetwork, PerceptualNetwork


@command
def train(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="DIR",
            help="Folder of aligned faces: FFHQ, or a set made by `prepare`.",
            rich_help_panel=INPUT_OUTPUT,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Output folder; default: gfprestore-<preset> in the current folder.",
            rich_help_panel=INPUT_OUTPUT,
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            help="Preset: paper, official, compact or finetune; for the stages fmar and hfdg: frrffusion or "
            "frrffusion-compact.",
            rich_help_panel=TRAINING,
        ),
    ] = "paper",
    stage: Annotated[
        str,
        typer.Option(
            "--stage",
            help="Stage: prior (StyleGAN2), restoration, background (the network that enlarges photos), fmar or hfdg "
            "(FRRffusion).",
            rich_help_panel=TRAINING,
        ),
    ] = "restoration",
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", metavar="FILE", help="Initial weights: a prior or a restorer.", rich_help_panel=INITIAL_WEIGHTS
        ),
    ] = None,
    prior: Annotated[
        Path | None,
        typer.Option(
            "--prior",
            metavar="FILE",
            help="Prior to put into the restorer from --weights.",
            rich_help_panel=INITIAL_WEIGHTS,
        ),
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option("--teacher", metavar="FILE", help="Restorer to distill from.", rich_help_panel=LOSSES)
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change a value of the preset, such as losses.identity=8; repeatable.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="Total number of steps.", rich_help_panel=TRAINING)
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", metavar="N", help="Number of images per step.", rich_help_panel=TRAINING),
    ] = None,
    accumulate: Annotated[
        int,
        typer.Option(
            "--accumulate",
            metavar="N",
            help="Number of parts that a step is computed in, to save memory.",
            rich_help_panel=PERFORMANCE,
        ),
    ] = 1,
    size: Annotated[
        int | None, typer.Option("--size", metavar="PX", help="Side of the images.", rich_help_panel=TRAINING)
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="LOSS", help="Leave out a loss; repeatable.", rich_help_panel=LOSSES),
    ] = None,
    ablation: Annotated[
        str | None,
        typer.Option(
            "--ablation", metavar="NAME", help="Ablation of the paper; a wrong name lists them.", rich_help_panel=LOSSES
        ),
    ] = None,
    perceptual: Annotated[
        str | None,
        typer.Option(
            "--perceptual",
            metavar="NET",
            help="Network of the perceptual loss: vgg19 (the paper's) or vgg16 (extra train).",
            rich_help_panel=LOSSES,
        ),
    ] = None,
    perceptual_weights: Annotated[
        Path | None,
        typer.Option(
            "--perceptual-weights",
            metavar="FILE",
            help="torchvision's weights file of that network.",
            rich_help_panel=LOSSES,
        ),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(
            "--identity",
            metavar="NET",
            help="Network of the identity loss: arcface (the paper's) or dlib (extra train).",
            rich_help_panel=LOSSES,
        ),
    ] = None,
    identity_weights: Annotated[
        Path | None,
        typer.Option(
            "--identity-weights", metavar="FILE", help="Weights file of the face recognizer.", rich_help_panel=LOSSES
        ),
    ] = None,
    device: Device = "auto",
    precision: NamedPrecision = Precision.AUTO,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            help="Number of processes that load images; default: measured.",
            rich_help_panel=PERFORMANCE,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Random seed.", rich_help_panel=TRAINING)] = 0,
    log_every: Annotated[
        int,
        typer.Option(
            "--log-every", metavar="N", help="Number of steps between lines of the log.", rich_help_panel=INPUT_OUTPUT
        ),
    ] = 10,
    sample_every: Annotated[
        int,
        typer.Option(
            "--sample-every", metavar="N", help="Number of steps between sample images.", rich_help_panel=INPUT_OUTPUT
        ),
    ] = 500,
    save_every: Annotated[
        int,
        typer.Option(
            "--save-every", metavar="N", help="Number of steps between checkpoints.", rich_help_panel=INPUT_OUTPUT
        ),
    ] = 500,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and the memory it needs.", rich_help_panel=BEHAVIOR)
    ] = False,
    weights_dir: WeightsDir = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Train GFP-GAN or FRRffusion as the papers do; the same command resumes."""
    from gfprestore.console import Reporter
    from gfprestore.training.config import TrainSettings, make_config
    from gfprestore.training.plan import plan
    from gfprestore.training.train import train as train_networks
    from gfprestore.weights.store import WeightsStore

    settings = TrainSettings(
        weights=weights,
        prior=prior,
        teacher=teacher,
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
    config = make_config(
        data,
        output or Path(f"gfprestore-{preset}" if stage == "restoration" else f"gfprestore-{preset}-{stage}"),
        preset,
        settings,
        stage=stage,
        without=without or (),
        ablation=ablation,
        values=values or (),
        steps=steps,
        batch_size=batch_size,
        size=size,
        perceptual_network=cast("PerceptualNetwork | None", perceptual),  # make_config refuses other names
        identity_network=cast("IdentityNetwork | None", identity),
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

    report = train_networks(config, show, store)
    summary = asdict(report)
    summary["returns"] = summary.pop("rollbacks")  # the field's name since the first version
    reporter.record({"summary": {**summary, "weights": str(report.weights)}})
    reporter.note(f"{report.step} steps done, {report.images_per_second:.3g} images/s; weights: {report.weights}")
