"""Non-maximum suppression of boxes, the same as torchvision's to the bit.

torchvision is not imported for it: that takes as long as importing torch, and MTCNN needs nothing else of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32], overlap: float) -> NDArray[np.int64]:
    """Drop each box that overlaps a box with a higher score; of equal scores, the earlier box counts as the higher.

    Args:
        boxes: Left, top, right and bottom edges (N, 4).
        scores: Scores (N,).
        overlap: Largest allowed share of the intersection in the union.

    Returns:
        Indices of the kept boxes by descending score.
    """
    order = np.argsort(-scores, kind="stable")
    left, top, right, bottom = np.ascontiguousarray(boxes[order].T)
    columns = np.stack([left, top, right, bottom, (right - left) * (bottom - top)])  # (5, N)
    kept: list[Any] = []
    with np.errstate(divide="ignore", invalid="ignore"):  # boxes without an area
        while len(order):
            kept.append(order[0])
            first, others = columns[:, :1], columns[:, 1:]
            corner = np.maximum(first[:2], others[:2])
            sides = np.maximum(np.minimum(first[2:4], others[2:4]) - corner, 0)
            shared = sides[0] * sides[1]
            share = shared / (first[4] + others[4] - shared)
            stays = ~(share.astype(np.float64) > overlap)
            order, columns = order[1:][stays], others[:, stays]
    return np.array(kept, np.int64)
