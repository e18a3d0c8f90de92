"""What a run tells other programs; none of them is reached over a network."""

from __future__ import annotations

import csv
import math
import sys
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest

from headstart.errors import UsageError
from headstart.training import (
    BoardLogger,
    CSVLogger,
    MLflowLogger,
    TensorBoardLogger,
    WandbLogger,
    closing_loggers,
    constant,
    fit,
    loss_for,
    make_loggers,
)
from headstart.training.loggers import history_as_csv
from headstart.types import Task

OPTIONS = {"rates": [1e-3, 1e-2], "loss": loss_for(Task.SINGLE_LABEL), "schedule": constant()}


def validation(*losses: float):
    remaining = iter(losses)
    return lambda: {"valid_loss": next(remaining), "accuracy": 0.75}


def trained(run, source, callbacks, *losses: float):
    return fit(run, source, **OPTIONS, epochs=len(losses), validate=validation(*losses), callbacks=callbacks)


class Recorded(BoardLogger):
    """Notes what it is asked to do."""

    def __init__(self, every: int = 10) -> None:
        super().__init__(every)
        self.calls: list[str] = []
        self.scalars: list[tuple[int, dict[str, float]]] = []

    def open(self, run) -> None:
        self.calls.append("open")

    def write(self, scalars, step) -> None:
        self.scalars.append((step, dict(scalars)))

    def flush(self) -> None:
        self.calls.append("flush")

    def end(self) -> None:
        self.calls.append("end")


def test_a_board_is_opened_once_for_all_phases_and_closed_once(make_run, make_source) -> None:
    run, board = make_run(), Recorded()
    with board:
        trained(run, make_source(), [board], 1.0)
        trained(run, make_source(), [board], 0.5)
    board.close()
    assert board.calls == ["open", "flush", "flush", "end"]


def test_a_board_gets_every_so_many_th_loss_and_each_epoch(make_run, make_source) -> None:
    run, board = make_run(), Recorded(every=2)
    trained(run, make_source(), [board], 1.0, math.nan)
    steps = [(step, scalars["train/loss"]) for step, scalars in board.scalars if "train/loss" in scalars]
    losses = [loss for row in run.history for loss in row["batch_losses"]]
    assert steps == [(step, losses[step - 1]) for step in (2, 4, 6, 8, 10)]
    epochs = [(step, scalars) for step, scalars in board.scalars if "train/loss" not in scalars]
    assert [step for step, _ in epochs] == [5, 10]
    assert epochs[0][1] == {
        "train/epoch_loss": run.history[0, "train_loss"],
        "valid/loss": 1.0,
        "valid/accuracy": 0.75,
        "rate/group 0": 1e-3,
        "rate/group 1": 1e-2,
    }
    # What is not finite is left out.
    assert "valid/loss" not in epochs[1][1]
    with pytest.raises(UsageError, match="every 0 steps"):
        Recorded(0)


def test_a_board_is_closed_however_training_ends(make_run, make_source) -> None:
    board = Recorded()

    def fail() -> None:
        with closing_loggers([board]):
            board.before_fit(make_run())
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert board.calls == ["open", "end"]


def test_the_csv_has_a_row_for_each_epoch_and_a_column_for_each_figure(
    make_run, make_source, tmp_path
) -> None:
    run, path = make_run(), tmp_path / "history.csv"
    trained(run, make_source(), [CSVLogger(path)], 1.0, math.nan)
    with open(path, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["valid_loss"] for row in rows] == ["1.0", ""]
    assert [float(row["rate_1"]) for row in rows] == [1e-2, 1e-2]
    assert {"step", "name", "epoch", "train_loss", "accuracy", "time", "rate_0"} <= set(rows[0])
    assert "batch_losses" not in rows[0]
    later = history_as_csv([{"epoch": 0, "a": 1.0}, {"epoch": 1, "b, c": 2.0}])
    assert later.splitlines() == ['epoch,a,"b, c"', "0,1.0,", "1,,2.0"]


def test_tensorboard_reads_back_what_was_written(make_run, make_source, tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make_run()
    with TensorBoardLogger(tmp_path / "board", every=1) as board:
        trained(run, make_source(), [board], 1.0, 0.5)
        trained(run, make_source(), [board], 0.25)
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    read = [(event.step, event.value) for event in events.Scalars("valid/loss")]
    assert read == [(5, 1.0), (10, 0.5), (15, 0.25)]
    losses = [loss for row in run.history for loss in row["batch_losses"]]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses, rel=1e-6)
    assert len(list((tmp_path / "board").iterdir())) == 1


