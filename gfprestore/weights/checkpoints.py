"""Checkpoint files: loaded without running code, and recognized by the names and shapes of their tensors.

Each network's module has a `config_from_state`, which recognizes its own state dicts and derives the sizes; `NETWORKS`
lists these networks. Errors name the network that a file nearly fits, or the unsupported network that it belongs to.
Formats are `.pth` (zip or legacy, with `params_ema`, `params`, `state_dict` or bare tensors) and `.safetensors`.
"""

from __future__ import annotations

import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gfprestore.errors import WeightsDamagedError, WeightsMismatchError, WeightsMissingError, WeightsUnsafeError
from gfprestore.files import sha256_of
from gfprestore.networks import damage_unet, frrffusion, gfpgan, rrdbnet, srvgg, stylegan2
from gfprestore.weights.table import Role

WRAPPERS = ("params_ema", "params", "state_dict")
"""Keys under which checkpoints store the tensors, best first: the moving average comes before the last step."""

ROLE_TITLES: dict[Role, str] = {
    "restorer": "face restorer",
    "background": "background network",
    "prior": "face prior",
    "damage": "damage detector",
}

MAPS_WEIGHTS = sys.platform != "win32"
"""Whether networks use the tensors of their file in place. Windows does not replace a file that is mapped."""

ALIGNMENT = 64
"""Bytes to whose multiples torch aligns memory."""

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"


@dataclass(frozen=True)
class NetworkKind:
    """A supported network.

    Attributes:
        title: Display name.
        role: Role of the network.
        clues: Tensor names unique to this network; one of them makes a file look like this network.
        config_from_state: Derives the sizes from a state dict; None for other networks.
        build: Builds the module from the sizes.
        name: Short name for the sizes.
        renamed: Gives the tensors the names that the module expects.
    """

    title: str
    role: Role
    clues: tuple[str, ...]
    config_from_state: Callable[[Mapping[str, Tensor]], Any]
    build: Callable[[Any], nn.Module]
    name: Callable[[Any], str]
    renamed: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict


NETWORKS: tuple[NetworkKind, ...] = (
    NetworkKind(
        title="GFP-GAN",
        role="restorer",
        clues=("stylegan_decoder.constant_input.weight", "condition_scale.0.0.weight"),
        config_from_state=gfpgan.config_from_state,
        build=gfpgan.GFPGAN,
        name=lambda config: f"gfpgan-{config.layout}",
    ),
    NetworkKind(
        title="FRRffusion",
        role="restorer",
        clues=("fmar.out.2.weight", "level_estimator.head.3.weight", "hfdg.conv_last.weight"),
        config_from_state=frrffusion.config_from_state,
        build=frrffusion.FRRffusion,
        name=lambda config: "frrffusion" if config.fmar and config.hfdg else f"frrffusion-{config.parts[0]}",
        renamed=frrffusion.prefixed,
    ),
    NetworkKind(
        title="StyleGAN2",
        role="prior",
        clues=("style_conv1.modulated_conv.weight",),
        config_from_state=stylegan2.config_from_state,
        build=stylegan2.StyleGAN2Generator.from_config,
        name=lambda config: f"stylegan2-{config.layout}",
    ),
    NetworkKind(
        title="RRDBNet (Real-ESRGAN)",
        role="background",
        clues=("body.0.rdb1.conv1.weight",),
        config_from_state=rrdbnet.config_from_state,
        build=rrdbnet.RRDBNet,
        name=lambda config: f"rrdbnet-x{config.scale}",
    ),
    NetworkKind(
        title="DamageUNet",
        role="damage",
        clues=("encoder.0.0.first.weight",),
        config_from_state=damage_unet.config_from_state,
        build=damage_unet.DamageUNet,
        name=lambda config: f"damage-unet-{len(config.channels)}",
    ),
    NetworkKind(
        title="SRVGGNetCompact (Real-ESRGAN)",
        role="background",
        clues=(),
        config_from_state=srvgg.config_from_state,
        build=srvgg.SRVGGNetCompact,
        name=lambda config: f"srvgg-x{config.scale}",
    ),
)

OTHER_NETWORKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a RetinaFace detector", ("ClassHead.0.conv1x1.weight", "LandmarkHead.0.conv1x1.weight")),
    ("a ParseNet face parser", ("out_mask_conv.conv2d.weight",)),
    ("a BiSeNet face parser", ("cp.resnet.conv1.weight",)),
    ("an ArcFace recognizer", ("fc5.weight", "bn5.weight")),
    ("the Inception network of the FID", ("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.conv.weight")),
    ("CodeFormer, which is not supported", ("quantize.embedding.weight", "position_emb")),
    ("RestoreFormer, which is not supported", ("vqvae.quantize.embedding.weight",)),
    ("a StyleGAN2 discriminator", ("conv_body.0.0.weight", "final_linear.0.weight")),
    ("a VGG classifier", ("features.0.weight", "classifier.0.weight")),
    ("an ESRGAN network in the old layout", ("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight")),
)
"""Networks that are neither a supported restorer, background network nor prior: description and identifying tensors."""


