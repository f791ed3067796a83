"""What a training preset consists of: losses, network sizes, learning rates, and the values of single stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from gfprestore.data.degradation import PAPER, DegradationOptions
from gfprestore.errors import UsageError
from gfprestore.networks.configs import (
    FMAR_256,
    HAT_BASE,
    DamageUNetConfig,
    DiffusionUNetConfig,
    FRRffusionConfig,
    GFPGANConfig,
    HATConfig,
    Layout,
    LevelEstimatorConfig,
    Modulation,
)

Stage = Literal["prior", "restoration", "background", "fmar", "hfdg", "damage"]
PerceptualNetwork = Literal["vgg19", "vgg16"]
IdentityNetwork = Literal["arcface", "dlib"]

LOSSES: dict[str, str] = {
    "reconstruction": "L1 between the restored face and the ground truth",
    "perceptual": "L1 of VGG features, plus the style term if the preset has one",
    "style": "L1 of Gram matrices of VGG features",
    "pyramid": "L1 of the images of the U-Net at every scale",
    "adversarial": "logistic loss of StyleGAN2's discriminator",
    "components": "all losses on eyes and mouth: adversarial, style and feature matching",
    "component-style": "L1 of Gram matrices of the component discriminators' features",
    "component-matching": "L1 of the component discriminators' features",
    "identity": "L1 of ArcFace embeddings, or the distance of dlib's embeddings",
    "distillation": "L1 between the restored face and the output of the restorer of --teacher",
}
"""Losses by their names in `--without` and in the log."""

_SWITCHED_OFF_WITH: dict[str, tuple[str, ...]] = {
    "perceptual": ("perceptual", "style"),
    "components": ("components", "component_style", "component_matching"),
}


MULTIPLIERS = {32: (1, 2, 2, 2), 64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}
"""Factors on FMAR's channels by the side of its images, in the authors' code; those for 32 are guided-diffusion's."""


