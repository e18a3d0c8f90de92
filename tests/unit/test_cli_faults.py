"""Memory that runs out and devices that fail, wherever they do, are one line and exit code 75."""

from __future__ import annotations

import pytest

from headstart.cli import commands
from headstart.cli.main import run
from headstart.errors import DataError


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (MemoryError("Unable to allocate 9.00 GiB"), "OUT_OF_MEMORY", 75),
        (RuntimeError("CUDA error: unspecified launch failure"), "DEVICE_LOST", 75),
        (RuntimeError("a fault"), "INTERNAL", 70),
    ],
)
def test_a_fault_of_the_machine_is_told_from_one_of_ours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error, code, exit_code
) -> None:
    def app(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(commands, "app", app)
    assert run(["doctor"]) == exit_code
    said = capsys.readouterr().err
    assert said.startswith(f"error[{code}]: {type(error).__name__}: {error}")
    assert "hint: " in said


@pytest.mark.parametrize(
    "error", [DataError("a.png is gone", "put it back"), MemoryError("no"), ValueError("v")]
)
def test_what_was_noted_on_an_error_is_told_with_the_hint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def app(*arguments: object, **options: object) -> None:
        error.add_note("all until step 7 is kept in runs/a")
        raise error

    monkeypatch.setattr(commands, "app", app)
    assert run(["doctor"]) != 0
    (hint,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hint: ")]
    assert hint.endswith("; all until step 7 is kept in runs/a")
