"""Device, precision and memory, and the random seed of a face.

What is known without torch is in `hardware`. Imports errors and hardware only.
"""

from __future__ import annotations

import hashlib

import torch

from gfprestore.errors import DeviceError
from gfprestore.hardware import free_system_memory, precision_for, total_system_memory


def choose_device(name: str = "auto") -> torch.device:
    """Choose the device to compute on.

    Args:
        name: `auto` (CUDA, else MPS, else CPU) or a torch name such as `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        DeviceError: The name is not a device name, or the device is not available.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"--device {name} is not a device name. Use auto, cpu, cuda, cuda:N or mps.") from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or (device.index or 0) >= count:
            raise DeviceError(
                f"--device {name} is not available: torch {torch.__version__} sees {count} CUDA device(s). "
                "Use --device auto or cpu; `gfprestore doctor` shows what was found."
            )
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError("--device mps is not available: it needs Apple silicon. Use --device auto or cpu.")
    elif device.type != "cpu":
        raise DeviceError(f"--device {name} is not supported. Use auto, cpu, cuda, cuda:N or mps.")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Choose the floating-point type of the networks.

    `auto` is fp16 on CUDA (results are checked and run again in fp32 where half precision overflowed), fp32 elsewhere.

    Raises:
        DeviceError: The name is unknown, or the device cannot compute in it.
    """
    dtype: torch.dtype = getattr(torch, precision_for(name, device.type))
    return dtype


def precision_name(dtype: torch.dtype) -> str:
    """Name of a floating-point type without its package, such as `float16`."""
    return str(dtype).removeprefix("torch.")


def free_memory(device: torch.device) -> int:
    """Bytes available for new allocations on `device`; on the CPU, within the limit of a container."""
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    return free_system_memory()


def total_memory(device: torch.device) -> int:
    """Total memory of `device` in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return total_system_memory()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, CUDA, MPS or numpy means that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text or "CUDNN_STATUS_ALLOC_FAILED" in text
    )


def release_memory(device: torch.device) -> None:
    """Return cached blocks to the device, so that a smaller attempt fits."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def face_seed(seed: int, photo: str, face: int) -> int:
    """63-bit seed of one face, which depends only on the seed of the run, the photo and the index of the face."""
    digest = hashlib.sha256(f"{seed}\0{photo}\0{face}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1
