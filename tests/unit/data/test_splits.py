"""Splits: stratified, stable, and never with copies on both sides."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.data import Samples, split_samples
from headstart.errors import DataError, UsageError
from headstart.types import Task

Counts = list[int]
CLASS_SIZES = st.lists(st.integers(2, 40), min_size=2, max_size=6)
FRACTIONS = st.floats(0.05, 0.45)


def table(sizes: Counts, *, split: str = "", prefix: str = "") -> Samples:
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)
    paths = tuple(f"{prefix}{label}/{number}.jpg" for number, label in enumerate(labels.tolist()))
    classes = tuple(f"class {number}" for number in range(len(sizes)))
    return Samples(Path("/nowhere"), paths, labels, classes, np.full(len(paths), split, "<U5"))


def by_path(samples: Samples) -> dict[str, str]:
    return dict(zip(samples.paths, samples.split.tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(CLASS_SIZES, FRACTIONS, st.one_of(st.just(0.0), FRACTIONS), st.integers(0, 2**40))
def test_each_class_is_within_one_of_its_share_in_each_part(
    sizes: Counts, valid: float, test: float, seed: int
) -> None:
    done = split_samples(table(sizes), valid=valid, test=test, seed=seed)
    assert set(done.split.tolist()) <= {"train", "valid", "test"}
    for name, size in zip(done.classes, sizes, strict=True):
        counts = {part: done.counts(part)[name] for part in ("train", "valid", "test")}
        assert sum(counts.values()) == size
        assert counts["train"] >= 1
        assert counts["valid"] >= 1
        assert abs(counts["valid"] - size * valid) <= 1
        assert abs(counts["test"] - size * test) <= 1


@settings(max_examples=40, deadline=None)
@given(CLASS_SIZES, st.randoms(use_true_random=False), st.integers(0, 1000))
def test_the_split_does_not_depend_on_the_order_of_rows(sizes: Counts, random: object, seed: int) -> None:
    samples = table(sizes)
    rows = list(range(len(samples)))
    random.shuffle(rows)  # type: ignore[attr-defined]
    assert by_path(split_samples(samples.take(rows), seed=seed)) == by_path(split_samples(samples, seed=seed))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), FRACTIONS, st.integers(0, 1000))
def test_a_picture_more_moves_at_most_one_other(size: int, valid: float, seed: int) -> None:
    samples = table([size + 1, 5])
    for left_out in (0, size // 2, size):
        fewer = samples.take([row for row in range(len(samples)) if row != left_out])
        before = by_path(split_samples(fewer, valid=valid, seed=seed))
        after = by_path(split_samples(samples, valid=valid, seed=seed))
        assert sum(after[path] != part for path, part in before.items()) <= 1


def test_another_seed_gives_another_split() -> None:
    splits = {tuple(split_samples(table([30, 30]), seed=seed).split.tolist()) for seed in range(20)}
    assert len(splits) == 20


def test_each_picture_is_as_likely_to_validate() -> None:
    chosen = Counter(
        row for seed in range(400) for row in split_samples(table([10, 10]), seed=seed).rows("valid").tolist()
    )
    assert max(abs(count - 80) for count in chosen.values()) < 6 * np.sqrt(400 * 0.2 * 0.8)
    assert len(chosen) == 20


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(3, 30), min_size=2, max_size=4), st.data(), st.integers(0, 1000))
def test_groups_never_straddle_and_every_class_trains(sizes: Counts, data: st.DataObject, seed: int) -> None:
    samples = table(sizes)
    groups = np.array(data.draw(st.lists(st.integers(0, 40), min_size=len(samples), max_size=len(samples))))
    try:
        done = split_samples(samples, valid=0.3, test=0.2, seed=seed, groups=groups)
    except DataError:  # all of each class is one group
        return
    assert min(done.counts("train").values()) >= 1
    for group in np.unique(groups):
        assert len(set(done.split[groups == group].tolist())) == 1


def test_copies_of_one_class_stay_together_and_would_straddle_without_groups() -> None:
    samples = table([40, 40])
    groups = np.arange(80) // 2
    together = split_samples(samples, groups=groups)
    assert all(len(set(together.split[groups == group].tolist())) == 1 for group in range(40))
    assert together.notes == ()
    assert split_samples(samples.with_group(groups)).split.tolist() == together.split.tolist()
    apart = split_samples(samples)
    assert any(len(set(apart.split[groups == group].tolist())) == 2 for group in range(40))


def test_a_class_of_one_picture_trains_and_is_named() -> None:
    done = split_samples(table([10, 1, 10]))
    assert done.counts("train")["class 1"] == 1
    assert done.counts("valid")["class 1"] == 0
    assert "class 1" in done.notes[0]


def test_classes_of_one_picture_each_are_too_few() -> None:
    with pytest.raises(DataError) as caught:
        split_samples(table([1, 1]))
    assert (caught.value.code, caught.value.exit_code) == ("TOO_FEW", 65)


def test_two_pictures_for_each_class_give_one_to_each_side() -> None:
    done = split_samples(table([2, 2]))
    assert done.counts("train") == {"class 0": 1, "class 1": 1}
    assert done.counts("valid") == {"class 0": 1, "class 1": 1}


def test_without_valid_everything_trains() -> None:
    assert set(split_samples(table([3, 1]), valid=0.0).split.tolist()) == {"train"}


def test_parts_that_the_source_gives_are_kept() -> None:
    given_parts = table([10, 10]).with_split(["train"] * 12 + ["valid"] * 8)
    assert split_samples(given_parts).split.tolist() == given_parts.split.tolist()


def test_valid_is_cut_from_train_where_it_is_missing() -> None:
    samples = table([20, 20]).with_split((["train"] * 15 + ["test"] * 5) * 2)
    done = split_samples(samples, valid=0.2, test=0.5)
    assert (done.split == "test").tolist() == (samples.split == "test").tolist()
    assert done.counts("valid") == {"class 0": 3, "class 1": 3}


def test_a_test_part_is_cut_where_the_source_has_none_with_labels() -> None:
    samples = table([20, 20])
    labels = np.concatenate([samples.labels, [-1, -1]])
    unlabelled = Samples(
        samples.root,
        (*samples.paths, "test/x", "test/y"),
        labels,
        samples.classes,
        np.array([""] * 40 + ["test"] * 2, "<U5"),
    )
    done = split_samples(unlabelled, test=0.25)
    assert done.counts("test") == {"class 0": 5, "class 1": 5}
    assert len(done.rows("test")) == 12


def test_copies_across_given_parts_are_said() -> None:
    samples = table([4, 4]).with_split(["train", "train", "valid", "valid"] * 2)
    groups = np.array([0, 1, 0, 2, 3, 4, 5, 6])
    done = split_samples(samples, groups=groups)
    said = "valid has 1 pictures that train has too, or others of their group: its score flatters"
    assert done.notes == (said,)


def test_a_copy_under_another_class_does_not_take_its_last_picture_from_training() -> None:
    samples = table([20, 1])
    for seed in range(10):
        done = split_samples(samples, seed=seed, groups=np.array([*range(20), 3]))
        assert done.counts("train")["class 1"] == 1


@pytest.mark.parametrize(
    ("valid", "test"), [(1.0, 0.0), (-0.1, 0.0), (0.6, 0.4), (0.2, 1.2), (float("nan"), 0)]
)
def test_fractions_that_leave_nothing_are_refused(valid: float, test: float) -> None:
    with pytest.raises(UsageError):
        split_samples(table([5, 5]), valid=valid, test=test)


def test_tags_are_split_by_their_combination() -> None:
    tags = np.array([[1, 0]] * 20 + [[0, 1]] * 20 + [[1, 1]] * 10, np.uint8)
    samples = table([50])
    multi = Samples(samples.root, samples.paths, tags, ("a", "b"), samples.split, task=Task.MULTI_LABEL)
    done = split_samples(multi)
    assert len(done.rows("valid")) == 10
    assert done.counts("valid") == {"a": 6, "b": 6}


def test_the_split_is_the_same_for_ever() -> None:
    assert split_samples(table([6, 6]), valid=0.34, seed=3).rows("valid").tolist() == [2, 5, 6, 10]
