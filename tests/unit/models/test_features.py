from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headstart.data import Loader, PixelCache, Samples
from headstart.errors import UsageError
from headstart.models import ActivationSource, FeatureCache, TensorSource, materialise
from headstart.ordering import Ordering
from headstart.types import Batch, World


class Pictures:
    """A source of made pictures in a given order."""

    def __init__(self, count: int, batch_size: int = 4) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
        self.order = np.arange(count)[::-1]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    @property
    def sample_count(self) -> int:
        return len(self.order)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        for first in range(start * self.batch_size, len(self.order), self.batch_size):
            rows = self.order[first : first + self.batch_size]
            yield Batch(self.pixels[rows], rows % 2, rows, np.ones(len(rows), np.float32))


class Means:
    name = "means"

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return pixels.mean((1, 2), dtype=np.float32)


class Blank:
    """A `Prepare` that gives one black pixel."""

    size = (1, 1)
    key = "blank"

    def __call__(self, image: NDArray[np.uint8], sample_id: int, epoch: int) -> NDArray[np.uint8]:
        return np.zeros((1, 1, 3), np.uint8)


def unread(labels: NDArray[np.int64]) -> PixelCache:
    """A cache of pictures that are nowhere on the disk."""
    paths = tuple(f"{row}.jpg" for row in range(len(labels)))
    split = np.full(len(labels), "train")
    cache = PixelCache(Samples(Path("nowhere"), paths, labels, ("a", "b"), split), short_side=8)
    for row in range(len(labels)):
        cache.keep(row, np.zeros((1, 1, 3), np.uint8))
    return cache


def table(count: int, width: int = 3) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    features = np.arange(count * width, dtype=np.float32).reshape(count, width)
    return features, np.arange(count) % 2, np.arange(count) + 100


def test_activations_keep_everything_else_of_a_batch() -> None:
    source = Pictures(10)
    activations = ActivationSource(source, Means())
    assert (len(activations), activations.sample_count) == (3, 10)
    for ours, theirs in zip(activations.epoch(0, start=1), source.epoch(0, start=1), strict=True):
        np.testing.assert_array_equal(ours.inputs, Means()(np.asarray(theirs.inputs)))
        np.testing.assert_array_equal(ours.index, theirs.index)
        np.testing.assert_array_equal(ours.targets, theirs.targets)
        np.testing.assert_array_equal(np.asarray(ours.weight), np.asarray(theirs.weight))


def test_a_source_is_computed_once_in_its_own_order_and_says_how_far_it_is() -> None:
    said: list[tuple[int, int]] = []
    source = Pictures(10)
    features, targets, index = materialise(source, Means(), lambda done, total: said.append((done, total)))
    np.testing.assert_array_equal(index, source.order)
    np.testing.assert_array_equal(targets, source.order % 2)
    np.testing.assert_array_equal(features, Means()(source.pixels[source.order]))
    assert said == [(4, 10), (8, 10), (10, 10)]


def test_each_part_that_is_done_can_be_looked_at() -> None:
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    source = Pictures(10)
    whole = materialise(source, Means(), on_part=lambda part: parts.append(tuple(map(np.copy, part))))
    assert [len(part[2]) for part in parts] == [4, 8, 10]
    for part in parts:
        for ours, theirs in zip(part, whole, strict=True):
            np.testing.assert_array_equal(ours, theirs[: len(ours)])


def test_no_picture_gives_no_features() -> None:
    with pytest.raises(UsageError, match="no picture"):
        materialise(Pictures(0), Means())


@settings(deadline=None)
@given(
    count=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    shuffle=st.booleans(),
    epoch=st.integers(0, 5),
    ranks=st.integers(1, 3),
)
def test_every_row_comes_once_over_all_processes(
    count: int, batch_size: int, shuffle: bool, epoch: int, ranks: int
) -> None:
    features, targets, index = table(count)
    seen = []
    for rank in range(ranks):
        source = TensorSource(
            features, targets, index, batch_size=batch_size, shuffle=shuffle, seed=1, world=World(rank, ranks)
        )
        batches = list(source.epoch(epoch))
        assert len(batches) == len(source)
        assert sum(map(len, batches)) == source.sample_count
        assert all(abs(ranks * len(batch) - batch_size) <= 2 * ranks for batch in batches[:-1])
        for batch in batches:
            np.testing.assert_array_equal(batch.inputs, features[batch.index - 100])
            np.testing.assert_array_equal(batch.targets, targets[batch.index - 100])
        seen += [row for batch in batches for row in batch.index]
    assert sorted(seen) == list(index)


def test_the_order_is_a_pure_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int, start: int = 0) -> list[int]:
        source = TensorSource(*table(50), batch_size=8, seed=seed).shuffled()
        return [row for batch in source.epoch(epoch, start=start) for row in batch.index]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)
    assert order(0, 1, start=3) == order(0, 1)[24:]
    plain = TensorSource(*table(50), batch_size=8)
    assert [row for batch in plain.epoch(4) for row in batch.index] == list(range(100, 150))


