"""The main job: the eight steps over a folder of pictures, told as they go."""

from __future__ import annotations

from headstart.recipe.body import Body
from headstart.recipe.cleaning import Cleaning, clean
from headstart.recipe.clock import parse_duration
from headstart.recipe.flips import check_flips, probe_flips
from headstart.recipe.folder import RunFolder
from headstart.recipe.forecast import Forecast, forecast
from headstart.recipe.journal import Journal, Origin, Saving
from headstart.recipe.narrator import Narrator, TerminalNarrator
from headstart.recipe.plans import eight_steps
from headstart.recipe.result import Result, StepResult
from headstart.recipe.run import (
    go_on,
    largest_size,
    make_plan,
    prepare_folder,
    resume,
    run_steps,
    train,
)

__all__ = [
    "Body",
    "Cleaning",
    "Forecast",
    "Journal",
    "Narrator",
    "Origin",
    "Result",
    "RunFolder",
    "Saving",
    "StepResult",
    "TerminalNarrator",
    "check_flips",
    "clean",
    "eight_steps",
    "forecast",
    "go_on",
    "largest_size",
    "make_plan",
    "parse_duration",
    "prepare_folder",
    "probe_flips",
    "resume",
    "run_steps",
    "train",
]
