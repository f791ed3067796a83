"""Checkpoints and weights of a training: written atomically, read without running code from them.

`checkpoint.pt` holds everything that resuming needs. `restorer.safetensors` (or `prior.safetensors`) holds only the
moving average of the generator, under the official tensor names, with the network's sizes in the header.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from gfprestore._version import __version__
from gfprestore.errors import FolderError, WeightsDamagedError, WeightsMismatchError, WeightsMissingError
from gfprestore.files import whole_file

CHECKPOINT_NAME = "checkpoint.pt"
FORMAT = 1

Sizes = dict[str, int | float | str | bool | list[int]]
"""Values that must be equal for a checkpoint to fit, by name."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that resuming needs.

    Attributes:
        step: Number of finished steps.
        position: Number of images used from the endless stream.
        learning_rate_scale: Factor on the learning rates; rollbacks lower it.
        sizes: Sizes of the networks, see `Sizes`.
        recipe: State of networks and optimizers.
    """

    step: int
    position: int
    learning_rate_scale: float
    sizes: Sizes
    recipe: dict[str, Any]


def write_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint over the previous one, which is kept if writing fails.

    Raises:
        FolderError: The disk is full, or the folder is missing or not writable.
    """
    payload = {
        "format": FORMAT,
        "step": checkpoint.step,
        "position": checkpoint.position,
        "rate_scale": checkpoint.learning_rate_scale,
        "sizes": checkpoint.sizes,
        "recipe": checkpoint.recipe,
    }
    write_whole(path, lambda stream: torch.save(payload, stream))


def read_checkpoint(path: Path, sizes: Sizes) -> Checkpoint:
    """Read a checkpoint onto the CPU and check that it fits networks of these sizes.

    Args:
        path: A file written by `write_checkpoint`.
        sizes: Sizes of the networks that will load it.

    Raises:
        WeightsMissingError: The file does not exist.
        WeightsDamagedError: The file is not a training checkpoint, or is truncated.
        WeightsMismatchError: The checkpoint belongs to networks of other sizes.
    """
    advice = "Use another --output folder to start from the beginning, or delete the file."
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint = Checkpoint(
            int(payload["step"]),
            int(payload["position"]),
            float(payload["rate_scale"]),
            dict(payload["sizes"]),
            dict(payload["recipe"]),
        )
    except FileNotFoundError:
        raise WeightsMissingError(f"{path} does not exist.") from None
    except Exception as error:  # torch raises a dozen error types for files of other formats
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsDamagedError(f"{path} is damaged or is not a training checkpoint: {reason}. {advice}") from error
    if checkpoint.sizes != sizes:
        names = [name for name in {**sizes, **checkpoint.sizes} if sizes.get(name) != checkpoint.sizes.get(name)]
        names = ["stage"] if "stage" in names else names  # another stage has other sizes altogether
        differences = ", ".join(f"{name} {checkpoint.sizes.get(name)} instead of {sizes.get(name)}" for name in names)
        raise WeightsMismatchError(f"{path} belongs to another training: {differences}. {advice}")
    return checkpoint


def write_weights(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write the tensors of a network as a `.safetensors` file.

    Args:
        tensors: Tensors by name.
        metadata: Header of the file, see `weights_metadata`.
        path: Path of the file.
        dtype: Data type of the written floating-point tensors.

    Raises:
        FolderError: The disk is full, or the folder is missing or not writable.
    """
    plain = {
        name: tensor.detach()
        .to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)
        .contiguous(memory_format=torch.contiguous_format)
        .clone()
        for name, tensor in tensors.items()
    }
    content = safetensors_bytes(plain, dict(metadata))
    write_whole(path, lambda stream: stream.write(content))


def weights_metadata(
    network: str, sizes: Sizes, preset: str, step: int, more: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Header of an exported weights file.

    Args:
        network: Name of the network.
        sizes: Sizes of the network.
        preset: Name of the preset.
        step: Number of finished steps.
        more: Additional entries.
    """
    return {
        "network": network,
        **{name: json.dumps(value) for name, value in sizes.items()},
        "preset": preset,
        **(more or {}),
        "step": str(step),
        "trained_with": f"gfprestore {__version__}",
    }


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically: under a temporary name in the same folder, then moved into place.

    Args:
        path: Final path of the file.
        write: Function that writes the content to a stream.

    Raises:
        FolderError: The disk is full, or the folder is missing or not writable. The previous file is kept.
    """
    try:
        with whole_file(path) as stream:
            write(stream)
    except BaseException as error:
        cause = _writing_error(error)
        if cause is None:
            raise
        kept = " The previous file is kept." if path.exists() else ""
        raise FolderError(
            f"{path} cannot be written: {cause}.{kept} Free some disk space or repair the folder. "
            "Run the same command again to resume from the last checkpoint."
        ) from error


def _writing_error(error: BaseException) -> str | None:
    """Reason why a file cannot be written; None for errors that have nothing to do with writing."""
    found: BaseException | None = error
    while found is not None:  # torch wraps what the stream raised
        if isinstance(found, OSError):
            full = found.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
            return "the disk is full" if full else (found.strerror or str(found))
        found = found.__cause__ or found.__context__
    if isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error):
        return "the disk is full or not available"
    return None
