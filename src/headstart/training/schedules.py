"""Schedules: how the learning rate moves, as pure functions of progress.

A curve takes `progress` (0 at the first step, towards 1 at the end; step `i` of `n` is at `i / n`)
and gives the *factor* by which the peak learning rates of all groups are multiplied. Nothing is
remembered between steps, so training can be resumed anywhere. `Schedule` is a curve with its
parameters, which is what plans hold:

>>> round(one_cycle().factor(0, 100), 3), one_cycle().factor(25, 100)
(0.04, 1.0)
>>> [round(sgdr(cycles=2, cycle_mult=2).factor(step, 60), 3) for step in (0, 10, 20, 40)]
[0.01, 0.5, 1.0, 0.5]

A new curve is a function here and a line in `SCHEDULES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from headstart.errors import ConfigError
from headstart.training.values import unknown_name

Number: TypeAlias = int | float
Curve: TypeAlias = Callable[..., float]


def _cosine_between(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def constant_curve(progress: float) -> float:
    """Stay at the peak rate."""
    return 1.0


def linear_curve(progress: float, *, start: float = 1.0, end: float = 0.0) -> float:
    """Go in a straight line from `start` to `end` (factors of the peak rate, from 0 up)."""
    return start + (end - start) * progress


def cosine_curve(progress: float, *, start: float = 1.0, end: float = 0.0) -> float:
    """Go along half a cosine from `start` to `end` (arXiv 1608.03983, one cycle)."""
    return _cosine_between(start, end, progress)


def exponential_curve(progress: float, *, start: float = 1.0, end: float = 0.01) -> float:
    """Multiply by the same number at each step, from `start` to `end` (both above 0)."""
    return float(start * (end / start) ** progress)


def sgdr_curve(
    progress: float, *, cycles: int = 1, cycle_len: int = 1, cycle_mult: int = 1, warm_up: float = 0.05
) -> float:
    """Cosine cycles with restarts, each `cycle_mult` times as long as the one before.

    During the first `warm_up` of the first cycle (the course: the first twentieth) the rate is a
    hundredth of the peak. `cycle_len`, in epochs, sets how long all is, not its shape. Loshchilov
    and Hutter, arXiv 1608.03983; the warm-up is that of the 2017 course.
    """
    # Rounding puts a step that falls on the start of a cycle exactly there.
    position = round(progress * _units(cycles, cycle_mult), 12)
    if position < warm_up:
        return 0.01
    start, length = 0, 1
    for _ in range(cycles - 1):
        if position < start + length:
            break
        start, length = start + length, length * cycle_mult
    return _cosine_between(1.0, 0.0, (position - start) / length)


def one_cycle_curve(
    progress: float,
    *,
    div: float = 25.0,
    div_final: float = 1e5,
    pct_start: float = 0.25,
    momentum_high: float = 0.95,
    momentum_low: float = 0.85,
) -> float:
    """Rise from 1/`div` to the peak over `pct_start` of the way, then fall to 1/`div_final`.

    Both halves are cosines. Momentum goes the other way, from `momentum_high` down to
    `momentum_low` and back (Smith, arXiv 1803.09820).
    """
    if progress < pct_start:
        return _cosine_between(1 / div, 1.0, progress / pct_start)
    return _cosine_between(1.0, 1 / div_final, _after(progress, pct_start))


def one_cycle_momentum(
    progress: float, *, pct_start: float = 0.25, momentum_high: float = 0.95, momentum_low: float = 0.85
) -> float:
    """The momentum that goes with `one_cycle_curve`."""
    if progress < pct_start:
        return _cosine_between(momentum_high, momentum_low, progress / pct_start)
    return _cosine_between(momentum_low, momentum_high, _after(progress, pct_start))


def flat_cos_curve(progress: float, *, div_final: float = 1e5, pct_start: float = 0.75) -> float:
    """Stay at the peak for `pct_start` of the way, then fall along a cosine to 1/`div_final`."""
    if progress < pct_start:
        return 1.0
    return _cosine_between(1.0, 1 / div_final, _after(progress, pct_start))


def _after(progress: float, start: float) -> float:
    return (progress - start) / (1 - start) if start < 1 else 1.0


def _units(cycles: int, cycle_mult: int) -> int:
    """How many first cycles all cycles together are as long as."""
    return sum(cycle_mult**number for number in range(cycles))


@dataclass(frozen=True)
class _Range:
    """The numbers that a parameter may be."""

    low: float
    high: float
    whole: bool = False

    def holds(self, value: Number) -> bool:
        whole = not self.whole or isinstance(value, int)
        return whole and math.isfinite(value) and self.low <= value <= self.high


_FACTOR = _Range(0.0, 1e3)
_POSITIVE = _Range(1e-12, 1e3)
_DIVISOR = _Range(1.0, 1e12)
_PART = _Range(0.0, 1.0)
_COUNT = _Range(1, 64, whole=True)


@dataclass(frozen=True)
class _Kind:
    curve: Curve
    parameters: Mapping[str, tuple[Number, _Range]] = field(default_factory=dict)


SCHEDULES: Mapping[str, _Kind] = MappingProxyType(
    {
        "constant": _Kind(constant_curve),
        "linear": _Kind(linear_curve, {"start": (1.0, _FACTOR), "end": (0.0, _FACTOR)}),
        "cosine": _Kind(cosine_curve, {"start": (1.0, _FACTOR), "end": (0.0, _FACTOR)}),
        "exponential": _Kind(exponential_curve, {"start": (1.0, _POSITIVE), "end": (0.01, _POSITIVE)}),
        "sgdr": _Kind(
            sgdr_curve,
            {
                "cycles": (1, _COUNT),
                "cycle_len": (1, _Range(1, 10_000, whole=True)),
                "cycle_mult": (1, _Range(1, 16, whole=True)),
                "warm_up": (0.05, _PART),
            },
        ),
        "one_cycle": _Kind(
            one_cycle_curve,
            {
                "div": (25.0, _DIVISOR),
                "div_final": (1e5, _DIVISOR),
                "pct_start": (0.25, _PART),
                "momentum_high": (0.95, _Range(0.0, 0.9999)),
                "momentum_low": (0.85, _Range(0.0, 0.9999)),
            },
        ),
        "flat_cos": _Kind(flat_cos_curve, {"div_final": (1e5, _DIVISOR), "pct_start": (0.75, _PART)}),
    }
)
"""The schedules by name, each with its parameters, their defaults and what they may be."""


@dataclass(frozen=True)
class Schedule:
    """A named curve with its parameters; what is left out has the curve's default.

    Raises `ConfigError` for an unknown name or parameter (the nearest name is given) and for a
    number out of range.
    """

    name: str = "constant"
    parameters: Mapping[str, Number] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise unknown_name("schedule", self.name, SCHEDULES)
        known = SCHEDULES[self.name].parameters
        for name, value in self.parameters.items():
            if name not in known:
                raise unknown_name(f"parameter of the schedule {self.name}", name, known)
            allowed = known[name][1]
            if isinstance(value, bool) or not isinstance(value, int | float) or not allowed.holds(value):
                kind = "whole number" if allowed.whole else "number"
                raise ConfigError(
                    f"schedule {self.name}: {name} is {value!r}",
                    f"give a {kind} from {allowed.low:g} to {allowed.high:g}",
                )
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self.parameters.items())))

    def parameter(self, name: str) -> Number:
        """Return a parameter's value, or its default where it was not given."""
        return self.parameters.get(name, SCHEDULES[self.name].parameters[name][0])

    def at(self, progress: float) -> float:
        """Return the factor of the peak rate at `progress` in 0 … 1."""
        return SCHEDULES[self.name].curve(progress, **self.parameters)

    def factor(self, step: int, total: int) -> float:
        """Return the factor of the peak rate for step `step` (from 0) of `total`."""
        return self.at(step / max(1, total))

    def momentum(self, step: int, total: int) -> float | None:
        """Return the momentum for step `step` of `total`, or None where the optimiser's own stays."""
        if self.name != "one_cycle":
            return None
        names = ("pct_start", "momentum_high", "momentum_low")
        return one_cycle_momentum(step / max(1, total), **{name: self.parameter(name) for name in names})

    @property
    def epochs(self) -> int | None:
        """The epochs that the schedule itself fixes (cosine cycles with restarts), else None."""
        if self.name != "sgdr":
            return None
        return int(self.parameter("cycle_len")) * self._cycle_units()

    def cycle_ends(self) -> tuple[float, ...]:
        """Return the progress (0 … 1) at which each cycle ends; (1.0,) where there are no restarts."""
        if self.name != "sgdr":
            return (1.0,)
        cycle_mult = int(self.parameter("cycle_mult"))
        ends = [_units(number + 1, cycle_mult) for number in range(int(self.parameter("cycles")))]
        return tuple(end / ends[-1] for end in ends)

    def scaled(self, factor: float) -> Schedule:
        """Return the schedule for about `factor` times the epochs; a cycle keeps at least one.

        Cycles become longer or shorter first, and fewer where even the shortest are too long.
        """
        if self.epochs is None:
            return self
        wanted = max(1.0, self.epochs * factor)
        changed = dict(self.parameters)
        changed["cycle_len"] = max(1, round(self.parameter("cycle_len") * factor))
        schedule = Schedule(self.name, changed)
        while factor < 1 and (schedule.epochs or 0) > wanted and schedule.parameter("cycles") > 1:
            changed["cycles"] = int(schedule.parameter("cycles")) - 1
            schedule = Schedule(self.name, changed)
        return schedule

    def _cycle_units(self) -> int:
        return _units(int(self.parameter("cycles")), int(self.parameter("cycle_mult")))

    def __str__(self) -> str:
        given = ", ".join(f"{name} {value:g}" for name, value in self.parameters.items())
        return f"{self.name} ({given})" if given else self.name


