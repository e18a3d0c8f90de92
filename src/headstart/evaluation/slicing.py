"""Slices: how the rows fare that a column calls alike, and which of them fare worse than the rest.

A slice is tested against all other rows: Fisher's exact test of how many are wrong, and the rank test of
Mann and Whitney (1947) of the log losses, which sees a model that is less sure before it is wrong. Both
are one-sided, the smaller p-value counts twice. What is called worse is so at a false discovery rate
(Benjamini & Hochberg 1995) over all slices that were asked about: of ten findings half a one is chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.errors import UsageError
from headstart.evaluation.metrics import Interval, interval, metric
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.records import Records
from headstart.types import Task

FALSE_DISCOVERY = 0.05
MIN_COUNT = 10
EMPTY = "(empty)"
OTHERS = "(others)"
_MOST_TEXTS = 12  # more different numbers than these are put into four bins
_BINS = 4
_RESAMPLES = 1000


@dataclass(frozen=True)
class Slice:
    """The rows that have one `value` in a `column`, beside all others.

    `accuracy` and `log_loss` with 95 % intervals; `rest_accuracy` and `rest_log_loss` are of the other rows.
    Of tags the accuracy is the share of tags that are right. `p_value` is that of being no worse than the
    rest, `q_value` the false discovery rate at which it is found; NaN where too few rows were tested.
    """

    column: str
    value: str
    count: int
    accuracy: Interval
    log_loss: Interval
    rest_accuracy: float
    rest_log_loss: float
    p_value: float
    q_value: float
    worse: bool


def slices_of(
    predictions: Predictions,
    columns: Mapping[str, ArrayLike],
    *,
    min_count: int = MIN_COUNT,
    false_discovery: float = FALSE_DISCOVERY,
) -> Records[Slice]:
    """Return the slices of the columns, those that are worse than the rest first, then by accuracy.

    `columns`: text or numbers, one for each row of `predictions`. Numbers of many values are put into four
    bins of about as many rows. Values of fewer than `min_count` rows are put together and not tested, nor
    is a value that all rows have. Raises `UsageError` for a column of another length.

    >>> table = Predictions([[2.0, 0.0]] * 40, ("cat", "dog"), targets=[0] * 20 + [1] * 20)
    >>> found = slices_of(table, {"camera": ["old"] * 20 + ["new"] * 20})
    >>> [(each.value, each.accuracy.value, each.worse) for each in found]
    [('new', 0.0, True), ('old', 1.0, False)]
    """
    for name, values in columns.items():
        if len(np.asarray(values, dtype=object)) != len(predictions):
            raise UsageError(f"the column {name!r} has not one cell for each of {len(predictions)} rows")
    scored = predictions.scored()
    rows = np.flatnonzero(predictions.scored_rows)
    ranks = _ranks(scored)
    wrong = _wrong(scored)
    parts = [
        (name, value, members, tested)
        for name, values in columns.items()
        for value, members, tested in _parts(np.asarray(values, dtype=object)[rows], max(min_count, 1))
    ]
    chances = np.array(
        [_chance(wrong, ranks, members) if tested else math.nan for *_, members, tested in parts]
    )
    rates = false_discovery_rates(chances)
    found = [
        _slice(scored, name, value, members, float(chance), float(rate), false_discovery)
        for (name, value, members, _), chance, rate in zip(parts, chances, rates, strict=True)
    ]
    return Records(Slice, sorted(found, key=_order))


def false_discovery_rates(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the false discovery rate at which each test is a finding (Benjamini & Hochberg 1995).

    NaN where the test was not made; such ones do not count.
    """
    rates = np.full(len(p_values), np.nan)
    made = np.flatnonzero(~np.isnan(p_values))
    order = made[np.argsort(p_values[made], kind="stable")]
    scaled = p_values[order] * len(order) / np.arange(1, len(order) + 1)
    rates[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return rates


def _order(each: Slice) -> tuple[bool, float, float]:
    accuracy = each.accuracy.value
    return (
        not each.worse,
        each.q_value if each.worse else 0.0,
        math.inf if math.isnan(accuracy) else accuracy,
    )


def _wrong(scored: Predictions) -> NDArray[np.bool_]:
    """Whether each row is wrong; of tags, whether any is."""
    if len(scored) == 0:
        return np.zeros(0, np.bool_)
    differs = scored.predicted != np.asarray(scored.targets)
    return np.asarray(differs.any(axis=1) if scored.task is Task.MULTI_LABEL else differs)


def _ranks(scored: Predictions) -> NDArray[np.float64]:
    """The ranks of the losses, equal ones shared; a loss that is not finite is the worst."""
    losses = np.nan_to_num(scored.loss, nan=np.inf, posinf=np.inf)
    _, place, counts = np.unique(losses, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


def _parts(values: NDArray[np.object_], min_count: int) -> list[tuple[str, NDArray[np.bool_], bool]]:
    """Return the values of a column, which rows have each, and whether it is to be tested."""
    texts = _binned(values)
    names, place, counts = np.unique(texts, return_inverse=True, return_counts=True)
    large = counts >= min_count
    found = [
        (str(names[number]), place == number, int(counts[number]) < len(texts))
        for number in np.flatnonzero(large)
    ]
    small = ~large[place] if len(names) else np.zeros(0, np.bool_)
    return [*found, (OTHERS, small, False)] if small.any() else found


def _binned(values: NDArray[np.object_]) -> NDArray[np.str_]:
    """Return the cells as text; numbers of many values as the bin that they are in."""
    texts = np.array([_spelled(value) for value in values.tolist()], dtype=np.str_)
    numbers = np.array([_number(text) for text in texts.tolist()])
    known = ~np.isnan(numbers)
    if not known.any() or (~known & (texts != EMPTY)).any() or len(np.unique(numbers[known])) <= _MOST_TEXTS:
        return texts
    edges = np.unique(np.quantile(numbers[known], np.linspace(0, 1, _BINS + 1)))
    bins = np.clip(np.searchsorted(edges, numbers[known], side="right") - 1, 0, len(edges) - 2)
    spelled = texts.astype(object)
    spelled[known] = [f"{edges[bin]:g} to {edges[bin + 1]:g}" for bin in bins.tolist()]
    return spelled.astype(np.str_)


def _spelled(value: object) -> str:
    text = "" if value is None or value != value else str(value).strip()
    return text or EMPTY


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _chance(wrong: NDArray[np.bool_], ranks: NDArray[np.float64], members: NDArray[np.bool_]) -> float:
    """Return the p-value of a slice that is no worse than the rest, of both tests together."""
    from scipy.stats import hypergeom, norm

    total, count = len(wrong), int(members.sum())
    of_wrong = float(hypergeom.sf(int(wrong[members].sum()) - 1, total, int(wrong.sum()), count))
    # The variance of the mean of ranks that are drawn without putting back; ties make it smaller.
    spread = count * (total - count) / (total - 1) * float(ranks.var())
    above = float(ranks[members].sum()) - count * float(ranks.mean()) - 0.5
    of_losses = float(norm.sf(above / math.sqrt(spread))) if spread > 0 else 1.0
    return min(1.0, 2 * min(of_wrong, of_losses))


def _slice(
    scored: Predictions,
    column: str,
    value: str,
    members: NDArray[np.bool_],
    chance: float,
    rate: float,
    false_discovery: float,
) -> Slice:
    part, rest = scored.take(members), scored.take(~members)
    return Slice(
        column=column,
        value=value,
        count=len(part),
        accuracy=interval(part, "accuracy", resamples=_RESAMPLES),
        log_loss=interval(part, "log_loss", resamples=_RESAMPLES),
        rest_accuracy=metric("accuracy")(rest),
        rest_log_loss=metric("log_loss")(rest),
        p_value=chance,
        q_value=rate,
        worse=bool(rate <= false_discovery),
    )
