"""When a step is kept."""

from __future__ import annotations

import pytest

from headstart.evaluation import Gain
from headstart.recipe.verdict import pays

CLEAR = Gain(0.1, 0.02, 0.18, 0.99)
LIKELY = Gain(0.1, -0.02, 0.2, 0.85)
UNSURE = Gain(0.1, -0.2, 0.4, 0.75)
WORSE = Gain(-0.1, -0.2, 0.1, 0.2)


@pytest.mark.parametrize(("gain", "kept"), [(CLEAR, True), (LIKELY, True), (UNSURE, False), (WORSE, False)])
def test_a_step_is_kept_where_it_is_better_in_four_of_five_resamples(gain: Gain, kept: bool) -> None:
    assert pays(gain) is kept


@pytest.mark.parametrize(("gain", "kept"), [(CLEAR, True), (LIKELY, False), (UNSURE, False), (WORSE, False)])
def test_what_seldom_pays_must_be_clearly_better(gain: Gain, kept: bool) -> None:
    assert pays(gain, clearly=True) is kept
