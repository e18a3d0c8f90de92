"""Which rate is taken from what a finder saw."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.recipe.rates import DEFAULT_RATE, HIGHEST_RATE, LOWEST_RATE, _choose_rate, _try
from headstart.training import FinderResult, Trial
from headstart.training.trials import choose


def found(valley: float | None = None, rises: float | None = None) -> FinderResult:
    nothing = np.zeros(1)
    return FinderResult(nothing, nothing, nothing, {"valley": valley}, rises)


def test_the_valley_is_taken_where_there_is_one() -> None:
    assert _choose_rate(found(valley=2e-3, rises=1e-3)) == (2e-3, "the valley of the curve")


def test_without_a_valley_the_rate_stays_below_the_rise() -> None:
    rate, why = _choose_rate(found(rises=1e-2))
    assert rate == pytest.approx(2e-3)
    assert "rises from 1.0e-02" in why


def test_a_curve_that_says_nothing_gives_the_default() -> None:
    assert _choose_rate(found())[0] == DEFAULT_RATE


@given(valley=st.none() | st.floats(1e-7, 10.0), rises=st.none() | st.floats(1e-6, 10.0))
def test_no_rate_is_out_of_range(valley: float | None, rises: float | None) -> None:
    assert LOWEST_RATE <= _choose_rate(found(valley, rises))[0] <= HIGHEST_RATE


class FakeLearner:
    """Shows trials as a learner would."""

    def __init__(self, *trials: Trial) -> None:
        self.trials = trials

    def try_rates(self, rates: list[float]):
        return choose(0.5, self.trials)


def test_the_rate_of_the_trials_is_taken_and_their_curve_kept() -> None:
    learner = FakeLearner(
        Trial(1e-5, 8, 0.0, 0.01, 0.0),
        Trial(1e-4, 8, 0.001, 0.01, 0.001),
        Trial(1e-3, 8, 0.4, 0.01, 0.4),
        Trial(1e-2, 2, math.inf, 0.0, math.inf, given_up=True),
    )
    rate, why, curve = _try(learner, [0.1, 1.0])
    assert rate == 1e-4
    assert "at 1.0e-03 it rises by 0.4" in why
    assert json.loads(json.dumps(curve, allow_nan=False))["losses"] == [0.5, 0.501, 0.9, None]


def test_where_every_rate_does_harm_the_lowest_is_taken_and_that_is_said() -> None:
    rate, why, _ = _try(FakeLearner(Trial(1e-5, 8, 0.3, 0.01, 0.3), Trial(1e-4, 8, 0.6, 0.01, 0.6)), [1.0])
    assert rate == 1e-5
    assert why.startswith("the lowest that was tried, since every rate")
