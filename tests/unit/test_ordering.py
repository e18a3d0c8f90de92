"""The order of an epoch is a pure function; every sample comes once, on one rank."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headstart.ordering import batch_bounds, order
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


@given(COUNTS, st.integers(1, 600))
def test_batches_cover_all_samples_and_none_is_a_single_one_if_that_can_be(count: int, size: int) -> None:
    bounds = batch_bounds(count, size)
    assert bounds[0] == 0
    assert bounds[-1] == count
    sizes = np.diff(bounds)
    assert (sizes[:-1] == size).all()
    assert count == 0 or 1 <= sizes[-1] <= size + 1
    assert size == 1 or count == 1 or 1 not in sizes
