"""Thresholds: the probability from which on a tag is said, fitted to the score that is asked for.

A few hundred decisions choose badly among a hundred thresholds for each tag. So each row stands beside
rows that the model imagines, whose tags are drawn from its own probabilities, shifted until each tag is
as likely as it is often: that shows what many more rows would. And a tag leaves the threshold that suits
all tags only where that pays clearly. Measured, thresholds fitted to 140 rows and scored on 560 others,
two tags: the F2 is 0.882 at 0.5, 0.903 with the best threshold for each, 0.909 in this way; where tags
are surer or shyer than they should be (by one and by three halves in the logit) 0.860, 0.903 and 0.897.
On twelve tags from common to rare: 0.612, 0.713 and 0.727; by their macro F1 0.534, 0.605 and 0.611.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from headstart.evaluation import scores
from headstart.evaluation.calibration import halves_of
from headstart.evaluation.metrics import METRICS, metric
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.scores import Floats
from headstart.types import Task

Bools = NDArray[np.bool_]

PLAIN = 0.5
# Hundredths: finer ones are not told apart by any number of rows that a person labels.
GRID = np.arange(1, 100) / 100
# How often each row is imagined, what such a row counts, and how many there are at most.
IMAGINED = 4
IMAGINED_WEIGHT = 0.5
MOST_IMAGINED = 4000
# What a threshold of its own must gain, and how often all tags are gone through.
MARGIN = 0.003
MOST_ROUNDS = 5
FITTED = ("f2", "macro_f1", "micro_f1")
DECIDED_EVENLY = ("accuracy", "error_rate")


def decided_by(name: str) -> str:
    """Return the metric that thresholds are fitted to where `name` is asked for.

    `f2`, `macro_f1` and `micro_f1` are fitted to themselves; `accuracy` and `error_rate` mean 0.5.
    Others, which no threshold changes or which alone would say every tag or none, stand back for `f2`.
    Raises `UsageError` for a name that is not known.
    """
    metric(name)
    return name if name in FITTED + DECIDED_EVENLY else "f2"


def fit_thresholds(predictions: Predictions, name: str = "f2", *, seed: int = 0) -> Floats:
    """Return the threshold of each tag, float64 (tags,) in hundredths, for the metric `name`.

    Rows without a truth play no part, and the order of the rows none; without any row it is 0.5 each.

    >>> shy = Predictions([[-1.0], [-1.2], [-3.0], [-4.0]] * 50, ("rain",), Task.MULTI_LABEL,
    ...     targets=[[1], [1], [0], [0]] * 50)
    >>> bool(0.05 < fit_thresholds(shy)[0] <= 0.23)
    True
    """
    wanted, usable = decided_by(name), _usable(predictions)
    if wanted in DECIDED_EVENLY or len(usable) == 0:
        return np.full(len(predictions.classes), PLAIN)
    return _Fit(usable, wanted, seed).best()


def cross_decided(predictions: Predictions, name: str = "f2", *, seed: int = 0) -> Predictions:
    """Return the rows, each decided by the thresholds that the other half of the rows gives.

    What is measured on the result is what thresholds do for rows that they were not fitted to. Classes
    need no thresholds, and are returned as they are.
    """
    if predictions.task is not Task.MULTI_LABEL:
        return predictions
    halves = halves_of(predictions, seed)
    thresholds = np.full(predictions.logits.shape, PLAIN)
    for half in (0, 1):
        other = predictions.take(halves == 1 - half)
        thresholds[halves == half] = fit_thresholds(other, name, seed=seed)
    return replace(predictions, thresholds=thresholds)


def every_tag(predictions: Predictions) -> Predictions:
    """Return the same rows with every tag said of each: the score that costs nothing, not even a look."""
    always = np.full(predictions.logits.shape, 30.0, np.float32)
    return replace(predictions, logits=always, temperature=1.0, scaling=None, thresholds=None)


def _usable(predictions: Predictions) -> Predictions:
    scored = predictions.scored()
    usable = scored.take(np.isfinite(scored.logits).all(axis=1))
    return usable.take(np.argsort(usable.rows, kind="stable"))


class _Fit:
    """The rows and those that are imagined, and what they count; finds the thresholds."""

    def __init__(self, predictions: Predictions, wanted: str, seed: int) -> None:
        seen, truth = predictions.probabilities, scores.one_hot(predictions) > 0
        times = min(IMAGINED, MOST_IMAGINED // len(seen))
        repeated = np.repeat(_as_often(seen, truth), times, axis=0)
        drawn = np.random.default_rng(seed).uniform(size=repeated.shape) < repeated
        self.seen = np.concatenate([seen, repeated])
        self.truth = np.concatenate([truth, drawn])
        weight = np.repeat([1.0, IMAGINED_WEIGHT], [len(seen), len(repeated)])
        self.weight = weight / weight.sum()
        self.wanted = wanted

    def best(self) -> Floats:
        """Begin with one threshold for all; go through the tags until none gains by its own."""
        tags = self.seen.shape[1]
        common = _middle_best(np.array([self._score(self.seen >= each) for each in GRID]))
        chosen = np.full(tags, common)
        said = self.seen >= GRID[common]
        for _ in range(MOST_ROUNDS):
            before = chosen.copy()
            for tag in range(tags):
                options = self.seen[:, tag, None] >= GRID
                found = self._scores(said, tag, options)
                if found.max() > found[chosen[tag]] + MARGIN:
                    chosen[tag] = _middle_best(found)
                    said[:, tag] = options[:, chosen[tag]]
            if (chosen == before).all():
                break
        return np.asarray(GRID[chosen])

    def _score(self, said: Bools) -> float:
        return float(self._scores(said, 0, said[:, :1])[0])

    def _scores(self, said: Bools, tag: int, options: Bools) -> Floats:
        """The score of each way to decide about one tag (rows, options), the others as in `said`."""
        here = self.truth[:, tag, None]
        if self.wanted == "f2":
            others = said.copy()
            others[:, tag] = False
            hits = (others & self.truth).sum(1)[:, None] + (options & here)
            total = 4.0 * self.truth.sum(1)[:, None] + others.sum(1)[:, None] + options
            return np.asarray(self.weight @ scores.ratio(5.0 * hits, total, empty=1.0))
        totals = np.concatenate([said & self.truth, said, self.truth], axis=1)
        means = np.tile(self.weight @ totals, (options.shape[1], 1))
        means[:, tag] = self.weight @ (options & here)
        means[:, said.shape[1] + tag] = self.weight @ options
        combine = METRICS[self.wanted].combine
        assert combine is not None  # the others in FITTED are functions of means
        return combine(means)


def _as_often(seen: Floats, truth: Bools) -> Floats:
    """Return the probabilities (rows, tags), each tag shifted in the logit until it is as likely as often.

    A model that says a tag too often, or too rarely, would imagine it so. Two rows count as the model
    says, so that a tag which no row has is not impossible.
    """
    often = (truth.sum(0) + 2 * seen.mean(0)) / (len(seen) + 2)
    inside = np.clip(seen, 1e-9, 1 - 1e-9)
    logits = np.log(inside) - np.log1p(-inside)
    low, high = np.full(seen.shape[1], -30.0), np.full(seen.shape[1], 30.0)
    for _ in range(40):
        middle = (low + high) / 2
        below = (1 / (1 + np.exp(-logits - middle))).mean(0) < often
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray(1 / (1 + np.exp(-logits - low)))


def _middle_best(found: Floats) -> int:
    """The place of the best; of a run of equals the middle one, which lies farthest from being wrong."""
    equal = np.flatnonzero(found >= found.max() - 1e-12)
    run = equal[: int(np.argmax(np.diff(equal, append=len(found) + 2) > 1)) + 1]
    return int(run[len(run) // 2])
