"""What is taken for what: the matrix, as counts and as shares, and the pairs; all lead to their pictures."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from headstart.evaluation.interpret import Interpretation
from headstart.evaluation.metrics import confusion_matrix
from headstart.evaluation.report import figures, wording
from headstart.evaluation.report.cards import Cards, back_id, gallery_id
from headstart.evaluation.report.gallery import PICTURES_PER_STRIP, TABLE_CLASSES, Gallery, most_confused


def confusion(interpretation: Interpretation | None, galleries: Collection[Gallery]) -> dict[str, Any] | None:
    """Return the matrix as a table whose cells lead to galleries, or, of many classes, as a map."""
    if interpretation is None:
        return None
    matrix = confusion_matrix(interpretation.predictions)
    classes = [wording.visible(name) for name in interpretation.predictions.classes]
    if len(classes) > TABLE_CLASSES:
        return {"map": figures.confusion_map(matrix, classes), "rows": [], "classes": classes}
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    opened = {each.place for each in galleries}
    rows = [
        {
            "name": classes[row],
            "cells": [
                {
                    "count": int(matrix[row, column]),
                    "share": wording.percent(float(shares[row, column]), 0),
                    "right": row == column,
                    "words": f"{classes[row]} called {classes[column]}",
                    "back": back_id((row, column)),
                    "gallery": gallery_id((row, column)) if (row, column) in opened else "",
                    **_shade(float(shares[row, column]), right=row == column),
                }
                for column in range(len(classes))
            ],
        }
        for row in range(len(classes))
    ]
    return {"map": "", "rows": rows, "classes": classes}


def pairs(
    interpretation: Interpretation | None, galleries: Sequence[Gallery], cards: Cards
) -> dict[str, list[dict[str, Any]]]:
    """Return the most confused pairs, with pictures, and of many classes the others as a list of links."""
    if interpretation is None:
        return {"first": [], "others": []}
    first = most_confused(galleries)
    classes = interpretation.predictions.classes
    listed = len(classes) > TABLE_CLASSES
    others = [each for each in galleries if each not in first] if listed else []

    def words(each: Gallery) -> dict[str, Any]:
        truth, prediction = each.place
        return {
            "truth": classes[truth],
            "prediction": classes[prediction],
            "count": each.count,
            "gallery": gallery_id(each.place),
            # A table's cell is what a gallery leads back to; a map has no cells that could be.
            "back": back_id(each.place) if listed else "",
        }

    return {
        "first": [
            words(each)
            | {"pictures": [cards.small(example) for example in each.examples[:PICTURES_PER_STRIP]]}
            for each in first
        ],
        "others": [words(each) for each in others],
    }


def _shade(share: float, *, right: bool) -> dict[str, Any]:
    """How dark a cell is, 0 … 1, and which text is legible on it.

    Mistakes are rare: the root makes a share of 4 % as dark as one of 20 %. The bounds are where
    black and white have the same contrast (above 4.5) in the dark and in the light style.
    """
    shade = share if right else share**0.5
    middle = 0.47 if right else 0.58
    return {"shade": shade, "tone": "high" if shade > 0.88 else "mid" if shade > middle else "low"}
