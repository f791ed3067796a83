"""Seeds for every test, the official packages made importable, and small checkpoints and photos made on the spot."""

from __future__ import annotations

import random
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # so a shell starts a background job, and its children too
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_weights_of_this_machine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see the same weights everywhere: none but those they make, and those that packages carry."""
    monkeypatch.delenv("GFPRESTORE_WEIGHTS", raising=False)
    empty = tmp_path_factory.getbasetemp() / "user-data"
    monkeypatch.setattr("platformdirs.user_data_path", lambda *_args, **_options: empty)


@pytest.fixture(scope="session")
def official() -> None:
    """Makes basicsr, gfpgan and realesrgan importable; skips the test where the extra `official` is not installed.

    basicsr imports a module that torchvision >= 0.17 dropped; the alias below is all it needs of it.
    """
    from torchvision.transforms import functional

    alias = types.ModuleType("torchvision.transforms.functional_tensor")
    alias.rgb_to_grayscale = functional.rgb_to_grayscale  # type: ignore[attr-defined]
    sys.modules.setdefault(alias.__name__, alias)
    for package in ("basicsr", "gfpgan", "realesrgan"):
        pytest.importorskip(package, exc_type=ImportError)


@pytest.fixture
def official_layers(official: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official StyleGAN2 layers on the CPU: their CUDA-only bias-activation replaced by its plain definition."""
    from basicsr.archs import stylegan2_arch
    from basicsr.ops.fused_act import fused_act

    def bias_activation(x: Tensor, bias: Tensor, negative_slope: float = 0.2, scale: float = 2**0.5) -> Tensor:
        return F.leaky_relu(x + bias.view(1, -1, *[1] * (x.ndim - 2)), negative_slope) * scale

    monkeypatch.setattr(fused_act, "fused_leaky_relu", bias_activation)
    monkeypatch.setattr(stylegan2_arch, "fused_leaky_relu", bias_activation)


@pytest.fixture
def official_gfpgan(official_layers: None) -> dict[str, Any]:
    """The official GFP-GAN classes by layout."""
    from gfpgan.archs.gfpganv1_arch import GFPGANv1
    from gfpgan.archs.gfpganv1_clean_arch import GFPGANv1Clean

    return {"paper": GFPGANv1, "clean": GFPGANv1Clean}


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small GFP-GAN with random weights as the official training would, and gives its path."""

    def make(layout: str = "clean", size: int = 64, name: str = "tiny.pth") -> Path:
        from gfprestore.networks.configs import GFPGANConfig
        from gfprestore.networks.gfpgan import GFPGAN

        module = GFPGAN(GFPGANConfig.from_widths(layout, size=size, narrow=0.0625, channel_multiplier=1))  # type: ignore[arg-type]
        path = tmp_path / name
        torch.save({"params_ema": module.state_dict()}, path)
        return path

    return make


@pytest.fixture(scope="session")
def astronaut() -> NDArray[np.uint8]:
    """A public-domain portrait, (512, 512, 3) RGB: one face of about 100 pixels."""
    data: Any = pytest.importorskip("skimage.data", exc_type=ImportError)
    return np.asarray(data.astronaut(), np.uint8)
