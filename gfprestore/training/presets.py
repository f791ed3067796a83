"""Presets of every training stage as a table in Python."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from gfprestore.data.aging import Aging
from gfprestore.data.degradation import OFFICIAL, OLD_PRINTS, PAPER, DegradationOptions
from gfprestore.errors import UsageError
from gfprestore.networks.gfpgan import GFPGANConfig, Modulation
from gfprestore.networks.stylegan2 import Layout

Stage = Literal["prior", "restoration", "background"]
PerceptualNetwork = Literal["vgg19", "vgg16"]
IdentityNetwork = Literal["arcface", "dlib"]

LOSSES: dict[str, str] = {
    "reconstruction": "L1 between the restored face and the ground truth",
    "perceptual": "L1 of VGG features, with the style term where the preset has one",
    "style": "L1 of Gram matrices of VGG features",
    "pyramid": "L1 of the U-Net's images at every scale",
    "adversarial": "logistic loss of StyleGAN2's discriminator",
    "components": "everything about eyes and mouth: their discriminators and what is compared in them",
    "component-style": "L1 of Gram matrices of the component discriminators' features",
    "component-matching": "L1 of the component discriminators' features",
    "identity": "L1 of ArcFace embeddings, or the distance of dlib's",
    "distillation": "L1 between the restored face and what the restorer of --teacher makes of it",
}
"""The names that `--without` takes and the log uses."""

_SWITCHED_OFF_WITH: dict[str, tuple[str, ...]] = {
    "perceptual": ("perceptual", "style"),
    "components": ("components", "component_style", "component_matching"),
}


def _check(holder: object, bounds: Mapping[str, tuple[float, float]], above: Sequence[str] = ()) -> None:
    """Whether values lie in their bounds, both of which they may be; those of `above` are above 0.

    Raises:
        ValueError: One lies outside.
    """
    for name, (lowest, highest) in bounds.items():
        value = getattr(holder, name)
        if value is not None and not lowest <= value <= highest:
            limits = f"{lowest:g} or more" if highest == math.inf else f"from {lowest:g} to {highest:g}"
            raise ValueError(f"{name} is {limits}, not {value:g}")
    for name in above:
        value = getattr(holder, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} is above 0, not {value:g}")


@dataclass(frozen=True)
class LossWeights:
    """What each loss is multiplied with; 0 leaves it out. The defaults are the paper's (section 4.1).

    Distillation is not the paper's; `make_config` has it count where a teacher is named.

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
                raise ValueError(f"losses.{item.name} is 0 or more, not {getattr(self, item.name):g}")

    def without(self, name: str) -> LossWeights:
        """These weights with one loss of `LOSSES` left out, and whatever cannot be without it.

        Raises:
            UsageError: No loss is called so.
        """
        if name not in LOSSES:
            raise UsageError(f"--without {name}: no loss is called so. Use one of {', '.join(LOSSES)}.")
        names = _SWITCHED_OFF_WITH.get(name, (name.replace("-", "_"),))
        return replace(self, **dict.fromkeys(names, 0.0))

    def used(self) -> dict[str, float]:
        """The losses that count, by their names in `LOSSES`."""
        weights = {item.name.replace("_", "-"): float(getattr(self, item.name)) for item in fields(self)}
        return {name: weight for name, weight in weights.items() if weight > 0}


