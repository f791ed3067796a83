"""Gaussian diffusion: DDPM (Ho et al., NeurIPS 2020, section 2) and DDIM (Song et al., ICLR 2021, section 4).

The schedules are the linear one of DDPM and the cosine one of Nichol and Dhariwal (ICML 2021, section 3.2). All tables
are float64; a value is cast to the dtype of the images where it is used. Images are (B, 3, H, W) float RGB in [-1, 1].
Timesteps run from 0 (nearly clean) to T - 1 (nearly noise), for the whole batch (int) or one per image (B,).

The denoiser holds the condition of a conditional model; the process never sees it. Every random number comes from a
`torch.Generator`, one per face, and is drawn on the CPU, so the noise of a face depends neither on the rest of the
batch nor on the device. Pure torch: opens no file, chooses no device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gfprestore.networks.configs import Prediction, Schedule

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""From x_t (B, 3, H, W) and timesteps (B,) to the predicted noise or x0 (B, 3, H, W)."""

Table = NDArray[np.float64]

MAX_BETA = 0.999
"""Upper limit of the noise variance of a step."""


def beta_schedule(timesteps: int, schedule: Schedule) -> Table:
    """Noise variance beta of every step.

    The linear schedule runs from 1e-4 to 0.02 over 1000 steps. With another number of steps it is scaled by
    1000 / timesteps, so that x_T is noise all the same.

    Args:
        timesteps: Number of steps T.
        schedule: `linear` or `cosine`.

    Returns:
        (T,), each in (0, 0.999].

    Raises:
        ValueError: The number of steps is not positive, or the schedule is unknown.
    """
    if timesteps < 1:
        raise ValueError(f"timesteps must be positive, not {timesteps}")
    if schedule == "linear":
        scale = 1000 / timesteps
        betas: Table = np.minimum(np.linspace(scale * 1e-4, scale * 0.02, timesteps, dtype=np.float64), MAX_BETA)
        return betas
    if schedule == "cosine":
        edges = np.arange(timesteps + 1, dtype=np.float64) / timesteps
        remaining = np.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - remaining[1:] / remaining[:-1], MAX_BETA)
        return betas
    raise ValueError(f"schedule must be linear or cosine, not {schedule!r}")


def cumulative_alphas(timesteps: int, schedule: Schedule) -> Table:
    """Share of the signal's variance in x_t, alpha-bar of DDPM, equation 4.

    Args:
        timesteps: Number of steps T.
        schedule: `linear` or `cosine`.

    Returns:
        (T,), falling.

    Raises:
        ValueError: The number of steps is not positive, or the schedule is unknown.
    """
    alphas: Table = np.cumprod(1 - beta_schedule(timesteps, schedule), dtype=np.float64)
    return alphas


def value_at(table: Table, timesteps: int | Tensor, like: Tensor) -> Tensor | float:
    """Looks values up in a table, ready to be multiplied with images.

    Args:
        table: (T,) float64.
        timesteps: One for the batch, or (B,).
        like: Images (B, C, H, W) whose dtype and device the result gets.

    Returns:
        A float for one timestep; (B, 1, 1, 1) for a timestep per image.
    """
    if isinstance(timesteps, int):
        return float(table[timesteps])
    on_device = torch.from_numpy(table).to(like.dtype).to(like.device)  # cast first: not every device has float64
    return on_device[timesteps.to(like.device)].view(-1, 1, 1, 1)


