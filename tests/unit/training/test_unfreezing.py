from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import ConfigError, UsageError
from headstart.training import Plan, constant, gradual_unfreezing


@given(groups=st.integers(2, 20), rate=st.floats(1e-6, 1), ratio=st.floats(1, 10), epochs=st.integers(1, 5))
def test_each_phase_lets_one_more_group_train(groups: int, rate: float, ratio: float, epochs: int) -> None:
    phases = gradual_unfreezing(groups, rate=rate, ratio=ratio, epochs=epochs, last_epochs=epochs + 2)
    assert [phase.frozen_to for phase in phases] == list(range(groups - 1, -1, -1))
    assert [phase.epochs for phase in phases] == [epochs] * (groups - 1) + [epochs + 2]
    for phase in phases:
        assert isinstance(phase.learning_rate, tuple)
        assert phase.learning_rate[-1] == rate
        for lower, higher in itertools.pairwise(phase.learning_rate):
            assert higher / lower == pytest.approx(ratio)
    assert len({phase.name for phase in phases}) == groups


def test_it_is_a_plan_like_any_other() -> None:
    plan = Plan(gradual_unfreezing(3, rate=1e-2, schedule=constant()))
    assert Plan.from_yaml(plan.to_yaml()) == plan
    assert [phase.name for phase in plan] == ["head", "the last 2 groups", "whole network"]
    assert all(phase.learning_rate is None for phase in gradual_unfreezing())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="1 groups"):
        gradual_unfreezing(1)
    with pytest.raises(UsageError, match=r"ratio of 0\.5"):
        gradual_unfreezing(ratio=0.5)
    with pytest.raises(ConfigError, match="epochs is 0"):
        gradual_unfreezing(epochs=0)
