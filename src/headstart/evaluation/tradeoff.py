"""What accuracy costs: one point for each body, and the line of those that nothing cheaper beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from headstart.evaluation import plots
from headstart.evaluation.metrics import Interval


@dataclass(frozen=True)
class Point:
    """A body: its name, its cost (milliseconds for a picture) and how well it does."""

    name: str
    cost: float
    value: Interval


def best_for_their_cost(points: Sequence[Point]) -> list[Point]:
    """Return the points that no cheaper one reaches, the cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.value.value)):
        if not front or point.value.value > front[-1].value.value:
            front.append(point)
    return front


def plot_tradeoff(points: Sequence[Point], *, metric: str = "accuracy") -> Figure:
    """Plot the metric, with its 95 % interval, over the cost of a picture, on a logarithmic axis.

    The best comes first in the list of names; the line joins those that nothing cheaper reaches.
    """
    figure, axes = plots.one_axes()
    front = best_for_their_cost(points)
    axes.plot(
        [point.cost for point in front],
        [point.value.value for point in front],
        color=plots.ACCENT,
        linewidth=1.2,
        alpha=0.5,
        zorder=1,
    )
    # By number, and named beside: points that lie close together would print their names on one another.
    ranked = sorted(points, key=lambda point: -point.value.value)
    for number, point in enumerate(ranked, start=1):
        value = point.value
        color = plots.ACCENT if point in front else plots.FAINT
        axes.errorbar(
            [point.cost],
            [value.value],
            yerr=[[max(0.0, value.value - value.low)], [max(0.0, value.high - value.value)]],
            marker="o",
            markersize=12,
            color=color,
            ecolor=color,
            elinewidth=1,
            capsize=3,
            zorder=2 + number,
        )
        axes.text(
            point.cost,
            value.value,
            str(number),
            color="white",
            fontsize=7.5,
            ha="center",
            va="center",
            zorder=2.5 + number,
        )
    axes.legend(
        handles=[
            Line2D([], [], marker=f"${number}$", linestyle="none", color=plots.INK, label=point.name)
            for number, point in enumerate(ranked, start=1)
        ],
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize=8,
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.1)
    plots.finish_axes(axes, "milliseconds for a picture through the frozen body", metric.replace("_", " "))
    return figure
