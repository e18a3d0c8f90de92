"""Averages of the weights: their formulas, that training goes on untouched, and that they are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from headstart.errors import UsageError
from headstart.training import (
    EMA,
    SWA,
    Callback,
    KeepBest,
    Run,
    Settings,
    constant,
    fit,
    load_checkpoint,
    loss_for,
    make_optimizer,
    save_checkpoint,
    sgdr,
)
from headstart.types import Task

OPTIONS = {"rates": [1e-2, 1e-1], "loss": loss_for(Task.SINGLE_LABEL)}


def floats(run: Run) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in run.model.state_dict().items() if t.is_floating_point()}


class Watch(Callback):
    """Keeps the weights after every step, and those that validation sees."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []
        self.validated: list[dict[str, torch.Tensor]] = []
        self.after: list[dict[str, torch.Tensor]] = []

    def before_fit(self, run: Run) -> None:
        self.steps = [floats(run)]

    def after_step(self, run: Run) -> None:
        self.steps.append(floats(run))

    def before_validate(self, run: Run) -> None:
        self.validated.append(floats(run))

    def after_validate(self, run: Run, metrics: dict[str, float]) -> None:
        self.after.append(floats(run))


def test_the_moving_average_is_its_formula(make_run, make_source, validate_with) -> None:
    run, source, watch = make_run(), make_source(), Watch()
    average = EMA(0.8)
    options = {**OPTIONS, "schedule": constant(), "epochs": 3, "validate": validate_with(run, source)}
    fit(run, source, callbacks=[average, watch], **options)
    expected = {name: tensor.double() for name, tensor in watch.steps[0].items()}
    for step, weights in enumerate(watch.steps[1:]):
        keep = min(0.8, (1 + step) / (10 + step))
        for name, tensor in weights.items():
            expected[name] = keep * expected[name] + (1 - keep) * tensor.double()
    for name, tensor in watch.validated[-1].items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)
    # Of fifteen steps the first weighs next to nothing; without the warm-up it would 0.8 ** 15 = 3.5 %.
    assert np.prod([min(0.8, (1 + step) / (10 + step)) for step in range(15)]) < 1e-4


def test_validation_sees_the_average_and_training_never_does(make_run, make_source, validate_with) -> None:
    plain, averaged, source = make_run(), make_run(), make_source()
    watches = Watch(), Watch()
    for run, watch, more in zip((plain, averaged), watches, ([], [EMA(0.9)]), strict=True):
        options = {**OPTIONS, "schedule": constant(), "epochs": 2, "validate": validate_with(run, source)}
        fit(run, source, callbacks=[*more, watch], **options)
    for one, other in zip(watches[0].steps, watches[1].steps, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert plain.history["batch_losses"] == averaged.history["batch_losses"]
    assert plain.history["valid_loss"] != averaged.history["valid_loss"]
    for after, trained in zip(watches[1].after, (watches[1].steps[5], watches[1].steps[10]), strict=True):
        assert all(torch.equal(after[name], trained[name]) for name in after)
    assert any(not torch.equal(watches[1].validated[0][n], t) for n, t in watches[1].steps[5].items())


def test_at_the_end_the_network_is_left_with_the_average(make_run, make_source, validate_with) -> None:
    run, source, watch = make_run(), make_source(), Watch()
    options = {**OPTIONS, "schedule": constant(), "epochs": 2, "validate": validate_with(run, source)}
    fit(run, source, callbacks=[EMA(0.9), watch], **options)
    assert all(torch.equal(t, watch.validated[-1][name]) for name, t in floats(run).items())
    assert run.average is None
    blind = make_run()
    fit(blind, source, callbacks=[EMA(0.9)], **{**options, "validate": None})
    assert all(torch.equal(t, floats(blind)[name]) for name, t in floats(run).items())


class Stop(Callback):
    def __init__(self, at: int, reason: str) -> None:
        self.at, self.reason = at, reason

    def after_step(self, run: Run) -> None:
        if run.step == self.at:
            run.stop_reason = self.reason


@pytest.mark.parametrize(("reason", "trained"), [("interrupted", True), ("early stop: enough", False)])
def test_a_run_that_is_to_go_on_keeps_its_own_weights(make_run, make_source, reason, trained) -> None:
    run, source, watch = make_run(), make_source(), Watch()
    callbacks = [EMA(0.9), watch, Stop(7, reason)]
    fit(run, source, callbacks=callbacks, schedule=constant(), epochs=3, **OPTIONS)
    same = all(torch.equal(t, watch.steps[7][name]) for name, t in floats(run).items())
    assert same is trained


def test_a_validation_that_fails_leaves_the_weights_that_train(make_run, make_source) -> None:
    run, source, watch = make_run(), make_source(), Watch()

    def broken() -> dict[str, float]:
        raise KeyboardInterrupt

    fit(run, source, callbacks=[EMA(0.9), watch], schedule=constant(), epochs=3, validate=broken, **OPTIONS)
    assert run.stop_reason == "interrupted"
    assert all(torch.equal(t, watch.steps[5][name]) for name, t in floats(run).items())


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_the_best_that_is_kept_is_what_was_validated(make_run, make_source, validate_with, order) -> None:
    run, source, watch = make_run(), make_source(), Watch()
    keep, average = KeepBest(), EMA(0.9)
    validate = validate_with(run, source)
    callbacks = [[keep, average][number] for number in order]
    options = {**OPTIONS, "schedule": sgdr(2), "epochs": 2, "validate": validate}
    fit(run, source, callbacks=[*callbacks, watch], **options)
    assert keep.restore(run)
    assert validate()["valid_loss"] == run.history[keep.epoch - 1, "valid_loss"]


@pytest.mark.parametrize("at", [2, 5, 9])
def test_a_restart_keeps_them_to_the_bit(make_run, make_source, validate_with, tmp_path, at) -> None:
    source = make_source()

    class Save(Callback):
        def after_step(self, run: Run) -> None:
            if run.step == at:
                save_checkpoint(tmp_path, run, callbacks=pairs[0])

    runs, pairs = [make_run(), make_run()], [[KeepBest(), EMA(0.9)] for _ in range(2)]
    shared = {**OPTIONS, "schedule": sgdr(3), "epochs": 3}
    fit(runs[0], source, callbacks=[*pairs[0], Save()], validate=validate_with(runs[0], source), **shared)
    load_checkpoint(tmp_path, runs[1], callbacks=pairs[1])
    again = validate_with(runs[1], source)
    fit(runs[1], source, callbacks=pairs[1], validate=again, resume=True, **shared)
    for one, other in zip(*pairs, strict=True):
        states = one.state(), other.state()
        assert states[0].keys() == states[1].keys()
        assert all(np.array_equal(value, states[1][name]) for name, value in states[0].items())
    assert all(torch.equal(t, floats(runs[1])[name]) for name, t in floats(runs[0]).items())


def test_the_mean_is_of_the_ends_of_cycles(make_run, make_source, validate_with) -> None:
    run, source, watch = make_run(), make_source(), Watch()
    options = {"schedule": sgdr(2, 1, 2), "epochs": 3, "validate": validate_with(run, source)}
    fit(run, source, callbacks=[SWA(), watch], **OPTIONS, **options)
    ends = watch.steps[5], watch.steps[15]
    for name, tensor in watch.validated[-1].items():
        torch.testing.assert_close(tensor, (ends[0][name] + ends[1][name]) / 2)
    for name, tensor in watch.validated[1].items():
        torch.testing.assert_close(tensor, ends[0][name])


def test_without_cycles_the_mean_is_of_epochs_from_a_start_on(make_run, make_source) -> None:
    run, source, watch = make_run(), make_source(), Watch()
    fit(run, source, callbacks=[SWA(0.5), watch], schedule=constant(), epochs=4, **OPTIONS)
    for name, tensor in floats(run).items():
        mean = sum(watch.steps[step][name].double() for step in (10, 15, 20)) / 3
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-5, atol=1e-6)


