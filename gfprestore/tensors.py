"""Pixels (H, W, 3) <-> tensors (B, 3, H, W): the only conversions between them.

Pixels are RGB uint8 (0..255) or uint16 (0..65535). Tensors are float32 RGB, either "signed" in [-1, 1] (GFP-GAN) or
"unit" in [0, 1] (Real-ESRGAN), in channels-last memory format, which the CPU and tensor cores convolve fastest.
Imports nothing of ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def full_scale(dtype: np.dtype[Any]) -> float:
    """Largest level of a pixel type: 255.0 or 65535.0.

    Raises:
        ValueError: The type is neither uint8 nor uint16.
    """
    if dtype == np.uint8:
        return 255.0
    if dtype == np.uint16:
        return 65535.0
    raise ValueError(f"pixels are uint8 or uint16, not {dtype}")


def pixels_to_unit(pixels: NDArray[Any], device: torch.device | None = None) -> Tensor:
    """Convert pixels (H, W, 3) uint8 or uint16 to a float32 tensor (1, 3, H, W) in [0, 1], channels-last."""
    scale = full_scale(pixels.dtype)
    values = torch.from_numpy(np.ascontiguousarray(pixels).astype(np.float32))
    tensor = values.to(device).div_(scale).permute(2, 0, 1).unsqueeze(0)  # (H, W, 3) -> (1, 3, H, W), a view
    return tensor.contiguous(memory_format=torch.channels_last)


def unit_to_pixels(tensor: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert a tensor (1, 3, H, W) in [0, 1] to pixels (H, W, 3) of `dtype`, rounded and clipped."""
    values = tensor.detach().float().squeeze(0).permute(1, 2, 0)  # (1, 3, H, W) -> (H, W, 3)
    levels = values.clamp(0, 1).mul(full_scale(dtype)).round()
    return np.ascontiguousarray(levels.cpu().numpy().astype(dtype))


def pixels_to_signed(pixels: NDArray[Any], device: torch.device | None = None) -> Tensor:
    """Convert pixels (H, W, 3) uint8 or uint16 to a float32 tensor (1, 3, H, W) in [-1, 1], channels-last."""
    return pixels_to_unit(pixels, device).mul_(2).sub_(1)


def signed_to_pixels(tensor: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert a tensor (1, 3, H, W) in [-1, 1] to pixels (H, W, 3) of `dtype`, rounded and clipped."""
    return unit_to_pixels((tensor.float() + 1) / 2, dtype)
