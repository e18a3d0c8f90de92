"""The command line where there is little: of files, memory, letters, shared memory, and no terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import headstart

MakeFolder = Callable[..., Path]

SOURCES = Path(headstart.__file__).resolve().parents[1]
TRAIN = "--from-scratch --arch test_resnet --image-size 32 --cycles 1"
C_LOCALE = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
SMALL_SHM = "mount -t tmpfs -o size=8m tmpfs /dev/shm"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="this system has no such shell")


def run(
    words: str, tmp_path: Path, *, before: str = "true", after: str = "", alone: bool = False, **others: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a shell of its own; `alone`: with mounts of its own, too."""
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    clean |= {"HOME": str(tmp_path / "home"), "HEADSTART_CACHE": str(tmp_path / "cache")} | others
    script = f"{before} && exec {sys.executable} -m headstart {words} {after}"
    command = ["sh", "-c", script]
    return subprocess.run(
        ["unshare", "--mount", "--map-root-user", *command] if alone else command,
        env=clean, capture_output=True, text=True, errors="replace", timeout=300, cwd=tmp_path,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def as_named(shell: dict) -> str:
    """What a class is called: where Python is told that names are ASCII, the other bytes are escaped."""
    return "caf\\udcc3\\udca9 " if "PYTHONUTF8" in shell else "café 🐈"


def may_mount() -> bool:
    try:
        done = subprocess.run(
            ["unshare", "--mount", "--map-root-user", "sh", "-c", SMALL_SHM], capture_output=True
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0


@pytest.fixture
def pictures(make_folder: MakeFolder) -> Path:
    return make_folder({"café 🐈": 12, "b\nc": 12})


SHELLS = [
    pytest.param({"before": "ulimit -n 64"}, id="64 files"),
    pytest.param({"before": "ulimit -v 6000000"}, id="6 GB of addresses"),
    pytest.param(C_LOCALE, id="C locale"),
    pytest.param({"before": "unset HOME HEADSTART_CACHE"}, id="no home"),
    pytest.param({"after": "<&- >&-"}, id="closed"),
    pytest.param({"after": "<&- >&- 2>&-"}, id="stderr closed, too"),
    pytest.param({"after": "| true"}, id="no reader"),
]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_poor_shell_is_enough_for_a_check(pictures: Path, tmp_path: Path, shell: dict[str, str]) -> None:
    done = run(f"check '{pictures}' --out page.html", tmp_path, **shell)
    assert "Traceback" not in done.stderr, done.stderr
    assert "BrokenPipe" not in done.stderr
    assert done.returncode == 0, done.stderr
    assert as_named(shell) in (tmp_path / "page.html").read_text("utf-8")


@pytest.mark.parametrize(
    "shell",
    [
        pytest.param({"before": "ulimit -n 64 && unset HOME", "after": "<&- >&-"} | C_LOCALE, id="all of it"),
        pytest.param({"before": SMALL_SHM, "alone": True}, id="8 MiB of shared memory"),
    ],
)
def test_a_poor_shell_is_enough_to_train(pictures: Path, tmp_path: Path, shell: dict) -> None:
    if shell.get("alone") and not may_mount():
        pytest.skip("no mounts of its own are allowed here: /dev/shm stays as large as it is")
    done = run(f"train '{pictures}' {TRAIN} --out run", tmp_path, **shell)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model" / "manifest.json").is_file()
    assert as_named(shell) in (tmp_path / "run" / "report.html").read_text("utf-8")


@pytest.mark.parametrize("kilobytes", [500_000, 3_000_000])
def test_too_little_memory_to_train_is_one_line_that_says_so(
    pictures: Path, tmp_path: Path, kilobytes: int
) -> None:
    done = run(f"train '{pictures}' {TRAIN} --out run", tmp_path, before=f"ulimit -v {kilobytes}")
    if not done.returncode:
        pytest.skip(f"{kilobytes:,} kB are enough for the libraries that are installed here")
    assert done.returncode in (74, 75), (done.returncode, done.stderr)
    assert "ulimit -v" in done.stderr
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error[")]) == 1
