"""Activations that several processes compute together: each its share of the pictures, then all have all."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from headstart.data import Loader
from headstart.errors import StorageError
from headstart.models import Engine, FeatureCache, Features
from headstart.ordering import batch_bounds, share_of
from headstart.processes import Ranks, in_order_of
from headstart.types import World

OnProgress = Callable[[int, int], None]
OnPart = Callable[[Features], None]


class ComputeOptions(NamedTuple):
    """How activations are kept: see `FeatureCache.compute`."""

    key: str | None
    epoch: int
    half: bool
    mapped: bool


def compute_shared(
    ranks: Ranks,
    store: FeatureCache,
    loaded: Callable[[World], Loader],
    engine: Engine,
    options: ComputeOptions,
    on_progress: OnProgress | None = None,
    on_part: OnPart | None = None,
) -> Features:
    """Return what `engine` gives for an epoch of the loader, the same bits on all ranks; rank 0 keeps it.

    What is mapped from a file is computed by rank 0, while the others wait. `on_part` is called as in one
    process, but when all is there: what it is told first, it is told later.
    """
    whole = loaded(World())

    def alone() -> Features:
        return store.compute(whole, engine, **options._asdict(), on_progress=on_progress, on_part=on_part)

    if ranks.alone:
        return alone()
    if options.mapped and options.key is not None:
        return _by_first(ranks, alone, lambda: store.load(str(options.key)))
    if share_of(whole.sample_count, World(ranks.count - 1, ranks.count)) == 0:
        return alone()
    return _together(ranks, store, loaded, engine, options, on_progress, on_part)


def _by_first(ranks: Ranks, compute: Callable[[], Features], load: Callable[[], Features | None]) -> Features:
    """Let rank 0 compute, and the others read what it wrote; where it could not, raise that everywhere."""
    known, failed = None, None
    if ranks.first:
        try:
            known = compute()
        except StorageError as error:
            failed = error
    said = ranks.said("" if failed is None else failed.message)[0]
    if said:
        raise failed or StorageError(said)
    return known or load() or compute()


def _together(
    ranks: Ranks,
    store: FeatureCache,
    loaded: Callable[[World], Loader],
    engine: Engine,
    options: ComputeOptions,
    on_progress: OnProgress | None,
    on_part: OnPart | None,
) -> Features:
    own = store.compute(
        loaded(ranks.world), engine, epoch=options.epoch, half=options.half, on_progress=on_progress
    )
    # Where one rank's activations are beyond float16, those of all are float32.
    exact = bool(ranks.table(own[0].dtype == np.float32).any())
    values = own[0].astype(np.float32, copy=False) if exact else own[0]
    values, targets, index = (np.concatenate(ranks.gathered(part)) for part in (values, *own[1:]))
    whole = loaded(World())
    if on_part is not None and len(index) == whole.sample_count:
        order = whole.rows[whole.ordering.epoch(targets, seed=whole.seed, epoch=options.epoch).positions]
        parts = in_order_of(order, index, values, targets)
        for end in batch_bounds(len(index), whole.batch_size)[1:].tolist():
            on_part((parts[1][:end], parts[2][:end], parts[0][:end]))
    index, values, targets = in_order_of(whole.rows, index, values, targets)
    features = (values, targets, index)
    if ranks.first and options.key is not None and len(index) == whole.sample_count:
        store.store(options.key, features)
    return features