@dataclass(frozen=True)
class Distillation:
    """What only the background stage needs: who teaches, who learns, and from what.

    Attributes:
        teacher: Name of the background network that is copied.
        scale: Output pixels per input pixel of the student.
        features: Channels of the student; multiples of 32 suit processors with matrix units.
        convolutions: Inner convolutions of the student.
        tone_radius: Pixels around a place over which the student keeps the tones; see `SRVGGConfig`.
        patches: How many patches of photos the teacher enlarges, once.
        patch_size: Their side in pixels.
        rim: Pixels around them that the teacher sees as well.
        shrink: Factor by which photos are made smaller before patches are cut out.
        clean: Share of the patches that are not degraded.
        perceptual_start_step: Number of first steps without the perceptual loss; it sharpens what is already right.

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
            raise ValueError(f"shrink is a range from 1 on, not {self.shrink[0]:g}, {self.shrink[1]:g}")


@dataclass(frozen=True)
class Preset:
    """Everything that decides how the network comes out. The defaults are the paper's.

    Attributes:
        about: One line for people.
        layout: Of the generator's weights, `paper` or `clean`.
        size: Height and width of the images.
        narrow: Factor on the generator's channels; the discriminator has the same.
        channel_multiplier: Factor on the generator's channels at 64 and more.
        style_dim: Length of a style code.
        mlp_layers: Layers of the prior's style network.
        component_width: Features of the component discriminators at the patches' full size.
        modulation: What the U-Net's features modulate in the prior.
        input_share: Share of what each part of the generator gets in the image that it gives; see `GFPGANConfig`.
        color_radius: Pixels around a place over which the restored image keeps the lq's colors; see `GFPGANConfig`.
        start: What a restoration starts from: a `prior`, a whole `restorer`, or `nothing` but random weights.
        train_decoder: Whether the prior inside the restorer learns too; the paper freezes it.
        decoder_noise: Whether the decoder and its prior add noise to their features. A small one makes speckles of it,
            to please the perceptual loss or the discriminator.
        batch_size: Images a step, over all processes and accumulated parts.
        steps: Steps in all.
        learning_rate: Of Adam for the generator; plain convolutions need far less than the paper's equalized ones.
        betas: Adam's, of the generator: 0 for the first in the paper, whose gradients the discriminator keeps turning.
        max_grad_norm: The largest norm of the generator's gradient, where one is set; a longer one is shortened.
        discriminator_learning_rate: That of the discriminator.
        component_learning_rate: That of the component discriminators.
        milestones: Steps after which all rates are halved.
        discriminator_warmup: First steps in which only the discriminators learn.
        discriminator_start_step: Number of first steps without any discriminator; there is nothing yet to judge.
        unet_start_step: Number of first steps in which the U-Net is frozen, while a new prior adapts to it.
        losses: What each loss is multiplied with.
        perceptual_network: The network of the perceptual and the style loss.
        identity_network: The recognizer of the identity loss: the paper's `arcface`, or `dlib`'s, which a package has.
        perceptual_crop: Side of the random piece of each face that these losses see, to spare time; None: all of it.
        pyramid_until: The last step of the pyramid loss; None keeps it.
        r1_gamma: Weight of the gradient penalty of the discriminator.
        r1_every: Steps from one penalty to the next.
        path_weight: Weight of the path length penalty of the prior; 0 leaves it out.
        path_every: Steps from one such penalty to the next.
        mixing: Share of the prior's images made with two style codes.
        degradation: How low quality is made from the ground truth.
        jitter: How differently faces may be aligned, in shares of the side; for sets that are small.
        ema_half_life: Steps after which half of the moving average is new.
        exports_half: The exported restorer is float16, half as large; the checkpoint stays float32.
        distillation: Of the background stage; None for the others.

    Raises:
        ValueError: A value is out of range. What options of their own set, such as `steps`, `TrainConfig` looks at.
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

    def __post_init__(self) -> None:
        if not min(self.learning_rate, self.discriminator_learning_rate, self.component_learning_rate) > 0:
            raise ValueError("learning rates are above 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are from 0 to below 1, not {self.betas[0]:g}, {self.betas[1]:g}")
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
        """The sizes of the generator.

        Raises:
            UsageError: No such network can be built.
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
            raise UsageError(f"no network can be built: {error}. Choose another --size or --set.") from error

    def discriminator_channels(self) -> tuple[int, ...]:
        """Features of the discriminator at 4, 8 and so on: as of the paper's prior, whatever the channel multiplier."""
        multiplier = min(1.0, self.channel_multiplier)
        return GFPGANConfig.from_widths(
            "paper", size=self.size, narrow=self.narrow, channel_multiplier=multiplier
        ).channels

    def learning_rate_factor(self, step: int) -> float:
        """What the learning rates are multiplied with at `step`, 1 being the first: halved after each milestone."""
        return float(0.5 ** sum(step > milestone for milestone in self.milestones))


