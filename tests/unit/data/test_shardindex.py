"""The index of shards: the same rows from it, and never those of a shard that has changed."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from pathlib import Path

import pytest

from headstart.data import from_shards
from headstart.data import shardindex as index
from headstart.data.shardindex import FEWEST_PICTURES
from headstart.errors import DataError


def shard(path: Path, count: int = FEWEST_PICTURES, *, label: str = "cat", age: float = 60.0) -> Path:
    """A shard of `count` pictures that was written `age` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            text = json.dumps({"label": label if number % 2 else "dog", "path": f"\udcff{number}.jpg"})
            for name, data in ((f"{number:04}.jpg", b"picture"), (f"{number:04}.json", text.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        tar.addfile(tarfile.TarInfo("notes.md"), io.BytesIO())
    os.utime(path, ns=(0, time.time_ns() - int(age * 1e9)))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shards"


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards that were gone through."""
    from headstart.data import shards

    seen: list[str] = []
    look = shards._contents_of

    def counted(place: str) -> index.Contents:
        seen.append(Path(place).name)
        return look(place)

    monkeypatch.setattr(shards, "_contents_of", counted)
    return seen


def test_a_second_start_gives_the_same_rows_without_a_look(tmp_path: Path, looks: list[str]) -> None:
    shard(tmp_path / "s" / "a.tar")
    shard(tmp_path / "s" / "b.tar", label="bird")
    first, again = from_shards(tmp_path / "s"), from_shards(tmp_path / "s")
    assert looks == ["a.tar", "b.tar"]
    assert again.fingerprint() == first.fingerprint()
    assert again.names == first.names
    assert (again.paths, again.skipped) == (first.paths, first.skipped)
    assert again.offset is not None
    assert again.offset.tolist() == first.offset.tolist()
    assert again.length.tolist() == first.length.tolist()
    assert [again.read(row) for row in (0, len(again) - 1)] == [b"picture"] * 2


def rewrite(path: Path) -> None:
    status = path.stat()
    shard(path, label="cow")
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(0, status.st_mtime_ns + 1))


def swap(path: Path) -> None:
    status = path.stat()
    other = shard(path.with_name("other"), label="cow")
    os.utime(other, ns=(0, status.st_mtime_ns))
    other.replace(path)


def move(path: Path) -> None:
    path.rename(path.with_name("moved.tar"))
    shard(path, label="cow")


@pytest.mark.parametrize("change", [rewrite, swap, move, lambda path: shard(path, 300, label="cow")])
def test_a_shard_that_changed_is_looked_at_again(tmp_path: Path, looks: list[str], change) -> None:
    path = shard(tmp_path / "s" / "a.tar")
    shard(tmp_path / "s" / "b.tar")
    assert from_shards(tmp_path / "s").classes == ("cat", "dog")
    looks.clear()
    change(path)
    assert "cow" in from_shards([path, tmp_path / "s" / "b.tar"]).classes
    assert looks == ["a.tar"]


def test_what_was_written_a_moment_ago_is_not_remembered(tmp_path: Path, cache: Path) -> None:
    path = shard(tmp_path / "a.tar", age=0.0)
    from_shards(path)
    assert not cache.exists()
    shard(tmp_path / "small.tar", FEWEST_PICTURES - 1)
    from_shards(tmp_path / "small.tar")
    assert not cache.exists(), "a small shard is gone through as quickly"


@pytest.mark.parametrize("place", [0, 70, -1])
def test_an_altered_or_a_cut_index_is_not_used(
    tmp_path: Path, cache: Path, looks: list[str], place: int
) -> None:
    path = shard(tmp_path / "a.tar")
    expected = from_shards(path).fingerprint()
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    broken = bytearray(whole)
    broken[place] ^= 1
    for content in (bytes(broken), whole[: len(whole) // 2], b"", whole + b" "):
        file.write_bytes(content)
        assert from_shards(path).fingerprint() == expected
    assert len(looks) == 5
    assert file.read_bytes() == whole, "it is written anew"


def test_other_sources_make_another_index(
    tmp_path: Path, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shard(tmp_path / "a.tar")
    from_shards(path)
    monkeypatch.setattr(index, "_sources", lambda: "other rules")
    from_shards(path)
    assert len(looks) == 2


def test_a_cache_that_cannot_be_used_costs_a_look_and_nothing_else(
    tmp_path: Path, cache: Path, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shard(tmp_path / "a.tar")
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    expected = from_shards(path).fingerprint()
    monkeypatch.setenv("HEADSTART_CACHE", str(cache))
    assert from_shards(path).fingerprint() == expected
    assert looks == ["a.tar", "a.tar"]


def test_a_damaged_shard_is_refused_each_time(tmp_path: Path, cache: Path) -> None:
    path = shard(tmp_path / "a.tar")
    with open(path, "r+b") as stream:
        stream.truncate(path.stat().st_size // 2)
    os.utime(path, ns=(0, 0))
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            from_shards(path)
        assert caught.value.code == "TRUNCATED"
    assert not cache.exists()
