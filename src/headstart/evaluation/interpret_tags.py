"""Interpretation of tags: which are missed, which are said where they are not, on which pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headstart.errors import UsageError
from headstart.evaluation.interpret import Example
from headstart.evaluation.metrics import ClassMetrics, per_class
from headstart.evaluation.predictions import Predictions
from headstart.types import Pixels, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_TAG = "no tag"


@dataclass(frozen=True)
class TagMistakes:
    """How many pictures have the tag and it was not said (`missed`), or the other way (`invented`)."""

    tag: str
    missed: int
    invented: int


class TagInterpretation:
    """Questions about one table of predicted tags whose truth is known, as its thresholds decide.

    `picture` gives the pixels of a picture by its number in the `Samples` (`Example.index`); it is
    needed only to plot pictures. Raises `UsageError` for classes, and where no row has a truth.

    >>> table = Predictions([[2.0, -1.0], [-0.5, 1.5]], ("rain", "snow"), Task.MULTI_LABEL,
    ...     targets=[[1, 0], [1, 0]])
    >>> TagInterpretation(table).most_mistaken()
    [TagMistakes(tag='rain', missed=1, invented=0), TagMistakes(tag='snow', missed=0, invented=1)]
    """

    def __init__(self, predictions: Predictions, picture: Callable[[int], Pixels] | None = None) -> None:
        if predictions.task is not Task.MULTI_LABEL:
            raise UsageError("these questions are about tags", "for classes, use Interpretation")
        if not predictions.scored_rows.any():
            raise UsageError("no row has both a prediction and a known truth", "interpret labelled pictures")
        self.predictions = predictions
        self.picture = picture
        self._rows = np.flatnonzero(predictions.scored_rows)
        self._truth = np.asarray(predictions.targets)[self._rows] == 1
        self._said = predictions.predicted[self._rows] == 1
        # Logits that are not finite say nothing for a tag, and are the worst that can be said.
        self._probabilities = np.nan_to_num(predictions.probabilities[self._rows], nan=0.0)
        self._losses = np.nan_to_num(predictions.loss[self._rows], nan=np.inf, posinf=np.inf)

    def per_tag(self) -> list[ClassMetrics]:
        """Return the figures of every tag, in the order of `classes`."""
        return per_class(self.predictions)

    def most_mistaken(self, *, min_count: int = 1) -> list[TagMistakes]:
        """Return the tags with at least `min_count` mistakes, those with most first."""
        missed = (self._truth & ~self._said).sum(axis=0).tolist()
        invented = (self._said & ~self._truth).sum(axis=0).tolist()
        found = map(TagMistakes, self.predictions.classes, missed, invented)
        wanted = [each for each in found if each.missed + each.invented >= max(min_count, 1)]
        return sorted(wanted, key=lambda each: -(each.missed + each.invented))

    def co_occurrence(self, *, said: bool = False) -> NDArray[np.int64]:
        """Return how many pictures have both tags, int64 (tags, tags); with `said`, were given both.

        On the diagonal are the pictures of each tag.
        """
        chosen = (self._said if said else self._truth).astype(np.int64)
        return np.asarray(chosen.T @ chosen)

    def most_missed(self, count: int = 9, *, tag: str | None = None) -> list[Example]:
        """Return the pictures whose tag (any, or `tag`) was not said, the least probable first."""
        return self._mistakes(self._truth & ~self._said, self._probabilities, count, tag)

    def most_invented(self, count: int = 9, *, tag: str | None = None) -> list[Example]:
        """Return the pictures of which a tag (any, or `tag`) was wrongly said, the surest first."""
        return self._mistakes(self._said & ~self._truth, -self._probabilities, count, tag)

    def top_losses(self, count: int = 9) -> list[Example]:
        """Return the pictures with the highest loss, worst first.

        Their `probability` is that of the tag which was judged worst, their `truth_probability` what
        was left for the truth about it.
        """
        of_truth = np.where(self._truth, self._probabilities, 1 - self._probabilities)
        order = np.lexsort((self.predictions.rows[self._rows], -self._losses))
        return [self._example(place, int(of_truth[place].argmin())) for place in order[:count].tolist()]

    def plot_top_losses(self, count: int = 9) -> Figure:
        """Return a Matplotlib figure of the pictures with the highest loss.

        Each is titled `prediction / truth / loss`. Raises `UsageError` where no way to read the
        pictures was given.
        """
        from headstart.evaluation import plots

        if self.picture is None:
            raise UsageError(
                "there is no way to read the pictures", "give `picture`, a function from index to pixels"
            )
        examples = self.top_losses(count)
        titles = [f"{example.prediction} / {example.truth} / {example.loss:.2f}" for example in examples]
        pictures = [self.picture(example.index) for example in examples]
        return plots.show_pictures(pictures, titles, title="prediction / truth / loss")

    def _mistakes(
        self, wrong: NDArray[np.bool_], key: NDArray[np.float64], count: int, tag: str | None
    ) -> list[Example]:
        if tag is not None:
            if tag not in self.predictions.classes:
                raise UsageError(
                    f"there is no tag {tag!r}", f"choose from {', '.join(self.predictions.classes)}"
                )
            wrong = wrong & (np.array(self.predictions.classes) == tag)
        places, tags = np.nonzero(wrong)
        # Equal ones in the order of the `Samples`.
        order = np.lexsort((tags, self.predictions.rows[self._rows[places]], key[places, tags]))[:count]
        return [self._example(int(places[number]), int(tags[number])) for number in order]

    def _example(self, place: int, tag: int) -> Example:
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
