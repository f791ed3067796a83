"""Progressive growing: initialize a prior from a smaller one, or the decoder of a restorer from another prior.

Training at a small size first is fast (T. Karras, T. Aila, S. Laine, J. Lehtinen, "Progressive Growing of GANs",
ICLR 2018). The added layers are initialized so that growing changes no output: the larger generator gives the enlarged
image of the smaller one, and the larger discriminator gives the logit of the smaller one for the downscaled image.
Tensors have the official names. Opens no file.
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
"""Side of the smallest scale in pixels."""

DECODER = "stylegan_decoder."
"""Prefix of the names of the decoder's tensors in a restorer."""

STYLE_SHARE = 0.1
"""Factor on the variation of a restorer's style codes when another prior replaces its decoder."""

STYLE_SAMPLES = 4096
"""Number of random codes over which the mean style of a prior is computed."""

COLOR_STEPS = 9
"""Number of values per color channel to which the new first layer of the discriminator is fitted."""


def generator_size(state: Mapping[str, Tensor]) -> int:
    """Side in pixels of the images of a StyleGAN2 generator."""
    return SMALLEST << len(_numbers(state, "to_rgbs"))


def grown_generator(state: Mapping[str, Tensor], generator: nn.Module) -> dict[str, Tensor]:
    """Initial weights of a generator from those of a smaller one.

    The weights with which the new scales contribute to the image start at zero.

    Args:
        state: Tensors of a StyleGAN2 generator, no larger than `generator`.
        generator: A StyleGAN2 generator with random weights.

    Returns:
        Tensors for `generator`; `state` itself if the sizes are equal.
    """
    scales = len(_numbers(state, "to_rgbs"))
    grown = {name: tensor for name, tensor in generator.state_dict().items() if _scale(name) > scales}
    for name in grown:
        if name.startswith("to_rgbs.") and name.endswith(".modulated_conv.weight"):
            grown[name] = torch.zeros_like(grown[name])
    return {**grown, **state}


def reinitialize_modulation(restorer: GFPGAN, prior_size: int) -> None:
    """Re-initialize the layer that computes the style codes, after a new prior has replaced the decoder.

    The style codes for the old decoder are meaningless to the new prior. Their variation is scaled down by
    `STYLE_SHARE`, and their mean becomes the mean style of the prior. If the prior is smaller than the decoder, the
    codes of the upper scales stay unchanged.

    Args:
        restorer: Restorer with the prior in its decoder; changed in place.
        prior_size: Side of the prior's images in pixels.
    """
    decoder = restorer.stylegan_decoder
    weight, bias = (restorer.final_linear.get_parameter(name) for name in ("weight", "bias"))
    codes = decoder.latent_count
    if prior_size < restorer.config.size:
        codes = 2 * (prior_size // SMALLEST).bit_length() - 1  # the next scale also uses its last code
    with torch.no_grad():
        mean_style = decoder.mean_latent(STYLE_SAMPLES)[0]
        rows = min(codes * len(mean_style), len(bias))  # a single code may serve all layers
        weight[:rows] *= STYLE_SHARE
        bias[:rows] = mean_style.repeat(rows // len(mean_style))


def grown_discriminator(state: Mapping[str, Tensor], discriminator: nn.Module) -> dict[str, Tensor]:
    """Initial weights of a discriminator from those of a smaller one.

    Args:
        state: Tensors of a StyleGAN2 discriminator, no larger than `discriminator`.
        discriminator: A StyleGAN2 discriminator with random weights.

    Returns:
        Tensors for `discriminator`; `state` itself if the sizes are equal or it belongs to another kind of network.
    """
    own = discriminator.state_dict()
    state = {name: tensor.float() for name, tensor in state.items()}  # a file may be float16
    added = len(_numbers(own, "conv_body")) - len(_numbers(state, "conv_body"))
    first_weight = state.get("conv_body.0.0.weight")
    if added <= 0 or first_weight is None or first_weight.shape[1:] != (3, 1, 1) or "conv_body.0.1.bias" not in state:
        return state
    grown = {_moved(name, added): tensor for name, tensor in state.items()}
    for block in range(added, 0, -1):  # from the innermost added block outwards
        grown |= {name: tensor for name, tensor in own.items() if _block(name) == block}
        inner = (grown.pop(f"conv_body.{block}.0.weight"), grown.pop(f"conv_body.{block}.1.bias"))
        outer, skip = _new_input_layer(*inner, grown[f"conv_body.{block}.skip.1.weight"].shape[1])
        grown[f"conv_body.{block - 1}.0.weight"], grown[f"conv_body.{block - 1}.1.bias"] = outer
        grown[f"conv_body.{block}.skip.1.weight"] = skip
        grown[f"conv_body.{block}.conv2.1.weight"] = torch.zeros_like(grown[f"conv_body.{block}.conv2.1.weight"])
    return grown


def _new_input_layer(weight: Tensor, bias: Tensor, count: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Input layer for larger images, and a skip connection that reproduces the features of the old input layer.

    The new layer has the filters of the old one, plus random ones. The skip is a least squares fit over all colors. It
    is exact if the new layer has at least as many filters as the old one.

    Args:
        weight: Weight (C, 3, 1, 1) of the old input layer, equalized.
        bias: Bias (C,) of the old input layer.
        count: Number of features of the new layer.

    Returns:
        Weight (count, 3, 1, 1) and bias (count,) of the new layer; weight (C, count, 1, 1) of the skip.
    """
    added = max(0, count - len(weight))
    outer = torch.cat([weight[:count], torch.randn(added, *weight.shape[1:])])
    outer_bias = torch.cat([bias[:count], torch.zeros(added)])
    steps = torch.linspace(-1, 1, COLOR_STEPS)
    colors = torch.cartesian_prod(steps, steps, steps)
    wanted, given = (_activated(colors, *layer).double() for layer in ((weight, bias), (outer, outer_bias)))
    # a residual block divides its sum by sqrt(2), an equalized layer its weights by the root of its inputs
    fit = torch.linalg.lstsq(given, wanted * math.sqrt(2)).solution.T * math.sqrt(count)
    return (outer, outer_bias), fit.to(weight.dtype)[:, :, None, None]


def _activated(colors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Activations (N, C) of an input layer for colors (N, 3)."""
    gain = 1 / math.sqrt(weight.shape[1])
    return F.leaky_relu((colors @ weight[:, :, 0, 0].T * gain + bias) * ACTIVATION_GAIN, LEAK)


def _moved(name: str, added: int) -> str:
    """Name of a discriminator's tensor in a discriminator with more blocks."""
    if not name.startswith("conv_body."):
        return name
    part, block, rest = name.split(".", 2)
    return f"{part}.{int(block) + added}.{rest}"


def decoder_state(restorer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the decoder of a restorer, under the names of a prior."""
    return {name.removeprefix(DECODER): tensor for name, tensor in restorer.items() if name.startswith(DECODER)}


def _scale(name: str) -> int:
    """Scale of a generator's tensor; 0 is the smallest scale, and stands for tensors without a scale."""
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
    """Block number of a discriminator's tensor; 0 is the input layer, -1 stands for tensors outside the blocks."""
    return int(name.split(".")[1]) if name.startswith("conv_body.") else -1


def _numbers(state: Mapping[str, Tensor], part: str) -> set[str]:
    return {name.split(".")[1] for name in state if name.startswith(f"{part}.")}
