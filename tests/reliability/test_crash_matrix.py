"""Runs broken off at random moments, and a disk that fills: `make reliability`. What was counted is printed.

HEADSTART_KILLS says how many breaks (50 if nothing does), HEADSTART_SEED where the draws begin.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from tests.reliability.crash_matrix import matrix, reference
from tests.reliability.runs import forked, import_everything, make_case, outcome, wait, work

from headstart.training.checkpoint_folder import checkpoints, fault_of

pytestmark = pytest.mark.timeout(7200)


def test_runs_that_are_broken_off_end_as_one_that_is_not(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    kills, seed = int(os.environ.get("HEADSTART_KILLS", "50")), int(os.environ.get("HEADSTART_SEED", "0"))
    counted = matrix(kills, seed, tmp_path)
    with capsys.disabled():
        print(f"\n{json.dumps(counted)}")


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of so many kilobytes, or changes its size."""
    place = tmp_path / "small"
    place.mkdir()

    def resize(kilobytes: int) -> Path:
        options = f"size={kilobytes}k" + (",remount" if place.is_mount() else "")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=False)
        if done.returncode:
            pytest.skip("nothing may be mounted here")
        return place

    yield resize
    if place.is_mount():
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_fills_ends_the_run_whole_and_with_space_it_goes_on(
    small_disk, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    import_everything()
    case = make_case(tmp_path / "case")
    expected, _ = reference(case, tmp_path)
    codes = []
    for kilobytes in (4_000, 8_000, 12_000, 16_000):
        out = small_disk(kilobytes) / "run"
        codes.append(wait(forked(lambda out=out: work(case, out))))
        for checkpoint in checkpoints(out / "progress" / "checkpoints"):
            assert fault_of(checkpoint) == ""
        if codes[-1] == 0:
            break
        assert codes[-1] == 74
    small_disk(400_000)
    assert wait(forked(lambda: work(case, out))) == 0
    assert outcome(out) == expected
    said = out.with_suffix(".said").read_text()
    with capsys.disabled():
        print(f"\na disk that fills: exit codes {codes}, {said.count('no checkpoint at step')} misses")
    assert 74 in codes
