"""A model and labelled pictures: what its predictions of them are worth."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.data import Samples
from headstart.data.facts import Facts
from headstart.deploy.predictor import Predictor
from headstart.errors import DataError, UsageError
from headstart.evaluation import (
    Evaluation,
    Predictions,
    ViewsGain,
    gain_of_views,
    judge,
    refuse_mirrored,
)
from headstart.evaluation.metrics import MetricLike
from headstart.types import Task

PARTS = ("auto", "all", "train", "valid", "test")
# So many pictures are predicted twice to know how much longer several views take.
TIMED = 64


@dataclass(frozen=True, eq=False)
class Evaluated:
    """The predictions of a model for labelled pictures, and what they are worth.

    `predictions`: one row for each picture with a label, numbered and split as in the table; `part`:
    which part of it they are. `facts`: what was measured of each picture, None where it cannot be read.
    `features` float32 (some, features): what entered the first network's head for the rows `feature_rows`
    of the table, at most 2,000 spread over all; None where the bundle does not ask for it.
    """

    predictions: Predictions
    evaluation: Evaluation
    part: str
    facts: tuple[Facts | None, ...] = ()
    features: NDArray[np.float32] | None = None
    feature_rows: NDArray[np.int64] | None = None


def evaluate(
    predictor: Predictor,
    samples: Samples,
    *,
    part: str = "auto",
    metrics: Sequence[MetricLike] | None = None,
    tta: bool | str | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluated:
    """Predict the labelled pictures of a table and judge the predictions; classes are matched by name.

    `part`: which rows: `train`, `valid`, `test` or `all`; `auto` takes the test part where it has labels,
    else the validation part, else all. `metrics`: names, or functions of `Predictions` of one's own (default:
    all that have a meaning). `tta`: as for `Predictor.predict`; with several views the gain over the plain
    one is reported, and how much longer they take.

    Raises `DataError` where no picture has a label, or one is of a class that the model does not know, and
    `UsageError` where mirrored views are asked for and pictures show other classes when mirrored.
    """
    part, rows = _rows(samples, part)
    chosen = samples.take(rows)
    targets = targets_by_name(chosen, predictor.classes, predictor.manifest.task)
    seen = predictor.predict_samples(chosen, tta=tta, on_progress=on_progress)

    def labelled(table: Predictions) -> Predictions:
        return replace(table, targets=targets, split=chosen.split, index=rows)

    averaged, views = labelled(seen.averaged), None
    if seen.averaged is not seen.plain:
        plain = labelled(seen.plain)
        if seen.mirrored is not None and plain.task is Task.SINGLE_LABEL:
            refuse_mirrored(plain, labelled(seen.mirrored))
        views = _gain(predictor, chosen, plain, averaged, tta)
    rule = predictor.manifest.sets
    level = 0.9 if rule is None else rule.level
    return Evaluated(
        averaged,
        judge(averaged, metrics, level=level, views=views),
        part,
        seen.facts,
        seen.features,
        None if seen.feature_rows is None else rows[seen.feature_rows],
    )


def targets_by_name(samples: Samples, classes: tuple[str, ...], task: Task) -> NDArray[Any]:
    """Return the labels of a table as numbers of a model's classes: int64 (rows,) or uint8 (rows, classes).

    Classes that no row has play no part. Raises `DataError` where rows are of a class that the model
    does not know, and `UsageError` where one is about tags and the other is not.
    """
    if samples.task is not task:
        kinds = {Task.SINGLE_LABEL: "one class for each picture", Task.MULTI_LABEL: "tags"}
        raise UsageError(
            f"the model gives {kinds[task]} and the pictures have {kinds[samples.task]}",
            "for tags name the table with --labels and its --label-delimiter",
        )
    counts = samples.counts()
    unknown = [name for name in samples.classes if counts[name] and name not in classes]
    if unknown:
        near = difflib.get_close_matches(unknown[0], classes, n=1, cutoff=0.7)
        raise DataError(
            f"the model does not know {len(unknown)} of the classes: "
            + ", ".join(f"{name} ({counts[name]} pictures)" for name in unknown[:5]),
            f"rename {unknown[0]} to {near[0]}" if near else "leave these pictures out, or train on them",
            code="UNKNOWN_CLASS",
        )
    number = {name: place for place, name in enumerate(classes)}
    if task is Task.SINGLE_LABEL:
        table = np.array([*(number.get(name, -1) for name in samples.classes), -1], np.int64)
        return np.asarray(table[samples.labels])
    targets = np.zeros((len(samples), len(classes)), np.uint8)
    for place, name in enumerate(samples.classes):
        if name in number:
            targets[:, number[name]] = samples.labels[:, place]
    return targets


def _rows(samples: Samples, part: str) -> tuple[str, NDArray[np.int64]]:
    """Return the part that is judged and its rows with a label."""
    if part not in PARTS:
        raise UsageError(f"there is no part {part!r}", f"choose from {', '.join(PARTS)}")
    labels = samples.labels
    labelled = np.ones(len(samples), bool) if labels.ndim == 2 else labels >= 0
    if part == "auto":
        part = next((each for each in ("test", "valid") if (labelled & (samples.split == each)).any()), "all")
    chosen = labelled if part == "all" else labelled & (samples.split == part)
    if not chosen.any():
        raise DataError(
            f"no picture of {'the data' if part == 'all' else f'the {part} part'} has a label",
            "give class folders or a table with labels, or choose another --part",
            code="NO_LABELS",
        )
    return part, np.flatnonzero(chosen)


def _gain(
    predictor: Predictor,
    samples: Samples,
    plain: Predictions,
    averaged: Predictions,
    tta: bool | str | None,
) -> ViewsGain:
    """Return what the views gained, and how much longer some of the pictures take with them."""
    some = samples.take(np.arange(min(TIMED, len(samples))))
    seconds = []
    for asked in (False, tta):
        started = time.perf_counter()
        predictor.predict_samples(some, tta=asked)
        seconds.append(time.perf_counter() - started)
    views = predictor.views(tta)
    policy = tta if isinstance(tta, str) else predictor.manifest.tta_policy
    return gain_of_views(policy, len(views.views), plain, averaged, cost=seconds[1] / seconds[0])
