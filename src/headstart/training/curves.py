"""The curves of schedules: pure functions of progress (0 at the first step, towards 1 at the end).

Each gives the factor by which a peak is multiplied. `SCHEDULES` has them by name, with what their
parameters may be; `schedules.py` has what plans hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

Number: TypeAlias = int | float
Curve: TypeAlias = Callable[..., float]

# Rounding puts a step that falls on a boundary exactly there.
DIGITS = 12


def cosine_between(start: float, end: float, progress: float) -> float:
    """Return half a cosine from `start` at progress 0 to `end` at 1."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def constant_curve(progress: float) -> float:
    """Stay at the peak."""
    return 1.0


def linear_curve(progress: float, *, start: float = 1.0, end: float = 0.0) -> float:
    """Go in a straight line from `start` to `end` (factors of the peak, from 0 up)."""
    return start + (end - start) * progress


def polynomial_curve(progress: float, *, start: float = 1.0, end: float = 0.0, power: float = 2.0) -> float:
    """Go from `start` to `end` along (1 - progress)^`power`; 1 is a straight line, more falls earlier."""
    return float(end + (start - end) * max(0.0, 1 - progress) ** power)


def cosine_curve(progress: float, *, start: float = 1.0, end: float = 0.0) -> float:
    """Go along half a cosine from `start` to `end` (arXiv 1608.03983, one cycle)."""
    return cosine_between(start, end, progress)


def exponential_curve(progress: float, *, start: float = 1.0, end: float = 0.01) -> float:
    """Multiply by the same number at each step, from `start` to `end` (both above 0)."""
    return float(start * (end / start) ** progress)


def warm_up_curve(progress: float, *, start: float = 0.01, pct_start: float = 0.1) -> float:
    """Rise in a straight line from `start` to the peak over `pct_start` of the way, then stay there.

    Goyal et al., arXiv 1706.02677.
    """
    return 1.0 if progress >= pct_start else linear_curve(progress / pct_start, start=start, end=1.0)


def step_decay_curve(progress: float, *, drops: int = 2, factor: float = 0.1) -> float:
    """Stay at the peak and fall `drops` times, at equal distances, to `factor` of what it was."""
    return float(factor ** min(drops, math.floor(round(progress * (drops + 1), DIGITS))))


def warm_up_stable_decay_curve(
    progress: float, *, warm_up: float = 0.05, decay: float = 0.2, start: float = 0.01, end: float = 0.0
) -> float:
    """Rise from `start` over `warm_up` of the way, stay at the peak, and fall to `end` over the last `decay`.

    Both slopes are straight; a `decay` longer than what the warm-up leaves begins where that ends.
    Hu et al., arXiv 2404.06395; that a straight fall over a fifth of the way does as well as a whole
    cosine: Hägele et al., arXiv 2405.18392.
    """
    if progress < warm_up:
        return linear_curve(progress / warm_up, start=start, end=1.0)
    falls_from = max(warm_up, 1 - decay)
    if progress <= falls_from:
        return 1.0
    return linear_curve(part_after(progress, falls_from), start=1.0, end=end)


def sgdr_curve(
    progress: float, *, cycles: int = 1, cycle_len: int = 1, cycle_mult: int = 1, warm_up: float = 0.05
) -> float:
    """Cosine cycles with restarts, each `cycle_mult` times as long as the one before.

    During the first `warm_up` of the first cycle (the course: the first twentieth) the rate is a
    hundredth of the peak. `cycle_len`, in epochs, sets how long all is, not its shape. Loshchilov
    and Hutter, arXiv 1608.03983; the warm-up is that of the 2017 course.
    """
    position = round(progress * cycle_units(cycles, cycle_mult), DIGITS)
    if position < warm_up:
        return 0.01
    start, length = 0, 1
    for _ in range(cycles - 1):
        if position < start + length:
            break
        start, length = start + length, length * cycle_mult
    return cosine_between(1.0, 0.0, (position - start) / length)


def one_cycle_curve(
    progress: float,
    *,
    div: float = 25.0,
    div_final: float = 1e5,
    pct_start: float = 0.25,
    momentum_high: float = 0.95,
    momentum_low: float = 0.85,
    momentum_end: float | None = None,
) -> float:
    """Rise from 1/`div` to the peak over `pct_start` of the way, then fall to 1/`div_final`.

    Both halves are cosines. Momentum goes the other way, see `one_cycle_momentum` (Smith, arXiv
    1803.09820).
    """
    if progress < pct_start:
        return cosine_between(1 / div, 1.0, progress / pct_start)
    return cosine_between(1.0, 1 / div_final, part_after(progress, pct_start))


