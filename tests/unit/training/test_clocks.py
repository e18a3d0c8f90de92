"""A clock that people set, a zone, the times of files: nothing in a run depends on them."""

from __future__ import annotations

import ast
import itertools
import os
import time
from pathlib import Path

import pytest

import headstart
from headstart.training import Checkpointer, find_checkpoint, fit, loss_for, one_cycle, save_checkpoint
from headstart.training.checkpoint_folder import checkpoints
from headstart.types import Task

OPTIONS = {"rates": [1e-3, 1e-2], "schedule": one_cycle(), "epochs": 3, "loss": loss_for(Task.SINGLE_LABEL)}
SOURCES = Path(headstart.__file__).parent
CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.today", "datetime.utcnow"}
# What is only written down: the moment that a row, a run or a report was made.
WRITTEN_DOWN = {"training/loggers.py", "recipe/finish.py", "recipe/journal.py", "recipe/judged.py"}
HOUR, YEAR = 3600, 365 * 86400


def clocks_in(source: str) -> list[str]:
    """Return where a source asks for the time of day, or for the time of a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            name = f"{ast.unparse(node.value).rpartition('.')[2]}.{node.attr}"
            if name in CLOCKS or node.attr.startswith(("st_mtime", "st_ctime")):
                found.append(f"{name}, line {node.lineno}")
    return found


def test_neither_training_nor_the_recipe_ask_for_the_time_of_day() -> None:
    found = {
        f"{room}/{path.name}": clocks
        for room in ("training", "recipe")
        for path in (SOURCES / room).glob("*.py")
        if (clocks := clocks_in(path.read_text("utf-8")))
    }
    assert set(found) == WRITTEN_DOWN, found


@pytest.mark.parametrize(
    "source",
    ["import time\na = time.time()", "b = datetime.datetime.now(UTC)", "c = path.stat().st_mtime_ns"],
)
def test_one_that_did_would_be_found(source) -> None:
    assert clocks_in(source)


def jumping():
    """Seconds of a clock that is set back an hour, then ten years ahead, again and again."""
    now = 1.7e9
    for offset in itertools.cycle((0, -HOUR, 10 * YEAR)):
        now += 0.01
        yield now + offset


def trained(make_run, make_source, folder: Path) -> tuple[object, int]:
    writer = Checkpointer(folder, seconds=1800, most_of_time=1e-12)
    writer._cost = 1e9
    run = make_run()
    fit(run, make_source(), **OPTIONS, callbacks=[writer])
    return run, writer.written


def test_a_clock_that_jumps_and_another_zone_change_nothing(
    make_run, make_source, bits, comparable, tmp_path, monkeypatch
) -> None:
    plain, written = trained(make_run, make_source, tmp_path / "a")
    with monkeypatch.context() as patched:
        clock = jumping()
        patched.setattr(time, "time", lambda: next(clock))
        patched.setattr(time, "time_ns", lambda: int(next(clock) * 1e9))
        patched.setenv("TZ", "Pacific/Kiritimati")
        time.tzset()
        jumped, written_then = trained(make_run, make_source, tmp_path / "b")
    time.tzset()
    assert bits(jumped) == bits(plain)
    assert comparable(jumped.history) == comparable(plain.history)
    assert written_then == written == 0


def test_a_writer_that_believed_such_a_clock_would_be_noticed(
    make_run, make_source, tmp_path, monkeypatch
) -> None:
    clock = jumping()
    monkeypatch.setattr("headstart.training.checkpointer.time.monotonic", lambda: next(clock))
    writer = Checkpointer(tmp_path, seconds=1800, most_of_time=1e9)
    run = make_run()
    for run.step in range(6):
        writer.after_step(run)
    assert writer.written > 0


@pytest.mark.parametrize("times", [(5, 5), (9, 1), (0, 2**31)])
def test_the_newest_is_the_one_with_most_steps_whatever_the_times_of_files_say(
    make_run, tmp_path, times
) -> None:
    run = make_run()
    for run.step, moment in zip((9, 10), times, strict=True):
        place = save_checkpoint(tmp_path, run)
        for path in (*place.iterdir(), place):
            os.utime(path, (moment, moment))
    assert find_checkpoint(tmp_path).state["step"] == 10
    assert [entry.name for entry in checkpoints(tmp_path)] == ["step-000000010", "step-000000009"]
