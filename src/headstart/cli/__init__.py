"""The command line: flags → the same functions that Python users call."""

from __future__ import annotations

from headstart.cli.main import main

__all__ = ["main"]
