"""The examples in the docstrings run and say the truth."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["predictions", "metrics", "calibration", "interpret"])
def test_the_examples_hold(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"headstart.evaluation.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
