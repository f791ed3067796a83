"""Cut-out photos are enlarged without a rim, whatever lies under their transparency."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gfprestore import Restoration, RunOptions
from gfprestore.restoration.transparency import enlarge_alpha, filled_outward


def test_alpha_is_enlarged_without_ringing() -> None:
    alpha = np.zeros((20, 30), np.uint16)
    alpha[:, 15:] = 65535
    enlarged = enlarge_alpha(alpha, 3)
    assert enlarged.shape == (60, 90)
    assert (enlarged[:, :42] == 0).all()
    assert (enlarged[:, 48:] == 65535).all()
    assert (np.diff(enlarged.astype(int), axis=1) >= 0).all()
    assert (enlarge_alpha(np.full((7, 5), 255, np.uint8), 1.9) == 255).all()
    assert np.array_equal(enlarge_alpha(alpha, 1), alpha)


def cut_out(color: NDArray[np.uint8], radius: float, softness: float) -> NDArray[np.uint8]:
    """A disc of this photo (H, W, 3) with an edge of `softness` pixels, black under full transparency."""
    height, width = color.shape[:2]
    rows, columns = np.mgrid[0:height, 0:width]
    distance = radius - np.hypot(rows - height / 2, columns - width / 2)
    alpha = np.clip(distance / softness + 0.5, 0, 1)
    return np.dstack([np.where(alpha[..., None] > 0, color, 0), np.rint(alpha * 255)]).astype(np.uint8)


def grounds(height: int, width: int) -> dict[str, NDArray[np.float64]]:
    rows, columns = np.mgrid[0:height, 0:width]
    levels = {"black": np.zeros((height, width)), "white": np.full((height, width), 255.0)}
    levels["checkered"] = (rows // 8 + columns // 8) % 2 * 255.0
    return {name: ground[..., None].repeat(3, axis=2) for name, ground in levels.items()}


def composited(image: NDArray[np.uint8], ground: NDArray[np.float64]) -> NDArray[np.float64]:
    share = image[..., 3:] / 255.0
    return image[..., :3] * share + ground * (1 - share)


@pytest.mark.parametrize("upscale", [2, 3])
@pytest.mark.parametrize("softness", [0.01, 1, 4])
@pytest.mark.parametrize("kind", ["white", "textured"])
def test_a_cut_out_photo_gets_no_rim(kind: str, softness: float, upscale: int, tmp_path: Path) -> None:
    """On three grounds, fewer than 0.3 % of the values are more than 24 levels from the enlarged flattened image."""
    noise = np.random.default_rng(2).integers(60, 256, (24, 24, 3)).astype(np.uint8)
    texture = cv2.resize(noise, (192, 192), interpolation=cv2.INTER_CUBIC)
    image = cut_out(texture if kind == "textured" else np.full((192, 192, 3), 255, np.uint8), 72, softness)
    Image.fromarray(image).save(tmp_path / "disc.png")
    options = RunOptions(restorer="none", background="lanczos", upscale=upscale)
    Restoration(options).restore_file(tmp_path / "disc.png", tmp_path / "large.png")
    enlarged = np.asarray(Image.open(tmp_path / "large.png"))
    wrong = []
    for ground in grounds(192, 192).values():
        size = (192 * upscale, 192 * upscale)
        flattened = np.rint(composited(image, ground)).astype(np.uint8)
        expected = cv2.resize(flattened, size, interpolation=cv2.INTER_LANCZOS4)
        large_ground = cv2.resize(ground.astype(np.uint8), size, interpolation=cv2.INTER_LANCZOS4).astype(float)
        wrong.append((np.abs(composited(enlarged, large_ground) - expected) > 24).mean())
    assert np.mean(wrong) < 0.003


def test_the_network_sees_no_black_under_transparency() -> None:
    image = cut_out(np.full((60, 60, 3), 200, np.uint8), 20, 1)
    filled = filled_outward(image[..., :3], image[..., 3])
    assert (filled == 200).all()
    opaque = np.full((60, 60), 255, np.uint8)
    assert filled_outward(image[..., :3], opaque) is not None
    np.testing.assert_array_equal(filled_outward(image[..., :3], opaque), image[..., :3])
    np.testing.assert_array_equal(filled_outward(image[..., :3], opaque * 0), image[..., :3])


def test_hidden_colors_are_those_of_the_nearest_visible_pixel() -> None:
    pixels = np.zeros((3, 9, 3), np.uint16)
    alpha = np.zeros((3, 9), np.uint16)
    pixels[:, 0], pixels[:, 8], alpha[:, [0, 8]] = 1000, 50000, 65535
    filled = filled_outward(pixels, alpha)
    assert (filled[:, :4] == 1000).all() and (filled[:, 5:] == 50000).all()
    assert (pixels[:, 1:8] == 0).all()


def test_pixels_under_transparency_are_kept_where_nothing_is_enlarged(tmp_path: Path) -> None:
    image = np.random.default_rng(4).integers(0, 256, (20, 30, 4)).astype(np.uint8)
    image[:, :15, 3] = 0
    Image.fromarray(image).save(tmp_path / "a.png")
    options = RunOptions(restorer="none", background="none", upscale=1)
    Restoration(options).restore_file(tmp_path / "a.png", tmp_path / "b.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.png")), image)
