"""The schedules' curves equal the course's formulas, and stay as they are.

The formulas are written here as the courses' own systems work: batch by batch, with counters.
`schedules.json` holds the curves as they were when they were agreed on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from headstart.training import (
    Schedule,
    constant,
    cosine,
    exponential,
    flat_cos,
    linear,
    one_cycle,
    one_cycle_1x,
    polynomial,
    sequence,
    sgdr,
    step_decay,
    warm_up,
    warm_up_stable_decay,
)

CURVES = Path(__file__).with_name("schedules.json")


def course_sgdr(batches: int, cycles: int, cycle_len: int, cycle_mult: int) -> Iterator[float]:
    """2017: cosine per batch; the first twentieth of the first cycle at a hundredth."""
    in_cycle = batches * cycle_len
    warm_up = in_cycle / 20
    iteration = 0
    for _ in range(cycles):
        for position in range(in_cycle):
            cosine = 0.5 * (1 + math.cos(math.pi * position / in_cycle))
            yield 0.01 if iteration < warm_up else cosine
            iteration += 1
        in_cycle *= cycle_mult


def anneal(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2 * (math.cos(math.pi * part) + 1)


def course_one_cycle(steps: int, pct_start: float, div: float, final: float) -> Iterator[tuple[float, float]]:
    """1.x and 2.x: two cosines for the rate, two for the momentum."""
    for step in range(steps):
        part = step / steps
        if part < pct_start:
            yield anneal(1 / div, 1, part / pct_start), anneal(0.95, 0.85, part / pct_start)
        else:
            rest = (part - pct_start) / (1 - pct_start)
            yield anneal(1, 1 / final, rest), anneal(0.85, 0.95, rest)


def course_flat_cos(steps: int, pct_start: float, final: float) -> Iterator[float]:
    for step in range(steps):
        rest = (step / steps - pct_start) / (1 - pct_start)
        yield 1.0 if rest < 0 else anneal(1, 1 / final, rest)


@pytest.mark.parametrize("batches", [1, 7, 20, 33, 40])
@pytest.mark.parametrize(
    ("cycles", "cycle_len", "cycle_mult"), [(1, 1, 1), (3, 1, 1), (3, 1, 2), (2, 3, 2), (4, 2, 3)]
)
def test_cosine_cycles_equal_the_course_s(batches, cycles, cycle_len, cycle_mult) -> None:
    schedule = sgdr(cycles, cycle_len, cycle_mult)
    total = batches * schedule.epochs
    expected = list(course_sgdr(batches, cycles, cycle_len, cycle_mult))
    assert len(expected) == total
    assert [schedule.factor(step, total) for step in range(total)] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("cycles", "cycle_len", "cycle_mult", "epochs"),
    [(1, 1, 1, 1), (3, 1, 1, 3), (3, 1, 2, 7), (3, 2, 2, 14), (2, 3, 1, 6), (4, 1, 3, 40)],
)
def test_the_epochs_of_all_cycles_are_the_sum(cycles, cycle_len, cycle_mult, epochs) -> None:
    assert sgdr(cycles, cycle_len, cycle_mult).epochs == epochs
    assert epochs == sum(cycle_len * cycle_mult**k for k in range(cycles))


def test_without_warm_up_the_cycles_are_those_of_the_third_course() -> None:
    schedule = sgdr(3, 1, 2, warm_up=0)
    assert schedule.factor(0, 70) == 1.0
    assert schedule.factor(5, 70) == pytest.approx(0.5)


@pytest.mark.parametrize("steps", [1, 2, 10, 100, 137])
@pytest.mark.parametrize(
    ("schedule", "pct_start", "div", "final"),
    [
        (one_cycle_1x(), 0.3, 25, 25e4),
        (one_cycle_1x(div_factor=10, final_div=100, pct_start=0.5), 0.5, 10, 100),
        (one_cycle(), 0.25, 25, 1e5),
        (one_cycle(pct_start=0.99, div=5), 0.99, 5, 1e5),
    ],
    ids=["1.x", "1.x, given", "2.x", "fine_tune, frozen"],
)
def test_one_cycle_equals_the_courses(steps, schedule, pct_start, div, final) -> None:
    expected = list(course_one_cycle(steps, pct_start, div, final))
    rates = [schedule.factor(step, steps) for step in range(steps)]
    momenta = [schedule.momentum(step, steps) for step in range(steps)]
    assert rates == pytest.approx([rate for rate, _ in expected], abs=1e-7)
    assert momenta == pytest.approx([momentum for _, momentum in expected], abs=1e-7)


def test_the_momentum_may_end_elsewhere_than_it_began() -> None:
    schedule = one_cycle(momentum=(0.95, 0.85, 0.9))
    assert schedule.momentum(0, 100) == 0.95
    assert schedule.momentum(25, 100) == pytest.approx(0.85)
    assert schedule.momentum(100, 100) == pytest.approx(0.9)


def test_steps_fall_where_torch_s_multi_step_schedule_falls() -> None:
    rates = [step_decay(2, 0.1).factor(step, 90) for step in range(90)]
    assert rates == pytest.approx([0.1 ** (step // 30) for step in range(90)], abs=1e-7)


def test_a_polynomial_equals_its_formula() -> None:
    rates = [polynomial(1.0, 0.1, power=0.9).factor(step, 60) for step in range(60)]
    assert rates == pytest.approx([0.9 * (1 - step / 60) ** 0.9 + 0.1 for step in range(60)], abs=1e-7)


def test_warm_up_stable_decay_equals_its_three_lines() -> None:
    rates = [warm_up_stable_decay(warm_up=0.1, decay=0.2).factor(step, 100) for step in range(100)]
    rise = [0.01 + 0.99 * step / 10 for step in range(10)]
    fall = [1 - step / 20 for step in range(20)]
    assert rates == pytest.approx([*rise, *([1.0] * 70), *fall], abs=1e-7)


def test_flat_cos_equals_the_course_s() -> None:
    rates = [flat_cos().factor(step, 200) for step in range(200)]
    assert rates == pytest.approx(list(course_flat_cos(200, 0.75, 1e5)), abs=1e-7)


def test_without_a_cycle_length_the_rate_is_constant() -> None:
    assert {constant().factor(step, 50) for step in range(50)} == {1.0}


def test_a_wrong_formula_would_be_noticed() -> None:
    steps = 100
    wrong = [rate for rate, _ in course_one_cycle(steps, 0.3, 25, 1e5)]
    assert [one_cycle().factor(step, steps) for step in range(steps)] != pytest.approx(wrong, abs=1e-7)


AGREED: dict[str, Schedule] = {
    "constant": constant(),
    "linear": linear(),
    "cosine": cosine(),
    "exponential": exponential(),
    "sgdr": sgdr(3, 1, 2),
    "one_cycle": one_cycle(),
    "one_cycle_1": one_cycle(pct_start=0.3, div_final=25 * 1e4),
    "flat_cos": flat_cos(),
    "polynomial": polynomial(),
    "warm_up": warm_up(),
    "step_decay": step_decay(),
    "warm_up_stable_decay": warm_up_stable_decay(),
    "sequence": sequence((1, warm_up(pct_start=1)), (4, cosine()), (2, one_cycle())),
    "second_half": sgdr(3, 1, 2).between(0.5, 1),
}


@pytest.mark.parametrize("name", AGREED)
def test_the_curves_are_those_agreed_on(name) -> None:
    agreed = json.loads(CURVES.read_text("utf-8"))[name]
    curve = [AGREED[name].factor(step, len(agreed)) for step in range(len(agreed))]
    assert curve == pytest.approx(agreed, abs=1e-7)
