"""The order of an epoch is a pure function; every sample comes once, on one rank, or as balance says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from headstart import ordering
from headstart.errors import UsageError
from headstart.ordering import (
    EpochOrder,
    Ordering,
    balanced_order,
    batch_bounds,
    draw_ids,
    order,
    share_of,
    weighted_order,
)
from headstart.types import World

COUNTS = st.integers(0, 500)
SEEDS = st.integers(-(2**63), 2**64 - 1)


@given(COUNTS, SEEDS, st.integers(0, 1000), st.integers(1, 8), st.booleans())
def test_over_the_ranks_each_position_comes_exactly_once(
    count: int, seed: int, epoch: int, size: int, shuffle: bool
) -> None:
    parts = [
        order(count, seed=seed, epoch=epoch, shuffle=shuffle, world=World(rank, size)) for rank in range(size)
    ]
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 2


@given(st.integers(2, 500), SEEDS, st.integers(1, 8))
def test_neighbours_stay_together_whatever_the_number_of_ranks(count: int, seed: int, size: int) -> None:
    whole = order(count, seed=seed, epoch=3)
    pairs = {tuple(whole[start : start + 2].tolist()) for start in range(0, count, 2)}
    for rank in range(size):
        share = order(count, seed=seed, epoch=3, world=World(rank, size))
        assert {tuple(share[start : start + 2].tolist()) for start in range(0, len(share), 2)} <= pairs


def test_each_epoch_and_seed_has_an_order_of_its_own() -> None:
    orders = [tuple(order(50, seed=seed, epoch=epoch).tolist()) for seed in range(5) for epoch in range(5)]
    assert len(set(orders)) == 25
    assert order(50, seed=1, epoch=2).tolist() == order(50, seed=1, epoch=2).tolist()


def test_without_shuffling_the_order_is_the_table_s() -> None:
    assert order(5, seed=3, epoch=1, shuffle=False).tolist() == [0, 1, 2, 3, 4]


def test_the_order_is_the_same_for_ever() -> None:
    assert order(8, seed=0, epoch=0).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert order(8, seed=7, epoch=1).tolist() == [3, 1, 6, 2, 5, 4, 0, 7]


def test_every_position_is_as_likely_at_the_front() -> None:
    first = [int(order(10, seed=seed, epoch=0)[0]) for seed in range(2000)]
    counts = np.bincount(first, minlength=10)
    assert abs(counts - 200).max() < 6 * np.sqrt(200)


# ---- batches -----------------------------------------------------------------------------------


@given(COUNTS, st.integers(1, 600))
def test_batches_cover_all_samples_and_none_is_a_single_one_if_that_can_be(count: int, size: int) -> None:
    bounds = batch_bounds(count, size)
    assert bounds[0] == 0
    assert bounds[-1] == count
    sizes = np.diff(bounds)
    assert (sizes[:-1] == size).all()
    assert count == 0 or 1 <= sizes[-1] <= size + 1
    assert size == 1 or count == 1 or 1 not in sizes


@given(COUNTS, st.integers(1, 40), st.integers(1, 8))
def test_ranks_share_each_batch_as_evenly_as_pairs_allow(count: int, size: int, ranks: int) -> None:
    worlds = [World(rank, ranks) for rank in range(ranks)]
    shares = [len(order(count, seed=0, epoch=0, world=world)) for world in worlds]
    assert [share_of(count, world) for world in worlds] == shares
    bounds = [batch_bounds(count, size, world) for world in worlds]
    sizes = np.array([np.diff(ends) for ends in bounds])
    assert (sizes.sum(axis=1) == shares).all()
    assert (sizes.max(axis=0) - sizes.min(axis=0) <= 2).all()


@given(COUNTS, st.integers(1, 40), st.integers(1, 8), SEEDS)
def test_a_batch_of_all_ranks_holds_the_samples_of_one_process_batch(
    count: int, size: int, ranks: int, seed: int
) -> None:
    alone = order(count, seed=seed, epoch=1)
    bounds = batch_bounds(count, size)
    shares = [order(count, seed=seed, epoch=1, world=World(rank, ranks)) for rank in range(ranks)]
    ends = [batch_bounds(count, size, World(rank, ranks)) for rank in range(ranks)]
    assert {len(end) for end in ends} == {len(bounds)}
    for step in range(len(bounds) - 1):
        parts = [share[end[step] : end[step + 1]] for share, end in zip(shares, ends, strict=True)]
        assert sorted(np.concatenate(parts)) == sorted(alone[bounds[step] : bounds[step + 1]])
        if size % 2 == 0:  # what is paired in one process is paired in many
            begun = alone[bounds[step] : bounds[step + 1]]
            pairs = {tuple(begun[k : k + 2]) for k in range(0, len(begun), 2)}
            assert {tuple(part[k : k + 2]) for part in parts for k in range(0, len(part), 2)} == pairs


# ---- balanced and weighted ---------------------------------------------------------------------

LABELS = st.lists(st.integers(-1, 4), max_size=80).map(lambda labels: np.array(labels, np.int64))


def over_ranks(share: Callable[[World], EpochOrder], ranks: int) -> tuple[list[int], list[int]]:
    parts = [share(World(rank, ranks)) for rank in range(ranks)]
    return (
        np.concatenate([part.positions for part in parts]).tolist(),
        np.concatenate([part.copies for part in parts]).tolist(),
    )


@given(LABELS, SEEDS, st.integers(0, 100), st.integers(1, 8))
def test_in_a_balanced_epoch_each_class_comes_as_often_as_the_largest_has_samples(
    labels: NDArray[np.int64], seed: int, epoch: int, ranks: int
) -> None:
    positions, copies = over_ranks(
        lambda world: balanced_order(labels, seed=seed, epoch=epoch, longest=5, world=world), ranks
    )
    times = np.bincount(positions, minlength=len(labels)).astype(np.int64)
    largest = max(Counter(labels[labels >= 0].tolist()).values(), default=0)
    for label in np.unique(labels):
        of_class = times[labels == label]
        if label < 0:
            assert set(of_class) == {1}
        else:
            assert of_class.sum() == largest
            assert of_class.max() - of_class.min() <= 1
    assert sorted(zip(positions, copies, strict=True)) == [
        (position, copy) for position in range(len(labels)) for copy in range(times[position])
    ]
    assert len(positions) == Ordering(balance="sampler", longest=5).count(labels)


MANY_LABELS = st.lists(st.integers(-1, 30).map(lambda k: int(k * k / 30)), min_size=1, max_size=200).map(
    lambda labels: np.array(labels, np.int64)
)


@given(MANY_LABELS, SEEDS, st.integers(0, 100), st.floats(1.0, 12.0), st.booleans())
def test_a_balanced_epoch_is_never_longer_than_allowed_and_leaves_no_sample_out(
    labels: NDArray[np.int64], seed: int, epoch: int, longest: float, as_tags: bool
) -> None:
    table = (labels[:, None] == np.arange(31)).astype(np.uint8) if as_tags else labels
    ordering = Ordering(shuffle=True, balance="sampler", longest=longest)
    times = np.bincount(ordering.epoch(table, seed=seed, epoch=epoch).positions, minlength=len(labels))
    assert len(labels) <= times.sum() == ordering.count(table) <= longest * len(labels)
    assert times.min() >= 1
    assert set(times[labels < 0]) <= {1}
    counts = Counter(labels[labels >= 0].tolist())
    sums = {label: times[labels == label].sum() for label in counts}
    raised = {sums[label] for label in counts if sums[label] > counts[label]}
    assert len(raised) <= 1, "those that are raised are raised to one size"
    assert all(counts[label] >= max(raised) for label in counts if raised and sums[label] not in raised)


def test_a_long_tail_is_raised_as_far_as_four_times_the_samples_allow() -> None:
    sizes = np.maximum(1000 // np.arange(1, 1001), 1)
    labels = np.repeat(np.arange(1000), sizes)
    without_a_cap = Ordering(balance="sampler", longest=1e9).count(labels)
    assert without_a_cap == 1_000_000
    count = Ordering(balance="sampler").count(labels)
    assert 0.95 * 4 * len(labels) <= count <= 4 * len(labels)
    times = np.bincount(balanced_order(labels, seed=0, epoch=0).positions)
    assert times[labels == 0].tolist() == [1] * 1000
    assert times[-1] > 20


def test_up_to_four_classes_become_equal_however_few_the_rare_ones_are() -> None:
    labels = np.repeat(np.arange(4), [3000, 10, 1, 1])
    positions = balanced_order(labels, seed=0, epoch=0).positions
    assert np.bincount(labels[positions]).tolist() == [3000] * 4


@pytest.mark.parametrize("longest", [0.5, 0.0, -1.0, float("nan")])
def test_an_epoch_that_would_leave_samples_out_is_refused(longest: float) -> None:
    with pytest.raises(UsageError, match="would leave some out"):
        Ordering(balance="sampler", longest=longest)


@given(SEEDS, st.integers(1, 8))
def test_pairs_of_a_balanced_epoch_stay_together_whatever_the_ranks(seed: int, ranks: int) -> None:
    labels = np.array([0] * 20 + [1] * 3)
    whole = balanced_order(labels, seed=seed, epoch=4)
    for rank in range(ranks):
        share = balanced_order(labels, seed=seed, epoch=4, world=World(rank, ranks))
        for mine, all_of_it in zip(share, whole, strict=True):
            pairs = [tuple(all_of_it[2 * k : 2 * k + 2]) for k in range(rank, 20, ranks)]
            assert [tuple(mine[2 * k : 2 * k + 2]) for k in range(len(pairs))] == pairs


def test_which_rows_get_one_copy_more_changes_with_the_epoch() -> None:
    labels = np.array([0] * 10 + [1] * 7)
    drawn = [
        tuple(np.bincount(balanced_order(labels, seed=0, epoch=epoch).positions)[10:]) for epoch in range(50)
    ]
    assert all(sorted(times) == [1, 1, 1, 1, 2, 2, 2] for times in drawn)
    assert len(set(drawn)) > 20
    often = np.mean(drawn, axis=0)
    assert abs(often - 10 / 7).max() < 6 * np.sqrt(3 / 7 * 4 / 7 / 50)


def test_a_row_of_tags_counts_as_one_of_its_rarest() -> None:
    tags = np.array([[1, 0, 0]] * 8 + [[1, 1, 0]] * 2 + [[0, 0, 1], [0, 0, 0]], np.uint8)
    times = np.bincount(balanced_order(tags, seed=0, epoch=0).positions)
    assert times.tolist() == [1] * 8 + [5, 5] + [
        10,
        1,
    ]  # 10 rows have the first tag, 2 the second, 1 the third
    assert Ordering(balance="sampler").count(tags) == 29
    assert balanced_order(np.zeros((3, 0), np.uint8), seed=0, epoch=0).positions.tolist() != []
    same_labels = np.argmax(tags[[0, 8, 10]], 1)  # tags of one class each are classes
    assert Ordering(balance="sampler").count(same_labels) == Ordering(balance="sampler").count(
        np.eye(3)[same_labels]
    )


WEIGHTS = st.lists(st.sampled_from([0.0, 1e-9, 0.5, 1.0, 3.0, 1e6]), min_size=1, max_size=40).filter(any)


@given(WEIGHTS, SEEDS, st.integers(0, 100), st.integers(1, 8))
def test_a_weight_of_zero_is_never_drawn_and_ranks_share_the_draws(
    weights: list[float], seed: int, epoch: int, ranks: int
) -> None:
    positions, copies = over_ranks(
        lambda world: weighted_order(weights, seed=seed, epoch=epoch, count=200, world=world), ranks
    )
    alone = weighted_order(weights, seed=seed, epoch=epoch, count=200)
    assert sorted(positions) == sorted(alone.positions.tolist())
    assert all(weights[position] > 0 for position in positions)
    times = np.bincount(positions, minlength=len(weights))
    assert sorted(zip(positions, copies, strict=True)) == [
        (position, copy) for position in range(len(weights)) for copy in range(times[position])
    ]


@pytest.mark.parametrize(("word", "position"), [(0, 1), (2**64 - 1, 2)])
def test_a_weight_of_zero_is_not_drawn_even_at_the_ends(
    word: int, position: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "_raw", lambda count, seed, epoch: np.full(count, word, np.uint64))
    for scale in (1, 1e-300, 0.1, 3e5):
        drawn = weighted_order(np.array([0, 1, 1, 0]) * scale, seed=0, epoch=0).positions
        assert set(drawn.tolist()) == {position}


@pytest.mark.parametrize("seed", range(5))
def test_each_row_is_drawn_as_often_as_its_weight_says(seed: int) -> None:
    weights = np.array([0, 1, 2, 4, 0, 13, 0.5])
    times = np.bincount(weighted_order(weights, seed=seed, epoch=seed, count=20_000).positions, minlength=7)
    chance = weights / weights.sum()
    assert (abs(times - 20_000 * chance) <= 6 * np.sqrt(20_000 * chance * (1 - chance))).all()


ORDERINGS = st.sampled_from(
    [Ordering(True), Ordering(True, "sampler"), Ordering(weights=np.linspace(1, 2, 39))]
)


@given(SEEDS, st.integers(0, 1000), ORDERINGS)
def test_every_ordering_is_determined_by_seed_and_epoch(seed: int, epoch: int, chosen: Ordering) -> None:
    labels = np.array([0] * 30 + [1] * 9)
    first, again, later, other = (
        chosen.epoch(labels, seed=with_seed, epoch=when).positions.tolist()
        for with_seed, when in ((seed, epoch), (seed, epoch), (seed, epoch + 1), (seed ^ 1, epoch))
    )
    assert first == again
    assert len(first) == len(later) == chosen.count(labels)
    assert first != later
    assert first != other


def test_the_balanced_and_weighted_orders_are_the_same_for_ever() -> None:
    labels = np.array([0, 0, 0, 1])
    assert balanced_order(labels, seed=7, epoch=1).positions.tolist() == [3, 1, 2, 3, 3, 0]
    assert balanced_order(labels, seed=7, epoch=1, shuffle=False).positions.tolist() == [0, 1, 2, 3, 3, 3]
    assert weighted_order([1, 2, 0, 1], seed=7, epoch=1).positions.tolist() == [3, 1, 1, 1]


def test_copies_draw_by_ids_of_their_own() -> None:
    ids = np.array([5, 2**64 - 1, 5, 5], np.uint64)
    drawn = draw_ids(ids, np.array([0, 0, 1, 2]))
    assert drawn[:2].tolist() == [5, 2**64 - 1]
    assert len(set(drawn.tolist())) == 4
    assert draw_ids(ids[1:2], np.array([3])).dtype == np.uint64  # past the largest number it begins anew


@pytest.mark.parametrize("weights", [[1, -1], [1, np.nan], [np.inf], [0, 0], [[1, 2]]])
def test_weights_that_cannot_be_drawn_by_are_refused(weights: list[float]) -> None:
    with pytest.raises(UsageError, match="weights"):
        Ordering(weights=np.array(weights))


def test_an_ordering_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="no balance 'weights'"):
        Ordering(balance="weights")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not both"):
        Ordering(balance="sampler", weights=np.ones(3))
    with pytest.raises(UsageError, match="3 weights do not match 4 samples"):
        Ordering(weights=np.ones(3)).count(np.zeros(4))
    assert Ordering(weights=np.ones(0)).count(np.zeros(0)) == 0
