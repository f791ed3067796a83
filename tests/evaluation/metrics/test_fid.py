"""FID: the distance against pytorch-fid's, statistics read, computed and kept."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from samples import feature_sets, original
from torch import nn

from gfprestore.errors import FolderError, MetricUnavailable, UsageError, WeightsDamagedError, WeightsMismatchError
from gfprestore.evaluation.metrics import fid
from gfprestore.evaluation.metrics.fid import (
    FrechetDistance,
    Statistics,
    StatisticsSum,
    frechet_distance,
    load_statistics,
)
from gfprestore.evaluation.metrics.opening import open_metric
from gfprestore.evaluation.metrics.specs import METRICS
from gfprestore.files import sha256_of
from gfprestore.networks.inception import FEATURES, InceptionFeatures
from gfprestore.weights.store import WeightsStore
from gfprestore.weights.table import find_row

GOLDEN = Path(__file__).parents[2] / "golden" / "metrics.csv"
CPU = torch.device("cpu")
SETS = ["features-500-64", "features-200-16", "features-130-128"]


class TinyNetwork(nn.Module):
    """Stands in for Inception: the first features are the means of the channels, the others nought."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[1:] == (3, 299, 299)
        return nn.functional.pad(images.mean((2, 3)), (0, FEATURES - 3))


def statistics_of(values: NDArray[np.float32]) -> Statistics:
    return Statistics(values.astype(np.float64).mean(0), np.cov(values.astype(np.float64), rowvar=False))


def written(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(np.full((8 + number, 8, 3), 40 * number + 20, np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("name", SETS)
def test_the_distance_equals_the_stored_one_of_pytorch_fid(name: str) -> None:
    with GOLDEN.open(encoding="utf-8", newline="") as stream:
        (expected,) = [float(row["value"]) for row in csv.DictReader(stream) if row["picture"] == name]
    one, other = feature_sets(name)
    assert frechet_distance(statistics_of(one), statistics_of(other)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [500, 40])
@pytest.mark.filterwarnings("ignore")  # of scipy, which pytorch-fid calls as it was
def test_the_distance_equals_pytorch_fids_now_also_of_few_images(count: int) -> None:
    score: Any = pytest.importorskip("pytorch_fid.fid_score", exc_type=ImportError)
    one, other = (statistics_of(values[:count]) for values in feature_sets("features-500-64"))
    try:
        expected = score.calculate_frechet_distance(one.mean, one.covariance, other.mean, other.covariance)
    except (TypeError, ValueError) as error:
        pytest.skip(f"pytorch-fid does not run with this scipy: {error}")
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-3 if count < 64 else 1e-6)


def test_the_distance_of_gaussians_with_known_roots_is_arithmetic() -> None:
    one = Statistics(np.array([0.0, 1.0]), np.diag([4.0, 9.0]))
    other = Statistics(np.array([3.0, 5.0]), np.diag([1.0, 25.0]))
    assert frechet_distance(one, other) == pytest.approx(9 + 16 + (2 - 1) ** 2 + (3 - 5) ** 2)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_statistics_of_parts_are_those_of_the_whole() -> None:
    values, _ = feature_sets("features-200-16")
    total = StatisticsSum(16)
    for start in range(0, 200, 37):
        total.add(values[start : start + 37])
    expected = statistics_of(values)
    assert total.count == 200
    assert np.allclose(total.statistics().mean, expected.mean, rtol=1e-12)
    assert np.allclose(total.statistics().covariance, expected.covariance, rtol=1e-9, atol=1e-12)


def test_features_of_images_of_any_size_are_their_own_whoever_stands_beside() -> None:
    real = Statistics(np.zeros(FEATURES), np.eye(FEATURES))
    metric = FrechetDistance(METRICS["fid"], TinyNetwork(), CPU, real)  # type: ignore[arg-type]
    given = [np.full((9, 14, 3), 255, np.uint8), original("coffee"), np.zeros((400, 3, 3), np.uint8)]
    found = metric.features(given)
    assert found.shape == (3, FEATURES) and found.dtype == np.float32
    assert found[0, :3] == pytest.approx(1) and found[2, :3] == pytest.approx(-1)
    assert np.array_equal(metric.features(given[1:2])[0], found[1])
    assert metric.features([]).shape == (0, FEATURES)
    with pytest.raises(UsageError, match=r"8-bit RGB images.*image 1 of 1 is \(9, 14\) uint8"):
        metric.features([given[0][..., 0]])


def test_fewer_images_than_dimensions_are_warned_of_with_the_rank() -> None:
    metric = FrechetDistance(METRICS["fid"], TinyNetwork(), CPU, Statistics(np.zeros(1), np.eye(1)))  # type: ignore[arg-type]
    assert "FID of 180 images: their covariance has rank 179 at most, of 2048" in (metric.warning(180) or "")
    assert metric.warning(2048) is not None and metric.warning(2049) is None
    assert np.isnan(metric.value(np.zeros((1, 1), np.float32)))


@pytest.mark.parametrize("suffix", [".npz", ".pth"])
def test_statistics_files_of_both_kinds_are_read(tmp_path: Path, suffix: str) -> None:
    mean, covariance = np.linspace(0, 1, FEATURES, dtype=np.float32), np.eye(FEATURES)
    path = tmp_path / f"statistics{suffix}"
    if suffix == ".npz":
        np.savez(path, mu=mean, sigma=covariance)
    else:
        torch.save({"name": "FFHQ", "size": 512, "mean": mean, "cov": covariance}, path)
    found = load_statistics(path)
    assert np.array_equal(found.mean, mean.astype(np.float64)) and np.array_equal(found.covariance, covariance)


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_code_in_a_statistics_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"mean": Harm(tmp_path / "harm"), "cov": 0}, tmp_path / "bad.pth")
    np.savez(tmp_path / "bad.npz", mu=np.array([Harm(tmp_path / "harm")], object), sigma=np.eye(2))
    for name in ("bad.pth", "bad.npz"):
        with pytest.raises(WeightsDamagedError, match="is not a readable file of FID statistics"):
            load_statistics(tmp_path / name)
    assert not (tmp_path / "harm").exists()


