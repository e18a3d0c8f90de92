"""Batches: whole, in order, the same for any number of threads, from any step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headstart.data import Loader, PixelCache, Samples, scan_folder
from headstart.errors import DataError, UsageError
from headstart.ordering import Ordering
from headstart.types import Batch, Pixels, Size, Task, World

MakeFolder = Callable[..., Path]


WORLDS = st.sampled_from([World(), World(0, 2), World(1, 2), World(2, 3)])


class Stamp:
    """A `Prepare` whose output tells the picture, the sample and the epoch."""

    size: Size = (4, 6)
    key = "stamp"

    def __call__(self, image: Pixels, sample_id: int, epoch: int) -> Pixels:
        out = np.empty((4, 6, 3), np.uint8)
        out[..., 0] = image[0, 0, 0]
        out[..., 1] = sample_id % 256
        out[..., 2] = epoch
        return out


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> PixelCache:
    """Twenty-three one-coloured pictures whose colour is their row number."""
    from PIL import Image

    root = tmp_path_factory.mktemp("pictures")
    for name, count in (("a", 11), ("b", 12)):
        (root / name).mkdir()
        for number in range(count):
            row = number + 11 * (name == "b")
            Image.new("RGB", (8, 8), (row, row, row)).save(root / name / f"{number}.png")
    return PixelCache(scan_folder(root), short_side=8)


def batches(loader: Loader, epoch: int = 0, start: int = 0) -> list[Batch]:
    return list(loader.epoch(epoch, start=start))


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        np.array_equal(a.inputs, b.inputs)
        and np.array_equal(a.targets, b.targets)
        and np.array_equal(a.index, b.index)
        for a, b in zip(first, second, strict=True)
    )


def test_a_batch_holds_prepared_pictures_targets_and_row_numbers(cache: PixelCache) -> None:
    rows = [20, 3, 11]
    (batch,) = batches(Loader(cache, rows, Stamp(), batch_size=8), epoch=5)
    assert isinstance(batch.inputs, np.ndarray)
    assert batch.inputs.dtype == np.uint8
    assert batch.inputs.shape == (3, 4, 6, 3)
    assert batch.inputs.flags.c_contiguous
    assert batch.inputs[:, 0, 0, 0].tolist() == rows
    assert batch.inputs[:, 0, 0, 1].tolist() == [int(cache.samples.ids[row]) % 256 for row in rows]
    assert set(batch.inputs[..., 2].ravel().tolist()) == {5}
    assert batch.targets.dtype == np.int64
    assert batch.targets.tolist() == [1, 0, 1]
    assert batch.index.dtype == np.int64
    assert batch.index.tolist() == rows


ORDERINGS = st.sampled_from(
    [
        Ordering(),
        Ordering(shuffle=True),
        Ordering(shuffle=True, balance="sampler"),
        Ordering(weights=np.linspace(0, 1, 23)),
    ]
)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30), st.sampled_from([1, 2, 4, 8]), st.integers(0, 3), st.integers(0, 9), ORDERINGS, WORLDS
)
def test_batches_are_the_same_for_any_threads_and_from_any_step(
    cache: PixelCache,
    batch_size: int,
    threads: int,
    epoch: int,
    start: int,
    ordering: Ordering,
    world: World,
) -> None:
    def loader(threads: int, ordered: bool = True) -> Loader:
        return Loader(
            cache,
            range(23),
            Stamp(),
            batch_size=batch_size,
            ordering=ordering,
            seed=9,
            threads=threads,
            ordered=ordered,
            world=world,
        )

    expected = batches(loader(0), epoch)
    assert len(expected) == len(loader(threads))
    assert sum(map(len, expected)) == loader(threads).sample_count
    assert same(batches(loader(threads), epoch, start), expected[start:])
    unordered = batches(loader(threads, ordered=False), epoch, start)
    assert same(sorted(unordered, key=contents), sorted(expected[start:], key=contents))


def contents(batch: Batch) -> tuple[bytes, bytes]:
    return batch.index.tobytes(), np.asarray(batch.inputs).tobytes()


@given(st.integers(1, 30), st.booleans(), st.integers(1, 8))
def test_every_sample_comes_once_over_the_ranks(
    cache: PixelCache, batch_size: int, shuffle: bool, ranks: int
) -> None:
    loaders = [
        Loader(
            cache,
            range(23),
            Stamp(),
            batch_size=batch_size,
            shuffle=shuffle,
            threads=0,
            world=World(rank, ranks),
        )
        for rank in range(ranks)
    ]
    seen = [batch.index for loader in loaders for batch in loader.epoch(1)]
    assert sorted(np.concatenate(seen).tolist()) == list(range(23))
    assert len({len(loader) for loader in loaders}) == 1


def test_another_epoch_has_another_order_and_would_be_told_apart(cache: PixelCache) -> None:
    loader = Loader(cache, range(23), Stamp(), batch_size=8, shuffle=True)
    assert not same(batches(loader, 0), batches(loader, 1))
    assert same(batches(loader, 1), batches(loader, 1))


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [
        (9, 4, [4, 5]),
        (10, 4, [4, 4, 2]),
        (5, 4, [5]),
        (1, 4, [1]),
        (3, 64, [3]),
        (3, 1, [1, 1, 1]),
        (0, 4, []),
    ],
)
def test_a_last_batch_of_one_joins_the_one_before_and_no_sample_is_dropped(
    cache: PixelCache, count: int, batch_size: int, sizes: list[int]
) -> None:
    loader = Loader(cache, range(count), Stamp(), batch_size=batch_size)
    assert [len(batch) for batch in batches(loader)] == sizes
    assert len(loader) == len(sizes)
    assert loader.sample_count == count


def test_rows_may_be_a_mask(cache: PixelCache) -> None:
    mask = np.zeros(23, np.bool_)
    mask[[2, 7]] = True
    (batch,) = batches(Loader(cache, mask, Stamp(), batch_size=8))
    assert batch.index.tolist() == [2, 7]


def test_each_batch_is_an_array_of_its_own(cache: PixelCache) -> None:
    loader = Loader(cache, range(23), Stamp(), batch_size=4, threads=2)
    kept = batches(loader)
    assert (
        len(
            {
                batch.inputs.__array_interface__["data"][0]
                for batch in kept
                if isinstance(batch.inputs, np.ndarray)
            }
        )
        == 6
    )
    kept[0].inputs[:] = 0
    assert not same(kept, batches(loader))


def test_ranks_share_the_epoch(cache: PixelCache) -> None:
    parts = [
        Loader(cache, range(23), Stamp(), batch_size=4, shuffle=True, world=World(rank, 2)) for rank in (0, 1)
    ]
    seen = [np.concatenate([batch.index for batch in batches(part, 2)]) for part in parts]
    assert sorted(np.concatenate(seen).tolist()) == list(range(23))
    assert [part.sample_count for part in parts] == [len(rows) for rows in seen]


def test_tags_become_floats(cache: PixelCache) -> None:
    plain = cache.samples
    tags = np.eye(2, dtype=np.uint8)[plain.labels]
    samples = Samples(plain.root, plain.paths, tags, plain.classes, plain.split, task=Task.MULTI_LABEL)
    (batch,) = batches(Loader(PixelCache(samples, short_side=8), [0, 20], Stamp(), batch_size=4))
    assert batch.targets.dtype == np.float32
    assert batch.targets.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("threads", [0, 3])
def test_a_failing_picture_is_raised_at_its_batch_and_the_threads_end(
    make_folder: MakeFolder, threads: int
) -> None:
    cache = PixelCache(scan_folder(make_folder({"a": 10, "b": 10})), short_side=8)
    cache.samples.file(9).write_bytes(b"bad")
    before = threading.active_count()
    running = Loader(cache, range(20), Stamp(), batch_size=4, threads=threads).epoch(0)
    assert [len(next(running)), len(next(running))] == [4, 4]
    with pytest.raises(DataError, match=r"a/9\.png"):
        next(running)
    assert threading.active_count() == before


def test_an_epoch_that_is_left_early_leaves_no_threads(cache: PixelCache) -> None:
    before = threading.active_count()
    running = Loader(cache, range(23), Stamp(), batch_size=2, threads=3).epoch(0)
    next(running)
    assert threading.active_count() > before
    running.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_threads_work_ahead_but_only_a_few_batches(cache: PixelCache) -> None:
    done: list[int] = []

    class Counting(Stamp):
        def __call__(self, image: Pixels, sample_id: int, epoch: int) -> Pixels:
            done.append(sample_id)
            return super().__call__(image, sample_id, epoch)

    running = Loader(cache, range(23), Counting(), batch_size=2, threads=2).epoch(0)
    next(running)
    deadline = time.monotonic() + 5
    while len(done) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert 4 <= len(done) <= 8
    running.close()  # type: ignore[attr-defined]


def test_pictures_are_prepared_side_by_side(cache: PixelCache) -> None:
    meeting = threading.Barrier(3, timeout=10)

    class Meeting(Stamp):
        def __call__(self, image: Pixels, sample_id: int, epoch: int) -> Pixels:
            meeting.wait()  # passes only when three are under way at once
            return super().__call__(image, sample_id, epoch)

    (batch,) = batches(Loader(cache, range(3), Meeting(), batch_size=3, threads=3))
    assert len(batch) == 3


def test_a_batch_size_below_one_is_refused(cache: PixelCache) -> None:
    with pytest.raises(UsageError, match="batch of 0"):
        Loader(cache, range(3), Stamp(), batch_size=0)


def test_copies_of_a_picture_are_augmented_each_in_its_own_way(cache: PixelCache) -> None:
    rows = [*range(11), 22]
    loader = Loader(cache, rows, Stamp(), batch_size=64, ordering=Ordering(True, "sampler"))
    (batch,) = batches(loader)
    assert np.bincount(batch.targets).tolist() == [11, 11]  # type: ignore[arg-type]
    drawn = np.asarray(batch.inputs)[batch.index == 22, 0, 0, 1].tolist()
    assert len(set(drawn)) > 8  # a byte of each id: some of eleven may be equal
    assert int(cache.samples.ids[22]) % 256 in drawn  # one of them is the sample itself
    assert same(batches(loader), [batch])


def test_the_draws_of_a_sample_do_not_depend_on_what_else_is_drawn(cache: PixelCache) -> None:
    plain = {
        row: view
        for batch in batches(Loader(cache, range(23), Stamp(), batch_size=9))
        for row, view in zip(batch.index.tolist(), np.asarray(batch.inputs), strict=True)
    }
    (batch,) = batches(Loader(cache, [5, 22, 7], Stamp(), batch_size=9, shuffle=True))
    for row, view in zip(batch.index.tolist(), np.asarray(batch.inputs), strict=True):
        assert np.array_equal(view, plain[row])


def test_one_slow_picture_holds_up_its_own_batch_alone_when_unordered(cache: PixelCache) -> None:
    slow = threading.Event()

    class Waiting(Stamp):
        def __call__(self, image: Pixels, sample_id: int, epoch: int) -> Pixels:
            if image[0, 0, 0] == 0:
                assert slow.wait(10)
            return super().__call__(image, sample_id, epoch)

    running = Loader(cache, range(23), Waiting(), batch_size=4, threads=2, ordered=False).epoch(0)
    first = [next(running) for _ in range(5)]
    assert not any(0 in batch.index for batch in first)
    slow.set()
    assert 0 in next(running).index
    assert next(running, None) is None


class Failing(Stamp):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, image: Pixels, sample_id: int, epoch: int) -> Pixels:
        if image[0, 0, 0] == 13:
            raise self.error
        return super().__call__(image, sample_id, epoch)


@pytest.mark.parametrize("threads", [0, 1, 8])
def test_a_preparation_that_fails_names_the_file_and_what_it_raised(cache: PixelCache, threads: int) -> None:
    before = threading.active_count()
    loader = Loader(cache, range(23), Failing(KeyError("angle")), batch_size=8, threads=threads)
    running = loader.epoch(0)
    assert len(next(running)) == 8
    with pytest.raises(DataError, match=r"b/2\.png could not be prepared: KeyError: 'angle'") as caught:
        next(running)
    assert caught.value.code == "PREPARE_FAILED"
    assert isinstance(caught.value.__cause__, KeyError)
    assert threading.active_count() == before


def test_a_preparation_s_own_error_keeps_its_kind_and_hint(cache: PixelCache) -> None:
    error = UsageError("no such filter", "choose another")
    with pytest.raises(UsageError, match=r"b/2\.png: no such filter \(choose another\)"):
        batches(Loader(cache, range(23), Failing(error), batch_size=8))
    with pytest.raises(MemoryError):
        batches(Loader(cache, range(23), Failing(MemoryError()), batch_size=8))


@pytest.mark.parametrize(
    "view", [np.zeros((4, 6, 1), np.uint8), np.zeros((6, 4, 3), np.uint8), np.zeros((4, 6, 3), np.float32)]
)
def test_a_preparation_that_gives_another_shape_or_type_is_refused(
    cache: PixelCache, view: NDArray[Any]
) -> None:
    class Odd(Stamp):
        def __call__(self, image: Pixels, sample_id: int, epoch: int) -> Pixels:
            return view

    with pytest.raises(DataError, match=r"a/0\.png could not be prepared: it gave .* not uint8 \(4, 6, 3\)"):
        batches(Loader(cache, range(23), Odd(), batch_size=8))


def test_a_million_rows_start_at_any_step_at_once_and_touch_nothing_before() -> None:
    count = 10**6
    paths = tuple(map(str, range(count)))
    samples = Samples(Path("nowhere"), paths, np.arange(count) % 7, tuple("abcdefg"), np.full(count, "train"))
    cache = PixelCache(samples, short_side=8, mode="memory")
    samples.ids  # noqa: B018  # once for a table, not for each epoch
    for ordering in (Ordering(), Ordering(shuffle=True)):
        loader = Loader(cache, range(count), Stamp(), batch_size=64, ordering=ordering, threads=0, seed=3)
        last = len(loader) - 1
        wanted = ordering.epoch(samples.labels, seed=3, epoch=2).positions[last * 64 :]
        for row in wanted.tolist():
            cache.keep(row, np.zeros((1, 1, 3), np.uint8))
        started = time.process_time()
        (batch,) = loader.epoch(2, start=last)
        assert time.process_time() - started < 1.0
        assert batch.index.tolist() == wanted.tolist()


def test_an_epoch_that_is_forgotten_leaves_no_threads(cache: PixelCache) -> None:
    before = threading.active_count()
    running = Loader(cache, range(23), Stamp(), batch_size=2, threads=3).epoch(0)
    next(running)
    assert threading.active_count() > before
    del running
    assert threading.active_count() == before
