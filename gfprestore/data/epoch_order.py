"""Shuffled order of an endless stream of samples: each epoch is a new permutation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class EpochOrder:
    """Maps a position of the stream to the index of a sample.

    Args:
        seed: Random seed of the stream.
        purpose: Number that keeps this random generator apart from others with the same seed.
        count: Number of samples per epoch.
    """

    def __init__(self, seed: int, purpose: int, count: int) -> None:
        self.seed = seed
        self.purpose = purpose
        self.count = count
        self._epoch = -1
        self._permutation: NDArray[np.int64] = np.empty(0, np.int64)

    def index_at(self, position: int) -> int:
        """Index of the sample at a position, 0 or more."""
        epoch, place = divmod(position, self.count)
        if self._epoch != epoch:
            self._permutation = np.random.default_rng([self.seed, self.purpose, epoch]).permutation(self.count)
            self._epoch = epoch
        return int(self._permutation[place])
