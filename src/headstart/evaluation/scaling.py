"""Scaling by class: each logit gets a factor and an offset of its own, where that clearly pays.

One temperature cannot say that a network is too sure of one class and too shy of another. Two numbers a
class can (Guo et al. 2017, vector scaling; of a tag it is Platt's 1999), but a few hundred rows fit them to
noise: so they are held near 1 and 0 as by a prior, and kept only where those of one half of the rows
lower the log loss of the other half, both ways round, with the paired 95 % interval clear of zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headstart.evaluation.calibration import best_temperature, cross_fitted, halves_of
from headstart.evaluation.metrics import METRICS, Gain, paired
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.scores import Floats, one_hot
from headstart.types import Task

# Standard deviations of the prior, of the factors' logarithms and of the offsets, in nats.
SPREAD_OF_FACTORS = 0.5
SPREAD_OF_OFFSETS = 1.0
# A factor is at least a fifth and at most five.
MOST_STRETCH = math.log(5.0)


@dataclass(frozen=True, eq=False)
class ClassScaling:
    """A scaling by class, and what it does to rows that it was not fitted to, beside one temperature.

    `scaling`: float64 (2, classes), the factors and the offsets of the logits over the temperature; None
    where one temperature does as well. `gain`: by how much the cross-fitted log loss falls.
    """

    scaling: Floats | None
    gain: Gain
    log_loss_before: float
    log_loss_after: float
    ece_before: float
    ece_after: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, with None for what is undefined."""
        figures = ("log_loss_before", "log_loss_after", "ece_before", "ece_after")
        known = {name: getattr(self, name) for name in figures}
        return {
            "kept": self.scaling is not None,
            "scaling": None if self.scaling is None else self.scaling.tolist(),
            "gain": self.gain.to_dict(),
            **{name: value if math.isfinite(value) else None for name, value in known.items()},
        }


def scale_classes(predictions: Predictions, *, seed: int = 0) -> ClassScaling:
    """Fit a scaling by class on top of the table's temperature, and say what it does, cross-fitted.

    The table's temperature is what `calibrate` gave. Both sides of the comparison are fitted on one half of
    the rows and judged on the other: the temperature by itself (where it is 1, the table as it is), and
    temperature and scaling. Where the scaling is kept, `scaling` is that of all rows.
    """
    plain = predictions.scored().with_scaling(None)
    before = plain if plain.temperature == 1.0 else cross_fitted(plain, seed=seed)
    after = cross_scaled(plain, seed=seed)
    gain = paired(before, after, "log_loss", seed=seed)
    kept = gain.verdict == "better"
    told = after if kept else before
    log_loss, error = METRICS["log_loss"], METRICS["expected_calibration_error"]
    return ClassScaling(
        fit_scaling(plain) if kept else None,
        gain,
        log_loss(before),
        log_loss(told),
        error(before),
        error(told),
    )


def fit_scaling(predictions: Predictions) -> Floats:
    """Return the factors and offsets (2, classes) that suit the scored rows, on top of their temperature.

    Without rows, factors of 1 and offsets of 0. Offsets of classes that share a picture's probability add
    up to 0. Source: Guo et al. 2017, section 4.2; Platt 1999 for tags.

    >>> shy = Predictions([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]] * 30, ("a", "b"), targets=[0, 1, 1] * 30)
    >>> factors, offsets = fit_scaling(shy)
    >>> bool(offsets[1] > offsets[0])
    True
    """
    from scipy.optimize import minimize

    count = len(predictions.classes)
    scored = predictions.scored()
    usable = scored.take(np.isfinite(scored.logits).all(axis=1)).with_scaling(None)
    if len(usable) == 0:
        return np.stack([np.ones(count), np.zeros(count)])
    logits, truth = usable.scaled_logits, one_hot(usable)
    tags = usable.task is Task.MULTI_LABEL
    bounds = [(-MOST_STRETCH, MOST_STRETCH)] * count + [(None, None)] * count
    found = minimize(
        _penalised, np.zeros(2 * count), (logits, truth, tags), "L-BFGS-B", jac=True, bounds=bounds
    )
    factors, offsets = np.exp(found.x[:count]), found.x[count:]
    return np.stack([factors, offsets if tags else offsets - offsets.mean()])


def cross_scaled(predictions: Predictions, *, seed: int = 0) -> Predictions:
    """Return the rows, each with the temperature and the scaling by class that the other half gives.

    Halves are drawn as in `cross_fitted`; rows without a known truth stay as they are.
    """
    logits = predictions.logits.astype(np.float64)
    halves = halves_of(predictions, seed)
    for half in (0, 1):
        other = predictions.take(halves == 1 - half).with_scaling(None)
        other = other.with_temperature(best_temperature(other))
        factors, offsets = fit_scaling(other)
        own = halves == half
        logits[own] = logits[own] / other.temperature * factors + offsets
    return replace(predictions, logits=logits.astype(np.float32), temperature=1.0, scaling=None)


def _penalised(values: Floats, logits: Floats, truth: Floats, tags: bool) -> tuple[float, Floats]:
    """The summed log loss with the prior's penalty, and its gradient by log factors and offsets."""
    count = logits.shape[1]
    stretch, offsets = values[:count], values[count:]
    stretched = logits * np.exp(stretch)
    scaled = stretched + offsets
    if tags:
        loss = float(np.logaddexp(0.0, np.where(truth == 1, -scaled, scaled)).sum())
        wrong = 1 / (1 + np.exp(-scaled)) - truth
    else:
        top = scaled.max(1, keepdims=True)
        summed = np.exp(scaled - top).sum(1, keepdims=True)
        loss = float((top + np.log(summed) - (scaled * truth).sum(1, keepdims=True)).sum())
        wrong = np.exp(scaled - top) / summed - truth
    loss += float(((stretch / SPREAD_OF_FACTORS) ** 2).sum() / 2)
    loss += float(((offsets / SPREAD_OF_OFFSETS) ** 2).sum() / 2)
    by_stretch = (wrong * stretched).sum(0) + stretch / SPREAD_OF_FACTORS**2
    by_offsets = wrong.sum(0) + offsets / SPREAD_OF_OFFSETS**2
    return loss, np.asarray(np.concatenate([by_stretch, by_offsets]))