def test_files_that_are_no_statistics_are_told(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_bytes(b"no archive")
    (tmp_path / "text.pth").write_bytes(b"no archive")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    torch.save([1, 2], tmp_path / "list.pth")
    np.savez(tmp_path / "small.npz", mu=np.zeros(64), sigma=np.eye(64))
    np.savez(tmp_path / "nan.npz", mu=np.full(FEATURES, np.nan), sigma=np.zeros((FEATURES, FEATURES)))
    for name in ("text.npz", "text.pth", "missing.npz", "missing.pth"):
        with pytest.raises(WeightsDamagedError, match=name):
            load_statistics(tmp_path / name)
    for name in ("other.npz", "list.pth"):
        with pytest.raises(WeightsMismatchError, match="neither mu and sigma nor mean and cov"):
            load_statistics(tmp_path / name)
    with pytest.raises(WeightsMismatchError, match=r"\(64,\) and \(64, 64\); the FID has 2048"):
        load_statistics(tmp_path / "small.npz")
    with pytest.raises(WeightsDamagedError, match="NaN or infinite statistics"):
        load_statistics(tmp_path / "nan.npz")


def test_statistics_of_a_folder_are_kept_until_the_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = written(tmp_path / "real", 4), tmp_path / "cache"
    monkeypatch.setattr(fid, "AT_ONCE", 3)
    seen: list[tuple[int, int]] = []

    def compute() -> tuple[Statistics, str]:
        return fid.folder_statistics(TinyNetwork(), folder, CPU, "a" * 64, cache, lambda *now: seen.append(now))  # type: ignore[arg-type]

    first, listed = compute()
    levels = (np.arange(4) * 40 + 20) / 127.5 - 1
    assert first.mean[:3] == pytest.approx(levels.mean(), rel=1e-5)
    assert first.covariance[:3, :3] == pytest.approx(levels.var(ddof=1), rel=1e-4)
    assert seen == [(3, 4), (4, 4)]
    again, same = compute()
    assert same == listed and len(seen) == 2 and np.array_equal(again.covariance, first.covariance)
    Image.new("RGB", (9, 9)).save(folder / "more.png")
    changed, other = compute()
    assert other != listed and changed.mean[0] < first.mean[0] and len(list(cache.iterdir())) == 2


def test_a_folder_of_one_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"contains 1 image\(s\)"):
        fid.folder_statistics(TinyNetwork(), written(tmp_path / "one", 1), CPU, "0")  # type: ignore[arg-type]


def test_fid_is_opened_with_verified_weights_and_given_statistics(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    row = find_row("inception-fid")
    torch.save(InceptionFeatures().state_dict(), weights / row.file_name)
    row = replace(row, sha256=sha256_of(weights / row.file_name), bytes=None)
    store = WeightsStore(weights, offline=True, table=(row,))
    with pytest.raises(
        MetricUnavailable, match="reference statistics are missing.*a folder of real faces to --statistics"
    ):
        open_metric("fid", store, CPU)
    np.savez(tmp_path / "real.npz", mu=np.zeros(FEATURES), sigma=np.zeros((FEATURES, FEATURES)))
    used: dict[str, str] = {}
    metric: Any = open_metric("fid", store, CPU, statistics=tmp_path / "real.npz", weights_used=used)
    assert used == {"inception-fid": row.sha256, "fid-statistics": sha256_of(tmp_path / "real.npz")}
    found = metric.features([original("tissue")[:64, :64]])
    assert found.shape == (1, FEATURES) and np.isfinite(found).all()
    torch.save({"fc.weight": torch.zeros(1)}, weights / row.file_name)
    row = replace(row, sha256=sha256_of(weights / row.file_name))
    with pytest.raises(MetricUnavailable, match="not the FID's Inception"):
        open_metric("fid", WeightsStore(weights, table=(row,)), CPU, statistics=tmp_path / "real.npz")


def test_fid_without_weights_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(MetricUnavailable, match="Run `gfprestore weights fetch inception-fid`"):
        open_metric("fid", WeightsStore(tmp_path, offline=True), CPU, statistics=tmp_path / "any.npz")
