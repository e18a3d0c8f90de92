"""The guard where numbers come back one step late, as on a CUDA device; here on the CPU."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from headstart.training import Callback, NonFiniteError, constant, fit, loss_for
from headstart.training.guard import Guard
from headstart.types import Batch, Task

OPTIONS = {"rates": [1e-2, 1e-2], "schedule": constant(), "epochs": 2, "loss": loss_for(Task.SINGLE_LABEL)}


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.training.loop.Guard", functools.partial(Guard, deferred=True))


class Poison(Callback):
    def __init__(self, at: int) -> None:
        self.at = at
        self.steps_begun = 0

    def before_batch(self, run, batch):
        self.steps_begun += 1
        if run.step == self.at:
            return Batch(batch.inputs * math.inf, batch.targets, batch.index)
        return batch


class Stop(Callback):
    def __init__(self, after: int) -> None:
        self.after = after

    def after_step(self, run):
        if run.step == self.after:
            run.stop_reason = "enough"


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("at", [0, 6, 9])
def test_late_numbers_still_leave_the_last_finite_state(make_run, make_source, bits, name, at) -> None:
    run, twin, source, poison = make_run(name=name), make_run(name=name), make_source(), Poison(at)
    with pytest.raises(NonFiniteError) as caught:
        fit(run, source, **OPTIONS, callbacks=[poison])
    if at:
        fit(twin, source, **OPTIONS, callbacks=[Stop(at)])
        assert bits(run) == bits(twin)
    assert all(torch.isfinite(tensor).all() for tensor in run.model.state_dict().values())
    assert (run.step, caught.value.step) == (at, at)
    assert poison.steps_begun <= at + 2


@pytest.mark.usefixtures("late")
def test_late_numbers_change_nothing_else(make_run, make_source, bits, comparable, monkeypatch) -> None:
    late, early, source = make_run(), make_run(), make_source()
    fit(late, source, **OPTIONS)
    monkeypatch.setattr("headstart.training.loop.Guard", Guard)
    fit(early, source, **OPTIONS)
    assert bits(late) == bits(early)
    assert comparable(late.history) == comparable(early.history)


@pytest.mark.usefixtures("late")
def test_the_optimiser_takes_steps_again_after_a_refusal(make_run, make_source) -> None:
    run, source = make_run(), make_source()
    with pytest.raises(NonFiniteError):
        fit(run, source, **OPTIONS, callbacks=[Poison(3)])
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    fit(run, source, **OPTIONS)
    assert not any(torch.equal(p, q) for p, q in zip(run.model.parameters(), before, strict=True))


def test_a_step_that_would_overflow_is_refused_before_it_is_taken(make_run, make_source) -> None:
    run = make_run(name="sgd")
    with pytest.raises(NonFiniteError, match="learning rate 1e\\+20"):
        fit(run, make_source(), **{**OPTIONS, "rates": [1e20, 1e20]})
    assert run.step == 0
