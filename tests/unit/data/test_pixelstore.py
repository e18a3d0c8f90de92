"""Pixels on disk: found by content and settings alone, whole or not at all, whoever else writes."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.data import pixelstore
from headstart.data.cache import settings_key
from headstart.data.colours import Colours
from headstart.data.images import Decoded
from headstart.data.limits import Limits
from headstart.data.pixelstore import PixelStore
from headstart.storage import sha256_bytes

SIDE = 40
BYTES = SIDE * SIDE * 3
KINDS = st.sampled_from(["pixels", "index"])


def content(number: int) -> bytes:
    return bytes.fromhex(sha256_bytes(str(number).encode()))


def decoded(number: int, height: int = SIDE, width: int = SIDE) -> Decoded:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    return Decoded(pixels, (height * 2, width * 2), "JPEG")


def same(found: Decoded | None, expected: Decoded) -> bool:
    return (
        found is not None
        and np.array_equal(found.pixels, expected.pixels)
        and (found.size, found.format) == (expected.size, expected.format)
    )


PADDING = -(BYTES + len(pixelstore._facts_bytes(decoded(0)))) % 64


@pytest.fixture(autouse=True)
def looking_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixelstore, "_REFRESH_SECONDS", 0.0)


@pytest.fixture
def store(tmp_path: Path) -> PixelStore:
    return PixelStore("key", folder=tmp_path, budget_bytes=10**8)


def test_grey_pictures_keep_their_one_channel(store: PixelStore) -> None:
    grey = Decoded(decoded(1).pixels[..., :1], (SIDE, SIDE), "PNG")  # strided, too
    store.add(content(1), grey)
    assert same(again(store).find(content(1)), grey)


def again(store: PixelStore) -> PixelStore:
    """Another process's view of the same folder."""
    return PixelStore(store.settings, folder=store.folder, budget_bytes=store.budget_bytes)


def the_file(store: PixelStore, kind: str) -> Path:
    (path,) = store.folder.glob(f"*.{kind}")
    return path


def test_what_was_kept_is_found_with_all_that_was_known_of_it(store: PixelStore) -> None:
    kept = [decoded(number, 20 + number, 31) for number in range(5)]
    assert all(store.add(content(number), one) for number, one in enumerate(kept))
    for other in (store, again(store)):
        assert len(other) == 5
        for number, one in enumerate(kept):
            found = other.find(content(number))
            assert same(found, one)
            assert found is not None
            assert not found.pixels.flags.writeable
        assert other.find(content(9)) is None


def test_a_picture_is_written_once(store: PixelStore) -> None:
    for one in (store, store, again(store)):
        one.find(content(1))
        assert one.add(content(1), decoded(1))
    assert the_file(store, "index").stat().st_size == pixelstore._RECORD.size


@settings(max_examples=50, deadline=None)
@given(
    first=st.tuples(st.integers(1, 4096), st.integers(1, 10**9), st.integers(1, 10**9)),
    second=st.tuples(st.integers(1, 4096), st.integers(1, 10**9), st.integers(1, 10**9)),
)
def test_settings_have_one_key_only_if_they_are_equal(
    first: tuple[int, int, int], second: tuple[int, int, int]
) -> None:
    keys = [
        settings_key(side, Limits(pixels=pixels, file_bytes=size), Colours())
        for side, pixels, size in (first, second)
    ]
    assert (keys[0] == keys[1]) == (first == second)


def test_each_setting_and_version_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.data import cache

    plain = settings_key(256, Limits(), Colours())
    assert plain == settings_key(256, Limits(), Colours())
    changed = [settings_key(257, Limits(), Colours())]
    for field in dataclasses.fields(Limits):
        more = dataclasses.replace(Limits(), **{field.name: getattr(Limits(), field.name) + 1})
        changed.append(settings_key(256, more, Colours()))
    with monkeypatch.context() as patch:
        patch.setattr(cache, "DECODING_VERSION", cache.DECODING_VERSION + 1)
        changed.append(settings_key(256, Limits(), Colours()))
    with monkeypatch.context() as patch:
        patch.setattr(cache.metadata, "version", lambda package: "0")
        changed.append(settings_key(256, Limits(), Colours()))
    assert len({plain, *changed}) == 1 + len(changed)


def test_other_settings_see_nothing_of_it(store: PixelStore, tmp_path: Path) -> None:
    store.add(content(1), decoded(1))
    other = PixelStore("other", folder=tmp_path, budget_bytes=10**8)
    assert other.find(content(1)) is None
    # Even where a file of other settings is given this one's name.
    for kind in ("pixels", "index"):
        path = the_file(store, kind)
        path.rename(path.with_name(path.name.replace("key-", "other-")))
    assert len(PixelStore("other", folder=tmp_path, budget_bytes=10**8)) == 1
    assert PixelStore("other", folder=tmp_path, budget_bytes=10**8).find(content(1)) is None


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> PixelStore:
    store = PixelStore("key", folder=tmp_path_factory.mktemp("pixels"), budget_bytes=10**8)
    for number in range(3):
        store.add(content(number), decoded(number))
    return store


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["pixels", "index"]), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7)
)
def test_an_altered_byte_never_gives_altered_pixels(
    three: PixelStore, kind: str, where: float, bit: int
) -> None:
    path = the_file(three, kind)
    data = path.read_bytes()
    changed = bytearray(data)
    place = int(where * len(data))
    changed[place] ^= 1 << bit
    path.write_bytes(changed)
    try:
        found = [again(three).find(content(number)) for number in range(3)]
    finally:
        path.write_bytes(data)
    assert all(one is None or same(one, decoded(number)) for number, one in enumerate(found))
    each = len(data) // 3
    if kind == "index" or place % each < each - PADDING:
        assert sum(one is None for one in found) == 1


