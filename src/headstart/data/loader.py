"""Batches of prepared pictures, made ahead of the consumer by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.data.cache import PixelCache
from headstart.data.ordering import batch_bounds, order
from headstart.data.samples import row_numbers
from headstart.data.threads import one_opencv_thread, thread_count
from headstart.errors import UsageError
from headstart.types import Batch, Pixels, Prepare, Task, World

_BATCHES_AHEAD = 3


class Loader:
    """The batches of some rows of a cache, prepared for a network; a `BatchSource`.

    `rows`: row numbers of `cache.samples`, or a mask. `threads`: how many prepare pictures side by
    side (None: one for each processor; 0: none, all in the caller); they are started by each epoch
    and end with it, and from then on OpenCV keeps to one thread of its own. The number of threads
    changes nothing in what the batches hold. A failing picture raises its `DataError` in the consumer,
    at its batch. The last batch may be smaller, but a last batch of one joins the one before; a
    `batch_size` beyond the number of rows gives one batch.
    """

    def __init__(
        self,
        cache: PixelCache,
        rows: ArrayLike,
        prepare: Prepare,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        threads: int | None = None,
        world: World | None = None,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"a batch of {batch_size} samples is no batch", "give a batch size of 1 or more")
        self.cache = cache
        self.rows = row_numbers(rows, len(cache))
        self.prepare = prepare
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.threads = thread_count(threads)
        self.world = world or World()
        self._share = len(order(len(self.rows), seed=0, epoch=0, shuffle=False, world=self.world))

    def __len__(self) -> int:
        return len(batch_bounds(self._share, self.batch_size)) - 1

    @property
    def sample_count(self) -> int:
        """The number of samples that an epoch gives to this process."""
        return self._share

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` from batch number `start` on; nothing before it is touched."""
        chosen = order(len(self.rows), seed=self.seed, epoch=epoch, shuffle=self.shuffle, world=self.world)
        bounds = batch_bounds(len(chosen), self.batch_size).tolist()
        batches = [
            self.rows[chosen[begin:end]]
            for begin, end in zip(bounds[start:], bounds[start + 1 :], strict=False)
        ]
        if self.threads == 0:
            return (self._finished(rows, self._in_caller(rows, epoch)) for rows in batches)
        return self._with_threads(batches, epoch)

    def _with_threads(self, batches: list[NDArray[np.int64]], epoch: int) -> Iterator[Batch]:
        one_opencv_thread()
        ahead: deque[tuple[NDArray[np.int64], Pixels, list[Future[None]]]] = deque()
        remaining = iter(batches)
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="loader")

        def begin(rows: NDArray[np.int64]) -> None:
            inputs = self._empty(rows)
            futures = [
                pool.submit(self._fill, inputs, slot, row, epoch) for slot, row in enumerate(rows.tolist())
            ]
            ahead.append((rows, inputs, futures))

        try:
            for rows in remaining:
                begin(rows)
                if len(ahead) >= _BATCHES_AHEAD:
                    break
            while ahead:
                rows, inputs, futures = ahead.popleft()
                for future in futures:
                    future.result()
                following = next(remaining, None)
                if following is not None:
                    begin(following)
                yield self._finished(rows, inputs)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _in_caller(self, rows: NDArray[np.int64], epoch: int) -> Pixels:
        inputs = self._empty(rows)
        for slot, row in enumerate(rows.tolist()):
            self._fill(inputs, slot, row, epoch)
        return inputs

    def _empty(self, rows: NDArray[np.int64]) -> Pixels:
        return np.empty((len(rows), *self.prepare.size, 3), np.uint8)

    def _fill(self, inputs: Pixels, slot: int, row: int, epoch: int) -> None:
        sample_id = int(self.cache.samples.ids[row])
        inputs[slot] = self.prepare(self.cache.pixels(row), sample_id, epoch)

    def _finished(self, rows: NDArray[np.int64], inputs: Pixels) -> Batch:
        samples = self.cache.samples
        kind = np.float32 if samples.task is Task.MULTI_LABEL else np.int64
        return Batch(inputs=inputs, targets=samples.labels[rows].astype(kind), index=rows)
