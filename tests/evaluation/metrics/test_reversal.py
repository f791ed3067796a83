"""Geometry, tone, texture and landmarks of a reversal, against warps and offsets of known size."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
from doubles import Finder
from numpy.typing import NDArray

from gfprestore.errors import UsageError
from gfprestore.evaluation.metrics.reversal import (
    FacePlace,
    FaceRegionMetric,
    LandmarkError,
    geometry_error,
    landmark_error,
    texture_ratio,
    tone_error,
)
from gfprestore.evaluation.metrics.specs import METRICS

Pixels = NDArray[np.uint8]


def face_like(size: int = 256, seed: int = 0) -> Pixels:
    """Skin-colored noise of several scales, so that a flow can be found everywhere."""
    random = np.random.default_rng(seed)
    detail = sum(
        scale * np.asarray(cv2.resize(random.normal(0, 1, (size // step, size // step)), (size, size)))
        for step, scale in ((1, 2.0), (4, 6.0), (16, 12.0))
    )
    return np.clip(np.array([180.0, 135.0, 115.0]) + np.asarray(detail)[..., None], 0, 255).astype(np.uint8)


def shifted(pixels: Pixels, x: float, y: float) -> Pixels:
    matrix = np.array([[1, 0, x], [0, 1, y]], np.float32)
    return np.asarray(
        cv2.warpAffine(pixels, matrix, pixels.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT),
        np.uint8,
    )


@pytest.mark.parametrize(("x", "y"), [(0, 0), (3, 0), (0, -2), (3, 4), (1.5, 2)])
def test_the_geometry_error_of_a_shift_is_its_length(x: float, y: float) -> None:
    gt = face_like()
    error = geometry_error(shifted(gt, x, y), gt, FacePlace.on_template(256))
    assert error == pytest.approx(math.hypot(x, y), abs=0.12)


def test_the_geometry_error_is_in_pixels_of_256_whatever_the_size() -> None:
    gt = np.asarray(cv2.resize(face_like(), (512, 512), interpolation=cv2.INTER_CUBIC), np.uint8)
    place = FacePlace.on_template(256)
    assert geometry_error(shifted(gt, 6, 8), gt, place) == pytest.approx(5, abs=0.15)


def test_a_smooth_warp_has_its_mean_displacement_within_the_face() -> None:
    gt, size = face_like(), 256
    y, x = np.mgrid[:size, :size].astype(np.float32)
    shift = 3 * np.exp(-((x - 128) ** 2 + (y - 128) ** 2) / (2 * 50.0**2)).astype(np.float32)
    image = np.asarray(cv2.remap(gt, x + shift, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT), np.uint8)
    around = (x - 128) ** 2 / 70**2 + (y - 145) ** 2 / 90**2 < 1  # about the face on the template
    error = geometry_error(image, gt, FacePlace.on_template(size))
    assert error == pytest.approx(float(shift[around].mean()), abs=0.35)


def test_brightness_is_no_geometry_and_a_shift_outside_the_face_does_not_count() -> None:
    gt = face_like()
    brighter = np.clip(gt.astype(int) + 25, 0, 255).astype(np.uint8)
    assert geometry_error(brighter, gt, FacePlace.on_template(256)) < 0.05
    beside = gt.copy()
    beside[:30] = shifted(gt, 8, 0)[:30]  # above the hairline
    assert geometry_error(beside, gt, FacePlace.on_template(256)) < 0.05


def test_the_tone_error_is_the_difference_of_lightness() -> None:
    place = FacePlace.on_template(128)
    gray = np.full((128, 128, 3), 119, np.uint8)  # L* 50.03
    other = np.full((128, 128, 3), 145, np.uint8)

    def lightness(level: float) -> float:  # CIE 1976 from sRGB, for gray
        linear = ((level / 255 + 0.055) / 1.055) ** 2.4
        return float(116 * linear ** (1 / 3) - 16)

    assert tone_error(other, gray, place) == pytest.approx(lightness(145) - lightness(119), abs=0.05)
    assert tone_error(gray, other, place) == pytest.approx(lightness(145) - lightness(119), abs=0.05)
    assert tone_error(gray, gray, place) == 0


def test_the_texture_ratio_is_that_of_the_energy() -> None:
    place = FacePlace.on_template(256)
    random = np.random.default_rng(1)
    checks = np.indices((256, 256)).sum(axis=0) % 2 * 2 - 1  # a blur of 2 pixels leaves nothing of it
    gt = (150 + 8 * checks[..., None] + np.zeros(3)).astype(np.uint8)
    half = (150 + 4 * checks[..., None] + np.zeros(3)).astype(np.uint8)
    assert texture_ratio(half, gt, place) == pytest.approx(0.25, rel=0.01)
    assert texture_ratio(gt, gt, place) == 1
    noisy = np.clip(gt + random.normal(0, 8, gt.shape), 0, 255).astype(np.uint8)
    assert texture_ratio(noisy, gt, place) > 1.5
    assert math.isnan(texture_ratio(gt, np.full_like(gt, 150), place))


def test_the_landmark_error_is_a_share_of_the_eye_distance() -> None:
    expected = np.array([[10.0, 10], [30, 10], [20, 20], [12, 30], [28, 30]])
    assert landmark_error(expected + (3, 4), expected) == pytest.approx(5 / 20)
    assert math.isnan(landmark_error(None, expected))
    finder: Any = Finder([(32, 24)])
    images = [face_like(64)]
    assert LandmarkError(METRICS["landmarks"], finder).score(images, images) == [0.0]
    finder.faces = []
    assert math.isnan(LandmarkError(METRICS["landmarks"], finder).score(images, images)[0])


def test_a_face_outside_the_image_has_no_score() -> None:
    gt = face_like(64)
    place = FacePlace(FacePlace.on_template(64).landmarks + 500, 64)
    assert all(math.isnan(score(gt, gt, place)) for score in (geometry_error, tone_error, texture_ratio))


def test_places_are_scaled_to_the_image_and_part_of_the_cache_key() -> None:
    place = FacePlace.on_template(512)
    assert np.allclose(place.at(256).landmarks, FacePlace.on_template(256).landmarks)
    assert place.key == place.at(256).key != FacePlace(place.landmarks + 1, 512).key
    gt = face_like()
    metric = FaceRegionMetric(METRICS["tone"], tone_error)
    assert metric.score_faces([gt], [gt], [place]) == [0.0]
    with pytest.raises(UsageError, match="same size"):
        metric.score_faces([gt], [face_like(128)], [place])
