"""The map of the pictures: a dot each, near each other where the network sees the same."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from headstart.evaluation.predictions import Predictions
from headstart.evaluation.report import wording
from headstart.types import Task

WIDTH, HEIGHT, MARGIN = 720.0, 480.0, 14.0
MOST_DOTS = 2000
MOST_COLOURS = 10
MOST_LINKS = 60
"""So that the way through the page by keyboard stays passable."""

CROWDED = 150
"""Of more mistakes the rings are thin, so that the dots can be seen."""

# Four shapes in turn, so that colour alone tells nothing; relative to the middle of the dot.
_SHAPES = (
    "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0",
    "m-2.6-2.6h5.2v5.2h-5.2z",
    "m0-3.5l3.2 5.6h-6.4z",
    "m0-3.6l3.6 3.6-3.6 3.6-3.6-3.6z",
)


@dataclass(frozen=True)
class _Dot:
    row: int
    x: float
    y: float
    kind: int
    wrong: bool
    words: str


def embedding_map(
    found: Mapping[str, Any] | None, predictions: Predictions | None, anchored: Collection[int]
) -> dict[str, Any] | None:
    """Return the drawing of `embedding.json` with its legend and words; None where there is nothing to draw.

    `anchored`: rows that have a card, to which mistakes link.
    """
    if found is None or predictions is None:
        return None
    rows, places = _places(found, len(predictions))
    if len(rows) < 2:
        return None
    tags = predictions.task is Task.MULTI_LABEL
    coloured = not tags and len(predictions.classes) <= MOST_COLOURS
    dots = _dots(predictions, rows, _fitted(places), coloured=coloured)
    wrong = [dot for dot in dots if dot.wrong]
    targets = [] if predictions.targets is None or tags else np.asarray(predictions.targets)[rows].tolist()
    legend = []
    if coloured:
        legend = [
            (number, name, targets.count(number))
            for number, name in enumerate(predictions.classes)
            if number in targets
        ]
    return {
        "drawing": _drawing(dots, anchored),
        "legend": [(number, _swatch(number), name, count) for number, name, count in legend],
        "count": len(dots),
        "wrong": len(wrong),
        "linked": any(dot.row in anchored for dot in wrong),
        "coloured": coloured,
        "tsne": found.get("projection") == "tsne",
        "neighbours": _neighbours(places, targets, predictions.classes) if targets else None,
    }


def _places(found: Mapping[str, Any], count: int) -> tuple[list[int], NDArray[np.float64]]:
    """The rows that are there, and their places; what cannot be drawn is left out."""
    columns = [found.get(name) for name in ("rows", "x", "y")]
    if not all(isinstance(column, list) for column in columns):
        return [], np.zeros((0, 2))
    kept = [
        (row, x, y)
        for row, x, y in zip(*columns, strict=False)
        if isinstance(row, int)
        and 0 <= row < count
        and all(isinstance(value, int | float) and math.isfinite(value) for value in (x, y))
    ][:MOST_DOTS]
    return [row for row, _, _ in kept], np.array([(x, y) for _, x, y in kept], np.float64).reshape(-1, 2)


def _fitted(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places in the drawing: the same scale both ways, so that distances stay what they are."""
    low, high = places.min(axis=0), places.max(axis=0)
    room = np.array([WIDTH, HEIGHT]) - 2 * MARGIN
    scale = float((room / np.maximum(high - low, 1e-9)).min())
    middle = (low + high) / 2
    return np.asarray(np.array([WIDTH, HEIGHT]) / 2 + (places - middle) * scale)


def _dots(
    predictions: Predictions, rows: Sequence[int], places: NDArray[np.float64], *, coloured: bool
) -> list[_Dot]:
    scored = predictions.scored_rows
    truths, guesses = predictions.labels(), predictions.predicted_labels()
    numbers = np.asarray(predictions.targets) if coloured and predictions.targets is not None else None
    return [
        _Dot(
            row=row,
            x=float(x),
            y=float(y),
            kind=-1 if numbers is None else int(numbers[row]),
            wrong=bool(scored[row]) and truths[row] != guesses[row],
            words=f"{_name(truths[row])}, called {_name(guesses[row])}",
        )
        for row, (x, y) in zip(rows, places, strict=True)
    ]


def _name(labels: str) -> str:
    return wording.visible(labels) or "nothing"


def _drawing(dots: Sequence[_Dot], anchored: Collection[int]) -> Markup:
    right = Markup("").join(
        Markup('<path class="{}" d="{}"/>').format(
            _style(kind),
            "".join(_shape(dot) for dot in dots if dot.kind == kind and not dot.wrong),
        )
        for kind in sorted({dot.kind for dot in dots if not dot.wrong})
    )
    wrong = [dot for dot in dots if dot.wrong]
    linked = [dot.row for dot in wrong if dot.row in anchored][:MOST_LINKS]
    marks = Markup("").join(_mistake(dot, linked=dot.row in linked) for dot in wrong)
    words = f"Map of {len(dots)} pictures by what the network sees in them; {len(wrong)} mistakes are ringed."
    return Markup(
        '<svg class="dots{}" viewBox="0 0 {:.0f} {:.0f}" role="group" aria-label="{}">{}{}</svg>'
    ).format(" crowded" if len(wrong) > CROWDED else "", WIDTH, HEIGHT, words, right, marks)


def _mistake(dot: _Dot, *, linked: bool) -> Markup:
    mark = Markup(
        '<title>{}</title><path class="{}" d="{}"/><circle class="ring" cx="{:.1f}" cy="{:.1f}" r="6.5"/>'
    ).format(dot.words, _style(dot.kind), _shape(dot), dot.x, dot.y)
    if linked:
        return Markup('<a href="#p{}" aria-label="{}">{}</a>').format(dot.row, dot.words, mark)
    return Markup("<g>{}</g>").format(mark)


def _style(kind: int) -> str:
    return "k" if kind < 0 else f"k k{kind}"


def _shape(dot: _Dot) -> str:
    return f"M{dot.x:.1f} {dot.y:.1f}{_SHAPES[max(dot.kind, 0) % len(_SHAPES)]}"


def _swatch(kind: int) -> Markup:
    return Markup(
        '<svg class="key" viewBox="-5 -5 10 10" aria-hidden="true"><path class="{}" d="M0 0{}"/></svg>'
    ).format(_style(kind), _SHAPES[kind % len(_SHAPES)])


def _neighbours(
    places: NDArray[np.float64], targets: Sequence[int], classes: Sequence[str]
) -> dict[str, Any] | None:
    """How often the nearest picture on the map is of the same class; of all, and of the class with fewest."""
    truth = np.asarray(targets)
    known = truth >= 0
    truth, places = truth[known], places[known]
    if len(truth) < 2:
        return None
    squares = (places**2).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * places @ places.T
    np.fill_diagonal(distances, np.inf)
    same = truth[distances.argmin(axis=1)] == truth
    shares = {number: float(same[truth == number].mean()) for number in np.unique(truth).tolist()}
    least = min(shares, key=lambda number: shares[number])
    return {"all": float(same.mean()), "least": classes[least], "share": shares[least]}