def _check(holder: object, bounds: Mapping[str, tuple[float, float]], above: Sequence[str] = ()) -> None:
    """Check that values lie within their bounds, inclusive, and that those named in `above` are above 0.

    Raises:
        ValueError: A value is out of range.
    """
    for name, (lowest, highest) in bounds.items():
        value = getattr(holder, name)
        if value is not None and not lowest <= value <= highest:
            limits = f"{lowest:g} or more" if highest == math.inf else f"from {lowest:g} to {highest:g}"
            raise ValueError(f"{name} must be {limits}, not {value:g}")
    for name in above:
        value = getattr(holder, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, not {value:g}")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses; 0 switches a loss off. The defaults are those of the paper (section 4.1).

    The distillation loss is not in the paper. `make_config` switches it on if a teacher is given.

    Raises:
        ValueError: A weight is negative.
    """

    reconstruction: float = 0.1
    perceptual: float = 1.0
    style: float = 0.0
    pyramid: float = 1.0
    adversarial: float = 0.1
    components: float = 1.0
    component_style: float = 200.0
    component_matching: float = 0.0
    identity: float = 10.0
    distillation: float = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            if getattr(self, item.name) < 0:
                raise ValueError(f"losses.{item.name} must be 0 or more, not {getattr(self, item.name):g}")

    def without(self, name: str) -> LossWeights:
        """Switch off one loss of `LOSSES`, together with the losses that depend on it.

        Raises:
            UsageError: The loss is unknown.
        """
        if name not in LOSSES:
            raise UsageError(f"--without {name} is unknown. Use one of {', '.join(LOSSES)}.")
        names = _SWITCHED_OFF_WITH.get(name, (name.replace("-", "_"),))
        return replace(self, **dict.fromkeys(names, 0.0))

    def used(self) -> dict[str, float]:
        """Weights of the losses in use, by their names in `LOSSES`."""
        weights = {item.name.replace("_", "-"): float(getattr(self, item.name)) for item in fields(self)}
        return {name: weight for name, weight in weights.items() if weight > 0}


@dataclass(frozen=True)
class Distillation:
    """Values of the background stage: teacher, student and training pairs.

    Attributes:
        teacher: Name of the background network to distill from.
        scale: Output pixels per input pixel of the student.
        features: Number of channels of the student; multiples of 32 suit processors with matrix units.
        convolutions: Number of inner convolutions of the student.
        tone_radius: Radius in pixels over which the student keeps the local mean tones; see `SRVGGConfig`.
        patches: Number of photo patches that the teacher enlarges.
        patch_size: Side of the patches in pixels.
        rim: Additional pixels on each side that the teacher sees.
        shrink: Range of the factor by which photos are downscaled before patches are cut out.
        clean: Share of the patches that are not degraded.
        perceptual_start_step: Last step without the perceptual loss, which only sharpens an image that is already
            close to the target.

    Raises:
        ValueError: A value is out of range.
    """

    teacher: str = "real-esrgan-x4plus"
    scale: int = 2
    features: int = 64
    convolutions: int = 12
    tone_radius: int = 8
    patches: int = 1024
    patch_size: int = 112
    rim: int = 8
    shrink: tuple[float, float] = (1.0, 4.0)
    clean: float = 0.25
    perceptual_start_step: int = 0

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("features", "convolutions", "patches", "patch_size"), (1, math.inf))
        _check(self, {**counts, "scale": (1, 4), "tone_radius": (0, math.inf), "rim": (0, math.inf), "clean": (0, 1)})
        if not 1 <= self.shrink[0] <= self.shrink[1]:
            raise ValueError(
                f"shrink must be a range of factors of 1 or more, not {self.shrink[0]:g}, {self.shrink[1]:g}"
            )


@dataclass(frozen=True)
class Reversal:
    """Values of FRRffusion's two stages, `fmar` and `hfdg`. The defaults are those of the authors' code.

    Attributes:
        fmar: Sizes and options of the first stage's diffusion model; `size` of the preset replaces its size.
        level_estimator: Sizes of the level estimator, which is trained with it; None for none.
        only_estimator: Train the level estimator alone and keep the diffusion model of the initial weights. The
            estimator needs more images, and each costs it a sixth of the time.
        variations: Vary place, exposure and colors of the faces for an estimator that is trained alone.
        hfdg: Sizes of the second stage's transformer.
        loss: Loss of the diffusion: mean squared error (`mse`) of what the network predicts, or mean absolute error
            (`l1`) of x0, weighted by what the noisy image tells of it.
        field_weight: Weight of the L1 loss of the warp head's field, in pixels.
        early_share: Share of the images whose timestep is drawn from the first 400 of 1000; the others' timesteps are
            drawn from the rest. None draws all timesteps alike.
        estimator_learning_rate: Learning rate of the level estimator.
        estimator_weight_decay: Weight decay of the level estimator.
        weight_decay: Weight decay of the stage's own network.
        warmup: Number of first steps in which the learning rate rises from 0.
        cosine: Lower the learning rate to 2 % along a cosine instead of halving it at the milestones.
        drop_path: Stochastic depth of the transformer.
        starts_enlarging: Whether the transformer starts from weights that enlarge bilinearly.
        cascade_share: Share of the second stage's patches whose lq is the first stage's result, where its weights are
            given.
        cascade_faces: Number of faces that the first stage computes for that.

    Raises:
        ValueError: A value is out of range.
    """

    fmar: DiffusionUNetConfig = FMAR_256
    level_estimator: LevelEstimatorConfig | None = None
    only_estimator: bool = False
    variations: bool = True
    hfdg: HATConfig = HAT_BASE
    loss: Literal["mse", "l1"] = "mse"
    field_weight: float = 0.05
    early_share: float | None = None
    estimator_learning_rate: float = 1e-3
    estimator_weight_decay: float = 0.02
    weight_decay: float = 0.0
    warmup: int = 0
    cosine: bool = False
    drop_path: float = 0.1
    starts_enlarging: bool = False
    cascade_share: float = 0.5
    cascade_faces: int = 1024

    def __post_init__(self) -> None:
        limits = {"cascade_share": (0, 1), "early_share": (0, 1), "drop_path": (0, 0.9), "warmup": (0, math.inf)}
        decays = dict.fromkeys(("field_weight", "weight_decay", "estimator_weight_decay"), (0, math.inf))
        _check(self, {**limits, **decays, "cascade_faces": (1, math.inf)}, ("estimator_learning_rate",))
        if self.level_estimator is not None and not self.fmar.levels:
            raise ValueError("a level estimator needs fmar.levels")
        if self.only_estimator and self.level_estimator is None:
            raise ValueError("only_estimator needs a level estimator")


@dataclass(frozen=True)
class DamageDetection:
    """Values of the stage `damage`.

    Attributes:
        detector: Sizes of the network.
        clean: Share of the patches without damage.
        lettered: Share of the patches with lettering, which is no damage.
        overlap_weight: Weight of the Dice loss beside the cross entropy.
        weight_decay: Decoupled weight decay.
        warmup: Number of first steps in which the learning rate rises from 0.

    Raises:
        ValueError: A value is out of range.
    """

    detector: DamageUNetConfig = field(default_factory=DamageUNetConfig)
    clean: float = 0.35
    lettered: float = 0.08
    overlap_weight: float = 0.2
    weight_decay: float = 1e-4
    warmup: int = 100

    def __post_init__(self) -> None:
        limits = {"clean": (0, 1), "lettered": (0, 1)}
        _check(self, {**limits, **dict.fromkeys(("overlap_weight", "weight_decay", "warmup"), (0, math.inf))})


@dataclass(frozen=True)
class Preset:
    """Everything that affects the trained network. The defaults are those of the paper.

    Attributes:
        about: One-line description.
        layout: Layout of the generator's weights, `paper` or `clean`.
        size: Height and width of the images.
        narrow: Factor on the number of channels of the generator and the discriminator.
        channel_multiplier: Factor on the number of channels of the generator at scales of 64 and more.
        style_dim: Length of a style code.
        mlp_layers: Number of layers of the prior's style network.
        component_width: Number of features of the component discriminators at the full size of the patches.
        modulation: Features of the prior that the U-Net modulates.
        input_share: Share of its input in the output of each part of the generator; see `GFPGANConfig`.
        color_radius: Radius in pixels over which the restored image keeps the colors of the lq; see `GFPGANConfig`.
        start: Initial weights of the restoration stage: a `prior`, a whole `restorer`, or `nothing` for random weights.
        train_decoder: Whether the prior inside the restorer is trained; the paper freezes it.
        decoder_noise: Whether the decoder and its prior add noise to their features. A small network turns the noise
            into speckles, to lower the perceptual or the adversarial loss.
        batch_size: Number of images per step, over all processes and accumulated parts.
        steps: Total number of steps.
        learning_rate: Learning rate of the generator; plain convolutions need a far lower one than the equalized
            convolutions of the paper.
        betas: Decay of Adam's moments for the generator. The first is 0 in the paper, because the discriminator keeps
            changing the direction of the gradient.
        max_grad_norm: Maximum norm of the generator's gradient; None does not limit it.
        discriminator_learning_rate: Learning rate of the discriminator.
        component_learning_rate: Learning rate of the component discriminators.
        milestones: Steps after which all learning rates are halved.
        discriminator_warmup: Number of first steps in which only the discriminators are trained.
        discriminator_start_step: Last step without discriminators; the generator first learns without them.
        unet_start_step: Last step in which the U-Net is frozen, while a new prior adapts to it.
        losses: Weights of the losses.
        perceptual_network: Network of the perceptual and the style loss.
        identity_network: Recognizer of the identity loss: `arcface` as in the paper, or `dlib`.
        perceptual_crop: Side of the random crop of each face for these losses, to save time; None uses the whole face.
        pyramid_until: Last step of the pyramid loss; None keeps it to the end.
        r1_gamma: Weight of the R1 penalty of the discriminator.
        r1_every: Steps between two R1 penalties.
        path_weight: Weight of the path length penalty of the prior; 0 switches it off.
        path_every: Steps between two path length penalties.
        mixing: Share of the prior's images that are generated from two style codes.
        degradation: Degradation that computes the lq from the ground truth.
        jitter: Maximum random change of the alignment, relative to the side; for small training sets.
        ema_half_life: Steps after which half of the moving average is new.
        exports_half: Whether the exported weights are float16; the checkpoint is always float32.
        distillation: Values of the background stage; None in other stages.
        reversal: Values of the stages `fmar` and `hfdg`; None in other stages.
        damage: Values of the stage `damage`; None in other stages.

    Raises:
        ValueError: A value is out of range. `TrainConfig` checks values with their own options, such as `steps`.
    """

    about: str
    layout: Layout = "paper"
    size: int = 512
    narrow: float = 1.0
    channel_multiplier: float = 1.0
    style_dim: int = 512
    mlp_layers: int = 8
    component_width: int = 64
    modulation: Modulation = "split"
    input_share: float = 0.0
    color_radius: int = 0
    start: Literal["prior", "restorer", "nothing"] = "prior"
    train_decoder: bool = False
    decoder_noise: bool = True
    batch_size: int = 12
    steps: int = 800_000
    learning_rate: float = 2e-3
    betas: tuple[float, float] = (0.0, 0.99)
    max_grad_norm: float | None = None
    discriminator_learning_rate: float = 2e-3
    component_learning_rate: float = 2e-3
    milestones: tuple[int, ...] = (700_000, 750_000)
    discriminator_warmup: int = 0
    discriminator_start_step: int = 0
    unet_start_step: int = 0
    losses: LossWeights = field(default_factory=LossWeights)
    perceptual_network: PerceptualNetwork = "vgg19"
    identity_network: IdentityNetwork = "arcface"
    perceptual_crop: int | None = None
    pyramid_until: int | None = 50_000
    r1_gamma: float = 10.0
    r1_every: int = 16
    path_weight: float = 2.0
    path_every: int = 4
    mixing: float = 0.9
    degradation: DegradationOptions = PAPER
    jitter: float = 0.0
    ema_half_life: float = 10_000 / 32
    exports_half: bool = False
    distillation: Distillation | None = None
    reversal: Reversal | None = None
    damage: DamageDetection | None = None

    def __post_init__(self) -> None:
        if not min(self.learning_rate, self.discriminator_learning_rate, self.component_learning_rate) > 0:
            raise ValueError("learning rates must be above 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be 0 or more and below 1, not {self.betas[0]:g}, {self.betas[1]:g}")
        counts = dict.fromkeys(("style_dim", "mlp_layers", "component_width", "r1_every", "path_every"), (1, math.inf))
        firsts = (
            "discriminator_warmup",
            "discriminator_start_step",
            "unet_start_step",
            "pyramid_until",
            "r1_gamma",
            "path_weight",
        )
        shares = {"mixing": (0, 1), "jitter": (0, 0.5), "perceptual_crop": (1, math.inf)}
        _check(self, {**counts, **dict.fromkeys(firsts, (0, math.inf)), **shares}, ("ema_half_life", "max_grad_norm"))

    def network(self) -> GFPGANConfig:
        """Sizes of the generator.

        Raises:
            UsageError: The sizes are not supported.
        """
        try:
            return GFPGANConfig.from_widths(
                self.layout,
                size=self.size,
                narrow=self.narrow,
                channel_multiplier=self.channel_multiplier,
                style_dim=self.style_dim,
                mlp_layers=self.mlp_layers,
                modulation=self.modulation,
                input_share=self.input_share,
                color_radius=self.color_radius,
            )
        except ValueError as error:
            raise UsageError(f"The sizes of the network are invalid: {error}. Change --size or --set.") from error

    def reversal_network(self, stage: Stage) -> FRRffusionConfig:
        """Sizes of the networks that the stage `fmar` or `hfdg` trains.

        Raises:
            UsageError: The sizes are not supported.
        """
        assert self.reversal is not None
        try:
            if stage == "fmar":
                if self.reversal.only_estimator:
                    return FRRffusionConfig(level_estimator=self.reversal.level_estimator)
                fmar = self.reversal.fmar
                multipliers = fmar.multipliers
                if multipliers == FMAR_256.multipliers:  # the authors' code has others for other sizes
                    multipliers = MULTIPLIERS.get(self.size, multipliers)
                fmar = replace(fmar, size=self.size, multipliers=multipliers)
                return FRRffusionConfig(fmar, self.reversal.level_estimator)
            if self.size % (self.reversal.hfdg.scale * self.reversal.hfdg.window_size):
                raise ValueError(f"patches of {self.size} pixels are not a multiple of HFDG's windows")
            return FRRffusionConfig(hfdg=self.reversal.hfdg)
        except ValueError as error:
            raise UsageError(f"The sizes of the network are invalid: {error}. Change --size or --set.") from error

    def discriminator_channels(self) -> tuple[int, ...]:
        """Number of features of the discriminator at sizes 4, 8 and so on; a channel multiplier above 1 is ignored."""
        multiplier = min(1.0, self.channel_multiplier)
        return GFPGANConfig.from_widths(
            "paper", size=self.size, narrow=self.narrow, channel_multiplier=multiplier
        ).channels

    def learning_rate_factor(self, step: int) -> float:
        """Factor on the learning rates at a step (the first is 1): halved after each milestone, or along a cosine."""
        cosine = self.damage is not None or (self.reversal is not None and self.reversal.cosine)
        if cosine:
            factor = 0.02 + 0.98 * (1 + math.cos(math.pi * min(step / self.steps, 1))) / 2
        else:
            factor = float(0.5 ** sum(step > milestone for milestone in self.milestones))
        stage = self.reversal or self.damage
        warmup = 1 if stage is None else max(stage.warmup, 1)
        return min(1.0, step / warmup) * factor
