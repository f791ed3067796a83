"""`gfprestore train`: opens what a training needs and runs it, or tells what it would do.

Opens no network connection: weights that are not at hand are an error that names the command to fetch them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gfprestore.checkpoints import load_state
from gfprestore.device import choose_device, choose_precision, precision_name, total_memory
from gfprestore.errors import WeightsError
from gfprestore.networks import gfpgan
from gfprestore.networks.arcface import ArcFaceResNet18
from gfprestore.networks.dlib_resnet import DlibFaceRecogniser
from gfprestore.networks.gfpgan import GFPGAN, GFPGANConfig
from gfprestore.networks.vgg import VGGFeatures
from gfprestore.training.background import (
    BackgroundRecipe,
    open_student,
    open_teacher,
    student_config,
    teacher_name,
)
from gfprestore.training.checkpoint import CHECKPOINT_NAME
from gfprestore.training.config import LOSSES, TrainConfig
from gfprestore.training.critics import Critics, Start, arcface_critic, dlib_critic, open_critics, open_start
from gfprestore.training.dataset import FaceDataset, Sample
from gfprestore.training.distributed import World, joined_world
from gfprestore.training.gfpgan import RestorationRecipe
from gfprestore.training.loop import Batch, Progress, Recipe, Tell, TrainReport, fit
from gfprestore.training.losses import PERCEPTUAL_WEIGHTS
from gfprestore.training.pairs import (
    DistilledPairs,
    make_pairs,
    missing_parts,
    open_patches,
    pairs_folder,
    part_count,
    read_pairs,
)
from gfprestore.training.prior import PriorRecipe
from gfprestore.weights import WeightsStore

Row = tuple[str, str]


def train(
    config: TrainConfig,
    tell: Tell,
    progress: Callable[[Progress], None] = lambda progress: None,
    store: WeightsStore | None = None,
) -> TrainReport:
    """Trains as the config says; goes on from the output folder's checkpoint if it holds one.

    Under `torchrun` every process calls this; the first one writes and talks.

    Args:
        config: What to train.
        tell: Takes lines for people.
        progress: Takes what is to be shown, at every logged step.
        store: Where weights are looked for.

    Raises:
        UsageError: The batch cannot be shared by the processes.
        DeviceError: The device is not here, cannot compute in the precision, or has too little memory for the batch.
        FolderError: The data or the output folder cannot be used.
        WeightsError: What to start from, a loss's network or the checkpoint is missing, damaged or does not fit.
        TrainingDivergedError: The losses are no numbers, also at lower rates.
        TrainingInterruptedError: SIGINT or SIGTERM came; the checkpoint is written.
    """
    with joined_world(choose_device(config.device)) as (world, device):
        dtype = training_precision(config.precision, device)
        heard = tell if world.leads else lambda line: None
        store = store or WeightsStore()
        dataset = open_stream(config, store, device, world, heard)
        recipe = open_recipe(config, store, device, dtype, world, heard)
        with _settings_for_training(device):
            return fit(recipe, dataset, config, device, world=world, tell=tell, progress=progress)


def open_stream(
    config: TrainConfig, store: WeightsStore, device: torch.device, world: World, tell: Tell
) -> FaceDataset | DistilledPairs:
    """The stream of pictures of the config's stage; for the background, the teacher makes what is missing first.

    Raises:
        FolderError: The data or the output folder cannot be used.
        WeightsError: The teacher is needed and missing, damaged or of another network.
    """
    if config.stage != "background":
        dataset = open_data(config)
        tell(f"{dataset.count} pictures in {config.data}.")
        return dataset
    make_pairs(config, lambda: open_teacher(config, store, device), tell, world)
    world.any(False, device)  # all wait until the pairs are there
    pairs = read_pairs(config)
    tell(f"{pairs.count} pairs in {pairs_folder(config)}.")
    return pairs


def open_data(config: TrainConfig) -> FaceDataset:
    """The stream of faces.

    Raises:
        FolderError: The folder cannot be read, has no pictures, or knows nothing of eyes and mouths that a loss needs.
    """
    needs_boxes = config.stage == "restoration" and config.preset.losses.components > 0
    preset = config.preset
    degradation = None if config.stage == "prior" else preset.degradation
    return FaceDataset(config.data, preset.size, degradation, config.seed, boxes=needs_boxes, jitter=preset.jitter)


def open_recipe(
    config: TrainConfig,
    store: WeightsStore,
    device: torch.device,
    dtype: torch.dtype,
    world: World,
    tell: Tell,
) -> Recipe:
    """The networks and losses of the config's stage; says what is left out and what is started from.

    Raises:
        WeightsError: What to start from or a loss's network is missing, damaged or does not fit.
    """
    for name in config.left_out:
        tell(f"Without the loss {name!r} ({LOSSES[name]}), as asked.")
    resumes = _resumes(config)
    if config.stage == "background":
        student = open_student(config)
        if student is not None and not resumes:
            tell(f"Starting from {student.path}.")
        return BackgroundRecipe(config, student, open_critics(config, store), device, dtype, world)
    start = open_start(config, store)
    if start.path is not None and not resumes:
        tell(f"Starting from {start}.")
    if config.stage == "prior":
        return PriorRecipe(config, start, device, dtype, world)
    return RestorationRecipe(config, start, open_critics(config, store), device, dtype, world)


def training_precision(name: str, device: torch.device) -> torch.dtype:
    """What the networks compute in; `auto` is bfloat16 on CUDA where the card has it, else float16, float32 elsewhere.

    Raises:
        DeviceError: The name is unknown, or the device cannot compute in it.
    """
    if name == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return choose_precision(name, device)


@dataclass(frozen=True)
class Memory:
    """What a training needs on its device, in bytes.

    Attributes:
        weights: Of all networks.
        optimisers: Gradients, Adam's two moments and the moving average.
        activations: What the generator's backward pass keeps of the pictures that are computed together.
    """

    weights: int
    optimisers: int
    activations: int

    @property
    def total(self) -> int:
        """All of it; a real training adds some hundred megabytes of the device's own."""
        return self.weights + self.optimisers + self.activations


