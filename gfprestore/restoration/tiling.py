"""Upscale a large image in overlapping, feathered tiles and resize the result to any output size.

The image is divided into adjacent cores. A tile is a core with context around it. The context is input of the upscaling
function and then discarded, except for a narrow zone on both sides of each seam, in which neighbors are blended. The
upscaled tile is resampled directly onto the output's grid, with the same phase as in the whole image, so neither the
upscaled image nor a float copy of the output is ever stored. Only the strips to which a later tile still adds are kept
between tiles. Images are (H, W, C). Imports nothing of ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CONTEXT = 56
"""Context in input pixels around a core; two neighbors overlap by twice as much."""

FEATHER = 8
"""Input pixels on either side of a seam over which neighbors are blended."""

SMALLEST_TILE = 64
"""Smallest side of a core in input pixels."""

ALIGNMENT = 4
"""Tiles begin at multiples of this, so that pixel unshuffle folds the same squares as in the whole image."""

LANCZOS_LOBES = 3
OUTPUTS_A_PRODUCT = 96
"""Output rows resampled by one matrix product: more rows multiply more zeros, fewer rows need more calls."""


class UpscalingStopped(Exception):  # noqa: N818  a request that was followed, not an error
    """`should_stop` returned true; the output is incomplete."""


class TileTooLargeError(Exception):
    """The memory is too small for the smallest tile."""


@dataclass(frozen=True)
class Span:
    """Indices from `start` up to, not including, `stop`."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def slice(self, origin: int = 0) -> slice:
        """As a slice of an array that begins at `origin`."""
        return slice(self.start - origin, self.stop - origin)


class AxisResampler:
    """Lanczos-3 along one axis, from `source` to `target` samples; antialiased where the target is smaller.

    Kernels are truncated at the image's borders and normalized, as Pillow does.
    """

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self.target = target
        step = source / target
        stretch = max(step, 1.0)
        centers = (np.arange(target) + 0.5) * step  # in source pixels, whose centers lie at halves
        first = np.ceil(centers - LANCZOS_LOBES * stretch - 0.5).astype(np.int64)
        taps = math.ceil(2 * LANCZOS_LOBES * stretch) + 1
        indices = first[:, None] + np.arange(taps)  # (target, taps)
        weights = _lanczos((indices + 0.5 - centers[:, None]) / stretch)
        weights[(indices < 0) | (indices >= source)] = 0
        self._first = first
        self._weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)

    @property
    def is_identity(self) -> bool:
        """Whether every sample is kept unchanged."""
        return self.source == self.target

    def reached_from(self, block: Span) -> Span:
        """Output samples to which the source samples of `block` contribute."""
        if self.is_identity:
            return block
        last = self._first + self._weights.shape[1]
        reached = np.flatnonzero((self._first < block.stop) & (last > block.start))
        return Span(int(reached[0]), int(reached[-1]) + 1)

    def apply(self, samples: Floats, block: Span, outputs: Span) -> Floats:
        """Contribution (len(outputs), n) of the source samples of `block`, (len(block), n), to `outputs`."""
        if self.is_identity:
            return samples[outputs.slice(block.start)]
        result = np.empty((len(outputs), samples.shape[1]), np.float32)
        for start in range(outputs.start, outputs.stop, OUTPUTS_A_PRODUCT):
            part = Span(start, min(start + OUTPUTS_A_PRODUCT, outputs.stop))
            used, matrix = self._matrix(part, block)
            np.matmul(matrix, samples[used.slice(block.start)], out=result[part.slice(outputs.start)])
        return result

    def _matrix(self, outputs: Span, block: Span) -> tuple[Span, Floats]:
        """Source samples of `block` that `outputs` use, and their weights (len(outputs), len(used))."""
        first, weights = self._first[outputs.slice()], self._weights[outputs.slice()]
        taps = weights.shape[1]
        matrix = np.zeros((len(outputs), int(first[-1] - first[0]) + taps), np.float32)
        columns = (first - first[0])[:, None] + np.arange(taps)
        np.put_along_axis(matrix, columns, weights, axis=1)
        used = Span(max(int(first[0]), block.start), min(int(first[0]) + matrix.shape[1], block.stop))
        return used, matrix[:, used.slice(int(first[0]))]


