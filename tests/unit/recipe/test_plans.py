"""How long the recipe trains, by how many pictures there are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import UsageError
from headstart.recipe import eight_steps, make_plan
from headstart.recipe.plans import Lengths, lengths_for
from headstart.training import Phase, Plan

# pictures: epochs on activations, one-epoch cycles of the head, doubling cycles of the whole network
AGREED = {
    10: (10, 10, 5),
    100: (5, 8, 5),
    150: (4, 6, 4),
    288: (3, 4, 4),
    300: (2, 3, 3),
    1_000: (2, 3, 3),
    5_000: (2, 2, 3),
    20_000: (2, 1, 3),
    100_000: (2, 1, 2),
    1_000_000: (2, 1, 1),
}


@pytest.mark.parametrize("pictures", AGREED)
def test_the_lengths_are_those_agreed_on(pictures: int) -> None:
    assert lengths_for(pictures) == Lengths(*AGREED[pictures])
    epochs = [phase.epochs for phase in eight_steps(pictures=pictures)]
    activations, head, whole = AGREED[pictures]
    assert epochs == [activations, head, 2**whole - 1]


@given(st.integers(300, 1_000))
def test_what_was_measured_stays_as_it_was(pictures: int) -> None:
    assert eight_steps(pictures=pictures) == eight_steps()


@given(st.integers(1, 10**7), st.integers(1, 10**6))
def test_more_pictures_never_train_for_more_epochs(pictures: int, more: int) -> None:
    few, many = eight_steps(pictures=pictures), eight_steps(pictures=pictures + more)
    assert all(a.epochs >= b.epochs for a, b in zip(few, many, strict=True))


def test_cycles_that_were_asked_for_are_taken() -> None:
    assert eight_steps(cycles=2, pictures=20).phases[-1].epochs == 3
    with pytest.raises(UsageError, match="0 pictures"):
        eight_steps(pictures=0)


def test_a_plan_of_one_s_own_is_scaled_and_keeps_its_cycles(tmp_path) -> None:
    path = tmp_path / "plan.yaml"
    Plan((Phase("only", 4, learning_rate=1e-3),)).to_yaml(path)
    assert make_plan(path, pictures=10).phases[0].epochs == 4
    assert make_plan(path, epochs=0.5).phases[0].epochs == 2
    assert make_plan(path, cycles=2, sizes=((64, 64),)) == make_plan(path)
