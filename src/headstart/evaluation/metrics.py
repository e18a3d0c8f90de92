"""Metrics: numbers about `Predictions`, each over the whole table and each with an interval.

Nearly every metric here is a function of means over the rows: the accuracy of one mean, the
macro F1 of three means per class, the calibration error of one per bin. A metric is therefore
written as `rows` (what each row adds) and `combine` (means -> value), and the bootstrap computes
all its resamples at once, as one matrix product.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from headstart.errors import UsageError
from headstart.evaluation import scores
from headstart.evaluation.predictions import Predictions, check_same_rows
from headstart.evaluation.scores import Floats
from headstart.types import Task

_RESAMPLED_CELLS = 400_000  # draws made at once: they stay in the processor's cache
# Metrics of rank sort and sum every row for every class and resample: 10,000 rows of 120 classes take 3 s at
# the fewest resamples, whose ends of the interval are known to a tenth of its width.
_RANKED_CELLS = 20_000_000
_FEWEST_RESAMPLES = 200


@dataclass(frozen=True)
class Metric:
    """A figure about predictions.

    `function` is given only rows that were predicted and have a known truth, at least one.
    `rows` and `combine` say the same as means over rows and make the bootstrap fast; so does `of_times`
    for metrics of rank: of (resamples, rows), how often each row was drawn, it gives the value of each.
    `proportion` marks a share of independent rows, whose interval is Wilson's. `ends` gives the ends of the
    interval from the means (without `rows`: the value), those of each resample and the level, where
    percentiles of values would mislead.
    """

    name: str
    function: Callable[[Predictions], float]
    higher_is_better: bool = True
    rows: Callable[[Predictions], Floats] | None = None
    combine: Callable[[Floats], Floats] | None = None
    proportion: bool = False
    of_times: Callable[[Predictions], scores.OfTimes] | None = None
    ends: Callable[[Floats, Floats, float], tuple[float, float]] | None = None

    def __call__(self, predictions: Predictions) -> float:
        """Return the value; NaN where it is undefined: no scored row, or logits that are not finite."""
        scored = predictions.scored()
        if len(scored) == 0 or bool(np.isnan(scored.loss).any()):
            return math.nan
        return float(self.function(scored))


@dataclass(frozen=True)
class Interval:
    """A value with the interval that holds it, by default at 95 %."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """Return the fields for JSON, with None for what is undefined."""
        return _json_fields(self)


@dataclass(frozen=True)
class Gain:
    """What one set of predictions is better by than another on the same rows; positive is better.

    `probability` is the share of resamples in which it was better, ties counted half.
    """

    value: float
    low: float
    high: float
    probability: float

    @property
    def verdict(self) -> str:
        """ "better" or "worse" where the interval excludes zero, else "cannot tell"."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "cannot tell"

    def to_dict(self) -> dict[str, float | None]:
        """Return the fields for JSON, with None for what is undefined."""
        return _json_fields(self)


def _json_fields(record: Interval | Gain) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in asdict(record).items()}


def _of_means(
    name: str,
    rows: Callable[[Predictions], Floats],
    combine: Callable[[Floats], Floats] = scores.only_column,
    *,
    higher_is_better: bool = True,
    proportion: bool = False,
) -> Metric:
    def function(predictions: Predictions) -> float:
        return float(combine(rows(predictions).mean(axis=0)))

    return Metric(name, function, higher_is_better, rows, combine, proportion)


def _single(name: str) -> Callable[[Predictions], Floats]:
    return partial(scores.single_hits_and_totals, name=name)


def top_k(count: int) -> Metric:
    """Return the share of rows whose truth is among the `count` most probable classes."""
    return _of_means(f"top_{count}", partial(scores.within_top, count=count), proportion=True)


def f_beta(beta: float) -> Metric:
    """Return the F-beta score: for classes the macro mean, for tags the mean over the rows."""
    return _of_means(f"f{beta:g}", partial(scores.f_rows, beta=beta), partial(scores.macro_f, beta=beta))


