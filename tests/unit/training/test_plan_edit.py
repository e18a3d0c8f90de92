"""Changing a plan by `place=value`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import ConfigError, HeadstartError
from headstart.training import Phase, Plan, Schedule, cosine, linear, one_cycle, sgdr
from headstart.training.plan_edit import edited

PLAN = Plan((Phase("head", 2, one_cycle()), Phase("all", 7, sgdr(3, 1, 2), slice(1e-5, 1e-3), 0)))


def test_nothing_set_changes_nothing() -> None:
    assert edited(PLAN, []) == PLAN


def test_values_are_set_by_their_place() -> None:
    changed = edited(
        PLAN,
        [
            "phases.1.epochs=4",
            "phases.1.learning_rate=1e-3",
            "phases.2.learning_rate=[1e-5, 1e-4, 1e-3]",
            "phases.2.image_size=224x320",
            "phases.2.stop_early=true",
            "settings.seed=3",
        ],
    )
    head, everything = changed
    assert (head.epochs, head.learning_rate) == (4, 1e-3)
    assert everything.learning_rate == (1e-5, 1e-4, 1e-3)
    assert (everything.image_size, everything.stop_early) == ((224, 320), True)
    assert changed.settings.seed == 3
    assert PLAN.phases[0].epochs == 2


def test_a_schedule_that_fixes_its_epochs_changes_them() -> None:
    assert edited(PLAN, ["phases.2.schedule.cycles=2"]).phases[1].epochs == 3
    assert edited(PLAN, ["phases.1.schedule={name: sgdr, cycles: 5}"]).phases[0].epochs == 5
    with pytest.raises(ConfigError, match="cycles take 3 epochs, but epochs is 4"):
        edited(PLAN, ["phases.2.schedule.cycles=2", "phases.2.epochs=4"])
    with pytest.raises(ConfigError, match="cycles take 7 epochs, but epochs is 4"):
        edited(PLAN, ["phases.2.epochs=4"])


def test_another_schedule_does_not_keep_the_parameters_of_the_one_before() -> None:
    assert edited(PLAN, ["phases.1.schedule=cosine"]).phases[0].schedule == Schedule("cosine")
    changed = edited(PLAN, ["phases.1.schedule.name=flat_cos", "phases.1.schedule.pct_start=0.5"])
    assert changed.phases[0].schedule == Schedule("flat_cos", {"pct_start": 0.5, "div_final": 1e5})
    growing = edited(PLAN, ["phases.1.image_size_schedule.name=linear", "phases.1.image_size_schedule.end=1"])
    assert growing.phases[0].image_size_schedule == Schedule("linear", {"end": 1})
    assert growing.phases[0].image_size_schedule.at(0.5) == linear(1, 1).at(0.5)


def test_null_gives_the_default_and_takes_a_phase_away() -> None:
    assert edited(PLAN, ["phases.2.learning_rate=null"]).phases[1].learning_rate is None
    assert edited(PLAN, ["phases.1=null"]).phases == PLAN.phases[1:]
    with pytest.raises(ConfigError, match="list of 1"):
        edited(PLAN, ["phases.1=null", "phases.2=null"])


def test_a_phase_can_be_added() -> None:
    added = edited(
        PLAN, ["phases.3={name: more, epochs: 2, learning_rate: 1e-4}", "phases.3.schedule=cosine"]
    )
    assert added.phases[2] == Phase("more", 2, Schedule("cosine"), 1e-4)
    assert added.phases[2].schedule.at(0.3) == cosine().at(0.3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("phases.2.epohcs=4", "did you mean epochs"),
        ("phases.4.epochs=1", "there is no phase '4'"),
        ("phases.0.epochs=1", "there is no phase '0'"),
        ("phases.head.epochs=1", "there is no phase 'head'"),
        ("phase.1.epochs=1", "did you mean phases"),
        ("settings.sed=1", "did you mean seed"),
        ("phases.1.epochs", "sets nothing"),
        ("phases..epochs=1", "sets nothing"),
        ("phases=[]", "no place"),
        ("phases.1.schedule.name.x=1", "no place"),
        ("phases.1.epochs=many", "whole number"),
        ("phases.1.schedule.pct_start=2", "from 0 to 1"),
        ("phases.1.epochs={", "is not a value"),
        ("phases.1.reason=!!python/name:os.system", "is not a value"),
        ("phases.1=3", "names and values"),
    ],
)
def test_what_cannot_be_set_is_refused_with_a_way_out(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        edited(PLAN, [text])
    assert words in str(caught.value)
    said = caught.value
    assert said.hint or "expected" in said.message or "must hold" in said.message


@given(
    st.lists(st.text(max_size=40) | st.from_regex(r"phases\.[1-3](\.[a-z_]{1,12}){0,2}=.{0,8}"), max_size=3)
)
def test_any_text_gives_a_plan_or_an_error_of_ours(texts: list[str]) -> None:
    try:
        changed = edited(PLAN, texts)
    except HeadstartError:
        return
    assert Plan.from_yaml(changed.to_yaml()) == changed
