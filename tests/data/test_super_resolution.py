"""Inputs of 4x super-resolution: the bicubic filter of Pillow and of MATLAB, and sets made with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from doubles import call, smooth
from numpy.typing import NDArray
from PIL import Image
from samples import pixels_of, save

from gfprestore.data.degrade_folder import DegradeOptions, degrade_folder, read_pairs
from gfprestore.data.super_resolution import SuperResolutionOptions, bicubic, shrunk_and_enlarged
from gfprestore.data.test_sets import KNOWN_SETS, open_test_set
from gfprestore.errors import UsageError


def textured(seed: int, height: int, width: int) -> NDArray[np.float32]:
    """Smooth tones with strong noise, so that a filter without antialiasing would show."""
    random = np.random.default_rng(seed)
    tones = np.asarray(Image.fromarray(smooth(seed, 64)).resize((width, height)), np.float32) / 255
    return np.clip(tones + 0.3 * random.normal(size=(height, width, 3)), 0, 1).astype(np.float32)


def by_pillow(image: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Each channel as Pillow resizes floating-point images."""
    channels = [
        Image.fromarray(np.ascontiguousarray(channel)).resize((width, height), Image.Resampling.BICUBIC)
        for channel in np.moveaxis(image, 2, 0)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=2)


@pytest.mark.parametrize(("height", "width"), [(16, 24), (64, 96), (256, 384), (30, 100)])
def test_bicubic_is_pillows(height: int, width: int) -> None:
    image = textured(1, 64, 96)
    assert np.abs(bicubic(image, height, width) - by_pillow(image, height, width)).max() < 1e-5


def test_bicubic_is_matlabs_but_for_the_border(official: None) -> None:
    from basicsr.utils.matlab_functions import imresize

    image = textured(2, 96, 128)
    theirs = imresize(imresize(image, 0.25), 4)
    ours = bicubic(bicubic(image, 24, 32), 96, 128)
    differs = np.abs(ours - theirs).max(axis=2) > 1e-5
    assert not differs[14:-14, 14:-14].any()
    assert differs[13].any() and differs[:, 13].any()


def test_a_constant_image_stays_and_fine_stripes_vanish() -> None:
    stripes = np.zeros((32, 32, 3), np.float32)
    stripes[::2] = 1
    gray = np.full((32, 32, 3), 77 / 255, np.float32)
    options = SuperResolutionOptions()
    assert np.abs(shrunk_and_enlarged(gray, options) - gray).max() < 1e-6
    inside = shrunk_and_enlarged(stripes, options)[12:20]
    assert np.abs(inside - 0.5).max() <= 1.5 / 255


def test_a_set_holds_128_pixels_of_detail_as_pillow_makes_them(tmp_path: Path) -> None:
    gt = np.rint(textured(3, 512, 512) * 255).astype(np.uint8)
    save(tmp_path / "faces" / "a.png", gt)
    assert call("degrade", tmp_path / "faces", "-o", tmp_path / "set", "--seed", 0, "--preset", "celeba-test-sr4") == 0
    small = np.rint(np.clip(by_pillow(gt.astype(np.float32), 128, 128), 0, 255))
    expected = np.rint(np.clip(by_pillow(small.astype(np.float32), 512, 512), 0, 255))
    lq = pixels_of(tmp_path / "set/lq/a.png").astype(float)
    assert np.abs(lq - expected).max() <= 1
    assert (lq == expected).mean() > 0.999  # halves may be rounded either way
    assert np.array_equal(pixels_of(tmp_path / "set/gt/a.png"), gt)
    (pair,) = read_pairs(tmp_path / "set")
    assert pair.parameters == {"downscale": 4.0}


def test_nothing_is_drawn_so_that_the_seed_changes_no_image(tmp_path: Path) -> None:
    save(tmp_path / "faces" / "a.png", smooth(1, 32))
    for seed in (1, 2):
        degrade_folder(tmp_path / "faces", tmp_path / str(seed), DegradeOptions(seed, "celeba-test-sr4", 32))
    assert (tmp_path / "1/lq/a.png").read_bytes() == (tmp_path / "2/lq/a.png").read_bytes()


def test_sides_that_are_no_multiple_of_four_are_refused() -> None:
    with pytest.raises(UsageError, match="--size must be a multiple of 4 for celeba-test-sr4, not 30"):
        DegradeOptions(1, "celeba-test-sr4", 30)
    with pytest.raises(ValueError, match="30 x 32 pixels"):
        shrunk_and_enlarged(np.zeros((32, 30, 3), np.float32), SuperResolutionOptions())
    with pytest.raises(ValueError, match="factor must be 1 or more"):
        SuperResolutionOptions(0)


def test_the_known_set_says_how_it_is_made_and_warns_about_another_preset(tmp_path: Path) -> None:
    known = KNOWN_SETS["celeba-test-sr4"]
    assert f"--preset {known.preset}" in known.advice and "originals of CelebA-Test" in known.advice
    save(tmp_path / "faces" / "a.png", smooth(1, 32))
    for preset in ("celeba-test-sr4", "celeba-test"):
        degrade_folder(tmp_path / "faces", tmp_path / preset / "set", DegradeOptions(1, preset, 32))
        found = open_test_set("celeba-test-sr4", tmp_path / preset / "set")
        assert found.known is known and len(found.gt) == 1
        told = [warning for warning in found.warnings if "preset" in warning]
        assert bool(told) == (preset == "celeba-test")
