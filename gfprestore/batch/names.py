"""Names of files as file systems and people compare them."""

from __future__ import annotations

import os
import re
import unicodedata


def natural_key(name: str) -> tuple[bytes, bytes]:
    """Sort key with `scan 2` before `scan 10`, independent of case and Unicode form; the raw name breaks ties.

    In the key, a number stands behind a zero byte, which no name contains, and behind the count of its digits.
    """
    pieces = re.split(r"(\d+)", folded_name(name))
    for index in range(1, len(pieces), 2):
        digits = str(int(pieces[index]))
        pieces[index] = f"\0{chr(len(digits))}{digits}"
    return "".join(pieces).encode("utf-8", "surrogatepass"), os.fsencode(name)


def folded_name(name: str) -> str:
    """Normalized name, equal for names that many file systems treat as one (case and Unicode form)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
