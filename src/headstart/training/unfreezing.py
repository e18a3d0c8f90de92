"""Gradual unfreezing, as phases of a plan."""

from __future__ import annotations

from headstart.errors import UsageError
from headstart.training.plan import Phase
from headstart.training.schedules import Schedule, one_cycle

# How many times lower the rate of each group is than that of the group above it.
RATIO = 2.6


def gradual_unfreezing(
    groups: int = 3,
    *,
    epochs: int = 1,
    last_epochs: int | None = None,
    rate: float | None = None,
    ratio: float = RATIO,
    schedule: Schedule | None = None,
) -> tuple[Phase, ...]:
    """Return phases that let one more group train each time: the head, the group below it, …, everything.

    `groups`: how many the classifier has. Each phase takes `epochs`, the one that trains everything
    `last_epochs` (default: as many), on `schedule` (default: one cycle). `rate` is that of the head, each
    group below having a rate `ratio` times lower, the frozen ones too; None leaves it to the finder when
    a phase begins. `Plan(gradual_unfreezing())` runs as any plan does, and the optimiser keeps its state
    from phase to phase. Source: ULMFiT (Howard and Ruder 2018, arXiv 1801.06146), whose ratio is 2.6.
    Raises `UsageError` for fewer than two groups or a ratio below 1, `ConfigError` for what a phase
    cannot take.
    """
    if groups < 2:
        raise UsageError(f"gradual unfreezing of {groups} groups", "there are two or more: body and head")
    if not ratio >= 1:
        raise UsageError(f"a ratio of {ratio} between groups", "give 1 or more, such as 2.6")
    rates = None if rate is None else tuple(rate / ratio ** (groups - 1 - number) for number in range(groups))
    return tuple(
        Phase(
            name=_name(trained, groups),
            epochs=(last_epochs or epochs) if trained == groups else epochs,
            schedule=schedule or one_cycle(),
            learning_rate=rates,
            frozen_to=groups - trained,
            reason="The layers nearest to the classes change first, so that those below lose nothing.",
        )
        for trained in range(1, groups + 1)
    )


def _name(trained: int, groups: int) -> str:
    if trained == 1:
        return "head"
    return "whole network" if trained == groups else f"the last {trained} groups"
