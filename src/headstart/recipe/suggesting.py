"""From doubts and copies to suggestions: what a person should look at, one row for each picture.

The rules, the first that holds for a picture being the one that is said of it:

1. Of pictures that are one and the same, or nearly, all but one are suggested to be left out (`duplicate`).
   The one that stays has the label that the out-of-fold models find likelier where labels differ; then one
   of test before valid before train, so that a score stays what it was; then the larger one. Where labels
   differ, `suggested` has the likelier label.
2. A blank picture is suggested to be left out (`remove`). Not one that is far from all others: in frozen
   features of mobilenetv2_100, twelve cats, aerial scenes and building sites lay as near to 800 flowers as
   flowers do, so that no bound would tell them.
3. A picture that the confident joint counts as wrongly labelled is suggested to be relabelled (`relabel`),
   the most doubtful first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.data import Suggestion
from headstart.data.corrections import label_cell, tags_cell, written
from headstart.data.grouping import sets_of
from headstart.data.quality import BLANK_CONTRAST
from headstart.evaluation import LabelDoubts, Predictions
from headstart.types import Task

if TYPE_CHECKING:
    from headstart.data.facts import Facts
    from headstart.imagedata import ImageData

_PART_ORDER = {"test": 0, "valid": 1, "train": 2}


@dataclass(frozen=True)
class Suggested:
    """A suggestion with what a page shows beside it.

    `row`: the picture's row in the data's samples. `copies`: the rows of all pictures that are one, the one
    that stays first. `likely`: the label that is suggested, as in `samples.labels`; None where none is.
    """

    suggestion: Suggestion
    row: int
    copies: tuple[int, ...] = ()
    likely: int | tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Judged:
    """The labelled rows of the data, with what was found out about each.

    `rows`: row numbers in the data's samples, int64 (N,); the other columns are in their order.
    """

    data: ImageData
    rows: NDArray[np.int64]
    features: NDArray[np.floating[Any]]
    predictions: Predictions
    doubts: LabelDoubts
    groups: NDArray[np.int64]


def suggest(judged: Judged) -> list[Suggested]:
    """Return what is suggested: relabels, most doubtful first, then pictures to leave out, then copies."""
    said: dict[int, Suggested] = {}
    for found in (_copies(judged), _removals(judged), _relabels(judged)):
        for each in found:
            said.setdefault(each.row, each)
    order = {"relabel": 0, "remove": 1, "duplicate": 2}
    return sorted(said.values(), key=lambda each: order[each.suggestion.action])


def _copies(judged: Judged) -> Iterator[Suggested]:
    data = judged.data
    if data.duplicates is None:
        return
    place = {int(row): number for number, row in enumerate(judged.rows)}
    facts = facts_of_rows(data)
    for number, rows in enumerate(sets_of(data.duplicates.near), start=1):
        likely = _likely_row(judged, rows, place)
        likely_label = data.samples.labels[likely]
        ranked = sorted(rows, key=lambda row: _staying(data, row, likely_label, facts[row]))
        stays = ranked[0]
        for row in ranked[1:]:
            conflict = _known(data, row) and not np.array_equal(data.samples.labels[row], likely_label)
            exact = data.duplicates.exact[row] == data.duplicates.exact[stays]
            how = "byte for byte" if exact else "nearly"
            reason = f"{how} the same picture as {data.samples.name(stays)}"
            if conflict:
                reason += f", which is labelled {label_cell(data.samples, stays)}"
            yield Suggested(
                Suggestion(
                    "duplicate",
                    written(data.samples.place(row)),
                    label_cell(data.samples, row),
                    label_cell(data.samples, likely) if conflict else "",
                    reason=reason,
                    group=str(number),
                ),
                row,
                copies=tuple(ranked),
                likely=_plain(likely_label) if conflict else None,
            )


def _likely_row(judged: Judged, rows: list[int], place: dict[int, int]) -> int:
    """The row whose label the out-of-fold models find likeliest for the picture that all of them show."""
    data = judged.data
    known = [row for row in rows if _known(data, row)] or rows
    seen = [place[row] for row in rows if row in place]
    if not seen:
        return known[0]
    chances = np.asarray(judged.predictions.probabilities[seen], np.float64).mean(0)
    safe = np.clip(chances, 1e-12, 1 - 1e-12)

    def likelihood(row: int) -> float:
        label = data.samples.labels[row]
        if data.task is Task.SINGLE_LABEL:
            return float(np.log(safe[label])) if label >= 0 else -np.inf
        return float(np.where(label == 1, np.log(safe), np.log1p(-safe)).sum())

    return max(known, key=likelihood)


def _known(data: ImageData, row: int) -> bool:
    return data.task is Task.MULTI_LABEL or bool(data.samples.labels[row] >= 0)


def _staying(data: ImageData, row: int, label: Any, facts: Facts | None) -> tuple[Any, ...]:
    """Sorts first the copy that should stay."""
    pixels = 0 if facts is None else facts.height * facts.width
    other = not np.array_equal(data.samples.labels[row], label)
    return other, _PART_ORDER.get(str(data.samples.split[row]), 3), -pixels, row


def _removals(judged: Judged) -> Iterator[Suggested]:
    samples, facts = judged.data.samples, facts_of_rows(judged.data)
    for row in judged.rows.tolist():
        known = facts[row]
        if known is not None and known.contrast < BLANK_CONTRAST:
            reason = "blank: nothing is to be seen"
            place, label = written(samples.place(row)), label_cell(samples, row)
            yield Suggested(Suggestion("remove", place, label, reason=reason), row)


def _relabels(judged: Judged) -> Iterator[Suggested]:
    tags = judged.data.task is Task.MULTI_LABEL
    for number in judged.doubts.order.tolist():
        if np.any(judged.doubts.is_error[number]):
            yield _retagged(judged, number) if tags else _relabelled(judged, number)


def _relabelled(judged: Judged, number: int) -> Suggested:
    samples, row = judged.data.samples, int(judged.rows[number])
    likely = int(judged.doubts.suggested[number])
    chances = judged.predictions.probabilities[number]
    own = chances[samples.labels[row]]
    suggestion = Suggestion(
        "relabel",
        written(samples.place(row)),
        label_cell(samples, row),
        written(samples.classes[likely]),
        confidence=f"{chances[likely]:.3f}",
        reason=f"models that never saw it give its label {own:.1%}",
    )
    return Suggested(suggestion, row, likely=likely)


def _retagged(judged: Judged, number: int) -> Suggested:
    samples, row = judged.data.samples, int(judged.rows[number])
    wrong = np.flatnonzero(judged.doubts.is_error[number])
    tags = samples.labels[row].copy()
    tags[wrong] = judged.doubts.suggested[number, wrong]
    words = [f"{written(samples.classes[tag])} is {'' if tags[tag] else 'not '}there" for tag in wrong]
    suggestion = Suggestion(
        "relabel",
        written(samples.place(row)),
        label_cell(samples, row),
        tags_cell(samples.classes, tags),
        confidence=f"{judged.doubts.confidence[number, wrong].min():.3f}",
        reason=f"models that never saw it say that {', and that '.join(words)}",
    )
    return Suggested(suggestion, row, likely=_plain(tags))


def _plain(label: Any) -> int | tuple[int, ...]:
    values = np.asarray(label)
    return tuple(int(value) for value in values) if values.ndim else int(values)


def facts_of_rows(data: ImageData) -> list[Facts | None]:
    """Return what the audit measured of each row of the data's samples; None where none was made."""
    if data.audit is None:
        return [None] * len(data.samples)
    return [data.audit.facts[row] for row in np.flatnonzero(data.audit.ok).tolist()]
