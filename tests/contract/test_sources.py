"""What every source of pictures must do, whatever the rows come from.

A new source is a line in `SOURCES`: a function that writes the same twelve pictures down in its own way, with
one row that is wrong where a row can be, and reads them.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest

from headstart.data import (
    Samples,
    Table,
    from_frame,
    from_function,
    from_lists,
    from_regex,
    from_shards,
    from_zip,
    limit_samples,
    read_table,
    scan_folder,
    write_shards,
)
from headstart.errors import DataError

Pictures = Mapping[str, str]
Source = Callable[[Path, Pictures], Samples]


def _frame(labels: Pictures) -> pd.DataFrame:
    return pd.DataFrame({"image": list(labels), "label": list(labels.values())})


def _csv(root: Path, labels: Pictures) -> Samples:
    _frame(labels).to_csv(root / "labels.csv", index=False)
    return read_table(root / "labels.csv")


def _parquet(root: Path, labels: Pictures) -> Samples:
    _frame(labels).to_parquet(root / "labels.parquet")
    return read_table(root / "labels.parquet")


def _one_hot(root: Path, labels: Pictures) -> Samples:
    frame = _frame(labels)
    for name in ("cat", "dog"):
        frame[name] = (frame["label"] == name).astype(int)
    frame.to_csv(root / "tags.csv", index=False)
    return read_table(root / "tags.csv", Table(one_hot=("cat", "dog")))


def _zip(root: Path, labels: Pictures) -> Samples:
    with zipfile.ZipFile(root.parent / "photos.zip", "w") as archive:
        for name in labels:
            archive.write(root / name, name)
    return from_zip(root.parent / "photos.zip")


def _shards(root: Path, labels: Pictures) -> Samples:
    shutil.rmtree(root.parent / "shards", ignore_errors=True)
    write_shards(from_frame(_frame(labels), root=root), root.parent / "shards", pictures_per_shard=5)
    return from_shards(root.parent / "shards")


def _remote(root: Path, labels: Pictures) -> Samples:
    files = fsspec.filesystem("memory")
    for name in labels:
        if (root / name).is_file():
            files.pipe(f"/contract/{name}", (root / name).read_bytes())
    files.pipe("/contract/labels.csv", _frame(labels).to_csv(index=False).encode())
    return read_table("memory://contract/labels.csv")


SOURCES: dict[str, Source] = {
    "folder": lambda root, labels: scan_folder(root),
    "csv": _csv,
    "parquet": _parquet,
    "one-hot": _one_hot,
    "frame": lambda root, labels: from_frame(_frame(labels), root=root),
    "lists": lambda root, labels: from_lists(list(labels), list(labels.values()), root=root),
    "regex": lambda root, labels: from_regex(root, r"^([^/]+)/"),
    "function": lambda root, labels: from_function(root, lambda path: path.parts[0]),
    "shards": _shards,
    "zip": _zip,
    "remote": _remote,
}
# Those whose rows a person writes down, so that a row can name a picture that is not there.
WRITTEN = ("csv", "parquet", "one-hot", "frame", "lists", "remote")


@pytest.fixture
def pictures(make_folder: Callable[..., Path]) -> Iterator[tuple[Path, dict[str, str]]]:
    root = make_folder({"cat": 7, "dog": 5})
    yield (
        root,
        {f"{name}/{number}.png": name for name, count in (("cat", 7), ("dog", 5)) for number in range(count)},
    )
    files = fsspec.filesystem("memory")
    if files.exists("/contract"):
        files.rm("/contract", recursive=True)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_the_same_pictures_give_the_same_rows(source: Source, pictures: tuple[Path, dict[str, str]]) -> None:
    root, labels = pictures
    expected, samples = scan_folder(root), source(root, labels)
    assert samples.ids.tolist() == expected.ids.tolist()
    assert samples.label_names() == expected.label_names()
    assert samples.classes == ("cat", "dog")
    assert [samples.read(row) for row in range(12)] == [expected.read(row) for row in range(12)]
    if samples.task is expected.task:
        assert samples.fingerprint() == expected.fingerprint()
        assert limit_samples(samples, 6).ids.tolist() == limit_samples(expected, 6).ids.tolist()


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_the_order_in_which_the_system_lists_files_changes_nothing(
    source: Source, pictures: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = source(*pictures)
    scan, names = os.scandir, os.listdir

    class Backwards:
        def __init__(self, path: object) -> None:
            with scan(path) as entries:  # type: ignore[call-overload]
                self.entries = list(entries)[::-1]

        def __enter__(self) -> object:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Backwards)
    monkeypatch.setattr(os, "listdir", lambda path=".": names(path)[::-1])
    again = source(*pictures)
    assert again.fingerprint() == expected.fingerprint()
    assert [again.place(row) for row in range(12)] == [expected.place(row) for row in range(12)]


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_the_pictures_are_left_as_they_were(source: Source, pictures: tuple[Path, dict[str, str]]) -> None:
    root, labels = pictures

    def state() -> dict[str, tuple[bytes, int]]:
        return {name: ((root / name).read_bytes(), (root / name).stat().st_mtime_ns) for name in labels}

    before = state()
    source(root, labels)
    assert state() == before
    (root / "cat" / "0.png").write_bytes(b"other")
    assert state() != before  # the comparison would see it


@pytest.mark.parametrize("name", WRITTEN)
def test_a_row_that_is_wrong_is_named_and_none_is_dropped(
    name: str, pictures: tuple[Path, dict[str, str]]
) -> None:
    root, labels = pictures
    listed = {**labels, "cat/gone.png": "cat"}
    with pytest.raises(DataError) as caught:
        SOURCES[name](root, listed)
    row = 14 if name in ("csv", "one-hot", "remote") else 12  # of a CSV the header is row 1
    assert caught.value.code == "MISSING_FILES"
    assert f"row {row} (cat/gone.png)" in caught.value.message
    assert caught.value.message.startswith("1 of 13 rows")
    assert caught.value.hint


def test_what_is_kept_and_what_is_skipped_is_all_that_was_listed(
    pictures: tuple[Path, dict[str, str]],
) -> None:
    root, labels = pictures
    frame = pd.concat(
        [_frame(labels), _frame({"cat/gone.png": "cat", "dog/0.png": "dog", "dog/1.png": "dog"})]
    )
    frame.loc[len(frame)] = ["cat/1.png", "cat"]
    samples = from_frame(frame, Table(skip_missing=True), root=root)
    assert len(samples) + sum(samples.skipped.values()) == len(frame)
    (root / "cat" / "notes.txt").write_bytes(b"x")
    (root / "cat" / ".hidden.png").write_bytes(b"x")
    files = [path for path in root.rglob("*") if path.is_file()]
    for walked in (
        scan_folder(root),
        from_regex(root, r"^([^/]+)/"),
        from_function(root, lambda path: path.parts[0]),
    ):
        assert len(walked) + sum(walked.skipped.values()) == len(files)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_column_is_as_long_as_the_table(source: Source, pictures: tuple[Path, dict[str, str]]) -> None:
    samples = source(*pictures)
    frame = samples.to_frame()
    assert len(frame) == len(samples) == len(samples.ids) == len(np.unique(samples.ids))
    assert samples.labels.dtype == (np.uint8 if samples.labels.ndim == 2 else np.int64)
    assert len(samples.describe().splitlines()) == 1
