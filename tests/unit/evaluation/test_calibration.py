"""Temperatures: found where they help, left alone where they do not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headstart.evaluation import Predictions, calibrate, cross_fitted, fit_temperature, metric, reliability
from headstart.types import Task

CLASSES = tuple("abcd")


def drawn_from(logits: NDArray[np.float64], *, sharpness: float, seed: int = 0) -> Predictions:
    """Labels that follow the softmax of `logits`, and a model that is `sharpness` times too sure."""
    random = np.random.default_rng(seed)
    noise = -np.log(-np.log(random.uniform(size=logits.shape)))
    targets = (logits + noise).argmax(axis=1)
    return Predictions(logits * sharpness, CLASSES, targets=targets)


def calibrated_logits(count: int, seed: int = 1) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(count, 4)) * 2


@pytest.mark.parametrize("sharpness", [0.6, 2.5])
def test_the_temperature_that_was_put_in_is_found(sharpness: float) -> None:
    predictions = drawn_from(calibrated_logits(4000), sharpness=sharpness)
    assert fit_temperature(predictions) == pytest.approx(sharpness, rel=0.08)


def test_the_temperature_is_the_best_on_a_fine_grid() -> None:
    predictions = drawn_from(calibrated_logits(300), sharpness=2.0)
    found = fit_temperature(predictions)
    losses = {t: metric("log_loss")(predictions.with_temperature(t)) for t in np.geomspace(0.5, 6, 200)}
    best = min(losses.values())
    assert metric("log_loss")(predictions.with_temperature(found)) <= best + 1e-6


def test_what_is_calibrated_already_is_hardly_touched() -> None:
    predictions = drawn_from(calibrated_logits(4000), sharpness=1.0)
    assert fit_temperature(predictions) == pytest.approx(1.0, abs=0.06)


def test_the_temperature_stays_1_where_the_other_half_says_otherwise() -> None:
    # Two rows: each half is one row, right and sure; the other half is wrong and sure.
    logits = np.array([[3.0, 0, 0, 0], [3.0, 0, 0, 0], [3.0, 0, 0, 0], [3.0, 0, 0, 0]])
    found = [
        fit_temperature(Predictions(logits, CLASSES, targets=np.array(targets)))
        for targets in ([0, 0, 0, 1], [0, 0, 1, 1])
    ]
    for predictions, temperature in zip(([0, 0, 0, 1], [0, 0, 1, 1]), found, strict=True):
        table = Predictions(logits, CLASSES, targets=np.array(predictions))
        helps = metric("log_loss")(cross_fitted(table)) < metric("log_loss")(table)
        assert (temperature != 1.0) == helps


@given(st.integers(0, 30), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_the_cross_fitted_log_loss_never_rises_by_calibration(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    table = Predictions(
        random.normal(size=(count, 4)) * 3, CLASSES, targets=random.integers(0, 4, size=count)
    )
    result = calibrate(table)
    if count:
        assert result.log_loss_after <= result.log_loss_before
    assert 0.5 <= result.temperature <= 20.0


def test_calibration_lowers_the_calibration_error_of_a_model_that_is_too_sure() -> None:
    result = calibrate(drawn_from(calibrated_logits(2000), sharpness=3.0))
    assert result.ece_after < 0.05 < result.ece_before
    assert json.dumps(result.to_dict())


def test_each_half_is_scaled_by_the_other_whatever_the_order_of_the_rows() -> None:
    predictions = drawn_from(calibrated_logits(60), sharpness=2.0)
    order = np.random.default_rng(0).permutation(60)
    turned = cross_fitted(predictions.take(order))
    assert turned.logits == pytest.approx(cross_fitted(predictions).logits[order], rel=1e-6)


def test_rows_without_a_truth_take_no_part() -> None:
    whole = drawn_from(calibrated_logits(200), sharpness=2.0)
    targets = np.asarray(whole.targets).copy()
    targets[150:] = -1
    partly = Predictions(whole.logits, CLASSES, targets=targets)
    assert fit_temperature(partly) == fit_temperature(whole.take(np.arange(150)))
    assert np.array_equal(cross_fitted(partly).logits[150:], whole.logits[150:])


def test_logits_that_are_not_finite_leave_the_temperature_alone() -> None:
    broken = Predictions(np.full((10, 4), np.nan), CLASSES, targets=np.zeros(10, np.int64))
    assert fit_temperature(broken) == 1.0
    assert json.dumps(calibrate(broken).to_dict(), allow_nan=False)


def test_tags_have_a_temperature_too() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(3000, 4)) * 1.5
    targets = (random.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    tags = Predictions(logits * 2, CLASSES, task=Task.MULTI_LABEL, targets=targets)
    assert fit_temperature(tags) == pytest.approx(2.0, rel=0.08)


def test_the_reliability_bins_hold_every_row_once() -> None:
    predictions = drawn_from(calibrated_logits(500), sharpness=1.0)
    bins = reliability(predictions)
    assert sum(each.count for each in bins) == 500
    hits = sum(each.count * each.accuracy for each in bins)
    assert hits / 500 == pytest.approx(metric("accuracy")(predictions))
    assert all(each.low <= each.accuracy <= each.high for each in bins)
    assert reliability(predictions.take([])) == []