def test_a_source_of_tables_that_do_not_match_is_refused() -> None:
    features, targets, index = table(5)
    with pytest.raises(UsageError, match="do not match"):
        TensorSource(features, targets[:4], index)
    with pytest.raises(UsageError, match="batch size is 0"):
        TensorSource(features, targets, index, batch_size=0)


@pytest.mark.parametrize("ordering", [Ordering(), Ordering(shuffle=True), Ordering(True, "sampler")])
@pytest.mark.parametrize(("count", "batch_size", "ranks"), [(50, 8, 1), (49, 8, 1), (33, 4, 2), (5, 1, 1)])
def test_batches_are_those_of_the_picture_loader(
    count: int, batch_size: int, ranks: int, ordering: Ordering
) -> None:
    """A head on cached activations sees the samples as it would have seen them as pictures."""
    features, _, index = table(count)
    targets = np.r_[np.zeros(count - 3, np.int64), 1, 1, 1]
    for rank in range(ranks):
        options = {"batch_size": batch_size, "ordering": ordering, "seed": 3, "world": World(rank, ranks)}
        loader = Loader(unread(targets), range(count), Blank(), threads=0, **options)  # type: ignore[arg-type]
        source = TensorSource(features, targets, index, **options)  # type: ignore[arg-type]
        assert (len(source), source.sample_count) == (len(loader), loader.sample_count)
        for ours, theirs in zip(source.epoch(2), loader.epoch(2), strict=True):
            np.testing.assert_array_equal(ours.index - 100, theirs.index)
            np.testing.assert_array_equal(ours.targets, theirs.targets)


def test_a_source_can_be_shuffled_into_another_ordering() -> None:
    targets = np.array([0, 0, 0, 0, 0, 1], np.int64)
    features, _, index = table(6)
    plain = TensorSource(features, targets, index, batch_size=4)
    balanced = plain.shuffled(ordering=Ordering(balance="sampler"))
    assert (plain.sample_count, balanced.sample_count, len(balanced)) == (6, 10, 3)
    drawn = np.concatenate([np.asarray(batch.targets) for batch in balanced.epoch(0)])
    assert np.bincount(drawn).tolist() == [5, 5]


# ---- the cache -------------------------------------------------------------------------------


def test_features_are_found_under_their_key_alone(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    stored = table(6)
    cache.store("a", stored)
    found = cache.load("a")
    assert found is not None
    for ours, theirs in zip(found, stored, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    assert cache.load("b") is None


def test_keys_cover_pictures_preparation_and_weights() -> None:
    hashes = np.array(["aa", "bb"])
    keys = {
        FeatureCache.key(hashes, "224", "w"),
        FeatureCache.key(hashes[::-1], "224", "w"),
        FeatureCache.key(hashes, "288", "w"),
        FeatureCache.key(hashes, "224", "v"),
        FeatureCache.key(hashes[:1], "224", "w"),
    }
    assert len(keys) == 5
    assert FeatureCache.key(hashes, "224", "w") in keys


@pytest.mark.parametrize("place", [0, 100, -1])
def test_features_with_an_altered_byte_are_not_used(tmp_path: Path, place: int) -> None:
    cache = FeatureCache(tmp_path)
    cache.store("a", table(6))
    path = tmp_path / "a.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert cache.load("a") is None


def test_the_least_recently_used_go_when_space_is_short(tmp_path: Path) -> None:
    size = 6 * (12 + 8 + 8)
    cache = FeatureCache(tmp_path, budget_bytes=3 * (size + 400))
    for number, key in enumerate("abc"):
        cache.store(key, table(6))
        os.utime(tmp_path / f"{key}.safetensors", (number + 1, number + 1))
    assert cache.load("a") is not None
    cache.store("d", table(6))
    kept = {key for key in "abcd" if cache.load(key) is not None}
    assert kept == {"a", "c", "d"}


def test_features_over_the_whole_budget_are_not_stored(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, budget_bytes=100)
    cache.store("a", table(6))
    assert cache.load("a") is None
    assert not list(tmp_path.iterdir())


def test_empty_batches_are_let_through_and_give_no_rows() -> None:
    class Holed(Pictures):
        def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
            for number, batch in enumerate(super().epoch(epoch, start=start)):
                kept = slice(0, 0 if number == 1 else 3)
                yield Batch(batch.inputs[kept], batch.targets[kept], batch.index[kept])

    source = Holed(10)
    sizes = [len(batch) for batch in ActivationSource(source, Means()).epoch(0)]
    assert sizes == [3, 0, 2]
    told: list[tuple[int, int]] = []
    features, targets, index = materialise(source, Means(), lambda done, total: told.append((done, total)))
    assert index.tolist() == [9, 8, 7, 1, 0]
    assert targets.tolist() == [1, 0, 1, 1, 0]
    assert np.array_equal(features, Means()(source.pixels[index]))
    assert told == [(3, 10), (5, 10)]
