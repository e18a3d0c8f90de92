"""A picture that changes after the audit stops the run; what only looks changed does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from headstart.data import Loader, PixelCache, audit, scan_folder
from headstart.errors import DataError, StoppedError
from headstart.types import Pixels, Size

MakeFolder = Callable[..., Path]


class Corner:
    """A `Prepare` that takes the first pixels."""

    size: Size = (2, 2)
    key = "corner"

    def __call__(self, image: Pixels, sample_id: int, epoch: int) -> Pixels:
        return image[:2, :2]


@pytest.fixture
def audited(make_folder: MakeFolder) -> PixelCache:
    """Six good pictures that were looked at, none of which is kept in memory."""
    cache = PixelCache(scan_folder(make_folder({"a": 3, "b": 3})), short_side=16, mode="none")
    assert audit(cache).ok.all()
    return cache


def epoch(cache: PixelCache, number: int) -> int:
    loader = Loader(cache, range(len(cache)), Corner(), batch_size=2, threads=2)
    return sum(len(batch) for batch in loader.epoch(number))


def delete(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    path.write_bytes(path.with_name("1.png").read_bytes())


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_in_its_size_and_a_later_second(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (delete, "VANISHED"),
        (replace, "CHANGED"),
        (truncate, "CHANGED"),
        (replace_by_a_folder, "NOT_REGULAR"),
        (replace_in_its_size_and_a_later_second, "CHANGED"),
    ],
)
def test_a_file_that_changes_between_epochs_stops_the_run_and_is_named(
    audited: PixelCache, change: Callable[[Path], None], code: str
) -> None:
    assert epoch(audited, 0) == 6
    change(audited.samples.file(3))
    with pytest.raises(StoppedError, match=r"b/0\.png") as caught:
        epoch(audited, 1)
    assert (caught.value.code, caught.value.exit_code) == (code, 75)
    assert caught.value.hint


def test_the_rows_of_a_part_keep_their_stamps(audited: PixelCache) -> None:
    truncate(audited.samples.file(3))
    for part in (audited.take([5, 3]), audited.take([5, 3]).resized(8)):
        assert part.pixels(0).shape[2] == 3
        with pytest.raises(StoppedError, match=r"b/0\.png"):
            part.pixels(1)


def test_a_file_that_was_only_touched_or_copied_back_is_the_same(audited: PixelCache) -> None:
    for row in range(3):
        path = audited.samples.file(row)
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
        os.utime(path, (1, 1))
    assert epoch(audited, 1) == 6


def test_a_picture_that_is_kept_does_not_need_its_file(make_folder: MakeFolder) -> None:
    cache = PixelCache(scan_folder(make_folder({"a": 3, "b": 3})), short_side=16)
    audit(cache)
    cache.samples.file(3).unlink()
    assert epoch(cache, 1) == 6


def test_without_an_audit_a_missing_file_is_a_fault_of_the_data(make_folder: MakeFolder) -> None:
    cache = PixelCache(scan_folder(make_folder({"a": 3, "b": 3})), short_side=16)
    cache.samples.file(3).unlink()
    with pytest.raises(DataError, match=r"b/0\.png") as caught:
        epoch(cache, 0)
    assert (caught.value.code, caught.value.exit_code) == ("VANISHED", 65)
