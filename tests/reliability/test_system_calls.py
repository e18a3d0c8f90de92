"""A2 to A4 by the system's own calls: killed, failed, and power lost at each one of a save with its pruning.

Needs strace. Where there is none, `tests/unit/training/test_crashes.py` does the same at the calls that the
writer makes. What was counted is printed.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.reliability.system_calls import Replay, strace_works, traced

from headstart.errors import ConfigError, InputMissingError
from headstart.storage import remove_leftovers
from headstart.training import Run, find_checkpoint, load_checkpoint, make_optimizer, save_checkpoint
from headstart.training.checkpoint_folder import checkpoints, fault_of
from headstart.training.disk import Disk

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module", autouse=True)
def _strace() -> None:
    reason = strace_works()
    if reason:
        pytest.skip(reason)


def make_run() -> Run:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
    return Run(net, make_optimizer([list(net.parameters())], [1e-2]), precision="float32")


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Run, Path]:
    """A run at step 3, and checkpoints of its steps 1 and 2. What saving imports is imported."""
    run, folder = make_run(), tmp_path / "checkpoints"
    for run.step in (1, 2):
        save_checkpoint(folder, run)
    run.step = 3
    return run, folder


def save(run: Run, folder: Path, disk: Disk | None = None) -> int:
    save_checkpoint(folder, run, disk=disk)
    return 0


def copied(folder: Path, name: str) -> Path:
    return Path(shutil.copytree(folder, folder.with_name(name)))


def test_a_kill_at_any_call_leaves_a_checkpoint_that_loads(saved, capsys) -> None:
    run, folder = saved
    place = copied(folder, "whole")
    code, calls = traced(partial(save, run, place))
    assert code == 0
    seen: list[int] = []
    for call in calls:
        place = copied(folder, "killed")
        code, _ = traced(partial(save, run, place), f"{call.name}:signal=SIGKILL:when={call.number}")
        assert code == -9, call
        remove_leftovers(place)
        assert not [entry for entry in place.iterdir() if entry.name.startswith(".")], call
        again = make_run()
        restored = load_checkpoint(place, again)
        assert restored.notes == ()
        assert len(checkpoints(place)) >= 2, call
        for name, tensor in run.model.state_dict().items():
            assert torch.equal(tensor, again.model.state_dict()[name])
        seen.append(again.step)
        shutil.rmtree(place)
    assert seen == sorted(seen)
    assert set(seen) == {2, 3}
    with capsys.disabled():
        names = dict(Counter(call.name for call in calls))
        print(
            f"\n{json.dumps({'kills': len(seen), 'left 2': seen.count(2), 'left 3': seen.count(3), **names})}"
        )
    assert len(seen) >= 30


class Careless(Disk):
    """Removes the older ones before the new one is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make_folder(self, path: Path) -> None:
        for older in checkpoints(self.folder):
            shutil.rmtree(older)
        super().make_folder(path)


def test_kills_would_find_out_a_careless_writer(saved) -> None:
    run, folder = saved
    place = copied(folder, "whole")
    _, calls = traced(partial(save, run, place, Careless(place)))
    lost = 0
    for call in calls[::5]:
        place = copied(folder, "killed")
        traced(partial(save, run, place, Careless(place)), f"{call.name}:signal=SIGKILL:when={call.number}")
        try:
            find_checkpoint(place)
        except (InputMissingError, ConfigError):
            lost += 1
        shutil.rmtree(place)
    assert lost > 0


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_an_error_at_any_call_leaves_what_was_there(saved, error, capsys) -> None:
    run, folder = saved
    _, calls = traced(partial(save, run, copied(folder, "whole")))
    codes: Counter[int] = Counter()
    for call in calls:
        if call.returned < 0:
            continue
        place = copied(folder, "failed")
        code, _ = traced(partial(save, run, place), f"{call.name}:error={error}:when={call.number}")
        assert code in (0, 74), call
        codes[code] += 1
        assert fault_of(place / "step-000000002") == "", call
        if code == 0:
            assert fault_of(place / "step-000000003") == "", call
        remove_leftovers(place)
        run.step = 4
        assert find_checkpoint(save_checkpoint(place, run)).state["step"] == 4
        run.step = 3
        assert not [entry for entry in place.iterdir() if entry.name.startswith(".")], call
        shutil.rmtree(place)
    with capsys.disabled():
        print(f"\n{error} at {codes.total()} calls: {codes[74]} saves said so, {codes[0]} whole nonetheless")
    assert codes[74] >= 20


class Unsynced(Disk):
    """Never waits for the disk."""

    def write(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)

    def sync_folder(self, path: Path) -> None:
        pass


def losses_of_power(run: Run, root: Path, disk: Disk | None = None) -> tuple[int, list[str]]:
    """Save three times, and lose power after each call; return how often, and what was then wrong."""
    live = root / "live"
    live.mkdir()

    def work() -> int:
        for run.step in (1, 2, 3):
            save_checkpoint(live / "checkpoints", run, disk=disk, keep=1)
            (live / f"done-{run.step}").mkdir()
        return 0

    code, calls = traced(work)
    assert code == 0
    replay, done, moments = Replay(live), 0, 0
    wrong: list[str] = []
    for call in calls:
        if not replay.apply(call):
            continue
        if call.name.startswith("mkdir") and b"/done-" in call.texts[0]:
            done += 1
        for names_first in (False, True):
            moments += 1
            left = root / "left"
            replay.leave(left, names_first=names_first)
            try:
                step = find_checkpoint(left / "checkpoints").state["step"]
            except (InputMissingError, ConfigError):
                step = 0
            if step < done:
                wrong.append(f"{call.name} {call.number}: step {step}, {done} was saved")
            shutil.rmtree(left)
    assert done == 3
    return moments, wrong


def test_a_loss_of_power_after_any_call_never_takes_what_was_saved(tmp_path, capsys) -> None:
    run = make_run()
    save_checkpoint(tmp_path / "first", run)
    moments, wrong = losses_of_power(run, tmp_path)
    with capsys.disabled():
        print(f"\npower lost at {moments} moments of three saves: {len(wrong)} losses")
    assert wrong == []
    assert moments > 150


def test_without_syncing_it_would(tmp_path) -> None:
    run = make_run()
    save_checkpoint(tmp_path / "first", run)
    assert losses_of_power(run, tmp_path, Unsynced())[1]
