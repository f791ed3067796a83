"""Conversions and tests of NumPy pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gfprestore.pixels import LUMA, is_gray, nearest_levels, resized, to_8_bit


def test_every_16_bit_level_becomes_the_nearest_8_bit_level() -> None:
    levels = np.arange(65536, dtype=np.uint16)
    distances = np.abs(levels[:, None].astype(np.int64) - 257 * np.arange(256))
    assert np.array_equal(to_8_bit(levels), distances.argmin(axis=1))
    assert np.array_equal(to_8_bit(levels), np.rint(levels.astype(np.float32) / 257))


def test_8_bit_pixels_stay_the_same_array() -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    assert to_8_bit(pixels) is pixels


@pytest.mark.parametrize(("dtype", "most"), [(np.uint8, 255), (np.uint16, 65535)])
def test_values_become_the_nearest_levels_within_the_range(dtype: type[np.uint8 | np.uint16], most: int) -> None:
    values = np.array([-3.0, -0.4, 0.49, 1.51, most - 0.6, most - 0.4, most + 0.6, 1e9], np.float32)
    levels = nearest_levels(values, dtype)
    assert levels.dtype == dtype
    assert levels.tolist() == [0, 0, 0, 2, most - 1, most, most, most]


@pytest.mark.parametrize(
    ("size", "interpolation"),
    [
        ((20, 15), cv2.INTER_AREA),
        ((40, 15), cv2.INTER_AREA),
        ((80, 60), cv2.INTER_CUBIC),
        ((80, 15), cv2.INTER_CUBIC),
        ((20, 60), cv2.INTER_CUBIC),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_resizing_averages_where_neither_side_grows_and_is_cubic_elsewhere(
    size: tuple[int, int], interpolation: int, dtype: type
) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (30, 40, 3), dtype)
    result = resized(pixels, *size)
    assert result.dtype == dtype
    assert np.array_equal(result, cv2.resize(pixels, size, interpolation=interpolation))


def test_resizing_to_the_same_size_keeps_every_bit() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    assert np.array_equal(resized(pixels, 9, 7), pixels)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_one_pixel_in_the_last_row_makes_an_image_colored(channel: int) -> None:
    pixels = np.full((1025, 600, 3), 7, np.uint16)
    assert is_gray(pixels)
    pixels[-1, -1, channel] = 8
    assert not is_gray(pixels)


def test_luma_weights_sum_to_one() -> None:
    assert LUMA.sum() == pytest.approx(1, abs=1e-7)
