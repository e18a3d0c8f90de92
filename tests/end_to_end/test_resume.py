"""A run that is killed or stopped goes on, by the command line, to what it would have been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headstart.cli.main import run

ARCH = "test_resnet"


@pytest.fixture
def command(make_folder, tmp_path) -> list[str]:
    """The arguments of a run from scratch that takes some seconds, but for --out."""
    pictures = make_folder({"a": 40, "b": 40})
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "headstart_plan: 1\nphases:\n"
        "  - {name: first, epochs: 3, learning_rate: 0.001, frozen_to: 0, step: 4}\n"
        "  - {name: second, epochs: 12, learning_rate: 0.001, frozen_to: 0, step: 8}\n"
    )
    start = ["train", str(pictures), "--arch", ARCH, "--from-scratch", "--image-size", "32"]
    return [*start, "--plan", str(plan), "--threads", "1", "--quiet"]


def begun(command: list[str], out: Path, rows: int, *, within: str = "") -> subprocess.Popen[str]:
    """Start the command line, and return it once its history, or that `within`, has so many rows."""
    process = subprocess.Popen(
        [sys.executable, "-m", "headstart", *command, "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    history = out / within / "history.jsonl"
    while time.monotonic() < deadline and process.poll() is None:
        if history.is_file() and len(history.read_text().splitlines()) >= rows:
            break
        time.sleep(0.02)
    return process


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(number) for number in found.read_text().split()] if found.is_file() else []


def ended(process: subprocess.Popen[str], number: int) -> tuple[int, str]:
    """Send a signal, and return the exit code and what was said; no child outlives it."""
    children = children_of(process.pid)
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=300)
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    return process.returncode, said


def test_a_run_that_was_killed_and_one_that_was_stopped_end_as_one_that_was_not(
    command, tmp_path, capsys
) -> None:
    whole = tmp_path / "whole"
    assert run([*command, "--out", str(whole)]) == 0
    for name, number, code in (("killed", signal.SIGKILL, -9), ("stopped", signal.SIGTERM, 143)):
        out = tmp_path / name
        process = begun(command, out, rows=5)
        found, said = ended(process, number)
        assert found == code, said
        assert "Traceback" not in said
        if number == signal.SIGTERM:
            assert f"headstart resume {out}" in said
            assert not (out / "model").exists()
        capsys.readouterr()
        assert run(["resume", str(out), "--threads", "2", "--quiet"]) == 0
        for file in ("predictions.csv", "model/model.safetensors", "plan.yaml"):
            assert (out / file).read_bytes() == (whole / file).read_bytes(), file
        steps = [json.loads((each / "summary.json").read_text())["steps"] for each in (out, whole)]
        for one, other in zip(*steps, strict=True):
            assert {**one, "seconds": 0} == {**other, "seconds": 0}
        # Complete: nothing is done, and that is no error.
        before = (out / "summary.json").read_bytes()
        assert run(["resume", str(out), "--quiet"]) == 0
        assert "complete" in capsys.readouterr().out
        assert (out / "summary.json").read_bytes() == before


def test_an_ensemble_that_was_stopped_in_a_fold_is_gone_on_with(command, tmp_path, capsys) -> None:
    whole, command = tmp_path / "whole", [*command, "--folds", "2", "--epochs", "0.34"]
    assert run([*command, "--out", str(whole)]) == 0
    for name, number, code in (("stopped", signal.SIGTERM, 143), ("interrupted", signal.SIGINT, 130)):
        out = tmp_path / name
        found, said = ended(begun(command, out, rows=2, within="folds/2"), number)
        assert found == code, said
        assert f"headstart resume {out}\n" in said
        assert not (out / "model").exists()
        capsys.readouterr()
        assert run(["resume", str(out), "--quiet"]) == 0
        assert (out / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
        assert run(["resume", str(out), "--quiet"]) == 0
        assert "complete" in capsys.readouterr().out


def test_there_is_nothing_to_resume(tmp_path, capsys) -> None:
    assert run(["resume", str(tmp_path)]) == 66
    assert "nothing to resume" in capsys.readouterr().err


def test_a_second_process_exits_and_names_the_first(command, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    process = begun(command, out, rows=1)
    try:
        assert run(["resume", str(out), "--quiet"]) == 73
        assert f"process {process.pid}" in capsys.readouterr().err
        assert run([*command, "--out", str(out), "--force"]) == 73
        assert f"process {process.pid}" in capsys.readouterr().err
    finally:
        process.kill()
        process.communicate()
