"""What is said about a rate that is used for something else than it was found for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.training.advice import (
    Conditions,
    RateNotes,
    advise,
    on_other_conditions,
    rescaled,
    unfrozen_at_head_rate,
)

HEAD = Conditions(32, 9, (224, 224), "resnet34")


def test_nothing_is_said_while_nothing_has_changed() -> None:
    assert on_other_conditions(1e-3, HEAD, HEAD) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 64}, "batch size changed from 32 to 64"),
        ({"frozen_line": 0}, "line moved down, so that more layers train"),
        ({"frozen_line": 12}, "line moved up, so that fewer layers train"),
        ({"image_size": (128, 160)}, "image size changed from 224x224 to 128x160"),
        ({"body": "resnet50"}, "body changed from resnet34 to resnet50"),
        ({"optimizer": "sgd"}, "optimiser changed from adamw to sgd"),
    ],
)
def test_each_change_is_named_and_a_new_search_offered(changes, words) -> None:
    (line,) = on_other_conditions(1e-3, HEAD, replace(HEAD, **changes))
    assert words in line
    assert "run lr_find() again" in line


def test_a_rescaled_rate_is_offered_only_where_the_batch_size_alone_has_changed() -> None:
    (line,) = on_other_conditions(1e-3, HEAD, replace(HEAD, batch_size=128))
    assert "take 2.0e-03 in place of 1.0e-03" in line
    (line,) = on_other_conditions(1e-3, HEAD, replace(HEAD, batch_size=128, frozen_line=0))
    assert "take" not in line
    assert "down" in line
    assert "128" in line
    (line,) = on_other_conditions(None, HEAD, replace(HEAD, batch_size=128))
    assert "take" not in line


def test_rates_scale_by_the_rule_of_their_optimiser() -> None:
    assert rescaled(1e-3, 32, 128) == pytest.approx(2e-3)
    assert rescaled(1e-3, 32, 128, "sgd") == pytest.approx(4e-3)


@given(
    rate=st.floats(1e-6, 1.0),
    sizes=st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
    name=st.sampled_from(["adamw", "sgd"]),
)
def test_scaling_there_and_back_gives_the_rate_again(rate, sizes, name) -> None:
    there = rescaled(rate, *sizes, name)
    assert rescaled(there, *reversed(sizes), name) == pytest.approx(rate)
    assert (there >= rate) == (sizes[1] >= sizes[0])


def test_unfreezing_at_the_heads_rate_is_told_with_the_rates_to_use() -> None:
    (line,) = unfrozen_at_head_rate(1e-2, 1e-2, training_groups=3, found_here=False, verb="fit_one_cycle")
    assert "fit_one_cycle(…, slice(5.0e-05, 5.0e-03))" in line
    assert "lr_find" in line


@pytest.mark.parametrize(
    ("head_rate", "rate", "groups", "found_here"),
    [(None, 1e-2, 3, False), (1e-2, 1e-4, 3, False), (1e-2, 1e-2, 1, False), (1e-2, 1e-2, 3, True)],
    ids=["never a head alone", "a low rate", "the head alone again", "found for this network"],
)
def test_no_other_rate_is_taken_for_that_mistake(head_rate, rate, groups, found_here) -> None:
    assert unfrozen_at_head_rate(head_rate, rate, training_groups=groups, found_here=found_here) == []


def test_nothing_is_said_twice() -> None:
    notes = RateNotes(conditions=HEAD, found=1e-3)
    now = replace(HEAD, batch_size=64)
    assert len(advise(notes, None, now, groups=1, verb="fit")) == 1
    assert advise(notes, None, now, groups=1, verb="fit") == []
    assert len(advise(notes, None, replace(now, batch_size=16), groups=1, verb="fit")) == 1


def test_the_mistake_comes_before_the_change_that_it_is() -> None:
    notes = RateNotes(conditions=HEAD, found=1e-2, head_rate=1e-2)
    (line,) = advise(notes, 1e-2, replace(HEAD, frozen_line=0), groups=3, verb="fit")
    assert "unlearns" in line
    (line,) = advise(notes, 1e-4, replace(HEAD, frozen_line=0), groups=3, verb="fit")
    assert "since the last lr_find" in line


def test_who_gives_a_range_is_not_told_that_the_line_moved_but_of_all_else() -> None:
    notes = RateNotes(conditions=HEAD, found=1e-2, head_rate=1e-2)
    assert advise(notes, None, replace(HEAD, frozen_line=0), groups=3, verb="fit") == []
    (line,) = advise(notes, None, replace(HEAD, frozen_line=0, batch_size=8), groups=3, verb="fit")
    assert "batch size" in line
    assert "line" not in line
