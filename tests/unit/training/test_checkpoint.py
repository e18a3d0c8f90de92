"""Checkpoints: the same bits back, nothing torn or altered ever taken, and training that goes on."""

from __future__ import annotations

import json
import os
import random
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from headstart.errors import ConfigError, InputMissingError, OutputError, StorageError
from headstart.training import (
    Callback,
    EarlyStop,
    KeepBest,
    Run,
    fit,
    load_checkpoint,
    loss_for,
    one_cycle,
    save_checkpoint,
    sgdr,
)
from headstart.training.checkpoint_folder import FILES, checkpoints, fault_of
from headstart.types import Task

LOSS = loss_for(Task.SINGLE_LABEL)
OPTIONS = {
    "rates": [1e-3, 1e-2],
    "schedule": one_cycle(),
    "epochs": 3,
    "loss": LOSS,
    "name": "all",
    "step": 8,
}


class Save(Callback):
    """Saves after one step; the training goes on and is then forgotten."""

    def __init__(self, folder, at: int, others=()) -> None:
        self.folder, self.at, self.others = folder, at, others

    def after_step(self, run):
        if run.step == self.at:
            save_checkpoint(self.folder, run, callbacks=self.others, extra={"at": self.at})


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_checkpoint_comes_back_bit_by_bit(make_run, make_net, make_source, tmp_path, bits, name) -> None:
    run = make_run(name=name)
    fit(run, make_source(), **OPTIONS)
    path = save_checkpoint(tmp_path, run, extra={"phase": 3, "names": ["ä"]})
    fresh = make_run(make_net(seed=9), seed=77, name=name)
    restored = load_checkpoint(tmp_path, fresh)
    assert bits(fresh) == bits(run)
    assert fresh.history == run.history
    assert fresh.span == run.span
    assert (fresh.step, fresh.epoch, fresh.seed, fresh.precision) == (15, 3, 5, "float32")
    assert (restored.path, restored.extra, restored.notes) == (path, {"phase": 3, "names": ["ä"]}, ())
    settings = [
        [{k: v for k, v in group.items() if k != "params"} for group in r.optimizer.param_groups]
        for r in (run, fresh)
    ]
    assert settings[0] == settings[1]


def test_the_random_states_come_back(make_run, tmp_path) -> None:
    def draws():
        return (
            random.random(),
            random.gauss(0, 1),
            np.random.random(),
            np.random.normal(),
            torch.rand(3).tolist(),
        )

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    draws()
    np.random.normal()
    save_checkpoint(tmp_path, make_run())
    expected = draws()
    draws()
    load_checkpoint(tmp_path, make_run())
    assert draws() == expected


@pytest.mark.parametrize("at", [1, 4, 5, 7, 10, 14])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_going_on_from_a_checkpoint_equals_never_having_stopped(
    make_run, make_net, make_source, validate_with, comparable, bits, tmp_path, at, name
) -> None:
    source = make_source(37)
    whole = make_run(name=name)
    callbacks = [KeepBest(), EarlyStop()]
    save = Save(tmp_path, at, callbacks)
    fit(whole, source, **OPTIONS, validate=validate_with(whole, source), callbacks=[*callbacks, save])

    resumed = make_run(make_net(seed=3), seed=1, name=name)
    again = [KeepBest(), EarlyStop()]
    assert load_checkpoint(tmp_path, resumed, callbacks=again).extra == {"at": at}
    assert resumed.step == at
    fit(resumed, source, **OPTIONS, validate=validate_with(resumed, source), callbacks=again, resume=True)
    assert bits(resumed) == bits(whole)
    assert comparable(resumed.history) == comparable(whole.history)
    assert again[0].best == callbacks[0].best
    assert callbacks[0].restore(whole)
    assert again[0].restore(resumed)
    assert bits(resumed) == bits(whole)


