"""Draws are uniform, independent, and a pure function of what they are for."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headstart.augment import Slot, uniform
from headstart.augment.draws import SLOTS, uniform_row

WORDS = st.integers(0, 2**64 - 1)


@given(st.integers(-(2**63), 2**64 - 1), st.integers(0, 10**6), st.lists(WORDS, min_size=1, max_size=20))
def test_a_draw_does_not_depend_on_the_others_in_the_call(seed: int, epoch: int, ids: list[int]) -> None:
    together = uniform(seed, epoch, np.array(ids, np.uint64)[:, None], np.arange(5))
    assert together.shape == (len(ids), 5)
    assert ((together >= 0) & (together < 1)).all()
    for row, identity in enumerate(ids):
        for slot in range(5):
            assert together[row, slot] == uniform(seed, epoch, identity, slot)


def test_draws_are_spread_evenly() -> None:
    drawn = uniform(0, 0, np.arange(200_000), 0)
    counts = np.histogram(drawn, bins=100, range=(0, 1))[0]
    statistic = ((counts - 2000) ** 2 / 2000).sum()
    assert 50 < statistic < 160  # chi-square with 99 degrees of freedom
    assert len(np.unique(drawn)) == 200_000


def test_neighbouring_arguments_give_unrelated_draws() -> None:
    ids = np.arange(50_000)
    base = uniform(3, 5, ids, 7)
    for other in (
        uniform(4, 5, ids, 7),
        uniform(3, 6, ids, 7),
        uniform(3, 5, ids + 1, 7),
        uniform(3, 5, ids, 8),
    ):
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.025
    # The same would be seen where draws are related: the negative control.
    assert abs(np.corrcoef(base, np.sqrt(base))[0, 1]) > 0.9


def test_the_arguments_are_not_interchangeable() -> None:
    assert (
        len({float(uniform(*order)) for order in [(1, 2, 3, 4), (2, 1, 3, 4), (1, 3, 2, 4), (1, 2, 4, 3)]})
        == 4
    )


def test_draws_are_the_same_for_ever() -> None:
    assert uniform(0, 0, 0, 0) == 0.1296456182997474
    assert uniform(42, 7, 2**64 - 1, 3) == 0.2642099484580982
    assert uniform(-1, 0, 12345, 1) == 0.032035655880474745


def test_slots_keep_their_numbers() -> None:
    # A number that changes hands changes every draw since: append, and extend this.
    words = "\n".join(f"{slot.name} {slot.value}" for slot in Slot)
    assert hashlib.sha256(words.encode()).hexdigest().startswith("2dbf10d38669")


def test_one_sample_s_row_is_that_of_the_batch_for_any_number() -> None:
    for seed, epoch, identity in ((0, 0, 0), (-1, 5, 2**64 - 1), (2**70 + 3, -2, 12345)):
        expected = uniform(seed, epoch, np.array([identity], np.uint64), np.arange(SLOTS))
        assert uniform_row(seed, epoch, identity) == expected.ravel().tolist()
