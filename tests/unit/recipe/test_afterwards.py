"""What a finished run looks back at: it is there, changes nothing, and never costs the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.evaluation import Predictions, rows_to_explain
from headstart.imagedata import ImageData
from headstart.learner import Learner
from headstart.recipe import Body, Narrator, Result, prepare_folder, resume
from headstart.recipe import afterwards as looking
from headstart.recipe.clock import Clock
from headstart.recipe.steps import EightSteps
from headstart.training import Phase, Plan, constant

HEAD = Plan((Phase("head", 1, constant(), learning_rate=1e-3, augment=False, precompute=True),))


class Listening(Narrator):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, body: Body
) -> Iterator[tuple[Result, Callable[..., EightSteps]]]:
    """A finished run with a table that has a column, and what makes another one over the same pictures."""
    root = tmp_path_factory.mktemp("afterwards")
    random = np.random.default_rng(0)
    for number in range(60):
        path = root / "pictures" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        corners = Image.fromarray(random.integers(0, 256, (2, 2, 3), dtype=np.uint8))
        corners.resize((32, 24), Image.Resampling.BILINEAR).save(path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HEADSTART_CACHE", str(root / "cache"))
        data = ImageData.from_folder(root / "pictures", image_size=32, valid=0.4, threads=0)
        site = np.full(len(data.samples), "a", object)
        site[data.rows("valid")[::2]] = "b"
        data = data.with_options(samples=replace(data.samples, columns={"site": site}))

        def make(out: str, budget: float | None = None) -> EightSteps:
            run = prepare_folder(root / out, root / "pictures")
            return EightSteps(data, HEAD, body, run, Listening(), clock=Clock(budget))

        yield make("whole", 1000.0).run(), make


def heats(folder: Path) -> set[int]:
    return {int(path.name.split("_")[0]) for path in folder.glob("pictures/*_heat.jpg")}


def test_a_run_leaves_slices_heat_doubts_and_a_map(whole: tuple[Result, Callable[..., EightSteps]]) -> None:
    result = whole[0]
    summary = json.loads((result.folder / "summary.json").read_text())
    assert result.summary["slices"] == summary["slices"]
    assert result.summary["doubts"] == summary["doubts"]

    table = Predictions.from_csv(result.folder / "predictions.csv")
    explained = heats(result.folder)
    assert explained
    assert explained <= set(rows_to_explain(table).tolist())

    # The made pictures are of one size and format, and 24 are too few for bins of their light.
    assert {(each["column"], each["value"]) for each in summary["slices"]} == {("site", "a"), ("site", "b")}
    one = summary["slices"][0]
    assert set(one["accuracy"]) == set(one["log_loss"]) == {"value", "low", "high"}
    assert {"column", "value", "count", "rest_accuracy", "p_value", "q_value", "worse"} <= set(one)

    doubts = summary["doubts"]
    assert doubts["pictures"] == doubts["labels"] == 60
    assert 0 < len(doubts["examples"]) <= 12
    for each in doubts["examples"]:
        assert (result.folder / each["picture"]).is_file()
        assert each["path"].startswith(each["label"])
        assert each["suggested"] != each["label"]
        assert each["probability"] > each["label_probability"]

    place = json.loads((result.folder / "embedding.json").read_text())
    assert place["projection"] == "tsne"
    assert place["rows"] == np.flatnonzero(table.split == "valid").tolist()
    assert len(place["x"]) == len(place["y"]) == len(place["rows"])


def test_nothing_of_it_changes_the_model_the_figures_or_the_predictions(
    whole: tuple[Result, Callable[..., EightSteps]], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, make = whole
    before = result.folder
    monkeypatch.setattr(looking, "look_back", lambda *given: {})
    other = make("other").run().folder
    for name in ("predictions.csv", "model/model.safetensors", "plan.yaml"):
        assert (before / name).read_bytes() == (other / name).read_bytes(), name
    with_it, without = (json.loads((each / "summary.json").read_text()) for each in (before, other))
    assert with_it["final"] == without["final"]
    assert "doubts" in with_it
    assert "doubts" not in without


def test_what_fails_is_left_out_and_said_in_a_line(
    whole: tuple[Result, Callable[..., EightSteps]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any, **named: Any) -> None:
        raise RuntimeError("no gradient\nfor this body")

    steps = whole[1]("fails")
    monkeypatch.setattr(Learner, "explain", fails)
    monkeypatch.setattr(looking, "save_map", fails)
    result = steps.run()
    assert isinstance(steps.narrator, Listening)
    lines = [line for line in steps.narrator.said if "left out" in line]
    assert lines == [
        "  ! heat maps are left out: RuntimeError: no gradient for this body",
        "  ! places on a map are left out: RuntimeError: no gradient for this body",
    ]
    assert not heats(result.folder)
    assert result.summary["doubts"]["examples"]
    assert result.report.is_file()
    assert json.loads((result.folder / "run.json").read_text())["complete"]


def test_a_run_that_was_stopped_goes_without_what_takes_time(
    whole: tuple[Result, Callable[..., EightSteps]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(steps: EightSteps, phase: Phase) -> None:
        steps.stop_reason = "interrupted"

    monkeypatch.setattr(EightSteps, "_phase", stopped)
    result = whole[1]("stopped").run()
    assert result.summary["slices"]
    assert "doubts" not in result.summary
    assert not heats(result.folder)
    assert not (result.folder / "embedding.json").exists()
    assert result.report.is_file()


def test_a_budget_that_is_used_up_leaves_out_all_that_takes_time(
    whole: tuple[Result, Callable[..., EightSteps]], monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = looking.frozen_features

    def late(steps: EightSteps) -> Any:
        steps.clock = Clock(1000.0, 1001.0)
        return frozen(steps)

    monkeypatch.setattr(looking, "frozen_features", late)
    in_time, make = whole  # with the same budget, and time left
    steps = make("used up", 1000.0)
    result = steps.run()
    assert isinstance(steps.narrator, Listening)
    assert any("budget is used up" in line for line in steps.narrator.said)
    assert in_time.summary["doubts"]["pictures"] == 60
    assert result.summary["doubts"]["pictures"] == len(steps.data.rows("valid")) == 24
    assert heats(in_time.folder)
    assert not heats(result.folder)
    assert (in_time.folder / "embedding.json").exists()
    assert not (result.folder / "embedding.json").exists()


def test_where_features_would_fill_the_memory_or_the_time_validation_labels_are_doubted(
    steps: EightSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.recipe.probing import look_first

    steps.first = look_first(steps)
    frozen = looking.frozen_features(steps)
    every, valid = len(steps.data.samples), len(steps.data.rows("valid"))

    def judged() -> int:
        found = looking._doubts(steps, frozen)
        assert found is not None
        return int(found["pictures"])

    assert judged() == every
    with monkeypatch.context() as patched:
        patched.setattr(looking, "MOST_BYTES", 1000)
        assert judged() == valid
    with monkeypatch.context() as patched:
        patched.setattr(looking, "SECONDS_FOR_DOUBTS", 1e-9)
        patched.setattr(looking, "SHARE_FOR_DOUBTS", 0.0)
        assert judged() == valid
    assert judged() == every


def test_a_run_that_fell_over_at_its_end_looks_back_at_the_same(
    whole: tuple[Result, Callable[..., EightSteps]], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, make = whole
    broken = make("broken")
    with monkeypatch.context() as patched:
        patched.setattr("headstart.recipe.steps.finish", lambda steps: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            broken.run()
    again = resume(broken.folder.path, broken.data, narrator=Narrator())
    assert again is not None
    for name in ("slices", "doubts"):
        assert again.summary[name] == result.summary[name], name
    for name in ("embedding.json", *(f"pictures/{row}_heat.jpg" for row in heats(result.folder))):
        assert (again.folder / name).read_bytes() == (result.folder / name).read_bytes(), name


def test_an_ensemble_of_snapshots_is_explained_by_the_mean_of_its_members(
    steps: EightSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    state = steps.learner.state()
    head = [name for name in state if name.startswith("head")]
    other = {name: -value if name in head else value for name, value in state.items()}
    rows = steps.data.rows("valid")[:3].tolist()
    alone = looking._explained(steps, rows, ["cat", "dog", "cat"])
    steps.best.members = (state, other)
    both = looking._explained(steps, rows, ["cat", "dog", "cat"])
    steps.best.members = (other,)
    second = looking._explained(steps, rows, ["cat", "dog", "cat"])
    for mean, one, two in zip(both, alone, second, strict=True):
        assert mean.heat is not None
        assert one.heat is not None
        assert two.heat is not None
        np.testing.assert_allclose(mean.heat, (one.heat + two.heat) / 2, atol=1e-6)
        assert not np.allclose(one.heat, two.heat)
    # The network goes on as it was.
    assert all(torch.equal(value, steps.learner.state()[name]) for name, value in state.items())
