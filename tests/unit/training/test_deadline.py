"""A budget of time that training keeps."""

from __future__ import annotations

from headstart.training import Callback, Deadline, constant, fit, loss_for
from headstart.types import Task

OPTIONS = {"rates": [1e-2, 1e-2], "loss": loss_for(Task.SINGLE_LABEL), "schedule": constant()}


class Clock(Callback):
    """Each step takes a second."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def after_step(self, run) -> None:
        self.seconds -= 1


def trained(make_run, make_source, seconds: float) -> tuple[int, int, str]:
    run, clock = make_run(), Clock(seconds)
    fit(run, make_source(), **OPTIONS, epochs=4, callbacks=[clock, Deadline(lambda: clock.seconds)])
    return run.epoch, run.step, run.stop_reason


def test_an_epoch_that_would_not_fit_is_not_begun(make_run, make_source) -> None:
    assert trained(make_run, make_source, 100) == (4, 20, "")
    epoch, step, reason = trained(make_run, make_source, 14)
    assert (epoch, step) == (2, 10)
    assert "another epoch would not fit" in reason


def test_training_stops_where_no_time_is_left(make_run, make_source) -> None:
    epoch, step, reason = trained(make_run, make_source, 3)
    assert (epoch, step) == (0, 3)
    assert reason == "the budget of time is used up"
