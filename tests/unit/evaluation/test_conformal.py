"""Sets of classes hold the truth as often as they promise, and are no larger than they must be."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import UsageError
from headstart.evaluation import (
    SET_METHODS,
    Predictions,
    SetRule,
    cross_fitted_sets,
    fit_sets,
    judge_sets,
    sets_of,
)
from headstart.types import Task

CLASSES = tuple("abcde")


def drawn(count: int, *, seed: int, sharpness: float = 1.0) -> Predictions:
    """Labels that follow the softmax; a model that is `sharpness` times as sure as it should be."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, 5)) * 1.5
    noise = -np.log(-np.log(random.uniform(size=logits.shape)))
    return Predictions(logits * sharpness, CLASSES, targets=(logits + noise).argmax(axis=1))


def coverages(level: float, method: str, *, sharpness: float, count: int = 99, trials: int = 150) -> float:
    """The mean share of new pictures whose truth is in the set, over many calibrations."""
    shares = []
    for seed in range(trials):
        known, new = (
            drawn(count, seed=seed, sharpness=sharpness),
            drawn(200, seed=10_000 + seed, sharpness=sharpness),
        )
        rule = fit_sets(known, level=level, method=method)
        shares.append(judge_sets(new, sets_of(new, rule), level).coverage.value)
    return float(np.mean(shares))


@pytest.mark.parametrize("sharpness", [0.5, 4.0])
def test_the_truth_is_in_the_smallest_sets_at_the_stated_rate_however_wrong_the_probabilities(
    sharpness: float,
) -> None:
    # 99 rows at 90 %: on average exactly 90 % to 91 % of new pictures (Vovk et al. 2005).
    assert coverages(0.9, "least", sharpness=sharpness) == pytest.approx(0.9, abs=0.015)


def test_trusting_the_probabilities_instead_does_not_cover_as_promised() -> None:
    # The control: classes until they hold 90 % of the probability, of a model four times too sure.
    new = drawn(4000, seed=5, sharpness=4.0)
    trusting = sets_of(new, SetRule("adaptive", 0.9, 0.9))
    assert judge_sets(new, trusting, 0.9).coverage.value < 0.8


def test_adaptive_sets_cover_at_least_at_the_stated_rate() -> None:
    covered = coverages(0.8, "adaptive", sharpness=2.0, trials=80)
    assert 0.79 <= covered <= 0.93


def test_adaptive_sets_are_larger_and_cover_hard_pictures_more_evenly() -> None:
    table, known = drawn(4000, seed=3, sharpness=1.0), drawn(2000, seed=4, sharpness=1.0)
    hard = table.confidence < np.median(table.confidence)
    gaps, sizes = {}, {}
    for method in SET_METHODS:
        inside = sets_of(table, fit_sets(known, level=0.9, method=method))
        held = inside[np.arange(len(table)), np.asarray(table.targets)]
        gaps[method] = abs(held[hard].mean() - held[~hard].mean())
        sizes[method] = inside.sum(1).mean()
    assert sizes["least"] < sizes["adaptive"]
    assert gaps["adaptive"] < gaps["least"]


@given(st.integers(1, 40), st.floats(0.5, 0.95), st.sampled_from(sorted(SET_METHODS)), st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_the_rows_that_the_limit_was_fitted_to_are_covered_and_the_likeliest_class_is_always_in(
    count: int, level: float, method: str, seed: int
) -> None:
    table = drawn(count, seed=seed)
    rule = fit_sets(table, level=level, method=method)
    inside = sets_of(table, rule)
    assert judge_sets(table, inside, level).coverage.value >= level - 1e-9 or rule.limit == 1.0
    assert inside[np.arange(count), table.predicted].all()
    wider = sets_of(table, fit_sets(table, level=min(0.99, level + 0.04), method=method))
    assert (inside <= wider).all()


def test_too_few_rows_let_every_class_in() -> None:
    few = drawn(8, seed=0)
    for method in SET_METHODS:
        assert fit_sets(few, level=0.9, method=method).limit == 1.0
        assert sets_of(few, fit_sets(few, level=0.9, method=method)).all()
    assert fit_sets(drawn(9, seed=0), level=0.9).limit < 1.0


def test_cross_fitted_sets_report_what_rows_get_that_did_not_choose_the_limit() -> None:
    found = cross_fitted_sets(drawn(600, seed=1, sharpness=3.0), level=0.9)
    assert found.coverage.low <= 0.9 <= found.coverage.high
    assert 1.0 <= found.mean_size <= 5.0
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_rows_without_a_prediction_have_empty_sets() -> None:
    table = drawn(20, seed=0)
    rule = fit_sets(table)
    broken = replace(table, status=np.array(["TRUNCATED"] + [""] * 19))
    inside = sets_of(broken, rule)
    assert not inside[0].any()
    assert inside[1:].any(axis=1).all()


def test_sets_have_no_meaning_for_tags_and_need_labels_and_a_level() -> None:
    tags = Predictions(np.zeros((3, 2)), ("x", "y"), Task.MULTI_LABEL, targets=np.zeros((3, 2)))
    with pytest.raises(UsageError, match="one class per picture"):
        fit_sets(tags)
    with pytest.raises(UsageError, match="no picture has a label"):
        fit_sets(Predictions(np.zeros((3, 2)), ("x", "y")))
    with pytest.raises(UsageError, match="level"):
        fit_sets(drawn(10, seed=0), level=1.0)
    with pytest.raises(UsageError, match="adaptive"):
        fit_sets(drawn(10, seed=0), method="smallest")
    nothing = judge_sets(drawn(3, seed=0).take([]), np.zeros((0, 5), bool), 0.9)
    assert math.isnan(nothing.coverage.value)
