"""Activations instead of pictures: computed as they come, or once, in memory or on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import UsageError
from headstart.models.engine import Engine
from headstart.ordering import Ordering, batch_bounds, share_of
from headstart.types import Batch, BatchSource, World

Features = tuple[NDArray[np.floating[Any]], NDArray[Any], NDArray[np.int64]]
"""(features, targets, index): float32 or float16 activations, targets and row numbers, row by row."""


class HalfRangeError(ValueError):
    """Activations lie outside of what float16 can hold."""


class ActivationSource:
    """Gives another source's batches with their pictures turned into activations by an engine."""

    def __init__(self, source: BatchSource, engine: Engine) -> None:
        self._source = source
        self._engine = engine

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return len(self._source)

    @property
    def sample_count(self) -> int:
        """The number of samples in an epoch."""
        return self._source.sample_count

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the source's batches, inputs as float32 activations (batch, …); empty ones as they are."""
        for batch in self._source.epoch(epoch, start=start):
            yield replace(batch, inputs=self._engine(np.asarray(batch.inputs))) if len(batch) else batch


def materialise(
    source: BatchSource,
    engine: Engine,
    on_progress: Callable[[int, int], None] | None = None,
    on_part: Callable[[Features], None] | None = None,
    *,
    epoch: int = 0,
    half: bool = False,
) -> Features:
    """Run an epoch of `source` through `engine` and return (features, targets, index).

    Rows come in the order of the source, without those that it left out; `half` keeps them as float16.
    After a batch `on_progress` is called with (done, total), and `on_part` with what there is so far.
    Raises `HalfRangeError` where float16 cannot hold what comes.
    """
    total = source.sample_count
    columns: Features | None = None
    done = 0
    for batch in ActivationSource(source, engine).epoch(epoch):
        if not len(batch):
            continue
        values, targets = np.asarray(batch.inputs), np.asarray(batch.targets)
        if half:
            values = in_half(values)
        if columns is None:
            columns = (
                np.empty((total, *values.shape[1:]), values.dtype),
                np.empty((total, *targets.shape[1:]), targets.dtype),
                np.empty(total, np.int64),
            )
        for column, part in zip(columns, (values, targets, batch.index), strict=True):
            np.asarray(column)[done : done + len(batch)] = part
        done += len(batch)
        if on_progress is not None:
            on_progress(done, total)
        if on_part is not None:
            on_part(_first(columns, done))
    if columns is None:
        raise UsageError("there is no picture to compute features of")
    return _first(columns, done)


def in_half(values: NDArray[np.floating[Any]]) -> NDArray[np.float16]:
    """Return activations as float16, 11 significant bits; raises `HalfRangeError` beyond its range."""
    with np.errstate(over="ignore"):
        halved = values.astype(np.float16)
    if not np.isfinite(halved).all():
        raise HalfRangeError(f"an activation of {float(np.abs(values).max()):.3g} is beyond float16")
    return halved


def _first(columns: Features, count: int) -> Features:
    features, targets, index = columns
    return features[:count], targets[:count], index[:count]


class TensorSource:
    """Batches over arrays, in the same order and batches as the picture loader's.

    `features` (rows, …) in memory or mapped from a file, float32 or float16 (batches are float32);
    `targets` (rows,) or (rows, classes), `index` (rows,). `ordering`: which rows an epoch has, and whether
    it mixes them; `shuffle=True` is short for an ordering that does. The order is a pure function of
    `seed` and the epoch; over the processes of `world` every row of it comes once, each batch divided
    among them. A last batch of one row joins the batch before it.
    """

    def __init__(
        self,
        features: NDArray[np.floating[Any]],
        targets: NDArray[Any],
        index: NDArray[np.int64],
        *,
        batch_size: int = 64,
        ordering: Ordering = Ordering(),
        shuffle: bool = False,
        seed: int = 0,
        world: World = World(),
    ) -> None:
        if not len(features) == len(targets) == len(index):
            raise UsageError(
                f"{len(features)} features, {len(targets)} targets and {len(index)} row numbers do not match"
            )
        if batch_size < 1:
            raise UsageError(f"the batch size is {batch_size}", "give a number from 1 on")
        self.features, self.targets, self.index = features, targets, index
        self._batch_size, self._seed, self._world = batch_size, seed, world
        self._ordering = replace(ordering, shuffle=True) if shuffle else ordering
        self._count = self._ordering.count(targets)
        self._bounds = batch_bounds(self._count, batch_size, world)

    def shuffled(self, batch_size: int | None = None, ordering: Ordering | None = None) -> TensorSource:
        """Return a source of the same rows in a new order each epoch (that of `ordering`, if given)."""
        return TensorSource(
            self.features,
            self.targets,
            self.index,
            batch_size=batch_size or self._batch_size,
            ordering=ordering or self._ordering,
            shuffle=True,
            seed=self._seed,
            world=self._world,
        )

    def shared(self, world: World) -> TensorSource:
        """Return a source of the same rows of which this process gets its share of each batch."""
        return TensorSource(
            self.features,
            self.targets,
            self.index,
            batch_size=self._batch_size,
            ordering=self._ordering,
            seed=self._seed,
            world=world,
        )

    @property
    def sample_count(self) -> int:
        """The number of samples in an epoch of this process, copies counted."""
        return share_of(self._count, self._world)

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return len(self._bounds) - 1

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` in order, from batch number `start` on."""
        order = self._ordering.epoch(self.targets, seed=self._seed, epoch=epoch, world=self._world).positions
        for number in range(start, len(self)):
            rows = order[self._bounds[number] : self._bounds[number + 1]]
            inputs = np.asarray(self.features[rows], np.float32)
            yield Batch(inputs, self.targets[rows], self.index[rows])


class ViewSource:
    """Activations of several augmented views of the same pictures: epoch e gives view e modulo `views`.

    `make(view)` returns the source of a view; it is called when the view is first needed, so that a run
    of fewer epochs computes no more views than it uses.
    """

    def __init__(self, make: Callable[[int], BatchSource], views: int) -> None:
        if views < 1:
            raise UsageError(f"{views} views", "give a number from 1 on")
        self._make, self._views = make, views
        self._made: dict[int, BatchSource] = {}

    def view(self, epoch: int) -> BatchSource:
        """Return the source of the view that an epoch gives."""
        number = epoch % self._views
        if number not in self._made:
            self._made[number] = self._make(number)
        return self._made[number]

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return len(self.view(0))

    @property
    def sample_count(self) -> int:
        """The number of samples in an epoch."""
        return self.view(0).sample_count

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch`, in an order of its own, from batch number `start` on."""
        return self.view(epoch).epoch(epoch, start=start)
