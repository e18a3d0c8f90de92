"""What every callback must be: called at ten moments, in order, and unharmed by a restart."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from headstart.training import (
    EMA,
    SWA,
    Callback,
    EarlyStop,
    HistoryWriter,
    KeepBest,
    ProgressTable,
    ReduceOnPlateau,
    Rollback,
    Run,
    Scheduled,
    cosine,
    fit,
    load_checkpoint,
    loss_for,
    make_optimizer,
    save_checkpoint,
    sgdr,
)
from headstart.types import Batch, Task

HOOKS = (
    "before_fit", "before_epoch", "before_batch", "after_loss", "after_backward", "after_step",
    "before_validate", "after_validate", "after_epoch", "after_fit",
)  # fmt: skip
OPTIONS = {"rates": [0.1], "schedule": sgdr(3), "epochs": 3, "loss": loss_for(Task.SINGLE_LABEL)}
INPUTS = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
TARGETS = (INPUTS[:, 0] > 0).astype(np.int64)


class Rows:
    """Twenty rows in batches of eight."""

    sample_count = 20

    def __len__(self) -> int:
        return 3

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        order = np.random.default_rng(epoch).permutation(20)
        for number in range(start, 3):
            rows = order[8 * number : 8 * number + 8]
            yield Batch(INPUTS[rows], TARGETS[rows], rows)


def new_run() -> Run:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 2))
    return Run(net, make_optimizer([list(net.parameters())], [0.1]), seed=2, precision="float32")


def validation(run: Run) -> Callable[[], dict[str, float]]:
    def validate() -> dict[str, float]:
        run.model.eval()
        with torch.no_grad():
            logits = run.model(torch.from_numpy(INPUTS))
        return {"valid_loss": nn.functional.cross_entropy(logits, torch.from_numpy(TARGETS)).item()}

    return validate


def outcome(run: Run) -> tuple[object, ...]:
    weights = {name: tensor.numpy().tobytes() for name, tensor in run.model.state_dict().items()}
    rows = [{k: v for k, v in row.items() if k not in ("time", "seconds")} for row in run.history]
    return weights, rows, run.step, run.epoch, run.stop_reason


class Recorder(Callback):
    """Notes its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> object:
        if name in HOOKS:
            self.calls.append(name)
        return super().__getattribute__(name)


def test_there_are_ten_hooks_and_each_is_typed_and_explained() -> None:
    own = {name for name, member in vars(Callback).items() if inspect.isfunction(member)}
    assert own == {*HOOKS, "state", "restore_state"}
    for name in HOOKS:
        hook = getattr(Callback, name)
        assert hook.__doc__
        assert set(hook.__annotations__) == {*inspect.signature(hook).parameters, "return"} - {"self"}


def test_the_hooks_are_called_in_the_order_that_the_loop_declares() -> None:
    run, recorder = new_run(), Recorder()
    fit(run, Rows(), **OPTIONS, validate=validation(run), callbacks=[recorder])
    step = ["before_batch", "after_loss", "after_backward", "after_step"]
    epoch = ["before_epoch", *(step * 3), "before_validate", "after_validate", "after_epoch"]
    assert recorder.calls == ["before_fit", *(epoch * 3), "after_fit"]


def test_a_callback_that_does_nothing_changes_nothing() -> None:
    bare, watched = new_run(), new_run()
    fit(bare, Rows(), **OPTIONS, validate=validation(bare))
    fit(watched, Rows(), **OPTIONS, validate=validation(watched), callbacks=[Callback(), Callback()])
    assert outcome(bare) == outcome(watched)


def test_what_a_hook_returns_is_used() -> None:
    class Twice(Callback):
        def after_loss(self, run: Run, loss: torch.Tensor) -> torch.Tensor:
            return loss * 2

    class Same(Callback):
        def before_batch(self, run: Run, batch: Batch) -> Batch:
            return Batch(batch.inputs * 0, batch.targets, batch.index)

    class More(Callback):
        def after_validate(self, run: Run, metrics: dict[str, float]) -> None:
            metrics["more"] = 1.0

    runs = [new_run() for _ in range(3)]
    for run, callbacks in zip(runs, ([], [Twice()], [Same(), More()]), strict=True):
        fit(run, Rows(), **OPTIONS, validate=validation(run), callbacks=callbacks)
    first = [run.history[0, "batch_losses"][0] for run in runs]
    assert first[1] == pytest.approx(2 * first[0])
    assert first[2] != first[0]
    assert runs[2].history["more"] == [1.0] * 3


