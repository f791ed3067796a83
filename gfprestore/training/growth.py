"""A prior of small pictures as the start of one of larger pictures.

Faces are learnt small first, which is fast, then larger (T. Karras, T. Aila, S. Laine, J. Lehtinen, "Progressive
Growing of GANs", ICLR 2018). What a larger network has besides is random, but for the weights through which the new
scales of the generator reach the picture: they are zero, so that the picture is the small one enlarged until they have
learnt. Tensors have the official names. Opens no file.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

SMALLEST = 4
"""Pixels a side of the smallest scale."""


def generator_size(state: Mapping[str, Tensor]) -> int:
    """Pixels a side of the pictures of the StyleGAN2 generator that `state` belongs to."""
    return SMALLEST << len(_numbers(state, "to_rgbs"))


def discriminator_size(state: Mapping[str, Tensor]) -> int:
    """Pixels a side of the pictures that the StyleGAN2 discriminator which `state` belongs to looks at."""
    return SMALLEST << max(0, len(_numbers(state, "conv_body")) - 1)


def grown_generator(state: Mapping[str, Tensor], generator: nn.Module) -> dict[str, Tensor]:
    """The weights of a generator for a larger one that goes on from them.

    Args:
        state: Of a StyleGAN2 generator, no larger than `generator`.
        generator: A StyleGAN2 generator with random weights.

    Returns:
        Tensors for `generator`; of a generator as large as it, those of `state`.
    """
    scales = len(_numbers(state, "to_rgbs"))
    grown = {name: tensor for name, tensor in generator.state_dict().items() if _scale(name) > scales}
    for name in grown:
        if name.startswith("to_rgbs.") and name.endswith(".modulated_conv.weight"):
            grown[name] = torch.zeros_like(grown[name])
    return {**grown, **state}


def grown_discriminator(state: Mapping[str, Tensor], discriminator: nn.Module) -> dict[str, Tensor]:
    """The weights of a discriminator for a larger one that goes on from them.

    The layer that takes the picture in is the larger one's own.

    Args:
        state: Of a StyleGAN2 discriminator, no larger than `discriminator`.
        discriminator: A StyleGAN2 discriminator with random weights.

    Returns:
        Tensors for `discriminator`; of one as large as it, those of `state`.
    """
    own = discriminator.state_dict()
    added = len(_numbers(own, "conv_body")) - len(_numbers(state, "conv_body"))
    if added <= 0:
        return dict(state)
    grown = {name: tensor for name, tensor in own.items() if 0 <= _block(name) <= added}
    for name, tensor in state.items():
        block = _block(name)
        if block > 0:
            grown[name.replace(f"conv_body.{block}.", f"conv_body.{block + added}.", 1)] = tensor
        elif block < 0:
            grown[name] = tensor
    return grown


def _scale(name: str) -> int:
    """Which scale of a generator a tensor belongs to: 0 the smallest, and what belongs to none."""
    part, _, rest = name.partition(".")
    number = rest.split(".")[0]
    if part == "to_rgbs":
        return int(number) + 1
    if part == "style_convs":
        return int(number) // 2 + 1
    if part == "noises":
        return (int(number.removeprefix("noise")) + 1) // 2
    return 0


def _block(name: str) -> int:
    """The number of a discriminator's block that a tensor belongs to, 0 taking the picture in; -1 for the rest."""
    return int(name.split(".")[1]) if name.startswith("conv_body.") else -1


def _numbers(state: Mapping[str, Tensor], part: str) -> set[str]:
    return {name.split(".")[1] for name in state if name.startswith(f"{part}.")}