def plan(config: TrainConfig, store: WeightsStore | None = None) -> list[Row]:
    """What `train` would do, as rows of a name and a text; computes nothing and writes nothing.

    Files that are missing stand in the rows; everything else that would keep the training from starting is an error.

    Raises:
        DeviceError: The device is not here or cannot compute in the precision.
        FolderError: The data cannot be used.
    """
    preset = config.preset
    device = choose_device(config.device)
    dtype = training_precision(config.precision, device)
    if config.stage == "background":
        return _background_plan(config, store or WeightsStore(), device, dtype)
    dataset = open_data(config)
    memory = memory_needed(config, dtype)
    network = preset.network()
    epochs = preset.steps * preset.batch_size / dataset.count
    return [
        ("preset", f"{config.preset_name}: {preset.about}"),
        ("stage", config.stage + (f", ablation {config.ablation}" if config.ablation else "")),
        ("data", f"{dataset.count} pictures in {config.data}, each seen {epochs:.3g} times"),
        ("start", _start_row(config, store or WeightsStore())),
        ("network", f"layout {network.layout}, {network.size} pixels, "
                    f"channels {', '.join(map(str, network.channels))}"),
        ("steps", f"{preset.steps} of {preset.batch_size} pictures"),
        ("rates", f"generator {preset.rate:g}, discriminator {preset.discriminator_rate:g}, halved after "
                  f"{', '.join(map(str, preset.milestones)) or 'no step'}"),
        ("losses", _losses_row(config)),
        ("critics", _critics_row(config, store or WeightsStore())),
        ("device", f"{device}, {precision_name(dtype)}"),
        ("memory", f"{_gib(memory.total)} ({_gib(memory.weights)} weights, {_gib(memory.optimisers)} gradients, "
                   f"moments and average, {_gib(memory.activations)} activations); {device} has "
                   f"{_gib(total_memory(device))}"),
        ("output", f"{config.output}, {'goes on from its checkpoint' if _resumes(config) else 'starts anew'}"),
    ]  # fmt: skip


def _background_plan(config: TrainConfig, store: WeightsStore, device: torch.device, dtype: torch.dtype) -> list[Row]:
    """The rows of `plan` for the background stage."""
    preset, student = config.preset, student_config(config)
    patches = open_patches(config)
    teacher = teacher_name(config)
    is_here = store.find(teacher) is not None or store.path(teacher).is_file()
    return [
        ("preset", f"{config.preset_name}: {preset.about}"),
        ("stage", config.stage),
        ("data", f"{len(patches.photos)} photos in {config.data}"),
        ("teacher", teacher if is_here else f"MISSING: {teacher}. Run `gfprestore weights fetch {teacher}`."),
        ("pairs", f"{len(missing_parts(config))} of {part_count(config)} parts are to be made in "
                  f"{pairs_folder(config)}"),
        ("start", "random weights" if config.weights is None else str(config.weights)),
        ("network", f"SRVGGNetCompact x{student.scale}, {student.features} features, "
                    f"{student.convolutions} inner convolutions"),
        ("steps", f"{preset.steps} of {preset.batch_size} pieces of {preset.size} pixels"),
        ("rates", f"{preset.rate:g}, halved after {', '.join(map(str, preset.milestones)) or 'no step'}"),
        ("losses", _losses_row(config)),
        ("critics", _critics_row(config, store)),
        ("device", f"{device}, {precision_name(dtype)}"),
        ("output", f"{config.output}, {'goes on from its checkpoint' if _resumes(config) else 'starts anew'}"),
    ]  # fmt: skip


