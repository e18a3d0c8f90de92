"""The loop: what a step does, in which order, and how training ends."""

from __future__ import annotations

import math
import random
import signal
import threading

import numpy as np
import pytest
import torch
from torch import nn

from headstart.errors import DataError, UsageError
from headstart.training import (
    Callback,
    NonFiniteError,
    Schedule,
    constant,
    fit,
    group_rates,
    loss_for,
    make_optimizer,
    one_cycle,
    sgdr,
)
from headstart.training.loop import batch_loss
from headstart.types import Batch, Task

LOSS = loss_for(Task.SINGLE_LABEL)
RATES = [1e-2, 1e-2]


def options(**changed):
    return {"rates": RATES, "schedule": constant(), "epochs": 2, "loss": LOSS, **changed}


def test_training_lowers_the_loss(make_run, make_source, validate_with) -> None:
    run, source = make_run(), make_source(200)
    fit(run, source, **options(epochs=8, validate=validate_with(run, source)))
    assert run.history[-1, "valid_loss"] < 0.6 * run.history[0, "valid_loss"]
    assert run.history[-1, "accuracy"] > 0.9
    assert (run.step, run.epoch, run.stop_reason) == (200, 8, "")


def test_the_steps_equal_those_of_a_bare_loop(make_run, make_source, make_net, bits) -> None:
    source = make_source()
    net = nn.Sequential(*[layer for layer in make_net() if not isinstance(layer, nn.Dropout)])
    twin = nn.Sequential(*[layer for layer in make_net() if not isinstance(layer, nn.Dropout)])
    run, bare = make_run(net), make_run(twin)
    fit(run, source, **options(epochs=2))

    twin.train()
    for epoch in range(2):
        for batch in source.epoch(epoch):
            loss = nn.functional.cross_entropy(
                twin(torch.from_numpy(batch.inputs)), torch.from_numpy(batch.targets)
            )
            loss.backward()
            bare.optimizer.step()
            bare.optimizer.zero_grad()
    assert bits(run) == bits(bare)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(make_run, make_source, bits) -> None:
    first, again, other = make_run(seed=1), make_run(seed=1), make_run(seed=2)
    for run in (first, again, other):
        fit(run, make_source(), **options())
    assert bits(first) == bits(again)
    assert bits(first) != bits(other)


def test_gradients_left_by_others_do_not_count(make_run, make_source, bits) -> None:
    clean, left = make_run(), make_run()
    left.model[0].weight.grad = torch.ones_like(left.model[0].weight)
    for run in (clean, left):
        fit(run, make_source(), **options(epochs=1))
    assert bits(clean) == bits(left)


def test_the_users_random_states_are_left_alone(make_run, make_source) -> None:
    run = make_run()

    def draws() -> tuple[float, float, float]:
        return random.random(), np.random.random(), torch.rand(()).item()

    def seed() -> None:
        random.seed(3), np.random.seed(3), torch.manual_seed(3)

    seed()
    expected = draws()
    seed()
    fit(run, make_source(), **options())
    assert draws() == expected


def test_the_users_random_state_does_not_change_the_training(make_run, make_source, bits) -> None:
    first, second = make_run(), make_run()
    torch.manual_seed(1)
    fit(first, make_source(), **options())
    torch.manual_seed(2)
    fit(second, make_source(), **options())
    assert bits(first) == bits(second)


def test_each_epoch_sees_every_sample_once_and_epochs_count_over_phases(make_run, make_source) -> None:
    class Rows(Callback):
        def __init__(self):
            self.seen = []

        def before_epoch(self, run):
            self.seen.append([])

        def before_batch(self, run, batch):
            self.seen[-1] += list(batch.index)
            return batch

    run, source, rows = make_run(), make_source(41), Rows()
    fit(run, source, **options(callbacks=[rows], epochs=1))
    fit(run, source, **options(callbacks=[rows], epochs=1))
    assert all(sorted(epoch) == list(range(41)) for epoch in rows.seen)
    assert rows.seen[0] != rows.seen[1]


