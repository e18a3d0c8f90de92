"""A5 in full: checkpoints damaged by the thousand, and each damage noticed. What was counted is printed.

HEADSTART_SEED says where the draws begin.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from tests.unit.training.damage import damage_again_and_again

from headstart.errors import ConfigError
from headstart.training import Run, find_checkpoint, make_optimizer, save_checkpoint
from headstart.training.checkpoint_folder import FILES, checkpoints

SEED = int(os.environ.get("HEADSTART_SEED", "0"))
COUNTS = {"flip": 2000, "cut": 400, "hole": 200, "longer": 100, "empty": 30, "gone": 30}


def saved(folder: Path, steps: tuple[int, ...], run_id: str) -> Path:
    """Write checkpoints of a network that has taken a step."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
    run = Run(net, make_optimizer([list(net.parameters())], [1e-2]), precision="float32")
    assert run.optimizer is not None
    net(torch.randn(4, 6)).sum().backward()
    run.optimizer.step()
    for run.step in steps:
        save_checkpoint(folder, run, run_id=run_id, keep=99)
    return folder


@pytest.mark.parametrize("how", COUNTS)
def test_every_damage_is_noticed_and_the_one_before_is_taken(how, tmp_path, capsys) -> None:
    counted = damage_again_and_again(saved(tmp_path, (1, 2), "ours"), how, COUNTS[how], seed=SEED)
    with capsys.disabled():
        print(f"\n{json.dumps({'how': how, **vars(counted)})}")
    assert counted.noticed == counted.damaged == COUNTS[how]


def test_files_of_another_run_and_of_another_step_are_noticed(tmp_path, capsys) -> None:
    ours, theirs = saved(tmp_path / "ours", (1, 2), "ours"), saved(tmp_path / "theirs", (1, 2), "theirs")
    swapped = 0
    for source in (theirs / "step-000000002", ours / "step-000000001"):
        for name in (*FILES, "manifest.json"):
            place = ours / "step-000000002" / name
            before = place.read_bytes()
            if (source / name).read_bytes() == before:
                continue  # nothing of the run or the step is in it
            shutil.copy(source / name, place)
            assert find_checkpoint(ours, run_id="ours").path.name == "step-000000001", name
            place.write_bytes(before)
            swapped += 1
    whole = theirs / "step-000000002"
    shutil.copytree(whole, ours / "step-000000003")
    assert "another checkpoint" in find_checkpoint(ours, run_id="ours").notes[0]
    shutil.rmtree(ours / "step-000000002")
    (ours / "step-000000003").rename(ours / "step-000000002")
    assert "of another run" in find_checkpoint(ours, run_id="ours").notes[0]
    with capsys.disabled():
        print(f"\n{swapped} files and 2 whole checkpoints swapped, all noticed")
    assert swapped >= 4


def test_where_all_are_damaged_nothing_begins_from_scratch(tmp_path) -> None:
    folder = saved(tmp_path, (1, 2, 3), "ours")
    for checkpoint in checkpoints(folder):
        (checkpoint / "state.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        find_checkpoint(folder)
    assert caught.value.exit_code == 78
