"""Changes of a preset: the ablations of the paper, and single values set by `--set`."""

from __future__ import annotations

import math
from dataclasses import is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from gfprestore.errors import UsageError
from gfprestore.networks.configs import NAMED_SIZES
from gfprestore.training.presets import LossWeights, Preset


def _with_losses(preset: Preset, **weights: float) -> Preset:
    return replace(preset, losses=replace(preset.losses, **weights))


MATCHING_WEIGHT = 10.0
"""Weight of feature matching; the paper gives none, so this is the weight of pix2pixHD, where the loss comes from."""

ABLATIONS: dict[str, str] = {
    "no-spatial-modulation": "table 4, a: style codes only, no CS-SFT",
    "plain-sft": "table 4, b: the U-Net modulates all channels of the prior",
    "no-prior": "table 4, c: the decoder starts from random weights and is trained",
    "no-pyramid": "table 4, d: no intermediate supervision of the U-Net",
    "no-components": "no loss on eyes and mouth",
    "component-discriminator-only": "component discriminators without a loss on their features",
    "feature-matching": "L1 loss on the component features instead of their Gram matrices",
    "feature-style": "L1 loss on the Gram matrices of the component features, the choice of the paper",
}
"""Ablations of the paper (table 4, and the component loss of section 4.3) by their names in `--ablation`."""


def ablated(preset: Preset, name: str) -> Preset:
    """Apply one ablation of `ABLATIONS` to a preset.

    Raises:
        UsageError: The ablation is unknown.
    """
    match name:
        case "no-spatial-modulation":
            return replace(preset, modulation="none")
        case "plain-sft":
            return replace(preset, modulation="all")
        case "no-prior":
            return replace(preset, start="nothing", train_decoder=True)
        case "no-pyramid":
            return _with_losses(preset, pyramid=0.0)
        case "no-components":
            return replace(preset, losses=preset.losses.without("components"))
        case "component-discriminator-only":
            return _with_losses(preset, component_style=0.0, component_matching=0.0)
        case "feature-matching":
            return _with_losses(preset, component_style=0.0, component_matching=MATCHING_WEIGHT)
        case "feature-style":
            style = preset.losses.component_style or LossWeights().component_style
            return _with_losses(preset, component_style=style, component_matching=0.0)
    raise UsageError(f"--ablation {name} is unknown. Use one of {', '.join(ABLATIONS)}.")


Holder = TypeVar("Holder")
"""A preset, or a dataclass that it contains."""


def with_value(holder: Holder, assignment: str, name: str | None = None) -> Holder:
    """Change one value of a preset.

    Args:
        holder: The preset, or a dataclass that it contains.
        assignment: Argument of `--set`: `learning_rate=1e-4`, `losses.identity=8`, `milestones=100,200`,
            `reversal.hfdg=hat-s`.
        name: Name of the value within `holder`, if `holder` is a dataclass in the preset.

    Raises:
        UsageError: The name is unknown, or the value is invalid.
    """
    whole, equals, text = assignment.partition("=")
    first, _, rest = (whole if name is None else name).strip().replace("-", "_").partition(".")
    kinds = get_type_hints(type(holder))
    if not equals or first not in kinds:
        problem = f"{first} is unknown. Use one of {', '.join(kinds)}" if equals else "Use the form NAME=VALUE"
        raise UsageError(f"--set {assignment}: {problem}.")
    old = getattr(holder, first)
    if rest and not is_dataclass(old):
        raise UsageError(f"--set {assignment}: {first} does not contain other values. Use {first}=VALUE.")
    try:
        new = with_value(old, assignment, rest) if rest else _read_value(text.strip(), kinds[first])
        return replace(holder, **{first: new})  # type: ignore[type-var]
    except ValueError as error:
        raise UsageError(f"--set {assignment}: {error}.") from error


def _read_value(text: str, kind: Any) -> Any:
    """Parse a value of the command line; commas separate several numbers.

    Raises:
        ValueError: The text is not a value of this type.
    """
    options = get_args(kind)
    if get_origin(kind) is UnionType:
        if NoneType in options and text.lower() == "none":
            return None
        return _read_value(text, next(option for option in options if option is not NoneType))
    if get_origin(kind) is tuple:
        parts = [part for part in text.split(",") if part]
        each = [options[0]] * len(parts) if options[-1] is Ellipsis else list(options)
        if len(parts) != len(each):
            raise ValueError(f"it must be {len(each)} values, separated by commas")
        return tuple(_read_value(part, one) for part, one in zip(parts, each, strict=True))
    if kind is bool or get_origin(kind) is Literal:
        choices = {"true": True, "false": False} if kind is bool else {choice: choice for choice in options}
        if text not in choices:
            raise ValueError(f"it must be one of {', '.join(choices)}, not {text}")
        return choices[text]
    if kind in NAMED_SIZES:
        if text not in NAMED_SIZES[kind]:
            raise ValueError(f"it must be one of {', '.join(NAMED_SIZES[kind])}; or name one of its values after a dot")
        return NAMED_SIZES[kind][text]
    if kind not in (int, float, str):
        raise ValueError("it contains several values; name one of them after a dot")
    if kind is str:
        return text
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"it must be {'an integer' if kind is int else 'a number'}, not {text!r}")
    return value
