"""`torchrun -m headstart train` on two processes: the run of one, or a run that one can go on with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from headstart.cli.main import run
from headstart.evaluation import Predictions

# Layer norm, and no dropout, which several processes draw otherwise than one.
ARCH = "test_convnext"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")


@pytest.fixture
def command(make_folder, tmp_path) -> list[str]:
    pictures = make_folder({"a": 23, "b": 23})
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "headstart_plan: 1\nsettings: {optimizer: sgd}\nphases:\n"
        "  - {name: whole, epochs: 3, learning_rate: 0.001, frozen_to: 0, step: 8}\n"
    )
    start = ["train", str(pictures), "--arch", ARCH, "--from-scratch", "--image-size", "32"]
    start += ["--precision", "float32", "--batch-size", "10", "--threads", "1"]
    return [*start, "--plan", str(plan), "--quiet"]


def together(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, "headstart", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def same(ours: Path, theirs: Path) -> None:
    """The same pictures, predicted alike, after the same epochs."""
    tables = [Predictions.from_csv(out / "predictions.csv") for out in (ours, theirs)]
    assert tables[0].paths == tables[1].paths
    np.testing.assert_allclose(tables[0].probabilities, tables[1].probabilities, rtol=0, atol=1e-5)
    histories = [pd.read_json(out / "history.jsonl", lines=True) for out in (ours, theirs)]
    for name in ("train_loss", "valid_loss", "accuracy"):
        np.testing.assert_allclose(histories[0][name], histories[1][name], rtol=0, atol=1e-5)


def test_two_processes_make_the_run_of_one_and_one_goes_on_where_two_were_cut_short(
    command, tmp_path, capsys
) -> None:
    one, two, cut = (tmp_path / name for name in ("one", "two", "cut"))
    assert run([*command, "--out", str(one)]) == 0
    capsys.readouterr()

    process = together([*command, "--out", str(two), "--json"])
    output, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert json.loads(output)["stop_reason"] == ""  # one line: rank 0 alone prints
    same(two, one)
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())

    process = together([*command, "--out", str(cut)])
    history, deadline = cut / "history.jsonl", time.monotonic() + 300
    while not (history.is_file() and history.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(worker(process.pid, "1"), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert re.search(r"error\[RANK_LOST\]: rank 1 \(process \d+\) of 2 ended before its time", said), said
    assert run(["resume", str(cut), "--quiet"]) == 0
    same(cut, one)


def test_the_batch_norm_of_two_processes_that_train_from_scratch_is_that_of_one(
    command, tmp_path, capsys
) -> None:
    one, two = (tmp_path / name for name in ("one", "two"))
    command[command.index(ARCH)] = "test_resnet"
    assert run([*command, "--out", str(one)]) == 0
    process = together([*command, "--out", str(two)])
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    same(two, one)


def worker(launcher: int, rank: str) -> int:
    """The process of a rank that a launcher has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in children:
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no rank {rank} among {children}")


def test_a_command_that_knows_no_others_says_so(monkeypatch, capsys) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert run(["doctor"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "[rank 1] error[USAGE]: headstart doctor runs in one process" in said.err
