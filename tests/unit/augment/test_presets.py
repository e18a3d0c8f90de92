"""Presets: what they may do, how often, how far."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.augment import PRESETS, Augmentation, none, side_on, top_down
from headstart.errors import ConfigError, UsageError

IDS = np.arange(20_000, dtype=np.uint64)


def test_side_on_draws_within_the_course_s_ranges_and_as_often() -> None:
    draws = side_on().draw(0, 0, IDS)
    assert abs(draws.flip.mean() - 0.5) < 0.02
    assert not draws.dihedral.any()
    for values, reach in (
        (draws.rotate, 10.0),
        (draws.warp_horizontal, 0.2),
        (draws.warp_vertical, 0.2),
        (draws.brightness, 0.2),
    ):
        assert abs((values != 0).mean() - 0.75) < 0.02
        assert 0.98 * reach < np.abs(values).max() <= reach
        assert abs(values.mean()) < 0.02 * reach
    assert abs((draws.zoom != 1).mean() - 0.75) < 0.02
    assert draws.zoom.min() >= 1
    assert 1.098 < draws.zoom.max() <= 1.1
    contrast = np.exp(draws.contrast)
    assert 0.8 <= contrast.min() < 0.802
    assert 1.248 < contrast.max() <= 1.25
    for place in (draws.right, draws.down):
        assert -1 <= place.min() < -0.99
        assert 0.99 < place.max() <= 1


def test_top_down_has_all_eight_symmetries_equally_often() -> None:
    counts = np.bincount(top_down().draw(0, 0, IDS).dihedral, minlength=8)
    assert len(counts) == 8
    assert abs(counts - 2500).max() < 6 * np.sqrt(2500)


def test_draws_for_different_things_are_unrelated() -> None:
    draws = side_on(p_affine=1, p_lighting=1).draw(0, 0, IDS)
    columns = [
        *(draws.flip, draws.rotate, draws.zoom, draws.warp_horizontal, draws.warp_vertical),
        *(draws.right, draws.down, draws.brightness, draws.contrast),
    ]
    relation = np.corrcoef(np.array(columns, np.float64)) - np.eye(len(columns))
    assert np.abs(relation).max() < 0.03


def test_none_does_nothing() -> None:
    draws = none().draw(3, 4, IDS[:50])
    np.testing.assert_array_equal(none().geometry(draws), np.tile(np.eye(3), (50, 1, 1)))
    assert none().curves(draws) is None
    assert not draws.right.any()
    assert not draws.down.any()


def test_a_preset_without_probability_does_nothing_but_flip_and_crop() -> None:
    still = side_on(p_affine=0, p_lighting=0)
    draws = still.draw(0, 0, IDS[:100])
    assert set(np.abs(still.geometry(draws) - np.eye(3)).max(axis=(1, 2)).tolist()) == {0.0, 2.0}
    curves = still.curves(draws)
    assert curves is not None
    assert (curves == np.arange(256)).all()


@settings(max_examples=40)
@given(
    st.builds(
        Augmentation,
        flip_horizontal=st.booleans(),
        dihedral=st.booleans(),
        max_rotate=st.floats(0, 180),
        max_zoom=st.floats(1, 10),
        max_warp=st.floats(0, 0.5),
        max_lighting=st.floats(0, 0.9),
        p_affine=st.floats(0, 1),
        p_lighting=st.floats(0, 1),
        random_crop=st.booleans(),
        padding=st.sampled_from(["reflect", "zeros", "edge"]),
    )
)
def test_an_augmentation_survives_being_written_down(augmentation: Augmentation) -> None:
    assert Augmentation.from_dict(augmentation.to_dict()) == augmentation


def test_unknown_and_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_spin"):
        Augmentation.from_dict({"max_spin": 3})
    for name, value in {
        "max_zoom": 0.9,
        "max_rotate": -1,
        "max_warp": 0.6,
        "max_lighting": 1.0,
        "p_affine": 1.5,
        "padding": "wrap",
    }.items():
        with pytest.raises(UsageError, match=str(value)):
            Augmentation(**{name: value})  # type: ignore[arg-type]


def test_the_presets_are_known_by_name() -> None:
    assert {name: make() for name, make in PRESETS.items()} == {
        "side-on": side_on(),
        "top-down": top_down(),
        "none": none(),
    }
