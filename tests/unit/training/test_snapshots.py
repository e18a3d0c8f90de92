"""Snapshots: one file for each cycle, written whole, and none lost or doubled by a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from headstart.errors import StorageError
from headstart.training import (
    EMA,
    Callback,
    Run,
    Snapshots,
    fit,
    load_checkpoint,
    loss_for,
    save_checkpoint,
    sgdr,
)
from headstart.types import Task

OPTIONS = {
    "rates": [1e-2, 1e-1], "loss": loss_for(Task.SINGLE_LABEL), "schedule": sgdr(2, 1, 2), "epochs": 3,
}  # fmt: skip


class Watch(Callback):
    def __init__(self) -> None:
        self.states: dict[int, dict[str, torch.Tensor]] = {}

    def before_validate(self, run: Run) -> None:
        self.states[run.step] = {name: t.clone() for name, t in run.model.state_dict().items()}


@pytest.mark.parametrize("averages", [[], [EMA(0.9)]], ids=["plain", "averaged"])
def test_each_cycle_leaves_what_was_validated_at_its_end(
    make_run, make_source, validate_with, tmp_path, averages
) -> None:
    run, source, watch = make_run(), make_source(), Watch()
    snapshots = Snapshots(tmp_path / "snapshots")
    callbacks = [snapshots, *averages, watch]
    fit(run, source, callbacks=callbacks, validate=validate_with(run, source), **OPTIONS)
    names = ["step-000000005.safetensors", "step-000000015.safetensors"]
    assert [path.name for path in snapshots.paths] == names
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == names
    for step, state in zip((5, 15), snapshots.load(), strict=True):
        assert state.keys() == watch.states[step].keys()
        assert all(torch.equal(tensor, watch.states[step][name]) for name, tensor in state.items())


@pytest.mark.parametrize("at", [3, 5, 6, 15])
def test_a_restart_neither_loses_one_nor_writes_another(
    make_run, make_source, validate_with, tmp_path: Path, at: int
) -> None:
    source = make_source()
    folders = tmp_path / "whole", tmp_path / "restarted"
    first = Snapshots(folders[0])

    class Save(Callback):
        def after_step(self, run: Run) -> None:
            if run.step == at:
                save_checkpoint(tmp_path / "checkpoints", run, callbacks=[first])

    run = make_run()
    fit(run, source, callbacks=[first, Save()], validate=validate_with(run, source), **OPTIONS)
    again, second = make_run(), Snapshots(folders[1])
    load_checkpoint(tmp_path / "checkpoints", again, callbacks=[second])
    earlier = list(second.names)
    for name in earlier:
        second.folder.mkdir(exist_ok=True)
        (second.folder / name).write_bytes((folders[0] / name).read_bytes())
    fit(again, source, callbacks=[second], validate=validate_with(again, source), resume=True, **OPTIONS)
    assert second.names == first.names
    for one, other in zip(first.paths, second.paths, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_the_next_phase_begins_with_none(make_run, make_source, tmp_path) -> None:
    run, snapshots = make_run(), Snapshots(tmp_path)
    for _ in range(2):
        fit(run, make_source(), callbacks=[snapshots], **OPTIONS)
    assert [path.name for path in snapshots.paths] == [
        "step-000000020.safetensors",
        "step-000000030.safetensors",
    ]


def test_a_folder_that_cannot_be_written_is_said(make_run, make_source, tmp_path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageError, match="taken"):
        fit(make_run(), make_source(), callbacks=[Snapshots(tmp_path / "taken")], **OPTIONS)
