"""Conversion between a file's ICC profile and sRGB, on which the networks were trained.

Profiles with a matrix and tone curves (Adobe RGB, Display P3, ProPhoto, gray gamma) are computed here in floating
point through the profile connection space (ICC.1:2022, annexes E and F.3); Little CMS converts
profiles with look-up tables, for 8-bit pixels only. Colors that sRGB cannot represent (saturated colors, fine steps in
the shadows) are kept as a residual in the file's own space and added again when the photo is written, so that an
unchanged image is written with exactly the same levels.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from gfprestore.pixels import nearest_levels

Pixels = NDArray[Any]
Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_BAND_PIXELS = 1 << 20
_CACHED_PIXELS = 1 << 15
_ENCODE_STEPS = 65535
# sRGB primaries adapted to D50 (IEC 61966-2-1, Bradford), columns red, green, blue.
SRGB_TO_XYZ = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)


class ProfileError(ValueError):
    """The profile cannot be used; the message says why."""


@dataclass(frozen=True)
class Conversion:
    """Conversion of a file's color space to sRGB and back, for pixels (H, W, C) uint8 or uint16; C is 3 or 1."""

    to_srgb: Callable[[Pixels], Pixels]
    from_srgb: Callable[[Pixels], Pixels]


def is_gray_profile(icc: bytes) -> bool:
    """Whether the profile describes one channel."""
    return icc[16:20] == b"GRAY"


