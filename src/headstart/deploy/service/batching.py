"""Micro-batching: what waits goes through the network together, and only so much may wait.

Everything here but the work itself happens on the event loop, so there is nothing to lock.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from headstart.deploy.service.problems import RefusedError

Given = TypeVar("Given")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, eq=False)
class _Job(Generic[Given, Found]):
    items: Sequence[Given]
    key: Hashable
    future: asyncio.Future[list[Found]]


class Batcher(Generic[Given, Found]):
    """Gathers items into batches for `work`, which runs in threads.

    `work`: takes items that share one key, and that key, and returns as many results. `size`: of a batch, in
    items; what is submitted together is not torn apart, so a batch may be larger by that. `limit`: so many
    items may wait. `lanes`: so many batches are under way at a time. `linger`: seconds that a batch that is
    not full waits for more, where `expecting` says that some may come. `on_batch` is told the size
    of each batch.
    """

    def __init__(
        self,
        work: Callable[[list[Given], Hashable], Sequence[Found]],
        *,
        size: int,
        limit: int,
        lanes: int = 1,
        linger: float = 0.0,
        expecting: Callable[[], bool] = lambda: True,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.size, self.limit, self.linger = size, limit, linger
        self.waiting, self.running = 0, 0
        self._work, self._on_batch, self._expecting = work, on_batch, expecting
        self._jobs: deque[_Job[Given, Found]] = deque()
        self._arrival = asyncio.Event()
        self._seconds_each = 0.05
        self._pool = ThreadPoolExecutor(lanes, thread_name_prefix="lane")
        self._lanes = [asyncio.create_task(self._lane()) for _ in range(lanes)]

    @property
    def expected_wait(self) -> float:
        """Seconds until what is submitted now would have its turn, by how long the last ones took."""
        return (self.waiting + self.running) * self._seconds_each

    def submit(self, items: Sequence[Given], key: Hashable = None) -> asyncio.Future[list[Found]]:
        """Return the results to come; one that is cancelled before its turn costs nothing.

        Raises `RefusedError` (503) at once where too many wait.
        """
        if self.waiting and self.waiting + len(items) > self.limit:
            raise RefusedError(
                503,
                "QUEUE_FULL",
                "too many pictures are waiting",
                "try again a little later",
                retry_after=self.expected_wait,
            )
        future: asyncio.Future[list[Found]] = asyncio.get_running_loop().create_future()
        job = _Job(items, key, future)
        self._jobs.append(job)
        self.waiting += len(items)
        self._arrival.set()
        return future

    async def _lane(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._jobs:
                self._arrival.clear()
                await self._arrival.wait()
            if self.linger and self.waiting < self.size and self._expecting():
                await asyncio.sleep(self.linger)
            batch = self._take()
            if not batch:
                continue
            items = [item for job in batch for item in job.items]
            self.running += len(items)
            started = time.perf_counter()
            try:
                found = await loop.run_in_executor(self._pool, self._work, items, batch[0].key)
                _hand_out(batch, found)
            except Exception as error:
                for job in batch:
                    if not job.future.done():
                        job.future.set_exception(error)
            finally:
                self.running -= len(items)
                each = (time.perf_counter() - started) / len(items) / len(self._lanes)
                self._seconds_each += 0.2 * (each - self._seconds_each)
                self._on_batch(len(items))

    def _take(self) -> list[_Job[Given, Found]]:
        """Take the oldest job that is still wanted, and what of the others goes with it, in their order."""
        batch: list[_Job[Given, Found]] = []
        others: list[_Job[Given, Found]] = []
        count = 0
        while self._jobs and count < self.size:
            job = self._jobs.popleft()
            if job.future.done():  # nobody waits for it any more
                self.waiting -= len(job.items)
            elif batch and (job.key != batch[0].key or count + len(job.items) > self.size):
                others.append(job)
            else:
                batch.append(job)
                count += len(job.items)
        self._jobs.extendleft(reversed(others))
        self.waiting -= count
        return batch

    async def close(self) -> None:
        """Let what was submitted finish, then end the lanes."""
        while self._jobs or self.running:
            await asyncio.sleep(0.01)
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        self._pool.shutdown(wait=False)


def _hand_out(batch: Sequence[_Job[Given, Found]], found: Sequence[Found]) -> None:
    first = 0
    for job in batch:
        last = first + len(job.items)
        if not job.future.done():
            job.future.set_result(list(found[first:last]))
        first = last
