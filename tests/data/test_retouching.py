"""Synthetic retouching: what each operation changes, and where."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from gfprestore.data.images import read_pixels
from gfprestore.data.retouching import face_region, retouch, skin_mask
from gfprestore.data.retouching_geometry import warp_field
from gfprestore.data.retouching_levels import DEEPFRR, OPERATIONS, Levels, draw_levels, generator_of
from gfprestore.evaluation.metrics.psnr_ssim import psnr
from gfprestore.faces.detection import select_faces
from gfprestore.faces.mtcnn import MTCNNDetector
from gfprestore.pixels import resized

# The five points of FFHQ's template in a crop of 512 pixels: eyes, nose, corners of the mouth.
LANDMARKS = np.array([[193.0, 239.9], [318.9, 240.2], [256.6, 314.0], [201.3, 371.4], [313.1, 371.2]])
PUPILS = LANDMARKS[:2].round().astype(int)


@pytest.fixture(scope="module")
def portrait() -> NDArray[np.uint8]:
    """Skin with fine texture and two dark brows, (512, 512, 3)."""
    random = np.random.default_rng(2)
    coarse = np.asarray(cv2.resize(random.normal(0, 1, (16, 16)).astype(np.float32), (512, 512)))
    values = np.array([190.0, 150.0, 130.0]) + 12 * coarse[..., None] + random.normal(0, 5, (512, 512, 1))
    for x in (185, 327):
        cv2.ellipse(values, (x, 207), (42, 8), 0, 0, 360, (70, 50, 40), -1)
    return np.clip(values, 0, 255).astype(np.uint8)


def single(operation: str, level: int) -> Levels:
    return replace(Levels(), **{operation: level})


def change(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    return float(np.abs(before.astype(float) - after).mean())


def test_level_0_is_the_same_to_the_bit(portrait: NDArray[np.uint8]) -> None:
    assert np.array_equal(retouch(portrait, LANDMARKS, Levels()), portrait)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_higher_level_changes_more(operation: str, portrait: NDArray[np.uint8]) -> None:
    changes = [change(portrait, retouch(portrait, LANDMARKS, single(operation, level))) for level in (30, 60, 90)]
    assert 0 < changes[0] < changes[1] < changes[2]


def test_the_same_face_comes_out_the_same_twice(portrait: NDArray[np.uint8]) -> None:
    digests = {hashlib.sha256(retouch(portrait, LANDMARKS, DEEPFRR).tobytes()).hexdigest() for _ in range(2)}
    assert len(digests) == 1


@pytest.mark.parametrize("operation", ["smooth", "whiten", "brow"])
def test_color_operations_stay_within_the_face(operation: str, portrait: NDArray[np.uint8]) -> None:
    moved = np.abs(portrait.astype(int) - retouch(portrait, LANDMARKS, single(operation, 100))).max(2)
    outside = cv2.dilate(face_region(LANDMARKS, (512, 512)), np.ones((61, 61))) < 0.01
    assert moved.max() > 5
    assert moved[outside].max() <= 1


def test_whitening_takes_middle_gray_to_161() -> None:
    gray = np.full((512, 512, 3), 128, np.uint8)  # log(1 + 2 x) / log(3) of 128 / 255 is 161.0 / 255
    assert (retouch(gray, LANDMARKS, single("whiten", 100))[280, 256] == 161).all()


def test_the_skin_mask_leaves_eyes_and_brows_out(portrait: NDArray[np.uint8]) -> None:
    mask = skin_mask(portrait, LANDMARKS)
    assert mask[300, 190] > 0.5  # the cheek
    assert mask[PUPILS[0][1], PUPILS[0][0]] < 0.1
    assert mask[10, 10] == 0


def test_no_map_folds() -> None:
    for levels in (DEEPFRR, single("eyes", 100), single("slim", 100), single("shrink", 100)):
        field = warp_field(LANDMARKS, levels, (512, 512)).astype(np.float64)
        (xy, xx), (yy, yx) = np.gradient(field[..., 0]), np.gradient(field[..., 1])
        assert ((1 + xx) * (1 + yy) - xy * yx).min() > 0.5


def test_enlarged_eyes_stay_where_they_are() -> None:
    field = warp_field(LANDMARKS, single("eyes", 100), (512, 512))
    assert [float(np.hypot(*field[y, x])) < 0.5 for x, y in PUPILS] == [True, True]
    x, y = PUPILS[0]
    assert field[y, x + 20, 0] == pytest.approx(-4.0 * (1 - (20 / (0.35 * 125.9)) ** 2), abs=0.3)  # a fifth inward


def test_the_inverse_field_undoes_the_warp() -> None:
    forth = warp_field(LANDMARKS, DEEPFRR, (512, 512))
    back = warp_field(LANDMARKS, DEEPFRR, (512, 512), inverse=True)
    x, y = np.meshgrid(np.arange(512, dtype=np.float32), np.arange(512, dtype=np.float32))
    at = cv2.remap(forth, x + back[..., 0], y + back[..., 1], cv2.INTER_LINEAR)
    apart = np.abs(back + at)[20:-20, 20:-20]
    assert np.percentile(apart, 99) < 0.02
    assert apart.max() < 0.2  # at the rim of a pull, where the field has a kink that the lookup smooths


def test_a_face_of_a_larger_photo_is_retouched_where_it_is(portrait: NDArray[np.uint8]) -> None:
    photo = np.full((700, 900, 3), 60, np.uint8)
    photo[100:612, 300:812] = portrait
    result = retouch(photo, LANDMARKS + (300, 100), DEEPFRR)
    alone = retouch(portrait, LANDMARKS, DEEPFRR)
    assert np.abs(result[200:500, 400:700].astype(int) - alone[100:400, 100:400]).max() <= 2
    assert np.array_equal(result[:, :200], photo[:, :200])


def test_drawn_levels_depend_on_seed_name_and_variant_only() -> None:
    def drawn(seed: int, name: str, variant: int, untouched: float = 0.0) -> Levels:
        return draw_levels("mixed", generator_of(seed, name, variant), untouched)

    assert drawn(1, "a", 0) == drawn(1, "a", 0)
    assert len({drawn(1, "a", 0), drawn(2, "a", 0), drawn(1, "b", 0), drawn(1, "a", 1)}) == 4
    many = [drawn(0, str(number), 0, 0.25) for number in range(400)]
    assert 0.2 < sum(levels == Levels() for levels in many) / 400 < 0.3
    assert {level for levels in many for level in (levels.smooth, levels.brow)} <= {0, *range(20, 101)}


@pytest.mark.parametrize("preset", ["all", "single-smooth-0", "single-smooth-101", "single-nose-50"])
def test_an_unknown_preset_is_refused_with_those_that_exist(preset: str) -> None:
    with pytest.raises(ValueError, match=f"{preset} is unknown; use one of deepfrr, mixed, single-smooth"):
        draw_levels(preset, np.random.default_rng(0))


def test_wrong_arrays_and_levels_are_refused(portrait: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="uint8"):
        retouch(portrait.astype(np.uint16), LANDMARKS, DEEPFRR)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="face"):
        retouch(portrait, np.zeros((5, 2)), DEEPFRR)
    with pytest.raises(ValueError, match="smooth is 101"):
        Levels(smooth=101)


@pytest.mark.slow
@pytest.mark.skipif("GFPRESTORE_FACES" not in os.environ, reason="GFPRESTORE_FACES names no folder of aligned faces")
def test_retouched_faces_differ_from_their_originals_as_those_of_deepfrr_do() -> None:
    """24 faces of 512 pixels that do not ship with the project: set GFPRESTORE_FACES to a folder of aligned ones."""
    paths = sorted(Path(os.environ["GFPRESTORE_FACES"]).rglob("*.[jp][pn]g"))
    detector, scores = MTCNNDetector(), []
    for path in paths[:: max(1, len(paths) // 40)]:
        face = resized(read_pixels(path).pixels, 512, 512)
        found = select_faces(detector.detect(face), (512, 512), only_center=True, min_face=0, threshold=0.9)
        if found and len(scores) < 24:
            retouched = retouch(face, found[0].landmarks, DEEPFRR)
            scores.append(psnr(retouched, face))
    assert len(scores) == 24
    assert abs(np.mean(scores) - 19) < 2
