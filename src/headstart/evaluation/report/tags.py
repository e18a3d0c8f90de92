"""What the report says of tags: figures of each, what goes together, what is missed and invented."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headstart.evaluation.interpret_tags import TagInterpretation
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.report import figures, wording
from headstart.evaluation.report.cards import Cards, back_id, gallery_id
from headstart.evaluation.report.gallery import INVENTED, MISSED, PICTURES_PER_STRIP, STRIPS, Gallery
from headstart.evaluation.report.selection import Shown
from headstart.evaluation.thresholds import cross_decided

MOST_TAGS = 20  # more do not fit a table of what goes together


def mistakes(view: TagInterpretation, galleries: Sequence[Gallery], cards: Cards) -> list[dict[str, Any]]:
    """Return the tags with most mistakes, each with what was missed, what was invented, and some pictures."""
    opened = {each.place[0]: each for each in galleries}
    classes = view.predictions.classes
    found: list[dict[str, Any]] = []
    for each in view.most_mistaken()[:STRIPS]:
        number = classes.index(each.tag)
        groups = opened[number].groups if number in opened else ()
        found += [
            {
                "tag": each.tag,
                "way": group.title.lower(),
                "count": group.count,
                "gallery": gallery_id((number, number)),
                "pictures": [cards.small(example) for example in group.examples[:PICTURES_PER_STRIP]],
            }
            for group in groups
            if group.title in (MISSED, INVENTED)
        ]
    return found


def tag_rows(
    part: Predictions, metric: str, thresholds: Mapping[str, float], chosen: Shown
) -> list[dict[str, Any]]:
    """Return the figures of each tag, lowest average precision first.

    Validation rows are decided by thresholds of the other half, as the figures of the run are.
    """
    held = part.split is not None and bool((part.split == "valid").all())
    every = TagInterpretation(cross_decided(part, metric) if held else part).per_tag()
    limits = figures.share_limits([each.recall for each in every])
    opened = {each.place for each in chosen.classes}
    places = {each.name: (number, number) for number, each in enumerate(every)}
    rows = [
        {
            "name": each.name,
            "count": each.count,
            "back": back_id(places[each.name]),
            "gallery": gallery_id(places[each.name]) if places[each.name] in opened else "",
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
