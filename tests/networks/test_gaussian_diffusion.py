"""The diffusion process against stored numbers of guided-diffusion, closed forms, and the schedulers of diffusers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gfprestore.networks.configs import Prediction, Schedule
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


def oracle_of(name: str, process: GaussianDiffusion, **options: Any) -> Any:
    """A scheduler of diffusers; its tables, which it computes in float32, replaced by the process's float64 ones."""
    diffusers: Any = pytest.importorskip("diffusers", reason="oracle of the schedulers", exc_type=ImportError)
    scheduler = getattr(diffusers, name)(
        num_train_timesteps=process.timesteps,
        clip_sample=True,
        prediction_type="epsilon" if process.prediction == "epsilon" else "sample",
        **options,
    )
    scheduler.betas = torch.from_numpy(process.betas)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, 0)
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    return scheduler


@pytest.mark.parametrize(("schedule", "name"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_the_tables_are_those_of_diffusers(schedule: Schedule, name: str) -> None:
    diffusers: Any = pytest.importorskip("diffusers", reason="oracle of the schedulers", exc_type=ImportError)
    oracle = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule=name)
    ours = GaussianDiffusion(1000, schedule)
    np.testing.assert_allclose(ours.betas, oracle.betas.numpy(), rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(ours.alphas_cumprod, oracle.alphas_cumprod.numpy(), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("prediction", ["epsilon", "x0"])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_one_ddim_step_is_that_of_diffusers(
    eta: float, prediction: Prediction, dtype: torch.dtype, limit: float
) -> None:
    ours = GaussianDiffusion(1000, "linear", prediction)
    oracle = oracle_of("DDIMScheduler", ours, set_alpha_to_one=True)
    oracle.set_timesteps(20)
    x, output, noise = torch.randn(3, 2, 3, 8, 8, dtype=dtype).unbind(0)
    for timestep, previous in ((950, 900), (500, 450), (50, 0), (0, -1)):
        expected = oracle.step(
            output, timestep, x, eta=eta, variance_noise=noise, use_clipped_model_output=True
        ).prev_sample
        found = ours.ddim_step(x, output, timestep, previous, eta, noise if eta else None)
        assert found.dtype == dtype
        assert (found - expected).abs().max() <= limit


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("prediction", ["epsilon", "x0"])
def test_one_ddpm_step_is_that_of_diffusers(prediction: Prediction, dtype: torch.dtype, limit: float) -> None:
    ours = GaussianDiffusion(1000, "linear", prediction)
    oracle = oracle_of("DDPMScheduler", ours, variance_type="fixed_large")
    x, output = torch.randn(2, 2, 3, 8, 8, dtype=dtype).unbind(0)
    for timestep in (999, 500, 100, 1, 0):
        expected = oracle.step(output, timestep, x, generator=torch.Generator().manual_seed(1)).prev_sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
        assert (ours.ddpm_step(x, output, timestep, noise) - expected).abs().max() <= limit


def test_the_posterior_follows_from_the_rule_of_bayes() -> None:
    x0, x = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64).unbind(0)
    for timestep in (1, 500, 999):
        beta, before = LINEAR.betas[timestep], LINEAR.alphas_cumprod[timestep - 1]
        precision = (1 - beta) / beta + 1 / (1 - before)
        expected = (math.sqrt(1 - beta) / beta * x + math.sqrt(before) / (1 - before) * x0) / precision
        mean, variance = LINEAR.posterior(x0, x, timestep)
        torch.testing.assert_close(mean, expected)
        assert variance == pytest.approx(1 / precision)
        batched, variances = LINEAR.posterior(x0, x, torch.tensor([timestep, timestep]))
        torch.testing.assert_close(batched, expected)
        torch.testing.assert_close(variances, torch.full((2, 1, 1, 1), 1 / precision, dtype=torch.float64))


def test_noise_is_added_step_by_step_or_at_once() -> None:
    x = x0 = torch.full((1, 3, 100, 100), 0.5, dtype=torch.float64)
    for timestep in range(40):
        beta = GaussianDiffusion(40).betas[timestep]
        x = math.sqrt(1 - beta) * x + math.sqrt(beta) * torch.randn_like(x)
        at_once = GaussianDiffusion(40).q_sample(x0, torch.tensor([timestep]), torch.randn_like(x0))
        assert x.mean().item() == pytest.approx(at_once.mean().item(), abs=0.04)
        assert x.std().item() == pytest.approx(at_once.std().item(), abs=0.03)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("timesteps", [2, 25, 200, 1000])
def test_any_number_of_timesteps_ends_in_noise(schedule: Schedule, timesteps: int) -> None:
    process = GaussianDiffusion(timesteps, schedule)
    assert (process.betas > 0).all() and (process.betas <= 0.999).all()
    assert (np.diff(process.alphas_cumprod) < 0).all() and process.alphas_cumprod[-1] < 2e-3


def test_timesteps_are_spaced_from_the_end_or_from_a_given_start() -> None:
    assert LINEAR.spaced_timesteps(25) == tuple(range(960, -1, -40))
    assert LINEAR.spaced_timesteps(3) == (666, 333, 0)
    assert LINEAR.spaced_timesteps(1000) == tuple(range(999, -1, -1))
    assert LINEAR.spaced_timesteps(4, start=400) == (400, 300, 200, 100)
    assert LINEAR.spaced_timesteps(3, start=3) == (3, 2, 1)
    assert LINEAR.spaced_timesteps(1, start=0) == (0,)
    for steps, start in ((0, None), (1001, None), (5, 3), (1, 1000), (1, -1)):
        with pytest.raises(ValueError, match="must be from"):
            LINEAR.spaced_timesteps(steps, start)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "list"])
