"""The presets of every training stage."""

from __future__ import annotations

from dataclasses import replace

from gfprestore.data.aging import Aging
from gfprestore.data.degradation import DAMAGED, OFFICIAL, OLD_PRINTS, DegradationOptions
from gfprestore.networks.configs import FMAR_COMPACT, HATConfig, LevelEstimatorConfig
from gfprestore.training.presets import DamageDetection, Distillation, LossWeights, Preset, Reversal, Stage

PRESETS: dict[str, Preset] = {
    "paper": Preset(about="The paper: 512, 800,000 steps of 12 images, a frozen StyleGAN2 prior."),
    "official": Preset(
        about="The official configuration file: the paper with wider degradation, a style loss, earlier milestones.",
        milestones=(600_000, 700_000),
        losses=LossWeights(style=50.0),
        degradation=OFFICIAL,
    ),
    "compact": Preset(
        about="A small network at 256 that trains in hours, from random weights, on heavily degraded images.",
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
        about="Fine-tunes a released clean model at a low learning rate, after a warm-up of the discriminators.",
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
        losses=LossWeights(pyramid=0.0),  # the released models were trained beyond its last step
    ),
}  # fmt: skip
"""Presets of the restoration stage. The learning rates of `compact` and `finetune` are not from the paper."""

PRIOR_PRESETS: dict[str, Preset] = {
    **PRESETS,
    "compact": replace(
        PRESETS["compact"],
        about="A small StyleGAN2 that trains in hours: first with --size 32, then doubling the size with --weights.",
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
"""Presets of the prior stage: those of the restoration stage, with another `compact`."""

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
"""Degradation of scanned photos, for patches of about 130 pixels. Weaker than `HEAVY`, because the patches are shown at
the resolution of the scan."""

BACKGROUND_PRESETS: dict[str, Preset] = {
    "compact": Preset(
        about="A small network that enlarges by 2 on the CPU, distilled from real-esrgan-x4plus.",
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
"""Presets of the background stage; `size` is the side of the crops of patches in a step."""

HFDG_COMPACT = HATConfig(
    embed_dim=48, depths=(2, 2), heads=6, window_size=8, overlap_window_size=12, compress_ratio=4, squeeze_factor=12,
    features=32,
)  # fmt: skip
"""A HAT that two processor cores can train."""

NO_LOSSES = LossWeights(reconstruction=1.0, perceptual=0.0, pyramid=0.0, adversarial=0.0, components=0.0,
                        component_style=0.0, identity=0.0)  # fmt: skip

FMAR_PRESETS: dict[str, Preset] = {
    "frrffusion": Preset(
        about="The authors' code: plain conditional diffusion at 256, noise prediction, 1000 steps.",
        size=256,
        start="nothing",
        batch_size=8,
        steps=500_000,
        learning_rate=1e-4,
        betas=(0.9, 0.999),
        milestones=(),
        losses=NO_LOSSES,
        ema_half_life=6931.0,
        reversal=Reversal(),
    ),
    "frrffusion-compact": Preset(
        about="A small network with warp head, levels and level estimator, which two processor cores can train.",
        size=256,
        start="nothing",
        batch_size=8,
        steps=12_000,
        learning_rate=8e-4,
        betas=(0.9, 0.99),
        max_grad_norm=1.0,
        milestones=(),
        losses=NO_LOSSES,
        ema_half_life=346.0,
        exports_half=True,
        reversal=Reversal(
            fmar=FMAR_COMPACT,
            level_estimator=LevelEstimatorConfig(),
            hfdg=HFDG_COMPACT,
            loss="l1",
            early_share=0.65,
            weight_decay=1e-4,
            warmup=60,
            cosine=True,
        ),
    ),
}
"""Presets of the stage `fmar`. Batch and steps of the authors' training are unknown."""

HFDG_PRESETS: dict[str, Preset] = {
    "frrffusion": replace(
        FMAR_PRESETS["frrffusion"],
        about="HAT from scratch as its authors train it: patches of 256, 500,000 steps of 32 images.",
        batch_size=32,
        learning_rate=2e-4,
        betas=(0.9, 0.99),
        milestones=(250_000, 400_000, 450_000, 475_000),
        ema_half_life=693.0,
    ),
    "frrffusion-compact": replace(
        FMAR_PRESETS["frrffusion-compact"],
        about="A small HAT, which two processor cores can train.",
        size=128,
        steps=10_000,
        learning_rate=1e-3,
        reversal=replace(FMAR_PRESETS["frrffusion-compact"].reversal, drop_path=0.0, starts_enlarging=True),  # type: ignore[type-var]
    ),
}
"""Presets of the stage `hfdg`; `size` is the side of the patches after enlarging."""

DAMAGE_PRESETS: dict[str, Preset] = {
    "damage-compact": Preset(
        about="A small U-Net that finds scratches, cracks, tears and dust, which two processor cores can train.",
        size=256,
        start="nothing",
        batch_size=8,
        steps=12_000,
        learning_rate=1e-3,
        betas=(0.9, 0.99),
        max_grad_norm=1.0,
        milestones=(),
        losses=NO_LOSSES,
        degradation=DAMAGED,
        ema_half_life=346.0,
        exports_half=True,
        damage=DamageDetection(),
    ),
}
"""Presets of the stage `damage`; `size` is the side of the patches."""

STAGE_PRESETS: dict[Stage, dict[str, Preset]] = {
    "prior": PRIOR_PRESETS,
    "restoration": PRESETS,
    "background": BACKGROUND_PRESETS,
    "fmar": FMAR_PRESETS,
    "hfdg": HFDG_PRESETS,
    "damage": DAMAGE_PRESETS,
}
"""Presets by the stage that they train."""
