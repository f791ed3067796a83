"""Names of files as file systems and people compare them."""

from __future__ import annotations

import os
import re
import unicodedata


def natural_key(name: str) -> tuple[tuple[str | int, ...], bytes]:
    """Sort key with `scan 2` before `scan 10`, independent of case and Unicode form; the raw name breaks ties."""
    pieces = re.split(r"(\d+)", folded_name(name))
    return tuple(int(piece) if index % 2 else piece for index, piece in enumerate(pieces)), os.fsencode(name)


def folded_name(name: str) -> str:
    """Normalized name, equal for names that many file systems treat as one (case and Unicode form)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