def face_noise(
    generators: Sequence[torch.Generator], height: int, width: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Draw standard normal noise face by face, each from its own generator.

    Args:
        generators: CPU generators, one per face.
        height: Rows of an image.
        width: Columns of an image.
        device: Where the result goes. The numbers are drawn on the CPU.

    Returns:
        (B, 3, height, width) float32, N(0, 1).
    """
    noise = [torch.randn(3, height, width, generator=generator, device="cpu") for generator in generators]
    return torch.stack(noise).to(device)


class GaussianDiffusion:
    """The forward process, its posterior, the training loss and the samplers.

    Attributes:
        betas: (T,) noise variance of a step.
        alphas_cumprod: (T,) alpha-bar.
        alphas_cumprod_prev: (T,) alpha-bar of the step before, 1 at 0.
        posterior_variance: (T,) beta-tilde of DDPM, equation 7.
        posterior_log_variance_clipped: (T,) its logarithm; entry 0, minus infinity, repeats entry 1.
        posterior_mean_coef1: (T,) factor of x0 in the posterior mean.
        posterior_mean_coef2: (T,) factor of x_t in the posterior mean.

    Args:
        timesteps: Number of steps T, at least 2.
        schedule: `linear` or `cosine`.
        prediction: Target of the denoiser: the noise (`epsilon`) or the clean image (`x0`).
        clip_x0: Limit every estimate of x0 to [-1, 1] while sampling.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        timesteps: int = 1000,
        schedule: Schedule = "linear",
        prediction: Prediction = "epsilon",
        *,
        clip_x0: bool = True,
    ) -> None:
        if timesteps < 2:
            raise ValueError(f"timesteps must be at least 2, not {timesteps}")
        if prediction not in ("epsilon", "x0"):
            raise ValueError(f"prediction must be epsilon or x0, not {prediction!r}")
        self.timesteps = timesteps
        self.schedule: Schedule = schedule
        self.prediction: Prediction = prediction
        self.clip_x0 = clip_x0
        self.betas = beta_schedule(timesteps, schedule)
        self.alphas_cumprod = cumulative_alphas(timesteps, schedule)
        self.alphas_cumprod_prev: Table = np.append(1.0, self.alphas_cumprod[:-1])
        remaining, before = 1 - self.alphas_cumprod, 1 - self.alphas_cumprod_prev
        self.posterior_variance: Table = self.betas * before / remaining
        self.posterior_log_variance_clipped: Table = np.log(
            np.append(self.posterior_variance[1], self.posterior_variance[1:])
        )
        self.posterior_mean_coef1: Table = self.betas * np.sqrt(self.alphas_cumprod_prev) / remaining
        self.posterior_mean_coef2: Table = before * np.sqrt(1 - self.betas) / remaining
        self._signal: Table = np.sqrt(self.alphas_cumprod)
        self._noise: Table = np.sqrt(remaining)

    def q_sample(self, x0: Tensor, timesteps: int | Tensor, noise: Tensor) -> Tensor:
        """Add noise to clean images (DDPM, equation 4); also the start of a truncated sampling run.

        Args:
            x0: (B, 3, H, W).
            timesteps: One for the batch, or (B,).
            noise: Standard normal, of the shape of x0.

        Returns:
            x_t, (B, 3, H, W).
        """
        return value_at(self._signal, timesteps, x0) * x0 + value_at(self._noise, timesteps, x0) * noise

    def posterior(self, x0: Tensor, x: Tensor, timesteps: int | Tensor) -> tuple[Tensor, Tensor | float]:
        """Distribution of x_(t-1) given x0 and x_t (DDPM, equations 6 and 7).

        Args:
            x0: (B, 3, H, W).
            x: x_t, of the same shape.
            timesteps: One for the batch, or (B,).

        Returns:
            The mean (B, 3, H, W); the variance, a float for one timestep, else (B, 1, 1, 1).
        """
        mean = (
            value_at(self.posterior_mean_coef1, timesteps, x) * x0
            + value_at(self.posterior_mean_coef2, timesteps, x) * x
        )
        return mean, value_at(self.posterior_variance, timesteps, x)

    def predicted_x0(self, x: Tensor, output: Tensor, timesteps: int | Tensor) -> Tensor:
        """Turns the denoiser's output into an estimate of x0, clipped where `clip_x0` asks for it.

        Args:
            x: x_t, (B, 3, H, W).
            output: What the denoiser predicted, of the same shape.
            timesteps: One for the batch, or (B,).

        Returns:
            (B, 3, H, W) in the dtype of x.
        """
        x0 = output.to(x.dtype)
        if self.prediction == "epsilon":
            x0 = (x - value_at(self._noise, timesteps, x) * x0) / value_at(self._signal, timesteps, x)
        return x0.clamp(-1, 1) if self.clip_x0 else x0

    def loss(
        self, denoiser: Denoiser, x0: Tensor, timesteps: Tensor, noise: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Mean squared error of the denoiser's prediction (DDPM, equation 14).

        Args:
            denoiser: The model with its condition.
            x0: Clean images, (B, 3, H, W).
            timesteps: (B,).
            noise: Standard normal, of the shape of x0.
            weights: Factor per image, (B,). All 1 by default.

        Returns:
            The mean over the batch, a scalar.
        """
        output = denoiser(self.q_sample(x0, timesteps, noise), timesteps)
        target = noise if self.prediction == "epsilon" else x0
        errors = (output.to(x0.dtype) - target).square().flatten(1).mean(1)
        return errors.mean() if weights is None else (weights * errors).mean()

    def ddpm_step(self, x: Tensor, output: Tensor, timestep: int, noise: Tensor | None = None) -> Tensor:
        """One step of ancestral sampling with the variance beta (`fixed large`).

        Args:
            x: x_t, (B, 3, H, W).
            output: The denoiser's prediction for it.
            timestep: t.
            noise: Standard normal, of the shape of x. Not used at t = 0.

        Returns:
            x_(t-1), (B, 3, H, W).

        Raises:
            ValueError: The noise is missing.
        """
        mean, _ = self.posterior(self.predicted_x0(x, output, timestep), x, timestep)
        if timestep == 0:
            return mean
        if noise is None:
            raise ValueError("a DDPM step needs noise")
        return mean + math.sqrt(self.betas[timestep]) * noise

    def ddim_step(
        self,
        x: Tensor,
        output: Tensor,
        timestep: int,
        previous: int,
        eta: float = 0.0,
        noise: Tensor | None = None,
    ) -> Tensor:
        """One step of DDIM (equations 12 and 16). The noise direction follows from the clipped x0.

        Args:
            x: x_t, (B, 3, H, W).
            output: The denoiser's prediction for it.
            timestep: t.
            previous: The timestep to go to, below t; -1 for the clean image.
            eta: Share of fresh noise, from 0 (deterministic) to 1.
            noise: Standard normal, of the shape of x. Not used with eta 0 or in the step to -1.

        Returns:
            x at `previous`, (B, 3, H, W).

        Raises:
            ValueError: The noise is missing.
        """
        here = float(self.alphas_cumprod[timestep])
        there = float(self.alphas_cumprod[previous]) if previous >= 0 else 1.0
        x0 = self.predicted_x0(x, output, timestep)
        direction = (x - math.sqrt(here) * x0) / math.sqrt(1 - here)
        sigma = eta * math.sqrt((1 - there) / (1 - here) * (1 - here / there))
        x = math.sqrt(there) * x0 + math.sqrt(max(0.0, 1 - there - sigma**2)) * direction
        if sigma == 0:
            return x
        if noise is None:
            raise ValueError("a DDIM step with eta above 0 needs noise")
        return x + sigma * noise

    def spaced_timesteps(self, steps: int, start: int | None = None) -> tuple[int, ...]:
        """Timesteps for a sampler with fewer steps than T.

        Args:
            steps: How many.
            start: The first timestep, for truncated sampling; the others are spread evenly between it and 0. By default
                the timesteps are the multiples of T // steps (`leading` spacing): 20 of 1000 begin at 950.

        Returns:
            `steps` timesteps, falling.

        Raises:
            ValueError: There are not as many timesteps.
        """
        if start is None:
            if not 1 <= steps <= self.timesteps:
                raise ValueError(f"steps must be from 1 to {self.timesteps}, not {steps}")
            stride = self.timesteps // steps
            return tuple(range((steps - 1) * stride, -1, -stride))
        if not 0 <= start < self.timesteps:
            raise ValueError(f"start must be from 0 to {self.timesteps - 1}, not {start}")
        if not 1 <= steps <= max(start, 1):
            raise ValueError(f"steps from timestep {start} must be from 1 to {max(start, 1)}, not {steps}")
        return tuple(round(start * (steps - index) / steps) for index in range(steps))

    @torch.no_grad()
    def sample_ddpm(
        self,
        denoiser: Denoiser,
        x: Tensor,
        generators: Sequence[torch.Generator],
        *,
        start: int | None = None,
    ) -> Tensor:
        """Samples with every step from `start` to 0.

        Args:
            denoiser: The model with its condition.
            x: Start, (B, 3, H, W): `face_noise`, or `q_sample` of an image at `start`.
            generators: CPU generators, one per face, that the noise of every step comes from.
            start: First timestep, T - 1 by default.

        Returns:
            Images (B, 3, H, W).

        Raises:
            ValueError: There is not one generator per face, or the start is out of range.
        """
        if len(generators) != len(x):
            raise ValueError(f"{len(x)} faces need as many generators, not {len(generators)}")
        first = self.timesteps - 1 if start is None else start
        if not 0 <= first < self.timesteps:
            raise ValueError(f"start must be from 0 to {self.timesteps - 1}, not {first}")
        for timestep in range(first, -1, -1):
            output = denoiser(x, self._batch_of(timestep, x))
            noise = self._noise_like(x, generators) if timestep > 0 else None
            x = self.ddpm_step(x, output, timestep, noise)
        return x

    @torch.no_grad()
    def sample_ddim(
        self,
        denoiser: Denoiser,
        x: Tensor,
        steps: int | Sequence[int],
        *,
        eta: float = 0.0,
        generators: Sequence[torch.Generator] | None = None,
        start: int | None = None,
    ) -> Tensor:
        """Samples with any number of steps, or with the timesteps given.

        Args:
            denoiser: The model with its condition.
            x: Start, (B, 3, H, W): `face_noise`, or `q_sample` of an image at the first timestep.
            steps: How many, spaced as `spaced_timesteps` does; or the timesteps themselves, falling.
            eta: Share of fresh noise, from 0 (deterministic) to 1 (as much as DDPM).
            generators: CPU generators, one per face. Needed with eta above 0 only.
            start: First timestep where `steps` is a number; for truncated sampling.

        Returns:
            Images (B, 3, H, W).

        Raises:
            ValueError: The timesteps, eta, the start or the generators are invalid.
        """
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be from 0 to 1, not {eta}")
        if eta > 0 and (generators is None or len(generators) != len(x)):
            raise ValueError(f"{len(x)} faces with eta above 0 need as many generators")
        timesteps = self._checked(steps, start)
        for timestep, previous in zip(timesteps, (*timesteps[1:], -1), strict=True):
            output = denoiser(x, self._batch_of(timestep, x))
            noise = None if eta == 0 or previous < 0 or generators is None else self._noise_like(x, generators)
            x = self.ddim_step(x, output, timestep, previous, eta, noise)
        return x

    def _checked(self, steps: int | Sequence[int], start: int | None) -> tuple[int, ...]:
        """The timesteps to visit.

        Raises:
            ValueError: They do not fall, are out of range, or there are none.
        """
        if isinstance(steps, int):
            return self.spaced_timesteps(steps, start)
        timesteps = tuple(int(timestep) for timestep in steps)
        if start is not None:
            raise ValueError("start belongs to a number of steps; a list of timesteps says itself where it begins")
        if not timesteps or list(timesteps) != sorted(set(timesteps), reverse=True):
            raise ValueError(f"timesteps must fall, at least one of them; not {timesteps}")
        if timesteps[0] >= self.timesteps or timesteps[-1] < 0:
            raise ValueError(f"timesteps must be from 0 to {self.timesteps - 1}, not {timesteps}")
        return timesteps

    @staticmethod
    def _batch_of(timestep: int, x: Tensor) -> Tensor:
        return torch.full((len(x),), timestep, dtype=torch.int64, device=x.device)

    @staticmethod
    def _noise_like(x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return face_noise(generators, x.shape[-2], x.shape[-1], x.device).to(x.dtype)
