"""Random numbers that are a pure function of what they are for."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def _words(value: ArrayLike) -> NDArray[np.uint64]:
    numbers = np.asarray(value)
    # Negative numbers wrap around; Python integers beyond 64 bits are cut.
    if numbers.dtype == object:
        return np.array([int(number) & (2**64 - 1) for number in numbers.flat], np.uint64).reshape(
            numbers.shape
        )
    return numbers.astype(np.uint64)


def _mixed(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One step of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection that scatters all bits."""
    word = word + _GOLDEN
    word = (word ^ (word >> np.uint64(30))) * _FIRST
    word = (word ^ (word >> np.uint64(27))) * _SECOND
    return word ^ (word >> np.uint64(31))


def uniform(seed: int, epoch: int, sample_ids: ArrayLike, slot: ArrayLike) -> NDArray[np.float64]:
    """Return numbers in [0, 1), uniform and independent for different arguments.

    `sample_ids` (uint64) and `slot` (which of a sample's draws) may be arrays; they broadcast against
    each other, and so `uniform(0, 1, ids[:, None], [0, 1, 2])` has the shape (samples, 3).
    """
    with np.errstate(over="ignore"):  # wrapping around is what the hash does
        word = np.zeros((), np.uint64)
        for part in (seed, epoch, sample_ids, slot):
            word = _mixed(word ^ _words(part))
    return np.asarray((word >> np.uint64(11)).astype(np.float64) * 2.0**-53)
