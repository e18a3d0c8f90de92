"""Schedules: how rates, momentum, weight decay and picture size move, as pure functions of progress.

A `Schedule` takes `progress` (0 at the first step, towards 1 at the end; step `i` of `n` is at
`i / n`) and gives the *factor* by which a peak is multiplied: that of the learning rates of all groups,
or of what else it is given for. Nothing is remembered between steps, so training can be resumed
anywhere. It is a named curve with its parameters, or several one after another:

>>> round(one_cycle().factor(0, 100), 3), one_cycle().factor(25, 100)
(0.04, 1.0)
>>> [round(sgdr(cycles=2, cycle_mult=2).factor(step, 60), 3) for step in (0, 10, 20, 40)]
[0.01, 0.5, 1.0, 0.5]
>>> both = sequence((1, warm_up(start=0.1, pct_start=1)), (3, linear()))
>>> [round(both.factor(step, 8), 3) for step in range(8)]
[0.1, 0.55, 1.0, 0.833, 0.667, 0.5, 0.333, 0.167]

A new curve is a function and a line in `SCHEDULES`, both in `curves.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeAlias

from headstart.errors import ConfigError
from headstart.training import curves, values
from headstart.training.curves import DIGITS, SCHEDULES, Number
from headstart.training.values import unknown_name

Parts: TypeAlias = tuple[tuple[Number, "Schedule"], ...]
Window: TypeAlias = tuple[float, float]

SEQUENCE = "sequence"
MAX_PARTS = 64


@dataclass(frozen=True)
class Schedule:
    """A named curve with its parameters; what is left out has the curve's default.

    The name `sequence` has `parts` instead: (share, schedule), one after another, each over its share
    of the way (shares of any sum). `window` takes a stretch of the curve for the whole of it, such as
    (0.5, 1) for its second half.

    Raises `ConfigError` for an unknown name or parameter (the nearest name is given) and for a
    number out of range.
    """

    name: str = "constant"
    parameters: Mapping[str, Number] = field(default_factory=dict)
    parts: Parts = ()
    window: Window = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.name == SEQUENCE:
            _check_parts(self.parts)
        elif self.name not in SCHEDULES:
            raise unknown_name("schedule", self.name, [*SCHEDULES, SEQUENCE])
        elif self.parts:
            raise ConfigError(f"schedule {self.name}: only a sequence has parts", f"name it {SEQUENCE}")
        _check_parameters(self.name, self.parameters)
        start, end = self.window
        if not 0 <= start < end <= 1:
            raise ConfigError(
                f"schedule {self.name}: window is {start:g} … {end:g}", "give 0 ≤ start < end ≤ 1"
            )
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self.parameters.items()), self.parts, self.window))

    def parameter(self, name: str) -> Number:
        """Return a parameter's value, or its default where it was not given."""
        return self.parameters.get(name, SCHEDULES[self.name].parameters[name][0])

    def at(self, progress: float) -> float:
        """Return the factor of the peak at `progress` in 0 … 1."""
        progress = self._inside(progress)
        if self.name == SEQUENCE:
            schedule, within = self._part_at(progress)
            return schedule.at(within)
        return SCHEDULES[self.name].curve(progress, **self.parameters)

    def factor(self, step: int, total: int) -> float:
        """Return the factor of the peak for step `step` (from 0) of `total`."""
        return self.at(step / max(1, total))

    def momentum(self, step: int, total: int) -> float | None:
        """Return the momentum for step `step` of `total`, or None where the optimiser's own stays."""
        return self.momentum_at(step / max(1, total))

    def momentum_at(self, progress: float) -> float | None:
        """Return the momentum at `progress` in 0 … 1, or None where the optimiser's own stays."""
        progress = self._inside(progress)
        if self.name == SEQUENCE:
            schedule, within = self._part_at(progress)
            return schedule.momentum_at(within)
        if self.name != "one_cycle":
            return None
        names = ("pct_start", "momentum_high", "momentum_low", "momentum_end")
        given = {name: value for name, value in self.parameters.items() if name in names}
        return curves.one_cycle_momentum(progress, **given)

    @property
    def ceiling(self) -> float:
        """A number that no factor exceeds."""
        if self.name == SEQUENCE:
            return max(schedule.ceiling for _, schedule in self.parts)
        return float(max(1.0, self.parameters.get("start", 0.0), self.parameters.get("end", 0.0)))

    @property
    def epochs(self) -> int | None:
        """The epochs that the schedule itself fixes (cosine cycles with restarts), else None."""
        if self.name != "sgdr" or self.window != (0.0, 1.0):
            return None
        return int(self.parameter("cycle_len")) * self._cycle_units()

    def cycle_ends(self) -> tuple[float, ...]:
        """Return the progress (0 … 1) at which each cycle ends; (1.0,) where there are no restarts.

        In a sequence a cycle ends where the next part starts higher. A window has those ends that lie
        in it, and may have none.
        """
        start, end = self.window
        inside = ((whole - start) / (end - start) for whole in self._whole_cycle_ends())
        return tuple(round(at, DIGITS) if at < 1 else 1.0 for at in inside if 1e-9 < at < 1 + 1e-9)

    def _whole_cycle_ends(self) -> list[float]:
        if self.name == "sgdr":
            cycle_mult = int(self.parameter("cycle_mult"))
            ends = [
                curves.cycle_units(number + 1, cycle_mult) for number in range(int(self.parameter("cycles")))
            ]
            return [end / ends[-1] for end in ends]
        if self.name != SEQUENCE:
            return [1.0]
        found = []
        spans = list(self._spans())
        for number, (start, share, schedule) in enumerate(spans):
            own = [start + share * end for end in schedule.cycle_ends()]
            following = spans[number + 1][2] if number + 1 < len(spans) else None
            if following is not None and following.at(0.0) <= schedule.at(1.0):
                own = [end for end in own if end < start + share - 1e-9]
            found += own
        return found

    def between(self, start: float, end: float) -> Schedule:
        """Return the stretch of this schedule from progress `start` to `end`, as a schedule."""
        return replace(self, window=(self._inside(start), self._inside(end)))

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

    def to_plain(self) -> dict[str, Any]:
        """Return the schedule as YAML and JSON can hold it: its name beside its parameters."""
        plain: dict[str, Any] = {"name": self.name, **self.parameters}
        if self.parts:
            plain["parts"] = [{"share": share, **schedule.to_plain()} for share, schedule in self.parts]
        if self.window != (0.0, 1.0):
            plain["window"] = list(self.window)
        return plain

    @classmethod
    def from_plain(cls, content: Any, where: str = "schedule") -> Schedule:
        """Return the schedule that `to_plain` gave, or that of a name alone; raises `ConfigError`."""
        if isinstance(content, str):
            return cls(content)
        if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
            raise ConfigError(f"{where}: expected a name, or a name with parameters")
        given = dict(content)
        name = values.text(given.pop("name", None), f"{where}: name")
        parts, window = given.pop("parts", []), given.pop("window", [0.0, 1.0])
        numbers = {key: values.number(value, f"{where}: {key}") for key, value in given.items()}
        return cls(
            name, numbers, _read_parts(parts, f"{where}: parts"), _read_window(window, f"{where}: window")
        )

    def _inside(self, progress: float) -> float:
        start, end = self.window
        return start + progress * (end - start)

    def _spans(self) -> Iterator[tuple[float, float, Schedule]]:
        """Yield each part of a sequence: where it starts, its share (both of 1), and what it is."""
        total, start = sum(share for share, _ in self.parts), 0.0
        for share, schedule in self.parts:
            yield start / total, share / total, schedule
            start += share

    def _part_at(self, progress: float) -> tuple[Schedule, float]:
        spans = list(self._spans())
        start, share, schedule = next(
            (span for span in reversed(spans) if round(progress - span[0], DIGITS) >= 0), spans[0]
        )
        return schedule, min(1.0, max(0.0, (progress - start) / share))

    def _cycle_units(self) -> int:
        return curves.cycle_units(int(self.parameter("cycles")), int(self.parameter("cycle_mult")))

    def __str__(self) -> str:
        if self.name == SEQUENCE:
            total = sum(share for share, _ in self.parts)
            text = ", then ".join(f"{share / total:.0%} {schedule}" for share, schedule in self.parts)
        else:
            given = ", ".join(f"{name} {value:g}" for name, value in self.parameters.items())
            text = f"{self.name} ({given})" if given else self.name
        if self.window == (0.0, 1.0):
            return text
        return f"{text} from {self.window[0]:.0%} to {self.window[1]:.0%}"


