"""Predictions as columns: what a table of them says of each picture, for one file or many parts of one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import UsageError
from headstart.types import Task

if TYPE_CHECKING:
    from headstart.evaluation.predictions import Predictions


def columns_of(predictions: Predictions, *, top: int | None = None) -> dict[str, list[Any]]:
    """Return the columns of a table of predictions, text or numbers (NaN where unknown), in order.

    `path`, `split`, `label`, `prediction`, `probability`, `status` (empty where the picture was predicted,
    else the reason code), then `none_of_these`, `strangeness` and `set` where the model decides them, then
    `p_<class>` for each class. With `top` there are `prediction_2`, `probability_2`, … of the next classes
    in place of the last; tags have no ranks and keep theirs. Raises `UsageError` for a `top` below 1.
    """
    check_top(top)
    single, count = predictions.task is Task.SINGLE_LABEL, len(predictions)
    unknown = [float("nan")] * count
    columns: dict[str, list[Any]] = {
        "path": list(predictions.paths or [""] * count),
        "split": [""] * count if predictions.split is None else predictions.split.tolist(),
        "label": predictions.labels(),
        "prediction": predictions.predicted_labels(),
        "probability": predictions.confidence.tolist() if single else unknown,
        "status": predictions.statuses.tolist(),
    }
    ranked = single and top is not None
    decisions = _decisions(predictions)
    if ranked:
        return columns | _next_classes(predictions, min(top or 1, len(predictions.classes))) | decisions
    every = {f"p_{name}": predictions.probabilities[:, k] for k, name in enumerate(predictions.classes)}
    return columns | decisions | {name: values.tolist() for name, values in every.items()}


def check_top(top: int | None) -> None:
    """Raise `UsageError` for a `top` below 1."""
    if top is not None and top < 1:
        raise UsageError(f"the {top} most probable classes are none", "give a number from 1 on")


def _next_classes(predictions: Predictions, top: int) -> dict[str, list[Any]]:
    known = [math.isfinite(total) for total in predictions.probabilities.sum(axis=1).tolist()]
    order = np.argsort(-np.nan_to_num(predictions.probabilities), axis=1, kind="stable")
    found: dict[str, list[Any]] = {}
    for rank in range(1, top):
        numbers = order[:, rank]
        names = [
            predictions.classes[k] if fine else "" for k, fine in zip(numbers.tolist(), known, strict=True)
        ]
        found[f"prediction_{rank + 1}"] = names
        found[f"probability_{rank + 1}"] = predictions.probabilities[
            np.arange(len(numbers)), numbers
        ].tolist()
    return found


def _decisions(predictions: Predictions) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    if predictions.strangeness is not None:
        said = np.where(predictions.none_of_these, "yes", "no")
        found["none_of_these"] = np.where(predictions.predicted_rows, said, "").tolist()
        found["strangeness"] = predictions.strangeness.tolist()
    if predictions.sets is not None:
        found["set"] = predictions.set_labels()
    return found
