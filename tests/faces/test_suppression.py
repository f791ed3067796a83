"""Non-maximum suppression against torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import nms

from gfprestore.faces.suppression import suppress


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("overlap", [0.5, 0.7])
def test_the_boxes_that_torchvision_keeps_are_kept_in_its_order(seed: int, overlap: float) -> None:
    random = np.random.default_rng(seed)
    corners = random.integers(0, 60, (400, 2)).astype(np.float32) + random.random((400, 2), np.float32) * (seed % 2)
    sizes = random.integers(0, 30, (400, 2)).astype(np.float32)  # some have no area
    boxes = np.concatenate([corners, corners + sizes], axis=1)
    scores = random.integers(0, 50, 400).astype(np.float32) / 50  # many are equal
    expected = nms(torch.from_numpy(boxes), torch.from_numpy(scores), overlap).numpy()
    assert len(expected) < 400
    assert suppress(boxes, scores, overlap).tolist() == expected.tolist()


def test_no_boxes_give_no_boxes() -> None:
    assert suppress(np.empty((0, 4), np.float32), np.empty(0, np.float32), 0.5).tolist() == []
