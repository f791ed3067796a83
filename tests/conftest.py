"""Seeds for every test, and the official packages made importable."""

from __future__ import annotations

import random
import sys
import types

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


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
