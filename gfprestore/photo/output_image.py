"""An image on its way into a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfprestore.photo.icc import bands

Pixels = NDArray[Any]


class EncodingError(ValueError):
    """The format cannot store the image; the message says why."""


@dataclass(frozen=True)
class OutputImage:
    """Pixels as they are stored in the output file.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        channels: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha.
        dtype: uint8 or uint16.
        band: The pixels (h, W, channels) of some rows.
    """

    width: int
    height: int
    channels: int
    dtype: np.dtype[Any]
    band: Callable[[slice], Pixels]

    def bands(self) -> Iterator[Pixels]:
        """All pixels, from top to bottom."""
        return (self.band(rows) for rows in bands(self.height, self.width))