@dataclass(frozen=True)
class LoadedNetwork:
    """A network with its weights, ready for inference.

    Attributes:
        name: Short name by network and size, such as `gfpgan-clean` or `rrdbnet-x4`.
        role: Role of the network.
        module: The network in eval mode, float32, channels-last, without gradients.
        config: The network's config, derived from the shapes.
        path: The file.
        metadata: Metadata of a `.safetensors` file; empty for other formats.
        known_sha256: The file's SHA-256 if it is already verified; otherwise empty.
    """

    name: str
    role: Role
    module: nn.Module
    config: Any
    path: Path
    metadata: Mapping[str, str] = field(default_factory=dict)
    known_sha256: str = ""

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, computed on first access."""
        return self.known_sha256 or sha256_of(self.path)


def load_network(path: Path, role: Role | None = None) -> LoadedNetwork:
    """Load a checkpoint of any supported network.

    Args:
        path: A `.pth` or `.safetensors` file.
        role: Required role; None accepts any.

    Raises:
        WeightsMissingError: The file does not exist.
        WeightsDamagedError: The file is empty, truncated or not a checkpoint.
        WeightsUnsafeError: The file contains pickled code.
        WeightsMismatchError: The file belongs to another network, or does not fit its network completely.
    """
    return network_from_state(load_state(path), path, role, read_metadata(path))


def network_from_state(
    state: Mapping[str, Tensor], path: Path, role: Role | None = None, metadata: Mapping[str, str] | None = None
) -> LoadedNetwork:
    """Recognize a state dict and build its network.

    Args:
        state: Tensors by name, without prefix.
        path: The file they were loaded from; used in messages and kept as identity.
        role: Required role; None accepts any.
        metadata: Metadata of the file.

    Raises:
        WeightsMismatchError: No supported network fits the state dict exactly.
    """
    kind, config, state = _recognize(state, path, role)
    if role is not None and kind.role != role:
        raise WeightsMismatchError(
            f"{path} is {kind.title}, a {ROLE_TITLES[kind.role]}, not a {ROLE_TITLES.get(role, role)}."
        )
    try:
        with _Uninitialized():
            module = kind.build(config)
    except (RuntimeError, MemoryError, ValueError) as error:
        raise WeightsMismatchError(
            f"{path} looks like {kind.title}, but a network with its shapes cannot be built: {error}"
        ) from error
    misfit = _misfit(state, {name: tensor.shape for name, tensor in module.state_dict().items()})
    if misfit:
        raise WeightsMismatchError(f"{path} does not fit {kind.title} ({kind.name(config)}): {misfit}.")
    dtypes = {name: tensor.dtype for name, tensor in module.state_dict().items()}
    fitting = {name: _usable_in_place(tensor, dtypes[name]) for name, tensor in state.items()}
    module.load_state_dict(fitting, strict=True, assign=MAPS_WEIGHTS)
    module = module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return LoadedNetwork(kind.name(config), kind.role, module, config, path, dict(metadata or {}))


def load_state(path: Path) -> dict[str, Tensor]:
    """Load the tensors of a checkpoint on the CPU, memory-mapped if the format allows it.

    Args:
        path: A `.pth` or `.safetensors` file. If it has several sets of tensors, `params_ema` takes precedence over
            `params`, and `params` over `state_dict`. A prefix `module.` common to all names is removed.

    Raises:
        WeightsMissingError: The file does not exist.
        WeightsDamagedError: The file is empty, truncated or not a checkpoint.
        WeightsUnsafeError: The file contains pickled code, which was not run.
        WeightsMismatchError: The file contains no tensors.
    """
    head = _read_head(path)
    if _is_safetensors(head, path):
        loaded: Any = _load_safetensors(path)
    elif head.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
        loaded = _load_torch(path, head)
    else:
        raise WeightsDamagedError(f"{path} is not a checkpoint: {_guess(head)}. {_NEXT_STEP}")
    return _tensors_of(loaded, path)


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a `.safetensors` file; empty for other formats.

    Raises:
        WeightsMissingError: The file does not exist.
        WeightsDamagedError: The file is empty or its header is damaged.
    """
    if not _is_safetensors(_read_head(path), path):
        return {}
    with _open_safetensors(path) as file:
        return dict(file.metadata() or {})


def _usable_in_place(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor itself, mapped from its file, if a network can compute with it; otherwise a copy.

    Matrix products may round differently with memory that is not aligned as torch aligns it.
    """
    if tensor.dtype == dtype and tensor.is_contiguous() and tensor.data_ptr() % ALIGNMENT == 0:
        return tensor
    return torch.empty(tensor.shape, dtype=dtype).copy_(tensor)


class _Uninitialized(TorchFunctionMode):
    """Skips random initialization while modules are built, since the checkpoint overwrites it; ten times as fast."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if func is torch.randn:
            return torch.empty(*args, **kwargs)
        return func(*args, **kwargs)


_BROKEN = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
)
"""Errors that torch raises for unreadable files."""

