"""Enlarge the background of a photo with Real-ESRGAN (Wang et al., ICCVW 2021) in tiles, or by plain resampling.

Pixels are (H, W, 3) RGB uint8 or uint16 and keep their type; the networks take [0, 1]. An image of H x W enlarged by s
has round(H * s) x round(W * s) pixels, at least 1 x 1.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gfprestore.device import free_memory, is_out_of_memory, release_memory
from gfprestore.errors import DeviceError
from gfprestore.networks.layers import luma
from gfprestore.networks.rrdbnet import FOLDING, RRDBNet
from gfprestore.networks.srvgg import SRVGGNetCompact
from gfprestore.pixels import enlarged_size, is_gray
from gfprestore.restoration.tiling import (
    ALIGNMENT,
    CONTEXT,
    FEATHER,
    SMALLEST_TILE,
    TileTooLargeError,
    UpscalingStopped,
    upscale_in_tiles,
)
from gfprestore.tensors import full_scale, pixels_to_unit

Pixels = NDArray[Any]
Progress = Callable[[float], None]
StopRequest = Callable[[], bool]
Network = TypeVar("Network", bound=nn.Module)

BORDER = 10
"""Mirrored pixels added at the right and the bottom of the photo, as in the released tool."""

TILE_BYTES_ON_CPU = 1100 << 20
"""Working memory of one tile on the CPU; larger tiles would save little of the context that is computed twice."""

STRIP_BYTES = 400 << 20
"""Working memory that does not grow with the tile: the strips of rows in which RRDBNet works."""

TILE_PIXELS = 1 << 20
"""Most input pixels of a tile with its context, for any amount of memory, so that progress and stops are prompt."""

FEATURE_BYTES_ON_CPU = 24 << 20
"""Most bytes of one feature map of SRVGGNetCompact on the CPU: from 32 MiB on, the C library requests new memory from
the system for each map, which would double the time."""

LEAST_PACE_PIXELS = 50_000
"""Smallest photo, in pixels, whose time tells the pace on this machine."""

PROCESSORS = Path("/proc/cpuinfo")
"""File in which Linux lists the instruction sets of the processor."""

BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}
"""Instruction sets that multiply bfloat16; without them it is slower than float32."""


class Background(Protocol):
    """A way to enlarge the whole photo, before the faces are put back."""

    name: str

    def enlarge(
        self,
        pixels: Pixels,
        upscale: float,
        *,
        on_progress: Progress | None = None,
        should_stop: StopRequest | None = None,
    ) -> Pixels:
        """Enlarge a photo.

        Args:
            pixels: Photo (H, W, 3) uint8 or uint16.
            upscale: Output pixels per photo pixel along a side.
            on_progress: Called with the finished fraction, 0 to 1.
            should_stop: Called often; returns whether to stop.

        Returns:
            Pixels (round(H * upscale), round(W * upscale), 3) of the same type. If the three channels of the photo
            are equal, so are those of the result.

        Raises:
            UpscalingStopped: `should_stop` returned true.
            DeviceError: The memory is too small for the smallest tile.
        """
        ...


class ResampledBackground:
    """Plain resampling, which adds no detail. With upscale 1 the pixels stay identical."""

    name: str
    interpolation: int

    def enlarge(
        self,
        pixels: Pixels,
        upscale: float,
        *,
        on_progress: Progress | None = None,
        should_stop: StopRequest | None = None,
    ) -> Pixels:
        """See `Background.enlarge`.

        Raises:
            UpscalingStopped: `should_stop` returned true.
        """
        if should_stop is not None and should_stop():
            raise UpscalingStopped
        enlarged = _resize(pixels, upscale, self.interpolation)
        if on_progress is not None:
            on_progress(1.0)
        return enlarged


class NoBackground(ResampledBackground):
    """`--background none`: the background is not restored, only resized bicubically to the output's size."""

    name = "none"
    interpolation = cv2.INTER_CUBIC


class LanczosBackground(ResampledBackground):
    """`--background lanczos`: the sharpest plain resampling, with a Lanczos kernel of 8 x 8 pixels."""

    name = "lanczos"
    interpolation = cv2.INTER_LANCZOS4


