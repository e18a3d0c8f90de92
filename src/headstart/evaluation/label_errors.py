"""Which labels are probably wrong, from probabilities of models that never saw the picture.

Confident learning (Northcutt, Jiang & Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset
Labels", JAIR 70). Each class has a threshold of its own: how sure the model is on average of the pictures
that carry the label. A picture that lies above the threshold of another class than its label counts as a
probable error; counted by label and class these make the confident joint. The probabilities must be out of
fold, or a model would only repeat the labels that it was fitted to.

For tags each tag is a question of its own, with the two classes "has it" and "has it not".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.errors import UsageError
from headstart.evaluation.predictions import Predictions
from headstart.types import Task

Floats = NDArray[np.float64]
Ranking = Literal["normalised_margin", "adjusted_margin", "self_confidence"]

# Of 5 % flipped labels of 800 flowers, mean of five plantings, the first tenth of the ranking holds 94.0 %
# by self-confidence, 93.0 % by the adjusted margin, 92.5 % by the normalised (`benchmarks/label_errors.py`).
DEFAULT_RANKING: Ranking = "self_confidence"


def class_thresholds(probabilities: ArrayLike, labels: ArrayLike) -> Floats:
    """Return how sure the model is on average of each class on pictures of that label, float64 (classes,).

    `probabilities` (rows, classes), `labels` (rows,) class numbers. A class that no row has gets infinity:
    nothing is ever confidently of it. Raises `UsageError` for arrays that do not match. Northcutt et al.
    2021, equation 2.
    """
    chances, given = _checked(probabilities, labels)
    own = chances[np.arange(len(given)), given]
    sums = np.bincount(given, weights=own, minlength=chances.shape[1])
    counts = np.bincount(given, minlength=chances.shape[1])
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def confident_classes(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """Return the class that each row is confidently of, int64 (rows,); -1 where it is of none.

    Of the classes whose threshold the row's probability reaches it is the most probable one.
    """
    chances, given = _checked(probabilities, labels)
    reached = np.where(chances >= class_thresholds(chances, given) - 1e-12, chances, -1.0)
    return np.where(reached.max(1, initial=-1.0) >= 0, reached.argmax(1), -1).astype(np.int64)


def confident_joint(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """Count the rows by label and by the class that they are confidently of, int64 (classes, classes).

    Rows that are confidently of no class are not counted. Northcutt et al. 2021, equation 1.
    """
    chances, given = _checked(probabilities, labels)
    found, count = confident_classes(chances, given), chances.shape[1]
    sure = found >= 0
    cells = given[sure] * count + found[sure]
    return np.bincount(cells, minlength=count * count).reshape(count, count).astype(np.int64)


def estimated_joint(counts: ArrayLike, labels: ArrayLike) -> Floats:
    """Return the share of the pictures that has each label and each true class, float64 (classes, classes).

    The rows of the confident joint `counts` are scaled to what has each label, and all to the sum of one;
    a label with no confident row is taken to be right. Northcutt et al. 2021, equation 3.
    """
    joint, given = np.asarray(counts, np.float64), np.asarray(labels)
    have = np.bincount(given, minlength=len(joint)).astype(np.float64)
    rows = joint.sum(1)
    unknown = rows == 0
    scaled = joint * (have / np.maximum(rows, 1))[:, None]
    scaled[unknown] = np.diag(have)[unknown]
    return np.asarray(scaled / max(1.0, have.sum()))


@dataclass(frozen=True, eq=False)
class LabelDoubts:
    """How doubtful each label is; arrays (rows,), of tags (rows, tags) but for `order`.

    `doubt`: the larger, the more doubtful: from 0 to 1, margins from -1 to 1. `suggested`: the most probable
    class other than the label; of tags, whether it is there (0 or 1). `confidence`: the probability of that.
    `is_error`: whether the confident joint counts the label as wrong. `order`: the rows, most doubtful
    first; of tags a row is as doubtful as its most doubtful tag. `expected`: how many labels are wrong, by
    the estimate of the joint.
    """

    doubt: Floats
    suggested: NDArray[np.int64]
    confidence: Floats
    is_error: NDArray[np.bool_]
    order: NDArray[np.int64]
    expected: float


def label_doubts(predictions: Predictions, *, ranking: Ranking = DEFAULT_RANKING) -> LabelDoubts:
    """Rank the labels of out-of-fold predictions by how doubtful they are.

    `normalised_margin`: the most probable other class less the label; `adjusted_margin`: the same after
    taking each class's threshold away, so that a class of which the model is never sure is not always
    suspected; `self_confidence`: one less the probability of the label, which is the order of the loss.
    Every row must be predicted and labelled. Raises `UsageError` where one is not.

    >>> table = Predictions([[3.0, 0.0], [0.0, 3.0], [0.0, 4.0]], ("cat", "dog"), targets=[0, 1, 0])
    >>> label_doubts(table).order.tolist()
    [2, 1, 0]
    """
    if ranking not in get_args(Ranking):
        raise UsageError(f"there is no ranking {ranking!r}", f"choose from {', '.join(get_args(Ranking))}")
    if predictions.targets is None or not bool(predictions.scored_rows.all()):
        raise UsageError("a label that is not known, or not predicted, cannot be doubted")
    chances = np.asarray(predictions.probabilities, np.float64)
    if predictions.task is Task.SINGLE_LABEL:
        found = _doubts(chances, predictions.targets, ranking)
        order = np.argsort(-found.doubt, kind="stable").astype(np.int64)
        return LabelDoubts(
            found.doubt, found.suggested, found.confidence, found.is_error, order, found.expected
        )
    tags = [
        _doubts(np.stack([1 - column, column], axis=1), target.astype(np.int64), ranking)
        for column, target in zip(chances.T, predictions.targets.T, strict=True)
    ]
    doubt = np.stack([tag.doubt for tag in tags], axis=1)
    return LabelDoubts(
        doubt,
        np.stack([tag.suggested for tag in tags], axis=1),
        np.stack([tag.confidence for tag in tags], axis=1),
        np.stack([tag.is_error for tag in tags], axis=1),
        np.argsort(-doubt.max(1), kind="stable").astype(np.int64),
        sum(tag.expected for tag in tags),
    )


@dataclass(frozen=True, eq=False)
class _Doubts:
    doubt: Floats
    suggested: NDArray[np.int64]
    confidence: Floats
    is_error: NDArray[np.bool_]
    expected: float


def _doubts(chances: Floats, labels: NDArray[Any], ranking: Ranking) -> _Doubts:
    rows = np.arange(len(labels))
    others = chances.copy()
    others[rows, labels] = -1.0
    suggested = others.argmax(1).astype(np.int64)
    found = confident_classes(chances, labels)
    is_error = (found >= 0) & (found != labels)
    suggested = np.where(is_error, found, suggested)
    joint = estimated_joint(confident_joint(chances, labels), labels)
    expected = len(labels) * float(joint.sum() - np.trace(joint))
    return _Doubts(_ranked(chances, labels, ranking), suggested, chances[rows, suggested], is_error, expected)


def _ranked(chances: Floats, labels: NDArray[Any], ranking: Ranking) -> Floats:
    rows = np.arange(len(labels))
    if ranking == "self_confidence":
        return np.asarray(1.0 - chances[rows, labels])
    if ranking == "adjusted_margin":
        thresholds = class_thresholds(chances, labels)
        chances = chances - np.where(np.isfinite(thresholds), thresholds, 1.0)
    others = chances.copy()
    others[rows, labels] = -np.inf
    return np.asarray(others.max(1) - chances[rows, labels])


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    chances, given = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    if chances.ndim != 2 or given.shape != (len(chances),) or chances.shape[1] < 2:
        raise UsageError(f"probabilities {chances.shape} and labels {given.shape} do not match")
    if len(given) and not (given.min() >= 0 and given.max() < chances.shape[1]):
        raise UsageError(f"labels are not class numbers from 0 to {chances.shape[1] - 1}")
    return chances, given
