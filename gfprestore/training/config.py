"""What a training is: presets as a table, losses and ablations by name, and `TrainConfig`, which holds all of it.

A preset is everything that decides how the network comes out; a `TrainConfig` adds where the data are, where the output
goes and on what to compute. Sources: the paper (Wang et al., CVPR 2021, sections 3 and 4), and the official training
configuration where it says more. Opens no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gfprestore.errors import UsageError
from gfprestore.training.overrides import ablated, with_value
from gfprestore.training.presets import (
    BACKGROUND_PRESETS,
    PRESETS,
    PRIOR_PRESETS,
    IdentityNetwork,
    PerceptualNetwork,
    Preset,
    Stage,
)

STAGES: tuple[Stage, ...] = ("prior", "restoration", "background")

TEACHER_WEIGHT = 10.0
"""Of distillation, to that of the reconstruction: what a teacher makes can be learned, much of the gt cannot. At 2 the
noise of the other losses drowned it; see part 8 of `weights/compact-restorer.md`."""


@dataclass(frozen=True)
class TrainConfig:
    """One training.

    Attributes:
        data: Folder of aligned faces; of any sharp photos in the background stage.
        output: Folder of the checkpoint, the restorer, the log and the samples.
        preset: The recipe, with what the options changed in it.
        preset_name: Its name in `PRESETS`.
        stage: `prior` trains StyleGAN2 alone, `restoration` the restorer, `background` the network that enlarges the
            rest of the photo.
        weights: What to start from: a StyleGAN2 prior or a whole restorer, told apart by its tensors; in the
            background stage a background network.
        prior: A StyleGAN2 prior that the decoder goes on from, where `weights` is a restorer or nothing.
        teacher: A trained restorer, of whatever size, whose images are learned as well as the gt.
        perceptual_weights: File of the VGG network; None looks where weights are kept.
        identity_weights: File of the recognizer; None looks where weights are kept.
        accumulate: Parts that a step's images are computed in, one after the other, to spare memory.
        device: `auto` or a torch device.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        workers: Processes that load images; None measures how many are needed.
        seed: Of everything random.
        log_every: Steps from one line of the log to the next.
        sample_every: Steps from one sample image to the next.
        save_every: Steps from one checkpoint to the next.
        ablation: The ablation that is in `preset`, if any.
        left_out: The losses that were switched off by option.
    """

    data: Path
    output: Path
    preset: Preset
    preset_name: str = "paper"
    stage: Stage = "restoration"
    weights: Path | None = None
    prior: Path | None = None
    teacher: Path | None = None
    perceptual_weights: Path | None = None
    identity_weights: Path | None = None
    accumulate: int = 1
    device: str = "auto"
    precision: str = "auto"
    workers: int | None = None
    seed: int = 0
    log_every: int = 10
    sample_every: int = 500
    save_every: int = 500
    ablation: str | None = None
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("accumulate", "log_every", "sample_every", "save_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} is 1 or more, not {getattr(self, name)}.")
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"--workers is 0 or more, not {self.workers}.")
        if self.preset.steps < 1 or self.preset.batch_size < 1:
            raise UsageError(f"--steps and --batch-size are 1 or more: {self.preset.steps}, {self.preset.batch_size}.")
        if self.preset.batch_size % self.accumulate:
            raise UsageError(
                f"--accumulate {self.accumulate} does not divide a batch of {self.preset.batch_size} images."
            )


def make_config(
    data: Path,
    output: Path,
    preset: str = "paper",
    *,
    stage: str = "restoration",
    without: Sequence[str] = (),
    ablation: str | None = None,
    values: Sequence[str] = (),
    steps: int | None = None,
    batch_size: int | None = None,
    size: int | None = None,
    perceptual_network: PerceptualNetwork | None = None,
    identity_network: IdentityNetwork | None = None,
    weights: Path | None = None,
    prior: Path | None = None,
    teacher: Path | None = None,
    perceptual_weights: Path | None = None,
    identity_weights: Path | None = None,
    accumulate: int = 1,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    seed: int = 0,
    log_every: int = 10,
    sample_every: int = 500,
    save_every: int = 500,
) -> TrainConfig:
    """A training from the command line's options; None leaves a value to the preset, `values` are those of `--set`.

    Raises:
        UsageError: A name is unknown or a value out of range.
    """
    if stage not in STAGES:
        raise UsageError(f"--stage {stage} is unknown. Use one of {', '.join(STAGES)}.")
    presets = {"prior": PRIOR_PRESETS, "restoration": PRESETS, "background": BACKGROUND_PRESETS}[stage]
    if preset not in presets:
        raise UsageError(f"--preset {preset} is unknown to the stage {stage}. Use one of {', '.join(presets)}.")
    if stage == "background" and ablation is not None:
        raise UsageError("--ablation is for the restoration stage: the paper's ablations change the restorer.")
    if stage != "restoration" and prior is not None:
        raise UsageError("--prior is for the restoration stage; what another stage starts from is named by --weights.")
    if stage != "restoration" and teacher is not None:
        raise UsageError("--teacher is for the restoration stage; the one of the background stage is in its preset.")
    if perceptual_network not in (None, "vgg19", "vgg16"):
        raise UsageError(f"the perceptual network is vgg19 or vgg16, not {perceptual_network}.")
    if identity_network not in (None, "arcface", "dlib"):
        raise UsageError(f"the recognizer of the identity loss is arcface or dlib, not {identity_network}.")
    chosen = presets[preset] if ablation is None else ablated(presets[preset], ablation)
    for assignment in values:
        chosen = with_value(chosen, assignment)
    losses = chosen.losses
    if teacher is not None and not losses.distillation > 0:
        losses = replace(losses, distillation=TEACHER_WEIGHT * (losses.reconstruction or 1.0))
    for name in without:
        losses = losses.without(name)
    if stage == "restoration" and teacher is None and losses.distillation > 0:
        raise UsageError("losses.distillation needs a restorer to learn from; name its file with --teacher.")
    given: dict[str, Any] = {
        "steps": steps,
        "batch_size": batch_size,
        "size": size,
        "perceptual_network": perceptual_network,
        "identity_network": identity_network,
    }
    chosen = replace(chosen, losses=losses, **{name: value for name, value in given.items() if value is not None})
    if chosen.distillation is None:
        chosen.network()  # an impossible size is told at once
    elif not 16 <= chosen.size <= chosen.distillation.patch_size:
        raise UsageError(f"--size is 16 to {chosen.distillation.patch_size} in this stage, not {chosen.size}.")
    return TrainConfig(
        data=data,
        output=output,
        preset=chosen,
        preset_name=preset,
        stage=next(known for known in STAGES if known == stage),
        weights=weights,
        prior=prior,
        teacher=teacher,
        perceptual_weights=perceptual_weights,
        identity_weights=identity_weights,
        accumulate=accumulate,
        device=device,
        precision=precision,
        workers=workers,
        seed=seed,
        log_every=log_every,
        sample_every=sample_every,
        save_every=save_every,
        ablation=ablation,
        left_out=tuple(without),
    )
