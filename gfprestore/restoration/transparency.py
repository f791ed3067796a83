"""Enlarging photos with transparent parts without a rim.

What lies under full transparency is usually black, and any enlargement would mix it into the edge. Colors are therefore
filled outward first; together with an alpha channel that is enlarged with the same kernel, this equals premultiplied
enlargement, and it also serves networks. Pixels are (H, W, 3) uint8 or uint16, alpha (H, W) of the same type.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.photo.icc import bands
from gfprestore.pixels import enlarged_size

Pixels = NDArray[Any]

_NEIGHBORHOOD = np.ones((3, 3), np.uint8)


def filled_outward(pixels: Pixels, alpha: Pixels | None) -> Pixels:
    """Give fully transparent pixels the color of the nearest other pixel; the same array if there are none."""
    if alpha is None or alpha.all() or not alpha.any():
        return pixels
    hidden = (alpha == 0).astype(np.uint8)
    labels = cv2.distanceTransformWithLabels(hidden, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)[1]
    visible = np.flatnonzero(hidden.ravel() == 0)
    place_of_label = np.zeros(int(labels.max()) + 1, np.int64)
    place_of_label[labels.ravel()[visible]] = visible
    filled: Pixels = pixels.copy()
    colors = pixels.reshape(-1, pixels.shape[2])
    for rows in bands(*pixels.shape[:2]):
        where = hidden[rows] == 1
        filled[rows][where] = colors[place_of_label[labels[rows][where]]]
    return filled


def enlarge_alpha(alpha: Pixels, upscale: float) -> Pixels:
    """Enlarge alpha with a Lanczos kernel, kept between the levels around each pixel.

    Opaque and transparent areas stay so, without ringing, and the edge is as steep as that of the enlarged colors.
    """
    height, width = enlarged_size(alpha.shape[0], alpha.shape[1], upscale)
    if (height, width) == alpha.shape:
        return np.asarray(alpha.copy())
    lowest, highest = cv2.erode(alpha, _NEIGHBORHOOD), cv2.dilate(alpha, _NEIGHBORHOOD)
    low, high = (cv2.resize(each, (width, height), interpolation=cv2.INTER_NEAREST) for each in (lowest, highest))
    enlarged: Pixels = np.asarray(cv2.resize(alpha, (width, height), interpolation=cv2.INTER_LANCZOS4))
    np.clip(enlarged, low, high, out=enlarged)
    return enlarged
