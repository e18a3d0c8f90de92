"""Light: curves in logit space."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headstart.augment import color

CHANGE = st.floats(-0.5, 0.5)


def test_no_change_is_the_identity() -> None:
    np.testing.assert_array_equal(color.lighting([0.0], [0.0])[0], np.arange(256))
    np.testing.assert_array_equal(color.identity(2)[1], np.eye(3, 4))


@given(CHANGE, CHANGE)
def test_a_curve_rises_from_black_to_white(brightness: float, contrast: float) -> None:
    (curve,) = color.lighting([brightness], [contrast])
    assert curve.dtype == np.uint8
    assert (curve[0], curve[255]) == (0, 255)
    assert (np.diff(curve.astype(int)) >= 0).all()


def test_the_formula_is_the_course_s() -> None:
    # fastai 1.x: x + logit(change), then x * scale, in logit space.
    value, change, scale = 100 / 255, 0.5 * 1.2, 1.25
    logit = np.log(value / (1 - value)) + np.log(change / (1 - change))
    expected = 255 / (1 + np.exp(-logit * scale))
    (curve,) = color.lighting([0.2], [np.log(scale)])
    assert abs(curve[100] - expected) <= 0.5


def test_brightness_moves_a_middle_grey_and_contrast_leaves_it() -> None:
    bright, dark = color.lighting([0.2, -0.2], [0.0, 0.0])
    assert abs(int(bright[128]) - 153) <= 1
    assert abs(int(dark[128]) - 102) <= 1
    strong, weak = color.lighting([0.0, 0.0], [0.5, -0.5])
    assert abs(int(strong[128]) - 128) <= 1
    assert strong[192] > 192 > weak[192]
    assert strong[64] < 64 < weak[64]
