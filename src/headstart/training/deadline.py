"""A budget of time that training keeps."""

from __future__ import annotations

from collections.abc import Callable

from headstart.training.callbacks import Callback
from headstart.training.run import Row, Run

REASON = "the budget of time is used up"


class Deadline(Callback):
    """Stops before an epoch that would not fit in the time that is left, and after the step when none is.

    `left` gives the seconds left, as a forecast may be wrong and a machine may have other work.
    """

    def __init__(self, left: Callable[[], float]) -> None:
        self.left = left
        self._at_start = 0.0

    def before_epoch(self, run: Run) -> None:
        """Look at the clock."""
        self._at_start = self.left()

    def after_step(self, run: Run) -> None:
        """Stop when there is no time left at all."""
        if self.left() <= 0:
            run.stop_reason = REASON

    def after_epoch(self, run: Run, row: Row) -> None:
        """Stop where one more epoch like this one would be too long."""
        left = self.left()
        if run.span is not None and run.span.epochs_done < run.span.epochs and left < self._at_start - left:
            run.stop_reason = f"{REASON}: another epoch would not fit"