@functools.lru_cache(maxsize=32)
def conversion_for(icc: bytes, gray: bool, bits: int) -> Conversion | None:
    """Conversion for a profile, None if the pixels are already sRGB.

    Args:
        icc: ICC profile.
        gray: The file has one color channel.
        bits: 8 or 16.

    Raises:
        ProfileError: The profile is damaged or cannot be used for these pixels.
    """
    if len(icc) < 132 or icc[36:40] != b"acsp":
        raise ProfileError("the profile is damaged")
    space = icc[16:20]
    if space != (b"GRAY" if gray else b"RGB "):
        raise ProfileError(f"the profile is for {space.decode('latin-1').strip()} pixels")
    tags = _tags(icc)
    if gray and b"kTRC" in tags:
        curve = _curve(tags[b"kTRC"])
        return _unless_identity(_gray(_lightness(curve) if icc[20:24] == b"Lab " else curve), 1)
    matrix_tags = (b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC")
    if not gray and b"A2B0" not in tags and all(tag in tags for tag in matrix_tags):
        matrix = np.stack([_xyz(tags[tag]) for tag in matrix_tags[:3]], axis=1)
        if abs(np.linalg.det(matrix)) < 1e-6:
            raise ProfileError("its primaries span no colors")
        return _unless_identity(_matrix(matrix, [_curve(tags[tag]) for tag in matrix_tags[3:]]), 3)
    if gray or bits != 8:
        raise ProfileError("its look-up tables cannot be used for gray or 16-bit pixels")
    return _unless_identity(_tables(icc), 3)


def cmyk_to_rgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Convert a CMYK image to sRGB with its profile, or by plain subtraction if the profile cannot be used."""
    if icc and icc[16:20] == b"CMYK":
        try:
            profile = ImageCms.ImageCmsProfile(BytesIO(icc))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, profile, target, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")


def bands(height: int, width: int, pixels: int = _BAND_PIXELS) -> Iterator[slice]:
    """Row slices of about `pixels` pixels each."""
    rows = max(1, pixels // max(width, 1))
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def to_working(stored: Pixels, conversion: Conversion) -> tuple[Pixels, Pixels | None]:
    """Convert stored pixels to sRGB and compute the residual that the conversion back would lose.

    Args:
        stored: Pixels (H, W, C) in the file's space; converted in place.
        conversion: The file's conversion.

    Returns:
        The same array, now sRGB, and the residual (H, W, C), signed levels in the file's space; None if it is zero.
    """
    wide = np.int16 if stored.dtype == np.uint8 else np.int32
    residual = np.empty(stored.shape, wide)
    for rows in bands(*stored.shape[:2]):
        working = conversion.to_srgb(stored[rows])
        np.subtract(stored[rows], conversion.from_srgb(working), out=residual[rows], dtype=wide)
        stored[rows] = working
    return stored, residual if residual.any() else None


def from_working(pixels: Pixels, conversion: Conversion, residual: Pixels | None, rows: slice, height: int) -> Pixels:
    """Convert a band of sRGB pixels to the file's space and add the residual of the source.

    Args:
        pixels: The band (h, W, C), sRGB.
        conversion: The file's conversion.
        residual: Residual of the whole source, of any size but the same aspect ratio.
        rows: Rows of the whole image that the band contains.
        height: Height of the whole image.
    """
    stored = conversion.from_srgb(pixels)
    if residual is None:
        return stored
    levels = stored.astype(np.float32) + _residual_band(residual, rows, height, pixels.shape[1])
    return nearest_levels(levels, stored.dtype)


def _residual_band(residual: Pixels, rows: slice, height: int, width: int) -> NDArray[np.float32]:
    """Residual for these rows, resampled bilinearly to the larger image."""
    old_height, old_width, channels = residual.shape
    if (old_height, old_width) == (height, width):
        return residual[rows].astype(np.float32)
    down = (np.arange(rows.start, rows.stop) + 0.5) * old_height / height - 0.5
    top = np.clip(np.floor(down).astype(int), 0, old_height - 1)
    bottom = np.minimum(top + 1, old_height - 1)
    share = np.clip(down - top, 0, 1).astype(np.float32)[:, None, None]
    first, last = int(top[0]), int(bottom[-1]) + 1
    across = cv2.resize(residual[first:last].astype(np.float32), (width, last - first), interpolation=cv2.INTER_LINEAR)
    across = across.reshape(last - first, width, channels)
    return np.asarray(across[top - first] * (1 - share) + across[bottom - first] * share, np.float32)


# --- matrix profiles ---------------------------------------------------------------------------------------------


def _tags(icc: bytes) -> dict[bytes, bytes]:
    count = struct.unpack(">I", icc[128:132])[0]
    tags = {}
    for index in range(min(count, 200)):
        entry = icc[132 + 12 * index : 144 + 12 * index]
        if len(entry) < 12:
            raise ProfileError("the profile is damaged")
        offset, size = struct.unpack(">II", entry[4:])
        tags[entry[:4]] = icc[offset : offset + size]
    return tags


def _xyz(tag: bytes) -> NDArray[np.float64]:
    if tag[:4] != b"XYZ " or len(tag) < 20:
        raise ProfileError("the profile is damaged")
    return np.array(struct.unpack(">3i", tag[8:20])) / 65536


def _curve(tag: bytes) -> Curve:
    """A tone curve, encoded value to linear light, both in [0, 1]."""
    kind = tag[:4]
    try:
        if kind == b"curv":
            return _sampled_curve(tag)
        if kind == b"para":
            return _parametric_curve(tag)
    except struct.error as error:
        raise ProfileError("the profile is damaged") from error
    raise ProfileError("its tone curves are of an unknown type")


def _sampled_curve(tag: bytes) -> Curve:
    count = struct.unpack(">I", tag[8:12])[0]
    if count > 65536:
        raise ProfileError("the profile is damaged")
    values = np.array(struct.unpack(f">{count}H", tag[12 : 12 + 2 * count]), dtype=np.float64)
    if count == 0:
        return lambda x: x
    if count == 1:
        gamma = max(values[0] / 256, 0.01)
        return lambda x: np.asarray(x**gamma)
    steps = np.linspace(0, 1, count)
    return lambda x: np.interp(x, steps, np.maximum.accumulate(values) / 65535)


def _parametric_curve(tag: bytes) -> Curve:
    """ICC.1 section 10.18: five forms of one power function with a straight or constant foot."""
    kind = struct.unpack(">H", tag[8:10])[0]
    count = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}.get(kind)
    if count is None:
        raise ProfileError("its tone curves are of an unknown type")
    given = [value / 65536 for value in struct.unpack(f">{count}i", tag[12 : 12 + 4 * count])]
    g, a, b = (given + [1.0, 0.0])[:3] if count == 1 else given[:3]
    c, d, e, f = 0.0, -b / a if a else 0.0, 0.0, 0.0
    if kind == 2:
        e = f = given[3]
    elif kind >= 3:
        c, d = given[3:5]
        e, f = given[5:7] if kind == 4 else (0.0, 0.0)

    def evaluate(x: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(all="ignore"):  # a damaged profile may state any exponent
            power = np.maximum(a * x + b, 0) ** g + e
        light: NDArray[np.float64] = np.clip(np.nan_to_num(np.where(x >= d, power, c * x + f)), 0, 1)
        return light

    return evaluate


def _lightness(curve: Curve) -> Curve:
    """Convert a gray curve with CIE lightness L* as output to linear light."""

    def evaluate(x: NDArray[np.float64]) -> NDArray[np.float64]:
        shade = (curve(x) * 100 + 16) / 116
        return np.where(shade > 6 / 29, shade**3, 3 * (6 / 29) ** 2 * (shade - 4 / 29))

    return evaluate


def _srgb_curve(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


@dataclass(frozen=True)
class _Tone:
    """A tone curve as tables, for one pixel type: level to linear light, and back by the square root of the light.

    The square root gives the shadows as many table entries as the curves do, so no interpolation is needed.
    """

    decode: NDArray[np.float32]
    encode: Pixels

    @staticmethod
    def of(curve: Curve, dtype: np.dtype[Any]) -> _Tone:
        full = np.iinfo(dtype).max
        levels = np.linspace(0, 1, 65536)
        light = np.maximum.accumulate(np.clip(curve(levels), 0, 1))
        wanted = np.linspace(0, 1, _ENCODE_STEPS + 1) ** 2
        encode = np.rint(np.interp(wanted, light, levels) * full).astype(dtype)
        decode = np.clip(curve(np.arange(full + 1) / full), 0, 1).astype(np.float32)
        return _Tone(decode, encode)

    def encoded(self, light: NDArray[np.float32]) -> Pixels:
        """Encode linear light as levels; the input is overwritten."""
        steps = np.sqrt(np.clip(light, 0, 1, out=light), out=light)
        return self.encode.take(np.add(np.multiply(steps, _ENCODE_STEPS, out=steps), 0.5, out=steps).astype(np.uint16))


def _through(curves: list[Curve], targets: list[Curve], matrix: NDArray[Any]) -> Callable[[Pixels], Pixels]:
    """Conversion by source curves, a matrix on linear light, and target curves."""
    cache: dict[np.dtype[Any], tuple[list[_Tone], list[_Tone]]] = {}
    weights = matrix.astype(np.float32)

    def convert(pixels: Pixels) -> Pixels:
        if pixels.dtype not in cache:
            tones = {id(curve): _Tone.of(curve, pixels.dtype) for curve in (*curves, *targets)}
            cache[pixels.dtype] = ([tones[id(curve)] for curve in curves], [tones[id(curve)] for curve in targets])
        sources, sinks = cache[pixels.dtype]
        out = np.empty_like(pixels)
        for rows in bands(pixels.shape[0], pixels.shape[1], _CACHED_PIXELS):
            light = [tone.decode.take(pixels[rows, :, index]) for index, tone in enumerate(sources)]
            for index, tone in enumerate(sinks):
                mixed = np.multiply(light[0], weights[index, 0])
                for part, weight in zip(light[1:], weights[index, 1:], strict=True):
                    mixed += part * weight
                out[rows, :, index] = tone.encoded(mixed)
        return out

    return convert


def _matrix(to_xyz: NDArray[np.float64], curves: list[Curve]) -> Conversion:
    to_srgb = np.linalg.inv(SRGB_TO_XYZ) @ to_xyz
    srgb: list[Curve] = [_srgb_curve] * 3
    return Conversion(_through(curves, srgb, to_srgb), _through(srgb, curves, np.linalg.inv(to_srgb)))


def _gray(curve: Curve) -> Conversion:
    one = np.ones((1, 1))
    return Conversion(_through([curve], [_srgb_curve], one), _through([_srgb_curve], [curve], one))


def _tables(icc: bytes) -> Conversion:
    """Conversion with a look-up table profile in both directions, by Little CMS."""
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc))
        srgb = ImageCms.createProfile("sRGB")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        forth = ImageCms.buildTransform(profile, srgb, "RGB", "RGB", intent)
        back = ImageCms.buildTransform(srgb, profile, "RGB", "RGB", intent)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise ProfileError("its look-up tables are damaged or only convert in one direction") from error

    def apply(transform: ImageCms.ImageCmsTransform) -> Callable[[Pixels], Pixels]:
        def convert(pixels: Pixels) -> Pixels:
            image = Image.fromarray(np.ascontiguousarray(pixels))
            return np.asarray(ImageCms.applyTransform(image, transform))

        return convert

    return Conversion(apply(forth), apply(back))


def _unless_identity(conversion: Conversion, channels: int) -> Conversion | None:
    """Return None if no 8-bit color changes by more than 3 levels: the profile is a variant of sRGB."""
    steps = np.linspace(0, 255, 18).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * channels), axis=-1).reshape(18, -1, channels)
    change = np.abs(conversion.to_srgb(grid).astype(int) - grid.astype(int))
    return conversion if change.max() > 3 else None
