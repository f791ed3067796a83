"""A prior of small images as the start of one of larger images, and any prior as the start of a restorer's decoder.

Faces are learned small first, which is fast, then larger (T. Karras, T. Aila, S. Laine, J. Lehtinen, "Progressive
Growing of GANs", ICLR 2018). Nothing is forgotten on the way: what is added starts so that the larger generator gives
the smaller one's image enlarged, and the larger discriminator says of an image what the smaller one says of it
shrunken. Both learn from there. Tensors have the official names. Opens no file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfprestore.networks.gfpgan import GFPGAN
from gfprestore.networks.layers import ACTIVATION_GAIN, LEAK

SMALLEST = 4
"""Pixels a side of the smallest scale."""

DECODER = "stylegan_decoder."
"""What the names of the decoder's tensors begin with in a restorer."""

STYLE_SHARE = 0.1
"""What is left of how a restorer's style codes differ from lq to lq when another prior comes into its decoder."""

STYLE_SAMPLES = 4096
"""Random codes whose mean style is taken for a prior's mean."""

COLOR_STEPS = 9
"""Values of each channel by which the discriminator's new first layer is fitted."""


def generator_size(state: Mapping[str, Tensor]) -> int:
    """Pixels a side of the images of the StyleGAN2 generator that `state` belongs to."""
    return SMALLEST << len(_numbers(state, "to_rgbs"))


def grown_generator(state: Mapping[str, Tensor], generator: nn.Module) -> dict[str, Tensor]:
    """The weights of a generator for a larger one that goes on from them.

    The weights through which the new scales reach the image are zero until they have learned.

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


def steer_anew(restorer: GFPGAN, prior_size: int) -> None:
    """Has a restorer's U-Net steer a prior that has just taken its scales of the decoder.

    What the U-Net gave the old decoder for style codes means nothing to the prior: most of it is taken away, and the
    codes start about the prior's mean. The prior may be smaller than the decoder, whose upper scales keep theirs.

    Args:
        restorer: With the prior in its decoder; changed in place.
        prior_size: Pixels a side of the prior's images.
    """
    decoder = restorer.stylegan_decoder
    weight, bias = (restorer.final_linear.get_parameter(name) for name in ("weight", "bias"))
    codes = decoder.latent_count
    if prior_size < restorer.config.size:
        codes = 2 * (prior_size // SMALLEST).bit_length() - 1  # its last code belongs to the next scale as well
    with torch.no_grad():
        mean_style = decoder.mean_latent(STYLE_SAMPLES)[0]
        rows = min(codes * len(mean_style), len(bias))  # or there is one code for all layers
        weight[:rows] *= STYLE_SHARE
        bias[:rows] = mean_style.repeat(rows // len(mean_style))


def grown_discriminator(state: Mapping[str, Tensor], discriminator: nn.Module) -> dict[str, Tensor]:
    """The weights of a discriminator for a larger one that goes on from them.

    Args:
        state: Of a StyleGAN2 discriminator, no larger than `discriminator`.
        discriminator: A StyleGAN2 discriminator with random weights.

    Returns:
        Tensors for `discriminator`; those of `state` where it is of one as large, or of no such discriminator.
    """
    own = discriminator.state_dict()
    state = {name: tensor.float() for name, tensor in state.items()}  # a file may be float16
    added = len(_numbers(own, "conv_body")) - len(_numbers(state, "conv_body"))
    taking_in = state.get("conv_body.0.0.weight")
    if added <= 0 or taking_in is None or taking_in.shape[1:] != (3, 1, 1) or "conv_body.0.1.bias" not in state:
        return state
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
    """A layer that takes larger images in, and a skip after it that gives what the smaller one gave for a color.

    The new layer has filters of the old one, and random ones beyond them; the skip is the least squares fit over all
    colors. Both are exact where there are no fewer filters than before.

    Args:
        weight: (C, 3, 1, 1) of the layer that takes smaller images in, equalized.
        bias: (C,) of it.
        count: Features of the new layer.

    Returns:
        Weight (count, 3, 1, 1) and bias (count,) of the new layer; weight (C, count, 1, 1) of the skip.
    """
    more = max(0, count - len(weight))
    outer = torch.cat([weight[:count], torch.randn(more, *weight.shape[1:])])
    outer_bias = torch.cat([bias[:count], torch.zeros(more)])
    steps = torch.linspace(-1, 1, COLOR_STEPS)
    colors = torch.cartesian_prod(steps, steps, steps)
    wanted, given = (_activated(colors, *layer).double() for layer in ((weight, bias), (outer, outer_bias)))
    # a residual block divides its sum by sqrt(2), an equalized layer its weights by the root of its inputs
    fit = torch.linalg.lstsq(given, wanted * math.sqrt(2)).solution.T * math.sqrt(count)
    return (outer, outer_bias), fit.to(weight.dtype)[:, :, None, None]


def _activated(colors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What a layer that takes images in makes of colors (N, 3): (N, C)."""
    gain = 1 / math.sqrt(weight.shape[1])
    return F.leaky_relu((colors @ weight[:, :, 0, 0].T * gain + bias) * ACTIVATION_GAIN, LEAK)


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
    """The number of a discriminator's block that a tensor belongs to, 0 taking the image in; -1 for the rest."""
    return int(name.split(".")[1]) if name.startswith("conv_body.") else -1


def _numbers(state: Mapping[str, Tensor], part: str) -> set[str]:
    return {name.split(".")[1] for name in state if name.startswith(f"{part}.")}