METRICS: dict[str, Metric] = {
    known.name: known
    for known in (
        _of_means("accuracy", scores.correct, proportion=True),
        _of_means("error_rate", scores.wrong, higher_is_better=False, proportion=True),
        top_k(5),
        _of_means("balanced_accuracy", _single("balanced_accuracy"), scores.balanced_accuracy),
        _of_means("macro_precision", scores.hits_and_totals, scores.macro_precision),
        _of_means("macro_recall", scores.hits_and_totals, scores.macro_recall),
        _of_means("macro_f1", scores.hits_and_totals, partial(scores.macro_f, beta=1.0)),
        _of_means("micro_f1", scores.hits_and_totals, scores.micro_f1),
        f_beta(2.0),
        _of_means("cohen_kappa", _single("cohen_kappa"), scores.cohen_kappa),
        _of_means("matthews", _single("matthews"), scores.matthews),
        _of_means("log_loss", scores.losses, higher_is_better=False),
        _of_means("brier", scores.squared_errors, higher_is_better=False),
        replace(
            _of_means(
                "expected_calibration_error",
                scores.calibration_gaps,
                scores.absolute_sum,
                higher_is_better=False,
            ),
            ends=scores.ends_of_absolute_sum,
        ),
        Metric(
            "roc_auc",
            scores.roc_auc,
            of_times=scores.roc_auc_of_times,
            ends=scores.ends_on_the_log_odds,
        ),
        Metric(
            "average_precision",
            scores.average_precision,
            of_times=scores.average_precision_of_times,
            ends=scores.ends_on_the_log_odds,
        ),
    )
}
"""The metrics by name; a project's own is a `Metric`, or any function of `Predictions`."""

MetricLike = str | Metric | Callable[[Predictions], float]


def metric(which: MetricLike) -> Metric:
    """Return a metric by its name; a function becomes one where higher is better.

    Raises `UsageError` with the nearest names for a name that is not known.

    >>> table = Predictions([[2.0, 0.0], [0.5, 1.5]], ("cat", "dog"), targets=[0, 0])
    >>> metric("accuracy")(table)
    0.5
    """
    return _found(which)


def measure(predictions: Predictions, metrics: Iterable[MetricLike]) -> dict[str, float]:
    """Return the value of each metric by its name; NaN where it is undefined."""
    chosen = [_found(metric) for metric in metrics]
    return {metric.name: metric(predictions) for metric in chosen}


