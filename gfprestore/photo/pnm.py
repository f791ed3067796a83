"""PBM, PGM and PPM files: their header, and samples with more than 8 bits, which Pillow reduces. Opens no file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfprestore.photo.containers import Container, FileContentError
from gfprestore.photo.metadata import Metadata
from gfprestore.pixels import to_16_bit

Pixels = NDArray[Any]

_FIELD = re.compile(rb"(?:\s+|#[^\n\r]*[\n\r])*(\d{1,10})")
_COMMENT = re.compile(rb"#[^\n\r]*")
_NO_NUMBER = re.compile(rb"[^0-9\s]")
_BITMAPS = (b"P1", b"P4")
_PLAIN = (b"P1", b"P2", b"P3")
_COLOR = (b"P3", b"P6")


@dataclass(frozen=True)
class _Header:
    """Width, height, level of white, and where the samples begin."""

    width: int
    height: int
    white: int
    samples_at: int


def read(data: bytes) -> Container:
    """Read the size and the depth.

    Raises:
        FileContentError: The header is damaged.
    """
    header = _header(data)
    found = Metadata("PNM", (header.width, header.height), lossless=True, compressed=False)
    return Container(found, data, 16 if header.white > 255 else 8)


def deep_samples(data: bytes) -> Pixels:
    """Samples (H, W, C) of a file with more than 8 bits, from 0 to 65535.

    Raises:
        FileContentError: The file is truncated or damaged.
    """
    header = _header(data)
    channels = 3 if data[:2] in _COLOR else 1
    count = header.width * header.height * channels
    if data[:2] in _PLAIN:
        text = _COMMENT.sub(b"", data[header.samples_at :])
        damage = _NO_NUMBER.search(text)
        text = text if damage is None else text[: damage.start()]
        samples = np.fromstring(text, np.int64, sep=" ")[:count]
    else:
        raw = data[header.samples_at + 1 : header.samples_at + 1 + 2 * count]  # behind one white space
        samples = np.frombuffer(raw if len(raw) == 2 * count else b"", ">u2")
    if len(samples) < count:
        raise FileContentError("the file is truncated")
    return to_16_bit(np.clip(samples, 0, 65535), header.white).reshape(header.height, header.width, channels)


def _header(data: bytes) -> _Header:
    numbers = []
    at = 2
    for _ in range(2 if data[:2] in _BITMAPS else 3):
        field = _FIELD.match(data, at)
        if field is None:
            raise FileContentError("its header is damaged")
        numbers.append(int(field[1]))
        at = field.end()
    width, height, white = (*numbers, 1)[:3]
    if not width or not height or not 0 < white < 65536:
        raise FileContentError("its header is damaged")
    return _Header(width, height, white, at)
