"""Activations instead of pictures: computed as they come, or once, in memory or on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ConfigError, HeadstartError, UsageError
from headstart.models.engine import Engine
from headstart.ordering import Ordering, batch_bounds, share_of
from headstart.pruning import drop_least_recent, mark_used
from headstart.storage import cache_dir, content_key, load_arrays, save_arrays
from headstart.types import Batch, BatchSource, World

Features = tuple[NDArray[np.float32], NDArray[Any], NDArray[np.int64]]
"""(features, targets, index): float32 activations, targets and row numbers, row by row."""


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
) -> Features:
    """Run epoch 0 of `source` through `engine` and return (features, targets, index).

    Rows come in the order of the source, without those that it left out. After a batch `on_progress` is
    called with (done, total), and `on_part` with what there is so far.
    """
    total = source.sample_count
    columns: Features | None = None
    done = 0
    for batch in ActivationSource(source, engine).epoch(0):
        if not len(batch):
            continue
        values, targets = np.asarray(batch.inputs), np.asarray(batch.targets)
        if columns is None:
            columns = (
                np.empty((total, *values.shape[1:]), np.float32),
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


def _first(columns: Features, count: int) -> Features:
    features, targets, index = columns
    return features[:count], targets[:count], index[:count]


class TensorSource:
    """Batches over arrays in memory, in the same order and batches as the picture loader's.

    `features` (rows, …), `targets` (rows,) or (rows, classes), `index` (rows,). `ordering`: which rows an
    epoch has, and whether it mixes them; `shuffle=True` is short for an ordering that does. The order is
    a pure function of `seed` and the epoch; over the processes of `world` every row of it comes once. A
    last batch of one row joins the batch before it.
    """

    def __init__(
        self,
        features: NDArray[np.float32],
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
            yield Batch(self.features[rows], self.targets[rows], self.index[rows])


class FeatureCache:
    """Features on disk, under a key of all that they depend on; the oldest go when space is short.

    `budget_bytes` is what the folder (default: `features` in the cache folder) may hold.
    """

    def __init__(self, folder: Path | None = None, *, budget_bytes: int = 4 * 2**30) -> None:
        self.folder = cache_dir() / "features" if folder is None else folder
        self._budget_bytes = budget_bytes

    @staticmethod
    def key(picture_hashes: Any, prepare_key: str, identity: str) -> str:
        """Return the key of features: picture contents in order, preparation, and weights and line."""
        hashes = np.asarray(picture_hashes)
        digest = hashlib.sha256(f"{hashes.dtype} {hashes.shape};".encode() + hashes.tobytes())
        return content_key("features", digest.hexdigest(), prepare_key, identity)

    def load(self, key: str) -> Features | None:
        """Return the features under `key`, or None where there are none, or not the bytes stored."""
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            arrays = load_arrays(path)
            features = (arrays["features"], arrays["targets"], arrays["index"])
            if not np.array_equal(_checksum(features), arrays["checksum"]):
                return None
        except (ConfigError, HeadstartError, KeyError):
            return None
        mark_used(path)
        return features

    def store(self, key: str, features: Features) -> None:
        """Keep features under `key`, and drop the least recently used beyond the budget."""
        values, targets, index = features
        arrays: dict[str, NDArray[Any]] = {"features": values, "targets": targets, "index": index}
        if sum(array.nbytes for array in arrays.values()) > self._budget_bytes:
            return
        save_arrays(self._path(key), arrays | {"checksum": _checksum(features)})
        drop_least_recent(self.folder, self._budget_bytes)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def _checksum(features: Features) -> NDArray[np.uint8]:
    digest = hashlib.sha256()
    for array in features:
        digest.update(f"{array.dtype} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return np.frombuffer(digest.digest(), np.uint8)
