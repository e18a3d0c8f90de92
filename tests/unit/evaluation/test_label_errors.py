"""Wrong labels: the confident joint by hand, and that planted errors come first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import UsageError
from headstart.evaluation import Predictions, label_doubts
from headstart.evaluation.label_errors import (
    class_thresholds,
    confident_classes,
    confident_joint,
    estimated_joint,
)
from headstart.types import Task

RANKINGS = ("normalised_margin", "adjusted_margin", "self_confidence")


def drawn(seed: int, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.dirichlet(np.ones(classes), rows), random.integers(0, classes, rows)


def naive_joint(chances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The confident joint by two loops, as the paper writes it."""
    count = chances.shape[1]
    limits = []
    for j in range(count):
        own = [chances[row, j] for row in range(len(labels)) if labels[row] == j]
        limits.append(sum(own) / len(own) if own else float("inf"))
    joint = np.zeros((count, count), np.int64)
    for row, label in enumerate(labels):
        reached = [j for j in range(count) if chances[row, j] >= limits[j] - 1e-12]
        if reached:
            joint[label, max(reached, key=lambda j: chances[row, j])] += 1
    return joint


@given(seed=st.integers(0, 10**6), rows=st.integers(0, 40), classes=st.integers(2, 5))
def test_the_confident_joint_is_that_of_the_paper(seed: int, rows: int, classes: int) -> None:
    chances, labels = drawn(seed, rows, classes)
    assert np.array_equal(confident_joint(chances, labels), naive_joint(chances, labels))


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 40), classes=st.integers(2, 5))
def test_the_estimated_joint_has_the_shares_of_the_labels(seed: int, rows: int, classes: int) -> None:
    chances, labels = drawn(seed, rows, classes)
    joint = estimated_joint(confident_joint(chances, labels), labels)
    np.testing.assert_allclose(joint.sum(1), np.bincount(labels, minlength=classes) / rows)
    assert joint.min() >= 0


def test_a_class_that_no_row_has_is_never_confidently_found() -> None:
    chances = np.array([[0.2, 0.1, 0.7], [0.1, 0.2, 0.7]])
    assert np.isinf(class_thresholds(chances, [0, 1])[2])
    assert 2 not in confident_classes(chances, [0, 1])


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 30), ranking=st.sampled_from(RANKINGS))
def test_the_order_of_the_rows_makes_no_difference(seed: int, rows: int, ranking: str) -> None:
    chances, labels = drawn(seed, rows, 3)
    mixed = np.random.default_rng(seed + 1).permutation(rows)
    first, second = (
        label_doubts(
            Predictions(np.log(chances[order]), ("a", "b", "c"), targets=labels[order]),
            ranking=ranking,  # type: ignore[arg-type]
        )
        for order in (np.arange(rows), mixed)
    )
    np.testing.assert_allclose(first.doubt[mixed], second.doubt)
    assert np.array_equal(first.is_error[mixed], second.is_error)
    assert np.array_equal(first.suggested[mixed], second.suggested)


def table(labels: np.ndarray, truth: np.ndarray, *, seed: int = 0) -> Predictions:
    """Out-of-fold predictions of a model that is mostly right about the truth, whatever the labels say."""
    logits = np.random.default_rng(seed).normal(0, 1, (len(truth), 4))
    logits[np.arange(len(truth)), truth] += 4
    return Predictions(logits, ("a", "b", "c", "d"), targets=labels)


@pytest.mark.parametrize("ranking", RANKINGS)
def test_planted_errors_come_first_and_are_named(ranking: str) -> None:
    random = np.random.default_rng(1)
    truth = random.integers(0, 4, 400)
    planted = random.choice(400, 20, replace=False)
    labels = truth.copy()
    labels[planted] = (truth[planted] + random.integers(1, 4, 20)) % 4
    doubts = label_doubts(table(labels, truth), ranking=ranking)  # type: ignore[arg-type]
    assert len(np.intersect1d(doubts.order[:40], planted)) >= 18
    found = planted[doubts.is_error[planted]]
    assert len(found) >= 16
    assert np.mean(doubts.suggested[found] == truth[found]) > 0.9
    assert 12 <= doubts.expected <= 40
    # Where nothing is planted, the same rows are nothing special.
    right = label_doubts(table(truth, truth), ranking=ranking)  # type: ignore[arg-type]
    assert len(np.intersect1d(right.order[:40], planted)) <= 8
    assert right.expected < 12


def test_each_tag_is_a_question_of_its_own() -> None:
    random = np.random.default_rng(2)
    truth = random.integers(0, 2, (300, 3)).astype(np.uint8)
    logits = np.where(truth == 1, 2.5, -2.5) + random.normal(0, 1, truth.shape)
    labels = truth.copy()
    labels[:10, 1] ^= 1
    doubts = label_doubts(Predictions(logits, ("x", "y", "z"), Task.MULTI_LABEL, targets=labels))
    assert doubts.doubt.shape == doubts.suggested.shape == (300, 3)
    assert len(np.intersect1d(doubts.order[:12], np.arange(10))) >= 8
    wrong = np.flatnonzero(doubts.is_error[:10, 1])
    assert len(wrong) >= 8
    assert np.array_equal(doubts.suggested[wrong, 1], truth[wrong, 1])


def test_what_has_no_label_or_no_prediction_cannot_be_doubted() -> None:
    logits = [[1.0, 0.0], [0.0, 1.0]]
    for unknown in (
        Predictions(logits, ("a", "b")),
        Predictions(logits, ("a", "b"), targets=[0, -1]),
        Predictions(logits, ("a", "b"), targets=[0, 1], status=["", "VANISHED"]),
    ):
        with pytest.raises(UsageError, match="cannot be doubted"):
            label_doubts(unknown)
    with pytest.raises(UsageError, match="no ranking"):
        label_doubts(Predictions(logits, ("a", "b"), targets=[0, 1]), ranking="loss")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="do not match"):
        class_thresholds([[0.5, 0.5]], [0, 1])
    with pytest.raises(UsageError, match="class numbers"):
        class_thresholds([[0.5, 0.5]], [2])
