"""What every schedule must be; a new one is tested by being in the table."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import ConfigError
from headstart.training import SCHEDULES, Schedule

# What the ends are with the default parameters, and where a curve may jump (as progress).
ENDS = {
    "constant": (1.0, 1.0),
    "linear": (1.0, 0.0),
    "cosine": (1.0, 0.0),
    "exponential": (1.0, 0.01),
    "sgdr": (0.01, 0.0),
    "one_cycle": (1 / 25, 1e-5),
    "flat_cos": (1.0, 1e-5),
}


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any schedule with any parameters that its table allows."""
    name = draw(st.sampled_from(sorted(SCHEDULES)))
    parameters = {}
    for parameter, (_, allowed) in SCHEDULES[name].parameters.items():
        if not draw(st.booleans()):
            continue
        if allowed.whole:
            parameters[parameter] = draw(st.integers(int(allowed.low), min(5, int(allowed.high))))
        else:
            parameters[parameter] = draw(st.floats(allowed.low, allowed.high))
    return Schedule(name, parameters)


def jumps(schedule: Schedule) -> list[float]:
    """Where the curve is declared to jump."""
    if schedule.name != "sgdr":
        return []
    first = schedule.cycle_ends()[0]
    return [*schedule.cycle_ends(), first * schedule.parameter("warm_up")]


def largest_jump(curve: list[float]) -> float:
    return max(abs(after - before) for before, after in itertools.pairwise(curve))


def test_every_schedule_of_the_table_is_tested() -> None:
    assert set(ENDS) == set(SCHEDULES)


@given(schedules(), st.integers(1, 300))
def test_factors_are_finite_and_not_negative(schedule: Schedule, total: int) -> None:
    factors = [schedule.factor(step, total) for step in range(total)]
    assert all(math.isfinite(factor) and factor >= 0 for factor in factors)
    momenta = [schedule.momentum(step, total) for step in range(total)]
    assert all(momentum is None or 0 <= momentum < 1 for momentum in momenta)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_the_ends_are_the_declared_ones(name: str) -> None:
    schedule = Schedule(name)
    assert (schedule.at(0.0), schedule.at(1.0)) == pytest.approx(ENDS[name], abs=1e-12)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("total", [1, 2])
def test_one_and_two_steps_work(name: str, total: int) -> None:
    schedule = Schedule(name)
    assert all(math.isfinite(schedule.factor(step, total)) for step in range(total))


@pytest.mark.parametrize("parameters", [{}, {"cycles": 3}, {"cycles": 3, "cycle_mult": 2, "cycle_len": 2}])
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_curves_are_continuous_except_where_they_say(name: str, parameters: dict[str, int]) -> None:
    schedule = Schedule(name, parameters if name == "sgdr" else {})
    total = 7000
    curve = [schedule.factor(step, total) for step in range(total)]
    near = {step for jump in jumps(schedule) for step in range(total) if abs(step / total - jump) < 2 / total}
    smooth = [
        abs(curve[step + 1] - curve[step])
        for step in range(total - 1)
        if step not in near and step + 1 not in near
    ]
    assert max(smooth) < 0.01


def test_a_jump_that_is_not_declared_would_be_seen() -> None:
    schedule = Schedule("sgdr", {"cycles": 3})
    assert largest_jump([schedule.factor(step, 7000) for step in range(7000)]) > 0.9


@given(schedules(), st.integers(2, 200), st.data())
def test_going_on_from_any_step_gives_the_same_tail(
    schedule: Schedule, total: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, total - 1))
    whole = [schedule.factor(step, total) for step in range(total)]
    assert [schedule.factor(step, total) for step in range(start, total)] == whole[start:]


@given(schedules())
def test_cycles_end_in_order_and_the_last_at_the_end(schedule: Schedule) -> None:
    ends = schedule.cycle_ends()
    assert list(ends) == sorted(set(ends))
    assert ends[-1] == 1.0


@given(schedules(), st.floats(0.05, 5))
def test_a_scaled_schedule_keeps_its_kind_and_nears_the_epochs(schedule: Schedule, factor: float) -> None:
    scaled = schedule.scaled(factor)
    assert scaled.name == schedule.name
    if schedule.epochs is None:
        assert scaled == schedule
        return
    assert scaled.epochs >= 1
    if factor < 1:
        assert scaled.epochs <= max(schedule.epochs * factor, scaled.parameter("cycle_len"))


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("one_cycl", {}, "did you mean one_cycle"),
        ("sgdr", {"cycle": 2}, "did you mean cycles"),
        ("sgdr", {"cycles": 0}, "whole number from 1"),
        ("sgdr", {"cycles": 1.5}, "whole number"),
        ("sgdr", {"cycle_mult": True}, "whole number"),
        ("linear", {"end": math.nan}, "number from 0"),
        ("exponential", {"end": 0.0}, "number from 1e-12"),
        ("one_cycle", {"pct_start": 1.2}, "number from 0 to 1"),
        ("constant", {"x": 1}, "remove it"),
    ],
)
def test_what_is_no_schedule_is_refused_with_a_way_out(name, parameters, words) -> None:
    with pytest.raises(ConfigError) as caught:
        Schedule(name, parameters)
    assert words in str(caught.value)
