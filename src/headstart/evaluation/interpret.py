"""Interpretation: what a model confuses, where it is wrong and sure, where it is unsure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.errors import UsageError
from headstart.evaluation import metrics
from headstart.evaluation.interpret_base import Example as Example
from headstart.evaluation.interpret_base import Explain, Interpreted
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.records import Records
from headstart.types import Pixels, Task

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Confusion:
    """A pair of classes: how many pictures of `truth` were called `prediction`."""

    truth: str
    prediction: str
    count: int


class Interpretation(Interpreted):
    """Questions about one table of predictions whose truth is known; lists that are tables, too (`to_frame`).

    `picture` gives the pixels of a picture by its number in the `Samples` (`Example.index`), `explain` the
    heat maps of several; they are needed only to plot pictures. `columns`: what else is known of each row
    of the `Samples`, by name, for slices. Raises `UsageError` for tags, and where no row has a truth.

    >>> table = Predictions([[2.0, 0.0], [0.5, 1.5]], ("cat", "dog"), targets=[0, 0])
    >>> Interpretation(table).most_confused(min_count=1)
    [Confusion(truth='cat', prediction='dog', count=1)]
    """

    def __init__(
        self,
        predictions: Predictions,
        picture: Callable[[int], Pixels] | None = None,
        *,
        columns: Mapping[str, ArrayLike] | None = None,
        explain: Explain | None = None,
    ) -> None:
        if predictions.task is not Task.SINGLE_LABEL:
            raise UsageError("interpretation needs one class per picture", "for tags, use TagInterpretation")
        super().__init__(predictions, picture, columns=columns, explain=explain)

    def confusion_matrix(self, *, normalise: bool = False) -> NDArray[np.int64] | NDArray[np.float64]:
        """Return how often each class (row) was predicted as each class (column): (K, K).

        With `normalise`, as shares of the row; a class without pictures has a row of zeros.
        """
        counts = metrics.confusion_matrix(self.predictions)
        if not normalise:
            return counts
        return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))

    def confusion_frame(self, *, normalise: bool = False) -> pandas.DataFrame:
        """Return the confusion matrix as a DataFrame: truth down, prediction across."""
        import pandas

        names = list(self.predictions.classes)
        down, across = pandas.Index(names, name="truth"), pandas.Index(names, name="prediction")
        return pandas.DataFrame(self.confusion_matrix(normalise=normalise), index=down, columns=across)

    def most_confused(self, *, min_count: int = 2) -> Records[Confusion]:
        """Return the pairs of classes that were mistaken at least `min_count` times, most first."""
        counts = metrics.confusion_matrix(self.predictions)
        np.fill_diagonal(counts, 0)
        classes = self.predictions.classes
        pairs = [
            Confusion(classes[truth], classes[guess], int(counts[truth, guess]))
            for truth, guess in np.argwhere(counts >= max(min_count, 1))
        ]
        return Records(Confusion, sorted(pairs, key=lambda pair: -pair.count))

    def top_losses(self, count: int = 9, *, label: str | None = None) -> Records[Example]:
        """Return the pictures (of the class `label`) with the highest loss, worst first."""
        return self._first(-self._losses, self._of(label), count)

    def most_correct(self, count: int = 9, *, label: str | None = None) -> Records[Example]:
        """Return the pictures (of the class `label`) that are right and surest, surest first."""
        return self._first(-self._confidence, self._right & self._of(label), count)

    def most_incorrect(self, count: int = 9, *, label: str | None = None) -> Records[Example]:
        """Return the pictures (of the class `label`) that are wrong and surest, surest first."""
        return self._first(-self._confidence, ~self._right & self._of(label), count)

    def most_uncertain(self, count: int = 9, *, label: str | None = None) -> Records[Example]:
        """Return the pictures (of the class `label`) with the most even probabilities, by their entropy."""
        logarithms = self.predictions.log_probabilities[self._rows]
        probabilities = np.exp(logarithms)
        terms = probabilities * np.where(probabilities > 0, logarithms, 0.0)
        return self._first(terms.sum(axis=1), self._of(label), count)

    def lowest_margin(self, count: int = 9, *, label: str | None = None) -> Records[Example]:
        """Return the pictures (of the class `label`) whose two best classes are nearest each other."""
        ordered = np.sort(self.predictions.probabilities[self._rows], axis=1)
        margin = ordered[:, -1] - ordered[:, -2] if ordered.shape[1] > 1 else ordered[:, -1]
        return self._first(margin, self._of(label), count)

    def mistaken(self, pair: Confusion, count: int = 9) -> Records[Example]:
        """Return the pictures of one confusion, surest first."""
        wanted = self._of(pair.truth) & (self._guesses == self._number(pair.prediction))
        return self._first(-self._confidence, wanted, count)

    def plot_confusion_matrix(self, *, normalise: bool = False) -> Figure:
        """Return a Matplotlib figure of the confusion matrix."""
        from headstart.evaluation import plots

        matrix = self.confusion_matrix(normalise=normalise)
        return plots.plot_confusion_matrix(matrix, self.predictions.classes)

    @cached_property
    def _truths(self) -> NDArray[np.int64]:
        return np.asarray(self.predictions.targets)[self._rows]

    @cached_property
    def _guesses(self) -> NDArray[np.int64]:
        return self.predictions.predicted[self._rows]

    @cached_property
    def _right(self) -> NDArray[np.bool_]:
        return np.asarray(self._guesses == self._truths)

    @cached_property
    def _confidence(self) -> NDArray[np.float64]:
        return np.nan_to_num(self.predictions.confidence[self._rows], nan=0.0)

    def _number(self, label: str) -> int:
        if label not in self.predictions.classes:
            raise UsageError(f"there is no class {label!r}")
        return self.predictions.classes.index(label)

    def _of(self, label: str | None) -> NDArray[np.bool_]:
        if label is None:
            return np.ones(len(self._rows), dtype=np.bool_)
        return np.asarray(self._truths == self._number(label))

    def _first(self, key: NDArray[np.float64], wanted: NDArray[np.bool_], count: int) -> Records[Example]:
        """The wanted rows with the smallest keys; equal keys in the order of the `Samples`."""
        places = np.flatnonzero(wanted)
        numbers = self.predictions.rows[self._rows[places]]
        order = places[np.lexsort((numbers, key[places]))][:count]
        return Records(Example, [self._example(place) for place in order.tolist()])

    def _example(self, place: int) -> Example:
        row, truth, guess = int(self._rows[place]), int(self._truths[place]), int(self._guesses[place])
        probabilities = self.predictions.probabilities[row]
        return Example(
            row=row,
            index=int(self.predictions.rows[row]),
            path=self.predictions.paths[row] if self.predictions.paths else "",
            prediction=self.predictions.classes[guess] if guess >= 0 else "",
            truth=self.predictions.classes[truth],
            loss=float(self._losses[place]),
            probability=float(self._confidence[place]),
            truth_probability=float(probabilities[truth]),
        )
