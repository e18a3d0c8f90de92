"""Going back to good weights at a third of the rate: when, to what, how often; and never without cause."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from headstart.training import (
    Callback,
    EarlyStop,
    KeepBest,
    NonFiniteError,
    constant,
    fit,
    load_checkpoint,
    loss_for,
    one_cycle,
    save_checkpoint,
)
from headstart.training.rollback import FIRST, RECENT, DivergedError, Rollback, guess_loss, has_diverged
from headstart.types import Batch, Task

OPTIONS = {
    "rates": [3e-3, 9e-3],
    "schedule": constant(),
    "epochs": 3,
    "loss": loss_for(Task.SINGLE_LABEL),
}


class Poison(Callback):
    """Makes the loss of some steps something else, as often as `times` says."""

    def __init__(self, at: int, times: int = 1, value: float = math.nan) -> None:
        self.at, self.times, self.value = at, times, value

    def after_loss(self, run, loss):
        if run.step == self.at and self.times:
            self.times -= 1
            return loss * self.value
        return loss


class Seen(Callback):
    def __init__(self) -> None:
        self.steps = []

    def before_batch(self, run, batch):
        self.steps.append((run.step, batch.index.tolist()))
        return batch


class Slower(Callback):
    """What a run that goes on at a third of the rate does, written down by hand."""

    def __init__(self, from_step: int) -> None:
        self.from_step = from_step

    def before_batch(self, run, batch):
        run.adjustments.rate_factor = 1 / 3 if run.step >= self.from_step else 1.0
        return batch


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_it_goes_back_to_the_epoch_s_start_at_a_third_of_the_rate(make_run, make_source, bits, name) -> None:
    """As if the epoch had begun at the lower rate, bit by bit, in the same order of rows."""
    run, twin, source, seen = make_run(name=name), make_run(name=name), make_source(), Seen()
    fit(run, source, **OPTIONS, callbacks=[Poison(8), seen, Rollback()])
    fit(twin, source, **OPTIONS, callbacks=[Slower(5)])
    assert bits(run) == bits(twin)
    assert (run.step, run.epoch, run.stop_reason, len(run.history)) == (15, 3, "", 3)
    assert run.history["train_loss"] == twin.history["train_loss"]
    assert run.history[-1, "rates"] == pytest.approx([1e-3, 3e-3])
    assert [step for step, _ in seen.steps] == [*range(9), *range(5, 15)]
    assert seen.steps[5:8] == seen.steps[9:12]
    (notice,) = run.adjustments.notices
    assert "step 8" in notice
    assert "back to where epoch 1 began, at a third of the rate" in notice


def test_without_it_training_ends_there(make_run, make_source) -> None:
    with pytest.raises(NonFiniteError):
        fit(make_run(), make_source(), **OPTIONS, callbacks=[Poison(8)])


def test_in_the_first_epoch_the_optimiser_starts_anew(make_run, make_source, bits) -> None:
    run, twin, source = make_run(), make_run(), make_source()
    fit(run, source, **OPTIONS, callbacks=[Poison(3), Rollback()])
    fit(twin, source, **OPTIONS, callbacks=[Slower(0)])
    assert bits(run) == bits(twin)


def test_after_a_few_times_it_stops_with_the_good_weights(make_run, make_source, bits) -> None:
    run, twin, source = make_run(), make_run(), make_source()
    with pytest.raises(NonFiniteError):
        fit(run, source, **OPTIONS, callbacks=[Poison(8, times=100), Rollback(attempts=3)])
    fit(twin, source, **{**OPTIONS, "epochs": 1})
    assert bits(run) == bits(twin)
    assert (run.step, run.epoch, run.stop_reason, len(run.history)) == (5, 1, "non-finite loss", 1)
    assert run.adjustments.rollbacks == 3
    assert "given up after 3 attempts" in run.adjustments.notices[-1]


def test_the_next_phase_has_its_own_rates_and_attempts(make_run, make_source) -> None:
    run, source, rollback = make_run(), make_source(), Rollback()
    fit(run, source, **OPTIONS, callbacks=[Poison(8), rollback])
    fit(run, source, **OPTIONS, callbacks=[rollback])
    assert run.history[-1, "rates"] == pytest.approx([3e-3, 9e-3])
    assert run.adjustments.rollbacks == 0


def test_what_other_callbacks_remember_goes_back_too(make_run, make_source, validate_with) -> None:
    class Average(Callback):
        """A running mean of the weights, changed in place."""

        def before_fit(self, run):
            self.mean = run.model[0].weight.detach().clone()

        def after_step(self, run):
            self.mean.mul_(0.9).add_(run.model[0].weight.detach(), alpha=0.1)

        def state(self):
            return {"mean": self.mean}

        def restore_state(self, state):
            self.mean = state["mean"]

    def options(run):
        return {**OPTIONS, "validate": validate_with(run, source)}

    source, average, expected = make_source(), Average(), Average()
    run, twin, keep, kept = make_run(), make_run(), KeepBest(), KeepBest()
    fit(run, source, **options(run), callbacks=[average, keep, EarlyStop(), Poison(8, times=2), Rollback()])

    class Ninth(Slower):
        def before_batch(self, run, batch):
            run.adjustments.rate_factor = 1 / 3 / 3 if run.step >= self.from_step else 1.0
            return batch

    fit(twin, source, **options(twin), callbacks=[expected, kept, EarlyStop(), Ninth(5)])
    assert torch.equal(average.mean, expected.mean)
    assert (keep.best, keep.epoch) == (kept.best, kept.epoch)


@pytest.mark.parametrize("saved_at", [5, 6, 7, 10])
def test_a_restart_goes_back_to_the_same_place(
    make_run, make_net, make_source, bits, tmp_path, saved_at
) -> None:
    """Saved in the middle of the epoch, or at its start; the loss then fails at step 8 or 12."""

    class Save(Callback):
        def __init__(self, others):
            self.others, self.saved = others, False

        def after_step(self, run):
            if run.step == saved_at and not self.saved:
                self.saved = True
                save_checkpoint(tmp_path, run, callbacks=self.others)

    source, at = make_source(), 8 if saved_at < 8 else 12
    whole, rollback = make_run(), Rollback()
    fit(whole, source, **{**OPTIONS, "schedule": one_cycle()},
        callbacks=[Poison(2), Poison(at), Save([rollback]), rollback])  # fmt: skip

    run, rollback = make_run(make_net(seed=4)), Rollback()
    load_checkpoint(tmp_path, run, callbacks=[rollback])
    assert run.adjustments.rate_factor == pytest.approx(1 / 3)
    fit(run, source, **{**OPTIONS, "schedule": one_cycle()},
        callbacks=[Poison(at), rollback], resume=True)  # fmt: skip
    assert bits(run) == bits(whole)
    assert run.adjustments == whole.adjustments
    assert run.history["train_loss"] == whole.history["train_loss"]


def test_a_loss_far_above_its_start_for_long_goes_back(make_run, make_source, bits) -> None:
    """SGD at a rate that makes the loss large but never infinite."""
    run, source = make_run(name="sgd"), make_source(200, 4)

    class Tenfold(Callback):
        def after_loss(self, run, loss):
            return loss * 10 if run.adjustments.rate_factor == 1 and run.step > 60 else loss

    fit(run, source, **OPTIONS, callbacks=[Tenfold(), Rollback(guess=guess_loss(2, tags=False))])
    (notice,) = run.adjustments.notices
    assert "the loss has diverged" in notice
    assert "back to where epoch 1 began" in notice
    assert run.adjustments.rate_factor == pytest.approx(1 / 3)
    assert (run.step, len(run.history)) == (150, 3)


def test_a_loss_that_keeps_diverging_raises_with_good_weights(make_run, make_source, bits) -> None:
    run, twin, source = make_run(), make_run(), make_source(200, 4)

    class Tenfold(Callback):
        def after_loss(self, run, loss):
            return loss * 10 if run.step > 60 else loss

    with pytest.raises(DivergedError, match="lower the learning rate"):
        fit(run, source, **OPTIONS, callbacks=[Tenfold(), Rollback(guess=0.7)])
    fit(twin, source, **{**OPTIONS, "epochs": 1})
    assert bits(run) == bits(twin)
    assert run.stop_reason == "diverged"


def test_normal_noisy_training_is_never_taken_for_divergence() -> None:
    """300 curves of 400 steps: from guessing or from an optimum, with heavy tails, spikes and restarts."""
    rng = np.random.default_rng(0)
    alarms = 0
    for number in range(300):
        guess = math.log(rng.integers(2, 100))
        steps = np.arange(400)
        start = guess * (1.1 if number % 2 else rng.uniform(0.001, 0.3))
        course = start * np.exp(-steps / 150) + 0.02
        # A head at its optimum first loses ground, at most to what guessing gives; restarts do so again.
        course += (number % 2 == 0) * 0.9 * guess * np.exp(-(((steps % 200) - 60) ** 2) / 800)
        noise = rng.lognormal(-0.125, 0.5, 400) if number % 3 else 1 + 0.5 * rng.standard_t(3, 400)
        losses = np.abs(course * noise)
        losses[rng.integers(0, 400, 4)] *= 100
        first, kept = losses[:FIRST].tolist(), losses.tolist()
        alarms += any(has_diverged(first, kept[end - RECENT : end], guess) for end in range(RECENT, 401))
    assert alarms == 0


@pytest.mark.parametrize(("factor", "found"), [(1.5, False), (3.0, True), (1e3, True)])
def test_a_loss_that_stays_far_above_guessing_is(factor: float, found: bool) -> None:
    guess = math.log(10)
    rng = np.random.default_rng(1)
    recent = (factor * guess * rng.lognormal(0, 0.3, RECENT)).tolist()
    assert has_diverged([guess] * FIRST, recent, guess) is found
    assert not has_diverged([guess] * FIRST, recent[:-1], guess)


def test_it_changes_nothing_where_all_goes_well(make_run, make_source, bits, comparable) -> None:
    run, twin, source = make_run(), make_run(), make_source()
    fit(run, source, **OPTIONS, callbacks=[Rollback()])
    fit(twin, source, **OPTIONS)
    assert bits(run) == bits(twin)
    assert comparable(run.history) == comparable(twin.history)


def test_numbers_that_come_late_go_back_as_well(make_run, make_source, bits, monkeypatch) -> None:
    import functools

    from headstart.training.guard import Guard

    monkeypatch.setattr("headstart.training.loop.Guard", functools.partial(Guard, deferred=True))
    run, twin, source = make_run(), make_run(), make_source()

    class Infinite(Callback):
        times = 1

        def before_batch(self, run, batch):
            if run.step == 8 and self.times:
                self.times = 0
                return Batch(batch.inputs * math.inf, batch.targets, batch.index)
            return batch

    fit(run, source, **OPTIONS, callbacks=[Infinite(), Rollback()])
    fit(twin, source, **OPTIONS, callbacks=[Slower(5)])
    assert bits(run) == bits(twin)
