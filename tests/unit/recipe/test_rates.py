"""Which rate is taken from what a finder saw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.recipe.rates import DEFAULT_RATE, HIGHEST_RATE, LOWEST_RATE, _choose_rate
from headstart.training import FinderResult


def found(valley: float | None = None, rises: float | None = None) -> FinderResult:
    nothing = np.zeros(1)
    return FinderResult(nothing, nothing, nothing, {"valley": valley}, rises)


def test_the_valley_is_taken_where_there_is_one() -> None:
    assert _choose_rate(found(valley=2e-3, rises=1e-3), HIGHEST_RATE) == (2e-3, "the valley of the curve")


def test_without_a_valley_the_rate_stays_below_the_rise() -> None:
    rate, why = _choose_rate(found(rises=1e-2), HIGHEST_RATE)
    assert rate == pytest.approx(2e-3)
    assert "rises from 1.0e-02" in why


def test_a_curve_that_says_nothing_gives_the_default() -> None:
    assert _choose_rate(found(), HIGHEST_RATE)[0] == DEFAULT_RATE


@given(
    valley=st.none() | st.floats(1e-7, 10.0),
    rises=st.none() | st.floats(1e-6, 10.0),
    highest=st.floats(LOWEST_RATE, HIGHEST_RATE),
)
def test_no_rate_is_above_the_highest_that_is_allowed(
    valley: float | None, rises: float | None, highest: float
) -> None:
    rate, why = _choose_rate(found(valley, rises), highest)
    assert LOWEST_RATE <= rate <= highest
    assert ("at most" in why) == (rate != _choose_rate(found(valley, rises), HIGHEST_RATE)[0])
