"""Those that stop, keep and write."""

from __future__ import annotations

import json
import math

import pytest
import torch

from headstart.errors import OutputError, StorageError, UsageError
from headstart.training import (
    Callback,
    EarlyStop,
    History,
    HistoryWriter,
    KeepBest,
    constant,
    cosine,
    fit,
    loss_for,
    sgdr,
)
from headstart.types import Task

OPTIONS = {"rates": [1e-2, 1e-2], "loss": loss_for(Task.SINGLE_LABEL)}


def figures(*values: float):
    """A validation that gives these losses, one an epoch."""
    remaining = iter(values)
    return lambda: {"valid_loss": next(remaining)}


@pytest.mark.parametrize(
    ("losses", "schedule", "epochs"),
    [
        ((3, 2, 1), sgdr(3), 3),
        ((1, 2, 3), sgdr(3), 2),
        ((1, 1, 1), sgdr(3), 2),
        ((1, 2, 0.5, 9, 9, 9, 9), sgdr(3, 1, 2), 7),
        ((1, 2, 3, 0, 0, 0, 0), sgdr(3, 1, 2), 3),
        ((1, 0.9, 3, 9, 9, 9, 9), sgdr(3, 1, 2), 7),
        ((math.nan, math.nan, 1), sgdr(3), 2),
        ((math.nan, 1, 2), sgdr(3), 3),
        ((1, 2, 3, 4), cosine(), 4),
    ],
)
def test_training_stops_after_a_cycle_that_brought_nothing(
    make_run, make_source, losses, schedule, epochs
) -> None:
    run, source = make_run(), make_source()
    total = schedule.epochs or len(losses)
    fit(
        run,
        source,
        **OPTIONS,
        schedule=schedule,
        epochs=total,
        validate=figures(*losses),
        callbacks=[EarlyStop()],
    )
    assert run.epoch == epochs
    assert run.stop_reason.startswith("early stop") == (epochs < total)


def test_each_phase_is_judged_by_itself(make_run, make_source) -> None:
    run, source, stop = make_run(), make_source(), EarlyStop()
    for losses in ((1.0, 0.5), (5.0, 4.0)):
        fit(
            run,
            source,
            **OPTIONS,
            schedule=sgdr(2),
            epochs=2,
            validate=figures(*losses),
            callbacks=[stop],
        )
    assert run.epoch == 4


def test_a_figure_that_is_not_there_is_an_error(make_run, make_source) -> None:
    for callback in (EarlyStop("f2"), KeepBest("f2")):
        with pytest.raises(UsageError, match="no 'f2' to watch"):
            fit(make_run(), make_source(), **OPTIONS, schedule=constant(), epochs=1, callbacks=[callback])


class Copies(Callback):
    """The state after each epoch."""

    def __init__(self, bits) -> None:
        self.bits, self.kept = bits, []

    def after_epoch(self, run, row):
        self.kept.append(self.bits(run))


@pytest.mark.parametrize(("losses", "best"), [((3, 1, 2), 1), ((1, 1, 2), 0), ((math.nan, 2, math.inf), 1)])
def test_the_best_weights_come_back_bit_by_bit(make_run, make_source, bits, losses, best) -> None:
    run, keep = make_run(), KeepBest()

    def of_model(run):
        return {name: value for name, value in bits(run).items() if "/" not in name}

    copies = Copies(of_model)
    fit(
        run,
        make_source(),
        **OPTIONS,
        schedule=constant(),
        epochs=3,
        validate=figures(*losses),
        callbacks=[keep, copies],
    )
    assert of_model(run) == copies.kept[2] != copies.kept[best]
    assert keep.restore(run)
    assert of_model(run) == copies.kept[best]
    assert (keep.best, keep.epoch) == (losses[best], best + 1)


def test_nothing_is_restored_where_nothing_was_good(make_run, make_source, bits) -> None:
    run, keep = make_run(), KeepBest()
    fit(
        run,
        make_source(),
        **OPTIONS,
        schedule=constant(),
        epochs=1,
        validate=figures(math.nan),
        callbacks=[keep],
    )
    before = bits(run)
    assert not keep.restore(run)
    assert bits(run) == before


def test_frozen_weights_are_not_copied(make_run, make_source) -> None:
    run, keep = make_run(), KeepBest()
    run.model[0].requires_grad_(False)
    fit(
        run,
        make_source(),
        **OPTIONS,
        schedule=constant(),
        epochs=1,
        validate=figures(1.0),
        callbacks=[keep],
    )
    kept = {name for name, value in keep.state().items() if isinstance(value, torch.Tensor)}
    assert "kept.0.weight" not in kept
    assert {"kept.4.weight", "kept.1.running_mean", "kept.1.num_batches_tracked"} <= kept


def test_each_epoch_is_on_the_disk_at_once(make_run, make_source, tmp_path) -> None:
    path = tmp_path / "new" / "history.jsonl"
    lines = []

    class Look(Callback):
        def after_epoch(self, run, row):
            lines.append(len(path.read_text().splitlines()))

    run = make_run()
    callbacks = [HistoryWriter(path, {"kept": True}), Look()]
    given = {**OPTIONS, "schedule": constant(), "epochs": 2, "callbacks": callbacks}
    fit(run, make_source(), **given, validate=figures(1.0, math.nan))
    fit(run, make_source(), **given, validate=figures(1.0, 0.5))
    assert lines == [1, 2, 3, 4]
    written = History.from_jsonl(path)
    assert [row.pop("kept") for row in written] == [True] * 4
    assert written == run.history
    assert written["valid_loss"] == [1.0, None, 1.0, 0.5]
    assert all(json.dumps(row, allow_nan=False) for row in written)


def test_a_history_that_cannot_be_written_is_a_clear_error(make_run, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((StorageError, OutputError), match="file"):
        HistoryWriter(tmp_path / "file" / "history.jsonl").after_epoch(make_run(), {"epoch": 0})
    (tmp_path / "history").mkdir()
    with pytest.raises((StorageError, OutputError), match="history"):
        HistoryWriter(tmp_path / "history").after_epoch(make_run(), {"epoch": 0})
