"""Weight decay and momentum on schedules of their own, and rates that fall on a plateau."""

from __future__ import annotations

import math

import pytest

from headstart.errors import UsageError
from headstart.training import (
    Callback,
    EarlyStop,
    KeepBest,
    ReduceOnPlateau,
    Scheduled,
    constant,
    cosine,
    fit,
    linear,
    loss_for,
    one_cycle,
    sgdr,
)
from headstart.types import Task

OPTIONS = {"rates": [1e-2, 1e-2], "loss": loss_for(Task.SINGLE_LABEL)}


class Watch(Callback):
    """Notes what the optimiser took each step with."""

    def __init__(self) -> None:
        self.rates, self.decays, self.momenta = [], [], []

    def after_step(self, run) -> None:
        groups = run.optimizer.param_groups
        self.rates.append(groups[-1]["lr"])
        self.decays.append([group["weight_decay"] for group in groups])
        self.momenta.append({g["betas"][0] if "betas" in g else g["momentum"] for g in groups})


def figures(name: str, *values: float):
    remaining = iter(values)
    return lambda: {name: next(remaining)}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_decay_and_momentum_move_along_their_schedules(make_run, make_source, name) -> None:
    run, source, watch = make_run(name=name), make_source(), Watch()
    moved = Scheduled(
        weight_decay=0.2,
        weight_decay_schedule=cosine(),
        momentum=0.9,
        momentum_schedule=linear(1.0, 0.5),
    )
    fit(run, source, **OPTIONS, schedule=constant(), epochs=2, callbacks=[moved, watch])
    total = 2 * len(source)
    for step in range(total):
        assert max(watch.decays[step]) == pytest.approx(0.2 * cosine().factor(step, total))
        assert sorted(watch.momenta[step]) == pytest.approx([0.9 * (1 - 0.5 * step / total)])


def test_parameters_of_one_dimension_never_decay(make_run, make_source) -> None:
    run, watch = make_run(), Watch()
    moved = Scheduled(weight_decay=0.5, weight_decay_schedule=linear(1, 1))
    fit(run, make_source(), **OPTIONS, schedule=constant(), epochs=1, callbacks=[moved, watch])
    for group, decay in zip(run.optimizer.param_groups, watch.decays[0], strict=True):
        matrices = any(parameter.ndim > 1 for parameter in group["params"])
        assert decay == (0.5 if matrices else 0.0)


def test_a_momentum_of_one_s_own_goes_before_that_of_one_cycle(make_run, make_source) -> None:
    momenta = []
    for callbacks in ([], [Scheduled(momentum=0.7)]):
        watch = Watch()
        fit(
            make_run(),
            make_source(),
            **OPTIONS,
            schedule=one_cycle(),
            epochs=1,
            callbacks=[*callbacks, watch],
        )
        momenta.append(watch.momenta)
    assert momenta[0][0] == {0.95}
    assert all(each == {0.7} for each in momenta[1])


def test_rates_fall_once_nothing_gets_better_and_the_history_says_so(make_run, make_source) -> None:
    run, source, watch = make_run(), make_source(), Watch()
    losses = (1.0, 0.9, 0.95, 0.9, 0.91, 0.92, 0.5)
    reduce = ReduceOnPlateau(2, 0.1)
    fit(
        run,
        source,
        **OPTIONS,
        schedule=constant(),
        epochs=7,
        validate=figures("valid_loss", *losses),
        callbacks=[reduce, watch],
    )
    # After the epochs 2 and 3 (from 0), and again after 4 and 5.
    expected = [1e-2] * 4 + [1e-3] * 2 + [1e-4]
    assert watch.rates[:: len(source)] == pytest.approx(expected)
    assert [row["rates"][-1] for row in run.history] == pytest.approx(expected)
    assert [row["batch_rates"][0] for row in run.history] == pytest.approx(expected)


def test_rates_do_not_fall_for_ever_and_each_phase_starts_anew(make_run, make_source) -> None:
    run, reduce, watch = make_run(), ReduceOnPlateau(1, 0.01, lowest=1e-3), Watch()
    for _ in range(2):
        fit(
            run,
            make_source(),
            **OPTIONS,
            schedule=constant(),
            epochs=4,
            validate=figures("valid_loss", 1.0, math.nan, 2.0, 1.0),
            callbacks=[reduce, watch],
        )
    assert watch.rates[::5] == pytest.approx([1e-2, 1e-2, 1e-4, 1e-5] * 2)


@pytest.mark.parametrize("values", [{"patience": 0}, {"factor": 1.0}, {"factor": 0.0}])
def test_a_plateau_that_makes_no_sense_is_refused(values) -> None:
    with pytest.raises(UsageError):
        ReduceOnPlateau(**values)


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "epochs"),
    [
        ((1, 2, 3, 4), 1, 0.0, 2),
        ((1, 2, 3, 4), 2, 0.0, 3),
        ((1, 2, 0.5, 4), 2, 0.0, 4),
        ((1, 0.95, 0.9), 1, 0.1, 2),
    ],
)
def test_patience_is_counted_in_whole_cycles(
    make_run, make_source, losses, patience, min_delta, epochs
) -> None:
    run = make_run()
    fit(
        run,
        make_source(),
        **OPTIONS,
        schedule=sgdr(len(losses)),
        epochs=len(losses),
        validate=figures("valid_loss", *losses),
        callbacks=[EarlyStop(patience=patience, min_delta=min_delta)],
    )
    assert run.epoch == epochs
    with pytest.raises(UsageError, match="patience"):
        EarlyStop(patience=0)


def test_of_a_metric_the_highest_is_the_best(make_run, make_source) -> None:
    run, keep = make_run(), KeepBest("accuracy")
    stop, reduce = EarlyStop("accuracy"), ReduceOnPlateau(1, monitor="accuracy")
    fit(
        run,
        make_source(),
        **OPTIONS,
        schedule=sgdr(4),
        epochs=4,
        validate=figures("accuracy", 0.5, 0.75, 0.625, 0.9),
        callbacks=[keep, stop, reduce],
    )
    assert (keep.best, keep.epoch, run.epoch) == (0.75, 2, 3)
    assert reduce.scale == pytest.approx(0.1)
