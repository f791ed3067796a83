"""Face masks: classes told apart, soft edges, borders; ParseNet with random weights, and a stand-in that answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from facexlib.parsing.parsenet import ParseNet

from gfprestore.errors import WeightsError
from gfprestore.faces.parsing import FACE_CLASSES, FaceParser, soft_masks


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return ParseNet(in_size=512, out_size=512, parsing_ch=19).state_dict()


@pytest.mark.slow
def test_masks_have_the_crops_size_and_are_zero_at_the_border(state):
    crops = torch.rand(1, 3, 256, 256) * 2 - 1
    masks = FaceParser(state, torch.device("cpu")).masks(crops)
    assert masks.shape == (1, 256, 256)
    assert masks.dtype == torch.float32
    assert masks.min() >= 0
    assert masks.max() <= 1
    border = torch.cat([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]])
    assert border.max() < 1e-3


@pytest.mark.parametrize(("wanted", "inside"), [(1, True), (17, False)])  # skin, neck
def test_the_middle_of_the_mask_follows_the_class(state, wanted, inside):
    parser = FaceParser(state, torch.device("cpu"))
    logits = torch.zeros(1, 19, 512, 512)
    logits[:, wanted] = 1
    parser._network = lambda image: (logits, image)
    masks = parser.masks(torch.zeros(2, 3, 512, 512))
    assert torch.all(masks[:, 128:384, 128:384] > 0.999) if inside else torch.all(masks == 0)


def test_the_classes_are_those_that_facexlib_s_paste_keeps():
    # facexlib 0.3.0, utils/face_restoration_helper.py: the classes whose entry in its color map is 255.
    kept = [0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 255, 0, 0, 0]
    assert tuple(np.flatnonzero(kept)) == FACE_CLASSES


def test_an_edge_becomes_a_gaussian_ramp_of_15_pixels():
    hard = torch.zeros(1, 512, 512)
    hard[:, :, 256:] = 1
    ramp = soft_masks(hard)[0, 256]
    expected = [0.5 * (1 + torch.erf(torch.tensor(x / (15 * 2**0.5)))).item() for x in (-29.5, -14.5, 0.5, 15.5, 30.5)]
    assert torch.allclose(ramp[[226, 241, 256, 271, 286]], torch.tensor(expected), atol=0.005)
    assert torch.all(ramp.diff()[200:320] >= 0)


def test_weights_of_another_network_are_refused():
    with pytest.raises(WeightsError, match="not ParseNet"):
        FaceParser({"conv.weight": torch.zeros(1)}, torch.device("cpu"))