def test_the_rates_follow_the_schedule_in_their_groups(make_run, make_source) -> None:
    class Rates(Callback):
        def __init__(self):
            self.seen = []

        def after_backward(self, run):
            self.seen.append([group["lr"] for group in run.optimizer.param_groups])

    rates = group_rates(slice(1e-4, 1e-2), 2)
    run, schedule, seen = make_run(rates=rates), sgdr(2), Rates()
    fit(run, make_source(), **options(rates=rates, schedule=schedule, callbacks=[seen]))
    factors = [schedule.factor(step, 10) for step in range(10)]
    last = [row[-1] for row in seen.seen]
    assert last == pytest.approx([1e-2 * factor for factor in factors])
    assert [row[0] for row in seen.seen] == pytest.approx([1e-4 * factor for factor in factors])
    assert [rate for row in run.history for rate in row["batch_rates"]] == pytest.approx(last)
    assert run.history[-1, "rates"] == pytest.approx([1e-4 * factors[-1], 1e-2 * factors[-1]])


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_one_cycle_moves_the_momentum_and_the_next_phase_does_not(make_run, make_source, name) -> None:
    class Momentum(Callback):
        def __init__(self):
            self.seen = []

        def after_backward(self, run):
            group = run.optimizer.param_groups[0]
            self.seen.append(group["betas"][0] if "betas" in group else group["momentum"])

    run, source, during, after = make_run(name=name), make_source(), Momentum(), Momentum()
    fit(run, source, **options(schedule=one_cycle(pct_start=0.5), callbacks=[during]))
    fit(run, source, **options(schedule=constant(), callbacks=[after], epochs=1))
    assert (during.seen[0], min(during.seen)) == pytest.approx((0.95, 0.85))
    assert after.seen == [0.9] * 5


def test_training_may_be_of_the_upper_part_alone(make_run, make_source, make_net) -> None:
    net = make_net()
    upper, lower = net[4], net[:4].eval()
    source = make_source()
    with torch.no_grad():
        source.inputs = lower(torch.from_numpy(source.inputs)).numpy()
    run = make_run(net)
    run.optimizer = make_optimizer([[], list(upper.parameters())], RATES)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fit(run, source, **options(forward=upper))
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"4.weight", "4.bias"}


def test_pictures_arrive_as_channels_first(make_run) -> None:
    class Pictures:
        sample_count = 3

        def __len__(self):
            return 1

        def epoch(self, epoch, *, start=0):
            yield Batch(np.zeros((3, 4, 5, 3), np.uint8), np.zeros(3, np.int64), np.arange(3))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, pixels):
            assert pixels.shape == (3, 3, 4, 5)
            return self.head(pixels.float().mean((2, 3)))

    net = Net()
    run = make_run(nn.Sequential(net, nn.Identity()))
    run.model = net
    run.optimizer = make_optimizer([list(net.parameters())], [1e-2])
    fit(run, Pictures(), **options(rates=[1e-2], epochs=1))
    assert run.step == 1


@pytest.mark.parametrize(("count", "batch_size"), [(3, 8), (9, 8), (1, 8), (5, 1)])
def test_short_batches_and_batches_of_one_are_trained_on(make_run, make_source, count, batch_size) -> None:
    run, source = make_run(), make_source(count, batch_size)
    fit(run, source, **options(epochs=1))
    assert run.step == len(source)
    assert sum(len(row["batch_losses"]) for row in run.history) == len(source)
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    assert run.model[1].training


def test_a_batch_of_one_would_break_batch_norm_without_care(make_net) -> None:
    with pytest.raises(ValueError, match="more than 1 value"):
        make_net().train()(torch.zeros(1, 6))


def test_the_epochs_train_loss_weighs_batches_by_their_size(make_run, make_source) -> None:
    run = make_run()
    fit(run, make_source(9, 8), **options(epochs=1))
    first, last = run.history[0, "batch_losses"]
    assert run.history[0, "train_loss"] == pytest.approx((8 * first + last) / 9)


def test_sample_weights_count(make_run, make_source) -> None:
    run, source = make_run(), make_source(8)
    run.model.eval()
    batch = next(source.epoch(0))
    weight = np.array([1, 0, 0, 0, 0, 0, 0, 0], np.float32)
    weighted = batch_loss(run, run.model, LOSS, Batch(batch.inputs, batch.targets, batch.index, weight))
    alone = batch_loss(run, run.model, LOSS, Batch(batch.inputs[:1], batch.targets[:1], batch.index[:1]))
    assert weighted.item() == pytest.approx(alone.item())
    with pytest.raises(UsageError, match="cannot weigh"):
        batch_loss(
            run, run.model, nn.CrossEntropyLoss(), Batch(batch.inputs, batch.targets, batch.index, weight)
        )


