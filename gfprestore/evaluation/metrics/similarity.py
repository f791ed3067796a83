"""VGGS and CLIPS: similarity of VGG features and of CLIP embeddings.

The FRRffusion paper names both and its readable part defines neither. These are our own definitions, and every report
says so. A score is a cosine: 1 for identical images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from gfprestore.errors import MetricUnavailable, WeightsMismatchError
from gfprestore.evaluation.metrics.batching import in_batches, mean_score, pairs, runs_of_one_size, signed_batch
from gfprestore.evaluation.metrics.specs import MetricSpec, Pixels
from gfprestore.files import sha256_of
from gfprestore.networks.clip import CLIPImageEncoder
from gfprestore.networks.vgg import VGGFeatures, config_from_state
from gfprestore.pixels import resized
from gfprestore.weights.checkpoints import load_state
from gfprestore.weights.store import WeightsStore

VGG_FILE = "vgg19-dcbb9e9d.pth"
VGG_LAYER = "conv5_4"
SMALLEST_SIDE = 16

CLIP_FILES = ("clip-vit-base-patch32.safetensors", "ViT-B-32.safetensors")
CLIP_PATCH = 32
CLIP_PAGE = "https://huggingface.co/openai/clip-vit-base-patch32"


@dataclass(frozen=True)
class VGGSimilarity:
    """Cosine of VGG-19's relu5_4 over channels, mean over space."""

    spec: MetricSpec
    network: VGGFeatures
    device: torch.device

    def score(self, restored: Sequence[Pixels], gt: Sequence[Pixels] | None) -> list[float]:
        """One cosine per image; NaN if a side is below 16 pixels."""
        scores: list[float] = []
        for run in runs_of_one_size(pairs(self.spec, restored, gt)):
            height, width = run[0][0].shape[:2]
            if min(height, width) < SMALLEST_SIDE:
                scores += [float("nan")] * len(run)
            else:
                scores += in_batches(self._cosines, run, 2 * height * width, self.device).tolist()
        return scores

    def summarize(self, scores: Sequence[float]) -> float:
        """Mean without NaN."""
        return mean_score(scores)

    def _cosines(self, both: Sequence[tuple[Pixels, Pixels]]) -> Tensor:
        one, other = (
            F.relu(self.network(signed_batch([pair[side] for pair in both], self.device))[VGG_LAYER]) for side in (0, 1)
        )  # (B, 512, H / 16, W / 16)
        return F.cosine_similarity(one, other, dim=1).flatten(1).mean(1)


@dataclass(frozen=True)
class CLIPSimilarity:
    """Cosine of CLIP's image embeddings."""

    spec: MetricSpec
    network: CLIPImageEncoder
    device: torch.device

    def score(self, restored: Sequence[Pixels], gt: Sequence[Pixels] | None) -> list[float]:
        """One cosine per image."""
        both = pairs(self.spec, restored, gt)
        if not both:
            return []
        size = self.network.size
        return in_batches(self._cosines, both, 2 * size**2, self.device).tolist()

    def summarize(self, scores: Sequence[float]) -> float:
        """Mean without NaN."""
        return mean_score(scores)

    def _cosines(self, both: Sequence[tuple[Pixels, Pixels]]) -> Tensor:
        size = self.network.size
        one, other = (
            self.network(signed_batch([resized(pair[side], size, size) for pair in both], self.device))
            for side in (0, 1)
        )
        return F.cosine_similarity(one, other, dim=1)


def open_vgg_similarity(
    spec: MetricSpec, store: WeightsStore, device: torch.device, used: dict[str, str]
) -> VGGSimilarity:
    """Load VGGS.

    Args:
        spec: `vggs`.
        store: Weights store searched for VGG-19, followed by torch's own folder.
        device: Device of the network.
        used: Receives the SHA-256 of the weights.

    Raises:
        MetricUnavailable: The weights are missing.
        WeightsError: They are damaged or from another network.
    """
    path = _find((VGG_FILE,), store)
    if path is None:
        raise MetricUnavailable(
            spec.label,
            f"{VGG_FILE}, torchvision's VGG-19, was not found in {_places(store)}.",
            "Run `gfprestore weights fetch vgg19`.",
        )
    state = load_state(path)
    config = config_from_state(state)
    if config is None or config.layout != "vgg19":
        raise WeightsMismatchError(f"{path} is not torchvision's VGG-19, which {spec.label} needs.")
    used["torchvision-vgg19"] = sha256_of(path)
    network = VGGFeatures.from_state(state, [VGG_LAYER]).to(device).to(memory_format=torch.channels_last)
    return VGGSimilarity(spec, network, device)


def open_clip_similarity(
    spec: MetricSpec, store: WeightsStore, device: torch.device, used: dict[str, str]
) -> CLIPSimilarity:
    """Load CLIPS.

    Args:
        spec: `clips`.
        store: Weights store searched for one of `CLIP_FILES`, followed by torch's own folder.
        device: Device of the network.
        used: Receives the SHA-256 of the weights.

    Raises:
        MetricUnavailable: The weights are missing.
        WeightsError: They are damaged or from another network.
    """
    path = _find(CLIP_FILES, store)
    if path is None:
        raise MetricUnavailable(
            spec.label,
            f"no weights of CLIP ViT-B/32 ({' or '.join(CLIP_FILES)}) were found in {_places(store)}.",
            f"Put model.safetensors of {CLIP_PAGE} into {store.folder} as {CLIP_FILES[0]}.",
        )
    try:
        network = CLIPImageEncoder.from_state(load_state(path))
    except ValueError as error:
        raise WeightsMismatchError(f"{path}: {error}. {spec.label} needs CLIP ViT-B/32.") from error
    if network.conv1.kernel_size != (CLIP_PATCH, CLIP_PATCH):
        raise WeightsMismatchError(
            f"{path} is CLIP with patches of {network.conv1.kernel_size[0]} pixels. {spec.label} needs ViT-B/32."
        )
    used["clip-vit-b-32"] = sha256_of(path)
    return CLIPSimilarity(spec, network.to(device), device)


def _find(names: Sequence[str], store: WeightsStore) -> Path | None:
    paths = (folder / name for name in names for folder in _folders(store))
    return next((path for path in paths if path.is_file()), None)


def _folders(store: WeightsStore) -> list[Path]:
    return [*store.folders, Path(torch.hub.get_dir()) / "checkpoints"]


def _places(store: WeightsStore) -> str:
    return ", ".join(map(str, _folders(store)))
