"""What to label next: pictures that a model is unsure of and that differ, or classes that still learn.

Uncertain pictures alone are often twenty views of one thing. As in Zhdanov 2019 ("Diverse mini-batch Active
Learning", arXiv 1901.05954) only the most uncertain come into question, by the margin between the two most
probable classes (Scheffer, Decomain & Wrobel 2001); among them they are chosen one by one, each far from all
that are labelled or chosen, as in the core sets of Sener & Savarese 2018 (arXiv 1708.00489): the greedy
k-centre, with the distances weighted by the uncertainty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.errors import UsageError
from headstart.evaluation.predictions import Predictions
from headstart.types import Task

Floats = NDArray[np.float64]

# Of so many times the number that is asked for the choice is made: Zhdanov's β.
CANDIDATES = 10
RESAMPLES = 2000
_AT_ONCE = 1024


def uncertainty(predictions: Predictions) -> Floats:
    """Return how unsure each row is, float64 (rows,), from 0 to 1.

    One less the margin between the two most probable classes; of tags, that of the most uncertain tag.
    """
    chances = np.asarray(predictions.probabilities, np.float64)
    if predictions.task is Task.MULTI_LABEL:
        return np.asarray((1.0 - np.abs(2.0 * chances - 1.0)).max(1, initial=0.0))
    if chances.shape[1] < 2:
        return np.zeros(len(chances))
    two = np.partition(chances, -2, axis=1)[:, -2:]
    return np.asarray(1.0 - (two[:, 1] - two[:, 0]))


def choose_next(
    features: ArrayLike, unsure: ArrayLike, count: int, *, labelled: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Return the rows to label next, most useful first: int64, `count` of them or as many as there are.

    `features` (rows, …) of pictures without labels, `unsure` (rows,) their uncertainty, `labelled`
    (others, …) the features of those that have labels: what is much like one of them comes late. The
    outcome does not depend on chance. Raises `UsageError` for arrays that do not match.
    """
    doubt = np.asarray(unsure, np.float64)
    rows = np.asarray(features, np.float32).reshape(len(doubt), -1) if len(doubt) else np.zeros((0, 1))
    if len(np.asarray(features)) != len(doubt) or count < 0:
        raise UsageError(f"{len(np.asarray(features))} features and {len(doubt)} uncertainties do not match")
    candidates = np.argsort(-doubt, kind="stable")[: CANDIDATES * count]
    if not len(candidates):
        return np.zeros(0, np.int64)
    known = None if labelled is None else np.asarray(labelled, np.float32)
    known = None if known is None or not len(known) else known.reshape(len(known), -1)
    centre = (rows if known is None else np.concatenate([rows, known])).mean(0, dtype=np.float64)
    unit = _unit(rows[candidates], centre)
    far = np.full(len(unit), 2.0)
    if known is not None:
        far = _to_nearest(unit, _unit(known, centre))
    chosen: list[int] = []
    # Where all distances are nought the uncertainty still decides.
    weight, left = doubt[candidates] + 1e-9, np.ones(len(unit), np.bool_)
    for _ in range(min(count, len(unit))):
        worth = np.where(left, weight * (far + 1e-9), -1.0)
        best = int(worth.argmax())
        chosen.append(best)
        left[best] = False
        far = np.minimum(far, np.maximum(0.0, 1.0 - unit @ unit[best]))
    return np.asarray(candidates[chosen], np.int64)


def _unit(rows: NDArray[np.floating[Any]], centre: Floats) -> NDArray[np.float32]:
    """Rows (rows, features) less the centre, at unit length."""
    centred = rows.astype(np.float32) - centre.astype(np.float32)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(length, 1e-12), np.float32)


def _to_nearest(unit: NDArray[np.float32], known: NDArray[np.float32]) -> Floats:
    far = np.full(len(unit), 2.0)
    for start in range(0, len(known), _AT_ONCE):
        far = np.minimum(far, 1.0 - (unit @ known[start : start + _AT_ONCE].T).max(1))
    return np.asarray(np.maximum(far, 0.0), np.float64)


@dataclass(frozen=True)
class Rise:
    """How much better a class is recognised with all pictures than with half, as a share of its pictures.

    `half`, `whole`: the recall with each; `low`, `high`: the 95 % interval of the difference.
    """

    name: str
    pictures: int
    half: float
    whole: float
    low: float
    high: float

    @property
    def still_rises(self) -> bool:
        """Whether more pictures of the class will help, as far as one can tell."""
        return self.low > 0


def rises(half: Predictions, whole: Predictions, *, seed: int = 0) -> list[Rise]:
    """Compare predictions by models of half the pictures and of all: a `Rise` each class, steepest first.

    Both out of fold, of the same labelled rows. The interval is that of the paired bootstrap over the
    pictures of the class. Classes without a picture are left out. Raises `UsageError` for different rows.
    """
    if half.targets is None or whole.targets is None or not np.array_equal(half.targets, whole.targets):
        raise UsageError("the two tables are not of the same labelled pictures")
    random = np.random.default_rng(seed)
    found = []
    for number, name in enumerate(whole.classes):
        before, after = (_right(table, number) for table in (half, whole))
        if not len(before):
            continue
        change = after.astype(np.int64) - before
        shares = np.bincount(change + 1, minlength=3) / len(change)
        drawn = random.multinomial(len(change), shares, RESAMPLES)
        low, high = np.quantile((drawn[:, 2] - drawn[:, 0]) / len(change), (0.025, 0.975))
        found.append(
            Rise(name, len(change), float(before.mean()), float(after.mean()), float(low), float(high))
        )
    return sorted(found, key=lambda rise: (rise.half - rise.whole, rise.name))


def _right(predictions: Predictions, number: int) -> NDArray[np.int64]:
    """Whether each picture of a class (each that has a tag) was recognised, 0 or 1."""
    assert predictions.targets is not None
    if predictions.task is Task.MULTI_LABEL:
        own = predictions.targets[:, number] == 1
        return np.asarray(predictions.probabilities[own, number] >= 0.5, np.int64)
    own = predictions.targets == number
    return np.asarray(predictions.probabilities[own].argmax(1) == number, np.int64)
