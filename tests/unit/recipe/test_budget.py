"""A budget of time is divided over the phases before they begin, and kept by each of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.recipe import budget
from headstart.recipe.budget import Cost, cut_to, divide, last_look, lengths_of, told, within_budget
from headstart.recipe.clock import Clock
from headstart.recipe.stepcost import StepCost
from headstart.recipe.steps import EightSteps
from headstart.training import Phase, Schedule, one_cycle, sgdr

seconds = st.floats(0.0, 1e4, allow_nan=False)
costs = st.builds(
    Cost,
    name=st.just("phase"),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6, unique=True).map(
        lambda found: tuple(sorted(found))
    ),
    epoch=st.floats(1e-3, 1e3),
    once=st.floats(0.0, 100.0),
)


@given(st.lists(costs, max_size=6), seconds)
def test_the_sum_fits_and_each_phase_has_at_least_its_least_or_nothing(
    phases: list[Cost], left: float
) -> None:
    epochs = divide(phases, left)
    assert sum(cost.of(count) for cost, count in zip(phases, epochs, strict=True)) <= left + 1e-6
    assert all(count == 0 or count in cost.lengths for cost, count in zip(phases, epochs, strict=True))
    if sum(cost.least for cost in phases) <= left:
        assert all(epochs)
    for cost, count in zip(phases, epochs, strict=True):
        if count == 0:
            assert "its least" in told([cost], [0], left)
    if phases and phases[-1].least <= left:
        assert epochs[-1] > 0, "the last comes first"


@given(st.lists(costs, min_size=1, max_size=6), st.floats(1.0, 2.0))
def test_nothing_is_cut_where_there_is_time_for_all(phases: list[Cost], spare: float) -> None:
    epochs = divide(phases, spare * sum(cost.whole for cost in phases) + 1e-6)
    assert epochs == [cost.lengths[-1] for cost in phases]


@given(st.lists(costs, min_size=1, max_size=6), seconds)
def test_no_time_that_a_phase_could_use_is_left_over(phases: list[Cost], left: float) -> None:
    epochs = divide(phases, left)
    over = left - sum(cost.of(count) for cost, count in zip(phases, epochs, strict=True))
    for cost, count in zip(phases, epochs, strict=True):
        longer = [length for length in cost.lengths if length > count]
        if count and longer:
            assert cost.of(longer[0]) - cost.of(count) > over - 1e-6


def greedily(phases: list[Cost], left: float) -> list[int]:
    """What was done before: each phase takes what there is."""
    epochs = []
    for cost in phases:
        epochs.append(max((n for n in cost.lengths if cost.of(n) <= left), default=0))
        left -= cost.of(epochs[-1])
    return epochs


def test_the_head_does_not_take_what_the_whole_network_needs() -> None:
    phases = [
        Cost("head on activations", (1, 2), 1.0),
        Cost("head, augmented", (1, 2, 3), 40.0),
        Cost("whole network", (1, 2, 3, 4, 5, 6, 7), 100.0),
    ]
    assert divide(phases, 420.0) == [2, 2, 3]
    assert greedily(phases, 420.0) == [2, 3, 2]
    assert greedily(phases, 180.0)[-1] == 0
    assert divide(phases, 180.0)[-1] == 1
    assert divide(phases, 110.0) == [2, 0, 1]
    said = told(phases, divide(phases, 110.0), 110.0)
    assert "\n" not in said
    assert "head, augmented left out (its least, 1 epoch, takes 40 s)" in said
    assert "whole network 1 of 7 epochs (1 min 40 s)" in said


@given(
    phases=st.lists(costs, min_size=1, max_size=5),
    left=st.floats(1.0, 1e4),
    slower=st.lists(st.floats(0.2, 1.0), min_size=5, max_size=5),
)
def test_divided_anew_before_each_phase_the_budget_is_kept(
    phases: list[Cost], left: float, slower: list[float]
) -> None:
    """A fake clock: phases may be done sooner than forecast; what they save goes to the rest."""
    now = 0.0
    clock = Clock(left, now=lambda: now)
    planned = divide(phases, left)
    taken = []
    for number, cost in enumerate(phases):
        count = divide(phases[number:], clock.left())[0]
        now += slower[number] * cost.of(count)
        taken.append(count)
    assert clock.left() >= -1e-6
    assert taken[-1] >= min(planned[-1], phases[-1].lengths[0])


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(1, 40))
def test_the_lengths_of_a_phase_are_what_it_can_be_cut_to(epochs: int, steps: int) -> None:
    for schedule in (one_cycle(), sgdr(epochs, 1), Schedule()):
        phase = Phase("phase", epochs, schedule)
        lengths = lengths_of(phase, steps)
        assert list(lengths) == sorted(set(lengths))
        assert lengths[-1] == epochs
        assert lengths[0] * steps >= min(budget.FEWEST_STEPS, epochs * steps)
        assert [cut_to(phase, length).epochs for length in lengths] == list(lengths)
    doubling = Phase("phase", 7, sgdr(cycles=3, cycle_mult=2))
    assert lengths_of(doubling, 100) == (1, 3, 7)


# ---- in a run ------------------------------------------------------------------------------


class Time:
    """A clock that moves when it is told to; each measurement of a step takes a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, per_step: Callable[[EightSteps], float]) -> None:
        self.now, self.measured = 0.0, 0

        def measure(learner: object) -> StepCost:
            self.now += 1.0
            self.measured += 1
            return StepCost(per_step(learner), 100.0, None)

        monkeypatch.setattr(budget, "measure_step", measure)


