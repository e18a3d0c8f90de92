"""SIGINT and SIGTERM while a checkpoint is written and while the network is validated, once and twice."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tests.unit.training.faulty_disks import Counting

from headstart.training import (
    Callback,
    Checkpointer,
    find_checkpoint,
    fit,
    load_checkpoint,
    loss_for,
    one_cycle,
)
from headstart.training.checkpoint_folder import checkpoints, fault_of
from headstart.training.interrupts import Interrupts
from headstart.types import Task

OPTIONS = {"rates": [1e-3, 1e-2], "schedule": one_cycle(), "epochs": 2, "loss": loss_for(Task.SINGLE_LABEL)}


class Signalling(Counting):
    """Sends the process signals ahead of call number `at`."""

    def __init__(self, at: int, number: int, times: int) -> None:
        super().__init__()
        self.at, self.number, self.times = at, number, times

    def before(self, call: str, path: Path) -> None:
        if len(self.calls) == self.at:
            for _ in range(self.times):
                signal.raise_signal(self.number)
        super().before(call, path)


def whole_and_clean(folder: Path) -> None:
    assert checkpoints(folder)
    assert [fault_of(entry) for entry in checkpoints(folder)] == [""] * len(checkpoints(folder))
    assert not [entry for entry in folder.iterdir() if entry.name.startswith(".")]


def goes_on_to_the_same_bits(make_run, source, bits, folder: Path, notes=()) -> None:
    unbroken, resumed = make_run(), make_run()
    fit(unbroken, source, **OPTIONS)
    assert load_checkpoint(folder, resumed).notes == notes
    fit(resumed, source, **OPTIONS, resume=True)
    assert bits(resumed) == bits(unbroken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [0, 3, 24, 60])
def test_a_signal_while_saving_ends_training_after_that_save(
    make_run, make_source, bits, tmp_path, number, at
) -> None:
    run, source, disk = make_run(), make_source(), Signalling(at, number, 1)
    fit(run, source, **OPTIONS, callbacks=[Checkpointer(tmp_path / "c", steps=1, disk=disk)])
    assert (run.stop_reason, run.stop_signal) == ("interrupted", number)
    assert run.step == 1 + at // 24
    whole_and_clean(tmp_path / "c")
    assert find_checkpoint(tmp_path / "c").state["step"] == run.step
    goes_on_to_the_same_bits(make_run, source, bits, tmp_path / "c")


def test_two_signals_while_saving_leave_the_one_before(make_run, make_source, bits, tmp_path) -> None:
    folder, source = tmp_path / "c", make_source()
    calls = Counting()
    fit(make_run(), source, **{**OPTIONS, "epochs": 1},
        callbacks=[Checkpointer(tmp_path / "counted", steps=1, disk=calls)])  # fmt: skip
    first = calls.calls.index("remove")
    for at in range(first - 22, first + 2, 5):
        disk = Signalling(at, signal.SIGTERM, 2)
        run = make_run()
        with pytest.raises(KeyboardInterrupt):
            fit(run, source, **OPTIONS, callbacks=[Checkpointer(folder / str(at), steps=1, disk=disk)])
        assert run.stop_reason == "ended at once"
        left = folder / str(at)
        assert [fault_of(entry) for entry in checkpoints(left)] == [""] * len(checkpoints(left))
        assert not [entry for entry in left.iterdir() if entry.name.endswith(".tmp")]
        goes_on_to_the_same_bits(make_run, source, bits, left)


def test_a_signal_before_the_first_step_leaves_a_run_that_goes_on(
    make_run, make_source, bits, tmp_path
) -> None:
    class Early(Callback):
        def before_fit(self, run):
            signal.raise_signal(signal.SIGTERM)

    run, source = make_run(), make_source()
    fit(run, source, **OPTIONS, callbacks=[Early(), Checkpointer(tmp_path)])
    assert (run.step, run.stop_reason) == (0, "interrupted")
    goes_on_to_the_same_bits(make_run, source, bits, tmp_path)


def test_a_signal_that_nobody_holds_back_would_cost_the_step(make_run, make_source, monkeypatch) -> None:
    class Open(Interrupts):
        """Lets signals through."""

        def __enter__(self):
            return self

    class Within(Callback):
        def after_backward(self, run):
            if run.step == 7:
                signal.raise_signal(signal.SIGINT)

    held, open_ = make_run(), make_run()
    fit(held, make_source(), **OPTIONS, callbacks=[Within()])
    monkeypatch.setattr("headstart.training.loop.Interrupts", Open)
    fit(open_, make_source(), **OPTIONS, callbacks=[Within()])
    assert (held.step, open_.step) == (8, 7)


def test_a_signal_while_validating_loses_no_step(make_run, make_source, bits, tmp_path) -> None:
    run, source = make_run(), make_source()

    def validate():
        if run.step == 10:
            signal.raise_signal(signal.SIGTERM)
        return {}

    writer = Checkpointer(tmp_path, seconds=1e9, most_of_time=1e9)
    fit(run, source, **OPTIONS, callbacks=[writer], validate=validate)
    whole_and_clean(tmp_path)
    assert find_checkpoint(tmp_path).state["step"] == 10
    goes_on_to_the_same_bits(make_run, source, bits, tmp_path)
