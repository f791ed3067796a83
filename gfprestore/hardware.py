"""Device, precision and memory of this machine, as far as they are known without importing torch.

A run whose photos are all done needs no network, but the settings that it compares with the journal depend on the
device. The only module that imports psutil. Imports errors only.
"""

from __future__ import annotations

import ast
import ctypes
import importlib.util
import platform
import re
import sys
from pathlib import Path

import psutil

from gfprestore.errors import DeviceError

PRECISION_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Names of torch's floating-point types by those of `--precision`."""

CUDA_LIBRARIES = {"win32": "nvcuda.dll"}
"""The driver's library by platform; elsewhere it is `libcuda.so.1`."""


def probable_device(name: str = "auto") -> str | None:
    """Type of the device that torch will choose (`cuda`, `mps` or `cpu`), found without importing torch.

    It is what the driver reports. torch may still be unable to use it, for instance because the driver is too old.

    Args:
        name: `auto`, or a torch name such as `cpu`, `cuda`, `cuda:1`, `mps`.

    Returns:
        The type; None if the name is not a device of this machine, which torch then reports.
    """
    if name == "cpu":
        return "cpu"
    if name == "auto":
        if _cuda_devices() > 0:
            return "cuda"
        return "mps" if _has_mps() else "cpu"
    if name == "mps":
        return "mps" if _has_mps() else None
    number = re.fullmatch(r"cuda(?::(\d+))?", name)
    return "cuda" if number and int(number[1] or 0) < _cuda_devices() else None


def precision_for(name: str, device_type: str) -> str:
    """Name of torch's floating-point type of the networks, such as `float32`.

    `auto` is fp16 on CUDA (results are checked and run again in fp32 where half precision overflowed), fp32 elsewhere.

    Args:
        name: Value of `--precision`.
        device_type: `cuda`, `mps` or `cpu`.

    Raises:
        DeviceError: The name is unknown, or the device cannot compute in it.
    """
    if name == "auto":
        return "float16" if device_type == "cuda" else "float32"
    if name not in PRECISION_NAMES:
        raise DeviceError(f"--precision {name} is unknown. Use auto, fp32, fp16 or bf16.")
    if device_type == "cpu" and name == "fp16":
        raise DeviceError("--precision fp16 needs a GPU. Use fp32, or bf16 if the processor supports it (AMX, AVX512).")
    return PRECISION_NAMES[name]


def free_system_memory() -> int:
    """Bytes available for new allocations, within the limit of a container."""
    return min(int(psutil.virtual_memory().available), _container_headroom())


def total_system_memory() -> int:
    """Total memory of the system in bytes."""
    return int(psutil.virtual_memory().total)


def _cuda_devices() -> int:
    """Number of devices that the CUDA driver offers to this process; 0 if torch is built without CUDA and ROCm."""
    built_for = _torch_build()
    if built_for.get("hip"):
        return 1 if Path("/dev/kfd").exists() else 0
    if not built_for.get("cuda"):
        return 0
    try:
        driver = ctypes.CDLL(CUDA_LIBRARIES.get(sys.platform, "libcuda.so.1"))
        count = ctypes.c_int(0)
        if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return 0
    except (OSError, AttributeError):
        return 0
    return count.value


def _has_mps() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


def _torch_build() -> dict[str, str | None]:
    """Versions of CUDA and ROCm that torch is built for, read from its `version.py`."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return {}
    try:
        tree = ast.parse(Path(spec.origin).with_name("version.py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[str, str | None] = {}
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name) and isinstance(node.value, ast.Constant):
                found[target.id] = node.value.value if isinstance(node.value.value, str) else None
    return found


def _container_headroom() -> int:
    """Bytes left below the control group's memory limit (versions 2 and 1); unlimited if there is none."""
    for limit_file, usage_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            limit = Path(limit_file).read_text(encoding="ascii").strip()
            usage = Path(usage_file).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if limit != "max":
            return max(int(limit) - int(usage), 0)
    return 1 << 62
