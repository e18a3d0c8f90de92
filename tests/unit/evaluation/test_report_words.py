"""Numbers and names as the report writes them, and the scales of its charts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.evaluation import charts
from headstart.evaluation.report import wording


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (8.04, "8.0 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (178.3, "2 min 58 s"),
        (7500, "2 h 5 min"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert plain(wording.duration(seconds)) == text


def test_shares_and_figures() -> None:
    assert plain(wording.percent(0.9456)) == "94.6 %"
    assert plain(wording.percent_range(0.921, 0.964)) == "92.1 to 96.4 %"
    assert wording.percent(None) == wording.percent_range(None, 1.0) == "–"
    assert plain(wording.number(-0.0104)) == "-0.010"
    assert wording.number(math.nan) == "–"
    assert wording.count(3670) == "3,670"
    assert plain(wording.plural(1, "class", "classes")) == "1 class"
    assert plain(wording.plural(2, "class", "classes")) == "2 classes"


@pytest.mark.parametrize(
    ("value", "text"), [(0.034, "+0.034"), (-0.012, "-0.012"), (0.0001, "0.000"), (-0.0001, "0.000")]
)
def test_differences_carry_a_sign_unless_they_round_to_zero(value: float, text: str) -> None:
    assert plain(wording.signed(value)) == text


def test_a_probability_is_never_called_impossible_or_certain() -> None:
    assert plain(wording.probability(1e-9)) == "< 0.1 %"
    assert plain(wording.probability(0.99999)) == "> 99.9 %"
    assert plain(wording.probability(0.5)) == "50.0 %"


@pytest.mark.parametrize(
    ("accuracy", "words"),
    [
        (1.0, "no picture"),
        (0.95, "one picture in 20"),
        (0.65, "one picture in 3"),
        (0.2, "8 pictures in ten"),
    ],
)
def test_an_accuracy_in_words(accuracy: float, words: str) -> None:
    assert words in wording.wrong_in_words(accuracy)


def test_settings_read_like_settings() -> None:
    values = ([224, 320], True, None, "", 2_241_799, 16, 0.01, ["a", "b", "c"])
    shown = [plain(wording.plain(value)) for value in values]
    assert shown == ["224 × 320", "yes", "–", "–", "2,241,799", "16", "0.01", '["a", "b", "c"]']


@given(st.text())
def test_visible_text_can_be_written_and_has_no_control_characters(text: str) -> None:
    shown = wording.visible(text)
    shown.encode("utf-8")
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in shown)


def test_ordinary_names_are_shown_as_they_are() -> None:
    for name in ("daisy", "ורד", "花", "👩\u200d🌾 farmer", "crème brûlée"):
        assert wording.visible(name) == name


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_round_and_inside(low: float, reach: float) -> None:
    ticks = charts.nice_ticks(low, low + reach)
    assert 1 <= len(ticks) <= 7
    assert all(low - 1e-6 * reach <= tick <= low + reach * (1 + 1e-6) for tick in ticks)


def test_a_long_series_is_thinned_to_means() -> None:
    points = charts.thinned(list(range(1000)), 10)
    assert len(points) == 10
    assert points[0] == (0.05, pytest.approx(49.5))
    assert charts.thinned([]) == []
    assert [value for _, value in charts.thinned([3.0, 5.0], 10)] == [3.0, 5.0]


def test_a_chart_escapes_its_words_and_skips_what_is_not_finite() -> None:
    drawing = charts.line_chart(
        'a "quoted" <b>',
        charts.Axes("x <", "y"),
        [charts.Series([0, 1, 2, 3], [1.0, math.nan, 2.0, 3.0], "accent", dots=True)],
        marks=[charts.Mark(1.0, "<i>")],
    )
    assert "<b>" not in drawing
    assert "<i>" not in drawing
    assert "nan" not in drawing
    assert drawing.count("<polyline") == 1


def test_a_chart_of_nothing_is_still_a_chart() -> None:
    assert "</svg>" in charts.line_chart("nothing", charts.Axes("x", "y", log_x=True))


def test_the_interval_bar_is_hollow_where_zero_is_inside() -> None:
    unsure = charts.interval_bar(0.1, -0.1, 0.3, (-0.5, 0.5), zero=True)
    sure = charts.interval_bar(0.2, 0.1, 0.3, (-0.5, 0.5), zero=True)
    worse = charts.interval_bar(-0.2, -0.3, -0.1, (-0.5, 0.5), zero=True)
    assert "dot unsure" in unsure
    assert "dot good" in sure
    assert "dot bad" in worse