def test_a_torch_loss_is_a_loss(make_run, make_source) -> None:
    first, second = make_run(), make_run()
    fit(first, make_source(), **options(loss=nn.CrossEntropyLoss()))
    fit(second, make_source(), **options())
    assert first.history["train_loss"] == pytest.approx(second.history["train_loss"])


def test_gradients_are_clipped_to_the_norm(make_run, make_source) -> None:
    class Norm(Callback):
        def __init__(self):
            self.seen = []

        def after_step(self, run):
            moved = [p.detach() - q for p, q in zip(run.model.parameters(), self.before, strict=True)]
            self.seen.append(math.sqrt(sum(float((m**2).sum()) for m in moved)))

        def before_batch(self, run, batch):
            self.before = [p.detach().clone() for p in run.model.parameters()]
            return batch

    run = make_run(name="sgd")
    run.optimizer = torch.optim.SGD([{"params": list(run.model.parameters()), "number": 0}], lr=1.0)
    norm = Norm()
    fit(run, make_source(), **options(rates=[1.0], gradient_clip=1e-3, callbacks=[norm]))
    assert max(norm.seen) <= 1.001e-3


def test_bfloat16_trains_and_keeps_float32_weights(make_run, make_source) -> None:
    run = make_run()
    run.precision = "bfloat16"
    fit(run, make_source(200), **options(epochs=4))
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert run.history[-1, "train_loss"] < run.history[0, "train_loss"]


def test_the_network_is_left_in_the_mode_it_was_in(make_run, make_source) -> None:
    run = make_run()
    run.model.eval()
    fit(run, make_source(), **options())
    assert not any(module.training for module in run.model.modules())


def test_an_empty_source_and_a_source_that_ends_early_are_errors(make_run, make_source) -> None:
    empty = make_source()
    empty.inputs = empty.inputs[:0]
    with pytest.raises(DataError, match="nothing to train on"):
        fit(make_run(), empty, **options())

    class Short(type(empty)):
        def __len__(self):
            return 9

        def epoch(self, epoch, *, start=0):
            yield from list(super().epoch(epoch, start=start))[:5]

    full = make_source()
    with pytest.raises(DataError, match="ended after 5 of 9"):
        fit(make_run(), Short(full.inputs, full.targets, full.batch_size), **options())


def test_a_run_without_an_optimiser_is_an_error(make_run, make_source) -> None:
    run = make_run()
    run.optimizer = None
    with pytest.raises(UsageError, match="no optimiser"):
        fit(run, make_source(), **options())


class Poison(Callback):
    """Makes one step's loss, inputs or gradient infinite."""

    def __init__(self, at: int, kind: str) -> None:
        self.at, self.kind = at, kind

    def before_batch(self, run, batch):
        if self.kind == "inputs" and run.step == self.at:
            return Batch(np.full_like(batch.inputs, np.inf), batch.targets, batch.index)
        return batch

    def after_loss(self, run, loss):
        return loss * math.nan if self.kind == "loss" and run.step == self.at else loss

    def after_backward(self, run):
        if self.kind == "gradient" and run.step == self.at:
            run.model[0].weight.grad[0, 0] = math.inf


class Stop(Callback):
    """Ends training after some step."""

    def __init__(self, after: int) -> None:
        self.after = after

    def after_step(self, run):
        if run.step == self.after:
            run.stop_reason = "enough"


@pytest.mark.parametrize("kind", ["loss", "inputs", "gradient"])
def test_what_is_not_finite_never_reaches_the_weights(make_run, make_source, bits, kind) -> None:
    run, twin, source = make_run(), make_run(), make_source()
    with pytest.raises(NonFiniteError) as caught:
        fit(run, source, **options(callbacks=[Poison(7, kind)]))
    fit(twin, source, **options(callbacks=[Stop(7)]))
    assert bits(run) == bits(twin)
    assert (run.step, run.stop_reason) == (7, "non-finite loss")
    assert caught.value.exit_code == 65
    assert (caught.value.step, caught.value.epoch) == (7, 1)
    assert caught.value.index == [int(row) for row in list(source.epoch(1))[2].index]
    assert all(word in str(caught.value) for word in ("step 7", "epoch 1", "0.01", "rows"))