def memory_needed(config: TrainConfig, dtype: torch.dtype, processes: int = 1) -> Memory:
    """The device's memory that a training needs, counted on networks without content.

    What the patches of eyes and mouths take is little and not counted.

    Args:
        config: The training.
        dtype: What the networks compute in.
        processes: That share the batch.
    """
    share = max(1, config.preset.batch_size // (config.accumulate * processes))
    whole_faces = replace(config, preset=replace(config.preset, losses=config.preset.losses.without("components")))
    taught_by = _teacher_sizes(config)
    with FakeTensorMode():
        critics = _hollow_critics(config, taught_by)
        recipe: RestorationRecipe | PriorRecipe
        start = Start(config.preset.network(), {})
        if config.stage == "prior":
            recipe = PriorRecipe(whole_faces, start, torch.device("cpu"))
        else:
            recipe = RestorationRecipe(whole_faces, start, critics, torch.device("cpu"))
        activations = _activations(recipe, share) * dtype.itemsize // torch.float32.itemsize
    networks: list[nn.Module] = [recipe.generator, recipe.discriminator]
    fixed = critics.networks()
    if isinstance(recipe, RestorationRecipe) and config.preset.losses.components > 0:
        networks.append(recipe.component_discriminators)
    learning = sum(_bytes(item) for net in networks for item in net.parameters() if item.requires_grad)
    weights = sum(_bytes(item) for net in [*networks, *fixed] for item in net.state_dict().values())
    average = sum(_bytes(item) for item in recipe.average.state_dict().values())
    return Memory(weights, 3 * learning + average, activations)


def _activations(recipe: RestorationRecipe | PriorRecipe, share: int) -> int:
    """Bytes that the generator's backward pass keeps, each storage counted once."""
    kept: dict[int, int] = {}
    holders: list[Tensor] = []  # so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        holders.append(tensor)
        return tensor

    own = {item.untyped_storage()._cdata for item in recipe.generator.parameters()}
    size = recipe.network.size
    pictures = torch.empty(share, 3, size, size).contiguous(memory_format=torch.channels_last)
    batch = Batch(Sample(pictures, pictures, torch.zeros(share, 3, 4)), list(range(share)))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if isinstance(recipe, PriorRecipe):
            recipe.losses_of(batch)
        else:
            preset = recipe.preset
            recipe.losses_of(batch, max(preset.discriminator_warmup, preset.critics_after, preset.unet_after) + 1)
    return sum(size for storage, size in kept.items() if storage not in own)


def _teacher_sizes(config: TrainConfig) -> GFPGANConfig | None:
    """Of the teacher, where there is one that can be read; what is wrong with another is told by the plan's row."""
    if config.teacher is None or not config.preset.losses.distillation > 0:
        return None
    with contextlib.suppress(WeightsError):
        return gfpgan.config_from_state(load_state(config.teacher))
    return None


def _hollow_critics(config: TrainConfig, taught_by: GFPGANConfig | None = None) -> Critics:
    """The critics that the losses need, without content."""
    losses, layout = config.preset.losses, config.preset.perceptual_network
    if config.stage == "prior":
        return Critics()
    perceptual = None
    if losses.perceptual > 0 or losses.style > 0:
        perceptual = VGGFeatures(layout, list(PERCEPTUAL_WEIGHTS[layout])).requires_grad_(False)
    identity = None
    if losses.identity > 0:
        identity = (
            arcface_critic(ArcFaceResNet18().eval().requires_grad_(False))
            if config.preset.identity_network == "arcface"
            else dlib_critic(DlibFaceRecogniser().eval().requires_grad_(False))
        )
    teacher = None if taught_by is None else GFPGAN(taught_by).eval().requires_grad_(False)
    return Critics(perceptual, PERCEPTUAL_WEIGHTS[layout], identity, teacher)


def _start_row(config: TrainConfig, store: WeightsStore) -> str:
    try:
        start = open_start(config, store)
    except WeightsError as error:
        return f"MISSING: {error}"
    return str(start)


def _critics_row(config: TrainConfig, store: WeightsStore) -> str:
    try:
        critics = open_critics(config, store)
    except WeightsError as error:
        return f"MISSING: {error}"
    names: list[str] = [config.preset.perceptual_network] if critics.perceptual is not None else []
    names += [critics.identity.name] if critics.identity is not None else []
    names += [f"the teacher {config.teacher}"] if critics.teacher is not None else []
    return ", ".join(names) or "none needed"


def _losses_row(config: TrainConfig) -> str:
    if config.stage == "prior":
        path_length = f", path length x {config.preset.path_weight:g}" if config.preset.path_weight else ""
        return f"adversarial, R1 x {config.preset.r1_gamma:g}{path_length}"
    used = ", ".join(f"{name} x {weight:g}" for name, weight in config.preset.losses.used().items())
    return used + (f"; switched off: {', '.join(config.left_out)}" if config.left_out else "")


def _resumes(config: TrainConfig) -> bool:
    return (config.output / CHECKPOINT_NAME).exists()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB"


@contextlib.contextmanager
def _settings_for_training(device: torch.device) -> Iterator[None]:
    """Lets cuDNN choose its algorithms by trying; sizes never change here. Puts the setting back."""
    previous = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = previous