def test_going_on_without_the_optimiser_s_state_would_differ(
    make_run, make_net, make_source, bits, tmp_path
) -> None:
    source, whole = make_source(), make_run()
    fit(whole, source, **OPTIONS, callbacks=[Save(tmp_path, 7)])
    resumed = make_run(make_net(seed=3))
    load_checkpoint(tmp_path, resumed)
    resumed.optimizer.state.clear()
    fit(resumed, source, **OPTIONS, resume=True)
    assert bits(resumed) != bits(whole)


def test_a_moved_line_comes_back(make_run, make_net, make_source, bits, tmp_path) -> None:
    run = make_run()
    run.optimizer.param_groups[:] = run.optimizer.param_groups[-2:]
    fit(run, make_source(), **OPTIONS)
    save_checkpoint(tmp_path, run)
    fresh = make_run(make_net(seed=2))
    load_checkpoint(tmp_path, fresh)
    assert bits(fresh) == bits(run)
    assert [len(g["params"]) for g in fresh.optimizer.param_groups] == [1, 1]


def altered(checkpoint, name: str, how: str) -> None:
    file = checkpoint / name
    data = bytearray(file.read_bytes())
    match how:
        case "flip":
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
        case "cut":
            file.write_bytes(data[:-1])
        case "longer":
            file.write_bytes(bytes(data) + b" ")
        case "empty":
            file.write_bytes(b"")
        case "gone":
            file.unlink()


