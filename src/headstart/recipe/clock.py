"""Durations: read, spoken, and held against a budget."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from headstart.errors import UsageError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Read `90`, `90s`, `10m`, `1.5h` or `1h30m` as seconds; raises `UsageError` otherwise."""
    compact = text.strip().lower().replace(" ", "")
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh]?)", compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise UsageError(f"{text!r} is not a duration", "write for example 90s, 10m or 1h30m")
    if len(parts) > 1 and not all(unit for _, unit in parts):
        raise UsageError(f"{text!r} is not a duration", "give every part a unit: 1h30m")
    seconds = sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
    if seconds <= 0:
        raise UsageError(f"a duration of {text!r} leaves no time", "write for example 90s, 10m or 1h30m")
    return seconds


class Clock:
    """Seconds since the run began, and how many are left of its budget, if it has one.

    `spent`: the seconds that a run took before it went on here. `now`: what tells the seconds.
    """

    def __init__(
        self,
        budget: float | None = None,
        spent: float = 0.0,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = budget
        self._now = now
        self._started = now() - spent

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self._now() - self._started

    def left(self, reserve: float = 0.0) -> float:
        """Seconds left of the budget when `reserve` is kept for what follows; inf without one."""
        return float("inf") if self.budget is None else self.budget - self.elapsed - reserve


def spoken(seconds: float) -> str:
    """Return a duration for people: `8 s`, `3 min 20 s`, `1 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