class NetworkBackground:
    """Real-ESRGAN in tiles, resized to the requested size.

    Args:
        module: The network with its weights; moved to `device`.
        name: Name of the weights.
        device: Device to compute on.
        dtype: Floating-point type of the inner convolutions; None uses the fastest one without a visible difference
            (`fastest_precision`). Tiles for which half precision fails are computed again in float32.
        tile: Side of a tile's core in photo pixels, without context; None chooses it from the free memory.
        on_pace: Called once, after the first photo of at least `LEAST_PACE_PIXELS`, with its seconds per megapixel on
            an otherwise idle processor: its processor time, divided by the number of threads.
    """

    def __init__(
        self,
        module: RRDBNet | SRVGGNetCompact,
        name: str,
        device: torch.device,
        dtype: torch.dtype | None = None,
        tile: int | None = None,
        on_pace: Callable[[float], None] | None = None,
    ) -> None:
        self.name = name
        self._on_pace = on_pace
        self.device = device
        self.dtype = dtype or fastest_precision(device)
        self.tile = tile
        self.scale = module.scale
        self._exact = _on_device(module, device)
        self._fast = self._exact
        if self.dtype != torch.float32:
            self._fast = _on_device(copy.deepcopy(module).lower_precision(self.dtype), device)
        self._folding = FOLDING[module.scale] if isinstance(module, RRDBNet) else 1
        self._context = context_of(module)

    def enlarge(
        self,
        pixels: Pixels,
        upscale: float,
        *,
        on_progress: Progress | None = None,
        should_stop: StopRequest | None = None,
    ) -> Pixels:
        """See `Background.enlarge`.

        Raises:
            UpscalingStopped: `should_stop` returned true.
            DeviceError: The memory is too small for the smallest tile.
        """
        height, width = pixels.shape[:2]
        output = np.empty((*enlarged_size(height, width, upscale), 3), pixels.dtype)
        padded = np.pad(pixels, ((0, BORDER), (0, BORDER), (0, 0)), mode="reflect")
        gray = is_gray(pixels)
        started = time.process_time()
        try:
            with _stoppable(self._exact, should_stop), _stoppable(self._fast, should_stop):
                upscale_in_tiles(
                    padded,
                    self.scale,
                    partial(self._upscale, gray=gray),
                    output=output,
                    tile=self._tile_size(height, width, output.nbytes),
                    size=(height, width),
                    context=self._context,
                    on_progress=on_progress,
                    should_stop=should_stop,
                    is_out_of_memory=is_out_of_memory,
                    release_memory=partial(release_memory, self.device),
                )
        except TileTooLargeError as error:
            raise DeviceError(
                f"{self.device} has too little memory for {self.name}: {error}. "
                "Close other programs or use --background lanczos."
            ) from error
        if self._on_pace is not None and height * width >= LEAST_PACE_PIXELS:
            seconds = (time.process_time() - started) / torch.get_num_threads()
            self._on_pace(seconds / (height * width / 1e6))
            self._on_pace = None
        return output

    def _tile_size(self, height: int, width: int, output_bytes: int) -> tuple[int, int]:
        """Height and width of a tile's core."""
        if self.tile is not None:
            return max(self.tile, SMALLEST_TILE), max(self.tile, SMALLEST_TILE)
        free = free_memory(self.device)
        usable = free * 3 // 4 if self.device.type == "cuda" else min((free - output_bytes) // 2, TILE_BYTES_ON_CPU)
        pixels_at_once = min((usable - STRIP_BYTES) // bytes_per_pixel(self._fast), TILE_PIXELS)
        if isinstance(self._fast, SRVGGNetCompact) and self.device.type == "cpu":
            pixels_at_once = min(
                pixels_at_once, FEATURE_BYTES_ON_CPU // (self._fast.config.features * self.dtype.itemsize)
            )
        return plan_tiles(height, width, pixels_at_once, self._context)

    def _upscale(self, tile: Pixels, *, gray: bool) -> NDArray[np.float32]:
        """Upscale a tile (h, w, 3) to levels (h * scale, w * scale, 3), or to one channel if the photo is gray."""
        height, width = tile.shape[:2]
        folded = ((0, -height % self._folding), (0, -width % self._folding), (0, 0))
        lq = pixels_to_unit(np.pad(tile, folded, mode="reflect"), self.device)
        with torch.inference_mode():
            image = self._fast(lq)
            if self._fast is not self._exact and _is_broken(image, lq):
                image = self._exact(lq)
            image = image[:, :, : height * self.scale, : width * self.scale]
            image = image.float().clamp_(0, 1)
            if gray:
                image = luma(image)  # the released tool converts to gray in the same way
            levels = image.mul_(full_scale(tile.dtype)).squeeze(0).permute(1, 2, 0)  # (C, H, W) -> (H, W, C)
            result: NDArray[np.float32] = levels.cpu().numpy()
        return result


def context_of(module: RRDBNet | SRVGGNetCompact) -> int:
    """Pixels around a tile's core that a network needs as input, so that no seam is visible.

    For SRVGGNetCompact this is the whole receptive field: its tiles equal the whole image's result, up to rounding.
    """
    if isinstance(module, SRVGGNetCompact):
        seen = module.config.convolutions + 2 + module.config.tone_radius
        return math.ceil((seen + FEATHER) / ALIGNMENT) * ALIGNMENT
    return CONTEXT


def plan_tiles(height: int, width: int, pixels_at_once: int, context: int = CONTEXT) -> tuple[int, int]:
    """Height and width of the cores that cover an image with the least work.

    Args:
        height: Height of the image.
        width: Its width.
        pixels_at_once: Largest number of pixels of a tile with its context. If even the smallest tile has more, the
            smallest is used.
        context: Pixels around a core that the network gets as input.
    """
    best, least = (SMALLEST_TILE, SMALLEST_TILE), math.inf
    for rows in range(1, math.ceil(height / SMALLEST_TILE) + 1):
        core_height = max(math.ceil(height / rows), min(height, SMALLEST_TILE))
        seen_height = min(core_height + 2 * context, height + BORDER)
        core_width = min(max(pixels_at_once // seen_height - 2 * context, SMALLEST_TILE), width)
        if seen_height * (width + BORDER) <= pixels_at_once:
            core_width = width
        columns = math.ceil(width / core_width)
        seen_width = min(math.ceil(width / columns) + 2 * context, width + BORDER)
        work = rows * columns * seen_height * seen_width
        if seen_height * seen_width <= pixels_at_once and work < least:
            best, least = (max(core_height, SMALLEST_TILE), max(math.ceil(width / columns), SMALLEST_TILE)), work
    return best


def bytes_per_pixel(module: RRDBNet | SRVGGNetCompact) -> int:
    """Working memory of a network per input pixel, without `STRIP_BYTES`; measured on the CPU."""
    image = 5 * 4 * 3 * module.scale**2  # network output, levels, weighted, resized and a temporary, all float32
    folding = module.folding if isinstance(module, RRDBNet) else 1
    features = 4 * 4 * module.config.features // folding**2  # inputs of a block and of its parts, and results
    return max(image, features)


def fastest_precision(device: torch.device) -> torch.dtype:
    """Fastest floating-point type on `device` without a visible difference.

    Half precision on CUDA. bfloat16 on a CPU that multiplies it, with AMX several times and with AVX512_BF16 twice as
    fast as float32, with the sums and the first and last layers in float32 (see `lower_precision`): on a clean photo
    at most 2 values in 10,000 differ by more than one level. Where the network turns noise into texture, any rounding
    changes that texture, by about one level on average. Otherwise float32.
    """
    if device.type == "cuda":
        return torch.float16
    if device.type == "cpu" and PROCESSORS.exists():
        flags = set(PROCESSORS.read_text(encoding="utf-8").split())
        return torch.bfloat16 if flags & BFLOAT16_FLAGS else torch.float32
    return torch.float32


def _resize(pixels: Pixels, upscale: float, interpolation: int) -> Pixels:
    """Resize pixels (H, W, 3) to the enlarged size; an exact copy if the size stays."""
    height, width = enlarged_size(pixels.shape[0], pixels.shape[1], upscale)
    resized: Pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=interpolation))
    return resized


def _on_device(module: Network, device: torch.device) -> Network:
    return module.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)


def _is_broken(image: Tensor, lq: Tensor) -> bool:
    """Whether half precision overflowed: NaN or infinite values, or black output for a brighter input."""
    if not bool(torch.isfinite(image).all()):
        return True
    level = 1 / 255
    return bool(image.amax() < level) and bool(lq.amax() > 16 * level)


@contextmanager
def _stoppable(module: nn.Module, should_stop: StopRequest | None) -> Iterator[None]:
    """Call `should_stop` before each block of the network too: a tile can take half a minute."""
    if should_stop is None:
        yield
        return

    def ask(_block: nn.Module, _inputs: tuple[Any, ...]) -> None:
        if should_stop():
            raise UpscalingStopped

    body = module.get_submodule("body")
    handles = [block.register_forward_pre_hook(ask) for block in body.children()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
