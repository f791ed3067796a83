"""VGGS and CLIPS: by their definition with random weights, refused without theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from doubles import smooth
from safetensors.torch import save_file
from torch import nn

from gfprestore.errors import ExitCode, MetricUnavailable
from gfprestore.evaluation.metrics.opening import open_metric
from gfprestore.evaluation.metrics.similarity import CLIP_FILES, VGG_FILE
from gfprestore.networks.clip import CLIPImageEncoder
from gfprestore.tensors import pixels_to_signed
from gfprestore.weights.store import WeightsStore

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_files_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def random_clip(patch: int) -> CLIPImageEncoder:
    encoder = CLIPImageEncoder(patch=patch, grid=2, width=64, layers=1, embedding=16)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    return encoder


def save_clip(encoder: CLIPImageEncoder, path: Path) -> None:
    save_file({f"visual.{name}": tensor.contiguous() for name, tensor in encoder.state_dict().items()}, path)


def test_vggs_is_the_mean_cosine_of_relu5_4(tmp_path: Path) -> None:
    network = torchvision.models.vgg19(weights=None).features.eval()
    torch.save({f"features.{name}": tensor for name, tensor in network.state_dict().items()}, tmp_path / VGG_FILE)
    used: dict[str, str] = {}
    metric = open_metric("vggs", WeightsStore(tmp_path), CPU, weights_used=used)
    images, gts = [smooth(1, 48), smooth(2, 64), smooth(3, 8)], [smooth(4, 48), smooth(2, 64), smooth(5, 8)]
    first, second, third = metric.score(images, gts)  # type: ignore[union-attr]
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        one, other = (
            network[:36](((torch.from_numpy(image) / 255 - mean) / deviation).permute(2, 0, 1)[None])  # relu5_4 is 35
            for image in (images[0], gts[0])
        )
    assert one.shape == (1, 512, 3, 3)
    assert first == pytest.approx(float(F.cosine_similarity(one, other, dim=1).mean()), abs=1e-4)
    assert second == pytest.approx(1, abs=1e-5)
    assert np.isnan(third)
    assert list(used) == ["torchvision-vgg19"]


def test_clips_is_the_cosine_of_the_embeddings(tmp_path: Path) -> None:
    encoder = random_clip(32)
    save_clip(encoder, tmp_path / CLIP_FILES[1])
    metric = open_metric("clips", WeightsStore(tmp_path), CPU)
    same, other = metric.score([smooth(1, 64), smooth(1, 64)], [smooth(1, 64), smooth(2, 64)])  # type: ignore[union-attr]
    with torch.no_grad():
        embeddings = [encoder(pixels_to_signed(smooth(seed, 64)))[0] for seed in (1, 2)]
    assert same == pytest.approx(1, abs=1e-5)
    assert other == pytest.approx(float(F.cosine_similarity(embeddings[0], embeddings[1], dim=0)), abs=1e-4)


def test_without_their_weights_they_are_unavailable_with_the_remedy(tmp_path: Path) -> None:
    store = WeightsStore(tmp_path / "weights", offline=True)
    with pytest.raises(MetricUnavailable, match=f"{VGG_FILE}.*was not found") as vggs:
        open_metric("vggs", store, CPU)
    with pytest.raises(MetricUnavailable, match="no weights of CLIP.*Put model.safetensors of https://") as clips:
        open_metric("clips", store, CPU)
    assert vggs.value.exit_code == clips.value.exit_code == ExitCode.WEIGHTS


def test_other_weights_are_refused(tmp_path: Path) -> None:
    vgg16 = torchvision.models.vgg16(weights=None).features
    torch.save({f"features.{name}": tensor for name, tensor in vgg16.state_dict().items()}, tmp_path / VGG_FILE)
    save_clip(random_clip(16), tmp_path / CLIP_FILES[1])
    with pytest.raises(MetricUnavailable, match="is not torchvision's VGG-19"):
        open_metric("vggs", WeightsStore(tmp_path), CPU)
    with pytest.raises(MetricUnavailable, match="patches of 16 pixels"):
        open_metric("clips", WeightsStore(tmp_path), CPU)
