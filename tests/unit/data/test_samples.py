"""The table: rows are taken, read, counted and told apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headstart.data import Limits, Samples, scan_folder
from headstart.errors import DataError, UsageError
from headstart.types import Task

MakeFolder = Callable[..., Path]


def table(root: Path, paths: tuple[str, ...], **more: object) -> Samples:
    labels = np.arange(len(paths), dtype=np.int64) % 2
    split = np.full(len(paths), "", "<U5")
    return Samples(root, paths, more.pop("labels", labels), ("a", "b"), split, **more)  # type: ignore[arg-type]


def test_taking_rows_keeps_every_column_in_step(tmp_path: Path) -> None:
    samples = table(
        tmp_path,
        ("x", "y", "z"),
        offset=np.array([0, 5, 9]),
        length=np.array([5, 4, 1]),
        group=np.array([7, 7, 8]),
    )
    taken = samples.take([2, 0])
    assert taken.paths == ("z", "x")
    assert taken.labels.tolist() == [0, 0]
    assert taken.offset is not None
    assert taken.offset.tolist() == [9, 0]
    assert taken.group is not None
    assert taken.group.tolist() == [8, 7]
    assert taken.ids.tolist() == samples.ids[[2, 0]].tolist()
    mask = np.array([False, True, False])
    assert samples.take(mask).paths == ("y",)


def test_columns_of_different_lengths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="labels"):
        table(tmp_path, ("x", "y"), labels=np.zeros(3, np.int64))


def test_ids_depend_on_the_relative_path_alone(make_folder: MakeFolder) -> None:
    first = scan_folder(make_folder({"a": 2, "b": 2}, name="here"))
    second = scan_folder(make_folder({"a": 2, "b": 2, "c": 1}, name="there"))
    assert first.ids.dtype == np.uint64
    assert first.ids.tolist() == second.ids[:4].tolist()
    assert len(set(second.ids.tolist())) == 5
    # A golden value: cached features and splits of earlier runs depend on it.
    golden = [3230863055585924566, 3394012004367669963]
    assert table(Path(), ("a/0.png", "é")).ids.tolist() == golden


def test_members_of_one_file_have_ids_of_their_own(tmp_path: Path) -> None:
    samples = table(tmp_path, ("s.tar", "s.tar"), offset=np.array([0, 9]), length=np.array([9, 9]))
    assert samples.ids[0] != samples.ids[1]


def test_a_member_is_read_from_its_place(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(b"0123456789")
    samples = table(tmp_path, ("s.tar", "s.tar"), offset=np.array([2, 6]), length=np.array([3, 4]))
    assert samples.read(0) == b"234"
    assert samples.read(1) == b"6789"


def test_a_file_that_went_away_is_named(make_folder: MakeFolder) -> None:
    samples = scan_folder(make_folder({"a": 1, "b": 1}))
    samples.file(1).unlink()
    with pytest.raises(DataError, match=r"b/0\.png") as caught:
        samples.read(1)
    assert caught.value.code == "VANISHED"
    assert samples.read(0)


def test_a_huge_file_is_refused_without_being_read(tmp_path: Path) -> None:
    with open(tmp_path / "sparse.jpg", "wb") as stream:
        stream.truncate(2_100_000_000)
    samples = table(tmp_path, ("sparse.jpg",))
    with pytest.raises(DataError, match="2,100,000,000") as caught:
        samples.read(0)
    assert caught.value.code == "TOO_MANY_BYTES"
    (tmp_path / "sparse.jpg").write_bytes(b"x" * 11)
    assert len(samples.read(0)) == 11
    with pytest.raises(DataError):
        samples.read(0, limits=Limits(file_bytes=10))


def test_splits_are_found_by_name(tmp_path: Path) -> None:
    samples = table(tmp_path, ("x", "y", "z")).with_split(["train", "valid", "train"], notes=("said",))
    assert samples.rows("train").tolist() == [0, 2]
    assert samples.rows("test").tolist() == []
    assert samples.counts("train") == {"a": 2, "b": 0}
    assert samples.notes == ("said",)
    assert samples.describe() == "3 pictures in 2 classes (a 2, b 1): train 2, valid 1"
    with pytest.raises(UsageError, match="training"):
        samples.rows("training")


def test_the_fingerprint_changes_with_anything_but_the_place(make_folder: MakeFolder) -> None:
    samples = scan_folder(make_folder({"a": 2, "b": 2}, name="here"))
    moved = scan_folder(make_folder({"a": 2, "b": 2}, name="there"))
    assert samples.fingerprint() == moved.fingerprint()
    others = [
        samples.take([0, 1, 2]),
        samples.take([1, 0, 2, 3]),
        samples.with_split(["train"] * 4),
        scan_folder(make_folder({"a": 2, "c": 2}, name="renamed")),
    ]
    assert len({other.fingerprint() for other in others} | {samples.fingerprint()}) == 5


def test_tags_are_counted_and_named(tmp_path: Path) -> None:
    tags = np.array([[1, 1], [0, 1], [0, 0]], np.uint8)
    samples = table(tmp_path, ("x", "y", "z"), labels=tags, task=Task.MULTI_LABEL)
    assert samples.label_names() == ["a b", "b", ""]
    assert samples.counts() == {"a": 1, "b": 2}


def test_the_table_becomes_a_frame(tmp_path: Path) -> None:
    frame = table(tmp_path, ("x", "y")).with_group([1, 1]).to_frame()
    assert frame.columns.tolist() == ["path", "label", "split", "group"]
    assert frame["label"].tolist() == ["a", "b"]


def test_a_member_has_the_id_of_its_name_wherever_it_is_packed(tmp_path: Path) -> None:
    loose = table(tmp_path, ("a/0.png", "é"))
    places = {"offset": np.array([512, 9]), "length": np.array([3, 4])}
    packed = table(tmp_path, ("s.tar", "s.tar"), names=loose.paths, **places)
    assert packed.ids.tolist() == loose.ids.tolist()
    assert packed.fingerprint() == loose.fingerprint()
    assert (packed.name(1), loose.name(1)) == ("s.tar/é", "é")
    frame = packed.to_frame()
    assert frame.columns.tolist() == ["path", "label", "split", "name", "offset", "length"]
    assert frame["name"].tolist() == ["a/0.png", "é"]
    assert packed.take([1]).names == ("é",)
    with pytest.raises(UsageError, match="names"):
        table(tmp_path, ("s.tar", "s.tar"), names=("a",))


def test_known_ids_are_handed_on(tmp_path: Path) -> None:
    samples = table(tmp_path, ("x", "y", "z"))
    ids = samples.ids
    for other, rows in ((samples.take([2, 0]), [2, 0]), (samples.with_group([1, 1, 2]), [0, 1, 2])):
        assert other.ids.tolist() == ids[rows].tolist()
        assert other.ids.tolist() == table(tmp_path, other.paths).ids.tolist()


def test_a_member_beyond_the_end_of_its_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(b"abc")
    places = {"offset": np.array([1]), "length": np.array([9])}
    with pytest.raises(DataError, match=r"s\.tar/x ends after 2 of 9 bytes") as caught:
        table(tmp_path, ("s.tar",), names=("x",), **places).read(0)
    assert caught.value.code == "TRUNCATED"


def test_many_classes_are_described_in_one_short_line(make_folder: MakeFolder) -> None:
    samples = scan_folder(make_folder({f"class {number}": 1 + number % 2 for number in range(20)}))
    assert samples.describe() == "30 pictures in 20 classes of 1 to 2 pictures"


def test_a_file_that_may_not_be_read_is_named(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = scan_folder(make_folder({"a": 1, "b": 1}))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    # The tests may run as root, who is refused nothing.
    monkeypatch.setattr("headstart.data.samples.open", refuse, raising=False)
    with pytest.raises(DataError, match=r"a/0\.png cannot be read: Permission denied") as caught:
        samples.read(0)
    assert caught.value.code == "UNREADABLE"
