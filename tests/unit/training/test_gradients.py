"""Batches in parts: the gradients are those of the whole batch, and a retry leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from headstart.errors import OutOfMemoryError, UsageError
from headstart.training import (
    Callback,
    NonFiniteError,
    Run,
    constant,
    fit,
    load_checkpoint,
    loss_for,
    lr_find,
    make_optimizer,
    save_checkpoint,
)
from headstart.training.gradients import Gradients, Statistics
from headstart.types import Batch, Task

LOSS = loss_for(Task.SINGLE_LABEL)
OPTIONS = {"rates": [1e-2, 1e-2], "schedule": constant(), "epochs": 3, "loss": LOSS}


def plain_net(seed: int = 0) -> nn.Sequential:
    """Nothing that draws or collects statistics; the loss itself is float32."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2)).double()


def run_of(net: nn.Module, **options) -> Run:
    return Run(net, make_optimizer([list(net.parameters())], [1e-2]), precision="float32", **options)


def batch_of(count: int, weight: np.ndarray | None = None) -> Batch:
    rng = np.random.default_rng(count)
    inputs = rng.normal(size=(count, 6))
    return Batch(inputs, (inputs[:, 0] > 0).astype(np.int64), np.arange(count), weight)


def gradient(run: Run, batch: Batch) -> tuple[float, torch.Tensor]:
    run.optimizer.zero_grad()
    loss = Gradients(run, run.model, LOSS, Statistics(run.model))(batch, 0)
    return loss.item(), torch.cat([p.grad.flatten() for p in run.model.parameters()])


def test_ten_in_parts_of_four_four_and_two_give_the_gradient_of_the_ten() -> None:
    batch = batch_of(10)
    whole, parts = run_of(plain_net()), run_of(plain_net(), micro_batch=4)
    (loss, expected), (summed, found) = gradient(whole, batch), gradient(parts, batch)
    assert summed == pytest.approx(loss, abs=1e-6)
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)
    # The control: the mean of the parts' means would weigh the two as much as each four.
    means = [gradient(run_of(plain_net()), Batch(batch.inputs[s], batch.targets[s], batch.index[s]))[1]
             for s in (slice(0, 4), slice(4, 8), slice(8, 10))]  # fmt: skip
    assert not torch.allclose(sum(means) / 3, expected, rtol=0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 20), size=st.integers(1, 20), weighted=st.booleans(), data=st.data())
def test_any_split_gives_the_gradient_of_the_whole(count, size, weighted, data) -> None:
    weight = None
    if weighted:
        numbers = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=count, max_size=count))
        weight = np.array(numbers, np.float32)
        weight[0] = 1.0
    batch = batch_of(count, weight)
    loss, expected = gradient(run_of(plain_net()), batch)
    summed, found = gradient(run_of(plain_net(), micro_batch=size), batch)
    assert summed == pytest.approx(loss, abs=1e-6)
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)


def test_a_micro_batch_of_none_is_an_error() -> None:
    with pytest.raises(UsageError, match="micro-batch"):
        run_of(plain_net(), micro_batch=0)


class Small(nn.Module):
    """Runs out of memory above so many rows, and (where `begins_at` is) not before that call."""

    def __init__(self, inner: nn.Module, room: int, *, begins_at: int = 0, backward: bool = False) -> None:
        super().__init__()
        self.inner, self.room, self.begins_at, self.backward = inner, room, begins_at, backward
        self.calls = self.raised = 0

    def forward(self, values):
        self.calls += 1
        values = self.inner(values)
        if len(values) <= self.room or self.calls <= self.begins_at:
            return values
        self.raised += 1
        if self.backward:
            values.register_hook(self._raise)
            return values
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def _raise(self, gradient):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Seen(Callback):
    """The rows and the rates of every step."""

    def __init__(self) -> None:
        self.rows, self.rates = [], []

    def before_batch(self, run, batch):
        self.rows.append(batch.index.tolist())
        return batch

    def after_step(self, run):
        self.rates.append([group["lr"] for group in run.optimizer.param_groups])


@pytest.mark.parametrize("backward", [False, True])
def test_in_epoch_two_the_same_batch_is_tried_again(make_run, make_source, bits, backward) -> None:
    """The run is then the one that had the small micro-batch from that step on, bit by bit."""
    source = make_source(40, 10)
    run, twin, seen, expected = make_run(), make_run(), Seen(), Seen()
    tight = Small(run.model, 4, begins_at=6, backward=backward)
    fit(run, source, **OPTIONS, forward=tight, callbacks=[seen])

    class Smaller(Callback):
        def before_batch(self, run, batch):
            run.micro_batch = 3 if run.step >= 6 else None
            return batch

    fit(twin, source, **OPTIONS, callbacks=[Smaller(), expected])
    assert tight.raised == 2  # ten and five
    assert bits(run) == bits(twin)
    assert (seen.rows, seen.rates) == (expected.rows, expected.rates)
    assert run.history["train_loss"] == twin.history["train_loss"]
    assert len(run.adjustments.notices) == 2
    assert "3 samples at a time" in run.adjustments.notices[-1]
    assert "batch norm" in run.adjustments.notices[-1]
    assert list(run.adjustments.fits.values()) == [3]


