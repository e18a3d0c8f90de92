"""Thresholds: near the best there is, steady on few rows, and never judged by rows that chose them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headstart.errors import UsageError
from headstart.evaluation import Predictions, cross_decided, decided_by, every_tag, fit_thresholds, metric
from headstart.types import Task

SHARES = np.array([0.05, 0.2, 0.5, 0.8])


def tagged(count: int, *, seed: int = 0, shift: float = 0.0) -> Predictions:
    """Calibrated logits of four tags from rare to common; `shift` makes all of them too sure."""
    random = np.random.default_rng(seed)
    logits = 2 * random.normal(size=(count, 4)) + 2 * np.log(SHARES / (1 - SHARES))
    targets = random.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))
    return Predictions(logits + shift, tuple("abcd"), Task.MULTI_LABEL, targets=targets)


@pytest.mark.parametrize("name", ["f2", "macro_f1", "micro_f1"])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_thresholds_of_few_rows_are_near_the_best_for_many_others(name: str, shift: float) -> None:
    others = tagged(4000, seed=99, shift=shift)
    score = metric(name)
    best = score(others.with_thresholds(fit_thresholds(others, name)))
    found = [
        score(others.with_thresholds(fit_thresholds(tagged(150, seed=seed, shift=shift), name)))
        for seed in range(4)
    ]
    # 150 rows hold some eight of the rarest tag: of a crooked one they cannot tell more than this.
    assert np.mean(found) > best - (0.03 if shift else 0.02)
    even = score(others)
    if best > even + 0.04:
        assert np.mean(found) > even + 0.01


def test_a_threshold_that_pays_for_one_tag_is_its_own() -> None:
    table = tagged(2000)
    crooked = Predictions(
        table.logits + np.array([0, 3.0, 0, -3.0]), table.classes, table.task, targets=table.targets
    )
    thresholds = fit_thresholds(crooked, "macro_f1")
    assert thresholds[1] > thresholds[3] + 0.3


def test_the_score_is_the_metric_itself() -> None:
    # Another way to the same: the best single threshold, by asking the metric a hundred times.
    table = tagged(8000)
    grid = np.arange(1, 100) / 100
    asked = [metric("f2")(table.with_thresholds(np.full(4, each))) for each in grid]
    assert metric("f2")(table.with_thresholds(fit_thresholds(table))) >= max(asked) - 1e-12


def test_no_row_is_decided_by_a_threshold_that_it_helped_to_choose() -> None:
    table = tagged(60)
    before = cross_decided(table, "f2").thresholds
    assert before is not None
    targets = np.asarray(table.targets).copy()
    # Another truth of the same kind of row, so that the halves stay: swap two rows' tags and logits.
    kinds = [tuple(row) for row in targets.tolist()]
    for row in range(60):
        changed = table.logits.copy()
        changed[row] = 5 * (1 - 2 * targets[row].astype(np.float32))
        after = cross_decided(Predictions(changed, table.classes, table.task, targets=targets)).thresholds
        assert after is not None
        np.testing.assert_array_equal(after[row], before[row], err_msg=str(kinds[row]))


def test_the_cross_decided_score_is_what_new_rows_give() -> None:
    others = tagged(4000, seed=99)
    said, true, flattered = [], [], []
    for seed in range(12):
        table = tagged(80, seed=seed)
        thresholds = fit_thresholds(table, "macro_f1")
        said.append(metric("macro_f1")(cross_decided(table, "macro_f1")))
        flattered.append(metric("macro_f1")(table.with_thresholds(thresholds)))
        true.append(metric("macro_f1")(others.with_thresholds(thresholds)))
    assert np.mean(said) <= np.mean(flattered)
    # Twelve tables of 80 rows: the standard error of their mean is about 0.015.
    assert np.mean(said) == pytest.approx(np.mean(true), abs=0.045)


def test_the_order_of_the_rows_changes_nothing() -> None:
    table = tagged(90)
    mixed = table.take(np.random.default_rng(3).permutation(90))
    np.testing.assert_array_equal(fit_thresholds(table), fit_thresholds(mixed))
    decided = cross_decided(mixed)
    np.testing.assert_array_equal(
        decided.take(np.argsort(decided.rows)).predicted, cross_decided(table).predicted
    )


def test_accuracy_is_decided_evenly_and_what_no_threshold_changes_by_f2() -> None:
    table = tagged(100, shift=1.0)
    assert fit_thresholds(table, "accuracy").tolist() == [0.5] * 4
    np.testing.assert_array_equal(fit_thresholds(table, "average_precision"), fit_thresholds(table, "f2"))
    assert decided_by("macro_recall") == "f2", "by itself it would say every tag"
    with pytest.raises(UsageError, match="no metric"):
        decided_by("f7")


def test_every_tag_always_scores_what_it_should() -> None:
    table = Predictions(np.zeros((3, 2)), ("a", "b"), Task.MULTI_LABEL, targets=[[1, 1], [1, 0], [0, 0]])
    assert metric("f2")(every_tag(table)) == pytest.approx((1 + 5 / 6 + 0) / 3)


def test_classes_are_returned_as_they_are() -> None:
    table = Predictions(np.eye(3), ("a", "b", "c"), targets=[0, 1, 2])
    assert cross_decided(table) is table


@settings(max_examples=25, deadline=None)
@given(count=st.integers(0, 9), share=st.floats(0, 1), seed=st.integers(0, 50))
def test_any_table_gives_thresholds_that_a_model_can_hold(count: int, share: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits: NDArray[np.float64] = 9 * random.normal(size=(count, 3))
    logits[random.uniform(size=logits.shape) < 0.05] = np.nan
    table = Predictions(
        logits, ("a", "b", "c"), Task.MULTI_LABEL, targets=random.uniform(size=(count, 3)) < share
    )
    thresholds = fit_thresholds(table)
    assert thresholds.shape == (3,)
    assert ((thresholds > 0) & (thresholds < 1)).all()
    assert cross_decided(table).predicted.shape == (count, 3)
