"""Light, colours, and curves that depend on the picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from headstart.augment import apply_color, color
from headstart.augment.draws import Tone
from headstart.augment.pixelsteps import histogram, sharpened
from headstart.types import Pixels

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


def picture(low: int = 0, high: int = 256) -> Pixels:
    return np.random.default_rng(0).integers(low, high, (40, 60, 3), dtype=np.uint8)


def toned(view: Pixels, tone: Tone, factor: float = 1.0, added: float = 0.0) -> Pixels:
    return apply_color(view, curve=color.toned(histogram(view), tone, factor, added))


@pytest.mark.parametrize("bounds", [(0, 256), (30, 90), (100, 101), (200, 256)])
def test_tones_are_those_of_pillow(bounds: tuple[int, int]) -> None:
    view = picture(*bounds)
    as_image = Image.fromarray(view)
    np.testing.assert_array_equal(toned(view, Tone.EQUALISE), np.asarray(ImageOps.equalize(as_image)))
    # Pillow cuts where this rounds.
    stretched = np.asarray(ImageOps.autocontrast(as_image)).astype(int)
    assert np.abs(toned(view, Tone.AUTOCONTRAST) - stretched).max() <= 1
    np.testing.assert_array_equal(toned(view, Tone.NONE), view)


def test_contrast_goes_away_from_the_mean_of_all_channels() -> None:
    view = picture(50, 180)
    got = toned(view, Tone.AROUND_MEAN, 0.5, 10.0)
    np.testing.assert_allclose(got, (view - view.mean()) * 0.5 + view.mean() + 10, atol=0.51)


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.9])
def test_saturation_and_sharpness_are_those_of_pillow(factor: float) -> None:
    view = picture()
    ours = apply_color(view, color.saturation(factor)).astype(int)
    assert np.abs(ours - ImageEnhance.Color(Image.fromarray(view)).enhance(factor)).max() <= 2
    sharp = sharpened(view, factor - 1.0).astype(int)
    assert np.abs(sharp - ImageEnhance.Sharpness(Image.fromarray(view)).enhance(factor)).max() <= 1


def test_a_hue_goes_round_and_keeps_brightness_and_grey() -> None:
    once, twice = color.hue(40.0), color.hue(80.0)
    np.testing.assert_allclose(color.compose(once, once), twice, atol=1e-9)
    np.testing.assert_allclose(color.hue(360.0), np.eye(3, 4), atol=1e-9)
    np.testing.assert_allclose(twice[:, :3] @ np.ones(3), np.ones(3), atol=1e-9)
    np.testing.assert_allclose(
        np.array([0.299, 0.587, 0.114]) @ twice[:, :3], [0.299, 0.587, 0.114], atol=1e-9
    )


def test_curves_keep_bits_and_invert_and_follow_one_another() -> None:
    kept = color.posterise(3)
    assert sorted(set(kept.tolist())) == list(range(0, 256, 32))
    inverted = color.solarise(128.0)
    assert inverted[:128].tolist() == list(range(128))
    assert inverted[128:].tolist() == list(range(127, -1, -1))
    np.testing.assert_array_equal(color.chained(kept, inverted), inverted[kept])
