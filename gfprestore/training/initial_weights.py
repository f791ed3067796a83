"""Initial weights of a training: find, check and load priors, restorers and discriminators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from gfprestore.errors import WeightsMismatchError, WeightsMissingError
from gfprestore.networks import gfpgan
from gfprestore.networks.configs import GFPGANConfig
from gfprestore.networks.discriminators import StyleGAN2Discriminator
from gfprestore.networks.gfpgan import GFPGAN
from gfprestore.networks.stylegan2 import StyleGAN2Generator
from gfprestore.training.config import TrainConfig
from gfprestore.training.progressive_growing import (
    decoder_state,
    generator_size,
    grown_discriminator,
    grown_generator,
    reinitialize_modulation,
)
from gfprestore.training.requirements import OWN_PRIOR, RELEASED_PRIOR, released_start
from gfprestore.weights.checkpoints import load_state
from gfprestore.weights.store import WeightsStore

DISCRIMINATOR_NAME = "discriminator.safetensors"
"""File of the discriminator, written beside a trained prior or restorer."""

COMPONENTS_NAME = "component-discriminators.safetensors"
"""File of the discriminators of eyes and mouth, written beside a trained restorer."""


@dataclass(frozen=True)
class InitialWeights:
    """Initial weights of a training.

    Attributes:
        network: Sizes of the generator.
        state: Tensors of the generator by name; empty for random weights.
        kind: The network that `state` belongs to.
        path: File of `state`.
        discriminator_state: Tensors of the discriminator; empty for random weights.
        discriminator_path: File of `discriminator_state`.
        component_state: Tensors of the discriminators of eyes and mouth; empty for random weights.
        component_path: File of `component_state`.
        prior_state: Tensors of a prior that replaces the decoder of a restorer; empty to keep its decoder.
        prior_path: File of `prior_state`.
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
        """Kind and path, for messages."""
        if self.path is None:
            return "random weights"
        besides = {
            "the prior": self.prior_path,
            "the discriminator": self.discriminator_path,
            "the discriminators of eyes and mouth": self.component_path,
        }
        parts = [f"{what} {path}" for what, path in besides.items() if path is not None]
        text = f"the {self.kind} {self.path}"
        return f"{text} with {' and '.join(parts)}" if parts else text


def open_initial_weights(config: TrainConfig, store: WeightsStore) -> InitialWeights:
    """Load the files of `--weights` and `--prior`, or the released file that the preset starts from.

    Raises:
        WeightsMissingError: The file is missing.
        WeightsDamagedError: The file is damaged.
        WeightsMismatchError: The file is neither a StyleGAN2 prior nor a GFP-GAN, or has other sizes.
    """
    preset = config.preset
    prior = None if config.prior is None else _from_prior(config, config.prior, load_state(config.prior))
    is_prior_enough = prior is not None and preset.start == "prior"
    path = config.weights or (None if is_prior_enough else _released_path(config, store))
    if path is None:
        return prior or InitialWeights(preset.network(), {})
    state = load_state(path)
    found = gfpgan.config_from_state(state)
    if found is not None:
        restorer = _from_restorer(config, path, state, found)
        return restorer if prior is None else _with_prior(restorer, prior)
    if prior is not None:
        raise WeightsMismatchError(
            f"{path} is not a GFP-GAN, so its decoder cannot be replaced by the prior {prior.path}. "
            "Omit --weights or --prior."
        )
    return _from_prior(config, path, state)


def _with_prior(restorer: InitialWeights, prior: InitialWeights) -> InitialWeights:
    return replace(
        restorer,
        discriminator_state=prior.discriminator_state or restorer.discriminator_state,
        discriminator_path=prior.discriminator_path or restorer.discriminator_path,
        prior_state=prior.state,
        prior_path=prior.path,
    )


def _from_prior(config: TrainConfig, path: Path, state: Mapping[str, Tensor]) -> InitialWeights:
    """A prior of the training's size, or a smaller one if the added scales are trained."""
    if "constant_input.weight" not in state or "style_conv1.modulated_conv.weight" not in state:
        actual = "is neither a StyleGAN2 prior nor a GFP-GAN" if path == config.weights else "is not a StyleGAN2 prior"
        raise WeightsMismatchError(f"{path} {actual}, so it cannot be used as initial weights.")
    preset = config.preset
    size = generator_size(state)
    is_trained = config.stage == "prior" or preset.train_decoder
    if size > preset.size or (size < preset.size and not is_trained):
        grow = f", or grow it first: --stage prior --size {preset.size} --weights {path}" if size < preset.size else ""
        raise WeightsMismatchError(
            f"{path} is a prior of {size} pixels, but the training is at {preset.size}. Use --size {size}{grow}."
        )
    return _with_discriminators(InitialWeights(preset.network(), state, "prior", path), path)


