"""Plots: functions that return Matplotlib figures, for notebooks and files.

No figure touches pyplot's state, needs a display or a thread: `figure.savefig("name.png")` works
anywhere, and in a notebook a figure shows itself.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib import font_manager, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from headstart.evaluation import charts
from headstart.evaluation.calibration import ReliabilityBin
from headstart.types import Pixels

ACCENT = "#0f766e"
CONTRAST = "#b45309"
INK = "#1c2321"
FAINT = "#8a9491"
GRID = "#e3e8e6"


class _Shown(Figure):
    """A figure that a notebook shows without pyplot."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png")
        return stream.getvalue()


def plot_lr_find(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float] | None = None,
    suggestions: Mapping[str, float | None] | None = None,
    *,
    chosen: float | None = None,
) -> Figure:
    """Plot the loss over the learning rate, with what is suggested.

    `rates` and `losses` have one value per trial step; `smoothed` is drawn over them. Suggestions
    that are None are left out; `chosen` is marked as taken.
    """
    figure, axes = one_axes()
    shown = smoothed if smoothed is not None and len(smoothed) else losses
    if smoothed is not None and len(smoothed):
        axes.plot(rates[: len(losses)], losses, color=FAINT, linewidth=0.8, alpha=0.7, label="each step")
    axes.plot(rates[: len(shown)], shown, color=ACCENT, linewidth=2, label="loss")
    axes.set_xscale("log")
    axes.set_ylim(*charts.finder_range(shown))
    known = [(name, rate) for name, rate in (suggestions or {}).items() if rate]
    for name, rate in known:
        axes.plot(
            [rate],
            [np.interp(math.log(rate), np.log(rates[: len(shown)]), shown)],
            marker="o",
            markersize=7,
            linestyle="none",
            label=f"{name}: {rate:.2g}",
        )
    if chosen:
        axes.axvline(chosen, color=CONTRAST, linewidth=1, linestyle="--", label=f"chosen: {chosen:.2g}")
    finish_axes(axes, "learning rate", "loss")
    legend_above(axes)
    return figure


