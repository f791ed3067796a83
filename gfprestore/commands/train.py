"""`gfprestore train`: train the networks as the papers do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

from gfprestore.commands.boundary import command
from gfprestore.commands.options import (
    Debug,
    Device,
    Json,
    NamedPrecision,
    Precision,
    WeightsDir,
    behavior_option,
    initial_weights_option,
    io_option,
    losses_option,
    performance_option,
    training_option,
)

if TYPE_CHECKING:
    from gfprestore.training.loop import Progress
    from gfprestore.training.presets import IdentityNetwork, PerceptualNetwork


@command
def train(
    data: Annotated[
        Path,
        io_option(
            "--data",
            metavar="DIR",
            help="Folder of aligned faces: FFHQ, or a set made by `prepare`; for fmar and hfdg: pairs of `retouch`.",
        ),
    ],
    output: Annotated[
        Path | None,
        io_option(
            "--output", "-o", metavar="DIR", help="Output folder; default: gfprestore-<preset> in the current folder."
        ),
    ] = None,
    preset: Annotated[
        str,
        training_option(
            "--preset",
            help="Preset: paper, official, compact or finetune; for the stages fmar and hfdg: frrffusion or "
            "frrffusion-compact.",
        ),
    ] = "paper",
    stage: Annotated[
        str,
        training_option(
            "--stage",
            help="Stage: prior (StyleGAN2), restoration, background (the network that enlarges photos), fmar or hfdg "
            "(FRRffusion).",
        ),
    ] = "restoration",
    weights: Annotated[
        Path | None,
        initial_weights_option(
            "--weights", metavar="FILE", help="Initial weights: a prior, a restorer, or the other stage of FRRffusion."
        ),
    ] = None,
    prior: Annotated[
        Path | None,
        initial_weights_option("--prior", metavar="FILE", help="Prior to put into the restorer from --weights."),
    ] = None,
    teacher: Annotated[
        Path | None, losses_option("--teacher", metavar="FILE", help="Restorer to distill from.")
    ] = None,
    values: Annotated[
        list[str] | None,
        training_option(
            "--set", metavar="NAME=VALUE", help="Change a value of the preset, such as losses.identity=8; repeatable."
        ),
    ] = None,
    steps: Annotated[int | None, training_option("--steps", metavar="N", help="Total number of steps.")] = None,
    batch_size: Annotated[
        int | None, training_option("--batch-size", metavar="N", help="Number of images per step.")
    ] = None,
    accumulate: Annotated[
        int,
        performance_option(
            "--accumulate", metavar="N", help="Number of parts that a step is computed in, to save memory."
        ),
    ] = 1,
    size: Annotated[int | None, training_option("--size", metavar="PX", help="Side of the images.")] = None,
    without: Annotated[
        list[str] | None, losses_option("--without", metavar="LOSS", help="Remove a loss; repeatable.")
    ] = None,
    ablation: Annotated[
        str | None, losses_option("--ablation", metavar="NAME", help="Ablation of the paper; a wrong name lists them.")
    ] = None,
    perceptual: Annotated[
        str | None,
        losses_option(
            "--perceptual",
            metavar="NET",
            help="Network of the perceptual loss: vgg19 (the paper's) or vgg16 (extra train).",
        ),
    ] = None,
    perceptual_weights: Annotated[
        Path | None,
        losses_option("--perceptual-weights", metavar="FILE", help="torchvision's weights file of that network."),
    ] = None,
    identity: Annotated[
        str | None,
        losses_option(
            "--identity",
            metavar="NET",
            help="Network of the identity loss: arcface (the paper's) or dlib (extra train).",
        ),
    ] = None,
    identity_weights: Annotated[
        Path | None, losses_option("--identity-weights", metavar="FILE", help="Weights file of the face recognizer.")
    ] = None,
    device: Device = "auto",
    precision: NamedPrecision = Precision.AUTO,
    workers: Annotated[
        int | None,
        performance_option("--workers", metavar="N", help="Number of processes that load images; default: measured."),
    ] = None,
    seed: Annotated[int, training_option("--seed", metavar="N", help="Random seed.")] = 0,
    log_every: Annotated[
        int, io_option("--log-every", metavar="N", help="Number of steps between lines of the log.")
    ] = 10,
    sample_every: Annotated[
        int, io_option("--sample-every", metavar="N", help="Number of steps between sample images.")
    ] = 500,
    save_every: Annotated[
        int, io_option("--save-every", metavar="N", help="Number of steps between checkpoints.")
    ] = 500,
    dry_run: Annotated[bool, behavior_option("--dry-run", help="Show the plan and the memory it needs.")] = False,
    weights_dir: WeightsDir = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Train GFP-GAN or FRRffusion as in their papers; the same command resumes."""
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
        perceptual_network=cast("PerceptualNetwork | None", perceptual),  # make_config rejects other names
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
