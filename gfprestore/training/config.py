"""Configuration of a training: a preset, plus data, output folder and hardware.

A preset holds everything that affects the trained network. Sources: the paper (Wang et al., CVPR 2021, sections 3 and
4), and the official training configuration for details that the paper does not state. Opens no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gfprestore.errors import UsageError
from gfprestore.training.overrides import ablated, with_value
from gfprestore.training.preset_table import STAGE_PRESETS
from gfprestore.training.presets import IdentityNetwork, PerceptualNetwork, Preset, Stage

STAGES: tuple[Stage, ...] = tuple(STAGE_PRESETS)

TEACHER_WEIGHT = 10.0
"""Weight of the distillation loss, relative to that of the reconstruction loss.

The student can learn the output of a teacher, but not all of the ground truth. With a weight of 2 the noise of the
other losses dominated; see part 8 of `weights/compact-restorer.md`.
"""


@dataclass(frozen=True)
class TrainSettings:
    """Files, hardware and intervals of a training: everything that an option sets and no preset holds.

    Attributes:
        weights: File with the initial weights: a StyleGAN2 prior or a whole restorer, recognized by its tensors; in
            the background stage a background network.
        prior: StyleGAN2 prior that initializes the decoder; `weights` is then a restorer or None.
        teacher: Trained restorer to distill from, of any size.
        perceptual_weights: File of the VGG network; None searches the folders of weights.
        identity_weights: File of the recognizer; None searches the folders of weights.
        accumulate: Number of parts that the images of a step are computed in, one after the other, to save memory.
        device: `auto` or a torch device.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        workers: Number of processes that load images; None measures how many are needed.
        seed: Random seed.
        log_every: Steps between two lines of the log.
        sample_every: Steps between two sample images.
        save_every: Steps between two checkpoints.

    Raises:
        UsageError: A number is out of range.
    """

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

    def __post_init__(self) -> None:
        for name in ("accumulate", "log_every", "sample_every", "save_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be 1 or more, not {getattr(self, name)}.")
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"--workers must be 0 or more, not {self.workers}.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TrainSettings):
    """Configuration of one training: its settings, its preset and its folders.

    Attributes:
        data: Folder of aligned faces; in the stages background and damage a folder of sharp photos.
        output: Folder of the checkpoint, the trained weights, the log and the samples.
        preset: The preset, with the changes made by options.
        preset_name: Name of the preset.
        stage: `prior` trains StyleGAN2 alone, `restoration` the restorer, `background` the upscaling network for the
            rest of the photo, `fmar` and `hfdg` FRRffusion's, `damage` the detector of scratches.
        ablation: Name of the ablation applied to `preset`, if any.
        disabled_losses: Losses that options have switched off.

    Raises:
        UsageError: A number is out of range, or the batch cannot be divided into its parts.
    """

    data: Path
    output: Path
    preset: Preset
    preset_name: str = "paper"
    stage: Stage = "restoration"
    ablation: str | None = None
    disabled_losses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset.steps < 1 or self.preset.batch_size < 1:
            raise UsageError(
                f"--steps and --batch-size must be 1 or more, not {self.preset.steps} and {self.preset.batch_size}."
            )
        if self.preset.batch_size % self.accumulate:
            raise UsageError(
                f"--accumulate {self.accumulate} does not divide a batch of {self.preset.batch_size} images."
            )


def make_config(
    data: Path,
    output: Path,
    preset: str = "paper",
    settings: TrainSettings | None = None,
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
) -> TrainConfig:
    """Build the configuration of a training from command-line options.

    The keyword arguments change the preset and have the names of the options: `without` lists the losses to switch off,
    and `values` the assignments of `--set`; the others are explained at `Preset`. None keeps the value of the preset.

    Raises:
        UsageError: A name is unknown, or a value is out of range.
    """
    settings = settings or TrainSettings()
    if stage not in STAGES:
        raise UsageError(f"--stage {stage} is unknown. Use one of auto, {', '.join(STAGES)}.")
    known_stage = next(known for known in STAGES if known == stage)
    presets = STAGE_PRESETS[known_stage]
    if preset not in presets:
        raise UsageError(f"--preset {preset} is not a preset of the stage {stage}. Use one of {', '.join(presets)}.")
    if stage not in ("prior", "restoration") and ablation is not None:
        raise UsageError(f"--ablation is not supported in the stage {stage}. The ablations change the restorer.")
    if stage != "restoration" and settings.prior is not None:
        raise UsageError("--prior is only supported in the restoration stage. Use --weights for initial weights.")
    if stage != "restoration" and settings.teacher is not None:
        raise UsageError(
            "--teacher is only supported in the restoration stage. The background stage has its teacher in the preset."
        )
    if stage in ("fmar", "hfdg", "damage") and without:
        raise UsageError(f"--without is not supported in the stage {stage}, which has none of these losses.")
    if perceptual_network not in (None, "vgg19", "vgg16"):
        raise UsageError(f"The perceptual network must be vgg19 or vgg16, not {perceptual_network}.")
    if identity_network not in (None, "arcface", "dlib"):
        raise UsageError(f"The recognizer of the identity loss must be arcface or dlib, not {identity_network}.")
    chosen = presets[preset] if ablation is None else ablated(presets[preset], ablation)
    for assignment in values:
        chosen = with_value(chosen, assignment)
    losses = chosen.losses
    if settings.teacher is not None and not losses.distillation > 0:
        losses = replace(losses, distillation=TEACHER_WEIGHT * (losses.reconstruction or 1.0))
    for name in without:
        losses = losses.without(name)
    if stage == "restoration" and settings.teacher is None and losses.distillation > 0:
        raise UsageError("losses.distillation needs a restorer to distill from. Name its file with --teacher.")
    given: dict[str, Any] = {
        "steps": steps,
        "batch_size": batch_size,
        "size": size,
        "perceptual_network": perceptual_network,
        "identity_network": identity_network,
    }
    chosen = replace(chosen, losses=losses, **{name: value for name, value in given.items() if value is not None})
    if chosen.damage is not None:
        if not 64 <= chosen.size <= 1024:
            raise UsageError(f"--size must be from 64 to 1024 in the stage damage, not {chosen.size}.")
    elif chosen.reversal is not None:
        chosen.reversal_network(known_stage)  # raises an error for an unsupported size
    elif chosen.distillation is None:
        chosen.network()  # likewise
    elif not 16 <= chosen.size <= chosen.distillation.patch_size:
        raise UsageError(
            f"--size must be from 16 to {chosen.distillation.patch_size} in the background stage, not {chosen.size}."
        )
    return TrainConfig(
        **vars(settings),
        data=data,
        output=output,
        preset=chosen,
        preset_name=preset,
        stage=known_stage,
        ablation=ablation,
        disabled_losses=tuple(without),
    )