@pytest.fixture
def timed(steps: EightSteps, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Time]:
    """`steps` with a budget, in which a step takes 0.01 s with a frozen body and 1 s without."""

    def begin(seconds: float) -> Time:
        time = Time(monkeypatch, lambda learner: 1.0 if learner.model.frozen_line == 0 else 0.01)
        steps.clock = Clock(seconds, now=lambda: time.now)
        return time

    return begin


def test_the_last_phase_gets_its_share_and_all_are_measured_once(
    steps: EightSteps, timed: Callable[[float], Time]
) -> None:
    said: list[str] = []
    steps.narrator.say = said.append  # type: ignore[method-assign]
    first = steps.plan.phases[0]
    timed(1e6)
    budget.at_phase(steps.learner, first)
    within_budget(steps, first)
    wanted = sum(cost.whole for cost in steps.costs.values())
    steps.costs = {}
    said.clear()
    time = timed(budget.LEAST_RESERVE + len(steps.plan) + 0.95 * wanted)
    fitting: list[Phase | None] = []
    for phase in steps.plan.phases:
        budget.at_phase(steps.learner, phase)
        line = steps.learner.model.frozen_line
        fitting.append(within_budget(steps, phase))
        assert steps.learner.model.frozen_line == line
        if fitting[-1] is not None:
            time.now += steps.costs[steps.phases_done].of(fitting[-1].epochs)
        steps.phases_done += 1
    assert time.measured == len(steps.plan.phases) == 3
    look = last_look(steps.learner.data, list(steps.costs.values()), steps.clock.budget)
    assert 0 < look <= budget.LAST_LOOK * steps.clock.budget
    assert steps.clock.left(budget.LEAST_RESERVE + look) >= 0
    whole = fitting[-1]
    assert whole is not None
    assert 1 <= whole.epochs < steps.plan.phases[-1].epochs
    assert "for training: head on activations" in said[0]
    assert sum("for training" in line for line in said) == 1


def test_a_last_look_is_at_no_more_pictures_than_are_looked_at_and_takes_its_share_at_most(steps) -> None:
    data = steps.learner.data
    pictures = len(data.rows("train")) + len(data.rows("valid"))
    slow = Cost("whole", (1,), 10.0, step=StepCost(3.0, 10.0, None))
    assert last_look(data, [slow], 1e6) == pytest.approx(pictures * 1.0 / data.batch_size)
    assert last_look(data, [slow], 1.0) == budget.LAST_LOOK
    assert last_look(data, [Cost("not measured", (1,), math.inf)], 1e6) == 0.0


def test_a_rate_is_found_once_for_each_line(steps: EightSteps, timed: Callable[[float], Time]) -> None:
    timed(1e6)
    budget.at_phase(steps.learner, steps.plan.phases[0])
    within_budget(steps, steps.plan.phases[0])
    activations, head, whole = steps.costs.values()
    assert activations.once >= 100 * 0.01 > head.once
    assert whole.once >= 20 * 1.0


def test_what_follows_keeps_its_least_whatever_the_forecast_was_worth(
    steps: EightSteps, timed: Callable[[float], Time]
) -> None:
    timed(5.0 + 1000.0)
    first = steps.plan.phases[0]
    budget.at_phase(steps.learner, first)
    assert within_budget(steps, first) == first
    least = sum(cost.least for number, cost in steps.costs.items() if number)
    assert steps.reserve >= budget.LEAST_RESERVE + least > budget.LEAST_RESERVE


def test_without_any_time_nothing_is_measured_and_every_phase_says_why(
    steps: EightSteps, timed: Callable[[float], Time]
) -> None:
    said: list[str] = []
    steps.narrator.say = said.append  # type: ignore[method-assign]
    time = timed(1.0)
    for phase in steps.plan.phases:
        budget.at_phase(steps.learner, phase)
        assert within_budget(steps, phase) is None
        assert "no time was left to measure it" in said[-1]
        steps.phases_done += 1
    assert time.measured == 0


def test_without_a_budget_nothing_is_measured_or_cut(steps: EightSteps) -> None:
    phase = steps.plan.phases[0]
    assert within_budget(steps, phase) is phase
    assert not steps.costs


def test_a_phase_that_is_left_out_says_what_its_least_would_take() -> None:
    cost = Cost("whole network", (2, 4), 30.0, 5.0)
    assert "whole network left out (its least, 2 epochs, takes 1 min 5 s)" in told([cost], [0], 10.0)
    assert "no time was left to measure it" in told([replace(cost, epoch=math.inf)], [0], 10.0)
    assert divide([replace(cost, epoch=math.inf)], 10.0) == [0]