@settings(max_examples=40, deadline=None)
@given(kind=KINDS, part=st.floats(0, 1, exclude_max=True))
def test_of_a_torn_file_whole_entries_are_found_and_the_rest_is_not(
    three: PixelStore, kind: str, part: float
) -> None:
    path = the_file(three, kind)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    try:
        found = [again(three).find(content(number)) for number in range(3)]
    finally:
        path.write_bytes(data)
    if kind == "index":
        assert [one is not None for one in found] == [number < int(part * 3) for number in range(3)]
    assert all(one is None or same(one, decoded(number)) for number, one in enumerate(found))
    assert (found[2] is None) == (kind == "index" or int(part * len(data)) < len(data) - PADDING)


def test_pixels_that_never_reached_the_disk_are_not_used(store: PixelStore) -> None:
    store.add(content(1), decoded(1))
    path = the_file(store, "pixels")
    path.write_bytes(bytes(path.stat().st_size))  # a power cut may leave zeros
    other = again(store)
    assert other.find(content(1)) is None
    assert other.add(content(1), decoded(1))
    assert same(other.find(content(1)), decoded(1))
    assert same(again(store).find(content(1)), decoded(1))  # the later record counts


def test_another_process_finds_what_this_one_writes_meanwhile(store: PixelStore) -> None:
    other = again(store)
    assert other.find(content(1)) is None
    store.add(content(1), decoded(1))
    assert same(other.find(content(1)), decoded(1))
    index = the_file(store, "index")
    store.add(content(2), decoded(2))
    whole = index.read_bytes()
    index.write_bytes(whole[:-10])  # the second record is half written …
    assert other.find(content(2)) is None
    index.write_bytes(whole)  # … and then whole
    assert same(other.find(content(2)), decoded(2))


def test_many_threads_and_processes_may_write_at_once(store: PixelStore) -> None:
    writing = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_pixelstore import PixelStore, content, decoded, Path\n"
        "store = PixelStore('key', folder=Path(sys.argv[2]), budget_bytes=10**8)\n"
        "for number in range(int(sys.argv[3]), 30): store.add(content(number), decoded(number))\n"
    )
    arguments = [sys.executable, "-c", writing, str(Path(__file__).parent), str(store.folder)]
    others = [subprocess.Popen([*arguments, str(first)]) for first in (0, 10)]
    with ThreadPoolExecutor(4) as pool:
        kept = list(pool.map(lambda number: store.add(content(number % 30), decoded(number % 30)), range(60)))
    assert all(kept)
    assert [other.wait() for other in others] == [0, 0]
    for seen in (store, again(store)):
        assert len(seen) == 30
        assert all(same(seen.find(content(number)), decoded(number)) for number in range(30))


def test_what_was_not_used_for_longest_goes_and_what_is_in_use_stays(tmp_path: Path) -> None:
    budget = 40 * BYTES  # four segments of ten pictures
    ages: dict[int, str] = {}
    for run in range(4):
        store = PixelStore("key", folder=tmp_path, budget_bytes=budget)
        for number in range(8):
            assert store.add(content(100 * run + number), decoded(number))
        ages[run] = store._own
        for kind in ("pixels", "index"):
            os.utime(tmp_path / f"{store._own}.{kind}", (run + 1, run + 1))
    reader = PixelStore("key", folder=tmp_path, budget_bytes=budget)
    assert reader.find(content(0)) is not None  # the oldest run's: used just now
    newest = PixelStore("key", folder=tmp_path, budget_bytes=budget)
    kept = [newest.add(content(1000 + number), decoded(number)) for number in range(80)]
    assert kept.index(False) >= 27
    assert not any(kept[kept.index(False) :])  # its own are never dropped for more of its own
    assert all(
        same(newest.find(content(1000 + number)), decoded(number)) for number in range(kept.index(False))
    )
    left = {path.stem for path in tmp_path.iterdir()}
    assert ages[1] not in left
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= budget
    # What was mapped before it was dropped can still be read.
    assert same(reader.find(content(0)), decoded(0))


def test_a_segment_that_another_process_dropped_is_not_mistaken_for_its_successor(store: PixelStore) -> None:
    store.add(content(1), decoded(1))
    first = store.find(content(1))
    for path in store.folder.iterdir():
        path.unlink()
    assert not store.add(content(2), decoded(2))  # noticed here …
    assert store.add(content(3), decoded(3))  # … and begun anew
    assert store.find(content(2)) is None
    for seen in (store, again(store)):
        assert same(seen.find(content(3)), decoded(3))
    assert first is not None
    assert np.array_equal(first.pixels, decoded(1).pixels)


def test_a_picture_larger_than_a_segment_is_not_kept(tmp_path: Path) -> None:
    store = PixelStore("key", folder=tmp_path, budget_bytes=2 * BYTES)
    assert not store.add(content(1), decoded(1))
    assert store.add(content(2), decoded(2, 10, 10))
    assert not PixelStore("key", folder=tmp_path, budget_bytes=0).add(content(3), decoded(3, 1, 1))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def no_space(path: Path, *parts: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(pixelstore, "_appended", no_space)
        yield


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_said_once_and_harms_nothing(
    store: PixelStore, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert not any(store.add(content(number), decoded(number)) for number in range(3))
    (record,) = caplog.records
    assert "No space left on device" in record.getMessage()
    assert store.find(content(0)) is None


def test_a_folder_that_cannot_be_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    store = PixelStore("key", folder=tmp_path / "file", budget_bytes=10**8)
    with caplog.at_level(logging.WARNING):
        assert not any(store.add(content(number), decoded(number)) for number in range(3))
    assert len(caplog.records) == 1
    assert store.find(content(0)) is None
