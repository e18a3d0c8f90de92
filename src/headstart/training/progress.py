"""Training as a person sees it: a live bar and the epoch table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from headstart.training.callbacks import Callback
from headstart.training.run import Row, Run, Span

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

INDENT = "  "
# Other output than a terminal gets a line this often, so that a log shows that something moves.
PLAIN_SECONDS = 30.0
REFRESH_SECONDS = 0.1


class ProgressTable(Callback):
    """Prints `epoch train_loss valid_loss <metric> time`, one row an epoch, and a bar meanwhile.

    The bar shows the running loss, smoothed, and the time that the epoch still needs. Where the
    console is no terminal, a plain line appears every half minute instead. The table goes to stderr
    unless a `console` is given. A best validation loss so far is marked.
    """

    first_only = True

    def __init__(self, metric: str | None = "accuracy", console: Console | None = None) -> None:
        if console is None:
            from rich.console import Console

            console = Console(stderr=True, highlight=False)
        self.console = console
        self.columns = ("train_loss", "valid_loss", *([metric] if metric else []))
        self._widths = [max(10, len(name)) for name in self.columns]
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._best = math.inf
        self._started = self._shown = 0.0
        self._steps_before = self._told = 0

    def before_fit(self, run: Run) -> None:
        """Print the heading and put the bar below it."""
        self._best = math.inf
        if run.span is not None and run.span.done:
            self._told = len(run.adjustments.notices)  # a restart does not tell it all again
        self._tell(run)
        names = (name.rjust(width) for name, width in zip(self.columns, self._widths, strict=True))
        self._print("  ".join(["epoch", *names, " time"]), "bold")
        if self.console.is_terminal:
            self._bar = self._make_bar()
            self._bar.start()

    def before_epoch(self, run: Run) -> None:
        """Start the bar again."""
        span = _span(run)
        self._started = self._shown = time.monotonic()
        self._steps_before = span.batches_done
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(_of_epochs(span), total=span.batches, note="")

    def after_step(self, run: Run) -> None:
        """Move the bar, or print a line now and then; say at once what training changed by itself."""
        self._tell(run)
        now = time.monotonic()
        wait = REFRESH_SECONDS if self._bar is not None else PLAIN_SECONDS
        span = _span(run)
        if now - self._shown < wait and span.batches_done < span.batches:
            return
        if self._bar is not None and self._task is not None:
            self._shown = now
            note = f"loss {_figure(span.smoothed_loss)}  {_clock(self._seconds_left(span, now))} left"
            self._bar.update(self._task, completed=span.batches_done, note=note)
        elif now - self._shown >= wait:
            self._shown = now
            self._print(
                f"{_of_epochs(span)}: batch {span.batches_done} of {span.batches}, "
                f"loss {_figure(span.smoothed_loss)}, {_clock(self._seconds_left(span, now))} left",
                "",
            )

    def before_validate(self, run: Run) -> None:
        """Say that validation is what one waits for."""
        if self._bar is not None and self._task is not None:
            span = _span(run)
            note = f"loss {_figure(span.smoothed_loss)}  validating"
            self._bar.update(self._task, completed=span.batches, note=note)
            self._bar.refresh()

    def after_epoch(self, run: Run, row: Row) -> None:
        """Print the epoch's row above the bar."""
        valid = row.get("valid_loss")
        best = valid is not None and valid < self._best
        self._best = valid if valid is not None and best else self._best
        cells = [_figure(row.get(name)) for name in self.columns]
        padded = [cell.rjust(width) for cell, width in zip(cells, self._widths, strict=True)]
        number = str(row["epoch"]).rjust(5)
        self._print("  ".join([number, *padded, _clock(row["time"]).rjust(5)]), "green" if best else "")

    def after_fit(self, run: Run) -> None:
        """Take the bar away and say why training stopped, if it did."""
        self._tell(run)
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
        if run.stop_reason:
            self._print(f"stopped: {run.stop_reason}", "yellow")

    def _tell(self, run: Run) -> None:
        self._told = min(self._told, len(run.adjustments.notices))  # the table may be shown another run
        for notice in run.adjustments.notices[self._told :]:
            self._print(f"! {notice}", "yellow")
        self._told = len(run.adjustments.notices)

    def _seconds_left(self, span: Span, now: float) -> float:
        done = span.batches_done - self._steps_before
        return (now - self._started) / max(1, done) * (span.batches - span.batches_done)

    def _make_bar(self) -> Progress:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        return Progress(
            TextColumn(INDENT + "{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
            refresh_per_second=8,
        )

    def _print(self, text: str, style: str) -> None:
        from rich.text import Text

        # A styled text, not a styled print: that would colour the bar below it as well.
        self.console.print(Text(INDENT + text, style, no_wrap=True))


def _span(run: Run) -> Span:
    assert run.span is not None
    return run.span


def _of_epochs(span: Span) -> str:
    return f"epoch {span.epochs_done + 1}/{span.epochs}"


def _figure(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
