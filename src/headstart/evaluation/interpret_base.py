"""What the interpretations of classes and of tags share: examples, slices, and pictures of examples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from headstart.errors import UsageError
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.records import Records
from headstart.evaluation.slicing import FALSE_DISCOVERY, MIN_COUNT, Slice, slices_of
from headstart.types import Pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from headstart.evaluation.explanation import Explanation

Explain = Callable[[Sequence[int]], "Sequence[Explanation]"]
"""From row numbers of the `Samples` to explanations of those pictures."""


@dataclass(frozen=True)
class Example:
    """One picture: its row in the table, its number in the `Samples`, and what was said of it.

    `probability` is that of the prediction, `truth_probability` that of the truth; `loss` is the
    log loss in nats. Of tags, `probability` is that of one `tag`, which the example is about.
    """

    row: int
    index: int
    path: str
    prediction: str
    truth: str
    loss: float
    probability: float
    truth_probability: float
    tag: str = ""


class Interpreted(ABC):
    """A table of predictions whose truth is known, and how to see its pictures.

    `picture` gives the pixels of a picture by its number in the `Samples` (`Example.index`), `explain` the
    heat maps of several; they are needed only to plot pictures. `columns`: what else is known of each row
    of the `Samples`, by name, for slices. Raises `UsageError` where no row has a truth.
    """

    def __init__(
        self,
        predictions: Predictions,
        picture: Callable[[int], Pixels] | None = None,
        *,
        columns: Mapping[str, ArrayLike] | None = None,
        explain: Explain | None = None,
    ) -> None:
        if not predictions.scored_rows.any():
            raise UsageError("no row has both a prediction and a known truth", "interpret labelled pictures")
        self.predictions = predictions
        self.picture = picture
        self.columns = dict(columns or {})
        self.explain = explain
        self._rows = np.flatnonzero(predictions.scored_rows)
        # Logits that are not finite are the worst that can be said of a picture.
        self._losses = np.nan_to_num(predictions.loss[self._rows], nan=np.inf, posinf=np.inf)

    def slices(
        self,
        column: str | None = None,
        *,
        min_count: int = MIN_COUNT,
        false_discovery: float = FALSE_DISCOVERY,
    ) -> Records[Slice]:
        """Return how the rows fare by the values of a column, or of all; the worse ones first.

        See `slices_of`. Raises `UsageError` for a column that is not there.
        """
        if column is not None and column not in self.columns:
            known = ", ".join(self.columns) or "none: give them to the interpretation"
            raise UsageError(f"there is no column {column!r}", f"columns are {known}")
        names = list(self.columns) if column is None else [column]
        rows = self.predictions.rows
        cells = {name: np.asarray(self.columns[name], dtype=object)[rows] for name in names}
        if column is None:  # of what is the same everywhere there is nothing to compare
            cells = {name: values for name, values in cells.items() if len(set(map(str, values))) > 1}
        return slices_of(self.predictions, cells, min_count=min_count, false_discovery=false_discovery)

    def plot_slices(self, column: str | None = None) -> Figure:
        """Return a figure of the accuracy of the slices of a column (or of all), with intervals."""
        from headstart.evaluation.galleries import plot_slices

        return plot_slices(self.slices(column))

    def explanations(self, examples: Sequence[Example]) -> list[Explanation]:
        """Return where in each picture the model found what it said; raises `UsageError` without a way to."""
        if self.explain is None:
            raise UsageError("there is no way to explain the pictures", "take learn.interpret() or explain()")
        return list(self.explain([example.index for example in examples]))

    @abstractmethod
    def top_losses(self, count: int = 9, *, label: str | None = None) -> Records[Example]:
        """Return the pictures (of a class or tag) with the highest loss, worst first."""

    @abstractmethod
    def _example(self, place: int) -> Example:
        """Return what is said of a picture, by its place among those whose truth is known."""

    def plot_top_losses(self, count: int = 9, *, heat: bool = False) -> Figure:
        """Return a Matplotlib figure of the pictures with the highest loss, with `heat` as heat maps.

        Each is titled `prediction / truth / loss`, of classes also `/ probability of the truth`. Raises
        `UsageError` where no way to read (with `heat`, to explain) the pictures was given.
        """
        from headstart.evaluation.galleries import plot_top_losses

        examples = self.top_losses(count)
        if heat:
            return plot_top_losses(examples, explanations=self.explanations(examples))
        return plot_top_losses(examples, self._pictures(examples))

    def show_results(self, count: int = 9, *, seed: int = 0) -> Figure:
        """Return a figure of some pictures, drawn by `seed`, with truth and prediction; what is wrong in red.

        Raises `UsageError` where no way to read the pictures was given.
        """
        from headstart.evaluation.galleries import show_results

        drawn = np.random.default_rng(seed).permutation(len(self._rows))[:count]
        examples = [self._example(int(place)) for place in drawn]
        return show_results(examples, self._pictures(examples))

    def _pictures(self, examples: Sequence[Example]) -> list[Pixels]:
        if self.picture is None:
            raise UsageError(
                "there is no way to read the pictures", "give `picture`, a function from index to pixels"
            )
        return [self.picture(example.index) for example in examples]
