"""Metrics and figures by class equal scikit-learn's and SciPy's, and a wrong version would be noticed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import special

from headstart.evaluation import METRICS, Predictions, confusion_matrix, metric, per_class
from headstart.types import Task

from .test_metrics import MULTI, REFERENCES, arrays, multi_label, naive_top, single_label


@given(single_label())
@settings(max_examples=40, deadline=None)
def test_probabilities_of_classes_are_the_softmax_over_the_temperature(predictions: Predictions) -> None:
    warm = predictions.with_temperature(2.5)
    expected = special.softmax(predictions.logits.astype(np.float64) / 2.5, axis=1)
    assert warm.probabilities == pytest.approx(expected, abs=1e-12)
    assert warm.loss == pytest.approx(
        -special.log_softmax(predictions.logits.astype(np.float64) / 2.5, axis=1)[
            np.arange(len(warm)), np.asarray(warm.targets)
        ],
        abs=1e-12,
    )


@given(multi_label())
@settings(max_examples=40, deadline=None)
def test_probabilities_of_tags_are_a_sigmoid_each(predictions: Predictions) -> None:
    expected = special.expit(predictions.logits.astype(np.float64))
    assert predictions.probabilities == pytest.approx(expected, abs=1e-12)


@given(single_label(least_classes=2))
@settings(max_examples=40, deadline=None)
def test_the_brier_score_equals_scikit_learns_class_by_class(predictions: Predictions) -> None:
    targets, _, probabilities = arrays(predictions)
    each = [
        reference.brier_score_loss(targets == number, probabilities[:, number], pos_label=True)
        for number in range(len(predictions.classes))
    ]
    assert metric("brier")(predictions) == pytest.approx(sum(each), abs=1e-9)


@given(multi_label())
@settings(max_examples=40, deadline=None)
def test_what_tags_lose_equals_scikit_learns_over_all_decisions(predictions: Predictions) -> None:
    targets, _, probabilities = (part.ravel() for part in arrays(predictions))
    assert metric("brier")(predictions) == pytest.approx(
        reference.brier_score_loss(targets, probabilities, pos_label=1), abs=1e-9
    )
    assert metric("log_loss")(predictions) == pytest.approx(
        reference.log_loss(targets, probabilities, labels=[0, 1]), abs=1e-9
    )


@given(multi_label())
@settings(max_examples=60, deadline=None)
def test_macro_and_ranked_figures_of_tags_equal_scikit_learns_where_those_are_defined(
    drawn: Predictions,
) -> None:
    count = len(drawn.classes)
    assume(count > 1)  # of a table of one tag scikit-learn takes the mean of the tag and its absence
    both = np.array([[0], [1]], np.uint8).repeat(count, axis=1)
    predictions = Predictions(
        np.concatenate([drawn.logits, both - 0.25]),
        drawn.classes,
        Task.MULTI_LABEL,
        targets=np.concatenate([np.asarray(drawn.targets), both]),
    )
    targets, guesses, probabilities = arrays(predictions)
    for name, function in (
        ("macro_precision", reference.precision_score),
        ("macro_recall", reference.recall_score),
        ("macro_f1", reference.f1_score),
    ):
        expected = function(targets, guesses, average="macro", zero_division=0)
        assert metric(name)(predictions) == pytest.approx(expected, abs=1e-9)
    for name, function in (
        ("roc_auc", reference.roc_auc_score),
        ("average_precision", reference.average_precision_score),
    ):
        expected = function(targets, probabilities, average="macro")
        assert metric(name)(predictions) == pytest.approx(expected, abs=1e-9)


@given(single_label(least_classes=3), st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_top_k_equals_scikit_learns_where_nothing_is_equal(predictions: Predictions, count: int) -> None:
    logits = predictions.logits + np.arange(len(predictions.classes), dtype=np.float32) / 100
    apart = Predictions(logits, predictions.classes, targets=predictions.targets)
    expected = reference.top_k_accuracy_score(
        np.asarray(apart.targets), logits, k=count, labels=range(len(apart.classes))
    )
    assert naive_top(apart, count) == pytest.approx(expected)


@given(single_label(least_classes=2))
@settings(max_examples=40, deadline=None)
def test_figures_by_class_and_the_matrix_equal_scikit_learns(predictions: Predictions) -> None:
    targets, guesses, _ = arrays(predictions)
    labels = list(range(len(predictions.classes)))
    assert (
        confusion_matrix(predictions).tolist()
        == reference.confusion_matrix(targets, guesses, labels=labels).tolist()
    )
    columns = reference.precision_recall_fscore_support(targets, guesses, labels=labels, zero_division=np.nan)
    for row, *expected in zip(per_class(predictions), *columns, strict=True):
        found = [row.precision.value, row.recall.value, row.f1, row.count]
        assert found == pytest.approx(expected, nan_ok=True)


@given(multi_label())
@settings(max_examples=40, deadline=None)
def test_figures_by_tag_equal_scikit_learns(predictions: Predictions) -> None:
    targets, guesses, _ = arrays(predictions)
    for number, row in enumerate(per_class(predictions)):
        (precision,), (recall,), (f1,), (count,) = reference.precision_recall_fscore_support(
            targets[:, number], guesses[:, number], labels=[1], zero_division=np.nan
        )
        found = [row.precision.value, row.recall.value, row.f1, row.count]
        assert found == pytest.approx([precision, recall, f1, count], nan_ok=True)


# --- tables at the edge -----------------------------------------------------------------------------------


def edges(task: Task) -> dict[str, Predictions]:
    """One class, one row, an empty class, a class of all, everything equal, nothing right."""
    random = np.random.default_rng(0)
    names = tuple("abcdef")
    logits = random.normal(size=(12, 6)).astype(np.float32)
    targets = random.integers(0, 4, size=12)
    if task is Task.SINGLE_LABEL:
        return {
            "one class": Predictions(logits[:, :1], ("a",), targets=np.zeros(12, np.int64)),
            "one row": Predictions(logits[:1], names, targets=targets[:1]),
            "empty classes": Predictions(logits, names, targets=targets),
            "all of one class": Predictions(logits, names, targets=np.full(12, 2)),
            "everything equal": Predictions(np.zeros((12, 6)), names, targets=targets),
            "nothing right": Predictions(np.eye(6)[(targets + 1) % 6] * 5, names, targets=targets),
            "everything right": Predictions(np.eye(6)[targets] * 5, names, targets=targets),
        }
    tags = (random.uniform(size=(12, 6)) < 0.4).astype(np.uint8)
    empty, full = tags.copy(), tags.copy()
    empty[:, 1], full[:, 1] = 0, 1
    tables = {
        "one tag": (logits[:, :1], tags[:, :1]),
        "one row": (logits[:1], tags[:1]),
        "an empty tag": (logits, empty),
        "a tag of all": (logits, full),
        "no tag at all": (logits, np.zeros_like(tags)),
        "everything equal": (np.zeros((12, 6)), tags),
        "nothing said": (np.full((12, 6), -3.0), tags),
        "everything right": (np.where(tags == 1, 3.0, -3.0), tags),
    }
    return {
        name: Predictions(values, names[: values.shape[1]], task, targets=truth)
        for name, (values, truth) in tables.items()
    }


@pytest.mark.parametrize("edge", edges(Task.SINGLE_LABEL))
@pytest.mark.parametrize("name", METRICS)
def test_at_the_edges_of_classes_a_metric_equals_its_reference(name: str, edge: str) -> None:
    predictions = edges(Task.SINGLE_LABEL)[edge]
    expected = REFERENCES[name](predictions)
    assert metric(name)(predictions) == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("edge", edges(Task.MULTI_LABEL))
@pytest.mark.parametrize("name", MULTI)
def test_at_the_edges_of_tags_a_metric_equals_its_reference(name: str, edge: str) -> None:
    predictions = edges(Task.MULTI_LABEL)[edge]
    expected = REFERENCES[name](predictions)
    assert metric(name)(predictions) == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", MULTI)
@given(predictions=multi_label(), threshold=st.sampled_from([0.1, 0.3, 0.9]))
@settings(max_examples=10, deadline=None)
def test_metrics_of_tags_follow_their_thresholds(
    name: str, predictions: Predictions, threshold: float
) -> None:
    decided = predictions.with_thresholds(np.full(len(predictions.classes), threshold))
    expected = REFERENCES[name](decided)
    assert metric(name)(decided) == pytest.approx(expected, abs=1e-9, nan_ok=True)


# --- wrong versions: what a slip would give, and that it would show -----------------------------------------


def over_all_classes(function: Callable[..., float]) -> Callable[[Predictions], float]:
    """The mean over classes that neither occur nor are predicted, too."""

    def value(predictions: Predictions) -> float:
        targets, guesses, _ = arrays(predictions)
        labels = list(range(len(predictions.classes)))
        return float(function(targets, guesses, labels=labels, average="macro", zero_division=0))

    return value


def by_batches(name: str) -> Callable[[Predictions], float]:
    """The mean of the values of batches of eight rows, the last one smaller."""

    def value(predictions: Predictions) -> float:
        starts = range(0, len(predictions), 8)
        parts = [predictions.take(np.arange(s, min(s + 8, len(predictions)))) for s in starts]
        return float(np.nanmean([metric(name)(part) for part in parts]))

    return value


def calibration_by_bins(predictions: Predictions) -> float:
    """Every bin counted alike, however many rows it has."""
    targets, guesses, probabilities = arrays(predictions)
    sure, right = probabilities.max(axis=1), guesses == targets
    bins = np.minimum((sure * 15).astype(int), 14)
    return float(np.mean([abs((right - sure)[bins == each].mean()) for each in np.unique(bins)]))


WRONG: dict[str, Callable[[Predictions], float]] = {
    "macro_precision": over_all_classes(reference.precision_score),
    "macro_recall": over_all_classes(reference.recall_score),
    "macro_f1": over_all_classes(reference.f1_score),
    "balanced_accuracy": over_all_classes(reference.recall_score),
    "f2": by_batches("f2"),
    "cohen_kappa": by_batches("cohen_kappa"),
    "matthews": by_batches("matthews"),
    "accuracy": by_batches("accuracy"),
    "error_rate": by_batches("error_rate"),
    "micro_f1": by_batches("micro_f1"),
    "average_precision": by_batches("average_precision"),
    "roc_auc": by_batches("roc_auc"),
    "expected_calibration_error": calibration_by_bins,
    "brier": lambda predictions: metric("brier")(predictions) / 2,
    "log_loss": lambda predictions: metric("log_loss")(predictions) / math.log(2),
    "top_5": lambda predictions: naive_top(predictions, 4),
}


@pytest.mark.parametrize("name", METRICS)
def test_a_slip_would_be_noticed(name: str) -> None:
    random = np.random.default_rng(0)
    logits = np.round(random.normal(size=(21, 7)) * 2) / 2
    logits[:, 6] = -9.0  # the last class neither occurs nor is predicted
    targets = np.where(np.arange(21) < 9, logits.argmax(1), random.integers(0, 6, 21))
    predictions = Predictions(logits, tuple("abcdefg"), targets=targets)
    assert abs(WRONG[name](predictions) - REFERENCES[name](predictions)) > 1e-4
    assert metric(name)(predictions) == pytest.approx(REFERENCES[name](predictions), abs=1e-9)