PRESETS: dict[str, Preset] = {
    "paper": Preset(about="The paper: 512, 800,000 steps of 12 images, a frozen StyleGAN2 prior."),
    "official": Preset(
        about="The official configuration file: as the paper, wider degradation, a style loss, earlier milestones.",
        milestones=(600_000, 700_000),
        losses=LossWeights(style=50.0),
        degradation=OFFICIAL,
    ),
    "compact": Preset(
        about="A small network at 256 that trains in hours, from nothing, on heavily degraded images.",
        layout="clean",
        size=256,
        narrow=0.25,
        channel_multiplier=2.0,
        style_dim=128,
        mlp_layers=2,
        component_width=16,
        input_share=0.5,
        color_radius=5,
        start="nothing",
        train_decoder=True,
        decoder_noise=False,
        batch_size=8,
        steps=3_000,
        learning_rate=3e-4,
        betas=(0.5, 0.99),
        max_grad_norm=2.0,
        discriminator_learning_rate=2e-3,
        component_learning_rate=1e-2,
        milestones=(1_800, 2_600),
        discriminator_start_step=1_200,
        losses=LossWeights(reconstruction=1.0, perceptual=0.02, adversarial=0.1, components=0.1,
                           component_style=20.0, identity=0.8),
        perceptual_network="vgg16",
        identity_network="dlib",
        perceptual_crop=128,
        r1_gamma=1.6,
        pyramid_until=None,
        degradation=OLD_PRINTS,
        jitter=0.03,
        exports_half=True,
    ),
    "finetune": Preset(
        about="Goes on from a released clean model at a low rate; the discriminators learn first.",
        layout="clean",
        channel_multiplier=2.0,
        start="restorer",
        batch_size=4,
        steps=20_000,
        learning_rate=5e-5,
        discriminator_learning_rate=5e-4,
        component_learning_rate=5e-4,
        milestones=(15_000,),
        discriminator_warmup=1_000,
        losses=LossWeights(pyramid=0.0),  # released models left it behind long ago
    ),
}  # fmt: skip
"""The recipes by name. The rates of `compact` and `finetune` are this project's own; the paper trains neither."""

PRIOR_PRESETS: dict[str, Preset] = {
    **PRESETS,
    "compact": replace(
        PRESETS["compact"],
        about="A small StyleGAN2 that trains in hours: --size 32 first, then each time twice that from the last one.",
        batch_size=16,
        learning_rate=2e-4,
        discriminator_learning_rate=1.5e-3,
        milestones=(),
        r1_gamma=0.5,
        path_weight=0.0,
        mixing=0.5,
        ema_half_life=150.0,
        exports_half=False,
    ),
}  # fmt: skip
"""The recipes of the prior stage by name: those of the restorers that are made of them, but for the small one."""

SCANNED = DegradationOptions(
    kernel_size=13,
    isotropic_probability=0.7,
    sigma=(0.1, 1.8),
    downscale=(1.0, 1.6),
    noise=(0.0, 12.0),
    jpeg_quality=(35, 100),
    shift_probability=0.0,
    brightness=(0.8, 1.2),
    contrast=(0.7, 1.3),
    saturation=(0.5, 1.3),
    hue=(-0.02, 0.02),
    jitter_probability=0.3,
    gray_probability=0.15,
    aging=Aging(
        copy_probability=0.0,
        grain_probability=0.3,
        grain=(2.0, 14.0),
        grain_size=(0.0, 0.01),
        fading_probability=0.2,
        fading_black=(0.0, 0.15),
        fading_white=(0.8, 1.0),
        sepia_probability=0.2,
        sepia_strength=(0.2, 1.0),
        halftone_probability=0.0,
        scratch_probability=0.1,
        scratches=(1, 2),
        scratch_width=(0.005, 0.02),
        dust_probability=0.1,
        specks=(1, 6),
        speck_size=(0.004, 0.02),
        stain_probability=0.0,
    ),
)
"""What scanners and years did to photos, for patches of about 130 pixels: less than `HEAVY`, since it is seen at the
scan's own size."""

BACKGROUND_PRESETS: dict[str, Preset] = {
    "compact": Preset(
        about="A small network that enlarges by 2 on the CPU as real-esrgan-x4plus would.",
        size=64,
        start="nothing",
        batch_size=8,
        steps=5_700,
        learning_rate=1e-3,
        betas=(0.9, 0.99),
        milestones=(2_400, 3_400, 5_000, 5_300, 5_500),
        losses=LossWeights(reconstruction=1.0, perceptual=0.1, pyramid=0.0, adversarial=0.0, components=0.0,
                           component_style=0.0, identity=0.0),
        perceptual_network="vgg16",
        perceptual_crop=64,
        degradation=SCANNED,
        ema_half_life=100.0,
        distillation=Distillation(perceptual_start_step=2_800),
    ),
}  # fmt: skip
"""The recipes of the background stage by name; `size` is the side of the pieces of patches that a step sees."""
