"""The plan of a training and its memory requirement, for `train --dry-run`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gfprestore.data.face_dataset import Sample, list_faces
from gfprestore.data.found_boxes import BoxIndex
from gfprestore.data.retouched_dataset import faces_to_enlarge
from gfprestore.device import choose_device, precision_name, total_memory
from gfprestore.errors import WeightsError
from gfprestore.networks import gfpgan
from gfprestore.networks.arcface import ArcFaceResNet18
from gfprestore.networks.configs import GFPGANConfig
from gfprestore.networks.damage_unet import DamageUNet
from gfprestore.networks.dlib_resnet import DlibFaceRecognizer
from gfprestore.networks.frrffusion import FRRffusion
from gfprestore.networks.gfpgan import GFPGAN
from gfprestore.networks.vgg import VGGFeatures
from gfprestore.training.background import student_config, teacher_name
from gfprestore.training.boxes import faces_without_boxes
from gfprestore.training.config import TrainConfig
from gfprestore.training.damage import open_damage_patches, open_detector
from gfprestore.training.distillation import (
    missing_parts,
    open_patches,
    pairs_folder,
    part_count,
)
from gfprestore.training.frrffusion import PART_TITLES, open_initial_parts
from gfprestore.training.gfpgan import RestorationRecipe
from gfprestore.training.initial_weights import InitialWeights, open_initial_weights
from gfprestore.training.loss_networks import LossNetworks, arcface_loss_network, dlib_loss_network, open_loss_networks
from gfprestore.training.losses import PERCEPTUAL_WEIGHTS
from gfprestore.training.prior import PriorRecipe
from gfprestore.training.recipe import Batch
from gfprestore.training.train import has_checkpoint, open_retouched, training_precision
from gfprestore.weights.checkpoints import load_state
from gfprestore.weights.store import WeightsStore

Row = tuple[str, str]


@dataclass(frozen=True)
class Memory:
    """Device memory that a training needs, in bytes.

    Attributes:
        weights: Weights of all networks.
        optimizers: Gradients, Adam's two moments and the moving average.
        activations: Tensors that the backward pass of the generator keeps for one part of a step.
    """

    weights: int
    optimizers: int
    activations: int

    @property
    def total(self) -> int:
        """Total memory, without the several hundred megabytes that the device itself needs."""
        return self.weights + self.optimizers + self.activations


def plan(config: TrainConfig, store: WeightsStore | None = None) -> list[Row]:
    """Describe a training in rows of a name and a text, without running it or writing files.

    Missing weights are reported in the rows. Everything else that prevents the training from starting is an error.

    Raises:
        DeviceError: The device is not available or does not support the precision.
        FolderError: The data cannot be used.
    """
    preset = config.preset
    device = choose_device(config.device)
    dtype = training_precision(config.precision, device)
    if config.stage == "background":
        return _background_plan(config, store or WeightsStore(), device, dtype)
    if config.stage in ("fmar", "hfdg"):
        return _reversal_plan(config, device, dtype)
    if config.stage == "damage":
        return _damage_plan(config, device, dtype)
    count = len(list_faces(config.data, want_boxes=False))
    memory = memory_needed(config, dtype)
    network = preset.network()
    epochs = preset.steps * preset.batch_size / count
    return [
        ("preset", f"{config.preset_name}: {preset.about}"),
        ("stage", config.stage + (f", ablation {config.ablation}" if config.ablation else "")),
        ("data", f"{count} images in {config.data}, each seen {epochs:.3g} times"),
        ("boxes", _boxes_row(config)),
        ("start", _initial_weights_row(config, store or WeightsStore())),
        ("network", f"layout {network.layout}, {network.size} pixels, "
                    f"channels {', '.join(map(str, network.channels))}"),
        ("steps", f"{preset.steps} of {preset.batch_size} images"),
        ("rates", f"generator {preset.learning_rate:g}, discriminator {preset.discriminator_learning_rate:g}, "
                  "halved after "
                  f"{', '.join(map(str, preset.milestones)) or 'no step'}"),
        ("losses", _losses_row(config)),
        ("critics", _loss_networks_row(config, store or WeightsStore())),
        ("device", f"{device}, {precision_name(dtype)}"),
        ("memory", f"{_gib(memory.total)} ({_gib(memory.weights)} weights, {_gib(memory.optimizers)} gradients, "
                   f"moments and average, {_gib(memory.activations)} activations); {device} has "
                   f"{_gib(total_memory(device))}"),
        ("output", f"{config.output}, {'resumes from its checkpoint' if has_checkpoint(config) else 'new training'}"),
    ]  # fmt: skip


def _background_plan(config: TrainConfig, store: WeightsStore, device: torch.device, dtype: torch.dtype) -> list[Row]:
    """The rows of `plan` for the background stage."""
    preset, student = config.preset, student_config(config)
    patches = open_patches(config)
    teacher = teacher_name(config)
    is_available = store.find(teacher) is not None or store.path(teacher).is_file()
    return [
        ("preset", f"{config.preset_name}: {preset.about}"),
        ("stage", config.stage),
        ("data", f"{len(patches.photos)} photos in {config.data}"),
        ("teacher", teacher if is_available else f"MISSING: {teacher}. Run `gfprestore weights fetch {teacher}`."),
        ("pairs", f"{len(missing_parts(config))} of {part_count(config)} part files are missing in "
                  f"{pairs_folder(config)}"),
        ("start", "random weights" if config.weights is None else str(config.weights)),
        ("network", f"SRVGGNetCompact x{student.scale}, {student.features} features, "
                    f"{student.convolutions} inner convolutions"),
        ("steps", f"{preset.steps} of {preset.batch_size} pieces of {preset.size} pixels"),
        ("rates", f"{preset.learning_rate:g}, halved after {', '.join(map(str, preset.milestones)) or 'no step'}"),
        ("losses", _losses_row(config)),
        ("critics", _loss_networks_row(config, store)),
        ("device", f"{device}, {precision_name(dtype)}"),
        ("output", f"{config.output}, {'resumes from its checkpoint' if has_checkpoint(config) else 'new training'}"),
    ]  # fmt: skip


def _reversal_plan(config: TrainConfig, device: torch.device, dtype: torch.dtype) -> list[Row]:
    """The rows of `plan` for the stages of FRRffusion."""
    preset = config.preset
    assert preset.reversal is not None
    network = preset.reversal_network(config.stage)
    with torch.device("meta"):
        counts = {name: sum(item.numel() for item in getattr(FRRffusion(network), name).parameters())
                  for name in network.parts}  # fmt: skip
    if config.stage == "fmar":
        data = f"{open_retouched(config).count} pairs in {config.data}"
        losses = ""
        if network.fmar is not None:
            target = "the noise" if network.fmar.prediction == "epsilon" else "x0"
            losses = f"mean squared error of {target}" if preset.reversal.loss == "mse" else f"weighted L1 of {target}"
            losses += f", field x {preset.reversal.field_weight:g}" if network.fmar.warp else ""
        if network.level_estimator is not None:
            losses += ", levels x 1" if losses else "levels x 1"
    else:
        data = f"{len(faces_to_enlarge(config.data))} faces in {config.data}"
        losses = "L1"
    try:
        initial = open_initial_parts(config)
        start = "random weights" if initial.path is None else str(initial.path)
    except WeightsError as error:
        start = f"MISSING: {error}"
    milestones = ", ".join(map(str, preset.milestones)) or "no step"
    decay = "lowered along a cosine" if preset.reversal.cosine else f"halved after {milestones}"
    return [
        ("preset", f"{config.preset_name}: {preset.about}"),
        ("stage", config.stage),
        ("data", data),
        ("start", start),
        ("network", ", ".join(f"{PART_TITLES[name]} {count:,} parameters" for name, count in counts.items())),
        ("steps", f"{preset.steps} of {preset.batch_size} images of {preset.size} pixels"),
        ("rates", f"{preset.learning_rate:g}, {decay}"),
        ("losses", losses),
        ("device", f"{device}, {precision_name(dtype)}"),
        ("output", f"{config.output}, {'resumes from its checkpoint' if has_checkpoint(config) else 'new training'}"),
    ]


def _damage_plan(config: TrainConfig, device: torch.device, dtype: torch.dtype) -> list[Row]:
    """The rows of `plan` for the stage damage."""
    preset, patches = config.preset, open_damage_patches(config)
    assert preset.damage is not None
    with torch.device("meta"):
        count = sum(item.numel() for item in DamageUNet(preset.damage.detector).parameters())
    try:
        detector = open_detector(config)
        start = "random weights" if detector is None else str(detector.path)
    except WeightsError as error:
        start = f"MISSING: {error}"
    return [
        ("preset", f"{config.preset_name}: {preset.about}"),
        ("stage", config.stage),
        ("data", f"{len(patches.photos)} photos in {config.data}, {patches.count} patches in an epoch, "
                 f"{preset.damage.clean:.0%} of them undamaged"),
        ("start", start),
        ("network", f"DamageUNet, {count:,} parameters"),
        ("steps", f"{preset.steps} of {preset.batch_size} patches of {preset.size} pixels"),
        ("rates", f"{preset.learning_rate:g}, lowered along a cosine"),
        ("losses", f"cross entropy x 1, overlap x {preset.damage.overlap_weight:g}"),
        ("device", f"{device}, {precision_name(dtype)}"),
        ("output", f"{config.output}, {'resumes from its checkpoint' if has_checkpoint(config) else 'new training'}"),
    ]  # fmt: skip


def memory_needed(config: TrainConfig, dtype: torch.dtype) -> Memory:
    """Device memory that a training needs, counted on fake tensors.

    The patches of eyes and mouths need little memory and are not counted.

    Args:
        config: Configuration of the training.
        dtype: Precision of the computation.
    """
    share = max(1, config.preset.batch_size // config.accumulate)
    whole_faces = replace(config, preset=replace(config.preset, losses=config.preset.losses.without("components")))
    teacher = _teacher_config(config)
    with FakeTensorMode():
        loss_networks = _fake_loss_networks(config, teacher)
        recipe: RestorationRecipe | PriorRecipe
        initial = InitialWeights(config.preset.network(), {})
        if config.stage == "prior":
            recipe = PriorRecipe(whole_faces, initial, torch.device("cpu"))
        else:
            recipe = RestorationRecipe(whole_faces, initial, loss_networks, torch.device("cpu"))
        activations = _activations(recipe, share) * dtype.itemsize // torch.float32.itemsize
    networks: list[nn.Module] = [recipe.generator, recipe.discriminator]
    fixed = loss_networks.networks()
    if isinstance(recipe, RestorationRecipe) and config.preset.losses.components > 0:
        networks.append(recipe.component_discriminators)
    trainable = sum(_bytes(item) for net in networks for item in net.parameters() if item.requires_grad)
    weights = sum(_bytes(item) for net in [*networks, *fixed] for item in net.state_dict().values())
    average = sum(_bytes(item) for item in recipe.average.state_dict().values())
    return Memory(weights, 3 * trainable + average, activations)


def _activations(recipe: RestorationRecipe | PriorRecipe, share: int) -> int:
    """Bytes that the backward pass of the generator keeps, each storage counted once."""
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # keeps every storage alive, so that no address is reused

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        alive.append(tensor)
        return tensor

    own = {item.untyped_storage()._cdata for item in recipe.generator.parameters()}
    size = recipe.network.size
    images = torch.empty(share, 3, size, size).contiguous(memory_format=torch.channels_last)
    batch = Batch(Sample(images, images, torch.zeros(share, 3, 4)), list(range(share)))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if isinstance(recipe, PriorRecipe):
            recipe.losses_of(batch)
        else:
            preset = recipe.preset
            recipe.losses_of(
                batch, max(preset.discriminator_warmup, preset.discriminator_start_step, preset.unet_start_step) + 1
            )
    return sum(size for storage, size in kept.items() if storage not in own)


def _teacher_config(config: TrainConfig) -> GFPGANConfig | None:
    """Sizes of the teacher; None without a readable teacher, which a row of the plan reports."""
    if config.teacher is None or not config.preset.losses.distillation > 0:
        return None
    with contextlib.suppress(WeightsError):
        return gfpgan.config_from_state(load_state(config.teacher))
    return None


def _fake_loss_networks(config: TrainConfig, teacher_config: GFPGANConfig | None) -> LossNetworks:
    """The loss networks of the losses in use, without loading weights."""
    losses, layout = config.preset.losses, config.preset.perceptual_network
    if config.stage == "prior":
        return LossNetworks()
    perceptual = None
    if losses.perceptual > 0 or losses.style > 0:
        perceptual = VGGFeatures(layout, list(PERCEPTUAL_WEIGHTS[layout])).requires_grad_(False)
    identity = None
    if losses.identity > 0:
        identity = (
            arcface_loss_network(ArcFaceResNet18().eval().requires_grad_(False))
            if config.preset.identity_network == "arcface"
            else dlib_loss_network(DlibFaceRecognizer().eval().requires_grad_(False))
        )
    teacher = None if teacher_config is None else GFPGAN(teacher_config).eval().requires_grad_(False)
    return LossNetworks(perceptual, PERCEPTUAL_WEIGHTS[layout], identity, teacher)


def _initial_weights_row(config: TrainConfig, store: WeightsStore) -> str:
    try:
        initial = open_initial_weights(config, store)
    except WeightsError as error:
        return f"MISSING: {error}"
    return str(initial)


def _boxes_row(config: TrainConfig) -> str:
    """Where the boxes of eyes and mouths come from.

    Raises:
        FolderError: The data or an index of boxes cannot be read.
    """
    if config.stage != "restoration" or not config.preset.losses.components > 0:
        return "not needed"
    paths = faces_without_boxes(config)
    if not paths:
        return "those of the data"
    index = BoxIndex(config.data, config.output)
    missing = len(paths) - len(index.boxes(paths))
    return f"found in the images and kept in {index.path}; {missing} of {len(paths)} images are left to search"


def _loss_networks_row(config: TrainConfig, store: WeightsStore) -> str:
    try:
        loss_networks = open_loss_networks(config, store)
    except WeightsError as error:
        return f"MISSING: {error}"
    names: list[str] = [config.preset.perceptual_network] if loss_networks.perceptual is not None else []
    names += [loss_networks.identity.name] if loss_networks.identity is not None else []
    names += [f"the teacher {config.teacher}"] if loss_networks.teacher is not None else []
    return ", ".join(names) or "none"


def _losses_row(config: TrainConfig) -> str:
    if config.stage == "prior":
        path_length = f", path length x {config.preset.path_weight:g}" if config.preset.path_weight else ""
        return f"adversarial, R1 x {config.preset.r1_gamma:g}{path_length}"
    used = ", ".join(f"{name} x {weight:g}" for name, weight in config.preset.losses.used().items())
    return used + (f"; switched off: {', '.join(config.disabled_losses)}" if config.disabled_losses else "")


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB"
