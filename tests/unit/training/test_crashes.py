"""Every single call to the disk while a checkpoint is written: killed, failed, power lost there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

import pytest
from tests.unit.training.damage import damage_again_and_again
from tests.unit.training.faulty_disks import Counting, Ending, Failing, PowerLoss

from headstart.errors import ConfigError, HeadstartError, InputMissingError, OutputError, StorageError
from headstart.storage import remove_leftovers
from headstart.training import Checkpointer, find_checkpoint, fit, loss_for, one_cycle, save_checkpoint
from headstart.training.checkpoint_folder import FILES, checkpoints, fault_of
from headstart.types import Task

OPTIONS = {"rates": [1e-3, 1e-2], "schedule": one_cycle(), "epochs": 3, "loss": loss_for(Task.SINGLE_LABEL)}


@pytest.fixture
def saved(make_run, tmp_path):
    """A run, and a folder with two checkpoints of it, at steps 1 and 2."""
    run, folder = make_run(), tmp_path / "checkpoints"
    for run.step in (1, 2):
        save_checkpoint(folder, run)
    run.step = 3
    return run, folder


def calls_of_a_save(run, folder: Path) -> list[str]:
    disk = Counting()
    shutil.copytree(folder, folder.with_name("copy"))
    save_checkpoint(folder.with_name("copy"), run, disk=disk)
    shutil.rmtree(folder.with_name("copy"))
    return disk.calls


def test_the_calls_come_in_the_order_that_makes_them_safe(saved) -> None:
    calls = calls_of_a_save(*saved)
    one_file = ["create", "write", "fsync"]
    whole = ["mkdir", *(one_file * (len(FILES) + 1)), "fsync-folder", "rename", "fsync-folder"]
    assert calls == [*whole, "rename", "remove"]


def test_a_kill_at_any_call_leaves_the_newest_or_the_one_before(saved, tmp_path) -> None:
    run, folder = saved
    count = len(calls_of_a_save(run, folder))
    seen = []
    for at in range(count + 1):
        place = tmp_path / f"killed-{at}"
        shutil.copytree(folder, place)
        child = os.fork()
        if child == 0:
            save_checkpoint(place, run, disk=Ending(at))
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == (9 if at < count else 0)
        remove_leftovers(place)
        assert not [entry for entry in place.iterdir() if entry.name.startswith(".")]
        found = find_checkpoint(place)
        assert found.notes == ()
        assert len(checkpoints(place)) >= 2
        seen.append(found.state["step"])
    assert seen == sorted(seen)
    assert set(seen) == {2, 3}


def said(run, place: Path, disk: Failing) -> bool:
    """Save, and return whether the error of the disk was said."""
    try:
        save_checkpoint(place, run, disk=disk)
    except StorageError:
        return True
    return False


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_error_at_any_call_leaves_what_was_there_and_the_next_save_succeeds(
    saved, number, tmp_path
) -> None:
    run, folder = saved
    calls = calls_of_a_save(run, folder)
    for at, call in enumerate(calls):
        place = tmp_path / f"failed-{at}"
        shutil.copytree(folder, place)
        # Once it is renamed, older ones are removed; that this fails is no fault of the new one.
        assert said(run, place, Failing(at, number)) == (at < len(calls) - 2), call
        assert {"step-000000001", "step-000000002"} & {entry.name for entry in checkpoints(place)}
        assert fault_of(place / "step-000000002") == ""
        assert not [entry for entry in place.iterdir() if entry.name.endswith(".tmp")]
        run.step = 4
        assert find_checkpoint(save_checkpoint(place, run)).state["step"] == 4
        run.step = 3


class Heedless(Failing):
    """Takes what it could not wait for as done."""

    def before(self, call: str, path: Path) -> None:
        with contextlib.suppress(OSError) if call == "fsync" else contextlib.nullcontext():
            super().before(call, path)


def test_a_writer_that_does_not_heed_an_error_would_be_noticed(saved) -> None:
    run, folder = saved
    at = calls_of_a_save(run, folder).index("fsync")
    assert said(run, folder, Failing(at, errno.EIO))
    assert not said(run, folder, Heedless(at, errno.EIO))


def saves_under_power_loss(run, tmp_path: Path, *, syncs: bool) -> list[str]:
    """Lose power after every call of three saves; return what was then wrong."""
    (tmp_path / "live").mkdir()
    disk = PowerLoss(tmp_path / "live", syncs=syncs)
    folder = tmp_path / "live" / "checkpoints"
    wrong: list[str] = []
    done = 0

    def lose_power() -> None:
        for names_first in (False, True):
            left = tmp_path / "left"
            disk.leave(left, names_first=names_first)
            try:
                step = find_checkpoint(left / "checkpoints").state["step"]
            except (InputMissingError, ConfigError):
                step = 0
            if step < done:
                wrong.append(f"call {disk.moments}, names first {names_first}: step {step}, {done} was saved")
            shutil.rmtree(left)

    disk.on_call = lose_power
    for run.step in (1, 2, 3):
        save_checkpoint(folder, run, disk=disk, keep=1)
        done = run.step
    return wrong


def test_a_loss_of_power_at_any_call_never_takes_what_was_saved(make_run, tmp_path) -> None:
    assert saves_under_power_loss(make_run(), tmp_path, syncs=True) == []


def test_without_syncing_a_loss_of_power_would_take_it(make_run, tmp_path) -> None:
    assert saves_under_power_loss(make_run(), tmp_path, syncs=False)


@pytest.mark.parametrize(("how", "count"), [("flip", 60), ("cut", 30), ("hole", 30), ("longer", 10)])
def test_whatever_is_damaged_the_one_before_is_taken_and_both_are_named(saved, how, count) -> None:
    _, folder = saved
    counted = damage_again_and_again(folder, how, count, seed=0)
    assert counted.noticed == counted.damaged == count
    assert find_checkpoint(folder).state["step"] == 2


def test_without_hashes_damage_to_the_weights_would_be_loaded(saved) -> None:
    _, folder = saved
    assert damage_again_and_again(folder, "flip", 60, seed=1).loads_all_the_same > 10


def test_a_file_that_does_not_belong_there_and_another_run_s_checkpoint_are_found_out(
    saved, tmp_path
) -> None:
    run, folder = saved
    save_checkpoint(folder, run, run_id="ours")
    run.step = 4
    save_checkpoint(tmp_path / "theirs", run, run_id="theirs")
    shutil.copytree(tmp_path / "theirs" / "step-000000004", folder / "step-000000004")
    found = find_checkpoint(folder, run_id="ours")
    assert found.state["step"] == 3
    assert "of another run" in found.notes[0]
    (folder / "step-000000003" / "more").write_text("")
    with pytest.raises(ConfigError, match="more does not belong there"):
        find_checkpoint(folder, run_id="ours")


def test_checkpoints_of_one_step_never_replace_one_another(saved) -> None:
    run, folder = saved
    names = [save_checkpoint(folder, run).name for _ in range(3)]
    assert names == ["step-000000003", "step-000000003.1", "step-000000003.2"]
    assert find_checkpoint(folder).path.name == names[-1]


def test_pruning_keeps_whole_ones_and_does_not_count_damaged_ones(saved) -> None:
    run, folder = saved
    (folder / "step-000000002" / "state.json").write_text("{}")
    save_checkpoint(folder, run)
    assert fault_of(folder / "step-000000001") == ""
    run.step = 4
    save_checkpoint(folder, run)
    assert [entry.name for entry in checkpoints(folder)] == ["step-000000004", "step-000000003"]


# ---- the callback ----------------------------------------------------------------------------


def trained(make_run, make_source, checkpointer: Checkpointer, validate=None):
    run = make_run()
    fit(run, make_source(), **OPTIONS, validate=validate, callbacks=[checkpointer])
    return run


def test_checkpoints_come_every_so_many_steps_and_at_the_end_of_epochs(
    make_run, make_source, tmp_path
) -> None:
    every = Checkpointer(tmp_path / "steps", steps=4, keep=99, most_of_time=1e-9)
    every._cost = 1e9
    trained(make_run, make_source, every)
    assert [entry.name[-2:] for entry in checkpoints(tmp_path / "steps")] == ["12", "08", "04"]
    ends = Checkpointer(tmp_path / "ends", keep=99, most_of_time=1e9)
    trained(make_run, make_source, ends)
    assert [entry.name[-2:] for entry in checkpoints(tmp_path / "ends")] == ["15", "10", "05"]
    assert (every.written, ends.written) == (3, 3)


def test_checkpoints_that_would_take_too_much_of_the_time_are_left_out(
    make_run, make_source, tmp_path
) -> None:
    dear = Checkpointer(tmp_path, seconds=1e-9, most_of_time=1e-6)
    trained(make_run, make_source, dear)
    assert dear.written == 1, "the first one says what one costs"


def test_the_best_of_those_that_were_written_stays(make_run, make_source, tmp_path) -> None:
    losses = iter([0.1, 0.5, 0.4])
    kept = Checkpointer(tmp_path, keep=1, most_of_time=1e9)
    trained(make_run, make_source, kept, validate=lambda: {"valid_loss": next(losses)})
    assert [entry.name[-2:] for entry in checkpoints(tmp_path)] == ["15", "05"]
    assert find_checkpoint(tmp_path).extra["best_checkpoint"] == {"name": "step-000000005", "value": 0.1}


def test_a_loss_that_is_not_a_number_never_is_the_best(make_run, make_source, tmp_path) -> None:
    losses = iter([float("nan"), 0.5, float("nan")])
    kept = Checkpointer(tmp_path, keep=1, most_of_time=1e9)
    trained(make_run, make_source, kept, validate=lambda: {"valid_loss": next(losses)})
    assert [entry.name[-2:] for entry in checkpoints(tmp_path)] == ["15", "10"]


class FullFor(Counting):
    """Is full for so many tries, each of which is over at its first file."""

    def __init__(self, tries: int) -> None:
        super().__init__()
        self.tries = tries

    def before(self, call: str, path: Path) -> None:
        super().before(call, path)
        if call == "create" and self.tries:
            self.tries -= 1
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("tries", [1, 2])
def test_a_full_disk_costs_a_warning_and_training_goes_on(
    make_run, make_source, bits, tmp_path, tries
) -> None:
    said: list[str] = []
    disk = FullFor(tries)
    checkpointer = Checkpointer(tmp_path / "c", steps=5, most_of_time=1e9, warn=said.append, disk=disk)
    run = trained(make_run, make_source, checkpointer)
    assert len(said) == tries
    assert all("are needed" in text and "are free" in text for text in said)
    assert find_checkpoint(tmp_path / "c").state["step"] == 15
    bare = make_run()
    fit(bare, make_source(), **OPTIONS)
    assert bits(run) == bits(bare)


def test_the_third_miss_in_a_row_ends_training_and_leaves_what_was_there(saved, make_source) -> None:
    run, folder = saved
    checkpointer = Checkpointer(folder, steps=1, warn=lambda text: None, disk=FullFor(99))
    with pytest.raises(StorageError, match="3 in a row") as caught:
        fit(run, make_source(), **OPTIONS, callbacks=[checkpointer])
    assert caught.value.exit_code == 74
    assert [fault_of(entry) for entry in checkpoints(folder)] == ["", ""]
    assert not [entry for entry in folder.iterdir() if entry.name.endswith(".tmp")]


def test_two_callbacks_of_one_class_get_their_own_states(make_run, make_source, tmp_path) -> None:
    from headstart.training import KeepBest, load_checkpoint

    run, first, second = make_run(), KeepBest(), KeepBest("train_loss")
    fit(run, make_source(), **OPTIONS, validate=lambda: {"valid_loss": 1.0}, callbacks=[first, second])
    save_checkpoint(tmp_path, run, callbacks=[first, second])
    fresh = [KeepBest("train_loss"), KeepBest()]
    load_checkpoint(tmp_path, make_run(), callbacks=fresh)
    assert [keep.best for keep in fresh] == [first.best, second.best]


def test_errors_of_refused_folders_are_told_as_such(make_run, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HeadstartError) as caught:
        save_checkpoint(tmp_path / "file" / "checkpoints", make_run())
    assert isinstance(caught.value, OutputError | StorageError)
