"""Presets, losses and ablations: the published values, and the effect of options."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from gfprestore.data.degradation import OFFICIAL, OLD_PRINTS, PAPER
from gfprestore.errors import ExitCode, UsageError
from gfprestore.networks.configs import FMAR_M, FMAR_S, HAT_L, FRRffusionConfig
from gfprestore.networks.gfpgan import GFPGAN
from gfprestore.training.config import TrainConfig, TrainSettings, make_config
from gfprestore.training.overrides import ABLATIONS, ablated
from gfprestore.training.preset_table import PRESETS
from gfprestore.training.presets import LOSSES, LossWeights

SHARED = {"reconstruction", "pyramid", "adversarial"}


def config_of(preset: str = "paper", **options: Any) -> TrainConfig:
    known = TrainSettings.__dataclass_fields__
    settings = TrainSettings(**{name: options.pop(name) for name in list(options) if name in known})
    return make_config(Path("faces"), Path("out"), preset, settings, **options)


def test_the_papers_preset_has_the_papers_numbers() -> None:
    """Values of section 4.1 of the paper; batch size, R1 and EMA of the official configuration."""
    paper = PRESETS["paper"]
    assert (paper.size, paper.steps, paper.batch_size, paper.learning_rate) == (512, 800_000, 12, 2e-3)
    assert [paper.learning_rate_factor(step) for step in (1, 700_000, 700_001, 750_000, 750_001)] == [
        1,
        1,
        0.5,
        0.5,
        0.25,
    ]
    assert (paper.r1_gamma, paper.r1_every, paper.pyramid_until) == (10, 16, 50_000)
    assert 0.5 ** (1 / paper.ema_half_life) == pytest.approx(0.5 ** (32 / 10_000), rel=1e-12)
    assert (paper.degradation, paper.perceptual_network, paper.train_decoder) == (PAPER, "vgg19", False)
    assert paper.losses.used() == {
        "reconstruction": 0.1, "perceptual": 1, "pyramid": 1, "adversarial": 0.1, "components": 1,
        "component-style": 200, "identity": 10,
    }  # fmt: skip
    assert paper.network().channels == (512, 512, 512, 512, 256, 128, 64, 32), "channel multiplier 1"


def test_the_official_preset_differs_where_the_official_file_does() -> None:
    official = PRESETS["official"]
    assert official.milestones == (600_000, 700_000)
    assert official.degradation == OFFICIAL
    assert official.losses.style == 50
    same = replace(official, milestones=PRESETS["paper"].milestones, losses=LossWeights(), degradation=PAPER)
    assert replace(same, about="") == replace(PRESETS["paper"], about="")


def test_compact_is_a_small_network_for_old_prints_that_needs_no_prior() -> None:
    compact = PRESETS["compact"]
    assert (compact.size, compact.narrow, compact.channel_multiplier, compact.learning_rate) == (256, 0.25, 2, 3e-4)
    assert (compact.layout, compact.start, compact.degradation) == ("clean", "nothing", OLD_PRINTS)
    numbers = sum(parameter.numel() for parameter in GFPGAN(compact.network()).parameters())
    assert 4e6 < numbers < 6e6, "10 MB in half precision"
    assert (compact.identity_network, compact.perceptual_network) == ("dlib", "vgg16"), "what packages carry"
    used = compact.losses.used().keys()
    assert {"pyramid", "adversarial", "components", "component-style", "identity", "perceptual"} <= used


def test_the_small_prior_is_of_the_small_restorers_sizes_and_has_rates_of_its_own() -> None:
    prior = make_config(Path("faces"), Path("out"), "compact", stage="prior", size=32).preset
    restorer = PRESETS["compact"]
    assert prior.network().channels == restorer.network().channels[:4]
    assert (prior.decoder_noise, prior.path_weight, prior.exports_half) == (False, 0, False)
    assert prior.learning_rate < 3e-4, "the clean layout's plain weights of 0.03 move by a hundredth a step as it is"
    assert make_config(Path("faces"), Path("out"), "paper", stage="prior").preset == PRESETS["paper"]


def test_finetuning_spares_loaded_weights() -> None:
    finetune = PRESETS["finetune"]
    assert finetune.learning_rate <= 2e-3 / 20, "2e-3 destroys loaded weights"
    assert finetune.discriminator_warmup > 0
    assert finetune.network().channels == (512, 512, 512, 512, 512, 256, 128, 64), "channel multiplier 2"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_of_every_preset_is_one_option(name: str, preset: str) -> None:
    config = config_of(preset, ablation=name)
    assert config.ablation == name
    assert config.preset == ablated(PRESETS[preset], name)


def test_ablations_change_what_table_4_changes_and_nothing_else() -> None:
    paper = PRESETS["paper"]
    expected: dict[str, dict[str, Any]] = {
        "no-spatial-modulation": {"modulation": "none"},
        "plain-sft": {"modulation": "all"},
        "no-prior": {"start": "nothing", "train_decoder": True},
        "no-pyramid": {"losses": LossWeights(pyramid=0)},
        "no-components": {"losses": LossWeights(components=0, component_style=0)},
        "component-discriminator-only": {"losses": LossWeights(component_style=0)},
        "feature-matching": {"losses": LossWeights(component_style=0, component_matching=10)},
        "feature-style": {},
    }
    assert expected.keys() == ABLATIONS.keys()
    for name, change in expected.items():
        assert ablated(paper, name) == replace(paper, **change), name


def test_the_losses_have_one_name_in_the_weights_the_table_and_the_option() -> None:
    assert {item.name.replace("_", "-") for item in fields(LossWeights)} == set(LOSSES)


@pytest.mark.parametrize(
    ("without", "left"),
    [
        (["identity"], {*SHARED, "perceptual", "style", "components", "component-style"}),
        (["perceptual"], {*SHARED, "components", "component-style", "identity"}),
        (["components", "style"], {*SHARED, "perceptual", "identity"}),
        (["component-style", "perceptual", "identity"], {*SHARED, "components"}),
    ],
)
def test_a_loss_is_switched_off_with_what_hangs_on_it(without: list[str], left: set[str]) -> None:
    config = config_of("official", without=without)
    assert set(config.preset.losses.used()) == left
    assert config.disabled_losses == tuple(without)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"preset": "papers"},
            r"--preset papers is not a preset of the stage restoration. Use one of paper, official, compact, finetune",
        ),
        ({"stage": "both"}, "--stage both is unknown"),
        ({"stage": "prior", "prior": Path("p.safetensors")}, "--prior is only supported in the restoration stage"),
        (
            {"preset": "compact", "stage": "background", "teacher": Path("t.safetensors")},
            "--teacher is only supported in the restoration stage",
        ),
        ({"values": ["losses.distillation=3"]}, "Name its file with --teacher"),
        ({"without": ["gan"]}, "--without gan is unknown. Use one of reconstruction"),
        ({"ablation": "no-gan"}, "--ablation no-gan is unknown. Use one of no-spatial-modulation"),
        ({"perceptual_network": "alexnet"}, "vgg19 or vgg16, not alexnet"),
        ({"identity_network": "facenet"}, "arcface or dlib, not facenet"),
        ({"size": 500}, "power of two from 8 to 1024, not 500.*--size"),
        ({"steps": 0}, "--steps and --batch-size must be 1 or more"),
        ({"batch_size": -1}, "--steps and --batch-size must be 1 or more"),
        ({"accumulate": 0}, "--accumulate must be 1 or more"),
        ({"accumulate": 5}, "--accumulate 5 does not divide a batch of 12"),
        ({"save_every": 0}, "--save-every must be 1 or more"),
        ({"workers": -2}, "--workers must be 0 or more, not -2"),
    ],
)
def test_wrong_options_are_usage_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        config_of(**options)
    assert error.value.exit_code == ExitCode.USAGE


def test_the_weight_of_a_teacher_is_ten_times_that_of_the_reconstruction() -> None:
    losses = {name: config_of(name, teacher=Path("t.safetensors")).preset.losses for name in ("compact", "paper")}
    assert losses["compact"].used() == {**PRESETS["compact"].losses.used(), "distillation": 10.0}
    assert losses["paper"].distillation == pytest.approx(1.0)
    assert "distillation" not in config_of("compact").preset.losses.used()
    without = config_of("compact", teacher=Path("t.safetensors"), without=["distillation"])
    assert without.preset.losses == PRESETS["compact"].losses


def test_sizes_of_frrffusion_can_be_named() -> None:
    def reversal(*values: str, stage: str = "fmar") -> FRRffusionConfig:
        config = make_config(Path("pairs"), Path("out"), "frrffusion", stage=stage, values=values)
        return config.preset.reversal_network("fmar" if stage == "fmar" else "hfdg")

    assert reversal("reversal.fmar=fmar-s").fmar == FMAR_S
    assert reversal("reversal.fmar=fmar-m", "reversal.fmar.blocks=1").fmar == replace(FMAR_M, blocks=1)
    assert reversal("reversal.hfdg=hat-l", stage="hfdg").hfdg == HAT_L
    with pytest.raises(UsageError, match="must be one of hfdg-s, hat-s, hat, hat-l; or name one"):
        reversal("reversal.hfdg=fmar-s", stage="hfdg")


def test_any_value_of_the_preset_can_be_set() -> None:
    values = [
        "learning_rate=1e-4",
        "losses.identity=8",
        "milestones=100,200",
        "betas=0,0.9",
        "pyramid-until=70",
        "steps = 9",
    ]
    values += ["degradation.aging.grain=1,2", "degradation.clean-probability=0.5", "max_grad_norm=none"]
    preset = config_of("compact", values=[*values, "train_decoder=false", "start=prior"]).preset
    assert (preset.learning_rate, preset.losses.identity, preset.milestones, preset.betas) == (
        1e-4,
        8.0,
        (100, 200),
        (0.0, 0.9),
    )
    assert (preset.pyramid_until, preset.steps, preset.max_grad_norm, preset.start) == (70, 9, None, "prior")
    assert preset.degradation.aging is not None and preset.degradation.aging.grain == (1.0, 2.0)
    assert (preset.degradation.clean_probability, preset.train_decoder) == (0.5, False)
    assert config_of("compact", values=["milestones="]).preset.milestones == ()
    assert config_of("compact", values=["losses.identity=3"], without=["identity"]).preset.losses.identity == 0
    config = config_of("compact", values=["losses.distillation=3"], teacher=Path("t.safetensors"))
    assert config.preset.losses.distillation == 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("learning_rate", "--set learning_rate: Use the form NAME=VALUE"),
        ("rates=1", "rates is unknown. Use one of about, layout, size"),
        ("losses.gan=1", "--set losses.gan=1: gan is unknown. Use one of reconstruction, perceptual"),
        ("learning_rate.first=1", "learning_rate does not contain other values. Use learning_rate=VALUE"),
        ("learning_rate=fast", "--set learning_rate=fast: it must be a number, not 'fast'"),
        ("losses=1", "it contains several values; name one of them after a dot"),
        ("betas=0.5", "it must be 2 values, separated by commas"),
        ("layout=old", "it must be one of paper, clean, not old"),
        ("train_decoder=yes", "it must be one of true, false, not yes"),
        ("degradation.sigma=4,1", r"--set degradation.sigma=4,1: sigma must be a range"),
        ("learning_rate=-1", "learning rates must be above 0"),
        ("learning_rate=nan", "--set learning_rate=nan: it must be a number, not 'nan'"),
        ("losses.identity=-3", "losses.identity must be 0 or more, not -3"),
        ("steps=1e3", "--set steps=1e3: it must be an integer, not '1e3'"),
        ("ema-half-life=0", "--set ema-half-life=0: ema_half_life must be above 0, not 0"),
        ("max-grad-norm=-1", "max_grad_norm must be above 0, not -1"),
        ("betas=0,1", "betas must be 0 or more and below 1, not 0, 1"),
        ("component-width=0", "component_width must be 1 or more, not 0"),
        ("r1-every=0", "r1_every must be 1 or more, not 0"),
        ("unet-start-step=-1", "unet_start_step must be 0 or more, not -1"),
        ("mixing=1.5", "mixing must be from 0 to 1, not 1.5"),
        ("input-share=5", "input_share must be at least 0 and below 1, not 5"),
    ],
)
def test_an_invalid_value_is_an_error(value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config_of("compact", values=[value])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("patches=0", "patches must be 1 or more, not 0"),
        ("clean=-0.5", "clean must be from 0 to 1, not -0.5"),
        ("shrink=0,2", "shrink must be a range of factors of 1 or more, not 0, 2"),
    ],
)
def test_an_invalid_value_of_the_background_stage_is_an_error(value: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"--set distillation.{value}: {message}"):
        config_of("compact", stage="background", values=[f"distillation.{value}"])


def test_options_override_the_preset_and_leave_the_table_alone() -> None:
    config = config_of("compact", steps=7, batch_size=2, size=128, perceptual_network="vgg19")
    preset = config.preset
    assert (preset.steps, preset.batch_size, preset.size, preset.perceptual_network) == (7, 2, 128, "vgg19")
    assert preset.learning_rate == PRESETS["compact"].learning_rate
    assert (PRESETS["compact"].steps, PRESETS["compact"].size) == (3_000, 256)
