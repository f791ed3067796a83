"""`gfprestore train`: train the networks as the papers do."""

from __future__ import annotations

from dataclasses import asdict, replace
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
    from gfprestore.console import Reporter
    from gfprestore.training.auto import MakePrior
    from gfprestore.training.config import TrainConfig
    from gfprestore.training.loop import Progress
    from gfprestore.training.presets import IdentityNetwork, PerceptualNetwork
    from gfprestore.weights.store import WeightsStore


@command
def train(
    data: Annotated[
        Path,
        io_option(
            "--data",
            metavar="DIR",
            help="Folder of aligned faces: FFHQ, or a set made by `prepare`; for fmar and hfdg: pairs of `retouch`; "
            "for background and damage: sharp photos.",
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
            "frrffusion-compact; for damage: damage-compact.",
        ),
    ] = "paper",
    stage: Annotated[
        str,
        training_option(
            "--stage",
            help="Stage: prior (StyleGAN2), restoration, auto (restoration, after a prior if none can be "
            "downloaded), background (the network that enlarges photos), fmar or hfdg (FRRffusion), or damage (finds "
            "scratches).",
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
    from gfprestore.training.auto import needs_prior, prior_plan
    from gfprestore.training.config import TrainSettings, make_config
    from gfprestore.training.requirements import fetch_command, missing_files, require_files
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
    is_plain = stage in ("restoration", "auto")
    config = make_config(
        data,
        output or Path(f"gfprestore-{preset}" if is_plain else f"gfprestore-{preset}-{stage}"),
        preset,
        settings,
        stage="restoration" if stage == "auto" else stage,
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
    lacks_prior = stage == "auto" and needs_prior(config, store)
    missing = [item for item in missing_files(config, store) if not (lacks_prior and item.is_prior)]
    if dry_run:
        for item in missing:
            reporter.warn(f"missing: {item}")
        command_line = fetch_command(missing)
        if command_line is not None:
            reporter.note(f"Run `{command_line}` to download {'it' if len(missing) == 1 else 'them'}.")
        from gfprestore.training.plan import plan

        rows = plan(config, store)
        if lacks_prior:
            rows.append(("prior", prior_plan(config)))
        reporter.record(dict(rows))
        if not json_output:
            reporter.listing("", ["what", "value"], [list(row) for row in rows])
        return
    require_files(missing)

    def make_prior(folder: Path, side: int, count: int | None) -> TrainConfig:
        own = replace(settings, weights=None, prior=None, teacher=None)
        return make_config(
            data, folder, preset, own, stage="prior", values=values or (), steps=count or steps, batch_size=batch_size,
            size=side,
        )  # fmt: skip

    if lacks_prior:
        config = _with_prior(config, make_prior, store, reporter)
    _run(config, store, reporter)


def _with_prior(config: TrainConfig, make_prior: MakePrior, store: WeightsStore, reporter: Reporter) -> TrainConfig:
    """Download the released prior, or train one; returns the configuration that starts from it."""
    from gfprestore.console import DownloadProgress
    from gfprestore.training.auto import download_prior, prior_configs
    from gfprestore.training.requirements import PRIOR_NAME, RELEASED_PRIOR

    if download_prior(config, store, DownloadProgress(reporter, RELEASED_PRIOR)):
        return config
    for prior in prior_configs(config, make_prior):
        reporter.note(f"Training a prior with images of {prior.preset.size} pixels in {prior.output}.")
        _run(prior, store, reporter)
        config = replace(config, weights=prior.output / PRIOR_NAME)
    return config


def _run(config: TrainConfig, store: WeightsStore, reporter: Reporter) -> None:
    """Run one training, and report its steps and its end."""
    from gfprestore.console import StageBar
    from gfprestore.training.train import train as train_networks

    def show(progress: Progress) -> None:
        reporter.note(progress.line)
        reporter.record(
            {"step": progress.step, **progress.losses, "images_per_second": round(progress.images_per_second, 3)}
        )

    report = train_networks(config, show, store, StageBar(reporter))
    summary = asdict(report)
    summary["returns"] = summary.pop("rollbacks")  # the field's name since the first version
    reporter.record({"summary": {**summary, "weights": str(report.weights)}})
    reporter.note(f"{report.step} steps done, {report.images_per_second:.3g} images/s; weights: {report.weights}")
