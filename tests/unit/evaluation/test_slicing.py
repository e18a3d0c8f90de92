"""Slices: the ones that fare worse are found, and hardly any other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from headstart.errors import UsageError
from headstart.evaluation import (
    Interpretation,
    Predictions,
    TagInterpretation,
    false_discovery_rates,
    slices_of,
)
from headstart.types import Task

CLASSES = ("ant", "bee")


def table(right: np.ndarray, *, sure: np.ndarray | float = 2.0) -> Predictions:
    """Predictions of which the given ones are right, each as sure as said."""
    truth = np.arange(len(right)) % 2
    guess = np.where(right, truth, 1 - truth)
    return Predictions(np.eye(2)[guess] * np.reshape(sure, (-1, 1)), CLASSES, targets=truth)


def test_a_slice_in_which_the_model_is_often_wrong_is_found_and_comes_first() -> None:
    random = np.random.default_rng(0)
    camera = random.choice(["a", "b", "c", "d"], 400)
    right = random.uniform(size=400) < np.where(camera == "c", 0.7, 0.95)
    found = slices_of(table(right), {"camera": camera})
    assert [each.value for each in found if each.worse] == ["c"]
    worst = found[0]
    assert worst.count == int((camera == "c").sum())
    assert worst.accuracy.value == pytest.approx(right[camera == "c"].mean())
    assert worst.rest_accuracy == pytest.approx(right[camera != "c"].mean())
    assert worst.accuracy.low < worst.accuracy.value < worst.accuracy.high < worst.rest_accuracy
    assert worst.log_loss.low < worst.log_loss.value < worst.log_loss.high


def test_a_slice_in_which_the_model_is_right_but_less_sure_is_found_by_its_loss() -> None:
    random = np.random.default_rng(1)
    site = np.repeat(["north", "south"], 150)
    sure = random.uniform(2, 4, 300) - np.where(site == "south", 1.0, 0.0)
    found = slices_of(table(np.ones(300, bool), sure=sure), {"site": site})
    assert [(each.value, each.worse) for each in found] == [("south", True), ("north", False)]
    assert found[0].accuracy.value == found[0].rest_accuracy == 1.0


@pytest.mark.parametrize("kinds", [2, 12])
def test_where_no_slice_is_worse_few_tables_have_a_finding(kinds: int) -> None:
    random = np.random.default_rng(2)
    tables = 300
    findings = 0
    for _ in range(tables):
        right = random.uniform(size=240) < 0.85
        column = random.integers(kinds, size=240)
        sliced = chances_alone(table(right, sure=random.uniform(0.5, 3, 240)), column)
        findings += bool((false_discovery_rates(sliced) <= 0.05).any())
    # 300 tables at exactly 5 % would have more than 25 in one of a hundred cases.
    assert findings <= 25
    assert findings > 0 or kinds == 2, "a test that never finds anything would pass as well"


def chances_alone(predictions: Predictions, column: np.ndarray) -> np.ndarray:
    """The p-values of the slices, without their intervals, which take the time."""
    from headstart.evaluation import slicing

    wrong, ranks = slicing._wrong(predictions), slicing._ranks(predictions)
    return np.array([slicing._chance(wrong, ranks, column == value) for value in np.unique(column)])


def test_the_p_value_is_that_of_fisher_and_of_mann_and_whitney() -> None:
    random = np.random.default_rng(3)
    right = random.uniform(size=120) < 0.8
    predictions = table(right, sure=random.uniform(0.5, 3, 120).round(1))  # ties, too
    members = np.arange(120) < 37
    (chance, _) = chances_alone(predictions, ~members)
    cells = [[int((~right & each).sum()), int((right & each).sum())] for each in (members, ~members)]
    fisher = stats.fisher_exact(cells, alternative="greater").pvalue
    losses = predictions.loss
    ranked = stats.mannwhitneyu(losses[members], losses[~members], alternative="greater").pvalue
    assert chance == pytest.approx(min(1.0, 2 * min(fisher, ranked)), rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=20))
def test_false_discovery_rates_are_those_of_scipy(chances: list[float]) -> None:
    values = np.array(chances, np.float64)
    rates = false_discovery_rates(values)
    made = ~np.isnan(values)
    assert np.array_equal(np.isnan(rates), ~made)
    if made.any():
        np.testing.assert_allclose(rates[made], stats.false_discovery_control(values[made]), rtol=1e-12)


def test_numbers_of_many_values_are_put_into_four_bins_and_few_stay_as_they_are() -> None:
    right = np.ones(100, bool)
    found = slices_of(table(right), {"width": np.arange(100), "floor": np.arange(100) % 3})
    widths = [each for each in found if each.column == "width"]
    assert sorted(each.value for each in widths) == [
        "0 to 24.75",
        "24.75 to 49.5",
        "49.5 to 74.25",
        "74.25 to 99",
    ]
    assert sum(each.count for each in widths) == 100
    assert sorted(each.value for each in found if each.column == "floor") == ["0", "1", "2"]


def test_small_slices_are_put_together_and_neither_they_nor_a_constant_are_tested() -> None:
    names = ["big"] * 30 + [f"small {number}" for number in range(9)] + [""] * 11
    found = slices_of(table(np.ones(50, bool)), {"name": names, "one": ["x"] * 50}, min_count=10)
    counts = {(each.column, each.value): each.count for each in found}
    assert counts == {("name", "big"): 30, ("name", "(others)"): 9, ("name", "(empty)"): 11, ("one", "x"): 50}
    assert {each.value for each in found if np.isnan(each.p_value)} == {"(others)", "x"}
    assert not any(each.worse for each in found)


def test_rows_without_a_truth_or_a_prediction_are_in_no_slice() -> None:
    known = Predictions(
        np.eye(2)[[0] * 24],
        CLASSES,
        targets=[0] * 20 + [-1] * 4,
        status=["CORRUPT"] + [""] * 23,
    )
    (only,) = slices_of(known, {"camera": ["a"] * 24})
    assert only.count == 19
    with pytest.raises(UsageError, match="one cell for each of 24 rows"):
        slices_of(known, {"camera": ["a"]})


def test_an_interpretation_slices_by_the_columns_of_its_samples() -> None:
    right = np.r_[np.zeros(15, bool), np.ones(25, bool)]
    predictions = table(right).take(np.arange(40)[::-1])  # rows in another order than the samples'
    camera = np.array(["old"] * 15 + ["new"] * 25, object)
    told = Interpretation(predictions, columns={"camera": camera, "hour": np.arange(40)})
    assert [(each.value, each.worse) for each in told.slices("camera")] == [("old", True), ("new", False)]
    assert {each.column for each in told.slices()} == {"camera", "hour"}
    frame = told.slices("camera").to_frame()
    assert frame.loc[0, ["value", "accuracy", "accuracy_low", "worse"]].tolist() == ["old", 0.0, 0.0, True]
    with pytest.raises(UsageError, match=r"no column 'site'.*camera, hour"):
        told.slices("site")


def test_tags_are_sliced_too() -> None:
    truth = np.tile([[1, 0], [0, 1]], (20, 1))
    logits = np.where(truth == 1, 2.0, -2.0)
    logits[:15] = -logits[:15]
    tags = Predictions(logits, CLASSES, Task.MULTI_LABEL, targets=truth)
    told = TagInterpretation(tags, columns={"site": ["dark"] * 15 + ["light"] * 25})
    assert [(each.value, each.worse) for each in told.slices("site")] == [("dark", True), ("light", False)]
