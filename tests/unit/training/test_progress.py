"""What a person sees while a network trains."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from headstart.training import Callback, ProgressTable, constant, fit, loss_for
from headstart.types import Task

OPTIONS = {"rates": [1e-2, 1e-2], "loss": loss_for(Task.SINGLE_LABEL), "schedule": constant(), "epochs": 2}


def console(*, terminal: bool, width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)


def printed(console: Console) -> str:
    return console.file.getvalue()


def validation(*losses: float):
    remaining = iter(losses)
    return lambda: {"valid_loss": next(remaining), "accuracy": 0.875, "macro_f1": 0.5}


def show(run, source, table: ProgressTable) -> None:
    fit(run, source, **OPTIONS, validate=validation(0.5, 0.25), callbacks=[table])


def test_the_table_has_the_course_s_columns_and_a_row_for_each_epoch(make_run, make_source) -> None:
    out = console(terminal=False)
    fit(
        make_run(),
        make_source(),
        **OPTIONS,
        validate=validation(0.5, 0.25),
        callbacks=[ProgressTable(console=out)],
    )
    head, *rows = printed(out).splitlines()
    assert head.split() == ["epoch", "train_loss", "valid_loss", "accuracy", "time"]
    assert [row.split()[0] for row in rows] == ["0", "1"]
    assert [row.split()[2:4] for row in rows] == [["0.5000", "0.8750"], ["0.2500", "0.8750"]]
    assert all(re.fullmatch(r"\d\d:\d\d", row.split()[4]) for row in rows)
    ends = [[match.end() for match in re.finditer(r"\S+", line)] for line in (head, *rows)]
    assert ends[0] == ends[1] == ends[2]


def test_another_metric_or_none_can_be_shown(make_run, make_source) -> None:
    for metric, columns in (("macro_f1", 5), (None, 4)):
        out = console(terminal=False)
        table = ProgressTable(metric, out)
        show(make_run(), make_source(), table)
        assert all(len(line.split()) == columns for line in printed(out).splitlines())


def test_what_is_missing_is_a_dash(make_run, make_source) -> None:
    out = console(terminal=False)
    fit(make_run(), make_source(), **OPTIONS, callbacks=[ProgressTable(console=out)])
    assert printed(out).splitlines()[1].split()[2:4] == ["–", "–"]


def test_a_terminal_gets_a_bar_that_goes_away(make_run, make_source) -> None:
    out = console(terminal=True)
    fit(
        make_run(),
        make_source(),
        **OPTIONS,
        validate=validation(0.5, 0.25),
        callbacks=[ProgressTable(console=out)],
    )
    text = printed(out)
    assert "epoch 1/2" in text
    assert "━" in text
    assert re.search(r"loss \d\.\d{4}", text)
    assert "validating" in text
    assert text.endswith("\x1b[2K") or text.rstrip().endswith("\x1b[2K")


def test_other_output_than_a_terminal_has_no_control_characters(make_run, make_source) -> None:
    out = console(terminal=False)
    fit(make_run(), make_source(), **OPTIONS, callbacks=[ProgressTable(console=out)])
    assert "\x1b" not in printed(out)
    assert "\r" not in printed(out)


def test_a_slow_epoch_gives_a_line_now_and_then(make_run, make_source, monkeypatch) -> None:
    monkeypatch.setattr("headstart.training.progress.PLAIN_SECONDS", 0.0)
    out = console(terminal=False)
    fit(make_run(), make_source(), **OPTIONS, callbacks=[ProgressTable(console=out)])
    assert "epoch 2/2: batch 3 of 5, loss 0." in printed(out)


def test_why_training_stopped_is_said(make_run, make_source) -> None:
    class Stop(Callback):
        def after_step(self, run):
            run.stop_reason = "enough"

    for terminal in (False, True):
        out = console(terminal=terminal)
        fit(make_run(), make_source(), **OPTIONS, callbacks=[Stop(), ProgressTable(console=out)])
        assert "stopped: enough" in printed(out)


def test_the_bar_goes_away_when_training_fails(make_run, make_source) -> None:
    class Fail(Callback):
        def after_step(self, run):
            raise OSError("full")

    out = console(terminal=True)
    with pytest.raises(OSError, match="full"):
        fit(make_run(), make_source(), **OPTIONS, callbacks=[ProgressTable(console=out), Fail()])
    assert "\x1b[?25h" in printed(out)


def test_progress_goes_to_stderr_unless_told_otherwise(make_run, make_source, capsys) -> None:
    fit(make_run(), make_source(), **OPTIONS, callbacks=[ProgressTable()])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "train_loss" in captured.err


def test_what_training_changed_by_itself_is_said_once_and_at_once(make_run, make_source) -> None:
    class Notice(Callback):
        def after_loss(self, run, loss):
            if run.step == 2:
                run.adjustments.notices.append("memory ran out")
            return loss

    out, run = console(terminal=False), make_run()
    run.adjustments.notices.append("found before")
    table = ProgressTable(console=out)
    for _ in range(2):
        fit(run, make_source(), **OPTIONS, validate=validation(0.5, 0.25), callbacks=[Notice(), table])
    lines = [line.strip() for line in printed(out).splitlines()]
    assert lines[0] == "! found before"
    assert [line for line in lines if line.startswith("!")] == ["! found before", "! memory ran out"]
    assert lines.index("! memory ran out") == 2  # below the heading, above the first epoch's row
