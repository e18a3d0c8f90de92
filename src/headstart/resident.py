"""Batches made on the device that holds all decoded pixels: what the loader gives, without its threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.augment import TrainPrepare
from headstart.data import PixelCache
from headstart.data.threads import one_opencv_thread, thread_count
from headstart.errors import UsageError
from headstart.ordering import Ordering, batch_bounds, draw_ids, share_of
from headstart.types import Batch, Pixels, World

if TYPE_CHECKING:
    import torch

    from headstart.augment.batched import ResidentPixels

# Of a device's free memory, what decoded pixels may take; the rest is for the network.
RESIDENT_SHARE = 0.25
_LOOKED_AT = 32


class ResidentSource:
    """The batches of some pictures in a device's memory, augmented there; a `BatchSource`.

    Order, batches, targets and draws are those of `Loader` for the same rows, seed and epoch, and its
    pixels within the tolerance of `augment.batched`. `targets`, `index` and `ids`: of each picture.
    `inputs` come as uint8 tensors (batch, height, width, 3) on the device.
    """

    def __init__(
        self,
        pixels: ResidentPixels,
        targets: NDArray[Any],
        index: NDArray[np.int64],
        ids: NDArray[np.uint64],
        prepare: TrainPrepare,
        *,
        batch_size: int,
        ordering: Ordering = Ordering(),
        seed: int = 0,
        world: World = World(),
    ) -> None:
        if not len(pixels) == len(targets) == len(index) == len(ids):
            raise UsageError(f"{len(pixels)} pictures and {len(targets)} targets do not match")
        if batch_size < 1:
            raise UsageError(f"a batch of {batch_size} samples is no batch", "give a batch size of 1 or more")
        self.pixels, self.targets, self.index, self.ids = pixels, targets, index, ids
        self.prepare, self.batch_size = prepare, batch_size
        self.ordering, self.seed, self.world = ordering, seed, world
        count = ordering.count(targets)
        self._share = share_of(count, world)
        self._bounds = batch_bounds(count, batch_size, world)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @property
    def sample_count(self) -> int:
        """The number of samples that an epoch gives to this process, copies counted."""
        return self._share

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` from batch number `start` on."""
        from headstart.augment.batched import prepare_batch

        chosen = self.ordering.epoch(self.targets, seed=self.seed, epoch=epoch, world=self.world)
        for number in range(start, len(self)):
            part = slice(self._bounds[number], self._bounds[number + 1])
            rows = chosen.positions[part]
            ids = draw_ids(self.ids[rows], chosen.copies[part])
            inputs = prepare_batch(self.prepare, self.pixels.take(rows), ids, epoch)
            yield Batch(inputs, self.targets[rows], self.index[rows])


def fits(cache: PixelCache, rows: ArrayLike, device: torch.device) -> bool:
    """Tell whether the decoded pixels of these rows may be kept in a CUDA device's memory.

    The size of all is taken from 32 of them.
    """
    import torch

    numbers = np.asarray(rows)
    if device.type != "cuda" or len(numbers) == 0:
        return False
    seen = numbers[np.linspace(0, len(numbers) - 1, min(len(numbers), _LOOKED_AT)).astype(int)]
    pictures = [pixels for row in seen.tolist() if (pixels := cache.found(row)) is not None]
    each = np.mean([pixels.nbytes for pixels in pictures]) if pictures else 0
    free, _ = torch.cuda.mem_get_info(device)
    return bool(each * len(numbers) <= RESIDENT_SHARE * free)


def upload(
    cache: PixelCache, rows: ArrayLike, device: torch.device | str, *, threads: int | None = None
) -> tuple[ResidentPixels, NDArray[np.int64]]:
    """Decode these rows, side by side, and copy their pixels to a device.

    Returns the pixels, and the rows that they are of: without those that the cache counts as lost. Raises
    `DataError`, naming the file, for a picture that cannot be decoded.
    """
    from headstart.augment.batched import ResidentPixels

    numbers: Sequence[int] = np.asarray(rows).tolist()
    count = thread_count(threads)
    kept: list[int] = []

    def present(pictures: Iterable[Pixels | None]) -> Iterator[Pixels]:
        for row, pixels in zip(numbers, pictures, strict=True):
            if pixels is not None:
                kept.append(row)
                yield pixels

    if count == 0:
        uploaded = ResidentPixels.upload(present(map(cache.found, numbers)), device)
    else:
        one_opencv_thread()
        with ThreadPoolExecutor(count, thread_name_prefix="upload") as pool:
            uploaded = ResidentPixels.upload(present(_in_order(pool, cache, numbers, 4 * count)), device)
    return uploaded, np.array(kept, np.int64)


def _in_order(
    pool: ThreadPoolExecutor, cache: PixelCache, rows: Sequence[int], ahead: int
) -> Iterator[Pixels | None]:
    for begin in range(0, len(rows), ahead):
        yield from pool.map(cache.found, rows[begin : begin + ahead])