def test_without_the_guard_the_weights_would_be_lost(make_run, make_source) -> None:
    run = make_run()
    loss = batch_loss(run, run.model, LOSS, next(make_source().epoch(0))) * math.nan
    loss.backward()
    run.optimizer.step()
    assert not all(torch.isfinite(p).all() for p in run.model.parameters())


def test_a_rate_that_is_far_too_high_ends_with_finite_weights(make_run, make_source) -> None:
    run = make_run(name="sgd")
    with pytest.raises(NonFiniteError):
        fit(run, make_source(), **options(rates=[1e20, 1e20], epochs=50))
    assert all(torch.isfinite(tensor).all() for tensor in run.model.state_dict().values())


def test_a_callback_can_stop_training_after_a_step(make_run, make_source) -> None:
    run = make_run()
    fit(run, make_source(), **options(callbacks=[Stop(7)]))
    assert (run.step, run.epoch, run.stop_reason, len(run.history)) == (7, 1, "enough", 1)


def test_the_next_phase_starts_afresh_after_a_stop(make_run, make_source) -> None:
    run = make_run()
    fit(run, make_source(), **options(callbacks=[Stop(7)]))
    fit(run, make_source(), **options(epochs=1))
    assert (run.step, run.epoch, run.stop_reason) == (12, 2, "")


class Raise(Callback):
    """Sends the process a signal at some moment."""

    def __init__(self, moment: str, number: int = signal.SIGINT, times: int = 1) -> None:
        self.moment, self.number, self.times = moment, number, times

    def _at(self, moment: str, run) -> None:
        if moment == self.moment and run.step in (7, 10):
            for _ in range(self.times):
                signal.raise_signal(self.number)

    def before_batch(self, run, batch):
        self._at("before the step", run)
        return batch

    def after_backward(self, run):
        self._at("within the step", run)

    def after_step(self, run):
        self._at("after the step", run)

    def before_validate(self, run):
        self._at("before validation", run)


@pytest.mark.parametrize(
    ("moment", "steps", "number"),
    [
        ("before the step", 8, signal.SIGINT),
        ("within the step", 8, signal.SIGINT),
        ("within the step", 8, signal.SIGTERM),
        ("after the step", 7, signal.SIGINT),
        ("before validation", 10, signal.SIGTERM),
    ],
)
def test_an_interrupt_finishes_the_step_and_keeps_what_was_trained(
    make_run, make_source, validate_with, bits, moment, steps, number
) -> None:
    run, twin, source = make_run(), make_run(), make_source()
    previous = signal.getsignal(number)
    fit(run, source, **options(callbacks=[Raise(moment, number)], validate=validate_with(run, source)))
    fit(twin, source, **options(callbacks=[Stop(steps)]))
    assert (run.step, run.stop_reason, run.stop_signal) == (steps, "interrupted", number)
    assert bits(run) == bits(twin)
    assert signal.getsignal(number) == previous


def test_an_interrupt_in_the_last_step_is_not_swallowed(make_run, make_source) -> None:
    class Last(Callback):
        def after_epoch(self, run, row):
            signal.raise_signal(signal.SIGINT)

    run = fit(make_run(), make_source(), **options(epochs=1, callbacks=[Last()]))
    assert (run.stop_reason, len(run.history)) == ("interrupted", 1)


def test_a_second_interrupt_ends_at_once(make_run, make_source) -> None:
    run = make_run()
    with pytest.raises(KeyboardInterrupt):
        fit(run, make_source(), **options(callbacks=[Raise("within the step", times=2)]))
    assert run.step == 7


def test_an_interrupt_while_waiting_for_a_batch_ends_the_wait(make_run, make_source) -> None:
    source = make_source()
    batches = source.epoch

    def epoch(number, *, start=0):
        for count, batch in enumerate(batches(number, start=start)):
            if count == 3:
                signal.raise_signal(signal.SIGINT)
            yield batch

    source.epoch = epoch
    run = fit(make_run(), source, **options())
    assert (run.step, run.stop_reason) == (3, "interrupted")