def test_a_perfect_denoiser_brings_back_the_image_from_noise_and_from_a_truncated_start(sampler: str) -> None:
    process, target = GaussianDiffusion(), torch.rand(2, 3, 8, 8) * 2 - 1
    visited: list[int] = []

    def epsilon(x: Tensor, timesteps: Tensor) -> Tensor:
        assert timesteps.shape == (2,)
        visited.append(int(timesteps[0]))
        alpha = torch.from_numpy(process.alphas_cumprod)[timesteps].view(-1, 1, 1, 1)
        return ((x - alpha.sqrt() * target) / (1 - alpha).sqrt()).float()

    noise, sources = face_noise(generators(1, 2), 8, 8), generators(3, 4)
    truncated = process.q_sample(target, 300, noise)
    if sampler == "ddim":
        whole = process.sample_ddim(epsilon, noise, 7, eta=0.7, generators=sources)
        part = process.sample_ddim(epsilon, truncated, 3, start=300)
        assert visited == [852, 710, 568, 426, 284, 142, 0, 300, 200, 100]
    elif sampler == "ddpm":
        whole = process.sample_ddpm(epsilon, noise, sources)
        part = process.sample_ddpm(epsilon, truncated, sources, start=300)
        assert visited == [*range(999, -1, -1), *range(300, -1, -1)]
    else:
        whole = process.sample_ddim(epsilon, noise, (999, 300, 150, 60))
        part = process.sample_ddim(epsilon, truncated, [300, 20])
        assert visited == [999, 300, 150, 60, 300, 20]
    for result in (whole, part):
        assert (result - target).abs().max() < 1e-3


def test_estimates_are_limited_to_the_range_of_images() -> None:
    x = torch.full((1, 3, 4, 4), 2.0)
    assert GaussianDiffusion(prediction="x0").sample_ddim(lambda x, _: 3 * x, x, 4).max() == 1
    assert GaussianDiffusion(prediction="x0", clip_x0=False).sample_ddim(lambda x, _: 0 * x + 6, x, 4).min() == 6


def test_the_start_noise_is_normal_and_belongs_to_the_face() -> None:
    noise = face_noise(generators(3, 4, 5), 60, 60)  # 10,800 values per face
    assert noise.dtype == torch.float32
    assert (noise.mean((1, 2, 3)).abs() < 0.03).all()
    assert ((noise.std((1, 2, 3)) - 1).abs() < 0.02).all()
    assert (noise.square().square().mean((1, 2, 3)) - 3).abs().max() < 0.3  # 1.8 for uniform values of that spread
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


def test_weights_count_every_image_by_its_factor() -> None:
    process, x0, noise = GaussianDiffusion(prediction="x0"), torch.ones(3, 3, 4, 4), torch.randn(3, 3, 4, 4)
    errors = torch.tensor([1.0, 2.0, 3.0]).view(-1, 1, 1, 1)
    weights = torch.tensor([4.0, 0.0, 0.5])
    loss = process.loss(lambda *_: x0 + errors, x0, torch.tensor([1, 2, 3]), noise, weights)
    assert loss.item() == pytest.approx((4 * 1 + 0.5 * 9) / 3)


@pytest.mark.parametrize("steps", [[], [5, 5], [3, 4], [1000, 1], [4, -1]])
def test_timesteps_that_do_not_fall_within_the_process_are_refused(steps: list[int]) -> None:
    with pytest.raises(ValueError, match="timesteps must"):
        LINEAR.sample_ddim(lambda x, _: x, torch.zeros(1, 3, 4, 4), steps)


def test_invalid_settings_are_refused() -> None:
    x = torch.zeros(2, 3, 4, 4)
    for arguments, message in (((1,), "at least 2"), ((9, "square"), "schedule"), ((9, "linear", "v"), "prediction")):
        with pytest.raises(ValueError, match=message):
            GaussianDiffusion(*arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 faces need as many generators, not 1"):
        LINEAR.sample_ddpm(lambda x, _: x, x, generators(1))
    with pytest.raises(ValueError, match="start must be"):
        LINEAR.sample_ddpm(lambda x, _: x, x, generators(1, 2), start=1000)
    with pytest.raises(ValueError, match="eta must be"):
        LINEAR.sample_ddim(lambda x, _: x, x, 5, eta=1.5)
    with pytest.raises(ValueError, match="need as many generators"):
        LINEAR.sample_ddim(lambda x, _: x, x, 5, eta=0.5)
    with pytest.raises(ValueError, match="start belongs to a number of steps"):
        LINEAR.sample_ddim(lambda x, _: x, x, [5, 3], start=5)
    with pytest.raises(ValueError, match="needs noise"):
        LINEAR.ddpm_step(x, x, 5)
    with pytest.raises(ValueError, match="needs noise"):
        LINEAR.ddim_step(x, x, 5, 3, eta=1.0)