def _check_parameters(schedule: str, parameters: Mapping[str, Number]) -> None:
    known = SCHEDULES[schedule].parameters if schedule in SCHEDULES else {}
    for name, value in parameters.items():
        if name not in known:
            raise unknown_name(f"parameter of the schedule {schedule}", name, known)
        allowed = known[name][1]
        if isinstance(value, bool) or not isinstance(value, int | float) or not allowed.holds(value):
            kind = "whole number" if allowed.whole else "number"
            raise ConfigError(
                f"schedule {schedule}: {name} is {value!r}",
                f"give a {kind} from {allowed.low:g} to {allowed.high:g}",
            )


def _check_parts(parts: Parts) -> None:
    if not 1 <= len(parts) <= MAX_PARTS:
        raise ConfigError(f"a sequence has {len(parts)} parts", f"give 1 … {MAX_PARTS} of them")
    for share, schedule in parts:
        if isinstance(share, bool) or not 1e-6 <= share <= 1e6:
            raise ConfigError(f"a part of a sequence has the share {share}", "give a number above 0")
        if schedule.name == SEQUENCE:
            raise ConfigError("a sequence in a sequence", "write all parts one after another")


def _read_parts(content: Any, where: str) -> Parts:
    if not isinstance(content, list):
        raise ConfigError(f"{where}: expected a list of schedules, each with its share")
    parts = []
    for number, entry in enumerate(content[: MAX_PARTS + 1], start=1):
        if not isinstance(entry, dict) or isinstance(entry.get("parts"), list):
            raise ConfigError(
                f"{where}: part {number} is no schedule with a share", "such as {share: 1, name: cosine}"
            )
        plain = dict(entry)
        share = values.number(plain.pop("share", None), f"{where}: part {number}: share")
        parts.append((share, Schedule.from_plain(plain, f"{where}: part {number}")))
    return tuple(parts)


