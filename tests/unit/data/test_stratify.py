"""Iterative stratification, folds, and splits by groups that mix classes and by tags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.data import Samples, folds, split_samples
from headstart.errors import DataError, UsageError
from headstart.types import Task


def single(labels: list[int]) -> Samples:
    count = len(labels)
    classes = tuple(map(str, range(max(labels) + 1)))
    paths = tuple(f"{number}.jpg" for number in range(count))
    return Samples(Path("/nowhere"), paths, np.array(labels, np.int64), classes, np.full(count, "", "<U5"))


def tagged(table: np.ndarray) -> Samples:
    count, width = table.shape
    paths = tuple(f"{number}.jpg" for number in range(count))
    classes = tuple(f"tag {number}" for number in range(width))
    parts = np.full(count, "", "<U5")
    return Samples(Path("/nowhere"), paths, table.astype(np.uint8), classes, parts, task=Task.MULTI_LABEL)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=6, max_size=80), st.integers(2, 6), st.integers(0, 99))
def test_folds_hold_every_row_once_and_each_class_evenly(labels: list[int], k: int, seed: int) -> None:
    fold = folds(single(labels), k, seed=seed)
    assert set(fold.tolist()) <= set(range(k))
    for label in set(labels):
        counts = np.bincount(fold[np.array(labels) == label], minlength=k)
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(fold, minlength=k)
    assert sizes.max() - sizes.min() <= len(set(labels))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=12, max_size=50), st.data(), st.integers(0, 99))
def test_folds_keep_groups_whole_and_do_not_depend_on_the_order_of_rows(
    labels: list[int], data: st.DataObject, seed: int
) -> None:
    samples = single(labels)
    group = np.array(data.draw(st.lists(st.integers(0, 20), min_size=len(labels), max_size=len(labels))))
    if len(set(group.tolist())) < 3:
        return
    fold = folds(samples, 3, seed=seed, groups=group)
    assert all(len(set(fold[group == each].tolist())) == 1 for each in group)
    order = np.array(data.draw(st.permutations(range(len(labels)))))
    assert folds(samples.take(order), 3, seed=seed, groups=group[order]).tolist() == fold[order].tolist()
    assert folds(samples.with_group(group), 3, seed=seed).tolist() == fold.tolist()


def test_rows_without_a_label_are_in_no_fold() -> None:
    samples = single([0, 0, 1, 1])
    labels = np.array([0, 0, 1, -1])
    unknown = Samples(samples.root, samples.paths, labels, samples.classes, samples.split)
    assert folds(unknown, 2).tolist()[3] == -1


def test_another_seed_gives_other_folds() -> None:
    samples = single([0, 1] * 20)
    assert len({tuple(folds(samples, 5, seed=seed).tolist()) for seed in range(10)}) == 10


def test_folds_without_meaning_are_refused() -> None:
    with pytest.raises(UsageError):
        folds(single([0, 1]), 1)
    with pytest.raises(DataError) as caught:
        folds(single([0, 1, 0]), 3, groups=np.array([0, 0, 1]))
    assert caught.value.code == "TOO_FEW"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 0.4), st.sampled_from([0.0, 0.2]))
def test_each_tag_has_about_its_share_and_trains(seed: int, valid: float, test: float) -> None:
    random = np.random.default_rng(seed)
    table = random.random((80, 5)) < random.uniform(0.02, 0.5, 5)
    samples = tagged(table)
    done = split_samples(samples, valid=valid, test=test, seed=seed)
    for tag in range(5):
        total = int(table[:, tag].sum())
        for name, share in (("valid", valid), ("test", test)):
            have = int(table[done.split == name, tag].sum())
            # Tags that share pictures cannot all be exact; apart, each would be within one.
            assert abs(have - share * total) <= 3, (tag, name)
        if total:
            assert table[done.split == "train", tag].any()
    rows = np.array(random.permutation(80))
    again = split_samples(samples.take(rows), valid=valid, test=test, seed=seed)
    assert again.split.tolist() == done.split[rows].tolist()


def test_tags_are_split_better_than_by_chance() -> None:
    random = np.random.default_rng(0)
    table = random.random((300, 12)) < 0.05
    share = table[split_samples(tagged(table)).split == "valid"].sum(0) / table.sum(0)
    by_chance = table[random.random(300) < 0.2].sum(0) / table.sum(0)
    assert np.abs(share - 0.2).max() < 0.06 < np.abs(by_chance - 0.2).max()


def test_two_tagged_pictures_give_one_to_each_side() -> None:
    done = split_samples(tagged(np.array([[1, 0], [1, 0]])))
    assert sorted(done.split.tolist()) == ["train", "valid"]


def test_groups_that_mix_classes_are_split_by_all_their_classes() -> None:
    # Sixty patients, each with pictures of several classes.
    random = np.random.default_rng(1)
    labels = random.choice(4, 600, p=(0.55, 0.3, 0.1, 0.05))
    group = np.repeat(np.arange(60), 10)
    done = split_samples(single(labels.tolist()), groups=group, valid=0.25)
    for label in range(4):
        share = np.mean(done.split[labels == label] == "valid")
        assert abs(share - 0.25) < 0.05
    assert all(len(set(done.split[group == each].tolist())) == 1 for each in range(60))


def test_twenty_thousand_classes_of_one_picture_stay_cheap() -> None:
    samples = single([*range(20_000), 0, 1])
    done = split_samples(samples)
    assert len(done.rows("valid")) == 2
    assert sorted(np.bincount(folds(samples, 5)).tolist()) == [4000, 4000, 4000, 4001, 4001]
