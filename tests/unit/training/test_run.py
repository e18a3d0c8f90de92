"""The history of a run, and how far a span has come."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import ConfigError, InputMissingError
from headstart.training import History, Schedule, Span, sequence, sgdr, warm_up

ROWS = [{"epoch": 0, "valid_loss": 0.5}, {"epoch": 1, "valid_loss": 0.25}, {"epoch": 2}]


def test_a_history_is_read_by_row_column_and_both() -> None:
    history = History(ROWS)
    assert history[-1] == {"epoch": 2}
    assert history[:2]["valid_loss"] == [0.5, 0.25]
    assert history["valid_loss"] == [0.5, 0.25, None]
    assert history[1, "valid_loss"] == 0.25
    assert history[1:, "epoch"] == [1, 2]
    assert (len(history), list(history)) == (3, ROWS)
    assert history == History(ROWS)
    assert history != History(ROWS[:1])


def test_what_is_not_finite_is_kept_as_nothing() -> None:
    history = History()
    history.append({"loss": math.nan, "rates": [1.0, math.inf]})
    assert history.rows == [{"loss": None, "rates": [1.0, None]}]


@given(st.lists(st.dictionaries(st.text(), st.none() | st.floats(allow_nan=False, allow_infinity=False))))
def test_json_lines_come_back_as_they_were(tmp_path_factory, rows) -> None:
    path = tmp_path_factory.mktemp("history") / "history.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert History.from_jsonl(path).rows == rows


def test_a_torn_last_line_is_left_out_and_a_torn_middle_is_an_error(tmp_path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"epoch": 0}\n{"epo')
    assert History.from_jsonl(path).rows == [{"epoch": 0}]
    path.write_text('{"epo\n{"epoch": 1}\n')
    with pytest.raises(ConfigError, match="line 1"):
        History.from_jsonl(path)
    path.write_text("[1]\n")
    with pytest.raises(ConfigError, match="not a row"):
        History.from_jsonl(path)
    with pytest.raises(InputMissingError):
        History.from_jsonl(tmp_path / "none.jsonl")


def test_a_span_knows_where_its_cycles_end() -> None:
    span = Span("", 0, 7, 10, sgdr(3, 1, 2))
    ends = []
    for _ in range(7):
        span.close_epoch()
        ends.append(span.at_cycle_end)
    assert ends == [True, False, True, False, False, False, True]


def test_the_smoothed_loss_does_not_remember_its_start() -> None:
    span = Span("", 0, 1, 10, Schedule())
    assert math.isnan(span.smoothed_loss)
    span.record([2.0])
    assert span.smoothed_loss == pytest.approx(2.0)
    span.record([1.0])
    assert 1.0 < span.smoothed_loss < 2.0


def test_a_span_survives_json() -> None:
    span = Span("last layers", 4, 3, 10, sgdr(3), epochs_done=1, batches_done=2)
    span.record([0.1, 0.2])
    span.sizes += [8, 8]
    assert Span.from_plain(json.loads(json.dumps(span.to_plain()))) == span


def test_a_span_of_a_sequence_s_stretch_survives_json() -> None:
    schedule = sequence((1, warm_up(pct_start=1)), (0.3, sgdr(3))).between(1 / 7, 0.9)
    span = Span("all", 8, 4, 5, schedule)
    again = Span.from_plain(json.loads(json.dumps(span.to_plain())))
    assert again.terms == span.terms
    assert again.schedule.factor(11, 20) == schedule.factor(11, 20)
