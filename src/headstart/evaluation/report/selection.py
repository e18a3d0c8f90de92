"""Which rows the report is about, and which pictures it shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from headstart.evaluation.interpret import Confusion, Example, Interpretation
from headstart.evaluation.interpret_tags import TagInterpretation
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.report.tags import examples
from headstart.types import Task

TOP_LOSSES = 24
TELLING_LOSS = 0.1
FEWEST_LOSSES = 6
CONFUSED_PAIRS = 8
PICTURES_PER_PAIR = 4


def rows_to_picture(predictions: Predictions) -> NDArray[np.int64]:
    """Return the row numbers of `predictions` whose thumbnails the report shows: int64, ascending.

    They are the top losses and the most confused pairs (of tags, what was missed and invented) of
    the validation part, or of the test part where there is no other.
    """
    seen = looked_at(predictions)
    if seen is None:
        return np.zeros(0, dtype=np.int64)
    in_order = replace(seen, index=np.flatnonzero(looked_at_rows(predictions)))
    if seen.task is Task.MULTI_LABEL:
        view = TagInterpretation(in_order)
        shown = worst(view)
        for *_, some in examples(view):
            shown += some
        return np.unique(np.array([example.index for example in shown], dtype=np.int64))
    interpretation = Interpretation(in_order)
    shown = worst(interpretation)
    for pair in pairs(interpretation):
        shown += interpretation.mistaken(pair, PICTURES_PER_PAIR)
    return np.unique(np.array([example.index for example in shown], dtype=np.int64))


def rows_to_explain(predictions: Predictions) -> NDArray[np.int64]:
    """Return the row numbers of `predictions` whose heat the report shows: the top losses, worst first."""
    seen = looked_at(predictions)
    if seen is None:
        return np.zeros(0, dtype=np.int64)
    in_order = replace(seen, index=np.flatnonzero(looked_at_rows(predictions)))
    tags = seen.task is Task.MULTI_LABEL
    shown = worst(TagInterpretation(in_order) if tags else Interpretation(in_order))
    return np.array([example.index for example in shown], dtype=np.int64)


def looked_at_rows(predictions: Predictions) -> NDArray[np.bool_]:
    """The rows that diagnoses are about: validation, so that test pictures steer nobody."""
    scored = predictions.scored_rows & np.isfinite(predictions.loss)
    if predictions.split is None:
        return np.asarray(scored)
    valid = scored & (predictions.split == "valid")
    return np.asarray(valid if valid.any() else scored)


def looked_at(predictions: Predictions) -> Predictions | None:
    """The rows of `looked_at_rows`; None where there are none."""
    rows = looked_at_rows(predictions)
    return predictions.take(rows) if rows.any() else None


def worst(interpretation: Interpretation | TagInterpretation) -> list[Example]:
    """The top losses that say something: of what is right and sure, no more than fill a row."""
    examples = interpretation.top_losses(TOP_LOSSES)
    telling = sum(example.loss > TELLING_LOSS for example in examples)
    return examples[: max(telling, FEWEST_LOSSES)]


def pairs(interpretation: Interpretation) -> list[Confusion]:
    """The pairs that were mistaken more than once; where there are none, those that were at all."""
    repeated = interpretation.most_confused(min_count=2)
    return (repeated or interpretation.most_confused(min_count=1))[:CONFUSED_PAIRS]
