"""LPIPS and ST-LPIPS.

The linear heads of LPIPS (7 kB) are read as data from the package lpips, because importing it would load its training
code and three more libraries, and its backbones would still have to be downloaded. All weights of ST-LPIPS are read the
same way from the package stlpips-pytorch, whose module imports undeclared dependencies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gfprestore.errors import MetricUnavailable, WeightsMismatchError
from gfprestore.evaluation.metrics.batching import Averaged, in_batches, pairs, runs_of_one_size, signed_batch
from gfprestore.evaluation.metrics.specs import MetricSpec, Pixels
from gfprestore.files import sha256_of
from gfprestore.networks.lpips import LPIPS, alex_lpips, vgg_lpips
from gfprestore.packaged_files import packaged_file
from gfprestore.weights.checkpoints import load_state
from gfprestore.weights.store import WeightsStore

SMALLEST = {"lpips": 16, "lpips_alex": 63, "st_lpips": 32}
"""Smallest image side that the network supports, in pixels."""

TORCHVISION_FILES = {"lpips": "vgg16-397923af.pth", "lpips_alex": "alexnet-owt-7be5be79.pth"}
"""Torchvision's ImageNet backbones; the digits after the hyphen are the start of the file's SHA-256."""

_BUILDERS = {"lpips": "vgg16", "lpips_alex": "alexnet"}
_HEADS = {"lpips": Path("weights", "v0.1", "vgg.pth"), "lpips_alex": Path("weights", "v0.1", "alex.pth")}
_SHIFT_TOLERANT = Path("weights", "vST0.0", "vgg_shift_tolerant.pth")


@dataclass(frozen=True)
class PerceptualMetric(Averaged):
    """A variant of LPIPS."""

    spec: MetricSpec
    network: LPIPS
    device: torch.device

    def score(self, restored: Sequence[Pixels], gt: Sequence[Pixels] | None) -> list[float]:
        """One distance per image; NaN if the image is too small for the network."""
        scores: list[float] = []
        for run in runs_of_one_size(pairs(self.spec, restored, gt)):
            height, width = run[0][0].shape[:2]
            if min(height, width) < SMALLEST[self.spec.name]:
                scores += [float("nan")] * len(run)
            else:
                scores += in_batches(self._distances, run, 2 * height * width, self.device).tolist()
        return scores

    def _distances(self, both: Sequence[tuple[Pixels, Pixels]]) -> Tensor:
        restored, gt = (signed_batch([pair[side] for pair in both], self.device) for side in (0, 1))
        distances: Tensor = self.network(restored, gt)
        return distances


def open_lpips(spec: MetricSpec, store: WeightsStore, device: torch.device, used: dict[str, str]) -> PerceptualMetric:
    """Load LPIPS with VGG-16 or AlexNet.

    Args:
        spec: `lpips` or `lpips_alex`.
        store: Weights store searched for the backbone, followed by torch's own folder.
        device: Device of the network.
        used: Receives the SHA-256 of the backbone and of the heads.

    Raises:
        MetricUnavailable: The package lpips or the backbone is missing, or the backbone is another file.
        WeightsError: A file is damaged or from another network.
    """
    heads = packaged_file("lpips", _HEADS[spec.name])
    if heads is None:
        raise MetricUnavailable(
            spec.label, "the package lpips, which contains its linear heads, is not installed.", _advice("eval")
        )
    name, builder = TORCHVISION_FILES[spec.name], _BUILDERS[spec.name]
    backbone = _backbone(spec, name, store, builder)
    sha256 = sha256_of(backbone)
    if not sha256.startswith(name.rsplit("-", 1)[1].removesuffix(".pth")):
        raise MetricUnavailable(
            spec.label,
            f"{backbone} is not torchvision's file: its SHA-256 starts with {sha256[:8]}.",
            "Download it again.",
        )
    used[f"lpips-heads-{builder}"] = sha256_of(heads)
    used[f"torchvision-{builder}"] = sha256
    build = vgg_lpips if spec.name == "lpips" else alex_lpips
    return PerceptualMetric(spec, _built(build, backbone, heads, device), device)


def open_shift_tolerant(spec: MetricSpec, device: torch.device, used: dict[str, str]) -> PerceptualMetric:
    """Load ST-LPIPS with its VGG-16.

    Args:
        spec: `st_lpips`.
        device: Device of the network.
        used: Receives the SHA-256 of the weights.

    Raises:
        MetricUnavailable: The package stlpips-pytorch is not installed.
        WeightsError: Its file is damaged or from another network.
    """
    path = packaged_file("stlpips_pytorch", _SHIFT_TOLERANT)
    if path is None:
        raise MetricUnavailable(
            spec.label, "the package stlpips-pytorch, which contains its weights, is not installed.", _advice("eval")
        )
    used["st-lpips-vgg16"] = sha256_of(path)
    return PerceptualMetric(spec, _built(vgg_lpips, path, path, device), device)


def _built(build: Callable[..., LPIPS], backbone: Path, heads: Path, device: torch.device) -> LPIPS:
    state = load_state(backbone)
    try:
        network = build(state, state if heads == backbone else load_state(heads))
    except ValueError as error:
        raise WeightsMismatchError(f"{backbone} and {heads} are not weights of LPIPS: {error}.") from error
    return network.to(device).to(memory_format=torch.channels_last)


def _backbone(spec: MetricSpec, name: str, store: WeightsStore, builder: str) -> Path:
    folders = [*store.folders, Path(torch.hub.get_dir()) / "checkpoints"]
    found = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if found is None:
        raise MetricUnavailable(
            spec.label,
            f"{name}, torchvision's {builder}, was not found in {', '.join(map(str, folders))}.",
            f"Run `gfprestore weights fetch {builder}`.",
        )
    return found


def _advice(extra: str) -> str:
    return f"Run `pip install gfprestore[{extra}]`."
