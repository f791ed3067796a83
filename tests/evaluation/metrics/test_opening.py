"""Metrics by name: what is said of them, what is refused, LPIPS and ST-LPIPS as they are found."""

from __future__ import annotations

import csv
import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from samples import original, sample_image
from torch import nn

from gfprestore.errors import ExitCode, MetricUnavailable, UsageError
from gfprestore.evaluation.metrics import batching, lpips
from gfprestore.evaluation.metrics.opening import open_metric
from gfprestore.evaluation.metrics.specs import DEFAULT_METRICS, METRICS, REVERSAL_METRICS
from gfprestore.files import sha256_of
from gfprestore.networks.lpips import alex_lpips
from gfprestore.weights.store import WeightsStore
from gfprestore.weights.table import WEIGHTS_FILES

GOLDEN = Path(__file__).parents[2] / "golden" / "metrics.csv"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_files_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def alexnet_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any]]:
    """AlexNet with random weights under the name that its SHA-256 gives it, as torchvision would name it."""
    features = torchvision.models.AlexNet(num_classes=1).features
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    state = {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "alexnet.pth")
    path = folder / f"alexnet-owt-{sha256_of(folder / 'alexnet.pth')[:8]}.pth"
    (folder / "alexnet.pth").rename(path)
    monkeypatch.setitem(lpips.TORCHVISION_FILES, "lpips_alex", path.name)
    return path, state


def installed(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])


def test_every_metric_says_what_it_is() -> None:
    assert list(METRICS)[:13] == list(DEFAULT_METRICS) and len(METRICS) == 20
    assert set(METRICS) - set(DEFAULT_METRICS) < set(REVERSAL_METRICS) < set(METRICS)
    assert {"psnr", "psnr_matched", "ssim", "ssim_matched", "niqe", "lpips", "fid", "deg"} <= set(METRICS)
    for name, spec in METRICS.items():
        assert spec.name == name and spec.label and spec.protocol.endswith(".")
    assert [name for name, spec in METRICS.items() if spec.better == "higher"] == [
        *("psnr", "psnr_matched", "ssim", "ssim_matched", "psnr_capped", "vggs", "clips")
    ]
    assert [name for name, spec in METRICS.items() if spec.better == "one"] == ["texture"]
    assert [name for name, spec in METRICS.items() if spec.needs_face] == ["geometry", "tone", "texture"]
    assert all("not the paper's" in METRICS[name].protocol for name in ("vggs", "clips"))
    assert [name for name, spec in METRICS.items() if not spec.needs_gt] == ["fid", "niqe"]
    assert [name for name, spec in METRICS.items() if spec.of_set] == ["fid"]


def test_an_unknown_metric_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Unknown metric 'psrn'. Available metrics: fid, niqe, psnr, .*lmd"):
        open_metric("psrn", WeightsStore(tmp_path), CPU)


@pytest.mark.parametrize("name", ["psnr", "psnr_matched", "ssim", "ssim_matched", "niqe"])
def test_what_needs_nothing_is_always_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_arguments: None)
    metric: Any = open_metric(name, WeightsStore(tmp_path, offline=True), CPU)
    (score,) = metric.score([sample_image("chelsea-noisy")], [original("chelsea")])
    assert math.isfinite(score)


def test_what_is_missing_is_told_with_the_command_and_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_arguments: None)
    store = WeightsStore(tmp_path, offline=True)
    expected = {
        "lpips": r"LPIPS \(VGG\) is unavailable: the package lpips.* Run `pip install gfprestore\[eval\]`",
        "st_lpips": r"ST-LPIPS \(VGG\) is unavailable: the package stlpips-pytorch.*gfprestore\[eval\]",
        "deg": "Deg is unavailable: arcface-resnet18 was not found in .*gfprestore weights fetch arcface-resnet18",
        "fid": "FID is unavailable: inception-fid was not found in .*gfprestore weights fetch inception-fid",
        "lmd": r"gfprestore\[landmarks\]",
    }
    for name, message in expected.items():
        with pytest.raises(MetricUnavailable, match=message) as caught:
            open_metric(name, store, CPU)
        assert caught.value.exit_code == ExitCode.WEIGHTS
        assert caught.value.reason in str(caught.value) and caught.value.remedy in str(caught.value)


@pytest.mark.parametrize("name", ["lpips", "lpips_alex"])
def test_a_missing_backbone_is_told_with_the_command_that_fetches_it(name: str, tmp_path: Path) -> None:
    installed("lpips")
    with pytest.raises(MetricUnavailable) as caught:
        open_metric(name, WeightsStore(tmp_path, offline=True), CPU)
    file = lpips.TORCHVISION_FILES[name]
    (row,) = [row for row in WEIGHTS_FILES if row.file_name == file]
    assert caught.value.remedy == f"Run `gfprestore weights fetch {row.name}`."
    assert row.sha256.startswith(file.rsplit("-", 1)[1].removesuffix(".pth"))
    assert str(tmp_path / "torch" / "hub" / "checkpoints") in caught.value.reason