def test_statistics_of_a_mean_are_those_of_its_own_weights(make_run, make_source, validate_with) -> None:
    source = make_source()
    figures = []
    for recalibrated in (True, False):
        run = make_run()
        average = SWA(model=run.model, source=source) if recalibrated else SWA()
        options = {"schedule": sgdr(3), "epochs": 3, "validate": validate_with(run, source)}
        fit(run, source, callbacks=[average], **OPTIONS, **options)
        with torch.no_grad():
            hidden = run.model[0](torch.from_numpy(source.inputs))
        norm = run.model[1]
        assert isinstance(norm, nn.BatchNorm1d)
        figures.append((norm.running_mean - hidden.mean(0)).abs().max().item())
    assert figures[0] < 1e-5 < figures[1]


def test_whole_numbers_and_frozen_weights_are_left_alone(make_net, make_source) -> None:
    net = make_net()
    net[0].requires_grad_(False)
    trained = [p for p in net.parameters() if p.requires_grad]
    run = Run(net, make_optimizer([trained], [0.1]), precision="float32")
    average = EMA(0.9)
    fit(run, make_source(), callbacks=[average], **{**OPTIONS, "rates": [0.1]}, schedule=constant(), epochs=1)
    names = {name.removeprefix("average.") for name in average.state()} - {"count"}
    assert names == {"1.weight", "1.bias", "1.running_mean", "1.running_var", "4.weight", "4.bias"}
    assert int(net[1].num_batches_tracked) == 5


def test_what_cannot_be_is_refused(make_run, make_source, validate_with) -> None:
    for wrong in (lambda: EMA(1.0), lambda: EMA(-0.1), lambda: SWA(1.0), lambda: SWA(model=nn.Linear(1, 1))):
        with pytest.raises(UsageError):
            wrong()
    run, source = make_run(), make_source()
    options = {**OPTIONS, "schedule": constant(), "epochs": 1, "validate": validate_with(run, source)}
    with pytest.raises(UsageError, match="two averages"):
        fit(run, source, callbacks=[EMA(), SWA()], **options)


@hypothesis_settings(deadline=None)
@given(decay=st.floats(0, 0.999999))
def test_settings_take_a_decay_that_is_one(decay: float) -> None:
    assert EMA(Settings(ema=decay).ema or 0.0).decay == decay
