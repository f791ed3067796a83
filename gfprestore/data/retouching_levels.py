"""Levels of the six retouching operations, and how they are drawn for a training or test set.

deepFRR, the data set of FRRffusion, was made with a commercial beauty filter of six sliders, most likely all at 100.
Nothing here is random but what comes from a generator that is passed in. Imports nothing of ours.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import astuple, dataclass, fields, replace

import numpy as np


@dataclass(frozen=True)
class Levels:
    """Strength of each operation, 0 (off) to 100 (as in deepFRR), whole numbers.

    Attributes:
        smooth: Skin smoothed by a guided filter.
        whiten: Face brightened by a logarithmic curve.
        eyes: Eyes enlarged, by a quarter at 100.
        slim: Jaw pulled toward the nose.
        shrink: Whole face made smaller, by 5 % at 100.
        brow: Brows faded into the skin.

    Raises:
        ValueError: A level is not a whole number from 0 to 100.
    """

    smooth: int = 0
    whiten: int = 0
    eyes: int = 0
    slim: int = 0
    shrink: int = 0
    brow: int = 0

    def __post_init__(self) -> None:
        for name, level in zip(OPERATIONS, astuple(self), strict=True):
            if isinstance(level, bool) or not isinstance(level, int) or not 0 <= level <= 100:
                raise ValueError(f"{name} is {level!r}; a level is a whole number from 0 to 100")

    @property
    def shares(self) -> tuple[float, ...]:
        """The six levels as shares from 0 to 1, as the networks take them."""
        return tuple(level / 100 for level in astuple(self))


OPERATIONS = tuple(field.name for field in fields(Levels))
"""Names of the six operations, in the order of `Levels`."""

DEEPFRR = Levels(100, 100, 100, 100, 100, 100)
PRESETS = ("deepfrr", "mixed", *(f"single-{name}-LEVEL" for name in OPERATIONS))
"""Names of the presets, for messages; LEVEL stands for 1 to 100."""


def draw_levels(preset: str, random: np.random.Generator, untouched: float = 0.25) -> Levels:
    """Draw the levels of one face.

    Args:
        preset: `deepfrr` (all at 100), `mixed` (each operation on with probability 0.8, at 20 to 100, all numbers
            alike), or `single-OPERATION-LEVEL` such as `single-eyes-60`.
        random: Used by `mixed` alone.
        untouched: Share of faces that `mixed` leaves as they are.

    Raises:
        ValueError: The preset is unknown.
    """
    if preset == "deepfrr":
        return DEEPFRR
    if preset == "mixed":
        share, switches = random.random(), random.random(len(OPERATIONS))
        levels = random.integers(20, 100, len(OPERATIONS), endpoint=True)
        is_on = (switches < 0.8) & (share >= untouched)
        return Levels(*(int(level) for level in np.where(is_on, levels, 0)))
    single = re.fullmatch(rf"single-({'|'.join(OPERATIONS)})-([1-9][0-9]?|100)", preset)
    if single is None:
        raise ValueError(f"the preset {preset} is unknown; use one of {', '.join(PRESETS)} (1 to 100)")
    return replace(Levels(), **{single[1]: int(single[2])})


def generator_of(seed: int, name: str, variant: int) -> np.random.Generator:
    """The generator of one retouched face: it depends on nothing else, so a part of a folder gives the same files.

    Args:
        seed: Random seed of the whole set.
        name: The photo's path within its folder, with forward slashes, without the suffix.
        variant: Number of the variant, from 0.
    """
    key = f"{seed}/{unicodedata.normalize('NFC', name)}/{variant}"
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode("utf-8", "replace")).digest()[:8], "big"))