def test_a_retry_without_putting_things_back_would_differ(make_run, make_source, bits, monkeypatch) -> None:
    monkeypatch.setattr(Statistics, "put_back", lambda self, step: None)
    with pytest.raises(AssertionError):
        test_in_epoch_two_the_same_batch_is_tried_again(make_run, make_source, bits, False)


def test_without_batch_norm_and_dropout_the_loss_stays_what_it_was(make_source) -> None:
    source = make_source(40, 10)
    whole, tight = run_of(plain_net().float()), run_of(plain_net().float())
    fit(whole, source, **{**OPTIONS, "rates": [1e-2]})
    fit(tight, source, **{**OPTIONS, "rates": [1e-2]}, forward=Small(tight.model, 3, begins_at=2))
    losses = [[loss for row in run.history for loss in row["batch_losses"]] for run in (whole, tight)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert not any("batch norm" in notice for notice in tight.adjustments.notices)


def test_the_size_that_fits_survives_a_restart(make_run, make_net, make_source, tmp_path) -> None:
    source, run = make_source(40, 10), make_run()
    fit(run, source, **OPTIONS, forward=Small(run.model, 4))
    save_checkpoint(tmp_path, run)
    again = make_run(make_net(seed=3))
    load_checkpoint(tmp_path, again)
    assert again.adjustments == run.adjustments
    tight = Small(again.model, 4)
    fit(again, source, **OPTIONS, forward=tight)
    assert tight.raised == 0


def test_the_finder_halves_too_and_leaves_no_trace(make_run, make_source, bits) -> None:
    source, run, roomy = make_source(200, 10), make_run(), make_run()
    before = bits(run)
    tight = Small(run.model, 4)
    options = {"loss": LOSS, "iterations": 30, "end": 1e-3}
    found = lr_find(run, source, forward=tight, **options)
    assert bits(run) == before
    assert tight.raised == 2
    roomy.micro_batch = 3
    assert found.losses.tolist() == lr_find(roomy, source, **options).losses.tolist()


def test_one_row_too_many_ends_training_with_whole_weights(make_run, make_source, bits) -> None:
    run, source = make_run(), make_source(40, 10)
    before = bits(run)
    with pytest.raises(OutOfMemoryError, match="one sample of 6"):
        fit(run, source, **OPTIONS, forward=Small(run.model, 0))
    assert {name: value for name, value in bits(run).items() if name in before} == before


class HalfPrecision(nn.Module):
    """Gradients overflow as in float16 where the scaled loss is above a limit."""

    def __init__(self, inner: nn.Module, limit: float) -> None:
        super().__init__()
        self.inner, self.limit = inner, limit

    def forward(self, values):
        logits = self.inner(values).float()
        if logits.requires_grad:
            logits.register_hook(lambda g: g * torch.inf if float(g.abs().max()) > self.limit else g)
        return logits


def test_a_float16_overflow_lowers_the_scale_and_loses_no_batch(make_run, make_source, bits) -> None:
    run, source, seen = make_run(), make_source(), Seen()
    run.precision = "float16"
    fit(run, source, **OPTIONS, forward=HalfPrecision(run.model, 200.0), callbacks=[seen])
    assert run.adjustments.loss_scale < 2.0**16
    assert run.step == 15
    assert all(len(row["batch_losses"]) == 5 for row in run.history)
    assert len(seen.rows) == 15
    assert all(torch.isfinite(p).all() for p in run.model.parameters())

    # With the scale that was found from the start there is nothing to lower, and the bits are the same.
    twin = make_run()
    twin.precision = "float16"
    twin.adjustments.loss_scale = run.adjustments.loss_scale
    fit(twin, source, **OPTIONS, forward=HalfPrecision(twin.model, 200.0))
    assert bits(run) == bits(twin)
    assert twin.adjustments.loss_scale == run.adjustments.loss_scale


def test_the_scale_grows_again_after_steps_that_went_well(make_run, make_source, monkeypatch) -> None:
    monkeypatch.setattr("headstart.training.gradients._GROWTH_STEPS", 10)
    run = make_run()
    run.precision, run.adjustments.loss_scale = "float16", 1024.0
    fit(run, make_source(), **OPTIONS)
    assert (run.adjustments.loss_scale, run.adjustments.scaled_steps) == (2048.0, 5)


def test_gradients_that_never_fit_in_float16_stop_with_advice(make_run, make_source, bits) -> None:
    run = make_run()
    run.precision = "float16"
    before = bits(run)
    with pytest.raises(NonFiniteError, match=r"loss scale .*bfloat16 or float32"):
        fit(run, make_source(), **OPTIONS, forward=HalfPrecision(run.model, 0.0))
    assert {name: value for name, value in bits(run).items() if name in before} == before
    assert run.adjustments.loss_scale == 2.0 ** (16 - 20)
