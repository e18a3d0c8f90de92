"""Labels from patterns, functions and lists; trial subsets; test sets of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.data import (
    Rules,
    Samples,
    from_function,
    from_lists,
    from_regex,
    from_shards,
    limit_samples,
    read_test_set,
    scan_folder,
    with_test_set,
    write_shards,
)
from headstart.errors import DataError, InputMissingError, UsageError
from headstart.types import Task

MakeFolder = Callable[..., Path]


def named(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_a_pattern_finds_the_label_in_the_path(tmp_path: Path) -> None:
    root = named(tmp_path, "great_dane_1.jpg", "pug_12.jpg", "deep/pug_2.jpg", "notes.txt")
    samples = from_regex(root, r"([^/]+)_\d+\.jpg$")
    assert samples.classes == ("great_dane", "pug")
    assert samples.paths == ("great_dane_1.jpg", "pug_12.jpg", "deep/pug_2.jpg")
    assert samples.skipped == {".txt files": 1}


def test_named_groups_fill_the_other_columns(tmp_path: Path) -> None:
    root = named(tmp_path, "train/p1_cat.jpg", "train/p1_dog.jpg", "val/p2_dog.jpg")
    samples = from_regex(root, r"(?P<split>train|val)/(?P<group>p\d)_(?P<label>\w+)\.")
    assert samples.split.tolist() == ["train", "train", "valid"]
    assert samples.label_names() == ["cat", "dog", "dog"]
    assert samples.group is not None
    assert samples.group[0] == samples.group[1] != samples.group[2]
    assert from_regex(root, r"(?P<group>p\d)_(\w+)\.").label_names() == ["cat", "dog", "dog"]


def test_names_that_do_not_match_are_counted_and_five_shown(tmp_path: Path) -> None:
    root = named(tmp_path, "cat_1.jpg", *(f"odd{number}.jpg" for number in range(7)))
    with pytest.raises(DataError) as caught:
        from_regex(root, r"([a-z]+)_\d")
    assert (caught.value.code, caught.value.exit_code) == ("NO_MATCH", 65)
    assert "7 of 8 names" in caught.value.message
    assert caught.value.message.count("odd") == 5


@pytest.mark.parametrize("pattern", ["(", r"\w+", "(?P<split>x)"])
def test_a_pattern_that_can_find_no_label_is_a_usage_error(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(UsageError):
        from_regex(named(tmp_path, "x.jpg"), pattern)


def test_a_function_gives_the_label_of_each_path(tmp_path: Path) -> None:
    root = named(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg")
    assert from_function(root, lambda path: path.parent.name).label_names() == ["a", "a", "b"]
    assert from_function(root, lambda path: int(path.stem)).classes == ("1", "2")
    tags = from_function(root, lambda path: [path.parent.name, path.stem] if path.stem == "1" else [])
    assert (tags.task, tags.label_names()) == (Task.MULTI_LABEL, ["1 a", "", "1 b"])
    partly = from_function(
        root, lambda path: path.stem if path.parent.name == "a" else None, rules=Rules(unlabelled="test")
    )
    assert partly.split.tolist() == ["", "", "test"]


@pytest.mark.parametrize(
    ("function", "code"),
    [
        (lambda path: 1 / 0, "LABEL_FUNCTION"),
        (lambda path: 1.5, "BAD_LABEL"),
        (lambda path: ["a"] if path.stem == "1" else "a", "BAD_TAG"),
        (lambda path: None, "NO_LABEL"),
    ],
)
def test_a_function_that_fails_is_named_with_its_picture(
    tmp_path: Path, function: Callable[[Path], object], code: str
) -> None:
    root = named(tmp_path, "a/1.jpg", "a/2.jpg")
    with pytest.raises(DataError) as caught:
        from_function(root, function)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert (
        "a/1.jpg" in caught.value.message
        or "row 0" in caught.value.message
        or code in ("BAD_TAG", "NO_LABEL")
    )


def test_lists_of_paths_and_labels(tmp_path: Path) -> None:
    root = named(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    samples = from_lists([Path("1.jpg"), root / "2.jpg", "3.jpg"], ["a", "b", "a"], root=root)
    assert samples.paths == ("1.jpg", "2.jpg", "3.jpg")
    assert from_lists(["1.jpg", "2.jpg"], [np.int64(3), 4], root=root).classes == ("3", "4")
    unknown = from_lists(["1.jpg", "2.jpg"], root=root)
    assert (unknown.classes, unknown.labels.tolist()) == ((), [-1, -1])
    parts = from_lists(["1.jpg", "2.jpg"], ["a", "b"], root=root, split=["train", None], group=["x", None])  # type: ignore[list-item]
    assert parts.split.tolist() == ["train", ""]
    with pytest.raises(UsageError, match="2 pictures and 1 rows of labels"):
        from_lists(["1.jpg", "2.jpg"], ["a"], root=root)
    with pytest.raises(DataError, match=r"row 1 \(4\.jpg\)"):
        from_lists(["1.jpg", "4.jpg"], ["a", "b"], root=root)
    with pytest.raises(InputMissingError):
        from_lists([], [], root=root)


def table(sizes: list[int], parts: int = 1) -> Samples:
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)
    split = np.array([("train", "valid", "test")[row % parts] for row in range(len(labels))], "<U5")
    paths = tuple(f"{row}.jpg" for row in range(len(labels)))
    return Samples(Path("x"), paths, labels, tuple(map(str, range(len(sizes)))), split)


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=2, max_size=8),
    parts=st.integers(1, 3),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_a_trial_takes_each_class_of_each_part_in_its_share(
    sizes: list[int], parts: int, share: float, seed: int
) -> None:
    samples = table(sizes, parts)
    strata = np.unique(np.char.add(samples.split, samples.labels.astype(str)), return_inverse=True)[1]
    full = np.bincount(strata)
    limit = max(int(share * len(samples)), int(np.minimum(full, 2).sum()))
    few = limit_samples(samples, limit, seed=seed)
    assert len(few) == min(limit, len(samples))
    assert few.classes == samples.classes
    kept = set(few.paths)
    taken = np.bincount(strata, weights=[path in kept for path in samples.paths])
    assert (taken >= np.minimum(full, 2)).all()
    # A class that is kept beyond its share takes from the largest: no share is passed by more than one.
    assert (taken <= np.maximum(2, np.ceil(full * limit / len(samples)) + 1)).all()
    shuffled = np.random.default_rng(seed).permutation(len(samples))
    again = limit_samples(samples.take(shuffled), limit, seed=seed)
    assert set(again.paths) == kept
    assert list(few.paths) == [path for path in samples.paths if path in kept]


def test_a_trial_depends_on_the_seed_and_says_that_it_is_one() -> None:
    samples = table([100, 100])
    few, other = limit_samples(samples, 20, seed=0), limit_samples(samples, 20, seed=1)
    assert few.paths != other.paths
    assert few.counts() == {"0": 10, "1": 10}
    assert few.notes == ("a trial with 20 of 200 pictures",)
    assert limit_samples(samples, 200) is samples
    with pytest.raises(UsageError, match="--limit 3") as caught:
        limit_samples(samples, 3)
    assert "4 or more" in caught.value.hint


def test_a_trial_of_tags_keeps_the_rare_ones() -> None:
    tags = np.zeros((300, 3), np.uint8)
    tags[:, 0] = 1
    tags[::3, 1] = 1
    tags[::50, 2] = 1
    paths = tuple(f"{row}.jpg" for row in range(300))
    samples = Samples(Path("x"), paths, tags, ("a", "b", "c"), np.full(300, "", "<U5"), task=Task.MULTI_LABEL)
    few = limit_samples(samples, 60)
    assert len(few) == 60
    assert few.counts()["c"] >= 1
    assert abs(few.counts()["b"] - 20) <= 3


def test_a_test_set_without_labels_is_a_part_of_its_own(make_folder: MakeFolder) -> None:
    samples = scan_folder(make_folder({"a": 2, "b": 2}, name="pictures"))
    root = make_folder({".": 2, "deeper": 1}, name="new")
    joined = with_test_set(samples, read_test_set(root, samples.classes))
    assert joined.split.tolist() == ["", "", "", "", "test", "test", "test"]
    assert joined.labels.tolist() == [0, 0, 1, 1, -1, -1, -1]
    assert joined.ids[:4].tolist() == samples.ids.tolist()
    assert len(set(joined.ids.tolist())) == 7
    assert all(joined.read(row).startswith(b"\x89PNG") for row in range(7))
    assert joined.name(4) == "new/0.png"
    with pytest.raises(UsageError):
        with_test_set(joined, read_test_set(root, samples.classes))


def test_the_classes_of_a_test_set_are_matched_by_name(make_folder: MakeFolder) -> None:
    samples = scan_folder(make_folder({"a": 2, "b": 2}, name="pictures"))
    test = read_test_set(make_folder({"b": 2}, name="new"), samples.classes)
    joined = with_test_set(samples, test)
    assert joined.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert len(set(joined.ids.tolist())) == 6  # "b/0.png" here and there are two pictures
    with pytest.raises(DataError) as caught:
        read_test_set(make_folder({"b": 1, "zebra": 1}, name="other"), samples.classes)
    assert caught.value.code == "UNKNOWN_CLASS"
    stranger = scan_folder(make_folder({"b": 1, "zebra": 1}, name="third"))
    with pytest.raises(DataError, match="zebra"):
        with_test_set(samples, stranger)


def test_shards_and_a_folder_to_test_on_are_put_together(make_folder: MakeFolder, tmp_path: Path) -> None:
    samples = scan_folder(make_folder({"a": 2, "b": 2}, name="pictures"))
    write_shards(samples, tmp_path / "shards")
    test = read_test_set(make_folder({"b": 1}, name="new"), samples.classes)
    joined = with_test_set(from_shards(tmp_path / "shards"), test)
    assert joined.ids[:4].tolist() == samples.ids.tolist()
    assert [joined.read(row) for row in (0, 4)] == [samples.read(0), test.read(0)]
    tagged = from_lists(["a/0.png", "a/1.png"], [["x"], ["y"]], root=tmp_path / "pictures")
    with pytest.raises(DataError, match="no tags"):
        with_test_set(tagged, test)