_NEXT_STEP = "Download it again; for released files, run `gfprestore weights fetch NAME`."


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
    except FileNotFoundError:
        raise WeightsMissingError(f"{path} does not exist. Specify a .pth or .safetensors file.") from None
    except OSError as error:
        raise WeightsMissingError(
            f"{path} cannot be read: {error.strerror or error}. Specify a .pth or .safetensors file."
        ) from error
    if not head:
        raise WeightsDamagedError(f"{path} is empty. {_NEXT_STEP}")
    return head


def _is_safetensors(head: bytes, path: Path) -> bool:
    return path.suffix == ".safetensors" or (len(head) > 8 and head[8:9] == b"{" and not head.startswith(ZIP_MAGIC))


def _open_safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsDamagedError(f"{path} is truncated or not a .safetensors file: {error}. {_NEXT_STEP}") from error


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    with _open_safetensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def _load_torch(path: Path, head: bytes) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # rejected below
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=head.startswith(ZIP_MAGIC))
    except _BROKEN as error:
        raise _torch_error(path, head, error) from error


def _torch_error(path: Path, head: bytes, error: Exception) -> WeightsDamagedError | WeightsUnsafeError:
    """Distinguish code from damage by the text of the error, since torch raises the same types for both."""
    reason = str(error)
    found = re.search(r"GLOBAL ([\w.]+)", reason)
    if found:
        code = f"pickled Python code ({found[1]})"
    elif "TorchScript" in reason:
        code = "a TorchScript program"
    elif re.search(r"Unsupported class|unrecognized function|Can only build", reason) or (
        head.startswith(PICKLE_MAGIC) and head[1:2] > b"\2"  # torch writes protocol 2
    ):
        code = "pickled Python code"
    else:
        cause = "" if isinstance(error, pickle.UnpicklingError) or not reason else f" ({reason.splitlines()[0]})"
        return WeightsDamagedError(f"{path} is truncated, damaged or not a checkpoint{cause}. {_NEXT_STEP}")
    return WeightsUnsafeError(
        f"{path} contains {code}, which is never run. Use a checkpoint with tensors only, or a .safetensors file."
    )


def _guess(head: bytes) -> str:
    """Describe a file that is not a checkpoint by its first bytes."""
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, possibly a saved error or sign-in page"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself"
    return "it is text" if head.isascii() and b"\0" not in head else "its format is unknown"


def _tensors_of(loaded: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(loaded, Mapping):
        raise WeightsMismatchError(
            f"{path} contains an object of type {type(loaded).__name__} instead of named tensors."
        )
    inner = next((loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), loaded)
    state = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
    if not state:
        raise WeightsMismatchError(f"{path} contains no named tensors. Its entries are {_first(map(str, loaded))}.")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def _recognize(
    state: Mapping[str, Tensor], path: Path, role: Role | None
) -> tuple[NetworkKind, Any, Mapping[str, Tensor]]:
    """The network that a state dict belongs to, its sizes, and the tensors with the names that its module expects.

    Raises:
        WeightsMismatchError: No supported network fits.
    """
    for description, clues in OTHER_NETWORKS:
        if all(clue in state for clue in clues):
            wanted = f"a {ROLE_TITLES.get(role, role)}" if role else "a restorer, background network or prior"
            raise WeightsMismatchError(f"{path} is {description}, not {wanted}.")
    for kind in NETWORKS:
        renamed = kind.renamed(state)
        try:
            config = kind.config_from_state(renamed)
        except (ArithmeticError, LookupError, ValueError) as error:
            raise WeightsMismatchError(f"{path} looks like {kind.title}, but its shapes are inconsistent.") from error
        if config is not None:
            return kind, config, renamed
    for kind in NETWORKS:
        found = next((clue for clue in kind.clues if clue in state), None)
        if found is not None:
            raise WeightsMismatchError(
                f"{path} looks like {kind.title} (it has {found!r}), but tensors that determine its sizes are missing "
                f"or have the wrong shape. Its tensors are {_first(state)}."
            )
    known = ", ".join(kind.title for kind in NETWORKS)
    raise WeightsMismatchError(
        f"{path} does not belong to a supported network ({known}). Its tensors are {_first(state)}."
    )


def _misfit(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> str:
    """Describe why `state` does not fit; empty if it fits."""
    missing = [name for name in shapes if name not in state]
    unexpected = [name for name in state if name not in shapes]
    reshaped = [name for name in shapes if name in state and state[name].shape != shapes[name]]
    reasons = []
    if missing:
        reasons.append(f"{len(missing)} tensors missing, first {missing[0]!r}")
    if unexpected:
        reasons.append(f"{len(unexpected)} unexpected, first {unexpected[0]!r}")
    if reshaped:
        name = reshaped[0]
        reasons.append(
            f"{len(reshaped)} with the wrong shape, first {name!r} with {tuple(state[name].shape)} "
            f"instead of {tuple(shapes[name])}"
        )
    return "; ".join(reasons)


def _first(names: Iterable[str], most: int = 3) -> str:
    """The first few names and the number of remaining ones."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(map(repr, listed[:most])) + more if listed else "none"
