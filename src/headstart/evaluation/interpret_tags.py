"""Interpretation of tags: which are missed, which are said where they are not, on which pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.errors import UsageError
from headstart.evaluation.interpret_base import Example, Explain, Interpreted
from headstart.evaluation.metrics import ClassMetrics, per_class
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.records import Records
from headstart.types import Pixels, Task

NO_TAG = "no tag"


@dataclass(frozen=True)
class TagMistakes:
    """How many pictures have the tag and it was not said (`missed`), or the other way (`invented`)."""

    tag: str
    missed: int
    invented: int


@dataclass(frozen=True)
class TagConfusion:
    """One tag as a table of two by two: pictures that have it and were given it (`both`), and the others."""

    tag: str
    both: int
    missed: int
    invented: int
    neither: int


class TagInterpretation(Interpreted):
    """Questions about one table of predicted tags whose truth is known, as its thresholds decide.

    `picture` gives the pixels of a picture by its number in the `Samples` (`Example.index`), `explain` the
    heat maps of several; they are needed only to plot pictures. `columns`: what else is known of each row
    of the `Samples`, by name, for slices. Raises `UsageError` for classes, and where no row has a truth.

    >>> table = Predictions([[2.0, -1.0], [-0.5, 1.5]], ("rain", "snow"), Task.MULTI_LABEL,
    ...     targets=[[1, 0], [1, 0]])
    >>> TagInterpretation(table).most_mistaken()
    [TagMistakes(tag='rain', missed=1, invented=0), TagMistakes(tag='snow', missed=0, invented=1)]
    """

    def __init__(
        self,
        predictions: Predictions,
        picture: Callable[[int], Pixels] | None = None,
        *,
        columns: Mapping[str, ArrayLike] | None = None,
        explain: Explain | None = None,
    ) -> None:
        if predictions.task is not Task.MULTI_LABEL:
            raise UsageError("these questions are about tags", "for classes, use Interpretation")
        super().__init__(predictions, picture, columns=columns, explain=explain)
        self._truth = np.asarray(predictions.targets)[self._rows] == 1
        self._said = predictions.predicted[self._rows] == 1
        # Logits that are not finite say nothing for a tag.
        self._probabilities = np.nan_to_num(predictions.probabilities[self._rows], nan=0.0)
        chosen = 0.5 if predictions.thresholds is None else predictions.thresholds
        self._thresholds = np.broadcast_to(chosen, predictions.logits.shape)[self._rows]

    def per_tag(self) -> list[ClassMetrics]:
        """Return the figures of every tag, in the order of `classes`."""
        return per_class(self.predictions)

    def confusion(self) -> Records[TagConfusion]:
        """Return of each tag how many pictures have it, were given it, both and neither."""
        counts = (self._truth & self._said, self._truth & ~self._said, ~self._truth & self._said)
        both, missed, invented = (cells.sum(axis=0) for cells in counts)
        neither = len(self._rows) - both - missed - invented
        columns = (column.tolist() for column in (both, missed, invented, neither))
        return Records(TagConfusion, map(TagConfusion, self.predictions.classes, *columns))

    def most_mistaken(self, *, min_count: int = 1) -> Records[TagMistakes]:
        """Return the tags with at least `min_count` mistakes, those with most first."""
        missed = (self._truth & ~self._said).sum(axis=0).tolist()
        invented = (self._said & ~self._truth).sum(axis=0).tolist()
        found = map(TagMistakes, self.predictions.classes, missed, invented)
        wanted = [each for each in found if each.missed + each.invented >= max(min_count, 1)]
        return Records(TagMistakes, sorted(wanted, key=lambda each: -(each.missed + each.invented)))

    def co_occurrence(self, *, said: bool = False) -> NDArray[np.int64]:
        """Return how many pictures have both tags, int64 (tags, tags); with `said`, were given both.

        On the diagonal are the pictures of each tag.
        """
        chosen = (self._said if said else self._truth).astype(np.int64)
        return np.asarray(chosen.T @ chosen)

    def most_missed(self, count: int = 9, *, tag: str | None = None) -> Records[Example]:
        """Return the pictures whose tag (any, or `tag`) was not said, the least probable first."""
        return self._first_tags(self._truth & ~self._said, self._probabilities, count, tag)

    def most_invented(self, count: int = 9, *, tag: str | None = None) -> Records[Example]:
        """Return the pictures of which a tag (any, or `tag`) was wrongly said, the surest first."""
        return self._first_tags(self._said & ~self._truth, -self._probabilities, count, tag)

    def most_correct(self, count: int = 9, *, tag: str | None = None) -> Records[Example]:
        """Return the pictures of which a tag (any, or `tag`) was rightly said, the surest first."""
        return self._first_tags(self._said & self._truth, -self._probabilities, count, tag)

    def most_incorrect(self, count: int = 9, *, tag: str | None = None) -> Records[Example]:
        """Return the pictures where a tag (any, or `tag`) was missed or invented, the surest first."""
        return self._first_tags(self._said != self._truth, self._of_truth, count, tag)

    def most_uncertain(self, count: int = 9, *, tag: str | None = None) -> Records[Example]:
        """Return the pictures and tags (any, or `tag`) whose probability is the nearest to one half."""
        every = np.ones_like(self._truth)
        return self._first_tags(every, np.abs(self._probabilities - 0.5), count, tag)

    def lowest_margin(self, count: int = 9, *, tag: str | None = None) -> Records[Example]:
        """Return the pictures and tags (any, or `tag`) whose probability is the nearest to its threshold."""
        every = np.ones_like(self._truth)
        return self._first_tags(every, np.abs(self._probabilities - self._thresholds), count, tag)

    def top_losses(self, count: int = 9, *, label: str | None = None) -> Records[Example]:
        """Return the pictures (that have the tag `label`) with the highest loss, worst first.

        Their `probability` is that of the tag which was judged worst, their `truth_probability` what
        was left for the truth about it.
        """
        order = np.lexsort((self.predictions.rows[self._rows], -self._losses))
        if label is not None:
            order = order[self._truth[order][:, self._is(label)].any(axis=1)]
        return Records(Example, [self._example(place) for place in order[:count].tolist()])

    @property
    def _of_truth(self) -> NDArray[np.float64]:
        """What was left for the truth about each tag."""
        return np.where(self._truth, self._probabilities, 1 - self._probabilities)

    def _is(self, tag: str) -> NDArray[np.bool_]:
        if tag not in self.predictions.classes:
            raise UsageError(f"there is no tag {tag!r}", f"choose from {', '.join(self.predictions.classes)}")
        return np.array([name == tag for name in self.predictions.classes])

    def _first_tags(
        self, wanted: NDArray[np.bool_], key: NDArray[np.float64], count: int, tag: str | None
    ) -> Records[Example]:
        """The wanted pictures and tags with the smallest keys; equal ones in the order of the `Samples`."""
        if tag is not None:
            wanted = wanted & self._is(tag)
        places, tags = np.nonzero(wanted)
        order = np.lexsort((tags, self.predictions.rows[self._rows[places]], key[places, tags]))[:count]
        return Records(Example, [self._about(int(places[number]), int(tags[number])) for number in order])

    def _example(self, place: int) -> Example:
        return self._about(place, int(self._of_truth[place].argmin()))

    def _about(self, place: int, tag: int) -> Example:
        row, probability = int(self._rows[place]), float(self._probabilities[place, tag])
        return Example(
            row=row,
            index=int(self.predictions.rows[row]),
            path=self.predictions.paths[row] if self.predictions.paths else "",
            prediction=self._text(self._said[place]),
            truth=self._text(self._truth[place]),
            loss=float(self._losses[place]),
            probability=probability,
            tag=self.predictions.classes[tag],
            truth_probability=probability if self._truth[place, tag] else 1 - probability,
        )

    def _text(self, tags: NDArray[np.bool_]) -> str:
        return ", ".join(self.predictions.classes[number] for number in np.flatnonzero(tags)) or NO_TAG
