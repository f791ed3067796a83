"""Tables of texts by their 64-bit hashes, whose size does not depend on the length of the texts.

A set costs 12 to 24 bytes an entry, a table of numbers 24 to 48. The hash is BLAKE2b. Two of a million texts have the
same one with a probability of 3 in 100 million; whoever reads a number compares the text that it leads to. Open
addressing with linear probing (Knuth, The Art of Computer Programming, volume 3, section 6.4).
"""

from __future__ import annotations

import hashlib
from array import array

FIRST_SLOTS = 1024
NO_KEY = 0


class HashSet:
    """A set of texts; they cannot be removed or listed."""

    def __init__(self) -> None:
        self._count = 0
        self._keys = array("Q", bytes(8 * FIRST_SLOTS))

    def __len__(self) -> int:
        return self._count

    def __contains__(self, text: str) -> bool:
        return self._keys[self._slot(_key(text))] != NO_KEY

    def add(self, text: str) -> None:
        """Add a text."""
        self._place(text)

    def _place(self, text: str) -> int:
        """Slot of a text, which is added if it is new."""
        if 3 * self._count >= 2 * len(self._keys):
            self._grow()
        key = _key(text)
        slot = self._slot(key)
        if self._keys[slot] == NO_KEY:
            self._keys[slot] = key
            self._count += 1
        return slot

    def _slot(self, key: int) -> int:
        """Slot of a key, or the free one where it belongs."""
        mask = len(self._keys) - 1
        slot = key & mask
        while self._keys[slot] not in (key, NO_KEY):
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        """Double the number of slots."""
        old = self._keys
        self._keys = array("Q", bytes(16 * len(old)))
        for place, key in enumerate(old):
            if key != NO_KEY:
                slot = self._slot(key)
                self._keys[slot] = key
                self._move(place, slot)

    def _move(self, place: int, slot: int) -> None:
        """Move what belongs to the entry in the old slot `place` to the new one."""


class HashIndex(HashSet):
    """Numbers from 0 to 2**64 - 1 by texts."""

    def __init__(self) -> None:
        super().__init__()
        self._values = array("Q", bytes(8 * FIRST_SLOTS))
        self._old_values = array("Q")

    def get(self, text: str) -> int | None:
        """The number of a text; None if it has none."""
        slot = self._slot(_key(text))
        return None if self._keys[slot] == NO_KEY else self._values[slot]

    def set(self, text: str, number: int) -> None:
        """Give a text a number, in place of an earlier one."""
        slot = self._place(text)  # may replace the tables
        self._values[slot] = number

    def _grow(self) -> None:
        self._old_values, self._values = self._values, array("Q", bytes(16 * len(self._values)))
        super()._grow()
        self._old_values = array("Q")

    def _move(self, place: int, slot: int) -> None:
        self._values[slot] = self._old_values[place]


def _key(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") or 1
