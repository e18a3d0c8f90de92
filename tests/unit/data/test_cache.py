"""The cache: the same pixels whatever the budget, kept while it lasts, named where they fail."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from headstart.data import PixelCache, default_budget, scan_folder
from headstart.errors import DataError

MakeFolder = Callable[..., Path]


@pytest.fixture
def folder(make_folder: MakeFolder) -> Path:
    return make_folder({"a": 4, "b": 4}, height=40, width=50)


def test_a_row_gives_the_same_pixels_whatever_the_budget(folder: Path) -> None:
    samples = scan_folder(folder)
    size = 20 * 25 * 3
    caches = [
        PixelCache(samples, short_side=20, mode="memory", budget_bytes=budget)
        for budget in (0, 3 * size, 10**9)
    ]
    for _ in range(2):
        for row in range(len(samples)):
            first, *others = [cache.pixels(row) for cache in caches]
            assert first.shape == (20, 25, 3)
            assert all(np.array_equal(first, other) for other in others)
    assert [cache.used_bytes for cache in caches] == [0, 3 * size, 8 * size]


def test_what_is_kept_is_not_read_again(folder: Path) -> None:
    samples = scan_folder(folder)
    cache = PixelCache(samples, short_side=20, mode="memory", budget_bytes=10**9)
    kept = cache.pixels(0)
    samples.file(0).unlink()
    assert cache.pixels(0) is kept
    samples.file(1).unlink()
    with pytest.raises(DataError) as caught:
        cache.pixels(1)
    assert caught.value.code == "VANISHED"


def test_kept_pixels_cannot_be_changed_by_whoever_gets_them(folder: Path) -> None:
    pixels = PixelCache(scan_folder(folder), short_side=20, mode="memory").pixels(0)
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 0


def test_a_bad_file_is_named_with_its_reason(folder: Path) -> None:
    samples = scan_folder(folder)
    samples.file(5).write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"b/1\.png: it is not a picture") as caught:
        PixelCache(samples, short_side=20, mode="memory").pixels(5)
    assert caught.value.code == "NOT_AN_IMAGE"


def test_taking_rows_takes_their_pixels_along(folder: Path) -> None:
    cache = PixelCache(scan_folder(folder), short_side=20, mode="memory")
    kept = [cache.pixels(row) for row in (1, 6)]
    taken = cache.take([6, 0, 1])
    assert taken.samples.paths == ("b/2.png", "a/0.png", "a/1.png")
    assert taken.pixels(0) is kept[1]
    assert taken.pixels(2) is kept[0]
    assert taken.used_bytes < taken.used_bytes + len(taken.pixels(1))


def test_another_size_is_decoded_anew(folder: Path) -> None:
    cache = PixelCache(scan_folder(folder), short_side=20, mode="memory")
    assert cache.pixels(0).shape == (20, 25, 3)
    assert cache.resized(40).pixels(0).shape == (40, 50, 3)
    assert cache.resized(1000).pixels(0).shape == (40, 50, 3)


def test_many_threads_get_what_one_gets_and_the_budget_holds(folder: Path) -> None:
    samples = scan_folder(folder)
    expected = [PixelCache(samples, short_side=20, mode="memory").pixels(row) for row in range(8)]
    cache = PixelCache(samples, short_side=20, mode="memory", budget_bytes=4 * 20 * 25 * 3)
    rows = [row for _ in range(20) for row in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for row, pixels in zip(rows, pool.map(cache.pixels, rows), strict=True):
            assert np.array_equal(pixels, expected[row])
    assert cache.used_bytes == 4 * 20 * 25 * 3


def test_the_default_budget_is_some_memory_but_not_all() -> None:
    assert 2**27 < default_budget() < 2**45
