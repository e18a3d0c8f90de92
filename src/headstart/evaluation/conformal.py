"""Sets of classes: as few as will do, so that the right one is among them as often as was asked for.

Split conformal prediction (Vovk et al. 2005): the limit is a quantile of what labelled pictures score, with
no assumption about the model or the pictures but that those to come are like those seen. A model that is
not sure answers with several classes, and the size of the set says how sure it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import UsageError
from headstart.evaluation.calibration import halves_of
from headstart.evaluation.metrics import Interval, wilson
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.scores import Floats, single_only, targets_of

Bools = NDArray[np.bool_]

LEVEL = 0.9


@dataclass(frozen=True)
class SetRule:
    """Which classes belong to a picture's set: those whose score is at most `limit`.

    `method`: a name in `SET_METHODS`; `level`: how often the right class is to be in the set, 0 … 1.
    """

    method: str
    level: float
    limit: float


@dataclass(frozen=True)
class SetReport:
    """What sets give rows that their limit was not fitted to.

    `coverage`: how often the truth is in the set, with Wilson's 95 % interval; `mean_size`: classes in a
    set; `single`: the share of sets of one class; `single_accuracy`: how often those are right, NaN where
    there are none.
    """

    level: float
    coverage: Interval
    mean_size: float
    single: float
    single_accuracy: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, with None for what is undefined."""
        plain = {name: value for name, value in asdict(self).items() if name != "coverage"}
        known = {name: value if math.isfinite(value) else None for name, value in plain.items()}
        return {**known, "coverage": self.coverage.to_dict()}


def doubt(predictions: Predictions) -> Floats:
    """Score each class (rows, classes) by 1 - its probability: the smallest sets (Sadinle et al. 2019)."""
    return np.asarray(1.0 - predictions.probabilities)


def mass_before(predictions: Predictions) -> Floats:
    """Score each class by the probability of it and of all that are more probable (APS).

    Sets grow with each picture's own doubt, so that hard pictures are covered about as often as easy ones;
    they are larger. Without the random step that would make the coverage exact: the same picture has the
    same set. Of equal classes the first comes first. Source: Romano et al. 2020, arXiv 2006.02544.
    """
    order = np.argsort(-predictions.probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(predictions.probabilities, order, axis=1)
    masses = np.empty_like(ranked)
    # Rounding would put the last class above 1, and so out of a set that lets every class in.
    np.put_along_axis(masses, order, np.minimum(np.cumsum(ranked, axis=1), 1.0), axis=1)
    return masses


SET_METHODS: dict[str, Callable[[Predictions], Floats]] = {"least": doubt, "adaptive": mass_before}
"""How sets are made, by name: `least` gives the smallest, `adaptive` (APS) those that grow with the doubt."""


def fit_sets(predictions: Predictions, *, level: float = LEVEL, method: str = "least") -> SetRule:
    """Return the rule by which sets hold the truth of pictures to come in `level` of the cases.

    The limit is the ⌈(n + 1) · level⌉-th smallest score of the truths of the n scored rows. Where they are
    too few to tell (n < level / (1 - level): 9 for 90 %), it lets every class in. Raises `UsageError` for
    tags, for another method and for a level outside 0 … 1.

    >>> table = Predictions([[2.0, 0.0], [0.1, 0.0]] * 10, ("cat", "dog"), targets=[0, 1] * 10)
    >>> sets_of(table, fit_sets(table)).tolist()[:2]
    [[True, False], [True, True]]
    """
    if not 0.0 < level < 1.0:
        raise UsageError(f"sets at the level {level}", "give a share between 0 and 1, such as 0.9")
    usable = _usable(predictions)
    own = np.take_along_axis(_scores(usable, method), targets_of(usable)[:, None], axis=1)[:, 0]
    place = math.ceil((len(own) + 1) * level)
    limit = 1.0 if place > len(own) else float(np.sort(own)[place - 1])
    return SetRule(method, level, limit)


def sets_of(predictions: Predictions, rule: SetRule) -> Bools:
    """Return which classes belong to each row's set: bool (rows, classes).

    The most probable class always does; rows that were not predicted have empty sets.
    """
    scores = _scores(predictions, rule.method)
    with np.errstate(invalid="ignore"):
        inside = scores <= rule.limit
    rows = np.flatnonzero(predictions.predicted >= 0)
    inside[rows, predictions.predicted[rows]] = True
    inside[predictions.predicted < 0] = False
    return np.asarray(inside)


def cross_fitted_sets(
    predictions: Predictions, *, level: float = LEVEL, method: str = "least", seed: int = 0
) -> SetReport:
    """Return what sets give each half of the rows by the limit of the other half."""
    usable = _usable(predictions)
    halves = halves_of(usable, seed)
    inside = np.zeros(usable.logits.shape, dtype=np.bool_)
    for half in (0, 1):
        rule = fit_sets(usable.take(halves == 1 - half), level=level, method=method)
        inside[halves == half] = sets_of(usable.take(halves == half), rule)
    return judge_sets(usable, inside, level)


def judge_sets(predictions: Predictions, inside: Bools, level: float) -> SetReport:
    """Return how often the sets `inside` (rows, classes) of scored rows hold the truth, and their sizes."""
    scored = predictions.scored_rows
    table, inside = predictions.take(scored), inside[scored]
    count = len(table)
    if count == 0:
        unknown = Interval(math.nan, math.nan, math.nan)
        return SetReport(level, unknown, math.nan, math.nan, math.nan)
    covered = np.take_along_axis(inside, targets_of(table)[:, None], axis=1)[:, 0]
    single = inside.sum(1) == 1
    hits = int(covered.sum())
    return SetReport(
        level,
        Interval(hits / count, *wilson(hits, count)),
        float(inside.sum(1).mean()),
        float(single.mean()),
        float(covered[single].mean()) if single.any() else math.nan,
    )


def _scores(predictions: Predictions, method: str) -> Floats:
    single_only(predictions, "a set of classes")
    if method not in SET_METHODS:
        raise UsageError(f"there are no sets {method!r}", f"choose from {', '.join(SET_METHODS)}")
    return SET_METHODS[method](predictions)


def _usable(predictions: Predictions) -> Predictions:
    single_only(predictions, "a set of classes")
    if predictions.targets is None:
        raise UsageError("no picture has a label, so nothing says how large a set must be")
    scored = predictions.scored()
    return scored.take(~np.isnan(scored.loss))