PAIR = ("step-000000015", "step-000000030")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A folder with two checkpoints of one run, written once."""
    return tmp_path_factory.mktemp("pair")


@pytest.fixture
def two(pair, make_run, make_source, tmp_path):
    """Two checkpoints of one run, the older first, in a folder of their own."""
    if not checkpoints(pair):
        run = make_run()
        for _ in PAIR:
            fit(run, make_source(), **OPTIONS)
            save_checkpoint(pair, run)
    for name in PAIR:
        shutil.copytree(pair / name, tmp_path / name)
    return tuple(tmp_path / name for name in PAIR)


@pytest.mark.parametrize("how", ["flip", "cut", "longer", "empty", "gone"])
@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_an_altered_checkpoint_is_refused_and_the_previous_taken(make_run, make_net, two, name, how) -> None:
    older, newest = two
    altered(newest, name, how)
    run = make_run(make_net(seed=4))
    restored = load_checkpoint(older.parent, run)
    assert (restored.path, run.step) == (older, 15)
    assert all(word in restored.notes[0] for word in (newest.name, older.name))


def test_every_flipped_byte_is_noticed(two) -> None:
    _, newest = two
    assert fault_of(newest) == ""
    drawn = random.Random(0)
    for name in (*FILES, "manifest.json"):
        whole = (newest / name).read_bytes()
        for position in drawn.sample(range(len(whole)), min(40, len(whole))):
            data = bytearray(whole)
            data[position] ^= 1 << drawn.randrange(8)
            (newest / name).write_bytes(data)
            assert fault_of(newest) != ""
        (newest / name).write_bytes(whole)
    assert fault_of(newest) == ""


@pytest.mark.parametrize(
    "text", ["[]", "{}", "nonsense", '{"schema": 2}', '{"schema": 1, "files": {"a": 1}}']
)
def test_a_manifest_that_says_something_else_is_a_fault(two, text) -> None:
    (two[1] / "manifest.json").write_text(text)
    assert fault_of(two[1]) != ""


def test_files_of_two_checkpoints_do_not_mix(two) -> None:
    older, newest = two
    shutil.copy(older / "optimizer.safetensors", newest / "optimizer.safetensors")
    assert "optimizer.safetensors" in fault_of(newest)


def test_where_none_is_whole_nothing_starts_from_scratch_in_silence(make_run, two, tmp_path) -> None:
    for checkpoint in two:
        altered(checkpoint, "model.safetensors", "flip")
    with pytest.raises(ConfigError, match=r"no checkpoint in .* is whole"):
        load_checkpoint(tmp_path, make_run())
    for empty in (tmp_path / "nothing", tmp_path / "empty"):
        with pytest.raises(InputMissingError):
            load_checkpoint(empty, make_run())


def test_one_checkpoint_can_be_named(make_run, two) -> None:
    run = make_run()
    assert load_checkpoint(two[0], run).path == two[0]
    assert run.step == 15


def test_the_newest_is_the_one_with_most_steps_whatever_the_clock_says(two) -> None:
    older, newest = two
    os.utime(newest, (0, 0))
    assert checkpoints(older.parent) == [newest, older]


def test_only_the_newest_are_kept_and_nothing_half_written_remains(make_run, tmp_path) -> None:
    run = make_run()
    (tmp_path / "notes.txt").write_text("mine")
    for step in range(5):
        run.step = step
        save_checkpoint(tmp_path, run, keep=2)
    names = sorted(entry.name for entry in tmp_path.iterdir())
    assert names == ["notes.txt", "step-000000003", "step-000000004"]


def test_a_disk_that_fails_leaves_the_checkpoints_as_they_were(make_run, two, monkeypatch) -> None:
    older, newest = two
    run = make_run()
    load_checkpoint(newest, run)
    run.step += 1

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("headstart.storage.os.fsync", full)
    with pytest.raises((StorageError, OutputError), match="disk is full"):
        save_checkpoint(newest.parent, run)
    assert checkpoints(newest.parent) == [newest, older]
    assert [fault_of(path) for path in two] == ["", ""]


def test_another_model_is_refused_with_the_differences(make_run, two, tmp_path) -> None:
    net = nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 2))
    run = Run(net, precision="float32")
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(ConfigError, match=r"9 tensors differ \(0.bias: \(8,\) instead of \(9,\)"):
        load_checkpoint(tmp_path, run)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


def test_missing_callbacks_and_a_missing_optimiser_are_refused(make_run, make_net, two, tmp_path) -> None:
    with pytest.raises(ConfigError, match="no callback, and none of EarlyStop"):
        load_checkpoint(tmp_path, make_run(), callbacks=[EarlyStop()])
    with pytest.raises(ConfigError, match="the run has none"):
        load_checkpoint(tmp_path, Run(make_net(), precision="float32"))


def test_a_difference_that_changes_bits_is_said(make_run, two, tmp_path) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        notes = load_checkpoint(tmp_path, make_run()).notes
    finally:
        torch.set_num_threads(threads)
    assert notes == (f"no longer bit-identical because threads is {threads + 1}, and was {threads}",)


def test_a_run_without_optimiser_or_span_can_be_saved(make_net, tmp_path) -> None:
    run = Run(make_net(), precision="float32", step=3)
    save_checkpoint(tmp_path, run)
    fresh = Run(make_net(seed=1), precision="float32")
    load_checkpoint(tmp_path, fresh)
    assert (fresh.step, fresh.span) == (3, None)


def test_cosine_cycles_go_on_with_their_early_stop(make_run, make_source, validate_with, tmp_path) -> None:
    source, whole, stop = make_source(16), make_run(), EarlyStop()
    given = {**OPTIONS, "rates": [10.0, 10.0], "schedule": sgdr(5), "epochs": 5}
    save = Save(tmp_path, 3, [stop])
    fit(whole, source, **given, validate=validate_with(whole, source), callbacks=[stop, save])
    resumed, again = make_run(), EarlyStop()
    load_checkpoint(tmp_path, resumed, callbacks=[again])
    fit(resumed, source, **given, validate=validate_with(resumed, source), callbacks=[again], resume=True)
    assert (resumed.stop_reason, resumed.step) == (whole.stop_reason, whole.step)


def test_the_state_is_readable_json(two) -> None:
    state = json.loads((two[0] / "state.json").read_text("utf-8"))
    assert state["step"] == 15
    assert state["threads"] == torch.get_num_threads()
    assert state["trained"] == ["0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias"]
