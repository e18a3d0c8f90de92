"""Training as a notebook shows it: a table and a curve that grow in the cell's output."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Protocol

from headstart.training.callbacks import Callback
from headstart.training.progress import ProgressTable
from headstart.training.run import Row, Run

if TYPE_CHECKING:
    from rich.console import Console

REFRESH_SECONDS = 0.5
WIDTH, HEIGHT, EDGE = 460.0, 150.0, 34.0
MOST_POINTS = 200
TRAIN_COLOUR, VALID_COLOUR = "#0f766e", "#b45309"

Point = tuple[float, float]


class Handle(Protocol):
    """What `IPython.display.display(..., display_id=True)` returns."""

    def update(self, shown: object, /) -> None:
        """Show something else in the same place."""


class Html:
    """Text that a notebook shows as HTML."""

    def __init__(self, text: str, plain: str) -> None:
        self.text, self.plain = text, plain

    def _repr_html_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.plain


def in_notebook() -> bool:
    """Say whether this process is the kernel of a notebook; imports nothing."""
    module = sys.modules.get("IPython")
    shell = None if module is None else module.get_ipython()
    return getattr(shell, "kernel", None) is not None


def progress_for(metric: str | None, console: Console | None = None) -> Callback:
    """Return what shows training here: a live table with a curve in a notebook, else `ProgressTable`."""
    return NotebookTable(metric) if in_notebook() else ProgressTable(metric, console)


def _display(shown: object) -> Handle:
    from IPython.display import display

    handle: Handle = display(shown, display_id=True)
    return handle


class NotebookTable(Callback):
    """Shows `epoch train_loss valid_loss <metric> time` as a growing table, a bar, and the loss as a curve.

    One display for each phase, drawn anew at most twice a second. `show` puts something on the page and
    returns what can replace it; IPython's own unless given.
    """

    first_only = True

    def __init__(
        self, metric: str | None = "accuracy", show: Callable[[object], Handle] | None = None
    ) -> None:
        self.columns = ("train_loss", "valid_loss", *([metric] if metric else []))
        self._show = show or _display
        self._handle: Handle | None = None
        self._rows: list[Row] = []
        self._losses: list[Point] = []
        self._valid: list[Point] = []
        self._shown = 0.0
        self._note = ""

    def before_fit(self, run: Run) -> None:
        """Put an empty table on the page."""
        self._rows, self._losses, self._valid, self._note = [], [], [], ""
        self._handle = self._show(self._page(run))
        self._shown = time.monotonic()

    def after_step(self, run: Run) -> None:
        """Note the loss and, now and then, draw."""
        if run.span is not None and math.isfinite(run.span.smoothed_loss):
            self._losses.append((float(run.step), run.span.smoothed_loss))
        if time.monotonic() - self._shown >= REFRESH_SECONDS:
            self._draw(run)

    def before_validate(self, run: Run) -> None:
        """Say that validation is what one waits for."""
        self._note = "validating"
        self._draw(run)

    def after_epoch(self, run: Run, row: Row) -> None:
        """Add the epoch's row."""
        self._note = ""
        self._rows.append(row)
        if row.get("valid_loss") is not None:
            self._valid.append((float(run.step), float(row["valid_loss"])))
        self._draw(run)

    def after_fit(self, run: Run) -> None:
        """Leave table and curve, and say why training stopped, if it did."""
        self._note = f"stopped: {run.stop_reason}" if run.stop_reason else ""
        self._draw(run, ended=True)

    def _draw(self, run: Run, *, ended: bool = False) -> None:
        if self._handle is not None:
            self._handle.update(self._page(run, ended=ended))
        self._shown = time.monotonic()

    def _page(self, run: Run, *, ended: bool = False) -> Html:
        span = run.span
        parts = [_table(self.columns, self._rows)]
        if span is not None and not ended:
            epoch = min(span.epochs_done + 1, span.epochs)
            parts.append(
                f'<progress value="{span.done}" max="{span.total}"></progress> '
                f"{escape(span.name)} epoch {epoch}/{span.epochs} {escape(self._note)}"
            )
        elif self._note:
            parts.append(f"<p>{escape(self._note)}</p>")
        parts.append(curve(_thinned(self._losses), self._valid))
        last = self._rows[-1] if self._rows else {}
        plain = "  ".join(f"{name} {_figure(last.get(name))}" for name in self.columns)
        return Html("\n".join(parts), f"epoch {last.get('epoch', '–')}  {plain}")


def _table(columns: Sequence[str], rows: Sequence[Row]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in ("epoch", *columns, "time"))
    lines = [f"<thead><tr>{head}</tr></thead>"]
    for row in rows:
        cells = [str(row["epoch"]), *(_figure(row.get(name)) for name in columns), f"{row['time']:.1f} s"]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "<table>" + "".join(lines) + "</table>"


def _figure(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    step = max(1, len(points) // MOST_POINTS)
    return [*points[::step], *points[-1:]]


def curve(train: Sequence[Point], valid: Sequence[Point]) -> str:
    """Return losses over steps as an SVG: a line for training, a line with dots for validation."""
    points = [*train, *valid]
    if len(points) < 2:
        return ""
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)

    def placed(point: Point) -> str:
        across = (point[0] - left) / ((right - left) or 1)
        up = (point[1] - low) / ((high - low) or 1)
        x, y = EDGE + across * (WIDTH - EDGE - 8), 8 + (1 - up) * (HEIGHT - 26)
        return f"{x:.1f},{y:.1f}"

    def line(through: Sequence[Point], colour: str) -> str:
        path = " ".join(placed(point) for point in through)
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'

    dots = "".join(
        '<circle cx="{}" cy="{}" r="2.6" fill="{}"/>'.format(*placed(point).split(","), VALID_COLOUR)
        for point in valid
    )
    text = '<text x="{}" y="{}" font-size="10" fill="{}">{}</text>'.format
    words = [
        text(0, 14, "gray", f"{high:.3g}"),
        text(0, HEIGHT - 18, "gray", f"{low:.3g}"),
        text(EDGE, HEIGHT - 4, TRAIN_COLOUR, "training loss"),
        text(EDGE + 80, HEIGHT - 4, VALID_COLOUR, "validation loss"),
        text(WIDTH - 70, HEIGHT - 4, "gray", f"step {right:.0f}"),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH:.0f}" height="{HEIGHT:.0f}" role="img" '
        f'aria-label="losses over steps">{line(train, TRAIN_COLOUR)}{line(valid, VALID_COLOUR)}{dots}'
        f"{''.join(words)}</svg>"
    )
