"""A run of the recipe that is cut off, or that an error ends: in its frozen phase, between two, at the end.

With a pretrained body, whose part below the frozen line is computed by another engine than what trains.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.errors import StorageError
from headstart.imagedata import ImageData
from headstart.recipe import Body, Journal, Narrator, RunFolder, Saving, go_on, run_steps
from headstart.recipe.result import StepResult
from headstart.training import Callback, Phase, Plan, Settings, find_checkpoint, sgdr
from headstart.training.checkpoint_folder import checkpoints

PHASES = (
    Phase("head", 2, sgdr(2), learning_rate=1e-2, frozen_to=-1, step=4),
    Phase("whole network", 1, sgdr(1), learning_rate=1e-3, frozen_to=0, step=8),
)
PLAN = Plan(PHASES, Settings(seed=1, mixing="mixup", ema=0.9))
FILES = ("predictions.csv", "model/model.safetensors", "plan.yaml")


class Cut(BaseException):
    """The process ends here: nothing is saved on the way out."""


class At(Callback):
    """Raises an error after a step."""

    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error

    def after_step(self, run) -> None:
        if run.step == self.step:
            raise self.error


class Told(Narrator):
    """Keeps what it is told; is cut off when a step of the recipe has been told."""

    def __init__(self, number: int | None = None) -> None:
        self.said: list[str] = []
        self.number = number

    def say(self, text: str) -> None:
        self.said.append(text)

    def outcome(self, result: StepResult) -> None:
        if result.number == self.number:
            raise Cut


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cut") / "pictures"
    drawn = np.random.default_rng(0)
    for number in range(32):
        path = root / "ab"[number % 2] / f"{number // 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.integers(0, 256, (24, 32, 3), np.uint8)).save(path)
    return root


def data_of(pictures: Path) -> ImageData:
    return ImageData.from_folder(pictures, image_size=32, batch_size=8, seed=1, threads=0)


Begin = Callable[..., None]


@pytest.fixture(scope="module", autouse=True)
def _one_cache(tmp_path_factory) -> Iterator[None]:
    """Which engine is the faster one is measured once, and remembered there."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HEADSTART_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def begin(pictures, body) -> Begin:
    """A function that begins a run in a folder, and is done or cut off."""

    def run(out: Path, told: Narrator | None = None, callbacks=(), saving: Saving | None = None) -> None:
        run_steps(
            data_of(pictures), PLAN, Body(body.arch, body.weights), RunFolder(out), told or Narrator(),
            callbacks=callbacks, saving=saving or Saving(steps=2),
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def whole(begin, tmp_path_factory) -> Path:
    """The folder of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    begin(out)
    return out


def same(out: Path, whole: Path) -> None:
    for name in FILES:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    steps = [json.loads((folder / "summary.json").read_text())["steps"] for folder in (out, whole)]
    one, other = ([{**step, "seconds": 0} for step in each] for each in steps)
    assert one == other


CUTS = {
    "in the frozen phase": (None, 5),
    "after the whole network": (9, None),
}


@pytest.mark.parametrize("where", CUTS)
def test_a_run_that_was_cut_off_ends_as_one_that_was_not(begin, whole, pictures, tmp_path, where) -> None:
    number, step = CUTS[where]
    out = tmp_path / "run"
    with pytest.raises(Cut):
        begin(out, Told(number), () if step is None else (At(step, Cut()),))
    go_on(Journal.read(out), data_of(pictures), Narrator())
    same(out, whole)


def test_a_run_that_an_error_ended_goes_on_from_that_very_step(begin, whole, pictures, tmp_path) -> None:
    out, step = tmp_path / "run", 3
    error = ValueError("a fault of one's own")
    # No checkpoint would come by itself until the phase is over.
    seldom = Saving(seconds=1e9, most_of_time=1e-12)
    with pytest.raises(ValueError, match="a fault of one's own"):
        begin(out, callbacks=(At(step, error),), saving=seldom)
    found = find_checkpoint(out / "progress" / "checkpoints")
    assert found.state["step"] == step
    assert "a fault of one's own" in found.failure
    told = Told()
    go_on(Journal.read(out), data_of(pictures), told)
    assert any("ended by ValueError: a fault of one's own" in text for text in told.said)
    same(out, whole)


def test_an_error_when_an_epoch_is_over_neither_loses_nor_repeats_its_row(
    begin, whole, pictures, tmp_path, monkeypatch
) -> None:
    from headstart.training import EMA

    out = tmp_path / "run"

    def fails(self, run, row) -> None:
        raise StorageError("the disk is full")

    # It comes after the one that writes the row.
    with monkeypatch.context() as patched:
        patched.setattr(EMA, "after_epoch", fails, raising=False)
        with pytest.raises(StorageError):
            begin(out)
    go_on(Journal.read(out), data_of(pictures), Narrator())
    same(out, whole)
    rows = [(folder / "history.jsonl").read_text().splitlines() for folder in (out, whole)]
    assert len(rows[0]) == len(rows[1])


def test_the_line_between_phases_comes_back_as_it_was(begin, pictures, tmp_path) -> None:
    from headstart.recipe.clock import Clock
    from headstart.recipe.state import take_state
    from headstart.recipe.steps import EightSteps

    out = tmp_path / "run"
    with pytest.raises(Cut):
        begin(out, Told(9), ())
    assert checkpoints(out / "progress" / "checkpoints")
    journal = Journal.read(out)
    found = journal.find()
    assert found is not None
    steps = EightSteps(
        data_of(pictures), journal.plan, journal.body, RunFolder(out, goes_on=True), Narrator(), clock=Clock()
    )
    before = steps.learner.model.frozen_line
    take_state(steps, found)
    assert steps.learner.model.frozen_line == 0 != before
