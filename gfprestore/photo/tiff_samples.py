"""Samples of TIFF files that Pillow does not read or misreads: 16 bits, L*a*b*, channels without a stated meaning.

Pillow only decompresses: the data are presented to it as 8-bit gray of as many bytes. In a matrix of 884 files (types,
compressions, layouts, byte orders), this and Pillow read 708: all 420 that tifffile reads without further codecs, and
those with LZW, JPEG and Zstandard. Layout after TIFF 6.0.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from gfprestore.photo import exif
from gfprestore.photo.containers import Container, FileContentError
from gfprestore.photo.exif import Structure
from gfprestore.photo.lab import CIELAB, ICCLAB, lab_to_srgb
from gfprestore.photo.pillow_decoder import Decoded, Pixels, levels_of, loaded
from gfprestore.pixels import nearest_levels

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK = 0, 1, 2, 5
_COLORS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, CIELAB: 3, ICCLAB: 3}
_PREMULTIPLIED, _STRAIGHT = 1, 2
_LOSSLESS = (1, 5, 8, 32773, 32946, 34925, 50000)
_UNCOMPRESSED = 1
_MODELS = {3: "palette", 6: "YCbCr", 10: "ITULab", 32844: "LogL", 32845: "LogLuv"}
_CODECS = {33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 34887: "LERC", 34892: "lossy DNG", 50001: "WebP",
           50002: "JPEG XL", 52546: "JPEG XL", 34676: "SGI LogLuv", 34677: "SGI LogLuv", 34661: "JBIG"}  # fmt: skip
_WITHOUT_MEANING = (
    "its fourth channel has no stated meaning (film scanners store infrared there), so it was neither taken for "
    "transparency nor copied"
)


@dataclass(frozen=True)
class _Layout:
    """How the samples of a TIFF are stored."""

    width: int
    height: int
    samples: int
    bits: int
    photometric: int
    compression: int
    predictor: int
    extra: tuple[int, ...]
    planes: int
    tile: tuple[int, int] | None

    @property
    def colors(self) -> int:
        """Number of color channels; 0 for models that are not read here."""
        return _COLORS.get(self.photometric, 0)

    @property
    def has_alpha(self) -> bool:
        """The first extra channel is transparency."""
        return self.samples > self.colors and self.extra[:1] in ((_PREMULTIPLIED,), (_STRAIGHT,))


def decode(container: Container) -> Decoded | None:
    """Decode a TIFF; None if Pillow reads it, and `checked_extra` is to be applied to the result.

    Raises:
        FileContentError: Damaged, truncated or unsupported.
    """
    assert container.structure is not None
    layout = _layout(container.structure, container.bits)
    if layout.compression in _CODECS:
        raise FileContentError(
            f"TIFF with {_CODECS[layout.compression]} compression is not supported", unsupported=True
        )
    readable = layout.colors and layout.compression in _LOSSLESS and layout.predictor in (1, 2)
    if layout.bits == 16 and layout.photometric != _CMYK:
        if not readable or not layout.colors <= layout.samples <= 64:
            raise FileContentError("16-bit TIFF with this compression or layout is not supported", unsupported=True)
        return _samples(container.data, container.structure, layout)
    not_in_pillow = container.structure.big and container.structure.order == ">"
    if layout.bits == 8 and readable and layout.colors <= layout.samples <= 64:
        if not_in_pillow or _is_unusual(layout):
            return _samples(container.data, container.structure, layout)
    elif not_in_pillow:
        raise FileContentError("big-endian BigTIFF with this compression or layout is not supported", unsupported=True)
    return None


def checked_extra(container: Container, decoded: Decoded) -> Decoded:
    """Drop an alpha channel that the TIFF does not state, as Pillow reads it, and say which channels are lost."""
    assert container.structure is not None
    layout = _layout(container.structure, container.bits)
    if not layout.colors:
        return decoded
    alpha = decoded.alpha if layout.has_alpha or layout.samples == layout.colors else None
    return Decoded(decoded.pixels, alpha, (*decoded.warnings, *_notes(layout)), decoded.keeps_profile)


def missing_bytes(container: Container) -> int:
    """Number of bytes by which a TIFF without compression is too short; 0 with compression."""
    assert container.structure is not None
    layout = _layout(container.structure, container.bits)
    if layout.compression != _UNCOMPRESSED:
        return 0
    offsets, sizes = _pieces(container.data, container.structure, layout)
    end = max((start + size for start, size in zip(offsets, sizes, strict=True)), default=0)
    most = 64 * layout.width * layout.height + (1 << 20)  # offsets far outside are damage
    return end - len(container.data) if 0 < end - len(container.data) <= most else 0


def _layout(structure: Structure, bits: int) -> _Layout:
    """Read the layout of the first directory.

    Raises:
        FileContentError: The samples are of an unsupported type.
    """
    first = structure.chain[0]

    def number(tag: int, default: int) -> int:
        value = structure.integer(first, tag)
        return default if value is None else value

    kinds = set(structure.integers(first.find(339)) or (1,))
    if not kinds <= {1, 4}:
        named = {2: "signed", 3: "floating point"}.get(max(kinds & {2, 3}, default=0), "complex")
        raise FileContentError(f"TIFF with {named} samples of {bits} bits is not supported", unsupported=True)
    if bits not in (1, 2, 4, 8, 16):
        raise FileContentError(f"TIFF with {bits} bits per sample is not supported", unsupported=True)
    samples = number(277, 1)
    photometric = number(262, 2 if samples >= 3 else 1)
    if photometric in (10, 32844, 32845) or (bits == 16 and photometric not in (*_COLORS, _CMYK)):
        named = _MODELS.get(photometric, f"color model {photometric}")
        raise FileContentError(f"{bits}-bit TIFF with {named} samples is not supported", unsupported=True)
    return _Layout(
        number(256, 0),
        number(257, 0),
        samples,
        bits,
        photometric,
        number(259, 1),
        number(317, 1),
        structure.integers(first.find(338)),
        samples if number(284, 1) == 2 else 1,
        (number(322, 0), number(323, 0)) if first.find(324) is not None else None,
    )


def _is_unusual(layout: _Layout) -> bool:
    """Whether 8-bit samples are read here: L*a*b*, and extra channels other than one alpha channel."""
    if layout.photometric in (CIELAB, ICCLAB):
        return True
    if layout.samples == layout.colors:
        return False
    usual = {_RGB: (_PREMULTIPLIED, _STRAIGHT), _BLACK_IS_ZERO: (_STRAIGHT,)}.get(layout.photometric, ())
    return layout.samples > layout.colors + 1 or not set(layout.extra[:1]) & set(usual)


def _notes(layout: _Layout) -> tuple[str, ...]:
    lost = layout.samples - layout.colors - layout.has_alpha
    if lost == 1 and not layout.has_alpha and layout.extra[:1] in ((), (0,)) and layout.samples == 4:
        return (_WITHOUT_MEANING,)
    return ("its extra channels were not copied",) if lost > 0 else ()


def _samples(data: bytes, structure: Structure, layout: _Layout) -> Decoded:
    """Decode the samples of any layout with 8 or 16 bits."""
    layers = [_plane(data, structure, layout, plane) for plane in range(layout.planes)]
    raw = layers[0] if layout.planes == 1 else np.concatenate(layers, axis=-1)
    full = np.iinfo(raw.dtype).max
    if layout.photometric == _WHITE_IS_ZERO:
        raw[..., 0] = full - raw[..., 0]
    notes = _notes(layout)
    pixels = np.ascontiguousarray(raw[..., : layout.colors])
    alpha = np.ascontiguousarray(raw[..., layout.colors]) if layout.has_alpha else None
    if layout.photometric in (CIELAB, ICCLAB):
        name = "CIELab" if layout.photometric == CIELAB else "ICCLab"
        notes = (*notes, f"its {name} colors were converted to sRGB; the output is an RGB file")
        return Decoded(lab_to_srgb(pixels, layout.photometric), alpha, notes, keeps_profile=False)
    if alpha is not None and layout.extra[0] == _PREMULTIPLIED:
        share = full / np.maximum(alpha, 1)[..., None].astype(np.float64)
        pixels = nearest_levels(pixels * share, raw.dtype)
    return Decoded(pixels, alpha, notes)


def _plane(data: bytes, structure: Structure, layout: _Layout, plane: int) -> Pixels:
    """Samples (H, W, C) of one plane, read as 8-bit gray of as many bytes, so that the decoder only unpacks."""
    first, order = structure.chain[0], structure.order
    samples, tile, width, height = layout.samples // layout.planes, layout.tile, layout.width, layout.height
    offsets, sizes = _pieces(data, structure, layout)
    share = len(offsets) // layout.planes
    if not share:
        raise FileContentError("its strips are not at the offsets in its header")
    offsets, sizes = (numbers[plane * share : (plane + 1) * share] for numbers in (offsets, sizes))
    if max(start + length for start, length in zip(offsets, sizes, strict=True)) > len(data):
        raise FileContentError("the file is truncated")
    sample_bytes = layout.bits // 8
    row_bytes = sample_bytes * samples

    def field(tag: int, *values: int) -> exif.Field:
        return exif.Field(tag, exif.LONG, len(values), struct.pack(f"{order}{len(values)}I", *values))

    filling = structure.integer(first, 266) or 1
    fields = [field(256, width * row_bytes), field(257, height), field(258, 8), field(259, layout.compression)]
    fields += [field(262, 1), field(266, filling), field(277, 1)]
    if tile:
        fields += [field(322, tile[0] * row_bytes), field(323, tile[1]), field(324, *offsets), field(325, *sizes)]
    else:
        fields += [field(273, *offsets), field(278, _strip_rows(structure, height)), field(279, *sizes)]
    at = len(data) + len(data) % 2
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", at)
    rebuilt = b"".join((head, data[8:], b"\0" * (at - len(data)), exif.serialize(fields, order, at)))
    image = loaded(rebuilt, "TIFF")
    if image.mode != "L" or image.size != (width * row_bytes, height):
        raise FileContentError("its header is inconsistent")
    stored = levels_of(image).reshape(height, -1)
    values = stored.view(f"{order}u2").astype(np.uint16) if sample_bytes == 2 else stored
    levels: Pixels = values.reshape(height, width, samples)
    if layout.predictor == 2:
        step = tile[0] if tile else width
        for left in range(0, width, step):
            part = levels[:, left : left + step]
            np.cumsum(part, axis=1, dtype=levels.dtype, out=part)
    return levels


def _strip_rows(structure: Structure, height: int) -> int:
    return min(structure.integer(structure.chain[0], 278) or height, height)


def _pieces(data: bytes, structure: Structure, layout: _Layout) -> tuple[list[int], list[int]]:
    """Offsets and sizes of all strips or tiles; sizes that are missing or too large are computed.

    Without compression the size follows from the layout. With compression a piece reaches to the next one or to the end
    of the file, as libtiff assumes.
    """
    first = structure.chain[0]
    offsets = list(structure.integers(first.find(324 if layout.tile else 273)))
    stated = structure.integers(first.find(325 if layout.tile else 279))
    sizes = list(stated) if len(stated) == len(offsets) else [0] * len(offsets)
    ends = sorted({*offsets, len(data)})
    for index, offset in enumerate(offsets):
        if layout.compression == _UNCOMPRESSED:
            needed = _unpacked_size(structure, layout, index)
            sizes[index] = min(sizes[index] or needed, needed)
        elif not sizes[index]:
            sizes[index] = next((end for end in ends if end > offset), offset) - offset
    return offsets, sizes


def _unpacked_size(structure: Structure, layout: _Layout, index: int) -> int:
    row_samples = layout.samples // layout.planes
    if layout.tile:
        return layout.tile[1] * ((layout.tile[0] * row_samples * layout.bits + 7) // 8)
    rows = _strip_rows(structure, layout.height)
    strips = -(-layout.height // max(rows, 1))
    whole = rows if (index + 1) % strips else layout.height - (strips - 1) * rows
    return whole * ((layout.width * row_samples * layout.bits + 7) // 8)
