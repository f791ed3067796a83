"""Draws faces from a StyleGAN2 prior (Karras et al., CVPR 2020), each from its own random seed.

A face depends on the weights, the seed, its index and the truncation alone, not on the number of faces or on the faces
that it shares a batch with: z and the noise of each face come from their own random generators on the CPU, and the
style network runs on one face at a time. On a CPU the synthesis does as well, since matrix libraries choose their
algorithms by the size of the batch, and a batch saves no time there. On a GPU, faces of other batch sizes may differ by
rounding. Tensors are (B, 3, S, S) float RGB, about [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gfprestore.device import face_seed
from gfprestore.errors import WeightsDamagedError
from gfprestore.networks.stylegan2 import StyleGAN2Generator
from gfprestore.restoration.restorers import in_smaller_batches
from gfprestore.weights.checkpoints import LoadedNetwork

MEAN_SAMPLES = 4096
"""Number of random codes over which the mean w is computed."""

MEAN_SEED = 0
"""Random seed of these codes: the mean w belongs to the weights, not to a set of faces."""

BATCH_ON_GPU = 8
"""Number of faces computed at once on a GPU by default."""


class FacePrior:
    """A StyleGAN2 prior that draws faces.

    Args:
        network: The prior, see `Opener.prior`.
        device: Device to compute on.
        truncation: Share of each w's distance from the mean w that is kept (psi): 1 draws from the whole distribution,
            less gives more typical faces, 0 the mean face.
        batch_size: Maximum number of faces computed at once; None chooses it. On a CPU it is always 1.
    """

    def __init__(
        self, network: LoadedNetwork, device: torch.device, truncation: float = 1.0, batch_size: int | None = None
    ) -> None:
        assert isinstance(network.module, StyleGAN2Generator)
        self.network = network
        self.device = device
        self.truncation = truncation
        self.size: int = network.config.size
        self.most_at_once = 1 if device.type == "cpu" else batch_size or BATCH_ON_GPU
        self._mean_w = _mean_w(network.module)
        self._generator = network.module.to(device)

    def draw(self, seed: int, indices: Sequence[int]) -> Tensor:
        """Draw faces; when memory runs out, fewer at once.

        Args:
            seed: Random seed of the set.
            indices: Numbers of the faces within the set.

        Returns:
            (B, 3, S, S) float32 on the CPU, not clamped.

        Raises:
            DeviceError: The memory is too small for a single face.
            WeightsDamagedError: A face is NaN or infinite.
        """
        face = f"one face of {self.size} pixels"
        faces = in_smaller_batches(
            lambda part: self._synthesized(seed, indices[part]), len(indices), self.device, face, self.most_at_once
        )
        if not faces.isfinite().all():
            raise WeightsDamagedError(
                f"{self.network.path} draws NaN or infinite values: its training diverged. Use another prior."
            )
        return faces

    @torch.inference_mode()
    def _synthesized(self, seed: int, indices: Sequence[int]) -> Tensor:
        generator = self._generator
        latents = torch.cat([self._latents(seed, index) for index in indices])
        noise = generator.seeded_noise([face_seed(seed, "noise", index) for index in indices])
        faces: Tensor = generator(latents, noise)
        return faces.float().cpu()

    def _latents(self, seed: int, index: int) -> Tensor:
        """Style codes (1, latent_count, D) of one face."""
        random = torch.Generator().manual_seed(face_seed(seed, "z", index))
        z = torch.randn(1, self._generator.style_dim, generator=random).to(self.device)
        return self._generator.latents(z, truncation=self.truncation, mean_w=self._mean_w.to(self.device))


@torch.inference_mode()
def _mean_w(generator: StyleGAN2Generator) -> Tensor:
    """Mean w (1, D) of a generator on the CPU; files of the supported layouts do not carry one."""
    return generator.mean_latent(MEAN_SAMPLES, torch.Generator().manual_seed(MEAN_SEED))
