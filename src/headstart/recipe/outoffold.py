"""Out-of-fold predictions of a probe on frozen features: each picture by models that never saw it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.data import folds as spread_over_folds
from headstart.errors import DataError, UsageError
from headstart.evaluation import Predictions
from headstart.models import OnnxEngine, cached_engine, fit_probe, weights_identity
from headstart.recipe.body import Body
from headstart.types import Task

if TYPE_CHECKING:
    from headstart.data import Samples
    from headstart.imagedata import ImageData
    from headstart.models import Engine

Floats = NDArray[np.float32]
OnProgress = Callable[[int, int], None]

FOLDS = 5
# The folds are drawn anew so often, and the probabilities averaged: a picture's neighbours change, and with
# them what is said of it. Not where a fit takes long.
REPEATS = 3
ONE_REPEAT_FROM = 2e9
_SMALLEST = 1e-12


def frozen_body(data: ImageData, body: Body, *, device: str = "auto") -> tuple[ImageData, Engine, str]:
    """Return data cut to size as the weights ask for, what runs the frozen body, and the weights' identity.

    Without torch where the body's graph was made before. Raises `UsageError` without pretrained weights.
    """
    if body.from_scratch:
        raise UsageError(
            "a network from scratch has no frozen features to judge labels by",
            "train a run from pretrained weights, without --from-scratch",
        )
    identity = weights_identity(body.arch, body.weights)
    engine = cached_engine(identity, data.image_size, threads=data.threads)
    if isinstance(engine, OnnxEngine) and engine.facts is not None:
        return data.for_weights(engine.facts.crop_fraction, engine.facts.interpolation), engine, identity
    from headstart.learner import Learner

    learner = Learner(data, body.arch, weights=body.weights, device=device, callbacks=())
    return learner.data, learner.engine(), identity


def out_of_fold(
    features: NDArray[np.floating[Any]],
    samples: Samples,
    *,
    groups: NDArray[np.int64] | None = None,
    part: float = 1.0,
    folds: int = FOLDS,
    repeats: int | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Predictions:
    """Return predictions of all rows, each by probes that were fitted without its fold.

    `features` (rows, …) of the labelled `samples`, row by row. Rows of one group (`groups`), copies above
    all, are in one fold, or one would tell of the other. `part`: fit to so much of the other folds only,
    each class in its share. The probabilities are the mean over `repeats` (3; once where a fit takes long)
    draws of the folds. Raises `DataError` TOO_FEW where there are fewer than two groups.
    """
    rows = np.asarray(features, np.float32).reshape(len(features), -1)
    units = len(samples) if groups is None else len(np.unique(groups))
    if units < 2:
        raise DataError(
            f"{units} pictures that differ cannot be told apart", "add labelled pictures", code="TOO_FEW"
        )
    count = min(folds, units)
    size = rows.size * len(samples.classes)
    times = repeats or (1 if size > ONE_REPEAT_FROM else REPEATS)
    total = np.zeros((len(samples), len(samples.classes)))
    for repeat in range(times):
        fold = spread_over_folds(samples, count, seed=seed + repeat, groups=groups)
        for number in range(count):
            known = np.flatnonzero(fold != number)
            if part < 1:
                known = _some_of(samples, known, part, groups, seed + repeat)
            total[fold == number] += _told(rows, samples, known, fold == number, groups, seed)
            if on_progress is not None:
                on_progress(repeat * count + number + 1, times * count)
    return _as_predictions(samples, total / times)


def _told(
    rows: Floats,
    samples: Samples,
    known: NDArray[np.int64],
    asked: NDArray[np.bool_],
    groups: NDArray[np.int64] | None,
    seed: int,
) -> NDArray[np.float64]:
    """The probabilities of the rows `asked` by a probe that was fitted to the rows `known`."""
    probe = fit_probe(
        rows[known],
        samples.labels[known],
        len(samples.classes),
        seed=seed,
        groups=None if groups is None else groups[known],
    )
    told = Predictions(probe.logits(rows[asked]), samples.classes, samples.task)
    return np.asarray(told.probabilities, np.float64)


def _some_of(
    samples: Samples,
    rows: NDArray[np.int64],
    part: float,
    groups: NDArray[np.int64] | None,
    seed: int,
) -> NDArray[np.int64]:
    """A part of the rows, each class in its share and each group as a whole."""
    parts = max(2, round(1 / part))
    some = samples.take(rows)
    fold = spread_over_folds(some, parts, seed=seed, groups=None if groups is None else groups[rows])
    return np.asarray(rows[fold == 0], np.int64)


def _as_predictions(samples: Samples, chances: NDArray[np.float64]) -> Predictions:
    """Probabilities as predictions: the logits are their logarithms, of tags their log-odds."""
    safe = np.clip(chances, _SMALLEST, 1.0)
    logits = np.log(safe)
    if samples.task is Task.MULTI_LABEL:
        safe = np.clip(safe, _SMALLEST, 1 - _SMALLEST)
        logits = np.log(safe) - np.log1p(-safe)
    return Predictions(
        logits.astype(np.float32),
        samples.classes,
        samples.task,
        targets=samples.labels,
        paths=tuple(samples.place(row) for row in range(len(samples))),
        split=samples.split,
    )
