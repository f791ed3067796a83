"""Files of a training: written whole or not at all, read without running their code.

`checkpoint.pt` holds everything needed to go on; `restorer.safetensors` (or `prior.safetensors`) holds the moving
average of the generator alone, under the official names, with its sizes in the header.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from gfprestore.errors import FolderError, WeightsDamagedError, WeightsMismatchError, WeightsMissingError
from gfprestore.files import whole_file

CHECKPOINT_NAME = "checkpoint.pt"
FORMAT = 1

Sizes = dict[str, int | float | str | bool | list[int]]
"""What must be the same for a checkpoint to fit, by name."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything needed to go on.

    Attributes:
        step: Steps done.
        position: Images of the endless stream that were used.
        learning_rate_scale: What the learning rates were lowered by after losses that were no numbers.
        sizes: Of the networks, see `Sizes`.
        recipe: State of networks and optimizers.
    """

    step: int
    position: int
    learning_rate_scale: float
    sizes: Sizes
    recipe: dict[str, Any]


def write_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Writes a checkpoint over the previous one, which stays if anything fails.

    Raises:
        FolderError: The disk is full, or the folder is gone or locked.
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


def read_checkpoint(path: Path, sizes: Sizes, device: torch.device | None = None) -> Checkpoint:
    """Reads a checkpoint of networks of these sizes.

    Args:
        path: A file of `write_checkpoint`.
        sizes: Of the networks that it is for.
        device: Where its tensors go; the CPU by default.

    Raises:
        WeightsMissingError: There is no such file.
        WeightsDamagedError: The file is no checkpoint of a training, or is cut short.
        WeightsMismatchError: It belongs to networks of other sizes.
    """
    advice = "Name another --output to start anew, or take the file away."
    try:
        payload = torch.load(path, map_location=device or "cpu", weights_only=True)
        checkpoint = Checkpoint(
            int(payload["step"]),
            int(payload["position"]),
            float(payload["rate_scale"]),
            dict(payload["sizes"]),
            dict(payload["recipe"]),
        )
    except FileNotFoundError:
        raise WeightsMissingError(f"{path} does not exist.") from None
    except Exception as error:  # torch raises a dozen kinds for files that are none of its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsDamagedError(f"{path} is damaged or is no checkpoint of a training: {reason}. {advice}") from error
    if checkpoint.sizes != sizes:
        names = [name for name in {**sizes, **checkpoint.sizes} if sizes.get(name) != checkpoint.sizes.get(name)]
        differences = ", ".join(f"{name} {checkpoint.sizes.get(name)} instead of {sizes.get(name)}" for name in names)
        raise WeightsMismatchError(f"{path} belongs to another training: {differences}. {advice}")
    return checkpoint


def write_weights(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Writes a network's tensors as `.safetensors`, contiguous.

    Args:
        tensors: By name.
        metadata: What the file says about itself.
        path: The file.
        dtype: What the tensors are written in.

    Raises:
        FolderError: The disk is full, or the folder is gone or locked.
    """
    plain = {
        name: tensor.detach().to("cpu", dtype).contiguous(memory_format=torch.contiguous_format).clone()
        for name, tensor in tensors.items()
    }
    content = safetensors_bytes(plain, dict(metadata))
    write_whole(path, lambda stream: stream.write(content))


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Has a file written under a temporary name of the same folder, and moved into place when it is on the disk.

    Raises:
        FolderError: The disk is full, or the folder is gone or locked; what was at `path` is still there.
    """
    try:
        with whole_file(path) as stream:
            write(stream)
    except BaseException as error:
        cause = _writing_error(error)
        if cause is None:
            raise
        kept = "; the previous one is kept" if path.exists() else ""
        raise FolderError(f"{path} cannot be written: {cause}{kept}. Make room or mend the folder, then run again; "
                          "the training goes on from its last checkpoint.") from error  # fmt: skip


def _writing_error(error: BaseException) -> str | None:
    """What kept a file from being written, in words; None for errors that have nothing to do with writing."""
    found: BaseException | None = error
    while found is not None:  # torch wraps what the stream raised
        if isinstance(found, OSError):
            full = found.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
            return "the disk is full" if full else (found.strerror or str(found))
        found = found.__cause__ or found.__context__
    if isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error):
        return "the disk is full or gone"
    return None
