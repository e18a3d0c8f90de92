"""Large activations: as float16, in a file that is mapped, and what happens where that cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from headstart.errors import StorageError, UsageError
from headstart.models import FeatureCache, TensorSource, ViewSource, keeps_half
from headstart.types import Batch


class Pictures:
    """Made pictures; the epoch is added to each, as an augmentation would change them."""

    def __init__(self, count: int) -> None:
        self.sample_count = count
        self.pixels = np.random.default_rng(0).integers(0, 200, (count, 2, 2, 3), np.uint8)

    def __len__(self) -> int:
        return -(-self.sample_count // 4)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        for first in range(4 * start, self.sample_count, 4):
            rows = np.arange(first, min(first + 4, self.sample_count))
            yield Batch(self.pixels[rows] + np.uint8(epoch), rows % 2, rows + 10)


class Thirds:
    """An engine whose activations float16 must round: a feature map of thirds, times a factor."""

    name = "thirds"

    def __init__(self, factor: float = 1.0, *, dies_after: int | None = None) -> None:
        self.factor, self.left = factor, dies_after

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise OSError(28, "No space left on device")
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / 3 * np.float32(self.factor)


@pytest.mark.parametrize("half", [False, True])
def test_a_mapped_table_holds_what_one_in_memory_would(tmp_path: Path, half: bool) -> None:
    cache, source = FeatureCache(tmp_path), Pictures(10)
    memory = cache.compute(source, Thirds(), key="a", epoch=2, half=half)
    mapped = cache.compute(source, Thirds(), key="b", epoch=2, half=half, mapped=True)
    again = cache.load("b")
    assert again is not None
    for ours in (mapped, again):
        assert isinstance(ours[0], np.memmap)
        for column, expected in zip(ours, memory, strict=True):
            np.testing.assert_array_equal(column, expected)
            assert column.dtype == expected.dtype
    exact = Thirds()(source.pixels + np.uint8(2))
    assert memory[0].dtype == (np.float16 if half else np.float32)
    np.testing.assert_allclose(memory[0], exact, rtol=2**-11)
    assert np.array_equal(memory[0], exact) == (not half), "float16 rounds, and the test can see it"
    batch = next(TensorSource(*again, batch_size=3).epoch(0))
    assert batch.inputs.dtype == np.float32


@pytest.mark.parametrize("mapped", [False, True])
def test_what_float16_cannot_hold_is_kept_as_float32(tmp_path: Path, mapped: bool) -> None:
    source = Pictures(6)
    found = FeatureCache(tmp_path).compute(source, Thirds(1e5), key="a", half=True, mapped=mapped)
    assert found[0].dtype == np.float32
    np.testing.assert_array_equal(found[0], Thirds(1e5)(source.pixels))


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@pytest.mark.parametrize("place", [20, -1])
def test_a_mapped_table_with_an_altered_byte_is_not_used(tmp_path: Path, suffix: str, place: int) -> None:
    cache = FeatureCache(tmp_path)
    cache.compute(Pictures(10), Thirds(), key="a", mapped=True)
    path = tmp_path / f"a{suffix}"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert cache.load("a") is None


def test_half_a_mapped_table_is_never_left(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    with pytest.raises(StorageError, match="disk is full"):
        cache.compute(Pictures(10), Thirds(dies_after=2), key="a", mapped=True)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="no picture"):
        cache.compute(Pictures(0), Thirds(), key="a", mapped=True)


def test_the_budget_is_what_the_disk_can_spare(tmp_path: Path) -> None:
    assert FeatureCache(tmp_path, budget_bytes=5).budget_bytes == 5
    assert 0 < FeatureCache(tmp_path / "not" / "yet" / "there").budget_bytes <= 16 * 2**30


def test_maps_and_tokens_are_kept_in_half_and_pooled_features_whole() -> None:
    assert keeps_half((32, 7, 7))
    assert keeps_half((197, 384))
    assert not keeps_half((2560,))


def test_epochs_take_the_views_in_turn_and_only_those_that_are_used() -> None:
    made: list[int] = []

    def make(view: int) -> TensorSource:
        made.append(view)
        features = np.full((6, 2), view, np.float32)
        return TensorSource(features, np.zeros(6, np.int64), np.arange(6), batch_size=4).shuffled()

    source = ViewSource(make, 3)
    assert (len(source), source.sample_count) == (2, 6)
    seen = [{float(v) for batch in source.epoch(e) for v in np.ravel(batch.inputs)} for e in (0, 1, 3, 4)]
    assert seen == [{0.0}, {1.0}, {0.0}, {1.0}]
    assert made == [0, 1], "view 2 was never asked for"
    orders = [[row for batch in source.epoch(epoch) for row in batch.index] for epoch in (0, 3)]
    assert orders[0] != orders[1], "the order is that of the epoch, not of the view"
    with pytest.raises(UsageError, match="0 views"):
        ViewSource(make, 0)
