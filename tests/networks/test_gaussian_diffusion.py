"""The diffusion process against stored numbers of guided-diffusion, closed forms, and the schedulers of diffusers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gfprestore.networks.gaussian_diffusion import Denoiser, GaussianDiffusion, face_noise

LINEAR = GaussianDiffusion(1000, "linear", "epsilon", clip_x0=False)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def ideal_denoiser(mean: float, deviation: float) -> Denoiser:
    """The noise that is expected in x_t where the data are N(mean, deviation^2) in every value."""

    def epsilon(x: Tensor, timesteps: Tensor) -> Tensor:
        alpha = torch.from_numpy(LINEAR.alphas_cumprod)[timesteps].view(-1, 1, 1, 1).to(x.dtype)
        return (1 - alpha).sqrt() * (x - alpha.sqrt() * mean) / (alpha * deviation**2 + 1 - alpha)

    return epsilon


@pytest.mark.parametrize(
    ("table", "step", "expected"),
    [
        ("alphas_cumprod", 1, 0.999780092072),
        ("alphas_cumprod", 500, 0.077796658365),
        ("alphas_cumprod", 999, 4.03582976538e-05),
        ("posterior_variance", 1, 5.4531876613e-05),
        ("posterior_variance", 999, 0.0199999835266),
        ("posterior_mean_coef1", 500, 0.00305805707563),
        ("posterior_mean_coef2", 500, 0.994104350757),
    ],
)
def test_the_linear_tables_are_those_of_guided_diffusion(table: str, step: int, expected: float) -> None:
    assert getattr(LINEAR, table)[step] == pytest.approx(expected, abs=1e-10)


def test_the_first_clipped_log_variance_repeats_the_second() -> None:
    logs = LINEAR.posterior_log_variance_clipped
    assert logs[0] == logs[1] == pytest.approx(math.log(5.4531876613e-05), abs=1e-9)


@pytest.mark.parametrize(
    ("steps", "from_zero", "slope"), [(20, 0.299552, 0.145081), (50, 0.29959, 0.17621), (1000, 0.29962, 0.19850)]
)
def test_ddim_follows_the_closed_form_of_normal_data(steps: int, from_zero: float, slope: float) -> None:
    start = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    zero, one = LINEAR.sample_ddim(ideal_denoiser(0.3, 0.2), start, steps).mean((1, 2, 3)).tolist()
    assert zero == pytest.approx(from_zero, abs=1e-5)
    assert abs(one - zero) == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_one_ddim_step_is_that_of_diffusers(eta: float) -> None:
    diffusers: Any = pytest.importorskip("diffusers", reason="oracle of the schedulers", exc_type=ImportError)
    oracle = diffusers.DDIMScheduler(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, clip_sample=True, set_alpha_to_one=True
    )
    oracle.set_timesteps(20)
    ours = GaussianDiffusion(1000, "linear", "epsilon")
    x, output, noise = torch.randn(3, 2, 3, 8, 8).unbind(0)
    for timestep, previous in ((950, 900), (500, 450), (0, -1)):
        expected = oracle.step(
            output, timestep, x, eta=eta, variance_noise=noise, use_clipped_model_output=True
        ).prev_sample
        found = ours.ddim_step(x, output, timestep, previous, eta, noise if eta else None)
        assert (found - expected).abs().max() <= 1e-5


def test_one_ddpm_step_is_that_of_diffusers() -> None:
    diffusers: Any = pytest.importorskip("diffusers", reason="oracle of the schedulers", exc_type=ImportError)
    oracle = diffusers.DDPMScheduler(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, variance_type="fixed_large", clip_sample=True
    )
    ours = GaussianDiffusion(1000, "linear", "epsilon")
    x, output = torch.randn(2, 2, 3, 8, 8).unbind(0)
    for timestep in (999, 500, 100):  # its float32 tables lose digits below
        expected = oracle.step(output, timestep, x, generator=torch.Generator().manual_seed(1)).prev_sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        assert (ours.ddpm_step(x, output, timestep, noise) - expected).abs().max() <= 1e-5


def test_the_start_noise_is_normal_and_belongs_to_the_face() -> None:
    noise = face_noise(generators(3, 4, 5), 60, 60)
    assert (noise.mean((1, 2, 3)).abs() < 0.03).all()
    assert ((noise.std((1, 2, 3)) - 1).abs() < 0.02).all()
    assert torch.equal(noise[2], face_noise(generators(5), 60, 60)[0])
    assert not torch.equal(noise[2], noise[1])


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_face_comes_out_the_same_alone_and_among_others(sampler: str) -> None:
    process = GaussianDiffusion(20, "cosine", "x0")

    def sampled(*seeds: int) -> Tensor:
        sources = generators(*seeds)
        start = face_noise(sources, 8, 8)
        if sampler == "ddpm":
            return process.sample_ddpm(lambda x, _: x.tanh(), start, sources)
        return process.sample_ddim(lambda x, _: x.tanh(), start, 5, eta=0.5, generators=sources)

    together = sampled(1, 2, 3, 4)
    assert torch.equal(together, sampled(1, 2, 3, 4))
    assert torch.equal(together[2], sampled(3)[0])
    assert not torch.equal(together[2], sampled(5)[0])


def test_the_loss_of_the_true_noise_is_zero_and_of_no_noise_its_power() -> None:
    x0, noise = torch.rand(4, 3, 8, 8) * 2 - 1, torch.randn(4, 3, 8, 8)
    timesteps = torch.tensor([0, 10, 500, 999])
    assert LINEAR.loss(lambda *_: noise, x0, timesteps, noise).item() == 0
    none = LINEAR.loss(lambda x, _: torch.zeros_like(x), x0, timesteps, noise).item()
    assert none == pytest.approx(float(np.square(noise.numpy()).mean()), rel=1e-5)


@pytest.mark.parametrize("steps", [[], [5, 5], [3, 4], [1000, 1], [4, -1]])
def test_timesteps_that_do_not_fall_within_the_process_are_refused(steps: list[int]) -> None:
    with pytest.raises(ValueError, match="timesteps must"):
        LINEAR.sample_ddim(lambda x, _: x, torch.zeros(1, 3, 4, 4), steps)