@pytest.mark.parametrize("place", ["weights", "torch/hub/checkpoints"])
def test_lpips_is_opened_with_torchvisions_backbone_and_the_packages_heads(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = installed("lpips") / "weights" / "v0.1" / "alex.pth"
    path, state = alexnet_file(tmp_path / place, monkeypatch)
    used: dict[str, str] = {}
    metric: Any = open_metric("lpips_alex", WeightsStore(tmp_path / "weights"), CPU, weights_used=used)
    assert used == {"lpips-heads-alexnet": sha256_of(heads), "torchvision-alexnet": sha256_of(path)}
    gt = original("coffee")[:80, :96]
    restored = [sample_image("coffee-noisy")[:80, :96], gt, gt[:70, :64], gt[:62]]
    scores = metric.score(restored, [gt, gt, sample_image("coffee-dim")[:70, :64], gt[:62]])
    reference = alex_lpips(state, torch.load(heads, map_location="cpu", weights_only=True))
    one, other = (torch.from_numpy(item).permute(2, 0, 1)[None] / 127.5 - 1 for item in (restored[0], gt))
    assert scores[0] == pytest.approx(float(reference(one, other)), rel=1e-4) and scores[0] > 0
    assert scores[1] == 0 and scores[2] > 0 and math.isnan(scores[3]), "too small for AlexNet"
    assert metric.summarize(scores) == pytest.approx((scores[0] + scores[2]) / 3)


def test_a_backbone_whose_hash_is_not_the_one_of_its_name_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("lpips")
    path, _ = alexnet_file(tmp_path, monkeypatch)
    torch.save({"features.0.weight": torch.zeros(1)}, path)
    with pytest.raises(MetricUnavailable, match="is not torchvision's file: its SHA-256 starts with"):
        open_metric("lpips_alex", WeightsStore(tmp_path), CPU)
    renamed = path.rename(path.with_name(f"alexnet-owt-{sha256_of(path)[:8]}.pth"))
    monkeypatch.setitem(lpips.TORCHVISION_FILES, "lpips_alex", renamed.name)
    with pytest.raises(MetricUnavailable, match="are not weights of LPIPS"):
        open_metric("lpips_alex", WeightsStore(tmp_path), CPU)


def test_st_lpips_equals_the_stored_distances_of_its_package(tmp_path: Path) -> None:
    installed("stlpips_pytorch")
    metric: Any = open_metric("st_lpips", WeightsStore(tmp_path, offline=True), CPU)
    with GOLDEN.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["metric"] == "st_lpips"]
    assert len(rows) == 8
    restored = [sample_image(row["picture"])[:96, :128] for row in rows]
    gt = [original(row["picture"].split("-")[0])[:96, :128] for row in rows]
    assert metric.score(restored, gt) == pytest.approx([float(row["value"]) for row in rows], rel=1e-4)


def test_sizes_numbers_and_kinds_that_differ_are_refused(tmp_path: Path) -> None:
    metric: Any = open_metric("ssim", WeightsStore(tmp_path), CPU)
    gt = original("camera")
    with pytest.raises(
        UsageError, match=r"SSIM needs images of the same size as their gt; image 1 of 1 is 288 x 380, its gt 288 x 384"
    ):
        metric.score([gt[:380]], [gt])
    with pytest.raises(UsageError, match="SSIM needs one gt per image: 2 images, 1 gt"):
        metric.score([gt, gt], [gt])
    with pytest.raises(UsageError, match="SSIM needs one gt per image: 1 images, 0 gt"):
        metric.score([gt], None)
    with pytest.raises(UsageError, match=r"image 1 of 1 is \(384, 288, 3\) uint16"):
        metric.score([gt.astype(np.uint16)], [gt])


def test_batches_grow_smaller_where_memory_runs_out_and_nothing_is_lost() -> None:
    sizes: list[int] = []

    def network(batch: Any) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return torch.tensor([[float(item)] for item in batch])

    result = batching.in_batches(network, list(range(7)), batching.PIXELS_AT_ONCE["cpu"] // 5, CPU)
    assert result.flatten().tolist() == list(range(7))
    assert sizes == [5, 2, 2, 2, 1]
    with pytest.raises(RuntimeError, match="broken"):
        batching.in_batches(lambda batch: (_ for _ in ()).throw(RuntimeError("broken")), [1], 1, CPU)  # type: ignore[arg-type]
