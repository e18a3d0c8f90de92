"""Intervals, paired gains and figures per class."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from headstart.errors import UsageError
from headstart.evaluation import (
    METRICS,
    Gain,
    Metric,
    Predictions,
    confusion_matrix,
    interval,
    measure,
    metric,
    paired,
    per_class,
    wilson,
)
from headstart.types import Task

CLASSES = ("a", "b", "c")


def guesses(count: int, *, skill: float = 2.0, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    targets = random.integers(0, 3, size=count)
    logits = random.normal(size=(count, 3))
    logits[np.arange(count), targets] += skill
    return Predictions(logits, CLASSES, targets=targets)


def better(predictions: Predictions, by: float) -> Predictions:
    logits = predictions.logits.copy()
    logits[np.arange(len(logits)), np.asarray(predictions.targets)] += np.float32(by)
    return Predictions(logits, CLASSES, targets=predictions.targets)


@given(st.integers(0, 200), st.integers(1, 200))
def test_wilsons_interval_holds_the_share_and_stays_within_0_and_1(hits: int, count: int) -> None:
    hits = min(hits, count)
    low, high = wilson(hits, count)
    assert 0 <= low <= hits / count <= high <= 1
    wider = wilson(hits, count, level=0.99)
    assert wider[0] <= low
    assert high <= wider[1]


def test_wilsons_interval_equals_a_published_value() -> None:
    # Newcombe (1998), table I: 81 of 263.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_interval_of_the_accuracy_covers_the_truth_at_the_stated_rate() -> None:
    random = np.random.default_rng(3)
    inside = [low <= 0.9 <= high for low, high in (wilson(h, 80) for h in random.binomial(80, 0.9, 2000))]
    assert 0.93 <= np.mean(inside) <= 0.975


def test_the_bootstrap_interval_of_the_log_loss_covers_the_truth_at_about_the_stated_rate() -> None:
    truth = metric("log_loss")(guesses(200_000, seed=99))
    intervals = [interval(guesses(150, seed=seed), "log_loss", resamples=300) for seed in range(200)]
    assert 0.90 <= np.mean([each.low <= truth <= each.high for each in intervals]) <= 0.985
    # The control: an interval at 50 % is not one at 95 %.
    narrow = [interval(guesses(150, seed=seed), "log_loss", resamples=300, level=0.5) for seed in range(60)]
    assert np.mean([each.low <= truth <= each.high for each in narrow]) < 0.75


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_has_an_interval(name: str) -> None:
    found = interval(guesses(60), name, resamples=50)
    assert found.low <= found.high
    assert found.value == metric(name)(guesses(60))
    assert json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "name", ["log_loss", "macro_f1", "brier", "matthews", "roc_auc", "average_precision"]
)
def test_the_fast_bootstrap_equals_resampling_the_table_itself(name: str) -> None:
    predictions = guesses(40)
    known = METRICS[name]
    slow = Metric(name, known.function, known.higher_is_better, ends=known.ends)
    one, other = interval(predictions, name, resamples=40), interval(predictions, slow, resamples=40)
    assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))


def test_an_interval_depends_on_the_seed_and_not_on_the_order_of_the_rows() -> None:
    predictions = guesses(50)
    turned = predictions.take(np.random.default_rng(1).permutation(50))
    assert interval(predictions, "log_loss") == interval(turned, "log_loss")
    assert interval(predictions, "log_loss", seed=1) != interval(predictions, "log_loss")


def test_an_interval_of_nothing_is_undefined_and_fits_into_json() -> None:
    nothing = interval(guesses(5).take([]), "accuracy")
    assert math.isnan(nothing.value)
    assert nothing.to_dict() == {"value": None, "low": None, "high": None}


def test_what_is_better_on_every_row_is_found_better_whichever_way_the_metric_counts() -> None:
    before = guesses(200)
    after = better(before, 1.0)
    for name in ("log_loss", "accuracy", "error_rate", "brier"):
        gain = paired(before, after, name)
        assert gain.value > 0
        assert gain.low > 0
        assert gain.verdict == "better"
        assert gain.probability > 0.99
    assert paired(after, before, "log_loss").verdict == "worse"


def test_the_same_predictions_gain_exactly_nothing() -> None:
    same = paired(guesses(50), guesses(50), "log_loss")
    assert same == Gain(0.0, 0.0, 0.0, 0.5)
    assert same.verdict == "cannot tell"


def test_pairing_sees_what_two_separate_intervals_cannot() -> None:
    before = guesses(100)
    after = better(before, 0.15)
    one, other = interval(before, "log_loss"), interval(after, "log_loss")
    assert one.low < other.high
    assert paired(before, after, "log_loss").verdict == "better"


def test_false_gains_are_found_at_the_stated_rate() -> None:
    random = np.random.default_rng(0)

    def noisy(predictions: Predictions) -> Predictions:
        noise = random.normal(size=predictions.logits.shape) * 0.5
        return Predictions(predictions.logits + noise, CLASSES, targets=predictions.targets)

    verdicts = []
    for seed in range(150):
        base = guesses(120, seed=seed)
        verdicts.append(paired(noisy(base), noisy(base), "log_loss", resamples=300).verdict)
    assert verdicts.count("better") + verdicts.count("worse") <= 0.11 * len(verdicts)


def test_a_gain_is_symmetric() -> None:
    before, after = guesses(80), better(guesses(80), 0.3)
    there, back = paired(before, after, "log_loss"), paired(after, before, "log_loss")
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert there.probability == pytest.approx(1 - back.probability)


def test_a_gain_is_taken_on_the_rows_that_both_predicted() -> None:
    before = guesses(30)
    half = Predictions(
        better(before, 1.0).logits,
        CLASSES,
        targets=before.targets,
        status=np.array(["", "TRUNCATED"] * 15),
    )
    expected = paired(
        before.take(np.arange(0, 30, 2)), better(before, 1.0).take(np.arange(0, 30, 2)), "log_loss"
    )
    assert paired(before, half, "log_loss") == expected


def test_a_gain_between_different_pictures_is_refused() -> None:
    with pytest.raises(UsageError):
        paired(guesses(30), guesses(30).take(np.arange(30)[::-1]), "log_loss")
    with pytest.raises(UsageError):
        paired(guesses(30), guesses(31), "log_loss")


def test_logits_that_are_not_finite_gain_nothing() -> None:
    broken = Predictions(np.full((30, 3), np.nan), CLASSES, targets=guesses(30).targets)
    gain = paired(guesses(30), broken, "log_loss")
    assert math.isnan(gain.value)
    assert gain.verdict == "cannot tell"
    assert gain.to_dict()["value"] is None


@pytest.mark.parametrize("name", ["log_loss", "accuracy"])
def test_two_thousand_paired_resamples_of_a_thousand_rows_take_well_under_a_tenth_of_a_second(
    name: str,
) -> None:
    before, after = guesses(1000), better(guesses(1000), 0.2)

    def seconds() -> float:
        started = time.process_time()
        paired(before, after, name)
        return time.process_time() - started

    assert min(seconds() for _ in range(5)) < 0.1


def test_an_own_function_is_a_metric_too() -> None:
    def share_of_a(predictions: Predictions) -> float:
        return float((predictions.predicted == 0).mean())

    assert 0 < interval(guesses(40), share_of_a, resamples=30).value < 1
    assert measure(guesses(40), [share_of_a, "accuracy"]).keys() == {"share_of_a", "accuracy"}


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="accuracy"):
        metric("acuracy")


def test_what_needs_one_class_per_picture_refuses_tags() -> None:
    tags = Predictions(np.zeros((4, 3)), CLASSES, task=Task.MULTI_LABEL, targets=np.zeros((4, 3), np.uint8))
    for name in ("top_5", "balanced_accuracy", "cohen_kappa", "matthews"):
        with pytest.raises(UsageError):
            metric(name)(tags)


def test_a_confusion_matrix_counts_truths_by_rows_and_predictions_by_columns() -> None:
    logits = np.eye(3)[[0, 1, 1, 2]]
    predictions = Predictions(logits, CLASSES, targets=np.array([0, 0, 1, 1]))
    assert confusion_matrix(predictions).tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_figures_per_class_are_those_of_the_matrix_and_undefined_where_there_is_nothing() -> None:
    logits = np.eye(3)[[0, 1, 1, 1]]
    rows = per_class(Predictions(logits, CLASSES, targets=np.array([0, 0, 1, 1])))
    assert [(row.name, row.count, row.predicted, row.hits) for row in rows] == [
        ("a", 2, 1, 1),
        ("b", 2, 3, 2),
        ("c", 0, 0, 0),
    ]
    assert rows[0].recall.value == 0.5
    assert rows[1].precision.value == pytest.approx(2 / 3)
    assert rows[1].f1 == pytest.approx(0.8)
    assert math.isnan(rows[2].recall.value)
    assert (rows[2].recall.low, rows[2].recall.high) == (0.0, 1.0)


def test_figures_per_class_of_no_rows_are_undefined() -> None:
    rows = per_class(guesses(5).take([]))
    assert [row.count for row in rows] == [0, 0, 0]


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_of_rank_are_the_same_row_by_row_and_by_how_often_rows_were_drawn(ties: bool) -> None:
    table = guesses(30)
    if ties:
        table = Predictions(np.round(table.logits), CLASSES, targets=table.targets)
    times = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=20).astype(float)
    for name in ("roc_auc", "average_precision"):
        chosen = METRICS[name]
        assert chosen.of_times is not None
        slow = [chosen(table.take(np.repeat(np.arange(30), each.astype(int)))) for each in times]
        assert chosen.of_times(table)(times) == pytest.approx(slow, abs=1e-9)


def test_the_intervals_of_each_class_are_those_of_resampled_tables() -> None:
    table = guesses(60)
    rows = per_class(table, resamples=400)
    drawn = [np.random.default_rng(s).integers(60, size=60) for s in range(400)]
    slow = [[(each.f1, each.average_precision) for each in per_class(table.take(some))] for some in drawn]
    ends = np.nanquantile(np.array(slow), [0.025, 0.975], axis=0)
    for number, row in enumerate(rows):
        assert row.f1_ends == pytest.approx(ends[:, number, 0], abs=0.05)
        assert row.average_precision_ends == pytest.approx(ends[:, number, 1], abs=0.05)
        assert row.f1_ends[0] <= row.f1 <= row.f1_ends[1]
    assert math.isnan(per_class(table)[0].f1_ends[0])


def test_the_interval_of_the_roc_auc_covers_the_truth_at_about_the_stated_rate() -> None:
    truth = metric("roc_auc")(guesses(20_000, seed=99))
    inside, narrow = [], []
    for seed in range(120):
        table = guesses(120, seed=seed)
        for level, found in ((0.95, inside), (0.5, narrow)):
            each = interval(table, "roc_auc", resamples=300, level=level)
            found.append(each.low <= truth <= each.high)
    assert 0.89 <= np.mean(inside) <= 0.99
    # The control: an interval at 50 % is not one at 95 %.
    assert np.mean(narrow) < 0.7


def test_figures_per_class_of_tags_count_each_tag() -> None:
    targets: NDArray[np.uint8] = np.array([[1, 0, 0], [1, 1, 0]], np.uint8)
    logits = np.array([[1.0, 1.0, -1.0], [-1.0, 1.0, -1.0]])
    rows = per_class(Predictions(logits, CLASSES, task=Task.MULTI_LABEL, targets=targets))
    assert [(row.count, row.predicted, row.hits) for row in rows] == [(2, 1, 1), (1, 2, 1), (0, 0, 0)]