def plot_losses(history: Sequence[Mapping[str, Any]], *, metric: str = "accuracy") -> Figure:
    """Plot the training and validation loss and the metric over the epochs of a history.

    `history` holds one row per epoch with `train_loss`, `valid_loss`, the metric, and, where
    steps should be told apart, `step` and `name`.
    """
    figure, (left, right) = _two()
    epochs = np.arange(1, len(history) + 1)
    lines = (("train_loss", FAINT, "training"), ("valid_loss", ACCENT, "validation"))
    for key, color, label in lines:
        left.plot(epochs, _column(history, key), color=color, marker="o", markersize=4, label=label)
    right.plot(epochs, _column(history, metric), color=ACCENT, marker="o", markersize=4)
    for axes in (left, right):
        for number in _step_starts(history):
            axes.axvline(number + 0.5, color=GRID, linewidth=1.2, zorder=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(frameon=False, fontsize=9)
    finish_axes(left, "epoch", "loss")
    finish_axes(right, "epoch", metric.replace("_", " "))
    return figure


def plot_schedule(rates: ArrayLike, *, momenta: Sequence[float] | None = None) -> Figure:
    """Plot the learning rate of each step: `rates` is (steps,) or (steps, groups)."""
    values = np.asarray(rates, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    figure, axes = one_axes()
    groups = values.shape[1]
    for group in range(groups):
        axes.plot(
            np.arange(len(values)),
            values[:, group],
            color=ACCENT,
            alpha=0.35 + 0.65 * (group + 1) / groups,
            linewidth=1 + (group + 1) / groups,
            label=f"group {group}" if groups > 1 else "learning rate",
        )
    finish_axes(axes, "step", "learning rate")
    if momenta is not None:
        other = axes.twinx()
        other.plot(np.arange(len(momenta)), momenta, color=CONTRAST, linestyle="--", label="momentum")
        finish_axes(other, "step", "momentum")
        axes.plot([], [], color=CONTRAST, linestyle="--", label="momentum")
    if groups > 1 or momenta is not None:
        legend_above(axes)
    return figure


def plot_confusion_matrix(matrix: ArrayLike, classes: Sequence[str]) -> Figure:
    """Plot a confusion matrix (truth down, prediction across) of counts or shares.

    Cells are shaded by their share of the row, so that small classes are seen as well as large
    ones. Numbers are written into the cells up to 30 classes, names beside them up to 60.
    """
    values = np.asarray(matrix)
    count = len(classes)
    side = min(max(3.6, 0.42 * count + 1.8), 14.0)
    figure = new_figure(side + 0.6, side)
    axes = figure.add_subplot()
    shares = values / np.maximum(values.sum(axis=1, keepdims=True), 1e-12)
    axes.imshow(shares, cmap=_shades(), vmin=0.0, vmax=1.0, interpolation="nearest")
    if count <= 30:
        whole = np.issubdtype(values.dtype, np.integer)
        for row, column in np.argwhere(values > 0):
            text = str(values[row, column]) if whole else f"{values[row, column]:.2f}"
            color = "white" if shares[row, column] > 0.5 else INK
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
    if count <= 60:
        names = [plain(name) for name in classes]
        turn = 90 if count > 6 else 30
        axes.set_xticks(range(count), names, rotation=turn, ha="right", rotation_mode="anchor")
        if turn == 90:
            axes.tick_params(axis="x", pad=8)
        axes.set_yticks(range(count), names)
    finish_axes(axes, "prediction", "truth")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    return figure


def plot_reliability(bins: Sequence[ReliabilityBin]) -> Figure:
    """Plot how often the model is right against how sure it is, with 95 % intervals."""
    figure = new_figure(4.8, 4.6)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--", label="perfect calibration")
    sure = [each.confidence for each in bins]
    right = [each.accuracy for each in bins]
    below = [each.accuracy - each.low for each in bins]
    above = [each.high - each.accuracy for each in bins]
    axes.errorbar(sure, right, yerr=(below, above), color=ACCENT, marker="o", capsize=3, label="this model")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    finish_axes(axes, "how sure (probability)", "how often right")
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def show_pictures(
    pictures: Sequence[Pixels],
    titles: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    title: str = "",
    colors: Sequence[str] | None = None,
) -> Figure:
    """Show pictures (uint8, height × width × 3, of any sizes) in a grid with a title each, in its colour."""
    count = max(len(pictures), 1)
    wide = columns or min(count, max(3, math.ceil(math.sqrt(count))))
    high = math.ceil(count / wide)
    figure = new_figure(2.5 * wide, 2.8 * high + (0.4 if title else 0.0))
    grid = figure.subplots(high, wide, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, picture in enumerate(pictures):
        axes = grid.flat[number]
        axes.imshow(picture)
        if titles is not None:
            color = INK if colors is None else colors[number]
            axes.set_title("\n".join(textwrap.wrap(plain(titles[number]), 34)), fontsize=9, color=color)
    if title:
        figure.suptitle(plain(title), fontsize=11, color=INK)
    return figure


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches."""
    figure = _Shown(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def one_axes() -> tuple[Figure, Axes]:
    """Return a figure of one chart."""
    figure = new_figure(6.4, 3.8)
    return figure, figure.add_subplot()


def _two() -> tuple[Figure, tuple[Axes, Axes]]:
    figure = new_figure(9.6, 3.6)
    return figure, (figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2))


def figure_of_rows(labels: Sequence[str], heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Return a figure with rows of these relative heights over one axis of x, and the rows."""
    figure = new_figure(9.6, 1.2 + 0.95 * sum(heights))
    grid = figure.add_gridspec(len(heights), 1, height_ratios=list(heights))
    rows: list[Axes] = []
    for number, label in enumerate(labels):
        axes = figure.add_subplot(grid[number], sharex=rows[0] if rows else None)
        axes.tick_params(labelbottom=number == len(labels) - 1)
        finish_axes(axes, "", label)
        rows.append(axes)
    return figure, rows


def finish_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Name the axes of a chart and give it the looks of all others."""
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)


def legend_above(axes: Axes) -> None:
    """Put the legend of a chart above it."""
    axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3)


def _shades() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("headstart", ["#ffffff", "#b9dcd7", ACCENT, "#0a4f4a"])


def _column(history: Sequence[Mapping[str, Any]], key: str) -> NDArray[np.float64]:
    values = [row.get(key) for row in history]
    return np.array([np.nan if value is None else float(value) for value in values])


def _step_starts(history: Sequence[Mapping[str, Any]]) -> list[int]:
    steps = [row.get("step") for row in history]
    return [number for number in range(1, len(steps)) if steps[number] != steps[number - 1]]


def plain(text: str) -> str:
    """Return text as it is: no mathematics between dollar signs, nothing that no font can draw."""
    drawn = _drawable()
    visible = "".join(letter if ord(letter) in drawn else "\N{REPLACEMENT CHARACTER}" for letter in text)
    short = visible if len(visible) <= 60 else visible[:59] + "…"
    return short.replace("$", r"\$")


@lru_cache(maxsize=1)
def _drawable() -> frozenset[int]:
    """The characters of the fonts that Matplotlib falls back on; it warns of any other."""
    letters: set[int] = set()
    for family in rcParams["font.sans-serif"]:
        try:
            path = font_manager.findfont(family, fallback_to_default=False)
        except ValueError:
            continue
        letters.update(font_manager.get_font(path).get_charmap())
    return frozenset(number for number in letters if chr(number).isprintable())
