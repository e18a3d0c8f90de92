"""The order of an epoch: a pure function of seed, epoch and rank."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headstart.types import World

_WORD = 2**64 - 1


def order(
    count: int, *, seed: int, epoch: int, shuffle: bool = True, world: World | None = None
) -> NDArray[np.int64]:
    """Return positions 0 … count-1 in the order of `epoch`, those of this rank only, int64.

    Over the ranks of `world` each position occurs exactly once. Ranks take neighbours 2k, 2k+1 of the
    common order together, in turn, so that what is paired on one process is paired on many.
    """
    positions = np.arange(count, dtype=np.int64)
    if shuffle:
        # A bit generator's raw stream is fixed by NumPy's promise; `permutation` is not.
        keys = np.random.Philox(key=np.array([seed & _WORD, epoch & _WORD], np.uint64)).random_raw(count)
        positions = np.argsort(keys, kind="stable").astype(np.int64)
    world = world or World()
    return np.asarray(positions[(np.arange(count) // 2) % world.size == world.rank], np.int64)


def batch_bounds(count: int, batch_size: int) -> NDArray[np.int64]:
    """Return where batches of `count` samples begin and end, int64 (batches + 1,).

    A last batch of one joins the batch before it: batch norm cannot learn from a single sample.
    """
    bounds = list(range(0, count, batch_size))
    if len(bounds) > 1 and batch_size > 1 and count - bounds[-1] == 1:
        bounds.pop()
    return np.array([*bounds, count] if count else [0], np.int64)
