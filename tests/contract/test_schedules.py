"""What every schedule must be; a new one is tested by being in the table."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import ConfigError
from headstart.training import SCHEDULES, Schedule, sequence

# What the ends are with the default parameters, and where a curve may jump (as progress).
ENDS = {
    "constant": (1.0, 1.0),
    "linear": (1.0, 0.0),
    "cosine": (1.0, 0.0),
    "polynomial": (1.0, 0.0),
    "exponential": (1.0, 0.01),
    "warm_up": (0.01, 1.0),
    "step_decay": (1.0, 0.01),
    "warm_up_stable_decay": (0.01, 0.0),
    "sgdr": (0.01, 0.0),
    "one_cycle": (1 / 25, 1e-5),
    "flat_cos": (1.0, 1e-5),
}


@st.composite
def curves(draw: st.DrawFn) -> Schedule:
    """Any curve with any parameters that its table allows."""
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


SEQUENCES = st.lists(st.tuples(st.floats(0.1, 10) | st.integers(1, 9), curves()), min_size=1, max_size=4).map(
    lambda parts: sequence(*parts)
)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any curve, any sequence of curves, and any stretch of them."""
    schedule = draw(curves() | SEQUENCES)
    if not draw(st.booleans()):
        return schedule
    start = draw(st.floats(0, 0.9))
    return schedule.between(start, draw(st.floats(start + 0.05, 1)))


def jumps(schedule: Schedule) -> list[float]:
    """Where the curve is declared to jump."""
    if schedule.name == "step_decay":
        drops = schedule.parameter("drops")
        return [number / (drops + 1) for number in range(1, drops + 1)]
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
    assert all(math.isfinite(factor) and 0 <= factor <= schedule.ceiling + 1e-9 for factor in factors)
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


@given(curves() | SEQUENCES)
def test_cycles_end_in_order_and_the_last_at_the_end(schedule: Schedule) -> None:
    ends = schedule.cycle_ends()
    assert list(ends) == sorted(set(ends))
    assert ends[-1] == 1.0


@given(schedules())
def test_a_schedule_comes_back_from_plain_data_as_it_was(schedule: Schedule) -> None:
    again = Schedule.from_plain(schedule.to_plain())
    assert again == schedule
    assert hash(again) == hash(schedule)


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(2, 12), st.integers(1, 20), st.data())
def test_stretches_one_after_another_are_the_whole(
    name: str, epochs: int, batches: int, data: st.DataObject
) -> None:
    schedule = Schedule(name, {"cycles": epochs} if name == "sgdr" else {})
    cut, total = data.draw(st.integers(1, epochs - 1)), epochs * batches
    whole = [schedule.factor(step, total) for step in range(total)]
    stretched = []
    for start, end in ((0, cut), (cut, epochs)):
        stretch, steps = schedule.between(start / epochs, end / epochs), (end - start) * batches
        stretched += [stretch.factor(step, steps) for step in range(steps)]
    assert stretched == pytest.approx(whole, abs=1e-7)


def test_the_parts_of_a_sequence_follow_one_another_by_their_shares() -> None:
    both = sequence((1, Schedule("linear", {"start": 0.0, "end": 1.0})), (3, Schedule("cosine")))
    rise, fall = Schedule("linear", {"start": 0.0, "end": 1.0}), Schedule("cosine")
    for step in range(80):
        expected = rise.factor(step, 20) if step < 20 else fall.factor(step - 20, 60)
        assert both.factor(step, 80) == pytest.approx(expected, abs=1e-12)
    assert both.cycle_ends() == (1.0,)
    assert both.epochs is None


def test_a_cycle_of_a_sequence_ends_where_the_next_part_starts_higher() -> None:
    cycle = Schedule("one_cycle")
    assert sequence((1, cycle), (1, cycle)).cycle_ends() == (0.5, 1.0)
    cycles = sequence((1, Schedule("warm_up", {"pct_start": 1.0})), (3, Schedule("sgdr", {"cycles": 3})))
    assert cycles.cycle_ends() == pytest.approx((0.5, 0.75, 1.0))
    assert sequence((1, cycle), (1, cycle)).momentum(30, 40) == cycle.momentum(10, 20)


def test_a_stretch_has_the_cycle_ends_that_lie_in_it() -> None:
    cycles = Schedule("sgdr", {"cycles": 4})
    assert cycles.between(0.25, 0.75).cycle_ends() == (0.5, 1.0)
    assert cycles.between(0.3, 0.45).cycle_ends() == ()
    assert cycles.between(0.25, 0.75).epochs is None
    assert cycles.between(0.5, 1.0).between(0.5, 1.0) == cycles.between(0.75, 1.0)


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


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ({"name": "sequence"}, "give 1"),
        ({"name": "sequence", "parts": "cosine"}, "expected a list"),
        ({"name": "sequence", "parts": [{"name": "cosine"}]}, "part 1: share"),
        ({"name": "sequence", "parts": [{"share": 0, "name": "cosine"}]}, "number above 0"),
        ({"name": "sequence", "parts": [{"share": 1, "name": "cosin"}]}, "did you mean cosine"),
        ({"name": "sequence", "parts": [{"share": 1, "name": "sequence", "parts": []}]}, "no schedule"),
        ({"name": "sequence", "cycles": 2, "parts": [{"share": 1, "name": "cosine"}]}, "remove it"),
        ({"name": "cosine", "parts": [{"share": 1, "name": "cosine"}]}, "only a sequence"),
        ({"name": "cosine", "window": [0.5, 0.5]}, "start < end"),
        ({"name": "cosine", "window": 0.5}, "expected \\[start, end\\]"),
        ({"name": "seqence", "parts": []}, "did you mean sequence"),
        (["cosine"], "expected a name"),
    ],
)
def test_plain_data_that_is_no_schedule_is_refused_with_a_way_out(plain: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Schedule.from_plain(plain)