def test_an_interrupted_run_goes_on_to_the_same_bits(
    make_run, make_source, validate_with, bits, comparable
) -> None:
    source = make_source()
    for moment in ("within the step", "before validation"):
        run, twin = make_run(), make_run()
        given = options(schedule=one_cycle(), epochs=3)
        fit(run, source, **given, callbacks=[Raise(moment)], validate=validate_with(run, source))
        assert run.stop_reason == "interrupted"
        fit(run, source, **given, validate=validate_with(run, source), resume=True)
        fit(twin, source, **given, validate=validate_with(twin, source))
        assert bits(run) == bits(twin)
        assert comparable(run.history) == comparable(twin.history)


def test_going_on_with_other_arguments_is_refused(make_run, make_source) -> None:
    run = make_run()
    fit(run, make_source(), **options(callbacks=[Stop(3)]))
    with pytest.raises(UsageError, match="checkpoint is of 2 epochs"):
        fit(run, make_source(), **options(schedule=Schedule("linear")), resume=True)


def test_training_works_outside_of_the_main_thread(make_run, make_source) -> None:
    run = make_run()
    thread = threading.Thread(target=fit, args=(run, make_source()), kwargs=options())
    thread.start()
    thread.join(30)
    assert run.step == 10


def test_an_error_in_a_callback_still_ends_the_fit_for_the_others(make_run, make_source) -> None:
    class Fails(Callback):
        def after_step(self, run):
            raise OSError("full")

    class Ends(Callback):
        ended = False

        def after_fit(self, run):
            self.ended = True

    ends = Ends()
    with pytest.raises(OSError, match="full"):
        fit(make_run(), make_source(), **options(callbacks=[Fails(), ends]))
    assert ends.ended


def test_the_row_of_an_epoch_says_what_it_must(make_run, make_source, validate_with) -> None:
    run, source = make_run(), make_source()
    fit(run, source, **options(name="last layers", step=4, validate=validate_with(run, source)))
    row = run.history[1]
    assert list(row) == [
        "step", "name", "epoch", "train_loss", "valid_loss", "accuracy", "time", "seconds", "rates",
        "batch_losses", "batch_rates",
    ]  # fmt: skip
    assert (row["step"], row["name"], row["epoch"]) == (4, "last layers", 1)
    assert len(row["batch_losses"]) == len(row["batch_rates"]) == 5
    assert row["seconds"] > row["time"] >= 0


class Holed:
    """Another source with some of its batches empty, as those are whose pictures went."""

    def __init__(self, source, empty: set[int]) -> None:
        self.source, self.empty = source, empty
        self.sample_count = source.sample_count

    def __len__(self) -> int:
        return len(self.source)

    def epoch(self, epoch: int, *, start: int = 0):
        for number, batch in enumerate(self.source.epoch(epoch, start=start), start=start):
            gone = number in self.empty
            yield Batch(batch.inputs[:0], batch.targets[:0], batch.index[:0]) if gone else batch


@pytest.mark.parametrize("empty", [{0}, {2}, {4}, {0, 1, 4}])
def test_an_empty_batch_is_passed_over_and_counts_as_a_batch(make_run, make_source, empty) -> None:
    class Steps(Callback):
        def __init__(self) -> None:
            self.places: list[int] = []

        def after_step(self, run) -> None:
            self.places.append(run.span.done)

    run, steps = make_run(), Steps()
    fit(run, Holed(make_source(), empty), **options(epochs=2, callbacks=[steps]))
    assert run.step == 2 * (5 - len(empty))
    assert run.span.done == run.span.total == 10
    trained = [5 * epoch + batch for epoch in range(2) for batch in range(5) if batch not in empty]
    assert steps.places == [place + 1 for place in trained]
    assert all(math.isfinite(loss) for loss in run.history["train_loss"])
    assert [len(row["batch_losses"]) for row in run.history] == [5 - len(empty)] * 2


def test_an_epoch_without_a_sample_is_an_error_and_no_crash(make_run, make_source) -> None:
    with pytest.raises(DataError, match="every batch of the epoch was empty"):
        fit(make_run(), Holed(make_source(), set(range(5))), **options())
