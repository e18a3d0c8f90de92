"""Calibration: one temperature, so that 90 % sure means right nine times in ten."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from headstart.evaluation.metrics import METRICS, wilson
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.scores import confidence_bins
from headstart.types import Task

# Few rows without a mistake ask for no temperature at all, that is for certainty: not below one half.
TEMPERATURE_RANGE = (0.5, 20.0)


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what it does to rows that it was not fitted on."""

    temperature: float
    log_loss_before: float
    log_loss_after: float
    ece_before: float
    ece_after: float

    def to_dict(self) -> dict[str, float | None]:
        """Return the fields for JSON, with None for what is undefined."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


@dataclass(frozen=True)
class ReliabilityBin:
    """The rows whose confidence lies in one bin: how sure they were, and how often right.

    `low` and `high` are Wilson's 95 % interval of `accuracy`.
    """

    count: int
    confidence: float
    accuracy: float
    low: float
    high: float


def fit_temperature(predictions: Predictions, *, seed: int = 0) -> float:
    """Return the temperature that minimises the log loss (Guo et al. 2017), within 0.5 … 20.

    It is 1.0 unless temperatures that are fitted on one half of the rows lower the log loss of
    the other half, both ways round. The table's own temperature plays no part.

    >>> too_sure = Predictions([[4.0, 0.0]] * 40, ("cat", "dog"), targets=([0] * 7 + [1] * 3) * 4)
    >>> round(fit_temperature(too_sure), 1)
    4.7
    """
    plain = _plain(predictions)
    log_loss = METRICS["log_loss"]
    # Undefined figures compare as false, and keep the temperature at 1.
    if log_loss(cross_fitted(plain, seed=seed)) < log_loss(plain):
        return best_temperature(plain)
    return 1.0


def cross_fitted(predictions: Predictions, *, seed: int = 0) -> Predictions:
    """Return the rows, each scaled by the temperature that the other half of the rows gives.

    What is measured on the result is what calibration does for rows it was not fitted on. Halves
    are drawn within each class. Rows without a known truth take no temperature.
    """
    logits = predictions.logits.astype(np.float64)
    halves = halves_of(predictions, seed)
    for half in (0, 1):
        other = predictions.take(halves == 1 - half).with_scaling(None)
        logits[halves == half] /= best_temperature(other)
    return replace(predictions, logits=logits.astype(np.float32), temperature=1.0, scaling=None)


def calibrate(predictions: Predictions, *, seed: int = 0) -> Calibration:
    """Fit a temperature and report, cross-fitted, what it does to log loss and calibration error.

    Where the temperature stays 1 the figures before and after are the same.
    """
    plain = _plain(predictions)
    temperature = fit_temperature(plain, seed=seed)
    after = plain if temperature == 1.0 else cross_fitted(plain, seed=seed)
    log_loss, error = METRICS["log_loss"], METRICS["expected_calibration_error"]
    return Calibration(temperature, log_loss(plain), log_loss(after), error(plain), error(after))


def reliability(predictions: Predictions, *, bins: int = 10) -> list[ReliabilityBin]:
    """Return the bins of the reliability diagram that hold any row, least sure first.

    For tags every decision about one tag counts, by the probability of the tag.
    """
    scored = predictions.scored()
    scored = scored.take(~np.isnan(scored.loss))
    if len(scored) == 0:
        return []
    if scored.task is Task.MULTI_LABEL:
        confidence, right = scored.probabilities.ravel(), np.asarray(scored.targets).ravel() == 1
    else:
        confidence, right = scored.confidence, scored.predicted == scored.targets
    numbers = confidence_bins(confidence, bins)
    result = []
    for number in np.unique(numbers):
        inside = numbers == number
        count, hits = int(inside.sum()), int(right[inside].sum())
        low, high = wilson(hits, count)
        result.append(ReliabilityBin(count, float(confidence[inside].mean()), hits / count, low, high))
    return result


def _plain(predictions: Predictions) -> Predictions:
    return predictions.scored().with_temperature(1.0).with_scaling(None)


def best_temperature(predictions: Predictions) -> float:
    """Return the temperature of least log loss, which is convex in its inverse; 1 without any row."""
    scored = predictions.scored()
    usable = scored.take(np.isfinite(scored.logits).all(axis=1))
    if len(usable) == 0:
        return 1.0
    coldest, hottest = TEMPERATURE_RANGE
    low, high = np.log(1.0 / hottest), np.log(1.0 / coldest)
    for _ in range(40):
        middle = (low + high) / 2
        if _slope(usable, float(np.exp(middle))) < 0:
            low = middle
        else:
            high = middle
    return float(np.exp(-(low + high) / 2))


def _slope(predictions: Predictions, inverse: float) -> float:
    """The derivative of the summed log loss by the inverse temperature."""
    scaled = predictions.with_temperature(1.0 / inverse)
    logits = predictions.logits.astype(np.float64)
    assert predictions.targets is not None  # scored rows have a truth
    if predictions.task is Task.MULTI_LABEL:
        return float((logits * (scaled.probabilities - predictions.targets)).sum())
    truth = np.take_along_axis(logits, predictions.targets[:, None], axis=1)
    return float(((scaled.probabilities * logits).sum(axis=1) - truth[:, 0]).sum())


def halves_of(predictions: Predictions, seed: int) -> NDArray[np.int64]:
    """Return 0 or 1 for each scored row, as even as can be within each class; -1 for the others.

    For tags, within each combination of them. The halves belong to the row numbers: the order of the
    rows does not matter.
    """
    halves = np.full(len(predictions), -1, dtype=np.int64)
    rows = np.flatnonzero(predictions.scored_rows)
    rows = rows[np.argsort(predictions.rows[rows], kind="stable")]
    rows = rows[np.random.default_rng(seed).permutation(len(rows))]
    if predictions.targets is not None:
        _, kind = np.unique(predictions.targets[rows], axis=0, return_inverse=True)
        rows = rows[np.argsort(kind.reshape(-1), kind="stable")]
    halves[rows] = np.arange(len(rows)) % 2
    return halves
