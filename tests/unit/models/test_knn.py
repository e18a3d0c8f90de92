from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import UsageError
from headstart.models import knn_logits
from headstart.models.knn import neighbours_of


def naive(known, targets, classes, asked, count, temperature):
    """By the definition, one row and one neighbour at a time."""
    centre = known.mean(0)
    rows = []
    for row in asked - centre:
        likeness = []
        for other in known - centre:
            likeness.append(row @ other / (np.linalg.norm(row) * np.linalg.norm(other)))
        order = np.argsort(likeness)[::-1][:count]
        votes = np.zeros(classes)
        for place in order:
            votes[targets[place]] += np.exp(likeness[place] / temperature)
        rows.append((count * votes / votes.sum() + 1 / classes) / (count + 1))
    return np.log(rows)


@settings(deadline=None, max_examples=25)
@given(known=st.integers(3, 30), asked=st.integers(1, 8), count=st.integers(1, 12), seed=st.integers(0, 99))
def test_votes_are_those_of_the_definition(known: int, asked: int, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    bank, rows = random.normal(size=(known, 5)), random.normal(size=(asked, 5))
    targets = random.integers(0, 3, known)
    ours = knn_logits(bank, targets, 3, rows, neighbours=count, temperature=0.2)
    theirs = naive(bank, targets, 3, rows, min(count, known), 0.2)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.exp(ours).sum(1), 1, rtol=1e-4)


def test_tags_vote_each_for_itself() -> None:
    random = np.random.default_rng(0)
    bank = random.normal(size=(60, 4))
    tags = np.column_stack([bank[:, 0] > 0, bank[:, 1] > 0.5]).astype(np.uint8)
    logits = knn_logits(bank, tags, 2, bank)
    assert ((logits > 0) == tags).mean() > 0.8
    single = knn_logits(bank, tags[:, 0], 2, bank, neighbours=7)
    both = knn_logits(bank, tags, 2, bank, neighbours=7)
    chance = 1 / (1 + np.exp(-both[:, 0]))
    np.testing.assert_allclose(chance, np.exp(single[:, 1]), atol=1e-5)


def test_so_many_vote_as_a_class_has() -> None:
    assert neighbours_of(np.arange(100) % 2) == 20
    assert neighbours_of(np.arange(30) % 10) == 3
    assert neighbours_of(np.arange(5)) == 1
    assert neighbours_of(np.zeros((7, 2))) == 3


def test_what_does_not_match_is_refused() -> None:
    with pytest.raises(UsageError, match="do not match"):
        knn_logits(np.ones((3, 2)), np.zeros(2, int), 2, np.ones((1, 2)))
    with pytest.raises(UsageError, match="of 2 and of 3 numbers"):
        knn_logits(np.ones((3, 2)), np.zeros(3, int), 2, np.ones((1, 3)))
    with pytest.raises(UsageError, match="not finite"):
        knn_logits(np.full((3, 2), np.nan), np.zeros(3, int), 2, np.ones((1, 2)))
    assert np.isfinite(knn_logits(np.ones((3, 2)), np.zeros(3, int), 2, np.ones((1, 2)))).all()
