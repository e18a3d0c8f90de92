"""Faults of numbers and of devices, N01 to N08, each with a control that shows it can be told.

Those of metrics (N05) are beside the metrics; overflow in float16 (N03) and memory (N06) beside what
answers to them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from headstart.errors import DataError, DeviceLostError, OutOfMemoryError, StorageError
from headstart.training import (
    Callback,
    KeepBest,
    NonFiniteError,
    constant,
    fit,
    load_checkpoint,
    loss_for,
    make_optimizer,
    save_checkpoint,
)
from headstart.training.gradients import batch_loss
from headstart.types import Batch, Task

LOSS = loss_for(Task.SINGLE_LABEL)
OPTIONS = {"rates": [1e-2, 1e-2], "schedule": constant(), "epochs": 3, "loss": LOSS}


class Save(Callback):
    """Saves after every step and after training, as a run does."""

    def __init__(self, folder) -> None:
        self.folder = folder

    def after_step(self, run):
        save_checkpoint(self.folder, run)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_n01_a_loss_that_is_not_finite_is_noticed_at_once_and_saved_nowhere(
    make_run, make_net, make_source, validate_with, tmp_path, value
) -> None:
    class Spoil(Callback):
        def after_loss(self, run, loss):
            return loss * value if run.step == 7 else loss

    run, source, keep = make_run(), make_source(), KeepBest()
    with pytest.raises(NonFiniteError) as caught:
        fit(run, source, **OPTIONS, validate=validate_with(run, source),
            callbacks=[Spoil(), Save(tmp_path), keep])  # fmt: skip
    assert (caught.value.step, caught.value.epoch, caught.value.exit_code) == (7, 1, 65)
    again = make_run(make_net(seed=8))
    load_checkpoint(tmp_path, again)
    keep.restore(run)
    for model in (again.model, run.model):
        assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    assert math.isfinite(keep.best)


class Infinite(nn.Module):
    def forward(self, values):
        return values / 0.0


def test_n01_the_first_layer_that_is_not_finite_is_named(make_run, make_net, make_source) -> None:
    broken = nn.Sequential(*make_net()[:2], Infinite(), *make_net()[2:])
    run = make_run(broken)
    with pytest.raises(NonFiniteError, match=r"first the output of 2\)") as caught:
        fit(run, make_source(), **OPTIONS)
    assert "step 0" in str(caught.value)
    assert len(caught.value.index) == 8
    assert all(torch.isfinite(tensor).all() for tensor in broken.state_dict().values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_n02_a_gradient_that_is_not_finite_is_never_applied(make_run, make_source, bits, value) -> None:
    class Spoil(Callback):
        def after_backward(self, run):
            run.model[4].bias.grad[0] = value

    run = make_run()
    before = bits(run)
    with pytest.raises(NonFiniteError, match=r"the gradient is not finite .*first the gradient of 4\.bias"):
        fit(run, make_source(), **OPTIONS, callbacks=[Spoil()])
    assert {name: value for name, value in bits(run).items() if name in before} == before


def test_n04_constant_pictures_train_to_finite_weights(make_run, make_source) -> None:
    run, source = make_run(), make_source()
    source.inputs = np.ones_like(source.inputs)
    fit(run, source, **OPTIONS)
    assert all(torch.isfinite(tensor).all() for tensor in run.model.state_dict().values())


def test_n04_inputs_that_are_not_finite_are_named(make_run, make_source) -> None:
    run, source = make_run(), make_source()
    source.inputs[3, 2] = np.nan
    with pytest.raises(NonFiniteError, match=r"first the input\)") as caught:
        fit(run, source, **OPTIONS)
    assert 3 in caught.value.index


@pytest.mark.parametrize(("smoothing", "classes"), [(0.1, 1), (0.1, 2), (0.0, 1)])
def test_n04_label_smoothing_is_finite_also_with_one_class(smoothing, classes) -> None:
    loss = loss_for(Task.SINGLE_LABEL, label_smoothing=smoothing)
    logits = torch.randn(4, classes, requires_grad=True)
    value = loss(logits, torch.zeros(4, dtype=torch.int64)).mean()
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_n04_samples_of_no_weight_count_for_nothing_and_all_of_none_is_refused(
    make_run, make_source, bits, micro_batch
) -> None:
    class Weigh(Callback):
        def __init__(self, weight):
            self.weight = weight

        def before_batch(self, run, batch):
            return Batch(batch.inputs, batch.targets, batch.index, self.weight[: len(batch)])

    some = np.array([0, 0, 0, 0, 1, 1, 0, 1], np.float32)
    run = make_run()
    run.micro_batch = micro_batch
    fit(run, make_source(), **OPTIONS, callbacks=[Weigh(some)])
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    with pytest.raises((NonFiniteError, DataError), match=r"weight 0|loss is nan"):
        fit(run, make_source(), **OPTIONS, callbacks=[Weigh(np.zeros(8, np.float32))])
    assert all(torch.isfinite(p).all() for p in run.model.parameters())


@pytest.mark.parametrize("target", [2, -1, 10**6])
def test_targets_out_of_range_are_refused_with_their_row(make_run, make_source, target) -> None:
    run, source = make_run(), make_source()
    source.targets[5] = target
    with pytest.raises(DataError, match=f"row 5 has the target {target}") as caught:
        fit(run, source, **OPTIONS)
    assert caught.value.code == "BAD_TARGET"


def test_soft_targets_that_are_not_finite_are_refused(make_run) -> None:
    run = make_run()
    targets = np.full((2, 2), 0.5, np.float32)
    inputs = np.zeros((2, 6), np.float32)
    assert batch_loss(run, run.model, LOSS, Batch(inputs, targets, np.arange(2))).isfinite()
    targets[1, 0] = np.nan
    with pytest.raises(DataError, match="row 1 has the target"):
        batch_loss(run, run.model, LOSS, Batch(inputs, targets, np.arange(2)))


class Failing:
    """A source whose third batch cannot be made."""

    def __init__(self, inner, error: Exception) -> None:
        self.inner, self.error, self.sample_count = inner, error, inner.sample_count

    def __len__(self) -> int:
        return len(self.inner)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        for number, batch in enumerate(self.inner.epoch(epoch, start=start), start=start):
            if number == 2:
                raise self.error
            yield batch


def test_n07_memory_of_the_host_that_runs_out_names_what_to_make_smaller(make_run, make_source) -> None:
    run, hint = make_run(), r"batch 2 was made ready .*--batch-size.*--threads"
    with pytest.raises(OutOfMemoryError, match=hint) as caught:
        fit(run, Failing(make_source(), MemoryError("Unable to allocate 9 GiB")), **OPTIONS)
    assert (caught.value.exit_code, run.step) == (75, 2)
    with pytest.raises(StorageError):
        fit(make_run(), Failing(make_source(), StorageError("the disk")), **OPTIONS)


def test_n07_an_optimiser_without_memory_says_so(make_run, make_source, monkeypatch) -> None:
    run = make_run()

    def step(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(run.optimizer, "step", step)
    with pytest.raises(OutOfMemoryError, match="optimiser"):
        fit(run, make_source(), **OPTIONS)


class Lost(nn.Module):
    """A network on a device that fails at its ninth call, and for good."""

    def __init__(self, inner: nn.Module, message: str) -> None:
        super().__init__()
        self.inner, self.message, self.calls = inner, message, 0

    def forward(self, values):
        self.calls += 1
        if self.calls >= 9:
            raise RuntimeError(self.message)
        return self.inner(values)


def test_n08_a_lost_device_ends_the_run_at_once_with_its_checkpoint_whole(
    make_run, make_net, make_source, tmp_path
) -> None:
    run = make_run()
    lost = Lost(run.model, "CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA")
    with pytest.raises(DeviceLostError, match=r"unspecified launch failure.*new process") as caught:
        fit(run, make_source(), **OPTIONS, forward=lost, callbacks=[Save(tmp_path)])
    assert (caught.value.exit_code, lost.calls, run.stop_reason) == (75, 9, "device lost")
    again = make_run(make_net(seed=8))
    assert load_checkpoint(tmp_path, again).path.name == "step-000000008"


def test_n08_another_error_of_a_network_stays_what_it_is(make_run, make_source) -> None:
    run = make_run()
    with pytest.raises(RuntimeError, match="the size of tensor a"):
        fit(run, make_source(), **OPTIONS, forward=Lost(run.model, "the size of tensor a must match"))


def test_sgd_and_adamw_refuse_the_same_batch(make_source, make_net) -> None:
    from headstart.training import Run

    for name in ("adamw", "sgd"):
        net = make_net()
        run = Run(net, make_optimizer([list(net.parameters())], [1e-2], name=name), precision="float32")
        source = make_source()
        source.inputs[0] = np.inf
        with pytest.raises(NonFiniteError) as caught:
            fit(run, source, **{**OPTIONS, "rates": [1e-2]})
        assert 0 in caught.value.index
