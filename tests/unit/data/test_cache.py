"""The cache: the same pixels whatever the budget, kept while it lasts, named where they fail."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from headstart.data import PixelCache, audit, cache, default_budget, scan_folder
from headstart.data.cache import CACHE_MODES, CacheMode
from headstart.data.images import Decoded
from headstart.errors import DataError, UsageError
from headstart.storage import sha256_bytes

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


# ---- on disk -----------------------------------------------------------------------------------


@pytest.fixture
def decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A cache folder of the test's own; the list grows by one for each picture that is decoded."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    calls: list[int] = []
    plain = cache.decode_with_size

    def counted(data: bytes, **options: object) -> Decoded:
        calls.append(len(data))
        return plain(data, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "decode_with_size", counted)
    return calls


def run(folder: Path, mode: CacheMode, *, epochs: int = 1, budget_bytes: int = 10**9) -> list[bytes]:
    """What a run over a folder sees: as the audit, file by file, and then in each epoch."""
    samples = scan_folder(folder)
    pixels = PixelCache(samples, short_side=20, mode=mode, budget_bytes=budget_bytes, disk_bytes=10**8)
    seen = [pixels.decode(row, samples.read(row)).pixels.tobytes() for row in range(len(samples))]
    for _ in range(epochs):
        assert [pixels.pixels(row).tobytes() for row in range(len(samples))] == seen
    return seen


@pytest.mark.parametrize(
    ("mode", "budget", "first", "second"),
    [
        ("none", 10**9, 24, 24),
        ("memory", 10**9, 8, 8),
        ("memory", 3 * 20 * 25 * 3, 18, 18),
        ("disk", 0, 8, 0),
        ("auto", 10**9, 8, 8),
        ("auto", 3 * 20 * 25 * 3, 8, 3),
    ],
)
def test_how_often_each_mode_decodes_eight_pictures_in_three_looks_and_in_a_second_run(
    folder: Path, decoded: list[int], mode: CacheMode, budget: int, first: int, second: int
) -> None:
    seen = run(folder, mode, epochs=2, budget_bytes=budget)
    assert len(decoded) == first
    assert run(folder, mode, epochs=2, budget_bytes=budget) == seen
    assert len(decoded) == first + second


def test_the_pixels_do_not_depend_on_the_mode(folder: Path, decoded: list[int]) -> None:
    seen = {mode: run(folder, mode) for mode in CACHE_MODES for _ in range(2)}
    assert all(pixels == seen["none"] for pixels in seen.values())


def test_a_dear_picture_is_kept_for_later_runs(
    make_folder: MakeFolder, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder({"a": 1}, height=500, width=500)
    make_folder({"b": 1}, height=499, width=500, format="JPEG")
    run(folder, "auto")
    run(folder, "auto")
    assert len(decoded) == 3  # the PNG once, the JPEG twice
    monkeypatch.setattr(cache, "DEAR_JPEG", 499 * 500)
    run(folder, "auto")
    run(folder, "auto")
    assert len(decoded) == 4


def test_a_changed_file_is_decoded_anew_and_a_moved_one_is_not(folder: Path, decoded: list[int]) -> None:
    run(folder, "disk")
    (folder / "a" / "0.png").rename(folder / "b" / "elsewhere.png")
    os.utime(folder / "a" / "1.png", (1, 1))
    run(folder, "disk")
    assert len(decoded) == 8
    (folder / "a" / "2.png").write_bytes((folder / "a" / "2.png").read_bytes() + b"a byte more")
    run(folder, "disk")
    assert len(decoded) == 9


def test_what_somebody_else_decoded_can_be_kept_and_found(folder: Path, decoded: list[int]) -> None:
    samples = scan_folder(folder)
    sha256 = sha256_bytes(samples.read(0))
    mine = Decoded(np.full((20, 25, 3), 7, np.uint8), (40, 50), "PNG")
    first = PixelCache(samples, short_side=20, mode="disk", disk_bytes=10**8)
    assert first.find(0, sha256) is None
    first.store(0, mine, sha256)
    for pixels in (first, PixelCache(samples, short_side=20, mode="disk", disk_bytes=10**8)):
        found = pixels.find(0, sha256)
        assert found is not None
        assert (found.size, found.format) == ((40, 50), "PNG")
        assert np.array_equal(pixels.pixels(0), mine.pixels)
        assert np.array_equal(pixels.take([3, 0]).pixels(1), mine.pixels)
    in_memory = PixelCache(samples, short_side=20, mode="memory")
    assert in_memory.keep(0, mine.pixels)
    assert in_memory.pixels(0) is mine.pixels
    assert in_memory.find(0, sha256) is None
    assert not PixelCache(samples, short_side=20, mode="none").keep(0, mine.pixels)
    assert decoded == []


def test_rows_that_are_taken_find_their_pixels_without_reading_the_file_again(
    folder: Path, decoded: list[int]
) -> None:
    pixels = PixelCache(scan_folder(folder), short_side=20, mode="disk", disk_bytes=10**8)
    audit(pixels, threads=0)
    expected = pixels.pixels(3).copy()
    pixels.samples.file(3).unlink()
    assert np.array_equal(pixels.take([1, 3]).pixels(1), expected)
    assert np.array_equal(pixels.resized(20).pixels(3), expected)


def test_another_size_finds_what_was_decoded_for_it_alone(folder: Path, decoded: list[int]) -> None:
    pixels = PixelCache(scan_folder(folder), short_side=20, mode="disk", disk_bytes=10**8)
    assert pixels.pixels(0).shape == (20, 25, 3)
    assert pixels.resized(40).pixels(0).shape == (40, 50, 3)
    assert pixels.resized(20).pixels(0).shape == (20, 25, 3)
    assert len(decoded) == 2


def test_without_room_on_disk_pictures_are_decoded_again(folder: Path, decoded: list[int]) -> None:
    samples = scan_folder(folder)
    pixels = PixelCache(samples, short_side=20, mode="disk", disk_bytes=0)
    assert np.array_equal(pixels.pixels(0), pixels.pixels(0))
    assert len(decoded) == 2


def test_an_unknown_mode_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="no cache 'tape'"):
        PixelCache(scan_folder(folder), short_side=20, mode="tape")  # type: ignore[arg-type]
