"""All figures of one table of predictions, each with its interval, overall and by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headstart.evaluation.conformal import SetReport, judge_sets
from headstart.evaluation.metrics import (
    METRICS,
    ClassMetrics,
    Gain,
    Interval,
    MetricLike,
    interval,
    metric,
    paired,
    per_class,
    wilson,
)
from headstart.evaluation.predictions import Predictions
from headstart.types import Task

# Of how many classes up the truth being among the first five says something.
FEWEST_FOR_TOP_5 = 11
SINGLE_ONLY = ("top_5", "balanced_accuracy", "cohen_kappa", "matthews")


@dataclass(frozen=True)
class ViewsGain:
    """What averaging views gained over the plain view on the same pictures, and what it cost.

    `policy`: its name; `views`: how many there are; `gains`: by metric, positive where the average is
    better; `cost`: how many times as long it takes, NaN where that was not measured.
    """

    policy: str
    views: int
    gains: dict[str, Gain]
    cost: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, with None for what is undefined."""
        return {
            "policy": self.policy,
            "views": self.views,
            "gains": {name: gain.to_dict() | {"verdict": gain.verdict} for name, gain in self.gains.items()},
            "cost": self.cost if math.isfinite(self.cost) else None,
        }


@dataclass(frozen=True)
class Evaluation:
    """What a model's predictions of labelled pictures are worth.

    `pictures`: how many were scored; `left_out`: how many were not (without a label, or unreadable);
    `figures`: every metric with its interval; `classes`: those of each class; `sets`: how the sets of
    classes fare, where the model makes them; `none_of_these`: the share that it calls none of its classes;
    `views`: what averaging views gained, where it was done.
    """

    pictures: int
    left_out: int
    figures: dict[str, Interval]
    classes: tuple[ClassMetrics, ...]
    sets: SetReport | None = None
    none_of_these: Interval | None = None
    views: ViewsGain | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON, with None for what is undefined."""
        return {
            "pictures": self.pictures,
            "left_out": self.left_out,
            "figures": {name: value.to_dict() for name, value in self.figures.items()},
            "classes": [_class_to_dict(each) for each in self.classes],
            "sets": None if self.sets is None else self.sets.to_dict(),
            "none_of_these": None if self.none_of_these is None else self.none_of_these.to_dict(),
            "tta": None if self.views is None else self.views.to_dict(),
            "notes": list(self.notes),
        }


def metrics_for(predictions: Predictions) -> tuple[str, ...]:
    """Return the names of the metrics that have a meaning for these predictions."""
    tags = predictions.task is Task.MULTI_LABEL
    without = set(SINGLE_ONLY) if tags else set()
    if len(predictions.classes) < FEWEST_FOR_TOP_5:
        without.add("top_5")
    return tuple(name for name in METRICS if name not in without)


def judge(
    predictions: Predictions,
    metrics: Sequence[MetricLike] | None = None,
    *,
    resamples: int = 2000,
    level: float = 0.9,
    views: ViewsGain | None = None,
    notes: tuple[str, ...] = (),
) -> Evaluation:
    """Return every figure of the scored rows with its interval, overall and by class.

    `metrics`: names, or functions of `Predictions` of one's own (default: all that have a meaning);
    `level`: how often the sets in the table promise to hold the truth. Undefined figures are NaN.

    >>> table = Predictions([[2.0, 0.0], [0.5, 1.5]] * 20, ("cat", "dog"), targets=[0, 1] * 20)
    >>> judge(table, ["accuracy"]).figures["accuracy"].value
    1.0
    """
    scored = predictions.scored()
    chosen = metrics_for(predictions) if metrics is None else metrics
    return Evaluation(
        pictures=len(scored),
        left_out=len(predictions) - len(scored),
        figures={metric(each).name: interval(scored, each, resamples=resamples) for each in chosen},
        classes=tuple(per_class(scored, resamples=resamples)),
        sets=None if scored.sets is None else judge_sets(scored, scored.sets, level),
        none_of_these=_share(int(scored.none_of_these.sum()), len(scored))
        if scored.strangeness is not None and len(scored)
        else None,
        views=views,
        notes=notes,
    )


def gain_of_views(
    policy: str, views: int, plain: Predictions, averaged: Predictions, *, cost: float = math.nan
) -> ViewsGain:
    """Return what an average over views gained over the plain view, by the paired bootstrap."""
    names = ("f2", "log_loss") if plain.task is Task.MULTI_LABEL else ("accuracy", "log_loss")
    gains = {name: paired(plain, averaged, name) for name in names}
    return ViewsGain(policy, views, gains, cost)


def _share(hits: int, count: int) -> Interval:
    return Interval(hits / count, *wilson(hits, count))


def _class_to_dict(each: ClassMetrics) -> dict[str, Any]:
    def ends(value: float, pair: tuple[float, float]) -> dict[str, float | None]:
        return Interval(value, *pair).to_dict()

    return {
        "class": each.name,
        "count": each.count,
        "predicted": each.predicted,
        "hits": each.hits,
        "recall": each.recall.to_dict(),
        "precision": each.precision.to_dict(),
        "f1": ends(each.f1, each.f1_ends),
        "average_precision": ends(each.average_precision, each.average_precision_ends),
    }