def one_cycle_momentum(
    progress: float,
    *,
    pct_start: float = 0.25,
    momentum_high: float = 0.95,
    momentum_low: float = 0.85,
    momentum_end: float | None = None,
) -> float:
    """The momentum that goes with `one_cycle_curve`: from `momentum_high` down to `momentum_low`, and up.

    It ends at `momentum_end`, `momentum_high` where that is None.
    """
    if progress < pct_start:
        return cosine_between(momentum_high, momentum_low, progress / pct_start)
    end = momentum_high if momentum_end is None else momentum_end
    return cosine_between(momentum_low, end, part_after(progress, pct_start))


def flat_cos_curve(progress: float, *, div_final: float = 1e5, pct_start: float = 0.75) -> float:
    """Stay at the peak for `pct_start` of the way, then fall along a cosine to 1/`div_final`."""
    if progress < pct_start:
        return 1.0
    return cosine_between(1.0, 1 / div_final, part_after(progress, pct_start))


def part_after(progress: float, start: float) -> float:
    """Return how far `progress` has come from `start` to 1, itself from 0 to 1."""
    return (progress - start) / (1 - start) if start < 1 else 1.0


def cycle_units(cycles: int, cycle_mult: int) -> int:
    """Return how many first cycles all cycles together are as long as."""
    return sum(cycle_mult**number for number in range(cycles))


@dataclass(frozen=True)
class Range:
    """The numbers that a parameter may be."""

    low: float
    high: float
    whole: bool = False

    def holds(self, value: Number) -> bool:
        """Say whether `value` lies within the range, and is whole where it must be."""
        whole = not self.whole or isinstance(value, int)
        return whole and math.isfinite(value) and self.low <= value <= self.high


_FACTOR = Range(0.0, 1e3)
_POSITIVE = Range(1e-12, 1e3)
_DIVISOR = Range(1.0, 1e12)
_PART = Range(0.0, 1.0)
_COUNT = Range(1, 64, whole=True)


@dataclass(frozen=True)
class Kind:
    """A curve, with each parameter's default and range."""

    curve: Curve
    parameters: Mapping[str, tuple[Number, Range]] = field(default_factory=dict)


SCHEDULES: Mapping[str, Kind] = MappingProxyType(
    {
        "constant": Kind(constant_curve),
        "linear": Kind(linear_curve, {"start": (1.0, _FACTOR), "end": (0.0, _FACTOR)}),
        "cosine": Kind(cosine_curve, {"start": (1.0, _FACTOR), "end": (0.0, _FACTOR)}),
        "polynomial": Kind(
            polynomial_curve,
            {"start": (1.0, _FACTOR), "end": (0.0, _FACTOR), "power": (2.0, Range(0.1, 16.0))},
        ),
        "exponential": Kind(exponential_curve, {"start": (1.0, _POSITIVE), "end": (0.01, _POSITIVE)}),
        "warm_up": Kind(warm_up_curve, {"start": (0.01, _PART), "pct_start": (0.1, _PART)}),
        "step_decay": Kind(step_decay_curve, {"drops": (2, _COUNT), "factor": (0.1, Range(1e-6, 1.0))}),
        "warm_up_stable_decay": Kind(
            warm_up_stable_decay_curve,
            {"warm_up": (0.05, _PART), "decay": (0.2, _PART), "start": (0.01, _PART), "end": (0.0, _PART)},
        ),
        "sgdr": Kind(
            sgdr_curve,
            {
                "cycles": (1, _COUNT),
                "cycle_len": (1, Range(1, 10_000, whole=True)),
                "cycle_mult": (1, Range(1, 16, whole=True)),
                "warm_up": (0.05, _PART),
            },
        ),
        "one_cycle": Kind(
            one_cycle_curve,
            {
                "div": (25.0, _DIVISOR),
                "div_final": (1e5, _DIVISOR),
                "pct_start": (0.25, _PART),
                "momentum_high": (0.95, Range(0.0, 0.9999)),
                "momentum_low": (0.85, Range(0.0, 0.9999)),
                "momentum_end": (0.95, Range(0.0, 0.9999)),
            },
        ),
        "flat_cos": Kind(flat_cos_curve, {"div_final": (1e5, _DIVISOR), "pct_start": (0.75, _PART)}),
    }
)
"""The schedules by name, each with its parameters, their defaults and what they may be."""
