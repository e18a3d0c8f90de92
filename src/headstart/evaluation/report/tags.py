"""What the report says of tags: figures of each, what goes together, what is missed and invented."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from headstart.evaluation.interpret import Example
from headstart.evaluation.interpret_tags import TagInterpretation
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.report import figures, wording
from headstart.evaluation.thresholds import cross_decided

MOST_TAGS = 20  # more do not fit a table of what goes together
MISTAKEN_TAGS = 8
PICTURES_PER_TAG = 4


def examples(view: TagInterpretation) -> list[tuple[str, str, int, list[Example]]]:
    """Return (tag, `missed` or `invented`, how often, some pictures) of the tags with most mistakes."""
    found: list[tuple[str, str, int, list[Example]]] = []
    for mistakes in view.most_mistaken()[:MISTAKEN_TAGS]:
        ways = (
            ("missed", mistakes.missed, view.most_missed),
            ("invented", mistakes.invented, view.most_invented),
        )
        found += [
            (mistakes.tag, way, count, pick(PICTURES_PER_TAG, tag=mistakes.tag))
            for way, count, pick in ways
            if count
        ]
    return found


def tag_rows(part: Predictions, metric: str, thresholds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the figures of each tag, lowest average precision first.

    Validation rows are decided by thresholds of the other half, as the figures of the run are.
    """
    held = part.split is not None and bool((part.split == "valid").all())
    every = TagInterpretation(cross_decided(part, metric) if held else part).per_tag()
    limits = figures.share_limits([each.recall for each in every])
    rows = [
        {
            "name": each.name,
            "count": each.count,
            "recall": wording.percent(each.recall.value) if each.count else wording.NO_FIGURE,
            "recall_range": wording.percent_range(each.recall.low, each.recall.high) if each.count else "",
            "bar": figures.share_bar(each.recall, limits) if each.count else "",
            "precision": wording.percent(each.precision.value),
            "f1": wording.number(each.f1),
            "average_precision": wording.number(each.average_precision),
            "threshold": wording.number(thresholds.get(each.name), 2),
            "from": f"{100 * limits[0]:.0f}",
            "order": each.average_precision if math.isfinite(each.average_precision) else math.inf,
        }
        for each in every
    ]
    return sorted(rows, key=lambda row: row["order"])


def together(view: TagInterpretation) -> dict[str, Any] | None:
    """Return how many pictures have each two tags, and how many were given both; None for many tags."""
    classes = [wording.visible(name) for name in view.predictions.classes]
    if not 1 < len(classes) <= MOST_TAGS:
        return None
    truth, said = view.co_occurrence(), view.co_occurrence(said=True)
    shares = truth / np.maximum(np.diag(truth)[:, None], 1)
    rows = [
        {
            "name": classes[row],
            "cells": [
                {
                    "count": int(truth[row, column]),
                    "said": int(said[row, column]),
                    "right": row == column,
                    "shade": 0.6 * float(shares[row, column]),
                    "tone": "mid" if shares[row, column] > 0.8 else "low",
                }
                for column in range(len(classes))
            ],
        }
        for row in range(len(classes))
    ]
    return {"classes": classes, "rows": rows}
