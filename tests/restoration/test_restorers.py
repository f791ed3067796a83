"""The Restorer protocol: batches, precision, and faces that come back unusable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gfprestore.errors import DeviceError
from gfprestore.networks.configs import GFPGANConfig
from gfprestore.networks.gfpgan import GFPGAN
from gfprestore.restoration.restorers import FaceLimits, GFPGANRestorer, sound_faces

CPU = torch.device("cpu")


class Stub(nn.Module):
    """Looks like a GFP-GAN and answers with what a test wants."""

    def __init__(self, answer: Tensor | None = None, most: int = 99) -> None:
        super().__init__()
        self.config = GFPGANConfig.from_widths("clean", size=8, narrow=0.0625)
        self.parameter = nn.Parameter(torch.zeros(1))
        self.answer = answer
        self.most = most
        self.batches: list[int] = []

    def forward(self, lq: Tensor, noise_seeds: Sequence[int] | None = None) -> Tensor:
        self.batches.append(len(lq))
        if len(lq) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        if self.answer is not None and lq.dtype != torch.float32:
            return self.answer.to(lq.dtype).expand_as(lq).clone()
        return lq * 0.5


def restorer(stub: Stub, dtype: torch.dtype = torch.float32) -> GFPGANRestorer:
    return GFPGANRestorer(stub, "stub", CPU, dtype)  # type: ignore[arg-type]


def test_out_of_memory_halves_the_batch_and_every_face_comes_back_in_order() -> None:
    stub = Stub(most=2)
    crops = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 8, 8) / 5
    restored = restorer(stub).restore(crops)
    assert torch.equal(restored, crops * 0.5)
    assert stub.batches == [5, 3, 2, 2, 1]


def test_a_single_face_that_does_not_fit_is_a_device_error_that_names_the_size() -> None:
    with pytest.raises(DeviceError, match="one face of 8 px"):
        restorer(Stub(most=0)).restore(torch.zeros(3, 3, 8, 8))


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -1.0])
def test_a_half_precision_face_that_is_not_finite_or_black_is_computed_again_in_fp32(broken: float) -> None:
    crops = torch.full((2, 3, 8, 8), 0.25)
    restored = restorer(Stub(answer=torch.tensor(broken)), torch.bfloat16).restore(crops)
    assert torch.allclose(restored, torch.full_like(crops, 0.125))


def test_a_face_that_is_not_finite_in_fp32_comes_back_as_nan_and_the_others_whole() -> None:
    crops = torch.zeros(3, 3, 8, 8)
    crops[1, 0, 0, 0] = torch.nan
    restored = restorer(Stub()).restore(crops)
    assert restored[1].isnan().all()
    assert (restored[[0, 2]] == 0).all()


def test_a_black_answer_to_a_black_face_is_sound() -> None:
    black, gray = torch.full((1, 3, 8, 8), -1.0), torch.zeros(1, 3, 8, 8)
    assert sound_faces(black, black).tolist() == [True]
    assert sound_faces(gray, black).tolist() == [False]


def test_a_faces_noise_depends_on_its_seed_and_not_on_its_batch() -> None:
    module = GFPGAN(GFPGANConfig.from_widths("clean", size=16, narrow=0.0625, channel_multiplier=1))
    for parameter in module.parameters():
        if parameter.numel() == 1:  # the strength of a layer's noise
            nn.init.constant_(parameter, 0.5)
    network = GFPGANRestorer(module, "tiny", CPU)
    crops = torch.rand(4, 3, 16, 16) * 2 - 1
    together = network.restore(crops, [1, 2, 3, 4])
    alone = torch.cat([network.restore(crops[index : index + 1], [index + 1]) for index in range(4)])
    assert (together - alone).abs().max() < 1e-5
    assert (network.restore(crops[:1], [1]) - network.restore(crops[:1], [2])).abs().max() > 1e-3


@pytest.mark.parametrize(("side", "share"), [(30, 0), (40, 0), (45, 0.25), (50, 0.5), (60, 1), (2000, 1)])
def test_less_of_a_face_is_taken_toward_each_limit(side: float, share: float) -> None:
    limits = FaceLimits(least_side=(40, 60), sharpness=(0.5, 0.7))
    assert limits.share(side, 0.2) == limits.share(side, 0.5) == pytest.approx(share)
    assert limits.share(side, 0.6) == pytest.approx(min(share, 0.5))
    assert limits.share(side, 0.65) == pytest.approx(min(share, 0.25))
    assert limits.share(side, 0.7) == limits.share(side, 0.8) == pytest.approx(0, abs=1e-9)
    assert replace(limits, most_share=0.8).share(side, 0.2) == pytest.approx(0.8 * share)
    assert FaceLimits().share(side, 5.0) == 1
