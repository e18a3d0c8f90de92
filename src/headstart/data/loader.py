"""Batches of prepared pictures, made ahead of the consumer by threads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.data.cache import PixelCache
from headstart.data.samples import row_numbers
from headstart.data.threads import one_opencv_thread, thread_count
from headstart.errors import DataError, HeadstartError, UsageError
from headstart.ordering import Ordering, batch_bounds, draw_ids, share_of
from headstart.types import Batch, Pixels, Prepare, Task, World

_BATCHES_AHEAD = 3
# One future costs 20 to 30 µs of Python, about 4 % of a warp: threads take several pictures at a time.
_PICTURES_AT_ONCE = 8


@dataclass(slots=True)
class _Begun:
    """A batch under way: its rows, the ids they draw by, its memory, the slots left out, who fills it."""

    rows: NDArray[np.int64]
    ids: NDArray[np.uint64]
    inputs: Pixels
    lost: list[int]
    futures: tuple[Future[None], ...] = ()

    def finish(self) -> None:
        """Wait until it is filled; raise what went wrong, the first place first."""
        for future in self.futures:
            future.result()

    @property
    def ready(self) -> bool:
        return all(future.done() for future in self.futures)


class Loader:
    """The batches of some rows of a cache, prepared for a network; a `BatchSource`.

    `rows`: row numbers of `cache.samples`, or a mask. `ordering`: which of them an epoch has, and
    whether it mixes them; `shuffle=True` is short for an ordering that does. A copy of a sample within
    an epoch draws an augmentation of its own.

    `threads`: how many prepare pictures side by side (None: one for each processor; 0: none, all in the
    caller); they are started by each epoch and end with it, and from then on OpenCV keeps to one thread
    of its own. The number of threads changes nothing in what the batches hold. Three batches are made
    ahead of the one that is used, never more. With `ordered=False` they come as they are ready, so that
    one slow picture holds up one batch and not all: for jobs where `index` tells what is what.

    A failing picture raises its error in the consumer, at its batch; so does a `prepare` that fails (code
    PREPARE_FAILED), naming the file. Where the cache counts what is `lost`, such a picture is in no batch,
    nothing takes its place, and a batch may be empty; the others keep their batches and draws.

    The last batch may be smaller, but a last batch of one joins the one before; a `batch_size` beyond the
    number of rows gives one batch. Over the processes of `world` a batch is divided, and all have the same
    number of batches: this one's are its shares, which may be empty (`batch_bounds`).
    """

    def __init__(
        self,
        cache: PixelCache,
        rows: ArrayLike,
        prepare: Prepare,
        *,
        batch_size: int,
        ordering: Ordering = Ordering(),
        shuffle: bool = False,
        seed: int = 0,
        threads: int | None = None,
        ordered: bool = True,
        world: World = World(),
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"a batch of {batch_size} samples is no batch", "give a batch size of 1 or more")
        self.cache = cache
        self.rows = row_numbers(rows, len(cache))
        self.prepare = prepare
        self.batch_size = batch_size
        self.ordering = replace(ordering, shuffle=True) if shuffle else ordering
        self.seed = seed
        self.threads = thread_count(threads)
        self.ordered = ordered
        self.world = world
        self._labels = cache.samples.labels[self.rows]
        count = self.ordering.count(self._labels)
        self._share = share_of(count, world)
        self._bounds = batch_bounds(count, batch_size, world)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @property
    def sample_count(self) -> int:
        """The number of samples that an epoch gives to this process, copies counted."""
        return self._share

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` from batch number `start` on; nothing before it is touched."""
        batches = self._batches(epoch, start)
        if self.threads == 0:
            return self._in_caller(batches, epoch)
        return self._with_threads(batches, epoch)

    def _batches(self, epoch: int, start: int) -> Iterator[_Begun]:
        """Yield the batches of `epoch`, empty as yet."""
        chosen = self.ordering.epoch(self._labels, seed=self.seed, epoch=epoch, world=self.world)
        ids = self.cache.samples.ids
        for number in range(start, len(self)):
            part = slice(self._bounds[number], self._bounds[number + 1])
            rows = self.rows[chosen.positions[part]]
            inputs = np.empty((len(rows), *self.prepare.size, 3), np.uint8)
            yield _Begun(rows, draw_ids(ids[rows], chosen.copies[part]), inputs, [])

    def _in_caller(self, batches: Iterator[_Begun], epoch: int) -> Iterator[Batch]:
        for batch in batches:
            self._fill(batch, 0, len(batch.rows), epoch)
            yield self._finished(batch)

    def _with_threads(self, batches: Iterator[_Begun], epoch: int) -> Iterator[Batch]:
        one_opencv_thread()
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="loader")
        ahead: list[_Begun] = []

        def begin() -> None:
            batch = next(batches, None)
            if batch is None:
                return
            count = len(batch.rows)
            each = max(1, min(_PICTURES_AT_ONCE, count // self.threads))
            batch.futures = tuple(
                pool.submit(self._fill, batch, first, min(first + each, count), epoch)
                for first in range(0, count, each)
            )
            ahead.append(batch)

        try:
            for _ in range(_BATCHES_AHEAD):
                begin()
            while ahead:
                batch = ahead.pop(0 if self.ordered else _first_ready(ahead))
                batch.finish()
                begin()
                yield self._finished(batch)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self, batch: _Begun, begin: int, end: int, epoch: int) -> None:
        rows, ids = batch.rows[begin:end].tolist(), batch.ids[begin:end].tolist()
        for slot, row, draw_id in zip(range(begin, end), rows, ids, strict=True):
            image = self.cache.found(row)
            if image is None:
                batch.lost.append(slot)
                continue
            try:
                view = self.prepare(image, draw_id, epoch)
            except HeadstartError as error:
                message = f"{self.cache.samples.name(row)}: {error.message}"
                raise type(error)(message, error.hint, code=error.code) from error
            except MemoryError:
                raise
            except Exception as error:  # a callable of the user's own may raise anything
                raise self._failed(row, f"{type(error).__name__}: {error}") from error
            if view.shape != batch.inputs.shape[1:] or view.dtype != np.uint8:
                # A grey picture, say, would be spread over three channels without a word.
                raise self._failed(
                    row, f"it gave {view.dtype} {view.shape}, not uint8 {batch.inputs.shape[1:]}"
                )
            batch.inputs[slot] = view

    def _failed(self, row: int, what: str) -> DataError:
        return DataError(
            f"{self.cache.samples.name(row)} could not be prepared: {what}",
            "check the augmentation, and callables of your own, with this picture",
            code="PREPARE_FAILED",
        )

    def _finished(self, batch: _Begun) -> Batch:
        samples, rows, inputs = self.cache.samples, batch.rows, batch.inputs
        if batch.lost:
            rows, inputs = np.delete(rows, batch.lost), np.delete(inputs, batch.lost, axis=0)
        kind = np.float32 if samples.task is Task.MULTI_LABEL else np.int64
        return Batch(inputs=inputs, targets=samples.labels[rows].astype(kind), index=rows)


def _first_ready(ahead: list[_Begun]) -> int:
    """Wait until a batch is complete, and return its place."""
    while True:
        ready = next((place for place, batch in enumerate(ahead) if batch.ready), None)
        if ready is not None:
            return ready
        wait(
            [future for batch in ahead for future in batch.futures if not future.done()],
            return_when=FIRST_COMPLETED,
        )
