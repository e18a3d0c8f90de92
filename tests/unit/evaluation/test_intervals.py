"""Intervals hold the truth as often as they say: each metric's, in simulation, with what would not."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.evaluation import METRICS, Predictions, interval, metric, scores, wilson
from headstart.types import Task

CLASSES = tuple("abc")
ROWS, TRIALS, DRAWS = 150, 120, 200
OF_CLASSES = [name for name in METRICS if name != "top_5"]
OF_TAGS = [name for name in OF_CLASSES if name not in {"balanced_accuracy", "cohen_kappa", "matthews"}]


@cache
def table(task: Task, count: int, seed: int, sharpness: float = 1.0) -> Predictions:
    """Labels that follow the probabilities of a model that is `sharpness` times as sure as it should be."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, 3)) * 1.5
    if task is Task.MULTI_LABEL:
        targets = (random.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
        return Predictions(logits * sharpness, CLASSES, task, targets=targets)
    noise = -np.log(-np.log(random.uniform(size=logits.shape)))
    return Predictions(logits * sharpness, CLASSES, targets=(logits + noise).argmax(axis=1))


def held(name: str, task: Task, *, level: float = 0.95, sharpness: float = 1.0) -> float:
    """The share of simulated tables whose interval holds the value of very many rows."""
    truth = metric(name)(table(task, 40_000, 10**6, sharpness))
    found = [
        interval(table(task, ROWS, seed, sharpness), name, level=level, resamples=DRAWS)
        for seed in range(TRIALS)
    ]
    return float(np.mean([each.low <= truth <= each.high for each in found]))


# Percentile bootstraps of 60 and 150 rows fall a little short of 95 %: the log loss's holds 91 to 95 %, of
# 600 rows 94 % (300 to 800 trials). Of 91 %, 120 trials fall below once in 100 times.
LEAST = 0.84


@pytest.mark.parametrize("name", OF_CLASSES)
def test_of_classes_every_interval_covers_at_about_the_stated_rate(name: str) -> None:
    assert held(name, Task.SINGLE_LABEL) >= LEAST


@pytest.mark.parametrize("name", OF_TAGS)
def test_of_tags_every_interval_covers_at_about_the_stated_rate(name: str) -> None:
    assert held(name, Task.MULTI_LABEL) >= LEAST


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "brier", "cohen_kappa", "average_precision"])
def test_an_interval_at_half_is_none_at_95_percent(name: str) -> None:
    # The control of the two above: an interval that is too narrow would be noticed.
    assert 0.35 <= held(name, Task.SINGLE_LABEL, level=0.5) <= 0.65


@pytest.mark.parametrize("task", list(Task)[:2])
@pytest.mark.parametrize("sharpness", [1.0, 1.3, 2.5])
def test_the_interval_of_the_calibration_error_holds_it_however_well_calibrated(
    task: Task, sharpness: float
) -> None:
    assert held("expected_calibration_error", task, sharpness=sharpness) >= 0.93


def test_percentiles_of_the_calibration_error_hold_hardly_ever_what_a_calibrated_model_has() -> None:
    truth = metric("expected_calibration_error")(table(Task.SINGLE_LABEL, 40_000, 10**6))
    inside = []
    for seed in range(40):
        gaps = scores.calibration_gaps(table(Task.SINGLE_LABEL, ROWS, seed))
        drawn = np.random.default_rng(seed).integers(ROWS, size=(DRAWS, ROWS))
        low, high = np.quantile(np.abs(gaps[drawn].mean(axis=1)).sum(axis=1), [0.025, 0.975])
        inside.append(low <= truth <= high)
    assert np.mean(inside) < 0.1


def test_ends_on_the_log_odds_hold_the_value_and_stay_inside() -> None:
    ends = scores.ends_on_the_log_odds
    low, high = ends(np.array([0.9]), np.array([[0.85], [0.9], [0.95], [math.nan]]), 0.95)
    assert 0.0 < low < 0.9 < high < 1.0
    assert 0.9 - low > high - 0.9, "there is less room above"
    assert ends(np.ones(1), np.ones((20, 1)), 0.95) == (1.0, 1.0)
    assert all(map(math.isnan, ends(np.array([0.9]), np.full((3, 1), math.nan), 0.95)))


def test_a_model_that_is_far_too_sure_is_not_called_calibrated() -> None:
    found = interval(table(Task.SINGLE_LABEL, 600, 0, 4.0), "expected_calibration_error")
    assert found.low > 0.1
    assert interval(table(Task.SINGLE_LABEL, 600, 0), "expected_calibration_error").low < 0.01


@given(st.integers(1, 60), st.integers(0, 20), st.sampled_from([0.5, 1.0, 3.0]))
def test_the_interval_of_the_calibration_error_holds_its_value_and_is_never_below_0(
    count: int, seed: int, sharpness: float
) -> None:
    found = interval(
        table(Task.SINGLE_LABEL, count, seed, sharpness), "expected_calibration_error", resamples=60
    )
    assert 0.0 <= found.low <= found.value <= found.high


@pytest.mark.parametrize(("share", "count"), [(0.5, 20), (0.9, 80), (0.97, 150), (0.99, 60), (0.02, 300)])
def test_wilsons_interval_covers_near_the_stated_rate_also_where_walds_does_not(
    share: float, count: int
) -> None:
    # Exactly, over all that may be counted; no simulation.
    chances = [
        math.comb(count, hits) * share**hits * (1 - share) ** (count - hits) for hits in range(count + 1)
    ]
    assert sum(chances) == pytest.approx(1.0)
    ends = [wilson(hits, count) for hits in range(count + 1)]
    covered = sum(chance for chance, (low, high) in zip(chances, ends, strict=True) if low <= share <= high)
    assert 0.92 <= covered <= 0.99
    if (1 - share) * count < 1:
        reach = [1.96 * math.sqrt(hits / count * (1 - hits / count) / count) for hits in range(count + 1)]
        wald = sum(
            chance
            for hits, (chance, far) in enumerate(zip(chances, reach, strict=True))
            if abs(hits / count - share) <= far
        )
        assert wald < 0.9, "the control: the interval that textbooks give first"
