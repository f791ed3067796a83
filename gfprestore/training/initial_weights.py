"""Initial weights of a training: priors, restorers and discriminators, found, checked and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from gfprestore.errors import WeightsMismatchError, WeightsMissingError
from gfprestore.networks import gfpgan
from gfprestore.networks.discriminators import StyleGAN2Discriminator
from gfprestore.networks.gfpgan import GFPGAN, GFPGANConfig
from gfprestore.networks.stylegan2 import StyleGAN2Generator
from gfprestore.training.config import TrainConfig
from gfprestore.training.presets import Preset
from gfprestore.training.progressive_growing import (
    decoder_state,
    generator_size,
    grown_discriminator,
    grown_generator,
    steer_anew,
)
from gfprestore.weights.checkpoints import load_state
from gfprestore.weights.store import WeightsStore

DISCRIMINATOR_NAME = "discriminator.safetensors"
"""Beside a prior or a restorer of our own: what it was trained against."""

COMPONENTS_NAME = "component-discriminators.safetensors"
"""Beside a restorer of our own: the discriminators of eyes and mouth."""

RELEASED_PRIOR = "stylegan2-ffhq-512"
RELEASED_RESTORER = "gfpgan-1.4"


@dataclass(frozen=True)
class InitialWeights:
    """What a training starts from.

    Attributes:
        network: Sizes of the generator.
        state: Tensors by name; empty to start from random weights.
        kind: What they are of.
        path: The file.
        discriminator_state: Tensors of the discriminator that lay beside it; empty for random weights.
        discriminator_path: Its file.
        component_state: Tensors of the discriminators of eyes and mouth that lay there; empty for random weights.
        component_path: Their file.
        prior_state: Of a restorer: tensors of the prior that its decoder goes on from; empty to keep its own.
        prior_path: Its file.
    """

    network: GFPGANConfig
    state: Mapping[str, Tensor]
    kind: Literal["prior", "restorer", "nothing"] = "nothing"
    path: Path | None = None
    discriminator_state: Mapping[str, Tensor] = field(default_factory=dict)
    discriminator_path: Path | None = None
    component_state: Mapping[str, Tensor] = field(default_factory=dict)
    component_path: Path | None = None
    prior_state: Mapping[str, Tensor] = field(default_factory=dict)
    prior_path: Path | None = None

    def __str__(self) -> str:
        """For people: what it is and where it lies."""
        if self.path is None:
            return "random weights"
        besides = {
            "the prior": self.prior_path,
            "the discriminator": self.discriminator_path,
            "the discriminators of eyes and mouth": self.component_path,
        }
        parts = [f"{what} {path}" for what, path in besides.items() if path is not None]
        row = f"the {self.kind} {self.path}"
        return f"{row} with {' and '.join(parts)}" if parts else row


def open_initial_weights(config: TrainConfig, store: WeightsStore) -> InitialWeights:
    """What to start from: the files of `--weights` and `--prior`, else the released one that the preset asks for.

    Raises:
        WeightsMissingError: The file is not at hand.
        WeightsDamagedError: The file is damaged.
        WeightsMismatchError: It is neither a StyleGAN2 prior nor a GFP-GAN, or of other sizes.
    """
    preset = config.preset
    prior = None if config.prior is None else _prior_start(config, config.prior, load_state(config.prior))
    has_start = prior is not None and preset.start == "prior"
    path = config.weights or (None if has_start else _released(config, store))
    if path is None:
        return prior or InitialWeights(preset.network(), {})
    state = load_state(path)
    found = gfpgan.config_from_state(state)
    if found is not None:
        start = _restorer_start(config, path, state, found)
        return start if prior is None else _with_prior(start, prior)
    if prior is not None:
        raise WeightsMismatchError(f"{path} is no GFP-GAN, into which the prior {prior.path} could go. Leave one out.")
    return _prior_start(config, path, state)


def _with_prior(restorer: InitialWeights, prior: InitialWeights) -> InitialWeights:
    return replace(
        restorer,
        discriminator_state=prior.discriminator_state or restorer.discriminator_state,
        discriminator_path=prior.discriminator_path or restorer.discriminator_path,
        prior_state=prior.state,
        prior_path=prior.path,
    )


def _prior_start(config: TrainConfig, path: Path, state: Mapping[str, Tensor]) -> InitialWeights:
    """A prior of the training's size, or a smaller one where what is added to it can learn."""
    if "constant_input.weight" not in state or "style_conv1.modulated_conv.weight" not in state:
        neither = "is neither a StyleGAN2 prior nor a GFP-GAN" if path == config.weights else "is no StyleGAN2 prior"
        raise WeightsMismatchError(f"{path} {neither}, so no training starts from it.")
    preset = config.preset
    size = generator_size(state)
    learns = config.stage == "prior" or preset.train_decoder
    if size > preset.size or (size < preset.size and not learns):
        grow = f", or grow it first: --stage prior --size {preset.size} --weights {path}" if size < preset.size else ""
        raise WeightsMismatchError(
            f"{path} is a prior of {size} pixels, the training was to be at {preset.size}. Use --size {size}{grow}."
        )
    return _with_discriminators(InitialWeights(preset.network(), state, "prior", path), path)


