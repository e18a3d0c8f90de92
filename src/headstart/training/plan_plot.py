"""A plan as a picture, before anything is trained: what moves, and how, over the epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from headstart.errors import UsageError
from headstart.evaluation.plots import FAINT, GRID, INK, figure_of_rows
from headstart.training.optim import group_rates
from headstart.training.plan import Phase, Plan, scaled_size
from headstart.training.schedules import Schedule
from headstart.types import Size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# From the earliest layers (light) to the head (dark).
EARLIEST, HEAD = np.array([0.66, 0.83, 0.80]), np.array([0.06, 0.46, 0.43])
POINTS_PER_EPOCH = 60
MOMENTUM = 0.9

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Stretch:
    """A phase on the axis of epochs: where it starts, and its points as (epoch, progress)."""

    phase: Phase
    start: int
    epochs: Floats
    progress: Floats

    def along(self, schedule: Schedule, peak: float) -> Floats:
        return np.array([peak * schedule.at(float(progress)) for progress in self.progress])


def plot_plan(
    plan: Plan, *, groups: int = 3, found_rate: float = 1e-3, image_size: Size | None = None
) -> Figure:
    """Return a figure of a plan over its epochs.

    The learning rate of each of the `groups` parameter groups (frozen ones are left out), the momentum,
    and, where they move, the weight decay and the picture's height. A rate that is found when its phase
    begins is drawn dashed, at `found_rate` for the head and less for earlier groups by the ratio of the
    settings. `image_size` is that of the data, for phases
    that name none. Raises `UsageError` where a phase has rates for another number of groups.
    """
    if groups < 1:
        raise UsageError(f"{groups} parameter groups", "give 1 or more")
    stretches = _stretches(plan)
    rows: list[tuple[str, float, Callable[[Axes], None]]] = [
        ("learning rate", 3.0, lambda axes: _draw_rates(axes, plan, stretches, groups, found_rate)),
        ("momentum", 1.0, lambda axes: _draw_momentum(axes, stretches)),
    ]
    if any(phase.weight_decay_schedule or phase.weight_decay is not None for phase in plan):
        rows.append(("weight decay", 1.0, lambda axes: _draw_decay(axes, plan, stretches)))
    if image_size or any(phase.image_size for phase in plan):
        rows.append(("height (px)", 1.0, lambda axes: _draw_sizes(axes, stretches, image_size)))
    figure, all_axes = figure_of_rows([row[0] for row in rows], [row[1] for row in rows])
    for axes, (_, _, draw) in zip(all_axes, rows, strict=True):
        draw(axes)
        _mark_phases(axes, stretches)
    _name_phases(all_axes[0], stretches)
    all_axes[-1].set_xlabel("epoch", color=INK)
    all_axes[-1].set_xlim(0, plan.total_epochs())
    return figure


def _stretches(plan: Plan) -> list[_Stretch]:
    found, start = [], 0
    for phase in plan:
        # The last point stands just before the end, where the next phase may begin elsewhere.
        progress = np.linspace(0.0, 1.0, phase.epochs * POINTS_PER_EPOCH, endpoint=False)
        progress = np.append(progress, 1.0 - 1e-9)
        found.append(_Stretch(phase, start, start + progress * phase.epochs, progress))
        start += phase.epochs
    return found


def _draw_rates(
    axes: Axes, plan: Plan, stretches: Sequence[_Stretch], groups: int, found_rate: float
) -> None:
    named: set[int] = set()
    dashed = False
    for stretch in stretches:
        phase = stretch.phase
        open_rate = phase.learning_rate is None
        dashed = dashed or open_rate
        ratio = plan.settings.rate_ratio
        found = tuple(found_rate * ratio ** (number + 1 - groups) for number in range(groups))
        peaks = group_rates(found if phase.learning_rate is None else phase.learning_rate, groups, ratio)
        line = phase.frozen_to if phase.frozen_to >= 0 else groups + phase.frozen_to
        for number in range(max(0, line), groups):
            share = 1.0 if groups == 1 else number / (groups - 1)
            label = "" if number in named else "head" if number == groups - 1 else f"group {number}"
            named.add(number)
            rates = stretch.along(phase.schedule, peaks[number])
            axes.plot(
                stretch.epochs,
                np.where(rates > 0, rates, np.nan),
                color=tuple(EARLIEST + share * (HEAD - EARLIEST)),
                linewidth=1.8,
                linestyle="--" if open_rate else "-",
                label=label or "_",
            )
    axes.set_yscale("log")
    _bound_rates(axes)
    if dashed:
        axes.plot(
            [], [], color=FAINT, linestyle="--", label=f"found when it begins (drawn at {found_rate:g})"
        )
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda at: (not labels[at].startswith("group"), labels[at]))
    axes.legend(
        [handles[at] for at in order],
        [labels[at] for at in order],
        framealpha=0.9,
        edgecolor="none",
        fontsize=8,
        loc="lower left",
        ncols=groups + 1,
    )


def _bound_rates(axes: Axes) -> None:
    """Show four decades below the highest rate: cosines end at nothing, which no logarithm has."""
    highest = max((float(np.nanmax(np.asarray(line.get_ydata()))) for line in axes.get_lines()), default=1.0)
    axes.set_ylim(highest * 1e-4, highest * 3)


def _draw_momentum(axes: Axes, stretches: Sequence[_Stretch]) -> None:
    for stretch in stretches:
        phase = stretch.phase
        if phase.momentum is not None:
            values = stretch.along(phase.momentum_schedule or Schedule(), phase.momentum)
        else:
            own = [phase.schedule.momentum_at(float(progress)) for progress in stretch.progress]
            values = np.array([MOMENTUM if value is None else value for value in own])
        axes.plot(stretch.epochs, values, color=INK, linewidth=1.4)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.8), max(high, 1.0))


def _draw_decay(axes: Axes, plan: Plan, stretches: Sequence[_Stretch]) -> None:
    for stretch in stretches:
        phase = stretch.phase
        peak = plan.settings.weight_decay if phase.weight_decay is None else phase.weight_decay
        values = stretch.along(phase.weight_decay_schedule or Schedule(), peak)
        axes.plot(stretch.epochs, values, color=INK, linewidth=1.4)
    axes.set_ylim(bottom=0)


def _draw_sizes(axes: Axes, stretches: Sequence[_Stretch], data_size: Size | None) -> None:
    size = data_size
    for stretch in stretches:
        size = stretch.phase.image_size or size
        if size is None:
            continue
        start = stretch.start
        for part in stretch.phase.stretches(size):
            height = scaled_size(part.image_size or size, 1.0)[0]
            axes.plot([start, start + part.epochs], [height, height], color=INK, linewidth=1.8)
            start += part.epochs
    axes.set_ylim(bottom=0)
    axes.margins(y=0.2)


def _mark_phases(axes: Axes, stretches: Sequence[_Stretch]) -> None:
    for number, stretch in enumerate(stretches):
        if number % 2 == 0:
            axes.axvspan(
                stretch.start, stretch.start + stretch.phase.epochs, color=GRID, alpha=0.4, linewidth=0
            )


def _name_phases(axes: Axes, stretches: Sequence[_Stretch]) -> None:
    for number, stretch in enumerate(stretches, start=1):
        axes.annotate(
            f"{number}. {stretch.phase.name}",
            (stretch.start, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, 4),
            textcoords="offset points",
            fontsize=8,
            color=INK,
            rotation=20,
            rotation_mode="anchor",
        )
