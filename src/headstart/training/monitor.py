"""Which way is better, for the figure of a history that is watched."""

from __future__ import annotations

import math

from headstart.errors import UsageError
from headstart.training.run import Row


def lower_is_better(monitor: str) -> bool:
    """Say whether less of a figure is better: losses and errors, and what the metrics themselves say."""
    from headstart.evaluation import METRICS

    known = METRICS.get(monitor)
    if known is not None:
        return not known.higher_is_better
    return "loss" in monitor or "error" in monitor


def cost(row: Row, monitor: str) -> float:
    """Return the watched figure of an epoch so that less is better; infinity where it is not finite.

    Raises `UsageError` where the history has no such figure.
    """
    value = row.get(monitor)
    if value is None and monitor not in row:
        raise UsageError(
            f"the history has no {monitor!r} to watch", f"validate, or choose from {', '.join(sorted(row))}"
        )
    if value is None or not math.isfinite(value):
        return math.inf
    return float(value) if lower_is_better(monitor) else -float(value)
