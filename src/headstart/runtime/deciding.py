"""From probabilities to answers, in NumPy alone: the mean of several graphs, classes, tags and sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headstart.runtime.manifest import ExportManifest, SetsRule
from headstart.types import Task

_SMALLEST = 1e-37


def combined(parts: Sequence[NDArray[np.float32]], manifest: ExportManifest) -> NDArray[np.float64]:
    """Return the probabilities (rows, classes) of one graph, or of several whose own these are.

    Of several the mean is taken, and the temperature and the scaling are those of the mean.
    """
    if len(parts) == 1:
        return np.asarray(parts[0], np.float64)
    mean = np.mean([part.astype(np.float64) for part in parts], axis=0)
    logits = np.log(np.maximum(mean, _SMALLEST))
    tags = manifest.task is Task.MULTI_LABEL
    if tags:
        logits = logits - np.log(np.maximum(1.0 - mean, _SMALLEST))
    scaled = logits / manifest.temperature
    if manifest.scaling is not None:
        factors, offsets = manifest.scaling
        scaled = scaled * np.array(factors) + np.array(offsets)
    if tags:
        return np.asarray(np.exp(-np.logaddexp(0.0, -scaled)))
    exponents = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def tags_of(probabilities: NDArray[np.float64], manifest: ExportManifest) -> NDArray[np.bool_]:
    """Return which tags are said: those of at least their threshold, 0.5 where there is none."""
    return np.asarray(
        probabilities >= (0.5 if manifest.thresholds is None else np.array(manifest.thresholds))
    )


def set_of(probabilities: NDArray[np.float64], rule: SetsRule) -> NDArray[np.bool_]:
    """Return which classes are in one picture's set, bool (classes,); the most probable one always is."""
    if rule.method == "adaptive":
        order = np.argsort(-probabilities, kind="stable")
        scores = np.empty_like(probabilities)
        scores[order] = np.minimum(np.cumsum(probabilities[order]), 1.0)
    else:
        scores = 1.0 - probabilities
    inside = np.asarray(scores <= rule.limit)
    inside[probabilities.argmax()] = True
    return inside
