"""Parts of the retouching reversal: warp, field from levels, gate, and the estimate around the warped face."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gfprestore.networks.gaussian_diffusion import GaussianDiffusion
from gfprestore.networks.retouching_reversal import (
    ResidualPreconditioning,
    WarpHead,
    coordinates,
    level_gate,
    warp,
)


def constant_field(right: float, down: float, side: int) -> torch.Tensor:
    return torch.tensor([right, down]).view(1, 2, 1, 1).expand(1, 2, side, side)


@pytest.mark.parametrize("gradients", [False, True])
def test_a_field_tells_where_to_look_in_whole_pixels(gradients: bool) -> None:
    image = torch.rand(1, 3, 16, 16)
    with torch.set_grad_enabled(gradients):
        moved = warp(image, constant_field(3, -2, 16))
        still = warp(image, constant_field(0, 0, 4))
    torch.testing.assert_close(moved[:, :, 2:, :-3], image[:, :, :-2, 3:], rtol=0, atol=1e-5)
    torch.testing.assert_close(moved[:, :, 0, :-3], image[:, :, 1, 3:], rtol=0, atol=1e-5)  # mirrored at the border
    torch.testing.assert_close(still, image, rtol=0, atol=1e-5)


def test_a_coarse_field_keeps_its_pixels_of_the_image() -> None:
    ramp = torch.arange(32.0).expand(1, 3, 32, 32)
    for side in (4, 8, 32):
        assert (warp(ramp, constant_field(2.5, 1, side))[..., 4:-4] - ramp[..., 4:-4] - 2.5).abs().max() < 1e-4


def test_a_field_gets_a_gradient_from_the_image() -> None:
    field = torch.zeros(1, 2, 8, 8, requires_grad=True)
    ramp = torch.arange(8.0).expand(1, 3, 8, 8)
    warp(ramp, field)[..., 4].sum().backward()
    assert field.grad is not None
    torch.testing.assert_close(field.grad[0, 0, :, 4], torch.full((8,), 3.0))


def test_coordinates_run_from_minus_1_to_1() -> None:
    found = coordinates(5, 3, torch.zeros(2, 7, 1, 1, dtype=torch.float64))
    assert found.shape == (2, 3, 5, 3) and found.dtype == torch.float64
    assert found[1, 0, 2].tolist() == [-1, 0, 1]
    assert found[1, 1, :, 0].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert found[1, 2, 2].tolist() == [1, 0, 1] and found[1, 2, 0, 0] == pytest.approx(2**0.5)


def test_the_gate_opens_at_a_fifth_of_the_highest_level() -> None:
    levels = torch.zeros(4, 6)
    levels[1, 5], levels[2, 0], levels[3, 3], levels[3, 1] = 0.05, 0.2, 1.0, 0.5
    assert level_gate(levels).flatten().tolist() == pytest.approx([0, 0.25, 1, 1])


def test_basis_fields_count_by_their_levels_and_the_free_field_stays_small() -> None:
    head = WarpHead(4, 256, levels=True)
    assert head.conv.bias is not None
    nn.init.zeros_(head.conv.weight)
    with torch.no_grad():
        head.conv.bias.copy_(torch.tensor([1.0, 0, 0, 1, -1, 2, 50, -50]))
    features = torch.randn(1, 4, 8, 8)
    smooth, whiten, eyes, slim, shrink, brow = 0.9, 0.8, 0.5, 0.25, 0.125, 0.7
    field = head(features, torch.tensor([[smooth, whiten, eyes, slim, shrink, brow]]))
    assert field.shape == (1, 2, 8, 8)
    assert field[0, :, 3, 3].tolist() == pytest.approx([4 * (eyes - shrink) + 1, 4 * (slim + 2 * shrink) - 1])
    color_only = head(features, torch.tensor([[0.1, 0, 0, 0, 0, 0]]))
    assert color_only[0, :, 3, 3].tolist() == pytest.approx([0.5, -0.5])
    assert torch.equal(head(features, torch.zeros(1, 6)), torch.zeros(1, 2, 8, 8))


def test_without_levels_the_field_is_the_output_times_2_pixels_of_256() -> None:
    head = WarpHead(4, 512, levels=False)
    assert torch.equal(head(torch.randn(1, 4, 8, 8)), torch.zeros(1, 2, 8, 8))
    assert head.conv.bias is not None
    with torch.no_grad():
        head.conv.bias.copy_(torch.tensor([1.0, -3.0]))
    assert head(torch.randn(1, 4, 8, 8))[0, :, 3, 3].tolist() == pytest.approx([4, -12])


def test_without_output_the_estimate_is_the_best_one_for_normal_data() -> None:
    """Of x0 ~ N(base, 0.05^2) given x_t: by regression on many draws."""
    process = GaussianDiffusion()
    around = ResidualPreconditioning(process.alphas_cumprod, 0.05)
    for timestep in (0, 60, 300, 999):
        base = torch.full((1, 3, 300, 300), 0.3)
        x0 = base + 0.05 * torch.randn_like(base)
        x = process.q_sample(x0, timestep, torch.randn_like(base))
        estimate = around(base, x, torch.zeros_like(base), torch.tensor([timestep]))
        error = x0 - estimate
        correlation = torch.corrcoef(torch.stack([error.flatten(), x.flatten()]))[0, 1]
        assert correlation.abs() < 0.01
        assert error.std() <= 0.0505


def test_the_output_counts_in_full_in_noise_and_hardly_in_a_clear_image() -> None:
    around = ResidualPreconditioning(GaussianDiffusion().alphas_cumprod, 0.05)
    shares = around.from_output[[0, 60, 300, 999]]
    assert shares == pytest.approx([0.1961, 0.9, 0.99, 1], abs=0.08)
    assert shares.tolist() == sorted(shares)


def test_without_a_spread_the_output_is_added_and_the_gate_scales_it() -> None:
    around = ResidualPreconditioning(GaussianDiffusion().alphas_cumprod, 0.0)
    base, x, output = torch.rand(3, 2, 3, 4, 4).unbind(0)
    timesteps = torch.tensor([0, 999])
    assert torch.equal(around(base, x, output, timesteps), base + output)
    gate = torch.tensor([0.0, 0.5]).view(2, 1, 1, 1)
    torch.testing.assert_close(around(base, x, output, timesteps, gate), base + gate * output)
    torch.testing.assert_close(F.mse_loss(around(base, x, output, timesteps, gate)[0], base[0]), torch.tensor(0.0))
