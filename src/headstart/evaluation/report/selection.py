"""Which rows the report is about, and which pictures it shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from headstart.evaluation.interpret import Example, Interpretation
from headstart.evaluation.interpret_tags import TagInterpretation
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.report import gallery
from headstart.evaluation.report.gallery import Gallery, Group
from headstart.types import Task

TOP_LOSSES = 24
TELLING_LOSS = 0.1
FEWEST_LOSSES = 6
MOST_PICTURES = 400
MOST_OF_PAIRS = 260
"""So that many confusions leave room for what is unsure and what is right."""


@dataclass(frozen=True)
class Shown:
    """The pictures of a report: top losses, what is unsure, galleries; and the rows of all, in order."""

    losses: list[Example]
    unsure: list[Group]
    pairs: list[Gallery]
    classes: list[Gallery]
    rows: list[int]


def shown(interpretation: Interpretation | TagInterpretation) -> Shown:
    """Choose the pictures of a report: at most 400, however many rows and classes there are.

    The top losses come first, then the confusions in turns, then what is unsure, then the classes (or tags).
    """
    losses = worst(interpretation)
    unsure = gallery.unsure(interpretation)
    pairs, classes = [], []
    if isinstance(interpretation, TagInterpretation):
        classes = gallery.of_tags(interpretation)
    else:
        pairs, classes = gallery.of_pairs(interpretation), gallery.of_classes(interpretation)
    rows = _first([each.index for each in losses], MOST_PICTURES)
    repeated = gallery.in_turns(gallery.most_confused(pairs), gallery.PICTURES_PER_STRIP)
    rows = _first([*rows, *repeated, *gallery.in_turns(pairs)], len(rows) + MOST_OF_PAIRS)
    rows = _first([*rows, *(each.index for group in unsure for each in group.examples)], MOST_PICTURES)
    rows = _first([*rows, *gallery.in_turns(classes)], MOST_PICTURES)
    known = set(rows)
    return Shown(
        losses,
        unsure,
        # Every confusion can be opened: of one for which there was no room, names and figures are shown.
        [each.only(known, fewest=2) for each in pairs],
        [less for each in classes if (less := each.only(known)).groups],
        rows,
    )


def rows_to_picture(predictions: Predictions) -> NDArray[np.int64]:
    """Return the row numbers of `predictions` whose thumbnails the report shows: int64, ascending.

    At most 400. They are those of `shown`, of the validation part; of the test part where there is no other.
    """
    interpretation = _interpreted(predictions)
    rows = [] if interpretation is None else shown(interpretation).rows
    return np.unique(np.array(rows, dtype=np.int64))


def rows_to_explain(predictions: Predictions) -> NDArray[np.int64]:
    """Return the row numbers of `predictions` whose heat the report shows: the top losses, worst first."""
    interpretation = _interpreted(predictions)
    losses = [] if interpretation is None else worst(interpretation)
    return np.array([example.index for example in losses], dtype=np.int64)


def looked_at_rows(predictions: Predictions) -> NDArray[np.bool_]:
    """The rows that diagnoses are about: validation, so that test pictures steer nobody."""
    scored = predictions.scored_rows & np.isfinite(predictions.loss)
    if predictions.split is None:
        return np.asarray(scored)
    valid = scored & (predictions.split == "valid")
    return np.asarray(valid if valid.any() else scored)


def looked_at(predictions: Predictions) -> Predictions | None:
    """The rows of `looked_at_rows`, numbered as in `predictions`; None where there are none."""
    rows = looked_at_rows(predictions)
    return replace(predictions.take(rows), index=np.flatnonzero(rows)) if rows.any() else None


def worst(interpretation: Interpretation | TagInterpretation) -> list[Example]:
    """The top losses that say something: of what is right and sure, no more than fill a row."""
    examples = interpretation.top_losses(TOP_LOSSES)
    telling = sum(example.loss > TELLING_LOSS for example in examples)
    return examples[: max(telling, FEWEST_LOSSES)]


def _interpreted(predictions: Predictions) -> Interpretation | TagInterpretation | None:
    seen = looked_at(predictions)
    if seen is None:
        return None
    return TagInterpretation(seen) if seen.task is Task.MULTI_LABEL else Interpretation(seen)


def _first(rows: Iterable[int], most: int) -> list[int]:
    """The first rows, each once."""
    return list(dict.fromkeys(rows))[:most]
