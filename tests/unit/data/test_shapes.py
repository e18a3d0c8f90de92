"""Sizes and shapes: the size they suggest, what is cut away, and the resize policy by a look at them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.augment import EvalPrepare
from headstart.data.shapes import QUANTILES, Shapes, choose_policy, histogram, quantiles

SIDES = st.integers(1, 4000)


def shapes(*sizes: tuple[int, int]) -> Shapes:
    height, width = zip(*sizes, strict=True)
    return Shapes(np.array(height), np.array(width))


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.floats(0.5, 1.0))
def test_a_crop_cuts_the_same_of_a_picture_and_of_the_same_one_turned(
    height: int, width: int, fraction: float
) -> None:
    cut = shapes((height, width), (width, height)).cut_away((224, 224), crop_fraction=fraction)
    kept = min(height, width) / max(height, width) * fraction**2
    np.testing.assert_allclose(cut, 1 - kept, atol=1e-9)
    assert shapes((height, width)).cut_away((224, 224), policy="squish").tolist() == [0.0]


def test_what_is_said_to_be_cut_away_is_what_evaluation_does_not_see() -> None:
    # White where evaluation must look, by what is said: the middle 72 x 72 of 96 x 192.
    cut = float(shapes((96, 192)).cut_away((48, 48), crop_fraction=0.75)[0])
    side = 0.75 * 96
    assert cut == pytest.approx(1 - side**2 / (96 * 192))
    picture = np.zeros((96, 192, 3), np.uint8)
    picture[12:84, 60:132] = 255
    seen = EvalPrepare((48, 48), crop_fraction=0.75)(picture)
    assert seen[3:-3, 3:-3].min() > 240
    picture[14:82, 62:130] = 0
    assert EvalPrepare((48, 48), crop_fraction=0.75)(picture)[0].max() > 150


@pytest.mark.parametrize(
    ("sides", "suggested"), [([(300, 400)] * 10, 288), ([(20, 30)] * 5, 32), ([(5000, 6000)], 384)]
)
def test_the_suggested_size_is_the_largest_that_nine_in_ten_have(
    sides: list[tuple[int, int]], suggested: int
) -> None:
    assert shapes(*sides).suggested_size() == suggested
    assert shapes(*(sides * 20), (1, 1)).suggested_size() == suggested


@pytest.mark.parametrize(
    ("sides", "size", "policy"),
    [
        ([(300, 400)] * 5 + [(400, 300)] * 5, (224, 224), "crop"),
        ([(1080, 1920)] * 10, (224, 224), "crop"),
        ([(100, 300)] * 10, (224, 224), "squish"),
        ([(100, 300)] * 5 + [(300, 100)] * 5, (224, 224), "pad"),
        ([(100, 300)] * 10, (100, 300), "crop"),
        ([(300, 300)] * 80 + [(100, 900)] * 20, (224, 224), "crop"),
        ([(300, 300)] * 70 + [(100, 900)] * 30, (224, 224), "pad"),
    ],
)
def test_the_policy_is_chosen_by_the_shapes(
    sides: list[tuple[int, int]], size: tuple[int, int], policy: str
) -> None:
    chosen, reason = choose_policy(shapes(*sides), size)
    assert chosen == policy
    assert reason.startswith(f"{policy} to {size[0]} x {size[1]}: ")


def test_without_pictures_there_is_a_policy_and_no_figure() -> None:
    nothing = Shapes(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert choose_policy(nothing, (224, 224))[0] == "crop"
    assert nothing.to_dict((224, 224), policy="crop", crop_fraction=1.0) == {}


@settings(max_examples=60, deadline=None)
@given(st.lists(SIDES, min_size=1, max_size=50))
def test_a_histogram_counts_every_picture_between_its_edges(values: list[int]) -> None:
    drawn = histogram(values)
    assert sum(drawn["counts"]) == len(values)
    assert len(drawn["edges"]) == len(drawn["counts"]) + 1
    assert drawn["edges"] == sorted(drawn["edges"])
    found = quantiles(values)
    assert (found["0"], found["100"], len(found)) == (min(values), max(values), len(QUANTILES))
