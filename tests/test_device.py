"""Memory as psutil reports it, within the limit of a container."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from gfprestore import device
from gfprestore.errors import DeviceError

CPU = torch.device("cpu")


@pytest.fixture
def eight_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 GiB with 8 GiB available."""
    memory = SimpleNamespace(available=8 << 30, total=16 << 30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


def with_files(monkeypatch: pytest.MonkeyPatch, texts: dict[str, str]) -> None:
    """Let `Path.read_text` see these control group files and no others."""

    def read(path: Path, **_options: object) -> str:
        if str(path) not in texts:
            raise FileNotFoundError(path)
        return texts[str(path)]

    monkeypatch.setattr(Path, "read_text", read)


def test_without_a_container_the_available_memory_is_the_systems(
    eight_gib: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_files(monkeypatch, {})
    assert device.free_memory(CPU) == 8 << 30
    assert device.total_memory(CPU) == 16 << 30


@pytest.mark.parametrize(
    ("limit", "usage"),
    [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ],
)
def test_the_limit_of_a_container_wins_where_it_is_lower(
    limit: str, usage: str, eight_gib: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_files(monkeypatch, {limit: f"{3 << 30}\n", usage: f"{1 << 30}\n"})
    assert device.free_memory(CPU) == 2 << 30
    with_files(monkeypatch, {limit: f"{300 << 30}\n", usage: f"{1 << 30}\n"})
    assert device.free_memory(CPU) == 8 << 30


def test_a_container_that_is_full_has_nothing_left(eight_gib: None, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/sys/fs/cgroup/memory.max": "1000", "/sys/fs/cgroup/memory.current": "2000"}
    with_files(monkeypatch, files)
    assert device.free_memory(CPU) == 0


@pytest.mark.parametrize(("name", "reason"), [("gpu0", "is not a device name"), ("meta", "is not supported")])
def test_a_device_that_cannot_be_used_is_named_with_those_that_can(name: str, reason: str) -> None:
    with pytest.raises(DeviceError, match=f"--device {name} {reason}.*auto, cpu, cuda"):
        device.choose_device(name)
