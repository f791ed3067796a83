"""Sizes and options of the networks that a training states: they determine the shapes of all tensors.

Imports no torch, so that a training can be planned, and its options checked, before torch is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from gfprestore.networks.gaussian_diffusion import GaussianDiffusion

Layout = Literal["paper", "clean"]
Modulation = Literal["split", "all", "none"]
Schedule = Literal["linear", "cosine"]
Prediction = Literal["epsilon", "x0"]

DEFAULT_HEADS = 4
DEFAULT_GROUPS = 32
DEFAULT_TIMESTEPS = 1000
MAX_TIMESTEPS = 10000
"""A file that states more is damaged."""

ESTIMATOR_GROUPS = 8
"""Groups of the level estimator's normalization."""

FMAR, LEVEL_ESTIMATOR, HFDG = PARTS = ("fmar", "level_estimator", "hfdg")
"""Names of the parts, which are also the prefixes of their tensors."""


@dataclass(frozen=True)
class GFPGANConfig:
    """Configuration of a GFP-GAN; it determines the shapes of all tensors.

    Attributes:
        layout: `paper` or `clean`.
        channels: Channels of the prior at 4, 8, 16, ... up to the image's size, all even; the U-Net has half of
            each.
        style_dim: Length of a style code.
        mlp_layers: Layers of the prior's style network (not used to restore).
        different_w: Use one style code per layer of the prior; otherwise the same for all.
        modulation: Features that the U-Net modulates: half of the prior's channels (`split`, the paper's CS-SFT), all
            of them, or none (the paper's ablations).
        input_share: Fraction of its input that each part adds to its output: of the lq to the U-Net's images, of the
            U-Net's image to the restored one. 0 in the paper. Otherwise each part only learns the difference between a
            good image and its input, which takes far less training (residual learning: He et al., CVPR 2016;
            Zhang et al., IEEE TIP 2017). Stored in weights files as the tensor `input_share`.
        color_radius: Radius in pixels of the squares over which the mean colors of the restored image are matched to
            the lq, so that only finer colors come from the network: small networks get irises and lips wrong, and an lq
            has lost little of its colors. 0, as in the paper, disables this.
            Stored in weights files as the tensor `colour_radius`.

    Raises:
        ValueError: The channels are odd or too few for a size of 8; the share or the radius is out of range.
    """

    layout: Layout
    channels: tuple[int, ...]
    style_dim: int = 512
    mlp_layers: int = 8
    different_w: bool = True
    modulation: Modulation = "split"
    input_share: float = 0.0
    color_radius: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.input_share < 1:
            raise ValueError(f"input_share must be at least 0 and below 1, not {self.input_share}")
        if not 0 <= self.color_radius < self.size:
            raise ValueError(f"color_radius must be at least 0 and below {self.size}, not {self.color_radius}")
        if len(self.channels) < 2:
            raise ValueError(f"channels must have at least two numbers, for 4, 8 and so on, not {self.channels}")
        if any(count < 2 or count % 2 for count in self.channels):
            raise ValueError(f"channels must be even, because the U-Net has half of them, not {self.channels}")

    @classmethod
    def from_widths(
        cls,
        layout: Layout,
        *,
        size: int = 512,
        narrow: float = 1.0,
        channel_multiplier: float = 2,
        style_dim: int = 512,
        mlp_layers: int = 8,
        different_w: bool = True,
        modulation: Modulation = "split",
        input_share: float = 0.0,
        color_radius: int = 0,
    ) -> GFPGANConfig:
        """Configuration from the official options.

        Args:
            layout: `paper` or `clean`.
            size: Size of the images: 8, 16, ... 1024.
            narrow: Factor on all channels.
            channel_multiplier: Factor on the channels at 64 and more: 1 in the paper, 2 in releases 1.2 to 1.4.
            style_dim: See the attribute.
            mlp_layers: See the attribute.
            different_w: See the attribute.
            modulation: See the attribute.
            input_share: See the attribute.
            color_radius: See the attribute.

        Raises:
            ValueError: The size is not a power of two from 8 to 1024, or a number of channels is odd.
        """
        if size not in (8, 16, 32, 64, 128, 256, 512, 1024):
            raise ValueError(f"size must be a power of two from 8 to 1024, not {size}")
        resolutions = [4 << scale for scale in range(size.bit_length() - 2)]
        channels = tuple(
            int(512 * narrow) if resolution <= 32 else int(16384 // resolution * channel_multiplier * narrow)
            for resolution in resolutions
        )
        return cls(layout, channels, style_dim, mlp_layers, different_w, modulation, input_share, color_radius)

    @property
    def size(self) -> int:
        """Height and width of input and output images."""
        return 2 << len(self.channels)

    @property
    def unet_channels(self) -> tuple[int, ...]:
        """Channels of the U-Net at 4, 8, 16, ..."""
        return tuple(count // 2 for count in self.channels)


@dataclass(frozen=True)
class DiffusionUNetConfig:
    """Sizes and options of a conditional diffusion U-Net.

    Attributes:
        size: Side of the images in pixels.
        channels: Base number of channels.
        multipliers: Factor on the base per level, each level half the side of the one before.
        blocks: Residual blocks per level of the encoder.
        attention: Sides of the feature maps that have self-attention, beside the innermost block.
        heads: Attention heads, where `head_channels` is 0.
        head_channels: Channels per attention head; 0 where `heads` says their number.
        groups: Of all group normalizations.
        unshuffle: Side of the squares of pixels that are folded into channels at the input and unfolded at the output.
        coordinates: Three more input channels: x, y and the distance from the center.
        light_decoder: One residual block per level of the decoder, which gets the output of the encoder's last block of
            that level; by default the decoder has a block for every block and resampling layer of the encoder.
        prediction: What the network predicts: the noise (`epsilon`) or the clean image (`x0`).
        schedule: Of the diffusion that it is trained for.
        timesteps: Of that diffusion.
        residual: The network's output is added to the retouched image, which gives x0.
        prior_std: Standard deviation of x0 around the image that the output is added to; 0 for a plain sum.
        warp: A warp head moves the retouched image back before the output is added.
        levels: The levels of the six retouching operations are a second condition; level 0 gives the retouched image.

    Raises:
        ValueError: The sizes or options contradict one another.
    """

    size: int = 64
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (16, 8)
    heads: int = DEFAULT_HEADS
    head_channels: int = 0
    groups: int = DEFAULT_GROUPS
    unshuffle: int = 1
    coordinates: bool = False
    light_decoder: bool = False
    prediction: Prediction = "epsilon"
    schedule: Schedule = "linear"
    timesteps: int = DEFAULT_TIMESTEPS
    residual: bool = False
    prior_std: float = 0.0
    warp: bool = False
    levels: bool = False

    def __post_init__(self) -> None:
        counts = (self.size, self.channels, self.blocks, self.groups, self.unshuffle, len(self.multipliers))
        if min(*counts, *self.multipliers) < 1:
            raise ValueError("size, channels, multipliers, blocks, groups and unshuffle must be positive")
        if self.size % self.stride:
            raise ValueError(f"size must be a multiple of {self.stride}, not {self.size}")
        if self.channels % 2 or any(count % self.groups for count in self.level_channels):
            raise ValueError(f"channels must be even, and multiples of {self.groups} groups; not {self.level_channels}")
        if set(self.attention) - set(self.sides):
            raise ValueError(f"attention must be at some of the sides {self.sides}, not {self.attention}")
        per_head = self.head_channels or self.heads
        if self.heads < 1 or self.head_channels < 0 or any(count % per_head for count in self.attended):
            raise ValueError(f"{per_head} does not divide the channels {self.attended} into attention heads")
        if not 2 <= self.timesteps <= MAX_TIMESTEPS:
            raise ValueError(f"timesteps must be from 2 to {MAX_TIMESTEPS}, not {self.timesteps}")
        if not 0 <= self.prior_std <= 2:
            raise ValueError(f"prior_std must be from 0 to 2, not {self.prior_std}")
        if self.residual and self.prediction != "x0":
            raise ValueError("residual needs the prediction x0")
        if not self.residual and (self.warp or self.levels or self.prior_std > 0):
            raise ValueError("warp, levels and prior_std need residual")

    @property
    def stride(self) -> int:
        """Sides of images are multiples of this."""
        return self.unshuffle << (len(self.multipliers) - 1)

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of the feature maps, largest first."""
        return tuple(self.size // self.unshuffle >> level for level in range(len(self.multipliers)))

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of the feature maps, largest map first."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def attended(self) -> tuple[int, ...]:
        """Channels of the maps that have attention, the innermost block's last."""
        chosen = zip(self.sides, self.level_channels, strict=True)
        return (*(count for side, count in chosen if side in self.attention), self.level_channels[-1])

    def heads_of(self, channels: int) -> int:
        """Number of attention heads of a map with this many channels."""
        return channels // self.head_channels if self.head_channels > 0 else self.heads

    def diffusion(self) -> GaussianDiffusion:
        """The diffusion process that the network belongs to."""
        from gfprestore.networks.gaussian_diffusion import GaussianDiffusion

        return GaussianDiffusion(self.timesteps, self.schedule, self.prediction)


FMAR_64 = DiffusionUNetConfig()
"""Defaults of the authors' code."""

FMAR_256 = DiffusionUNetConfig(size=256, multipliers=(1, 1, 2, 2, 4, 4))
"""The same at the size that fits the second stage."""

FMAR_M = DiffusionUNetConfig(size=256, channels=64, multipliers=(1, 1, 2, 2, 4, 4), head_channels=64)
FMAR_S = DiffusionUNetConfig(
    size=256, channels=64, multipliers=(1, 1, 2, 2, 4, 4), blocks=1, attention=(16,), head_channels=64
)

FMAR_COMPACT = DiffusionUNetConfig(
    size=256,
    channels=32,
    multipliers=(2, 3, 4, 5),
    blocks=1,
    attention=(8,),
    groups=8,
    unshuffle=4,
    coordinates=True,
    light_decoder=True,
    prediction="x0",
    residual=True,
    prior_std=0.05,
    warp=True,
    levels=True,
)
"""Small enough to train on CPUs, with all options beyond the paper."""


@dataclass(frozen=True)
class HATConfig:
    """Sizes of a HAT.

    Attributes:
        scale: Output pixels per input pixel along a side: 3 or a power of two.
        embed_dim: Channels of the tokens.
        depths: Hybrid attention blocks per group.
        heads: Attention heads.
        window_size: Side of a window in pixels. Every second block is shifted by half of it.
        overlap_window_size: Side of the larger window around it whose pixels are keys and values.
        compress_ratio: Factor by which the convolutions beside the window attention narrow the channels.
        squeeze_factor: The same for the channel attention.
        mlp_ratio: Hidden features of a perceptron, as a multiple of `embed_dim`.
        features: Channels of the upsampling layers.

    Raises:
        ValueError: The sizes contradict one another.
    """

    scale: int = 4
    embed_dim: int = 180
    depths: tuple[int, ...] = (6, 6, 6, 6, 6, 6)
    heads: int = 6
    window_size: int = 16
    overlap_window_size: int = 24
    compress_ratio: int = 3
    squeeze_factor: int = 30
    mlp_ratio: float = 2.0
    features: int = 64

    def __post_init__(self) -> None:
        if self.scale < 1 or (self.scale != 3 and self.scale & (self.scale - 1)):
            raise ValueError(f"scale must be 3 or a power of two, not {self.scale}")
        if not self.depths or min(*self.depths, self.heads, self.features, self.window_size) < 1:
            raise ValueError("depths, heads, features and window_size must be positive")
        if self.embed_dim < 1 or self.embed_dim % self.heads:
            raise ValueError(f"embed_dim must be a multiple of {self.heads} heads, not {self.embed_dim}")
        if self.overlap_window_size < self.window_size or (self.overlap_window_size - self.window_size) % 2:
            raise ValueError("overlap_window_size must be window_size plus an even number of pixels")
        if not 1 <= self.compress_ratio <= self.embed_dim or not 1 <= self.squeeze_factor <= self.embed_dim:
            raise ValueError("compress_ratio and squeeze_factor must be from 1 to embed_dim")
        if self.mlp_features < 1:
            raise ValueError(f"mlp_ratio must be positive, not {self.mlp_ratio}")

    @property
    def mlp_features(self) -> int:
        """Hidden features of a perceptron."""
        return round(self.embed_dim * self.mlp_ratio)


HAT_S = HATConfig(embed_dim=144, compress_ratio=24, squeeze_factor=24)
HAT_BASE = HATConfig()
HAT_L = HATConfig(depths=(6,) * 12)
HFDG_S = HATConfig(embed_dim=60, depths=(4, 4, 4, 4), compress_ratio=12, squeeze_factor=12)
"""Not in the paper: smaller than HAT-S."""

NAMED_SIZES: dict[type, dict[str, object]] = {
    DiffusionUNetConfig: {"fmar-64": FMAR_64, "fmar-s": FMAR_S, "fmar-m": FMAR_M, "fmar": FMAR_256,
                          "fmar-compact": FMAR_COMPACT},
    HATConfig: {"hfdg-s": HFDG_S, "hat-s": HAT_S, "hat": HAT_BASE, "hat-l": HAT_L},
}  # fmt: skip
"""Sizes that a training can name, as in `--set reversal.hfdg=hat-s`."""


@dataclass(frozen=True)
class LevelEstimatorConfig:
    """Sizes of a level estimator.

    Attributes:
        channels: Of the feature maps at 1/4, 1/8, 1/16 ... of the image's side, multiples of 8.
        hidden: Features of the layer before the last.

    Raises:
        ValueError: A size is not positive, or the channels are not multiples of 8.
    """

    channels: tuple[int, ...] = (48, 64, 96, 128)
    hidden: int = 128

    def __post_init__(self) -> None:
        if (
            not self.channels
            or self.hidden < 1
            or any(count < 1 or count % ESTIMATOR_GROUPS for count in self.channels)
        ):
            raise ValueError(f"channels must be multiples of {ESTIMATOR_GROUPS}, and hidden positive; not {self}")


@dataclass(frozen=True)
class FRRffusionConfig:
    """Sizes of the parts; None for a part that is missing.

    Attributes:
        fmar: The diffusion model of the first stage.
        level_estimator: The estimator of the six levels of retouching.
        hfdg: The transformer of the second stage.

    Raises:
        ValueError: All parts are missing.
    """

    fmar: DiffusionUNetConfig | None = None
    level_estimator: LevelEstimatorConfig | None = None
    hfdg: HATConfig | None = None

    def __post_init__(self) -> None:
        if self.fmar is None and self.level_estimator is None and self.hfdg is None:
            raise ValueError("at least one part is needed")

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that are there."""
        return tuple(name for name in PARTS if getattr(self, name) is not None)


@dataclass(frozen=True)
class DamageUNetConfig:
    """Sizes of a DamageUNet.

    Attributes:
        channels: Of each level, from the finest to the coarsest; each has half the side of the one before.
        blocks: Residual blocks per level, in the encoder and in the decoder.
        unshuffle: Side of the squares of pixels that are folded into channels at the input.

    Raises:
        ValueError: A size is not positive, or there are fewer than two levels.
    """

    channels: tuple[int, ...] = (32, 48, 64, 96, 128)
    blocks: int = 1
    unshuffle: int = 2

    def __post_init__(self) -> None:
        if len(self.channels) < 2 or min(*self.channels, self.blocks, self.unshuffle) < 1:
            raise ValueError(
                f"channels must be two or more positive numbers, blocks and unshuffle positive; not {self}"
            )

    @property
    def stride(self) -> int:
        """The network computes sides that are multiples of this; others are padded."""
        return self.unshuffle << (len(self.channels) - 1)
