"""Synthetic damage: every kind changes what its mask says, and nothing else if it hides the original."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from doubles import smooth
from numpy.typing import NDArray
from samples import pixels_of, save

from gfprestore.data.capture import Image
from gfprestore.data.damage import KINDS, VISIBLE, Damage, damaged
from gfprestore.data.degradation import DAMAGED, degrade
from gfprestore.data.degrade_folder import DegradeOptions, degrade_folder, read_pairs

TRANSLUCENT = ("silvering", "stains", "tape")
HIDING = tuple(name for name in KINDS if name not in TRANSLUCENT)


def photo(seed: int = 0, size: int = 256) -> Image:
    return smooth(seed, size).astype(np.float32) / np.float32(255)


def only(kind: str) -> Damage:
    return Damage(probabilities={kind: 1.0})


def changed(before: Image, after: Image) -> NDArray[np.bool_]:
    return np.asarray(np.abs(after - before).max(2) >= VISIBLE)


@pytest.mark.parametrize("kind", HIDING)
def test_a_kind_that_hides_the_original_is_in_the_mask(kind: str) -> None:
    masked = 0
    for seed in range(6):
        before = photo(seed)
        drawn: dict[str, float] = {}
        result = damaged(before, only(kind), np.random.default_rng(seed), drawn)
        assert list(drawn) == [kind] and drawn[kind] >= 1
        assert (changed(before, result.image) | ~result.mask).all()  # what is masked can be seen
        assert result.mask.mean() < 0.35
        masked += int(result.mask.sum())
        far = cv2.dilate(result.mask.astype(np.uint8), np.ones((25, 25), np.uint8)) == 0
        if kind != "folds":  # whose shading reaches far, and hides nothing
            assert changed(before, result.image)[far].mean() < 0.02
    assert masked > 60


@pytest.mark.parametrize("kind", TRANSLUCENT)
def test_what_only_changes_the_print_is_seen_and_not_in_the_mask(kind: str) -> None:
    seen = 0
    for seed in range(6):
        before = photo(seed) * np.float32(0.6)
        result = damaged(before, only(kind), np.random.default_rng(seed))
        assert not result.mask.any()
        seen += int(changed(before, result.image).sum())
    assert seen > 500


def test_damage_is_repeatable_and_leaves_its_input_alone() -> None:
    before = photo()
    kept = before.copy()
    first = damaged(before, Damage(), np.random.default_rng(5))
    again = damaged(before, Damage(), np.random.default_rng(5))
    assert np.array_equal(first.image, again.image) and np.array_equal(first.mask, again.mask)
    assert np.array_equal(before, kept)
    assert first.image.dtype == np.float32 and first.image.min() >= 0 and first.image.max() <= 1
    assert not np.array_equal(damaged(before, Damage(), np.random.default_rng(6)).image, first.image)


def test_no_damage_changes_nothing() -> None:
    before = photo()
    result = damaged(before, Damage(probabilities={}), np.random.default_rng(0))
    assert np.array_equal(result.image, before)
    assert not result.mask.any()


def test_scratches_are_as_wide_in_a_patch_as_in_the_whole_photo() -> None:
    def thickest(side: float) -> float:
        """Largest distance in pixels from a masked pixel to one outside, over several patches."""
        options = replace(only("scratches"), scratch_width=(0.008, 0.0081))
        found = []
        for seed in range(8):
            mask = damaged(photo(), options, np.random.default_rng(seed), photo_side=side).mask
            found.append(float(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5).max()))
        return float(np.median(found))

    assert thickest(1024) > 2 * thickest(256)


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="probabilities must be from 0 to 1, of silvering"):
        Damage(probabilities={"burns": 1.0})
    with pytest.raises(ValueError, match="probabilities must be from 0 to 1"):
        Damage(probabilities={"dust": 1.5})


def test_the_scan_of_a_damaged_print_is_blurred_and_its_mask_stays_in_place() -> None:
    gt = photo(3)
    options = replace(DAMAGED, damage=only("pinholes"), gray_probability=0.0, aging=None, noise=(0.0, 0.0))
    for seed in range(4):
        degraded = degrade(gt, options, np.random.default_rng(seed))
        assert degraded.mask is not None and degraded.mask.any()
        difference = np.abs(degraded.lq - gt).max(2)
        outside = cv2.dilate(degraded.mask.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
        assert difference[degraded.mask].mean() > 6 * difference[outside].mean()


def test_a_set_of_damaged_prints_has_masks(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "faces" / f"{number}.png", smooth(number, 96))
    options = DegradeOptions(seed=2, preset="damaged", size=96)
    assert degrade_folder(tmp_path / "faces", tmp_path / "set", options).made == 3
    assert degrade_folder(tmp_path / "faces", tmp_path / "set", options).done_before == 3
    for pair in read_pairs(tmp_path / "set"):
        mask = pixels_of(tmp_path / "set/mask" / f"{pair.name}.png")
        assert set(np.unique(mask)) <= {0, 255}
        gt, lq = (pixels_of(tmp_path / "set" / part / f"{pair.name}.png").astype(int) for part in ("gt", "lq"))
        if (mask > 0).any():
            inside = np.abs(lq - gt).mean(2)[mask.reshape(96, 96, -1)[..., 0] > 0].mean()
            assert inside > np.abs(lq - gt).mean()
    (tmp_path / "set/mask/1.png").write_bytes(b"")
    assert degrade_folder(tmp_path / "faces", tmp_path / "set", options).made == 1  # a damaged mask is made again
