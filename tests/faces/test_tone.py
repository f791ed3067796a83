"""Toning: gray, sepia, cyanotype and color images made from photographs by arithmetic, compared with it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data
from matplotlib import cbook, image

from gfprestore.faces.tone import match_brightness, toning_of

FACE_BOX = np.array([180, 60, 270, 175], np.float32)  # of the astronaut


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return skimage.data.astronaut()


def toned(shown: np.ndarray, dark: tuple[int, int, int], light: tuple[int, int, int]) -> np.ndarray:
    """A print in one ink on one paper: a straight line between two colors."""
    gray = cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY)[..., None] / 255
    return np.rint(np.array(dark) * (1 - gray) + np.array(light) * gray).astype(np.uint8)


def through_jpeg(shown: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode(".jpg", shown[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1]


PRINTS = {
    "grey": ((0, 0, 0), (255, 255, 255)),
    "faded": ((90, 90, 90), (200, 200, 200)),
    "sepia": ((40, 22, 8), (255, 240, 205)),
    "red sepia": ((60, 20, 10), (245, 180, 140)),
    "cyanotype": ((5, 25, 60), (225, 240, 250)),
}


@pytest.mark.parametrize("boxes", [[], [FACE_BOX]])
@pytest.mark.parametrize("name", PRINTS)
def test_a_print_in_one_ink_is_toned_also_through_a_poor_jpeg(astronaut, name, boxes):
    shown = toned(astronaut, *PRINTS[name])
    assert toning_of(shown, boxes) is not None
    assert toning_of(through_jpeg(shown, 40), boxes) is not None
    assert toning_of(shown.astype(np.uint16) * 257, boxes) is not None


@pytest.mark.parametrize("boxes", [[], [FACE_BOX]])
def test_color_photos_are_not_toned_not_even_faded_ones(astronaut, boxes):
    assert toning_of(astronaut, boxes) is None
    gray = cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    faded = (0.7 * (0.6 * astronaut + 0.4 * gray) + [70, 55, 35]).astype(np.uint8)  # 42 % of the color, orange cast
    assert toning_of(faded, boxes) is None
    assert toning_of(through_jpeg(faded, 60), boxes) is None


def test_color_photos_of_other_things_are_not_toned():
    assert toning_of(skimage.data.coffee()) is None
    assert toning_of(skimage.data.chelsea()) is None
    assert toning_of(image.imread(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))) is None


def test_a_network_s_colors_become_the_tone_of_the_print(astronaut):
    crop = astronaut[60:190, 170:290]
    for name, inks in PRINTS.items():
        result = toning_of(toned(astronaut, *inks), [FACE_BOX]).apply(crop).astype(int)
        wanted = toned(astronaut, *inks)[60:190, 170:290].astype(int)
        assert np.abs(result - result[..., :1] - (wanted - wanted[..., :1])).mean() < 6, name
        luma = np.array([0.299, 0.587, 0.114])
        inside = (result.min(axis=2) > 0) & (result.max(axis=2) < 255)
        assert np.abs((result - crop.astype(int)) @ luma)[inside].max() < 1, name


def test_the_tone_gives_a_print_back_its_own_colors(astronaut):
    shown = toned(astronaut, *PRINTS["sepia"])
    again = toning_of(shown).apply(shown)
    assert np.abs(again.astype(int) - shown).mean() < 1
    assert again.dtype == np.uint8


def test_a_gray_photo_stays_exactly_gray_in_8_and_16_bits(astronaut):
    gray = toned(astronaut, *PRINTS["grey"])
    toning = toning_of(gray)
    for crop in (astronaut, astronaut.astype(np.uint16) * 257):
        result = toning.apply(crop)
        assert result.dtype == crop.dtype
        assert np.array_equal(result[..., 0], result[..., 1])
        assert np.array_equal(result[..., 0], result[..., 2])
    expected = np.rint(astronaut @ np.array([0.299, 0.587, 0.114]))
    assert np.abs(toning.apply(astronaut)[..., 0] - expected).max() <= 1


def test_a_sepia_print_on_a_colored_mount_is_toned_where_its_face_is(astronaut):
    page = np.zeros((900, 900, 3), np.uint8)
    page[:] = (30, 90, 160)
    page[::2, :450] = (150, 20, 40)
    page[200:712, 200:712] = toned(astronaut, *PRINTS["sepia"])
    assert toning_of(page) is None
    assert toning_of(page, [FACE_BOX + 200]) is not None


def test_a_person_in_color_in_a_gray_scene_is_not_toned(astronaut):
    snow = np.full((3000, 3000, 3), 235, np.uint8)
    snow[1500:1630, 1500:1620] = astronaut[60:190, 170:290]
    assert toning_of(snow, [np.array([1510, 1500, 1600, 1615], np.float32)]) is None


def test_tiny_images_have_a_tone_or_none_and_never_fail():
    for shape in ((1, 1, 3), (2, 300, 3), (5, 5, 3)):
        gray = np.full(shape, 120, np.uint8)
        assert np.array_equal(toning_of(gray).apply(gray), gray)
        assert np.array_equal(toning_of(gray, [np.array([0, 0, 1, 1])]).apply(gray), gray)


def test_brightness_is_matched_by_one_factor_within_its_limit(astronaut):
    crop = (astronaut[60:188, 160:288] * 0.5 + 40).astype(np.uint8)
    mask = np.zeros((256, 256), np.float32)
    mask[40:216, 40:216] = 1
    enlarged = cv2.resize(crop, (256, 256), interpolation=cv2.INTER_LINEAR)
    luma = np.array([0.299, 0.587, 0.114])
    darker = np.rint(enlarged * 0.9).astype(np.uint8)
    matched = match_brightness(darker, crop, mask)
    assert abs(((matched.astype(float) - enlarged) @ luma)[mask > 0].mean()) < 1
    much_darker = np.rint(enlarged * 0.5).astype(np.uint8)
    limited = match_brightness(much_darker, crop, mask)
    assert np.array_equal(limited, np.rint(np.clip(much_darker * np.float32(1.15), 0, 255)).astype(np.uint8))
    black = np.zeros_like(enlarged)
    assert np.array_equal(match_brightness(black, crop, mask), black)
