"""Pictures that go or change after they were looked at: an error with their name, or left out and counted."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headstart.augment import EvalPrepare
from headstart.data import Audit, Loader, Lost, PixelCache, audit, scan_folder, without_quarantined
from headstart.data.lost import ON_ERROR
from headstart.errors import DataError, StoppedError
from headstart.types import Batch

MakeFolder = Callable[..., Path]

PREPARE = EvalPrepare((16, 16))


@pytest.fixture
def looked_at(make_folder: MakeFolder) -> tuple[PixelCache, Audit]:
    """Twelve pictures that were audited, and of which no pixels are kept."""
    cache = PixelCache(scan_folder(make_folder({"a": 6, "b": 6})), short_side=16, mode="none")
    return cache, audit(cache, threads=2)


def spoil(cache: PixelCache) -> dict[int, str]:
    """Delete, replace, cut short and close a picture; return the codes that this must give."""
    files = [cache.samples.file(row) for row in range(len(cache))]
    other = files[3].read_bytes()
    files[1].unlink()
    files[2].write_bytes(other)
    files[8].write_bytes(files[8].read_bytes()[:40])
    files[9].unlink()
    files[9].mkdir()
    return {1: "VANISHED", 2: "CHANGED", 8: "CHANGED", 9: "NOT_REGULAR"}


def skipping(cache: PixelCache, most: int = 10) -> PixelCache:
    cache.lost = Lost(np.full(len(cache), "train"), most)
    return cache


def batches(cache: PixelCache, threads: int, *, epoch: int = 1, batch_size: int = 4) -> list[Batch]:
    loader = Loader(
        cache, range(len(cache)), PREPARE, batch_size=batch_size, shuffle=True, threads=threads, seed=3
    )
    return list(loader.epoch(epoch))


@pytest.mark.parametrize("threads", [0, 2, 8])
def test_a_picture_that_went_stops_the_work_with_its_name(
    looked_at: tuple[PixelCache, Audit], threads: int
) -> None:
    cache, _ = looked_at
    cache.samples.file(5).unlink()
    with pytest.raises(StoppedError, match=r"a/5\.png is not there any more") as caught:
        batches(cache, threads)
    assert (caught.value.code, caught.value.exit_code) == ("VANISHED", 75)


@pytest.mark.parametrize("threads", [0, 2, 8])
def test_lost_pictures_are_in_no_batch_and_nothing_takes_their_place(
    looked_at: tuple[PixelCache, Audit], threads: int
) -> None:
    cache, _ = looked_at
    whole = batches(cache, 0)
    codes = spoil(cache)
    left = batches(skipping(cache), threads)
    assert cache.lost is not None
    assert cache.lost.codes() == codes
    assert cache.lost.counts() == {"CHANGED": 2, "VANISHED": 1, "NOT_REGULAR": 1}
    assert len(left) == len(whole) == 3
    for before, after in zip(whole, left, strict=True):
        kept = ~np.isin(before.index, list(codes))
        assert after.index.tolist() == before.index[kept].tolist()
        assert np.array_equal(after.inputs, np.asarray(before.inputs)[kept])
        assert np.array_equal(after.targets, np.asarray(before.targets)[kept])


@pytest.mark.parametrize("threads", [0, 2])
def test_a_batch_that_loses_all_is_empty_and_the_others_keep_their_places(
    looked_at: tuple[PixelCache, Audit], threads: int
) -> None:
    cache, _ = looked_at
    whole = batches(cache, 0, batch_size=2)
    for row in whole[1].index.tolist():
        cache.samples.file(row).unlink()
    left = batches(skipping(cache), threads, batch_size=2)
    assert [len(batch) for batch in left] == [2, 0, 2, 2, 2, 2]
    assert np.shape(left[1].inputs) == (0, 16, 16, 3)
    assert [batch.index.tolist() for batch in left[2:]] == [batch.index.tolist() for batch in whole[2:]]


def test_a_row_that_is_lost_stays_so_though_its_file_comes_back(looked_at: tuple[PixelCache, Audit]) -> None:
    cache, _ = looked_at
    file = skipping(cache).samples.file(4)
    file.rename(file.with_suffix(".away"))
    assert cache.found(4) is None
    file.with_suffix(".away").rename(file)
    assert cache.found(4) is None
    assert cache.resized(32).found(4) is None
    assert cache.pixels(4).shape[2] == 3, "who asks for it by name is not refused"
    assert cache.found(5) is not None


def test_pictures_that_are_kept_in_memory_cannot_be_lost(make_folder: MakeFolder) -> None:
    cache = PixelCache(scan_folder(make_folder({"a": 2, "b": 2})), short_side=16, mode="memory")
    audit(cache, threads=0)
    cache.samples.file(0).unlink()
    assert skipping(cache).found(0) is not None


def test_a_picture_that_was_bad_before_is_no_loss(looked_at: tuple[PixelCache, Audit]) -> None:
    cache, _ = looked_at
    never_seen = PixelCache(cache.samples, short_side=16, mode="none")
    cache.samples.file(0).unlink()
    with pytest.raises(DataError, match=r"a/0\.png"):
        skipping(never_seen).found(0)


def test_more_than_allowed_stops_the_work(looked_at: tuple[PixelCache, Audit]) -> None:
    cache, _ = looked_at
    spoil(cache)
    with pytest.raises(StoppedError, match=r"4 of 12 pictures went or changed .*2 CHANGED") as caught:
        batches(skipping(cache, most=3), 2)
    assert (caught.value.code, caught.value.exit_code) == ("TOO_MANY_LOST", 75)
    assert "--max-bad 4" in caught.value.hint
    assert len(batches(skipping(cache, most=4), 2)) == 3


def test_a_part_of_which_nothing_is_left_stops_the_work(looked_at: tuple[PixelCache, Audit]) -> None:
    cache, _ = looked_at
    cache.lost = Lost(np.array(["train"] * 10 + ["valid"] * 2), 10)
    for row in (10, 11):
        cache.samples.file(row).unlink()
    assert cache.found(10) is None
    with pytest.raises(StoppedError, match="none is left of the part 'valid'"):
        cache.found(11)


def test_the_list_of_what_is_left_out_has_the_lost_ones_too_and_serves_the_next_run(
    looked_at: tuple[PixelCache, Audit], tmp_path: Path
) -> None:
    cache, seen = looked_at
    codes = spoil(cache)
    batches(skipping(cache), 0)
    seen.write_quarantine(tmp_path / "quarantine.csv", cache.lost)
    with open(tmp_path / "quarantine.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["path"]: row["code"] for row in rows} == {
        cache.samples.paths[row]: code for row, code in codes.items()
    }
    assert [row["sha256"] for row in rows] == seen.sha256[list(codes)].tolist()
    again = scan_folder(cache.samples.root)
    assert len(without_quarantined(again, tmp_path / "quarantine.csv")) == 8
    text = (tmp_path / "quarantine.csv").read_text("utf-8")
    (tmp_path / "slip.csv").write_text(text.replace("VANISHED", "CHANGED"), "utf-8")
    with pytest.raises(DataError, match=r"there is no picture a/1\.png"):
        without_quarantined(again, tmp_path / "slip.csv")


def test_a_loss_is_told_in_a_line_and_the_first_five_by_name(looked_at: tuple[PixelCache, Audit]) -> None:
    cache, _ = looked_at
    assert skipping(cache).lost is not None
    lost = cache.lost
    assert lost is not None
    assert lost.lines() == []
    spoil(cache)
    batches(cache, 0)
    lines = lost.lines()
    assert lines[0].startswith("4 pictures went or changed during the run and were left out: 2 CHANGED")
    assert len(lines) == 5
    assert ON_ERROR == ("stop", "skip")
