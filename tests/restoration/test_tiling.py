"""Tiles: nothing lost, nothing repeated, no seams, no more memory than promised."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from gfprestore.restoration.tiling import (
    CONTEXT,
    FEATHER,
    AxisResampler,
    Span,
    TileTooLargeError,
    UpscalingStopped,
    upscale_in_tiles,
)

Upscale = Callable[[NDArray[Any]], NDArray[np.float32]]


def repeated(scale: int) -> Upscale:
    """Upscaling whose right answer is plain: every pixel repeated."""
    return lambda tile: np.repeat(np.repeat(tile.astype(np.float32), scale, axis=0), scale, axis=1)


def noise(height: int, width: int, dtype: type = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(1).integers(0, np.iinfo(dtype).max + 1, (height, width, 3), dtype=dtype)


def enlarged(image: NDArray[Any], scale: int, size: tuple[int, int], **options: Any) -> NDArray[Any]:
    output = np.zeros((*size, 3), image.dtype)
    options.setdefault("upscale", repeated(scale))
    options.setdefault("tile", (64, 64))
    upscale_in_tiles(image, scale, output=output, **options)
    return output


def pillow_resized(image: NDArray[Any], height: int, width: int) -> NDArray[np.float32]:
    """Lanczos-3 in floating point, by Pillow."""
    channels = [Image.fromarray(image[:, :, channel].astype(np.float32)) for channel in range(3)]
    return np.stack([np.asarray(one.resize((width, height), Image.Resampling.LANCZOS)) for one in channels], axis=2)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 330),
    width=st.integers(1, 330),
    scale=st.sampled_from([1, 2, 4]),
    tile=st.tuples(st.integers(64, 200), st.integers(64, 200)),
    dtype=st.sampled_from([np.uint8, np.uint16]),
)
def test_at_the_scale_of_the_function_every_pixel_is_exactly_its_own(
    height: int, width: int, scale: int, tile: tuple[int, int], dtype: type
) -> None:
    image = noise(height, width, dtype)
    output = enlarged(image, scale, (height * scale, width * scale), tile=tile)
    assert np.array_equal(output, image.repeat(scale, axis=0).repeat(scale, axis=1))


@pytest.mark.parametrize("upscale", [1.0, 1.37, 2.0, 2.5, 3.0, 3.99])
def test_other_sizes_are_the_whole_upscaled_image_resized_once(upscale: float) -> None:
    image = noise(215, 150)
    size = round(215 * upscale), round(150 * upscale)
    whole = image.repeat(4, axis=0).repeat(4, axis=1)
    expected = np.rint(pillow_resized(whole, *size)).clip(0, 255)
    for tile in ((64, 64), (97, 70), (500, 500)):
        output = enlarged(image, 4, size, tile=tile)
        assert np.abs(output - expected).max() <= 1


def test_sizes_beyond_the_scale_of_the_function_are_resized_too() -> None:
    image = noise(140, 90, np.uint16)
    whole = image.repeat(2, axis=0).repeat(2, axis=1)
    expected = pillow_resized(whole, 490, 315).clip(0, 65535)
    assert np.abs(enlarged(image, 2, (490, 315)) - expected).max() <= 1


def test_what_a_tile_gets_wrong_at_its_rim_is_thrown_away() -> None:
    image = noise(200, 260)
    rim = CONTEXT - FEATHER

    def wrong_at_the_rim(tile: NDArray[Any]) -> NDArray[np.float32]:
        corner = tuple(tile[0, 0])
        at_top = any(corner == tuple(pixel) for pixel in image[0])
        at_left = any(corner == tuple(pixel) for pixel in image[:, 0])
        upscaled = repeated(2)(tile)
        if not at_top:
            upscaled[: 2 * rim] = 0
        if not at_left:
            upscaled[:, : 2 * rim] = 0
        return upscaled

    output = enlarged(image, 2, (400, 520), upscale=wrong_at_the_rim)
    assert np.array_equal(output, image.repeat(2, axis=0).repeat(2, axis=1))


def test_tiles_that_differ_fade_into_each_other() -> None:
    image = np.full((256, 256, 3), 100, np.uint8)
    levels = iter(np.tile([60.0, 160.0, 110.0], 100))

    def of_another_level(tile: NDArray[Any]) -> NDArray[np.float32]:
        return np.full((len(tile) * 4, tile.shape[1] * 4, 3), next(levels), np.float32)

    output = enlarged(image, 4, (1024, 1024), upscale=of_another_level).astype(int)
    assert output.min() == 60
    assert output.max() == 160
    steps = max(np.abs(np.diff(output, axis=axis)).max() for axis in (0, 1))
    assert steps <= 3  # a hundred levels over 64 output pixels; a hard seam would be a step of fifty or more


def test_part_beyond_the_size_is_context_only() -> None:
    image = noise(130, 110)
    seen = []

    def remember(tile: NDArray[Any]) -> NDArray[np.float32]:
        seen.append(tile.shape[:2])
        return repeated(2)(tile)

    output = np.zeros((240, 200, 3), np.uint8)
    upscale_in_tiles(image, 2, remember, output=output, tile=(200, 200), size=(120, 100))
    assert seen == [(130, 110)]
    assert np.array_equal(output, image[:120, :100].repeat(2, axis=0).repeat(2, axis=1))


def test_one_channel_is_written_to_all() -> None:
    image = noise(100, 90)
    output = enlarged(image, 2, (150, 135), upscale=lambda tile: repeated(2)(tile[:, :, 1:2]))
    assert np.array_equal(output[:, :, 0], output[:, :, 1])
    assert np.array_equal(output[:, :, 0], output[:, :, 2])
    expected = pillow_resized(image.repeat(2, axis=0).repeat(2, axis=1), 150, 135)[:, :, 1].clip(0, 255)
    assert np.abs(output[:, :, 1] - expected).max() <= 1


@pytest.mark.parametrize("failing", [{0}, {3}, {2, 5}])
def test_out_of_memory_makes_the_tile_smaller_and_no_pixel_wrong(failing: set[int]) -> None:
    image = noise(500, 470)
    calls, released = [], []

    def sometimes_too_large(tile: NDArray[Any]) -> NDArray[np.float32]:
        calls.append(tile.shape)
        if len(calls) - 1 in failing:
            raise MemoryError
        return repeated(4)(tile)

    output = enlarged(
        image,
        4,
        (1000, 940),
        upscale=sometimes_too_large,
        tile=(256, 256),
        is_out_of_memory=lambda error: isinstance(error, MemoryError),
        release_memory=lambda: released.append(len(calls)),
    )
    assert released == [call + 1 for call in sorted(failing)]
    assert calls[-1][0] < calls[0][0]
    untroubled = enlarged(image, 4, (1000, 940), tile=(500, 470))
    assert np.abs(output.astype(int) - untroubled).max() <= 1


def test_out_of_memory_with_the_smallest_tile_is_an_error() -> None:
    sizes = []

    def too_large(tile: NDArray[Any]) -> NDArray[np.float32]:
        sizes.append(max(tile.shape))
        raise MemoryError

    with pytest.raises(TileTooLargeError, match="64 x 64"):
        enlarged(
            noise(600, 600),
            4,
            (2400, 2400),
            upscale=too_large,
            tile=(300, 300),
            is_out_of_memory=lambda error: isinstance(error, MemoryError),
        )
    assert len(sizes) == 4  # 300, 150, 75, 64
    assert sizes == sorted(sizes, reverse=True)


def test_other_errors_pass_through() -> None:
    def broken(tile: NDArray[Any]) -> NDArray[np.float32]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        enlarged(noise(80, 80), 2, (160, 160), upscale=broken, is_out_of_memory=lambda error: False)


def test_stop_is_asked_before_each_tile() -> None:
    calls = []

    def counted(tile: NDArray[Any]) -> NDArray[np.float32]:
        calls.append(tile)
        return repeated(1)(tile)

    with pytest.raises(UpscalingStopped):
        enlarged(noise(256, 256), 1, (256, 256), upscale=counted, should_stop=lambda: len(calls) == 3)
    assert len(calls) == 3


def test_progress_rises_to_one() -> None:
    told: list[float] = []
    enlarged(noise(256, 200), 1, (256, 200), on_progress=told.append)
    assert len(told) == 16
    assert told == sorted(set(told))
    assert told[-1] == 1.0


@pytest.mark.parametrize("options", [{"tile": (64, 63)}, {"context": FEATHER - 1}])
def test_tiles_too_small_to_fade_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        enlarged(noise(80, 80), 2, (160, 160), **options)


@pytest.mark.parametrize("upscale", [4, 2])
def test_memory_does_not_follow_the_size_of_the_image(upscale: int) -> None:
    image = noise(900, 900)
    output = np.zeros((900 * upscale, 900 * upscale, 3), np.uint8)
    tracemalloc.start()
    upscale_in_tiles(image, 4, repeated(4), output=output, tile=(128, 128))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    float_canvas = 4 * 3 * (900 * 4) ** 2
    assert peak < float_canvas / 4


def test_partial_contributions_sum_to_the_whole() -> None:
    samples = np.random.default_rng(2).random((50, 4), dtype=np.float32)
    resampler = AxisResampler(50, 33)
    whole = resampler.apply(samples, Span(0, 50), Span(0, 33))
    total = np.zeros_like(whole)
    for block in (Span(0, 7), Span(7, 30), Span(30, 50)):
        reached = resampler.reached_from(block)
        total[reached.slice()] += resampler.apply(samples[block.slice()], block, reached)
    np.testing.assert_allclose(total, whole, atol=1e-6)
