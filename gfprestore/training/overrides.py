"""Change a preset: the paper's ablations, and single values from `--set`."""

from __future__ import annotations

import math
from dataclasses import is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from gfprestore.errors import UsageError
from gfprestore.training.presets import LossWeights, Preset


def _with_losses(preset: Preset, **weights: float) -> Preset:
    return replace(preset, losses=replace(preset.losses, **weights))


MATCHING_WEIGHT = 10.0
"""Of feature matching, which the paper compares with and gives no weight for; pix2pixHD's, where it comes from."""

ABLATIONS: dict[str, str] = {
    "no-spatial-modulation": "table 4, a: style codes only, no CS-SFT",
    "plain-sft": "table 4, b: the U-Net modulates all channels of the prior",
    "no-prior": "table 4, c: the decoder starts from random weights and learns",
    "no-pyramid": "table 4, d: no intermediate supervision of the U-Net",
    "no-components": "no loss on eyes and mouth",
    "component-discriminator-only": "component discriminators without anything compared in them",
    "feature-matching": "component features compared themselves, not their Gram matrices",
    "feature-style": "component features compared by Gram matrices: the paper's own choice",
}
"""The paper's ablations (table 4, and the component loss of section 4.3) by the names that `--ablation` takes."""


def ablated(preset: Preset, name: str) -> Preset:
    """The preset with one ablation of `ABLATIONS`.

    Raises:
        UsageError: No ablation is called so.
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
"""A preset, or a dataclass in it."""


def with_value(holder: Holder, assignment: str, name: str | None = None) -> Holder:
    """A preset with one of its values changed.

    Args:
        holder: The preset, or a dataclass in it.
        assignment: As the option `--set` takes it: `learning_rate=1e-4`, `losses.identity=8`, `milestones=100,200`.
        name: What is left of its name where `holder` is a dataclass in the preset.

    Raises:
        UsageError: There is no such value, or it cannot be this.
    """
    whole, equals, text = assignment.partition("=")
    first, _, rest = (whole if name is None else name).strip().replace("-", "_").partition(".")
    kinds = get_type_hints(type(holder))
    if not equals or first not in kinds:
        what = f"{first} is none of {', '.join(kinds)}" if equals else "a value is set as NAME=VALUE"
        raise UsageError(f"--set {assignment}: {what}.")
    old = getattr(holder, first)
    if rest and not is_dataclass(old):
        raise UsageError(f"--set {assignment}: {first} has no values of its own; set {first}=VALUE.")
    try:
        new = with_value(old, assignment, rest) if rest else _read_value(text.strip(), kinds[first])
        return replace(holder, **{first: new})  # type: ignore[type-var]
    except ValueError as error:
        raise UsageError(f"--set {assignment}: {error}.") from error


def _read_value(text: str, kind: Any) -> Any:
    """A text of the command line as a value of this type; several numbers are divided by commas.

    Raises:
        ValueError: It is none.
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
            raise ValueError(f"{len(each)} values are wanted, with commas between them")
        return tuple(_read_value(part, one) for part, one in zip(parts, each, strict=True))
    if kind is bool or get_origin(kind) is Literal:
        choices = {"true": True, "false": False} if kind is bool else {choice: choice for choice in options}
        if text not in choices:
            raise ValueError(f"one of {', '.join(choices)} is wanted, not {text}")
        return choices[text]
    if kind not in (int, float, str):
        raise ValueError("it has values of its own; name one of them after a dot")
    if kind is str:
        return text
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{'a whole number' if kind is int else 'a number'} is wanted, not {text!r}")
    return value
