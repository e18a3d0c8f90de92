"""Doubts about labels: which are probably wrong, by models that never saw the picture.

A run shows them in its report. They are those of a probe on the frozen features that the run holds anyway,
fitted without the picture's fold; where that would take long, those of the run's own probe about the
validation pictures; of a fold ensemble those of the networks themselves. `headstart clean` looks closer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.data import merge_groups
from headstart.errors import DataError
from headstart.evaluation import LabelDoubts, Predictions, label_doubts
from headstart.recipe.outoffold import OnProgress, out_of_fold
from headstart.recipe.suggesting import Judged
from headstart.types import Task

if TYPE_CHECKING:
    from headstart.imagedata import ImageData
    from headstart.models import TensorSource
    from headstart.recipe.folder import RunFolder

MOST_EXAMPLES = 12


class TooLongError(Exception):
    """Asking out-of-fold models would take longer than there is time for."""


def judge_labels(
    data: ImageData,
    sources: Sequence[TensorSource],
    *,
    repeats: int | None = None,
    on_progress: OnProgress | None = None,
) -> Judged:
    """Return the labelled rows of `sources`, and what out-of-fold models say of them.

    `sources`: frozen features of parts of `data`. Copies and groups of the source are in one fold.
    `repeats`: see `out_of_fold`. Raises `DataError` where all labels are the same, or pictures too few.
    """
    features = np.concatenate([np.asarray(part.features, np.float32) for part in sources])
    rows = np.concatenate([part.index for part in sources])
    labels = data.samples.labels[rows]
    known = np.ones(len(rows), np.bool_) if labels.ndim == 2 else labels >= 0
    order = np.flatnonzero(known)[np.argsort(rows[known], kind="stable")]
    features, rows = features[order], rows[order]
    if len(np.unique(labels[order], axis=0)) < 2:
        raise DataError("all labels are the same: none can be doubted", "add pictures of other classes")
    groups = _together(data, rows)
    predictions = out_of_fold(
        features,
        data.samples.take(rows),
        groups=groups,
        repeats=repeats,
        seed=data.seed,
        on_progress=on_progress,
    )
    return Judged(data, rows, features, predictions, label_doubts(predictions), groups)


def _together(data: ImageData, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows that belong together, copies and the groups of the source: numbers in the order of `rows`."""
    near = None if data.duplicates is None else data.duplicates.near[rows]
    group = None if data.samples.group is None else data.samples.group[rows]
    return merge_groups(np.arange(len(rows)), near, group)


def within(seconds: float, *, now: Callable[[], float] = time.monotonic) -> OnProgress:
    """Return an `on_progress` that raises `TooLongError` once all of it will take more than `seconds`.

    The first part is no measure of the others: it waits for what is imported.
    """
    started = now()
    first = 0.0

    def looked_at(done: int, total: int) -> None:
        nonlocal first
        elapsed = now() - started
        first = first or elapsed
        each = (elapsed - first) / (done - 1) if done > 1 else 0.0
        if elapsed + (total - done) * each > seconds:
            raise TooLongError

    return looked_at


def judged_labels(judged: Judged) -> Predictions:
    """Return the out-of-fold predictions, their rows numbered as those of the data."""
    return replace(judged.predictions, index=judged.rows)


def write_doubts(folder: RunFolder, data: ImageData, told: Predictions) -> dict[str, Any]:
    """Write thumbnails of the most doubtful labels into `folder`/doubts, and return what a summary keeps.

    `told`: what models that never saw them say of labelled pictures, `rows` those of the data. Of tags each
    example is about the tag that is most in doubt, named in `tag`, and `labels` counts every tag of every
    picture.
    """
    told = told.take(told.scored_rows)
    doubts = label_doubts(told)
    wrong = np.asarray(doubts.is_error if doubts.is_error.ndim == 1 else doubts.is_error.any(axis=1))
    examples: list[dict[str, Any]] = []
    for place in doubts.order[wrong[doubts.order]].tolist():
        if len(examples) == MOST_EXAMPLES:
            break
        picture = data.cache.found(int(told.rows[place]))
        if picture is not None:
            name = f"doubts/{len(examples)}.jpg"
            folder.save_picture(name, picture)
            path = data.samples.place(int(told.rows[place]))
            examples.append({"picture": name, "path": path, **_example(told, doubts, place)})
    return {
        "pictures": len(told),
        "labels": int(doubts.doubt.size),
        "expected": round(doubts.expected, 1),
        "examples": examples,
    }


def _example(told: Predictions, doubts: LabelDoubts, place: int) -> dict[str, Any]:
    """What is said of one row: its label, and the one that is likelier."""
    assert told.targets is not None
    classes = told.classes
    if told.task is not Task.MULTI_LABEL:
        label = int(told.targets[place])
        return {
            "label": classes[label],
            "suggested": classes[int(doubts.suggested[place])],
            "probability": float(doubts.confidence[place]),
            "label_probability": float(told.probabilities[place, label]),
        }
    tag = int(np.where(doubts.is_error[place], doubts.doubt[place], -np.inf).argmax())
    spelled = [f"without {classes[tag]}", f"with {classes[tag]}"]
    confidence = float(doubts.confidence[place, tag])
    return {
        "label": spelled[int(told.targets[place, tag])],
        "suggested": spelled[int(doubts.suggested[place, tag])],
        "probability": confidence,
        "label_probability": 1 - confidence,
        "tag": classes[tag],
    }
