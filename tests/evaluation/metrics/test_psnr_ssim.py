"""PSNR, SSIM and NIQE: against stored numbers of the official code, against that code, and by arithmetic."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import CROPS, WAYS, original, sample_image

from gfprestore.evaluation.metrics.niqe import halved, niqe
from gfprestore.evaluation.metrics.opening import open_metric
from gfprestore.evaluation.metrics.psnr_ssim import matched, psnr, ssim
from gfprestore.evaluation.metrics.specs import ImageMetric
from gfprestore.weights.store import WeightsStore

GOLDEN = Path(__file__).parents[2] / "golden" / "metrics.csv"
CPU = torch.device("cpu")


def stored(*metrics: str) -> list[tuple[str, str, float]]:
    with GOLDEN.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["metric"] in metrics]
    return [(row["picture"], row["metric"], float(row["value"])) for row in rows]


def metric(name: str) -> ImageMetric:
    found = open_metric(name, WeightsStore(offline=True), CPU)
    assert not found.spec.of_set
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["psnr", "psnr_matched", "ssim", "ssim_matched", "niqe"])
def test_scores_equal_the_stored_ones_of_the_official_code(name: str) -> None:
    rows = stored(name)
    assert len(rows) >= 20
    ours = metric(name)
    for label, _, value in rows:
        gt = [original(label.split("-")[0])] if ours.spec.needs_gt else None
        (score,) = ours.score([sample_image(label)], gt)
        assert score == pytest.approx(value, rel=3e-4 if name == "niqe" else 2e-6), label


@pytest.mark.parametrize("way", ["original", "blurred", "coarse"])
@pytest.mark.filterwarnings("ignore")  # of basicsr and the scipy that it imports
def test_scores_equal_the_official_ones_now(way: str, official: None) -> None:
    from basicsr.metrics import calculate_niqe, calculate_psnr, calculate_ssim

    gt, restored = original("chelsea"), sample_image(f"chelsea-{way}")
    reverse = np.ascontiguousarray(restored[..., ::-1])  # theirs takes BGR
    assert metric("niqe").score([restored], None)[0] == pytest.approx(calculate_niqe(reverse, 0), rel=3e-4)
    assert ssim(restored, gt) == pytest.approx(calculate_ssim(restored, gt, 0), rel=1e-9)
    assert psnr(restored, gt) == pytest.approx(calculate_psnr(restored, gt, 0), rel=1e-9)
    shifted = matched(restored, gt)
    assert ssim(shifted, gt) == pytest.approx(calculate_ssim(shifted, gt, 0), rel=1e-9)


def test_psnr_of_one_level_everywhere_is_20_log_255_and_of_identical_images_infinite() -> None:
    gt = np.full((12, 13, 3), 100, np.uint8)
    assert psnr(gt + np.uint8(1), gt) == pytest.approx(20 * math.log10(255))
    ours = metric("psnr")
    scores = ours.score([gt, gt + np.uint8(1)], [gt, gt])
    assert scores[0] == math.inf
    assert ours.summarize(scores) == math.inf and math.isfinite(ours.summarize(scores[1:]))
    assert metric("psnr_matched").score([gt], [gt]) == [math.inf]


def test_a_matched_image_has_the_gts_means_and_deviations_and_a_flat_one_its_means() -> None:
    gt, restored = original("coffee"), sample_image("coffee-dim")
    result = matched(restored, gt)
    assert np.allclose(result.mean((0, 1)), gt.mean((0, 1))) and np.allclose(result.std((0, 1)), gt.std((0, 1)))
    assert result.min() < 0 or result.max() > 255, "not clipped"
    flat = matched(np.full_like(gt, 7), gt)
    assert np.allclose(flat, gt.mean((0, 1))) and np.isfinite(psnr(flat, gt))


def test_matching_takes_away_what_a_change_of_contrast_cost() -> None:
    gt, restored = [original("camera")], [sample_image("camera-dim")]
    plain, after = metric("psnr").score(restored, gt)[0], metric("psnr_matched").score(restored, gt)[0]
    assert plain < 20 and after > 50, "only the rounding of the dim image is left"


def test_ssim_is_of_the_windows_within_and_a_smaller_image_has_none() -> None:
    gt = original("astronaut")[:11, :11]
    assert ssim(gt, gt) == 1.0
    assert math.isnan(ssim(gt[:10], gt[:10]))
    changed = original("astronaut")[:40, :40].copy()
    border = changed.copy()
    border[0, 0] = 255 - border[0, 0]
    inner = changed.copy()
    inner[20, 20] = 255 - inner[20, 20]
    assert ssim(inner, changed) < ssim(border, changed) < 1, "a corner is in one window only"


def test_half_size_is_matlabs_bicubic_with_antialiasing() -> None:
    """The weights are MATLAB's documented ones: the cubic kernel of a = -1/2, twice as wide."""
    step = np.zeros((12, 4), np.float32)
    step[6:] = 1
    column = halved(step)[:, 0]
    kernel = np.array(
        [-0.01171875, -0.03515625, 0.11328125, 0.43359375, 0.43359375, 0.11328125, -0.03515625, -0.01171875]
    )
    expected = [kernel[np.clip(np.arange(2 * i - 3, 2 * i + 5), 0, 11) >= 6].sum() for i in range(6)]
    assert np.allclose(column, expected, atol=1e-6)
    assert halved(np.full((8, 8), 3, np.float32)) == pytest.approx(np.full((4, 4), 3))


def test_images_too_small_or_flat_have_no_niqe_and_do_not_spoil_the_mean() -> None:
    ours = metric("niqe")
    pixels = original("chelsea")
    scores = ours.score([pixels[:191, :100], np.zeros((200, 200, 3), np.uint8), pixels], None)
    assert [math.isnan(score) for score in scores] == [True, True, False]
    assert ours.summarize(scores) == scores[2]
    assert math.isnan(ours.summarize(scores[:2]))


def test_niqe_finds_every_spoiled_image_worse_than_the_original() -> None:
    ours = metric("niqe")
    for sample in CROPS:
        scores = ours.score([sample_image(f"{sample}-{way}") for way in WAYS], None)
        assert min(scores[1:4]) > scores[0]


def test_niqe_does_not_depend_on_what_lies_beyond_whole_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from gfprestore.evaluation.metrics import niqe as module

    pixels = original("coffee")
    folder = Path(module.__file__).parents[3] / "weights"
    pristine = module.load_pristine(folder / module.PRISTINE_FILE)
    assert pristine.mean.shape == (36,) and pristine.covariance.shape == (36, 36)
    assert np.linalg.eigvalsh(pristine.covariance).min() > 0
    changed = pixels.copy()
    changed[288:], changed[:, 384:] = 0, 255
    assert niqe(changed, pristine) == niqe(pixels, pristine) == niqe(pixels[:288, :384], pristine)