class FakeWandb(ModuleType):
    """As much of Weights & Biases as is called."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.begun: list[dict[str, object]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def Settings(self, **given: object) -> dict[str, object]:  # noqa: N802
        return given

    def init(self, **given: object) -> SimpleNamespace:
        self.begun.append(given)
        return SimpleNamespace(log=self._log, finish=self._finish)

    def _log(self, scalars: dict[str, float], step: int) -> None:
        self.logged.append((step, scalars))

    def _finish(self) -> None:
        self.finished += 1


def test_weights_and_biases_is_told_each_step_in_order(make_run, make_source, tmp_path, monkeypatch) -> None:
    fake = FakeWandb()
    fake.__spec__ = sys.__spec__
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with WandbLogger(tmp_path / "wandb", mode="offline", every=5) as board:
        trained(make_run(), make_source(), [board], 1.0, 0.5)
    assert [given["mode"] for given in fake.begun] == ["offline"]
    assert (fake.begun[0]["project"], fake.begun[0]["dir"]) == ("headstart", str(tmp_path / "wandb"))
    assert [step for step, _ in fake.logged] == [5, 5, 10, 10]
    assert fake.finished == 1


@pytest.mark.filterwarnings("ignore")
def test_the_real_weights_and_biases_takes_it_offline(make_run, make_source, tmp_path, monkeypatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with WandbLogger(tmp_path / "wandb", mode="offline") as board:
        trained(make_run(), make_source(), [board], 1.0)
    assert list((tmp_path / "wandb").rglob("run-*.wandb"))


@pytest.mark.filterwarnings("ignore")
def test_the_real_mlflow_reads_back_what_was_written(make_run, make_source, tmp_path, monkeypatch) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with MLflowLogger(tmp_path / "mlflow") as board:
        trained(make_run(), make_source(), [board], 1.0, 0.5)
    client = MlflowClient(tracking_uri=(tmp_path / "mlflow").as_uri())
    found = client.search_runs([client.get_experiment_by_name("headstart").experiment_id])
    assert [each.info.status for each in found] == ["FINISHED"]
    read = client.get_metric_history(found[0].info.run_id, "valid/loss")
    assert [(metric.step, metric.value) for metric in read] == [(5, 1.0), (10, 0.5)]


class FakeClient:
    """As much of MLflow's client as is called."""

    made: ClassVar[list[FakeClient]] = []

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri
        self.batches: list[list[tuple[str, float, int]]] = []
        self.terminated: list[str] = []
        FakeClient.made.append(self)

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str) -> str:
        return "7"

    def create_run(self, experiment: str, run_name: str) -> SimpleNamespace:
        return SimpleNamespace(info=SimpleNamespace(run_id=f"{experiment}/{run_name}"))

    def log_batch(self, run_id: str, metrics: list[tuple[str, float, int]]) -> None:
        assert run_id == "7/mlflow"
        self.batches.append(metrics)

    def set_terminated(self, run_id: str) -> None:
        self.terminated.append(run_id)


def test_mlflow_is_told_in_one_call_a_step(make_run, make_source, tmp_path, monkeypatch) -> None:
    modules = {name: ModuleType(name) for name in ("mlflow", "mlflow.tracking", "mlflow.entities")}
    modules["mlflow"].__spec__ = sys.__spec__
    modules["mlflow.tracking"].MlflowClient = FakeClient
    modules["mlflow.entities"].Metric = lambda name, value, now, step: (name, value, step)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with MLflowLogger(tmp_path / "mlflow", every=5) as board:
        trained(make_run(), make_source(), [board], 1.0)
    client = FakeClient.made[-1]
    assert client.tracking_uri == (tmp_path / "mlflow").as_uri()
    assert [batch[0][0] for batch in client.batches] == ["train/loss", "train/epoch_loss"]
    assert ("valid/loss", 1.0, 5) in client.batches[1]
    assert client.terminated == ["7/mlflow"]


def test_loggers_are_named_in_a_list(tmp_path, monkeypatch) -> None:
    made = make_loggers("csv, tensorboard,csv", tmp_path)
    assert [type(logger) for logger in made] == [CSVLogger, TensorBoardLogger]
    assert make_loggers("", tmp_path) == []
    with pytest.raises(UsageError, match="did you mean tensorboard"):
        make_loggers("tensorbord", tmp_path)
    monkeypatch.setattr("headstart.training.loggers.find_spec", lambda name: None)
    for name in ("tensorboard", "wandb", "mlflow"):
        with pytest.raises(UsageError, match=rf"pip install \"headstart\[{name}\]\""):
            make_loggers(name, tmp_path)
