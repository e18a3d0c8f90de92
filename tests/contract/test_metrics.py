"""What every metric keeps: it equals an independent computation, whatever the table."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from headstart.evaluation import METRICS, Predictions, f_beta, metric, top_k
from headstart.types import Task

SINGLE = [name for name in METRICS if name != "f2"] + ["f2"]
MULTI = [name for name in METRICS if name not in {"top_5", "balanced_accuracy", "cohen_kappa", "matthews"}]

Arrays = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


@st.composite
def single_label(draw: st.DrawFn, *, least_classes: int = 1) -> Predictions:
    """Tables with ties: logits are multiples of a half."""
    rows, classes = draw(st.integers(1, 40)), draw(st.integers(least_classes, 7))
    steps = draw(hnp.arrays(np.int64, (rows, classes), elements=st.integers(-8, 8)))
    targets = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, classes - 1)))
    names = tuple(f"class {number}" for number in range(classes))
    return Predictions((steps / 2).astype(np.float32), names, targets=targets)


@st.composite
def multi_label(draw: st.DrawFn) -> Predictions:
    rows, classes = draw(st.integers(1, 30)), draw(st.integers(1, 5))
    steps = draw(hnp.arrays(np.int64, (rows, classes), elements=st.integers(-8, 8)))
    targets = draw(hnp.arrays(np.uint8, (rows, classes), elements=st.integers(0, 1)))
    names = tuple(f"tag {number}" for number in range(classes))
    logits = (steps / 2).astype(np.float32)
    return Predictions(logits, names, task=Task.MULTI_LABEL, targets=targets)


def arrays(predictions: Predictions) -> Arrays:
    targets = np.asarray(predictions.targets)
    return targets, np.asarray(predictions.predicted), predictions.probabilities


def seen(targets: NDArray[np.int64], guesses: NDArray[np.int64]) -> list[int]:
    return np.unique(np.concatenate([targets, guesses])).tolist()


def naive_calibration_error(predictions: Predictions) -> float:
    targets, guesses, probabilities = arrays(predictions)
    if predictions.task is Task.MULTI_LABEL:
        pairs = [(p, int(y)) for p, y in zip(probabilities.ravel(), targets.ravel(), strict=True)]
    else:
        right = zip(probabilities.max(axis=1), guesses == targets, strict=True)
        pairs = [(p, int(ok)) for p, ok in right]
    total = 0.0
    for number in range(15):
        inside = [pair for pair in pairs if min(int(pair[0] * 15), 14) == number]
        if inside:
            total += abs(sum(ok - p for p, ok in inside)) / len(pairs)
    return total


def naive_auc(predictions: Predictions) -> float:
    """By counting pairs, class by class."""
    targets, _, probabilities = arrays(predictions)
    values = []
    for number in range(len(predictions.classes)):
        truth = targets[:, number] == 1 if targets.ndim == 2 else targets == number
        scores = probabilities[:, number]
        pairs = [(p > q) + 0.5 * (p == q) for p in scores[truth] for q in scores[~truth]]
        if pairs:
            values.append(float(np.mean(pairs)))
    return float(np.mean(values)) if values else math.nan


def mean_average_precision(predictions: Predictions) -> float:
    targets, _, probabilities = arrays(predictions)
    values = []
    for number in range(len(predictions.classes)):
        truth = targets[:, number] == 1 if targets.ndim == 2 else targets == number
        if truth.any() and not truth.all():
            values.append(reference.average_precision_score(truth, probabilities[:, number]))
    return float(np.mean(values)) if values else math.nan


def naive_top(predictions: Predictions, count: int) -> float:
    hits = 0
    for row, target in zip(predictions.logits.tolist(), np.asarray(predictions.targets), strict=True):
        ranked = sorted(range(len(row)), key=lambda number: (-row[number], number))
        hits += target in ranked[:count]
    return hits / len(predictions)


def naive_log_loss(predictions: Predictions) -> float:
    targets, _, probabilities = arrays(predictions)
    if predictions.task is Task.MULTI_LABEL:
        right = np.where(targets == 1, probabilities, 1 - probabilities)
        return float(-np.log(right).mean())
    return float(np.mean([-math.log(row[y]) for row, y in zip(probabilities, targets, strict=True)]))


def naive_brier(predictions: Predictions) -> float:
    targets, _, probabilities = arrays(predictions)
    if predictions.task is Task.MULTI_LABEL:
        return float(((probabilities - targets) ** 2).mean())
    wanted = np.eye(len(predictions.classes))[targets]
    return float(((probabilities - wanted) ** 2).sum(axis=1).mean())


def macro(score: Callable[..., float], **options: float) -> Callable[[Predictions], float]:
    """The mean of a binary score over what occurs or is predicted."""

    def value(predictions: Predictions) -> float:
        targets, guesses, _ = arrays(predictions)
        if predictions.task is Task.MULTI_LABEL:
            pairs = list(zip(targets.T, guesses.T, strict=True))
        else:
            pairs = [(targets == number, guesses == number) for number in seen(targets, guesses)]
        values = [
            score(truth, guess, zero_division=0, **options)
            for truth, guess in pairs
            if truth.any() or guess.any()
        ]
        return float(np.mean(values)) if values else 0.0

    return value


def naive_f2(predictions: Predictions) -> float:
    if predictions.task is Task.SINGLE_LABEL:
        return macro(reference.fbeta_score, beta=2.0)(predictions)
    values = []
    for truth, guess in zip(*arrays(predictions)[:2], strict=True):
        hits, extra, missed = (truth & guess).sum(), (guess & ~truth & 1).sum(), (truth & (1 - guess)).sum()
        total = 5 * hits + 4 * missed + extra
        values.append(5 * hits / total if total else 1.0)
    return float(np.mean(values))


def kappa(predictions: Predictions) -> float:
    targets, guesses, _ = arrays(predictions)
    labels = seen(targets, guesses)
    return 0.0 if len(labels) == 1 else float(reference.cohen_kappa_score(targets, guesses))


def matthews(predictions: Predictions) -> float:
    targets, guesses, _ = arrays(predictions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one class, scikit-learn says that it is undefined
        return float(reference.matthews_corrcoef(targets, guesses))


def balanced(predictions: Predictions) -> float:
    targets, guesses, _ = arrays(predictions)
    return float(np.mean([(guesses[targets == each] == each).mean() for each in np.unique(targets)]))


def accuracy(predictions: Predictions) -> float:
    targets, guesses, _ = arrays(predictions)
    return float((targets == guesses).mean())


def naive_micro_f1(predictions: Predictions) -> float:
    if predictions.task is Task.SINGLE_LABEL:
        return accuracy(predictions)
    said, truth = np.asarray(predictions.predicted), np.asarray(predictions.targets)
    return float(reference.f1_score(truth.ravel(), said.ravel(), zero_division=0))


REFERENCES: dict[str, Callable[[Predictions], float]] = {
    "accuracy": accuracy,
    "error_rate": lambda predictions: 1 - accuracy(predictions),
    "top_5": lambda predictions: naive_top(predictions, 5),
    "balanced_accuracy": balanced,
    "macro_precision": macro(reference.precision_score),
    "macro_recall": macro(reference.recall_score),
    "macro_f1": macro(reference.f1_score),
    "micro_f1": naive_micro_f1,
    "f2": naive_f2,
    "cohen_kappa": kappa,
    "matthews": matthews,
    "log_loss": naive_log_loss,
    "brier": naive_brier,
    "expected_calibration_error": naive_calibration_error,
    "roc_auc": naive_auc,
    "average_precision": mean_average_precision,
}


def test_every_metric_has_an_independent_reference() -> None:
    assert REFERENCES.keys() == METRICS.keys()


@pytest.mark.parametrize("name", METRICS)
@given(predictions=single_label())
@settings(max_examples=30, deadline=None)
def test_equals_the_reference_on_classes(name: str, predictions: Predictions) -> None:
    expected = REFERENCES[name](predictions)
    assert metric(name)(predictions) == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", MULTI)
@given(predictions=multi_label())
@settings(max_examples=30, deadline=None)
def test_equals_the_reference_on_tags(name: str, predictions: Predictions) -> None:
    expected = REFERENCES[name](predictions)
    assert metric(name)(predictions) == pytest.approx(expected, abs=1e-9, nan_ok=True)


@given(predictions=single_label(least_classes=2))
@settings(max_examples=30, deadline=None)
def test_log_loss_and_brier_equal_scikit_learn(predictions: Predictions) -> None:
    labels = list(range(len(predictions.classes)))
    targets, _, probabilities = arrays(predictions)
    expected = reference.log_loss(targets, probabilities, labels=labels)
    assert metric("log_loss")(predictions) == pytest.approx(expected, abs=1e-9)


@given(predictions=single_label(least_classes=2))
@settings(max_examples=30, deadline=None)
def test_roc_auc_equals_scikit_learn_where_that_is_defined(predictions: Predictions) -> None:
    targets, _, probabilities = arrays(predictions)
    assume(len(np.unique(targets)) == len(predictions.classes))
    if len(predictions.classes) == 2:
        expected = reference.roc_auc_score(targets, probabilities[:, 1])
    else:
        expected = reference.roc_auc_score(targets, probabilities, multi_class="ovr")
    assert metric("roc_auc")(predictions) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", METRICS)
@given(predictions=single_label(), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_does_not_depend_on_the_order_of_the_rows(name: str, predictions: Predictions, seed: int) -> None:
    turned = predictions.take(np.random.default_rng(seed).permutation(len(predictions)))
    assert metric(name)(turned) == pytest.approx(metric(name)(predictions), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("name", METRICS)
def test_is_defined_for_one_class_or_says_that_it_is_not(name: str) -> None:
    only = Predictions(np.ones((4, 1), np.float32), ("all",), targets=np.zeros(4, np.int64))
    value = metric(name)(only)
    if name in {"roc_auc", "average_precision"}:
        assert math.isnan(value)  # there is nothing to rank against
    else:
        assert math.isfinite(value)


@pytest.mark.parametrize("name", METRICS)
def test_ignores_a_class_that_no_row_belongs_to(name: str) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(30, 3)).astype(np.float32)
    targets = random.integers(0, 2, size=30)
    value = metric(name)(Predictions(logits, ("a", "b", "empty"), targets=targets))
    assert math.isfinite(value)


@pytest.mark.parametrize("name", METRICS)
def test_of_no_rows_is_undefined(name: str) -> None:
    nothing = Predictions(np.zeros((0, 2), np.float32), ("a", "b"), targets=np.zeros(0, np.int64))
    unlabelled = Predictions(np.zeros((3, 2), np.float32), ("a", "b"))
    assert math.isnan(metric(name)(nothing))
    assert math.isnan(metric(name)(unlabelled))


@pytest.mark.parametrize("name", METRICS)
def test_leaves_out_rows_without_a_prediction_or_a_truth(name: str) -> None:
    random = np.random.default_rng(1)
    logits = random.normal(size=(20, 3)).astype(np.float32)
    targets = random.integers(0, 3, size=20)
    whole = Predictions(logits, ("a", "b", "c"), targets=targets)
    more = Predictions(
        np.concatenate([logits, np.full((2, 3), np.nan, np.float32)]),
        ("a", "b", "c"),
        targets=np.concatenate([targets, [0, -1]]),
        status=np.array([""] * 20 + ["TRUNCATED", ""]),
    )
    assert metric(name)(more) == pytest.approx(metric(name)(whole), abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_of_logits_that_are_not_finite_is_undefined_and_never_best(name: str) -> None:
    logits = np.eye(3, dtype=np.float32)
    logits[1, 1] = np.nan
    assert math.isnan(metric(name)(Predictions(logits, ("a", "b", "c"), targets=np.arange(3))))


def test_a_wrong_metric_would_be_noticed() -> None:
    predictions = Predictions(np.eye(3, dtype=np.float32), ("a", "b", "c"), targets=np.array([0, 1, 1]))
    assert metric("accuracy")(predictions) == pytest.approx(naive_top(predictions, 1))
    assert metric("accuracy")(predictions) != pytest.approx(naive_top(predictions, 3))


def test_top_k_and_f_beta_are_made_for_any_number() -> None:
    predictions = Predictions(np.eye(3, dtype=np.float32), ("a", "b", "c"), targets=np.array([0, 1, 1]))
    assert top_k(1)(predictions) == metric("accuracy")(predictions)
    assert top_k(3)(predictions) == 1.0
    assert f_beta(1.0)(predictions) == pytest.approx(metric("macro_f1")(predictions))
