"""Thresholds: the probability from which on a tag is said, fitted to the score that is asked for.

Few rows choose badly among many thresholds. So three ways compete, each fitted to one half of the rows
and scored on the other, both ways round: 0.5 for every tag, one other threshold for every tag, and one
for each. What is reported is decided the same way once more: no row by a threshold that it helped to
choose, nor by a way that it helped to choose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from headstart.evaluation import scores
from headstart.evaluation.calibration import halves_of
from headstart.evaluation.metrics import METRICS, metric
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.scores import Floats
from headstart.types import Task

PLAIN = 0.5
# Hundredths: finer ones are not told apart by any number of rows that a person labels.
GRID = np.arange(1, 100) / 100
# Rounds over all tags; each score is a joint one, so that a tag's best depends on those of the others.
MOST_ROUNDS = 5

Bools = NDArray[np.bool_]
_Fit = Callable[[Predictions, str], Floats]


def decided_by(name: str) -> str:
    """Return the metric that thresholds are fitted to where `name` is asked for.

    `f2`, `macro_f1` and `micro_f1` are fitted to themselves; `accuracy` and `error_rate` mean 0.5.
    Others, which no threshold changes or which alone would say every tag or none, stand back for `f2`.
    Raises `UsageError` for a name that is not known.
    """
    metric(name)
    return name if name in ("f2", "macro_f1", "micro_f1", "accuracy", "error_rate") else "f2"


def fit_thresholds(predictions: Predictions, name: str = "f2", *, seed: int = 0) -> Floats:
    """Return the threshold of each tag, float64 (tags,) in hundredths, that gives the best score.

    0.5 each where nothing else scores better on rows that it was not fitted to; then one for all
    tags, unless one for each scores better still. Rows without a truth play no part.

    >>> shy = Predictions([[-1.0], [-1.2], [-3.0], [-4.0]] * 5, ("rain",), Task.MULTI_LABEL,
    ...     targets=[[1], [1], [0], [0]] * 5)
    >>> bool(0.05 < fit_thresholds(shy)[0] <= 0.23)
    True
    """
    wanted, usable = decided_by(name), _usable(predictions)
    best, chosen = -np.inf, _plain
    for fit in (_plain, _one_for_all, _one_for_each) if len(usable) > 1 else ():
        score = METRICS[wanted](_crossed(usable, fit, wanted, seed))
        score = score if METRICS[wanted].higher_is_better else -score
        if score > best + 1e-9:
            best, chosen = score, fit
        if wanted in ("accuracy", "error_rate"):
            break
    return chosen(usable, wanted)


def cross_decided(predictions: Predictions, name: str = "f2", *, seed: int = 0) -> Predictions:
    """Return the rows, each decided by the thresholds that the other half of the rows gives.

    What is measured on the result is what thresholds do for rows that they were not fitted to. Classes
    need no thresholds, and are returned as they are.
    """
    if predictions.task is not Task.MULTI_LABEL or not predictions.scored_rows.any():
        return predictions

    def fit(half: Predictions, wanted: str) -> Floats:
        return fit_thresholds(half, wanted, seed=seed)

    return _crossed(predictions, fit, name, seed)


def every_tag(predictions: Predictions) -> Predictions:
    """Return the same rows as if every tag were said of each: what a score costs that asks for no look."""
    always = np.full(predictions.logits.shape, 30.0, np.float32)
    return replace(predictions, logits=always, temperature=1.0, thresholds=None)


def _usable(predictions: Predictions) -> Predictions:
    scored = predictions.scored()
    return scored.take(np.isfinite(scored.logits).all(axis=1))


def _crossed(predictions: Predictions, fit: _Fit, wanted: str, seed: int) -> Predictions:
    halves = halves_of(predictions, seed)
    thresholds = np.full(predictions.logits.shape, PLAIN)
    for half in (0, 1):
        other = predictions.take(halves == 1 - half)
        if len(other):
            thresholds[halves == half] = fit(other, wanted)
    return replace(predictions, thresholds=thresholds)


def _plain(predictions: Predictions, wanted: str) -> Floats:
    return np.full(len(predictions.classes), PLAIN)


def _one_for_all(predictions: Predictions, wanted: str) -> Floats:
    """The best of the grid for all tags; of equals the middle one."""
    function = METRICS[wanted]
    found = [
        function(replace(predictions, thresholds=np.full(len(predictions.classes), each))) for each in GRID
    ]
    return np.full(len(predictions.classes), GRID[_middle_best(np.array(found))])


def _one_for_each(predictions: Predictions, wanted: str) -> Floats:
    """Tag by tag the best of the grid, the others being what they are, until nothing gets better."""
    probabilities = predictions.probabilities
    truth = scores.one_hot(predictions) > 0
    thresholds = _one_for_all(predictions, wanted)
    said = probabilities >= thresholds
    best = -np.inf
    for _ in range(MOST_ROUNDS):
        before = best
        for tag in range(said.shape[1]):
            options = probabilities[:, tag, None] >= GRID
            found = _scores_of(wanted, truth, said, tag, options)
            if found.max() > best + 1e-9:
                choice = _middle_best(found)
                thresholds[tag], said[:, tag], best = GRID[choice], options[:, choice], found[choice]
        if best <= before:
            break
    return thresholds


def _scores_of(wanted: str, truth: Bools, said: Bools, tag: int, options: Bools) -> Floats:
    """The score for each way to decide about one tag (rows, options), the others decided as `said`."""
    if wanted == "f2":
        return _row_scores(truth, said, tag, options, beta=2.0)
    hits, guess, actual = (said & truth).mean(0), said.mean(0), truth.mean(0)
    means = np.tile(np.concatenate([hits, guess, actual]), (options.shape[1], 1))
    means[:, tag] = (options & truth[:, tag, None]).mean(0)
    means[:, len(hits) + tag] = options.mean(0)
    combine = METRICS[wanted].combine
    assert combine is not None  # those that are fitted to are functions of means
    return combine(means)


def _row_scores(truth: Bools, said: Bools, tag: int, options: Bools, *, beta: float) -> Floats:
    others = said.copy()
    others[:, tag] = False
    hits = (others & truth).sum(1)[:, None] + (options & truth[:, tag, None])
    total = beta**2 * truth.sum(1)[:, None] + others.sum(1)[:, None] + options
    return np.asarray(scores.ratio((1 + beta**2) * hits, total, empty=1.0).mean(0))


def _middle_best(found: Floats) -> int:
    """The place of the best; of a run of equals the middle one, which lies farthest from being wrong."""
    equal = np.flatnonzero(found >= found.max() - 1e-12)
    run = equal[: int(np.argmax(np.diff(equal, append=len(found) + 2) > 1)) + 1]
    return int(run[len(run) // 2])