def constant() -> Schedule:
    """Return the schedule that stays at the peak rate."""
    return Schedule("constant")


def linear(start: float = 1.0, end: float = 0.0) -> Schedule:
    """Return a straight line between two factors of the peak rate."""
    return Schedule("linear", {"start": start, "end": end})


def cosine(start: float = 1.0, end: float = 0.0) -> Schedule:
    """Return half a cosine between two factors of the peak rate."""
    return Schedule("cosine", {"start": start, "end": end})


def exponential(start: float = 1.0, end: float = 0.01) -> Schedule:
    """Return a curve that changes by the same factor at each step; both ends are above 0."""
    return Schedule("exponential", {"start": start, "end": end})


def sgdr(cycles: int = 1, cycle_len: int = 1, cycle_mult: int = 1, *, warm_up: float = 0.05) -> Schedule:
    """Return cosine cycles with restarts: Σ `cycle_len`·`cycle_mult`^k epochs in all.

    `warm_up=0` gives those of fastai 2 (no warm-up), the default those of the 2017 course.
    """
    return Schedule(
        "sgdr", {"cycles": cycles, "cycle_len": cycle_len, "cycle_mult": cycle_mult, "warm_up": warm_up}
    )


def one_cycle(
    *,
    div: float = 25.0,
    div_final: float = 1e5,
    pct_start: float = 0.25,
    momentum: tuple[float, float] = (0.95, 0.85),
) -> Schedule:
    """Return the one-cycle policy with the parameters of fastai 2.

    Those of fastai 1 are `one_cycle(pct_start=0.3, div_final=25e4)`.
    """
    return Schedule(
        "one_cycle",
        {
            "div": div,
            "div_final": div_final,
            "pct_start": pct_start,
            "momentum_high": momentum[0],
            "momentum_low": momentum[1],
        },
    )


def flat_cos(*, pct_start: float = 0.75, div_final: float = 1e5) -> Schedule:
    """Return a flat start and a cosine end."""
    return Schedule("flat_cos", {"pct_start": pct_start, "div_final": div_final})