def upscale_in_tiles(
    image: NDArray[Any],
    scale: int,
    upscale: Callable[[NDArray[Any]], Floats],
    *,
    output: NDArray[Any],
    tile: tuple[int, int],
    size: tuple[int, int] | None = None,
    context: int = CONTEXT,
    on_progress: Callable[[float], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    is_out_of_memory: Callable[[BaseException], bool] | None = None,
    release_memory: Callable[[], None] | None = None,
) -> None:
    """Upscale `image` by `scale`, tile by tile, and resize the result into `output`.

    If `output` has `scale` times the image's size, nothing is resized. When memory runs out, the tile is halved and the
    row of tiles is computed again.

    Args:
        image: Pixels (H, W, C) of any type that `upscale` takes.
        scale: Output pixels of `upscale` per input pixel along a side.
        upscale: Maps pixels (h, w, C) to (h * scale, w * scale, c) in levels of `output`, not rounded; c is the
            number of output channels, or 1 to write the same values to all of them.
        output: Pixels (H', W', channels) of an integer type, written to.
        tile: Height and width of a core in input pixels, at least `SMALLEST_TILE` each; context is added to it.
        size: Height and width of the part of the image to enlarge, if the image has extra pixels at the bottom and
            right that are only context.
        context: Input pixels around a core that `upscale` gets as input; at least `FEATHER`.
        on_progress: Called after each tile with the finished fraction, 0 to 1.
        should_stop: Called before each tile; returns whether to stop.
        is_out_of_memory: Returns whether an exception of `upscale` means that a smaller tile may succeed.
        release_memory: Called before a smaller tile is tried.

    Raises:
        UpscalingStopped: `should_stop` returned true.
        TileTooLargeError: The memory is too small for the smallest tile.
        ValueError: `tile` or `context` is too small.
    """
    if min(tile) < SMALLEST_TILE or context < FEATHER:
        raise ValueError(
            f"tile must be at least {SMALLEST_TILE} and context at least {FEATHER}, not {tile} and {context}"
        )
    height, width = size or (image.shape[0], image.shape[1])
    job = _Job(
        image=image,
        scale=scale,
        upscale=upscale,
        output=output,
        height=height,
        width=width,
        context=context,
        rows=AxisResampler(height * scale, output.shape[0]),
        columns=AxisResampler(width * scale, output.shape[1]),
        on_progress=on_progress or (lambda part: None),
        should_stop=should_stop or (lambda: False),
    )
    done, waiting = 0, None
    while done < height:
        core = Span(done, done + _even_part(height - done, tile[0]))
        try:
            strip = job.row_of_tiles(core, tile[1], waiting)
        except Exception as error:
            if not (is_out_of_memory and is_out_of_memory(error)):
                raise
            if max(tile) == SMALLEST_TILE:
                raise TileTooLargeError(f"memory ran out with tiles of {tile[0]} x {tile[1]} pixels") from error
            tile = (max(tile[0] // 2, SMALLEST_TILE), max(tile[1] // 2, SMALLEST_TILE))
        else:
            done, waiting = core.stop, strip
            continue
        if release_memory:  # the exception and the tensors in its traceback are released by now
            release_memory()


@dataclass(frozen=True)
class _Strip:
    """Sums (len(span), ...) on output rows or columns `span` to which a later tile still adds."""

    span: Span
    sums: Floats


@dataclass(frozen=True)
class _Job:
    """Data that all tiles share."""

    image: NDArray[Any]
    scale: int
    upscale: Callable[[NDArray[Any]], Floats]
    output: NDArray[Any]
    height: int
    width: int
    context: int
    rows: AxisResampler
    columns: AxisResampler
    on_progress: Callable[[float], None]
    should_stop: Callable[[], bool]

    def row_of_tiles(self, core: Span, tile_width: int, above: _Strip | None) -> _Strip:
        """Write one row of tiles.

        Args:
            core: Input rows of the cores.
            tile_width: Largest width of a core.
            above: Contribution of the row above to the output rows that both reach.

        Returns:
            Contribution of this row to the output rows that the next one also reaches.
        """
        reach = self.rows.reached_from(self._faded(core, self.height))
        finished = Span(reach.start, self._begin_of_next(core, self.height, self.rows))
        below: list[Floats] = []
        left: _Strip | None = None
        for core_columns in _cores(self.width, tile_width):
            if self.should_stop():
                raise UpscalingStopped
            block = self._contribution(core, core_columns)  # (len(reach), len(columns), c)
            columns = self.columns.reached_from(self._faded(core_columns, self.width))
            if left is not None:
                block[:, left.span.slice(columns.start)] += left.sums
            ready = Span(columns.start, self._begin_of_next(core_columns, self.width, self.columns))
            left = _Strip(Span(ready.stop, columns.stop), block[:, len(ready) :].copy())
            block = block[:, : len(ready)]
            if above is not None:
                block[above.span.slice(reach.start)] += above.sums[:, ready.slice()]
            self._write(block[: len(finished)], finished, ready)
            below.append(block[len(finished) :].copy())
            self.on_progress((core.start * self.width + len(core) * core_columns.stop) / (self.height * self.width))
        return _Strip(Span(finished.stop, reach.stop), np.concatenate(below, axis=1))

    def _contribution(self, core_rows: Span, core_columns: Span) -> Floats:
        """Contribution of one tile to the output rows and columns that it reaches."""
        rows, top = self._seen(core_rows, self.image.shape[0])
        columns, left = self._seen(core_columns, self.image.shape[1])
        canvas = self.upscale(self.image[rows.slice(), columns.slice()])
        faded_rows, faded_columns = self._faded(core_rows, self.height), self._faded(core_columns, self.width)
        canvas = canvas[faded_rows.slice(top), faded_columns.slice(left)]
        canvas = canvas * self._weights(core_rows, self.height)[:, None, None]
        canvas *= self._weights(core_columns, self.width)[:, None]
        return self._resampled(canvas, faded_rows, faded_columns)

    def _resampled(self, canvas: Floats, rows: Span, columns: Span) -> Floats:
        """Resample the canvas block (rows, columns, c) to the output rows and columns that it reaches."""
        height, width, channels = canvas.shape
        if not self.rows.is_identity:
            reached = self.rows.reached_from(rows)
            canvas = self.rows.apply(canvas.reshape(height, -1), rows, reached).reshape(-1, width, channels)
        if not self.columns.is_identity:
            reached = self.columns.reached_from(columns)
            turned = np.ascontiguousarray(canvas.transpose(1, 0, 2)).reshape(width, -1)  # (W, H * c)
            turned = self.columns.apply(turned, columns, reached)
            canvas = np.ascontiguousarray(turned.reshape(len(reached), -1, channels).transpose(1, 0, 2))
        return canvas

    def _seen(self, core: Span, length: int) -> tuple[Span, int]:
        """Input pixels of the tile of `core` along an axis, and their start on the upscaled canvas."""
        start = max(core.start - self.context, 0) // ALIGNMENT * ALIGNMENT
        stop = min(-(-(core.stop + self.context) // ALIGNMENT) * ALIGNMENT, length)
        return Span(start, stop), start * self.scale

    def _faded(self, core: Span, length: int) -> Span:
        """Canvas pixels of a core along an axis, with the zones in which it is blended with its neighbors."""
        start = max(core.start - FEATHER, 0) if core.start else 0
        stop = min(core.stop + FEATHER, length) if core.stop < length else length
        return Span(start * self.scale, stop * self.scale)

    def _weights(self, core: Span, length: int) -> Floats:
        """Weight of a tile in each canvas pixel of `_faded`; the weights of neighbors sum to one."""
        faded = self._faded(core, length)
        weights = np.ones(len(faded), np.float32)
        ramp = _ramp(2 * FEATHER * self.scale)
        if core.start > 0:
            weights[: len(ramp)] = ramp
        if core.stop < length:
            weights[-len(ramp) :] = ramp[::-1]
        return weights

    def _begin_of_next(self, core: Span, length: int, axis: AxisResampler) -> int:
        """First output sample to which the tile after `core` adds."""
        if core.stop == length:
            return axis.target
        return axis.reached_from(Span((core.stop - FEATHER) * self.scale, length * self.scale)).start

    def _write(self, sums: Floats, rows: Span, columns: Span) -> None:
        levels = np.rint(sums, out=sums)
        np.clip(levels, 0, np.iinfo(self.output.dtype).max, out=levels)
        self.output[rows.slice(), columns.slice()] = levels.astype(self.output.dtype)


def _cores(length: int, tile: int) -> Iterator[Span]:
    """Adjacent spans of similar size that cover `length`, none larger than `tile`."""
    start = 0
    while start < length:
        stop = start + _even_part(length - start, tile)
        yield Span(start, stop)
        start = stop


def _even_part(left: int, tile: int) -> int:
    """Size of the next core if `left` pixels are divided into as few cores of similar size as possible."""
    return math.ceil(left / math.ceil(left / tile))


def _ramp(length: int) -> Floats:
    """Half-cosine ramp from 0 to 1; it and its mirror image sum to one."""
    return (0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / length)).astype(np.float32)


def _lanczos(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Lanczos kernel of three lobes."""
    inside = np.abs(distance) < LANCZOS_LOBES
    return np.where(inside, np.sinc(distance) * np.sinc(distance / LANCZOS_LOBES), 0.0)