def interval(
    predictions: Predictions,
    metric: MetricLike,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return a metric with its interval: Wilson's (1927) for shares of rows, else the bootstrap's.

    The bootstrap resamples rows and takes percentiles; those of the calibration error allow for what chance
    adds to it (`scores.ends_of_absolute_sum`), and those of metrics of rank are taken on the log odds
    (`scores.ends_on_the_log_odds`). The order of the rows does not matter.
    Undefined values (no rows) are NaN. Metrics of rank over many rows and classes take fewer resamples.

    >>> table = Predictions([[2.0, 0.0]] * 20, ("cat", "dog"), targets=[0] * 18 + [1] * 2)
    >>> found = interval(table, "accuracy")
    >>> f"{found.value:.2f}, between {found.low:.2f} and {found.high:.2f}"
    '0.90, between 0.70 and 0.97'
    """
    chosen = _found(metric)
    scored = _in_order(predictions.scored())
    value = chosen(scored)
    if math.isnan(value):
        return Interval(math.nan, math.nan, math.nan)
    if chosen.proportion and scored.task is Task.SINGLE_LABEL:
        return Interval(value, *wilson(value * len(scored), len(scored), level=level))
    if chosen.ends is not None and chosen.rows is not None:
        columns = chosen.rows(scored)
        drawn = np.concatenate([times @ columns for times in _times(len(scored), resamples, seed)])
        return Interval(value, *chosen.ends(columns.mean(axis=0), drawn / len(scored), level))
    values = np.concatenate(list(_resampled(chosen, [scored], resamples, seed)), axis=1)[0]
    if chosen.ends is not None:
        return Interval(value, *chosen.ends(np.array([value]), values[:, None], level))
    return Interval(value, *_percentiles(values, level))


def paired(
    before: Predictions,
    after: Predictions,
    metric: MetricLike,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Gain:
    """Return what `after` gained over `before` on the same rows, by the paired bootstrap.

    Both are resampled with the same rows, so what is hard for both cancels. The gain is positive
    where `after` is better, whichever way the metric counts. Rows that either could not predict
    are left out. Raises `UsageError` unless both hold the same rows in the same order.

    >>> before = Predictions([[1.0, 0.0], [0.0, 1.0]] * 20, ("cat", "dog"), targets=[0, 1] * 20)
    >>> after = Predictions(before.logits * 2, ("cat", "dog"), targets=[0, 1] * 20)
    >>> paired(before, after, "log_loss").verdict
    'better'
    """
    check_same_rows(before, after)
    chosen = _found(metric)
    sign = 1.0 if chosen.higher_is_better else -1.0
    usable = before.scored_rows & after.scored_rows
    tables = [_in_order(table.take(usable)) for table in (before, after)]
    value = sign * (chosen(tables[1]) - chosen(tables[0]))
    if math.isnan(value):
        return Gain(math.nan, math.nan, math.nan, 0.5)
    values = np.concatenate(list(_resampled(chosen, tables, resamples, seed)), axis=1)
    gains = sign * (values[1] - values[0])
    gains = gains[~np.isnan(gains)]
    better = float(np.mean(gains > 0) + 0.5 * np.mean(gains == 0)) if len(gains) else 0.5
    return Gain(value, *_percentiles(gains, level), probability=better)


def wilson(hits: float, count: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's (1927) score interval for a share of `hits` out of `count`.

    With `count` 0 nothing is known: (0, 1).
    """
    if count == 0:
        return (0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = hits / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    # At 0 and 1 the bound is exactly the share; rounding would put it a little beside.
    return (min(max(0.0, middle - reach), share), max(min(1.0, middle + reach), share))


def confusion_matrix(predictions: Predictions) -> NDArray[np.int64]:
    """Return how often each class (row) was predicted as each class (column): int64 (K, K).

    Raises `UsageError` for tags.
    """
    scores.single_only(predictions, "the confusion matrix")
    scored = predictions.scored()
    size = len(predictions.classes)
    usable = scored.predicted >= 0
    cells = scores.targets_of(scored)[usable] * size + scored.predicted[usable]
    return np.bincount(cells, minlength=size * size).reshape(size, size)


@dataclass(frozen=True)
class ClassMetrics:
    """How one class fares: `count` rows of it, `predicted` rows called so, `hits` rightly.

    `recall` (with Wilson's interval) and `precision` are NaN where there is nothing to divide;
    `average_precision` where no row is of the class, or every row is. `f1_ends` and
    `average_precision_ends` are the ends of the bootstrap's 95 % intervals, where they were asked for.
    """

    name: str
    count: int
    predicted: int
    hits: int
    recall: Interval
    precision: Interval
    f1: float
    average_precision: float
    f1_ends: tuple[float, float] = (math.nan, math.nan)
    average_precision_ends: tuple[float, float] = (math.nan, math.nan)


def per_class(predictions: Predictions, *, resamples: int = 0, seed: int = 0) -> list[ClassMetrics]:
    """Return the figures of every class, in the order of `classes`; tags count as classes.

    With `resamples` the F1 and the average precision have intervals, too, by the bootstrap.
    """
    scored = predictions.scored()
    usable = scored.take(~np.isnan(scored.loss))
    if len(usable) == 0:
        totals = np.zeros((3, len(predictions.classes)), dtype=np.int64)
    else:
        totals = scores.hits_and_totals(usable).sum(axis=0).astype(np.int64).reshape(3, -1)
    ranked = scores.average_precisions(usable)
    ends = _ends_of_classes(usable, resamples, seed)
    rows = []
    for name, hits, guess, truth, area, own in zip(
        predictions.classes, *totals.tolist(), ranked, ends, strict=True
    ):
        f1 = 2 * hits / (guess + truth) if guess + truth else math.nan
        shares = _share(hits, truth), _share(hits, guess)
        rows.append(ClassMetrics(name, truth, guess, hits, *shares, f1, area, *own))
    return rows


def _ends_of_classes(
    predictions: Predictions, resamples: int, seed: int
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """The ends of the intervals of each class's F1 and average precision; NaN without resamples."""
    count = len(predictions.classes)
    if not resamples or not len(predictions):
        return [((math.nan, math.nan), (math.nan, math.nan))] * count
    table = _in_order(predictions)
    columns, areas_of = scores.hits_and_totals(table), scores.average_precisions_of_times(table)
    resamples = min(resamples, max(_FEWEST_RESAMPLES, _RANKED_CELLS // max(1, table.logits.size)))
    f1, areas = [], []
    for times in _times(len(table), resamples, seed):
        hits, guess, truth = scores.thirds(times @ columns)
        f1.append(scores.ratio(2 * hits, guess + truth, empty=math.nan))
        areas.append(areas_of(times))
    every = zip(np.concatenate(f1).T, np.concatenate(areas).T, strict=True)
    return [(_percentiles(one, 0.95), _percentiles(other, 0.95)) for one, other in every]


def _found(which: MetricLike) -> Metric:
    if isinstance(which, Metric):
        return which
    if not isinstance(which, str):
        return Metric(getattr(which, "__name__", "metric"), which)
    if which not in METRICS:
        near = difflib.get_close_matches(which, METRICS, n=3) or sorted(METRICS)
        raise UsageError(f"there is no metric {which!r}", f"did you mean {', '.join(near)}?")
    return METRICS[which]


def _share(hits: int, count: int) -> Interval:
    return Interval(hits / count if count else math.nan, *wilson(hits, count))


def _in_order(predictions: Predictions) -> Predictions:
    """Sort by row number, so that resampling does not depend on the order of the rows."""
    return predictions.take(np.argsort(predictions.rows, kind="stable"))


def _draws(count: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    at_once = max(1, _RESAMPLED_CELLS // count)
    for start in range(0, resamples, at_once):
        yield random.integers(count, size=(min(at_once, resamples - start), count))


def _resampled(metric: Metric, tables: list[Predictions], resamples: int, seed: int) -> Iterator[Floats]:
    """Yield the metric of each table on each resample: float64 (tables, some resamples)."""
    count = len(tables[0])
    if metric.of_times is not None:
        ranked = [metric.of_times(table) for table in tables]
        enough = _RANKED_CELLS // max(1, tables[0].logits.size)
        for times in _times(count, min(resamples, max(_FEWEST_RESAMPLES, enough)), seed):
            yield np.array([value(times) for value in ranked])
        return
    if metric.rows is None or metric.combine is None:
        for drawn in _draws(count, resamples, seed):
            yield np.array([[metric(table.take(rows)) for rows in drawn] for table in tables])
        return
    columns = [metric.rows(table) for table in tables]
    for times in _times(count, resamples, seed):
        yield np.array([metric.combine(times @ column / count) for column in columns])


def _times(count: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield how often each row was drawn: float64 (some resamples, rows)."""
    for drawn in _draws(count, resamples, seed):
        shift = np.arange(len(drawn))[:, None] * count
        times = np.bincount((drawn + shift).ravel(), minlength=drawn.size).reshape(drawn.shape)
        yield times.astype(np.float64)


def _percentiles(values: Floats, level: float) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return (math.nan, math.nan)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return (float(low), float(high))
