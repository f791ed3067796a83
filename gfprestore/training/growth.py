"""A prior of small pictures as the start of one of larger pictures, and any prior as the start of a restorer's decoder.

Faces are learnt small first, which is fast, then larger (T. Karras, T. Aila, S. Laine, J. Lehtinen, "Progressive
Growing of GANs", ICLR 2018). Nothing is forgotten on the way: what is added starts so that the larger generator gives
the smaller one's picture enlarged, and the larger discriminator says of a picture what the smaller one says of it
shrunken. Both learn from there. Tensors have the official names. Opens no file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfprestore.networks.layers import ACTIVATION_GAIN, LEAK

SMALLEST = 4
"""Pixels a side of the smallest scale."""

DECODER = "stylegan_decoder."
"""What the names of the decoder's tensors begin with in a restorer."""

STYLE_SHARE = 0.1
"""What is left of how a restorer's style codes differ from lq to lq when another prior comes into its decoder."""

COLOUR_STEPS = 9
"""Values of each channel by which the discriminator's new first layer is fitted."""


def generator_size(state: Mapping[str, Tensor]) -> int:
    """Pixels a side of the pictures of the StyleGAN2 generator that `state` belongs to."""
    return SMALLEST << len(_numbers(state, "to_rgbs"))


def grown_generator(state: Mapping[str, Tensor], generator: nn.Module) -> dict[str, Tensor]:
    """The weights of a generator for a larger one that goes on from them.

    The weights through which the new scales reach the picture are zero until they have learnt.

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


def seated_prior(restorer: Mapping[str, Tensor], prior: Mapping[str, Tensor], mean_style: Tensor) -> dict[str, Tensor]:
    """The weights of a restorer whose decoder goes on from another prior than it was trained with.

    The prior takes its scales of the decoder; what is above them stays. What the restorer's U-Net gave its old decoder
    for style codes means nothing to the prior: most of it is taken away, and the codes start about the prior's mean.

    Args:
        restorer: Of a GFP-GAN.
        prior: Of a StyleGAN2 generator, no larger than the restorer's decoder and as wide.
        mean_style: (D,), the mean style code of the prior.

    Returns:
        Tensors with the names of `restorer`.
    """
    seated = {**restorer, **{f"{DECODER}{name}": tensor for name, tensor in prior.items()}}
    weight, bias = (seated[f"final_linear.{part}"].clone() for part in ("weight", "bias"))
    scales, own = (len(_numbers(state, "to_rgbs")) for state in (prior, decoder_state(restorer)))
    codes = 2 * scales + (2 if scales == own else 1)  # a smaller prior's last one belongs to the next scale as well
    rows = min(codes * len(mean_style), len(bias))  # or there is one code for all layers
    weight[:rows] *= STYLE_SHARE
    bias[:rows] = mean_style.repeat(rows // len(mean_style))
    return {**seated, "final_linear.weight": weight, "final_linear.bias": bias}


def grown_discriminator(state: Mapping[str, Tensor], discriminator: nn.Module) -> dict[str, Tensor]:
    """The weights of a discriminator for a larger one that goes on from them.

    Args:
        state: Of a StyleGAN2 discriminator, no larger than `discriminator`.
        discriminator: A StyleGAN2 discriminator with random weights.

    Returns:
        Tensors for `discriminator`; those of `state` where it is of one as large, or of no such discriminator.
    """
    own = discriminator.state_dict()
    added = len(_numbers(own, "conv_body")) - len(_numbers(state, "conv_body"))
    taking_in = state.get("conv_body.0.0.weight")
    if added <= 0 or taking_in is None or taking_in.shape[1:] != (3, 1, 1) or "conv_body.0.1.bias" not in state:
        return dict(state)
    grown = {_moved(name, added): tensor for name, tensor in state.items()}
    for block in range(added, 0, -1):  # from the innermost of the added blocks outwards
        grown |= {name: tensor for name, tensor in own.items() if _block(name) == block}
        inner = (grown.pop(f"conv_body.{block}.0.weight"), grown.pop(f"conv_body.{block}.1.bias"))
        outer, skip = _taken_in_as(*inner, grown[f"conv_body.{block}.skip.1.weight"].shape[1])
        grown[f"conv_body.{block - 1}.0.weight"], grown[f"conv_body.{block - 1}.1.bias"] = outer
        grown[f"conv_body.{block}.skip.1.weight"] = skip
        grown[f"conv_body.{block}.conv2.1.weight"] = torch.zeros_like(grown[f"conv_body.{block}.conv2.1.weight"])
    return grown


def _taken_in_as(weight: Tensor, bias: Tensor, count: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """A layer that takes larger pictures in, and a skip after it that gives what the smaller one gave for a colour.

    The new layer has filters of the old one, and random ones beyond them; the skip is the least squares fit over all
    colours. Both are exact where there are no fewer filters than before.

    Args:
        weight: (C, 3, 1, 1) of the layer that takes smaller pictures in, equalised.
        bias: (C,) of it.
        count: Features of the new layer.

    Returns:
        Weight (count, 3, 1, 1) and bias (count,) of the new layer; weight (C, count, 1, 1) of the skip.
    """
    more = max(0, count - len(weight))
    outer = torch.cat([weight[:count], torch.randn(more, *weight.shape[1:])])
    outer_bias = torch.cat([bias[:count], torch.zeros(more)])
    steps = torch.linspace(-1, 1, COLOUR_STEPS)
    colours = torch.cartesian_prod(steps, steps, steps)
    wanted, given = (_activated(colours, *layer).double() for layer in ((weight, bias), (outer, outer_bias)))
    # a residual block divides its sum by sqrt(2), an equalised layer its weights by the root of its inputs
    fit = torch.linalg.lstsq(given, wanted * math.sqrt(2)).solution.T * math.sqrt(count)
    return (outer, outer_bias), fit.to(weight.dtype)[:, :, None, None]


def _activated(colours: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What a layer that takes pictures in makes of colours (N, 3): (N, C)."""
    gain = 1 / math.sqrt(weight.shape[1])
    return F.leaky_relu((colours @ weight[:, :, 0, 0].T * gain + bias) * ACTIVATION_GAIN, LEAK)


def _moved(name: str, added: int) -> str:
    """The name of a discriminator's tensor in one with more blocks."""
    if not name.startswith("conv_body."):
        return name
    part, block, rest = name.split(".", 2)
    return f"{part}.{int(block) + added}.{rest}"


def decoder_state(restorer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a restorer's decoder by the names that a prior has for them."""
    return {name.removeprefix(DECODER): tensor for name, tensor in restorer.items() if name.startswith(DECODER)}


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
