"""What the machine is, and how long the process has been running."""

from __future__ import annotations

from headstart.environment import core_count, machine, process_seconds, versions


def test_seconds_count_from_the_start_of_the_process() -> None:
    first = process_seconds()
    assert 0 < first < 24 * 3600
    assert process_seconds() >= first


def test_the_machine_and_its_packages_are_named() -> None:
    assert core_count() >= 1
    assert machine()["cores"] == core_count()
    assert {"python", "torch", "timm", "onnxruntime"} <= set(versions())