def _with_discriminators(initial: InitialWeights, path: Path) -> InitialWeights:
    """Add the discriminators that are stored beside the file."""
    discriminator_path, component_path = path.with_name(DISCRIMINATOR_NAME), path.with_name(COMPONENTS_NAME)
    if discriminator_path.is_file():
        initial = replace(
            initial, discriminator_state=load_state(discriminator_path), discriminator_path=discriminator_path
        )
    if initial.kind == "restorer" and component_path.is_file():
        initial = replace(initial, component_state=load_state(component_path), component_path=component_path)
    return initial


def _from_restorer(config: TrainConfig, path: Path, state: Mapping[str, Tensor], found: GFPGANConfig) -> InitialWeights:
    preset = config.preset
    if found.size != preset.size:
        raise WeightsMismatchError(
            f"{path} restores faces of {found.size} pixels, but the training is at {preset.size}. "
            f"Use --size {found.size}."
        )
    if found.modulation != preset.modulation and config.stage == "restoration":
        raise WeightsMismatchError(
            f"{path} was trained with the modulation {found.modulation!r}, not {preset.modulation!r}. "
            "Start an ablation from a prior or from random weights."
        )
    if config.stage == "prior":
        return InitialWeights(preset.network(), decoder_state(state), "prior", path)
    return _with_discriminators(InitialWeights(found, state, "restorer", path), path)


def _released_path(config: TrainConfig, store: WeightsStore) -> Path | None:
    """The released file with the initial weights; None if the training starts from random weights."""
    name = None if config.stage == "prior" else released_start(config.preset)
    if name is None:
        return None
    own = "Or use your own restorer with --weights FILE." if name != RELEASED_PRIOR else f"Or {OWN_PRIOR}"
    return _path_of(store, name, own)


def _path_of(store: WeightsStore, name: str, alternative: str) -> Path:
    path = store.find(name)
    if path is None:
        raise WeightsMissingError(
            f"{name} is missing. Run `gfprestore weights fetch {name}` to download it. {alternative}"
        )
    return path


SAME_SIZES = "Use the preset that the file was trained with, or another file."
WITHOUT_IT = "Move the file away to start from random weights, or use other initial weights."


def load_initial_weights(generator: GFPGAN, initial: InitialWeights) -> None:
    """Load the initial weights of a training into its generator.

    Raises:
        WeightsMismatchError: The tensors do not fit.
    """
    if initial.kind == "prior":
        load_prior(generator.stylegan_decoder, initial)
    elif initial.kind == "restorer":
        load_strictly(generator, initial.state, initial.path, "the restorer of this training", SAME_SIZES)
    if initial.prior_state:
        _insert_prior(generator, initial)


def _insert_prior(generator: GFPGAN, initial: InitialWeights) -> None:
    """Replace the decoder of a restorer by the prior of the initial weights; see `reinitialize_modulation`.

    Raises:
        WeightsMismatchError: The tensors do not fit.
    """
    decoder = generator.stylegan_decoder
    state = {**decoder.state_dict(), **initial.prior_state}
    load_strictly(decoder, state, initial.prior_path, "the decoder of this restorer", SAME_SIZES)
    reinitialize_modulation(generator, generator_size(initial.prior_state))


def disable_noise(generator: StyleGAN2Generator) -> None:
    """Set the noise strengths of a generator to zero and freeze them."""
    for strength in generator.noise_strengths():
        strength.data.zero_()
        strength.requires_grad_(False)


def load_prior(generator: StyleGAN2Generator, initial: InitialWeights) -> None:
    """Load a prior; a smaller one is grown to the size of the generator.

    Raises:
        WeightsMismatchError: The tensors do not fit.
    """
    state = grown_generator(initial.state, generator)
    load_strictly(generator, state, initial.path, "the prior of this training", SAME_SIZES)


def load_discriminator(discriminator: StyleGAN2Discriminator, initial: InitialWeights) -> None:
    """Load the initial weights of the discriminator, if there are any; a smaller one is grown.

    Raises:
        WeightsMismatchError: The tensors do not fit.
    """
    if initial.discriminator_state:
        state = grown_discriminator(initial.discriminator_state, discriminator)
        path = initial.discriminator_path
        load_strictly(discriminator, state, path, "the discriminator of this training", WITHOUT_IT)


def load_component_discriminators(discriminators: nn.ModuleDict, initial: InitialWeights) -> None:
    """Load the initial weights of the discriminators of eyes and mouth, if there are any.

    Raises:
        WeightsMismatchError: The tensors do not fit.
    """
    if initial.component_state:
        name = "the discriminators of eyes and mouth of this training"
        load_strictly(discriminators, initial.component_state, initial.component_path, name, WITHOUT_IT)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: Path | None, name: str, advice: str) -> None:
    """Load tensors into a network.

    Args:
        module: The network.
        state: Tensors by name.
        path: File of the tensors, for the error message.
        name: Name of the network, for the error message.
        advice: Next step for the user, for the error message.

    Raises:
        WeightsMismatchError: A tensor is missing, unexpected, or has another shape.
    """
    try:
        module.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise WeightsMismatchError(
            f"{path} does not fit {name}: {lines[1].strip() if len(lines) > 1 else lines[0]} {advice}"
        ) from error