def _with_discriminators(start: InitialWeights, path: Path) -> InitialWeights:
    """The start with the discriminators that lie beside its file."""
    discriminator_path, component_path = path.with_name(DISCRIMINATOR_NAME), path.with_name(COMPONENTS_NAME)
    if discriminator_path.is_file():
        start = replace(
            start, discriminator_state=load_state(discriminator_path), discriminator_path=discriminator_path
        )
    if start.kind == "restorer" and component_path.is_file():
        start = replace(start, component_state=load_state(component_path), component_path=component_path)
    return start


def _restorer_start(
    config: TrainConfig, path: Path, state: Mapping[str, Tensor], found: GFPGANConfig
) -> InitialWeights:
    preset = config.preset
    if found.size != preset.size:
        raise WeightsMismatchError(
            f"{path} restores faces of {found.size} pixels, the training was to be at {preset.size}. "
            f"Use --size {found.size}."
        )
    if found.modulation != preset.modulation and config.stage == "restoration":
        raise WeightsMismatchError(
            f"{path} was trained with the modulation {found.modulation!r}, not {preset.modulation!r}. "
            "Start an ablation from a prior or from nothing."
        )
    if config.stage == "prior":
        return InitialWeights(preset.network(), decoder_state(state), "prior", path)
    return _with_discriminators(InitialWeights(found, state, "restorer", path), path)


def _released(config: TrainConfig, store: WeightsStore) -> Path | None:
    """The released file to start from; None where the training starts from random weights."""
    preset = config.preset
    if config.stage == "prior" or preset.start == "nothing":
        return None
    if preset.start == "restorer":
        return _found(store, RELEASED_RESTORER, "Or name your own restorer by --weights FILE.")
    own = "rain a prior of your own (--stage prior) and name it by --weights FILE, or use --ablation no-prior."
    network = preset.network()
    released = Preset(about="").network()
    if (network.layout, network.channels) != (released.layout, released.channels):
        raise WeightsMissingError(f"no prior of {preset.size} pixels with these channels was released. T{own}")
    return _found(store, RELEASED_PRIOR, f"Or t{own}")


def _found(store: WeightsStore, name: str, otherwise: str) -> Path:
    path = store.find(name)
    if path is None:
        raise WeightsMissingError(f"{name} is not here. Run `gfprestore weights fetch {name}`. {otherwise}")
    return path


SAME_SIZES = "Name the preset that the file was trained with, or another file."
WITHOUT_IT = "Move the file away to begin with random weights, or start from other weights."


def load_initial_weights(generator: GFPGAN, start: InitialWeights) -> None:
    """Load the initial weights of a training into its generator."""
    if start.kind == "prior":
        load_prior(generator.stylegan_decoder, start)
    elif start.kind == "restorer":
        load_strictly(generator, start.state, start.path, "the restorer of this training", SAME_SIZES)
    if start.prior_state:
        _seat_prior(generator, start)


def _seat_prior(generator: GFPGAN, start: InitialWeights) -> None:
    """Has a restorer's decoder go on from the start's prior; see `steer_anew`.

    Raises:
        WeightsMismatchError: Its tensors do not fit.
    """
    decoder = generator.stylegan_decoder
    state = {**decoder.state_dict(), **start.prior_state}
    load_strictly(decoder, state, start.prior_path, "the decoder of this restorer", SAME_SIZES)
    steer_anew(generator, generator_size(start.prior_state))


def leave_out_noise(generator: StyleGAN2Generator) -> None:
    """Has a generator add no noise to its features, and never learn to."""
    for strength in generator.noise_strengths():
        strength.data.zero_()
        strength.requires_grad_(False)


def load_prior(generator: StyleGAN2Generator, start: InitialWeights) -> None:
    """Loads a start's prior, grown where it is a smaller one.

    Raises:
        WeightsMismatchError: Its tensors do not fit.
    """
    state = grown_generator(start.state, generator)
    load_strictly(generator, state, start.path, "the prior of this training", SAME_SIZES)


def load_discriminator(discriminator: StyleGAN2Discriminator, start: InitialWeights) -> None:
    """Loads the discriminator that a start was trained against, if one lies there, grown where it is smaller.

    Raises:
        WeightsMismatchError: Its tensors do not fit.
    """
    if start.discriminator_state:
        state = grown_discriminator(start.discriminator_state, discriminator)
        load_strictly(discriminator, state, start.discriminator_path, "the discriminator of this training", WITHOUT_IT)


def load_component_discriminators(discriminators: nn.ModuleDict, start: InitialWeights) -> None:
    """Loads the discriminators of eyes and mouth that a start was trained against, if they lie there.

    Raises:
        WeightsMismatchError: Their tensors do not fit.
    """
    if start.component_state:
        what = "the discriminators of eyes and mouth of this training"
        load_strictly(discriminators, start.component_state, start.component_path, what, WITHOUT_IT)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: Path | None, what: str, advice: str) -> None:
    """Loads tensors into a network; the advice is for whoever named a file that does not fit.

    Raises:
        WeightsMismatchError: Tensors are missing, left over, or of another shape.
    """
    try:
        module.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise WeightsMismatchError(
            f"{path} does not fit {what}: {lines[1].strip() if len(lines) > 1 else lines[0]} {advice}"
        ) from error