class Scaler(Callback):
    """A callback with a memory of its own: the loss counts more at every step."""

    def __init__(self) -> None:
        self.scale = torch.ones(())

    def after_loss(self, run: Run, loss: torch.Tensor) -> torch.Tensor:
        self.scale = self.scale * 1.1
        return loss * self.scale

    def state(self) -> dict[str, object]:
        return {"scale": self.scale}

    def restore_state(self, state) -> None:
        self.scale = state["scale"]


class Forgetful(Scaler):
    """The same, but it keeps nothing."""

    def state(self) -> dict[str, object]:
        return {}

    def restore_state(self, state) -> None:
        pass


class Save(Callback):
    def __init__(self, folder: Path, at: int, others: list[Callback]) -> None:
        self.folder, self.at, self.others = folder, at, others

    def after_step(self, run: Run) -> None:
        if run.step == self.at:
            save_checkpoint(self.folder, run, callbacks=self.others)


def quiet() -> ProgressTable:
    return ProgressTable(console=Console(file=io.StringIO()))


def recalibrating() -> SWA:
    """A mean of the weights whose batch norm sees the rows again, for whichever network it watches."""

    class Own(SWA):
        def before_fit(self, run: Run) -> None:
            super().before_fit(run)
            self._model, self._source = run.model, Rows()

    return Own()


def plateau() -> ReduceOnPlateau:
    # Nothing is ever better by so much: the rates fall after each epoch.
    return ReduceOnPlateau(1, 0.5, min_delta=10.0)


def moved() -> Scheduled:
    return Scheduled(
        weight_decay=0.5, weight_decay_schedule=cosine(), momentum=0.95, momentum_schedule=cosine()
    )


def resumed_equals_whole(make: Callable[[], Callback], folder: Path, at: int) -> bool:
    whole, callback = new_run(), make()
    save = Save(folder, at, [callback])
    fit(whole, Rows(), **OPTIONS, validate=validation(whole), callbacks=[callback, save])
    resumed, again = new_run(), make()
    load_checkpoint(folder, resumed, callbacks=[again])
    fit(resumed, Rows(), **OPTIONS, validate=validation(resumed), callbacks=[again], resume=True)
    tensors = [
        {name: value for name, value in each.state().items() if isinstance(value, torch.Tensor)}
        for each in (callback, again)
    ]
    same_state = tensors[0].keys() == tensors[1].keys() and all(
        torch.equal(value, tensors[1][name]) for name, value in tensors[0].items()
    )
    return outcome(whole) == outcome(resumed) and same_state


@pytest.mark.parametrize("at", [1, 3, 4, 8])
@pytest.mark.parametrize(
    "make",
    [Callback, EarlyStop, KeepBest, Rollback, quiet, plateau, moved, Scaler, EMA, SWA, recalibrating],
    ids=lambda make: make.__name__,
)
def test_going_on_after_a_restart_equals_never_having_stopped(make, at, tmp_path) -> None:
    assert resumed_equals_whole(make, tmp_path, at)


def test_the_history_file_goes_on_after_a_restart(tmp_path) -> None:
    path = tmp_path / "history.jsonl"
    whole = new_run()
    save = Save(tmp_path / "checkpoints", 4, [])
    fit(whole, Rows(), **OPTIONS, validate=validation(whole), callbacks=[save])
    resumed = new_run()
    load_checkpoint(tmp_path / "checkpoints", resumed)
    writer = HistoryWriter(path)
    fit(resumed, Rows(), **OPTIONS, validate=validation(resumed), callbacks=[writer], resume=True)
    assert len(path.read_text().splitlines()) == 2


def test_a_callback_that_forgets_would_be_noticed(tmp_path) -> None:
    assert not resumed_equals_whole(Forgetful, tmp_path, 4)