def _read_window(content: Any, where: str) -> Window:
    if not isinstance(content, list) or len(content) != 2:
        raise ConfigError(f"{where}: expected [start, end], both of 0 … 1")
    return (float(values.number(content[0], where)), float(values.number(content[1], where)))


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
    momentum: tuple[float, ...] = (0.95, 0.85),
) -> Schedule:
    """Return the one-cycle policy with the parameters and defaults of fastai 2.

    `momentum` is (start, lowest) or (start, lowest, end).
    """
    names = ("momentum_high", "momentum_low", "momentum_end")
    if not 2 <= len(momentum) <= 3:
        raise ConfigError(f"one_cycle: momentum has {len(momentum)} numbers", "give two or three")
    numbers = dict(zip(names, momentum, strict=False))
    return Schedule("one_cycle", {"div": div, "div_final": div_final, "pct_start": pct_start, **numbers})


def one_cycle_1x(
    *,
    div_factor: float = 25.0,
    final_div: float | None = None,
    pct_start: float = 0.3,
    moms: tuple[float, float] = (0.95, 0.85),
) -> Schedule:
    """Return the one-cycle policy with the parameters and defaults of fastai 1.

    `final_div` is `div_factor` * 1e4 where it is None.
    """
    final = div_factor * 1e4 if final_div is None else final_div
    return one_cycle(div=div_factor, div_final=final, pct_start=pct_start, momentum=moms)


def flat_cos(*, pct_start: float = 0.75, div_final: float = 1e5) -> Schedule:
    """Return a flat start and a cosine end."""
    return Schedule("flat_cos", {"pct_start": pct_start, "div_final": div_final})


def polynomial(start: float = 1.0, end: float = 0.0, *, power: float = 2.0) -> Schedule:
    """Return a power of what is left, between two factors of the peak."""
    return Schedule("polynomial", {"start": start, "end": end, "power": power})


def warm_up(start: float = 0.01, *, pct_start: float = 0.1) -> Schedule:
    """Return a straight rise to the peak, which then stays."""
    return Schedule("warm_up", {"start": start, "pct_start": pct_start})


def step_decay(drops: int = 2, factor: float = 0.1) -> Schedule:
    """Return a staircase: `drops` falls at equal distances, each to `factor` of what it was."""
    return Schedule("step_decay", {"drops": drops, "factor": factor})


def warm_up_stable_decay(*, warm_up: float = 0.05, decay: float = 0.2, end: float = 0.0) -> Schedule:
    """Return a rise over the share `warm_up`, the peak, and a straight fall over the last share `decay`."""
    return Schedule("warm_up_stable_decay", {"warm_up": warm_up, "decay": decay, "end": end})


def sequence(*parts: tuple[Number, Schedule]) -> Schedule:
    """Return schedules one after another, each with its share of the way: `(1, warm_up()), (9, cosine())`."""
    return Schedule(SEQUENCE, parts=tuple(parts))
