"""Scaling by class: found where it was put in, left out where one temperature does as well."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from headstart.evaluation import (
    Predictions,
    average,
    calibrate,
    concatenate,
    cross_scaled,
    fit_scaling,
    fit_temperature,
    metric,
    scale_classes,
)
from headstart.types import Task

CLASSES = tuple("abcd")
FACTORS, OFFSETS = np.array([0.5, 1.0, 1.0, 2.0]), np.array([1.5, -0.5, 0.0, -1.0])


def drawn(count: int, *, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits and labels that follow their softmax."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, 4)) * 2
    noise = -np.log(-np.log(random.uniform(size=logits.shape)))
    return logits, (logits + noise).argmax(axis=1)


def biased(count: int, *, seed: int = 0) -> Predictions:
    """A model that is too sure of one class and too shy of another."""
    logits, targets = drawn(count, seed=seed)
    return Predictions((logits - OFFSETS) / FACTORS, CLASSES, targets=targets)


def test_factors_and_offsets_that_were_put_in_are_found() -> None:
    factors, offsets = fit_scaling(biased(20_000))
    assert factors == pytest.approx(FACTORS, rel=0.06)
    assert offsets - offsets[0] == pytest.approx(OFFSETS - OFFSETS[0], abs=0.12)


def test_a_scaling_that_helps_is_kept_and_lowers_the_cross_fitted_log_loss() -> None:
    found = scale_classes(biased(800))
    assert found.scaling is not None
    assert found.gain.verdict == "better"
    assert found.log_loss_after < found.log_loss_before
    assert json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("count", [12, 100, 800])
def test_a_scaling_of_what_one_temperature_suits_is_left_out(count: int) -> None:
    logits, targets = drawn(count, seed=count)
    table = Predictions(logits * 2.0, CLASSES, targets=targets)
    found = scale_classes(table.with_temperature(fit_temperature(table)))
    assert found.scaling is None
    assert found.log_loss_after == found.log_loss_before


def test_a_few_rows_move_the_scaling_little_and_none_not_at_all() -> None:
    factors, offsets = fit_scaling(biased(8))
    assert np.abs(np.log(factors)).max() < 1.0
    nothing = fit_scaling(biased(8).take([]))
    assert nothing.tolist() == [[1.0] * 4, [0.0] * 4]
    assert abs(offsets.sum()) < 1e-9


def test_the_scaling_is_where_the_penalised_loss_is_least() -> None:
    from headstart.evaluation import scaling

    table = biased(150)
    truth = np.eye(4)[np.asarray(table.targets)]
    factors, offsets = fit_scaling(table)
    best = np.concatenate([np.log(factors), offsets])
    loss, gradient = scaling._penalised(best, table.scaled_logits, truth, False)
    assert np.abs(gradient).max() < 0.02
    for step in np.random.default_rng(0).normal(size=(20, 8)) * 0.05:
        assert scaling._penalised(best + step, table.scaled_logits, truth, False)[0] > loss
    numeric = [
        (
            scaling._penalised(step + 1e-5 * unit, table.scaled_logits, truth, False)[0]
            - scaling._penalised(step - 1e-5 * unit, table.scaled_logits, truth, False)[0]
        )
        / 2e-5
        for unit in np.eye(8)
    ]
    assert scaling._penalised(step, table.scaled_logits, truth, False)[1] == pytest.approx(numeric, rel=1e-4)


def test_tags_are_scaled_each_by_itself() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(8000, 2)) * 2
    targets = (random.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    shown = Predictions((logits - [1.0, -1.0]) / [2.0, 0.5], ("x", "y"), Task.MULTI_LABEL, targets=targets)
    factors, offsets = fit_scaling(shown)
    assert factors == pytest.approx([2.0, 0.5], rel=0.08)
    assert offsets == pytest.approx([1.0, -1.0], abs=0.1)


def test_each_half_is_scaled_by_the_other_whatever_the_order_of_the_rows() -> None:
    table = biased(80)
    order = np.random.default_rng(1).permutation(80)
    turned = cross_scaled(table.take(order))
    assert turned.logits == pytest.approx(cross_scaled(table).logits[order], rel=1e-5, abs=1e-5)


def test_a_scaled_table_equals_one_whose_logits_were_scaled() -> None:
    table = biased(60)
    scaled = table.with_temperature(2.0).with_scaling([FACTORS, OFFSETS])
    baked = Predictions(table.logits / 2.0 * FACTORS + OFFSETS, CLASSES, targets=table.targets)
    for name in ("accuracy", "log_loss", "brier", "macro_f1", "roc_auc"):
        assert metric(name)(scaled) == pytest.approx(metric(name)(baked), abs=1e-6)
    assert scaled.predicted.tolist() == baked.predicted.tolist()
    assert scaled.predicted.tolist() != table.predicted.tolist()
    assert average([scaled, scaled]).probabilities == pytest.approx(baked.probabilities, abs=1e-6)
    both = concatenate([scaled.take([0, 1]), scaled.take([2])])
    assert both.probabilities == pytest.approx(baked.probabilities[:3], abs=1e-6)


def test_calibration_does_not_see_a_scaling_that_the_table_carries() -> None:
    table = biased(200)
    assert calibrate(table.with_scaling([FACTORS, OFFSETS])) == calibrate(table)
