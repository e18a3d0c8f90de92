"""Folders become samples: every layout that people have, and what is said where it cannot be used."""

from __future__ import annotations

import hashlib
import os
import socket
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.data import from_paths, scan_folder, shown
from headstart.data.classes import natural
from headstart.data.walk import has_picture_name, is_junk
from headstart.errors import DataError, HeadstartError, InputMissingError

MakeFolder = Callable[..., Path]

posix_only = pytest.mark.skipif(os.name != "posix", reason="this file system has no such files")


def tree_hash(root: Path) -> str:
    """A hash of everything in a folder: names, kinds, times and contents."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*"), key=os.fsencode):
        status = path.lstat()
        digest.update(os.fsencode(path.relative_to(root)))
        digest.update(f"{status.st_mode} {status.st_size} {status.st_mtime_ns}".encode())
        if path.is_file() and not path.is_symlink():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def refusal(path: Path, **options: bool) -> HeadstartError:
    with pytest.raises(HeadstartError) as caught:
        scan_folder(path, **options)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return caught.value


def test_class_folders_become_classes_in_natural_order(make_folder: MakeFolder) -> None:
    root = make_folder({"class 10": 1, "class 9": 2, "Apple": 1, "banana": 1})
    samples = scan_folder(root)
    assert samples.classes == ("Apple", "banana", "class 9", "class 10")
    assert samples.labels.dtype == np.int64
    assert samples.labels.tolist() == [0, 1, 2, 2, 3]
    assert samples.paths[2] == "class 9/0.png"
    assert set(samples.split.tolist()) == {""}
    assert samples.skipped == {}
    assert samples.notes == ()
    assert samples.describe() == ("5 pictures in 4 classes (Apple 1, banana 1, class 9 2, class 10 1)")


@pytest.mark.parametrize("train", ["train", "training", "Train"])
@pytest.mark.parametrize("valid", ["valid", "val", "validation"])
def test_train_and_valid_folders_are_known_by_their_names(
    make_folder: MakeFolder, train: str, valid: str
) -> None:
    root = make_folder({f"{train}/a": 2, f"{train}/b": 2, f"{valid}/b": 1, f"{valid}/a": 1})
    samples = scan_folder(root)
    assert samples.classes == ("a", "b")
    assert samples.split.tolist() == ["train"] * 4 + ["valid"] * 2
    assert samples.labels.tolist() == [0, 0, 1, 1, 0, 1]


def test_classes_are_matched_by_name_when_valid_lacks_one(make_folder: MakeFolder) -> None:
    # Numbered apart, valid's first class would be "b" = 0.
    root = make_folder({"train/a": 1, "train/b": 1, "train/c": 1, "valid/b": 1, "valid/c": 1})
    samples = scan_folder(root)
    valid = samples.take(samples.rows("valid"))
    assert valid.label_names() == ["b", "c"]
    assert valid.labels.tolist() == [1, 2]


@pytest.mark.parametrize("part", ["valid", "test"])
def test_a_class_that_train_lacks_is_refused(make_folder: MakeFolder, part: str) -> None:
    root = make_folder({"train/a": 1, "train/b": 1, f"{part}/a": 1, f"{part}/zebra": 1})
    error = refusal(root)
    assert isinstance(error, DataError)
    assert "zebra" in error.message
    assert part in error.message


def test_a_class_that_train_lacks_may_be_left_out_and_is_counted(make_folder: MakeFolder) -> None:
    root = make_folder(
        {"train/a": 1, "train/b": 1, "valid/a": 1, "valid/zebra": 2, "test/b": 1, "test/yak": 1}
    )
    samples = scan_folder(root, drop_unseen_classes=True)
    assert samples.classes == ("a", "b")
    assert samples.split.tolist() == ["train", "train", "valid", "test"]
    assert samples.skipped == {"pictures of classes that train has not": 3}
    assert "--drop-unseen-classes" in refusal(root).hint


def test_a_test_folder_may_have_classes_or_not(make_folder: MakeFolder) -> None:
    classes = {"train/a": 1, "train/b": 1}
    labelled = scan_folder(make_folder({**classes, "test/a": 2}, name="labelled"))
    assert labelled.labels[labelled.rows("test")].tolist() == [0, 0]
    flat = scan_folder(make_folder({**classes, "test": 2}, name="flat"))
    assert flat.labels[flat.rows("test")].tolist() == [-1, -1]
    assert flat.label_names()[-1] == ""
    unknown = scan_folder(make_folder({**classes, "test/images": 2}, name="unknown"))
    assert unknown.labels[unknown.rows("test")].tolist() == [-1, -1]


def test_deeper_folders_belong_to_the_class_of_the_first_level(make_folder: MakeFolder) -> None:
    samples = scan_folder(make_folder({"a/2023/may": 1, "a/2024": 1, "a": 1, "b/x": 1}))
    assert samples.classes == ("a", "b")
    assert samples.counts() == {"a": 3, "b": 1}


def test_what_lies_beside_train_is_left_out_and_counted(make_folder: MakeFolder) -> None:
    samples = scan_folder(make_folder({"train/a": 1, "train/b": 1, "models": 0, "sample/a": 1}))
    assert len(samples) == 2
    assert samples.skipped == {"folders beside train": 2}
    root = make_folder({"train/a": 1, "train/b": 1, ".": 1}, name="files")
    (root / "labels.csv").write_text("x")
    (root / ".DS_Store").write_text("x")
    assert scan_folder(root).skipped == {
        ".csv files": 1,
        "hidden or system files": 1,
        "pictures beside train": 1,
    }


def test_a_class_may_be_called_train(make_folder: MakeFolder) -> None:
    assert scan_folder(make_folder({"car": 1, "bus": 1, "train": 2})).counts()["train"] == 2


def test_pictures_outside_every_class_are_counted(make_folder: MakeFolder) -> None:
    samples = scan_folder(make_folder({"a": 1, "b": 1, ".": 3}))
    assert len(samples) == 2
    assert samples.skipped == {"pictures outside a class folder": 3}


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    error = refusal(tmp_path / "no such\nfolder")
    assert isinstance(error, InputMissingError)
    assert error.exit_code == 66
    assert str(tmp_path) in error.message
    assert "no such\\nfolder" in error.message


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"x")
    assert isinstance(refusal(tmp_path / "x.jpg"), InputMissingError)


@pytest.mark.parametrize("folders", [{}, {"a": 0, "b": 0}, {"train/a": 0, "train/b": 0, "valid/a": 1}])
def test_nothing_to_learn_from_is_missing_input(make_folder: MakeFolder, folders: dict[str, int]) -> None:
    error = refusal(make_folder(folders))
    assert error.exit_code == 66
    assert ".jpg" in error.hint


def test_class_folders_with_other_files_only_hold_no_pictures(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 0, "b": 0})
    (root / "a" / "labels.csv").write_text("x")
    error = refusal(root)
    assert error.exit_code == 66
    assert "1 .csv files" in error.message


def test_one_class_is_too_few(make_folder: MakeFolder) -> None:
    error = refusal(make_folder({"only": 3}))
    assert (error.exit_code, error.code) == (65, "ONE_CLASS")
    assert "only" in error.message
    assert refusal(make_folder({"train/a": 3, "valid/a": 1}, name="split")).code == "ONE_CLASS"


@pytest.mark.parametrize("folders", [{".": 4}, {"train": 4, "test": 2}, {"train": 4}])
def test_a_flat_folder_is_refused_with_the_expected_layout(
    make_folder: MakeFolder, folders: dict[str, int]
) -> None:
    error = refusal(make_folder(folders))
    assert (error.exit_code, error.code) == (65, "NO_CLASS_FOLDERS")
    assert "one folder for each class" in error.hint


def test_an_empty_class_is_refused_or_dropped(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 1, "b": 1, "empty": 0})
    error = refusal(root)
    assert (error.exit_code, error.code) == (65, "EMPTY_CLASS")
    assert "empty" in error.message
    samples = scan_folder(root, drop_empty_classes=True)
    assert samples.classes == ("a", "b")
    assert "empty" in samples.notes[0]


def test_two_folders_for_one_part_are_refused(make_folder: MakeFolder) -> None:
    error = refusal(make_folder({"train/a": 1, "train/b": 1, "val/a": 1, "valid/a": 1}))
    assert error.exit_code == 65
    assert "val and valid" in error.message


def test_parts_without_train_are_refused(make_folder: MakeFolder) -> None:
    assert "no train folder" in refusal(make_folder({"valid/a": 1, "test/a": 1})).message


JUNK = [".DS_Store", "._0.png", "Thumbs.db", "desktop.ini", ".hidden.jpg"]


def test_junk_is_ignored_and_counted(make_folder: MakeFolder) -> None:
    root = make_folder(
        {"a": 1, "b": 1, ".ipynb_checkpoints": 1, ".git/objects": 1, "__MACOSX/a": 1, "@eaDir": 1}
    )
    for name in JUNK:
        (root / "a" / name).write_bytes(b"junk")
    (root / "b" / "notes.txt").write_bytes(b"text")
    (root / "b" / "labels.CSV").write_bytes(b"text")
    samples = scan_folder(root)
    assert samples.classes == ("a", "b")
    assert len(samples) == 2
    assert samples.skipped == {"hidden or system files": 4 + len(JUNK), ".csv files": 1, ".txt files": 1}
    assert "left out: 1 .csv files, 1 .txt files, 9 hidden or system files" in samples.describe()


@pytest.mark.parametrize(
    ("name", "is_candidate"),
    [
        ("a.jpg", True),
        ("a.JPEG", True),
        ("a.tar.gz.jpg", True),
        ("no_suffix", True),
        ("Mr. Smith 2020", True),
        ("img.1", True),
        ("photo.heic", True),
        ("a.txt", False),
        ("a.jpg.part", False),
        ("a.json", False),
        ("a.CR2", False),
    ],
)
def test_a_name_only_excludes_what_it_says_is_something_else(name: str, is_candidate: bool) -> None:
    assert has_picture_name(name) is is_candidate
    assert not is_junk(name)


NAMES = [
    *("with space", "emoji 🐈", "עברית", "e\u0301 combining", "line\nbreak", "tab\tbed", 'quote"d', "it's"),
    *("a,b", "=1+1", "<script>alert(1)<script>", "-rf", "%s", "{0}", "$(x)", "ÿ" * 120, "日本語", "con"),
]


def test_class_and_file_names_of_all_kinds_are_kept_exactly(make_folder: MakeFolder) -> None:
    root = make_folder(dict.fromkeys(NAMES, 1))
    for name in NAMES:
        (root / name / "0.png").rename(root / name / f"{name[:60]}.png")
    samples = scan_folder(root)
    assert set(samples.classes) == set(NAMES)
    for row in range(len(samples)):
        assert samples.paths[row] == f"{samples.label_names()[row]}/{samples.label_names()[row][:60]}.png"
        assert samples.read(row).startswith(b"\x89PNG")
    assert "\n" not in samples.describe()
    assert samples.to_frame()["label"].tolist() == samples.label_names()


@posix_only
def test_a_name_that_is_not_utf_8_is_kept_and_shown_escaped(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 1, "b": 1})
    os.rename(os.fsencode(root / "a" / "0.png"), os.fsencode(root / "a") + b"/\xff.png")
    samples = scan_folder(root)
    assert samples.read(0).startswith(b"\x89PNG")
    assert samples.name(0) == "a/\\udcff.png"
    samples.name(0).encode("utf-8")
    assert samples.fingerprint()
    assert samples.ids[0] != samples.ids[1]


def test_names_that_differ_only_in_the_encoding_of_accents_are_refused(make_folder: MakeFolder) -> None:
    composed, parted = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    error = refusal(make_folder({composed: 1, parted: 1, "tea": 1}))
    assert (error.exit_code, error.code) == (65, "TWIN_CLASSES")
    across = make_folder({f"train/{composed}": 1, "train/tea": 1, f"valid/{parted}": 1}, name="across")
    assert refusal(across).code == "TWIN_CLASSES"


@posix_only
def test_names_that_differ_only_in_case_are_two_classes_with_a_note(make_folder: MakeFolder) -> None:
    samples = scan_folder(make_folder({"Cat": 1, "cat": 1}))
    assert len(samples.classes) == 2
    assert "differ only in case" in samples.notes[0]


def test_rows_do_not_depend_on_the_order_in_which_the_system_lists_files(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"b": 3, "a": 12, "c/deep": 2, "c": 1})
    expected = scan_folder(root)
    listing = os.scandir

    class Reversed:
        def __init__(self, path: object) -> None:
            with listing(path) as entries:  # type: ignore[call-overload]
                self.entries = list(entries)[::-1]

        def __enter__(self) -> object:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Reversed)
    again = scan_folder(root)
    assert again.paths == expected.paths
    assert again.fingerprint() == expected.fingerprint()
    assert expected.paths[:3] == ("a/0.png", "a/1.png", "a/2.png")


@posix_only
def test_links_are_followed_once_and_loops_and_broken_ones_counted(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 2, "b": 1})
    outside = make_folder({".": 2}, name="outside")
    (root / "b" / "link.png").symlink_to(outside / "0.png")
    (root / "b" / "again.png").symlink_to(outside / "0.png")
    (root / "b" / "inside.png").symlink_to(root / "a" / "0.png")
    (root / "b" / "broken.png").symlink_to(root / "gone.png")
    (root / "b" / "loop").symlink_to(root / "b", target_is_directory=True)
    (root / "a" / "up").symlink_to(root, target_is_directory=True)
    (root / "c").symlink_to(outside, target_is_directory=True)
    samples = scan_folder(root)
    assert samples.counts() == {"a": 2, "b": 2, "c": 1}
    assert samples.skipped["broken links"] >= 1
    assert samples.skipped["links to pictures already listed"] >= 3


@posix_only
def test_a_link_to_itself_is_a_broken_link(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 1, "b": 1})
    (root / "a" / "self.png").symlink_to(root / "a" / "self.png")
    samples = scan_folder(root)
    assert len(samples) == 2
    assert samples.skipped == {"broken links": 1}


@posix_only
@pytest.mark.timeout(20)
def test_pipes_sockets_and_devices_never_block(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": 1, "b": 1, "a/folder.jpg": 0})
    os.mkfifo(root / "a" / "pipe.jpg")
    (root / "a" / "zero.jpg").symlink_to("/dev/zero")
    here = Path.cwd()
    os.chdir(root / "a")  # the name of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket.jpg")
    finally:
        os.chdir(here)
    samples = scan_folder(root)
    special = [row for row in range(len(samples)) if samples.paths[row].endswith(".jpg")]
    assert len(special) == 3
    for row in special:
        with pytest.raises(DataError) as caught:
            samples.read(row)
        assert caught.value.code == "NOT_REGULAR"


@posix_only
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_is_counted_and_a_file_named(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 1, "b": 1, "b/closed": 1})
    (root / "b" / "closed").chmod(0)
    (root / "a" / "0.png").chmod(0)
    try:
        samples = scan_folder(root)
        assert samples.skipped == {"unreadable folders": 1}
        with pytest.raises(DataError) as caught:
            samples.read(0)
        assert caught.value.code == "UNREADABLE"
    finally:
        (root / "b" / "closed").chmod(0o700)


def test_a_folder_that_cannot_be_listed_is_counted(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"a": 1, "b": 1, "b/closed": 1})
    listing = os.scandir

    def refuse(path: object) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return listing(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refuse)
    samples = scan_folder(root)
    assert len(samples) == 2
    assert samples.skipped == {"unreadable folders": 1}


def test_a_very_deep_folder_is_walked(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 1, "b": 1})
    deep = root / "a" / "/".join("d" * 300)
    deep.mkdir(parents=True)
    (deep / "x.png").write_bytes(b"x")
    assert scan_folder(root).counts() == {"a": 2, "b": 1}


def test_a_relative_path_a_trailing_slash_and_a_home_are_understood(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"a": 1, "b": 1})
    monkeypatch.chdir(root.parent)
    monkeypatch.setenv("HOME", str(root.parent))
    expected = scan_folder(root)
    for path in ("pictures", "pictures/", "./pictures", "~/pictures"):
        samples = scan_folder(path)
        assert samples.paths == expected.paths
        assert samples.root.is_absolute()
        assert samples.read(0)


def test_scanning_writes_nothing(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 2, "train/b": 2, "valid/a": 1, "test": 1})
    before = tree_hash(root)
    scan_folder(root)
    assert tree_hash(root) == before
    (root / "train" / "a" / "0.png").touch()
    assert tree_hash(root) != before  # the hash would see it


def test_files_and_folders_can_be_listed_for_prediction(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 2, "b/c": 1})
    (root / "a" / "notes.txt").write_text("x")
    odd = root / "a" / "picture.odd"
    odd.write_bytes(b"x")
    samples = from_paths([odd, root / "b", root / "a", str(root / "a" / "0.png")])
    assert [Path(path).relative_to(root).as_posix() for path in samples.paths] == [
        *("a/picture.odd", "b/c/0.png", "a/0.png", "a/1.png", "a/0.png")
    ]
    assert samples.labels.tolist() == [-1] * 5
    assert samples.classes == ()
    assert samples.read(1).startswith(b"\x89PNG")
    assert samples.skipped == {".odd files": 1, ".txt files": 1}
    assert from_paths(root).paths == from_paths([root]).paths


def test_paths_for_prediction_stay_as_they_were_given(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = make_folder({"a": 1})
    monkeypatch.chdir(root)
    samples = from_paths(["a/0.png", "a"])
    assert samples.paths == ("a/0.png", "a/0.png")
    monkeypatch.chdir(tmp_path)
    assert samples.read(0).startswith(b"\x89PNG")


@pytest.mark.parametrize("bad", ["gone.jpg", "with\0null", "x" * 5000])
def test_a_path_that_is_not_there_is_missing_input(tmp_path: Path, bad: str) -> None:
    with pytest.raises(InputMissingError) as caught:
        from_paths([str(tmp_path) + "/" + bad])
    assert "\n" not in str(caught.value)
    assert "\0" not in str(caught.value)


def test_nothing_to_predict_is_missing_input(make_folder: MakeFolder) -> None:
    with pytest.raises(InputMissingError, match="no pictures"):
        from_paths([])
    with pytest.raises(InputMissingError, match="no pictures"):
        from_paths([make_folder({"a": 0})])


@given(st.lists(st.text(st.characters(codec="ascii"), max_size=12)))
def test_natural_order_is_a_total_order(names: list[str]) -> None:
    assert sorted(set(names), key=natural) == sorted(sorted(set(names), reverse=True), key=natural)


@settings(max_examples=200)
@given(st.text(st.characters(exclude_categories=[]), max_size=50))
def test_a_shown_name_is_one_printable_line_of_utf_8(name: str) -> None:
    line = shown(name)
    line.encode("utf-8")
    assert len(line.splitlines()) <= 1
