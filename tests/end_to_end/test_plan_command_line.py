"""`headstart plan`: shown, followed, changed."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from headstart.cli.main import run
from headstart.cli.plans import edit_draft
from headstart.errors import ConfigError
from headstart.recipe import eight_steps
from headstart.storage import save_tensors
from headstart.training import Phase, Plan

ARCH = "test_resnet"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    Plan((Phase("only the head", 2, learning_rate=0.01, step=4),)).to_yaml(path)
    return path


def fails(capsys, arguments: list[str], code: int, *words: str) -> None:
    capsys.readouterr()
    assert run(arguments) == code
    said = capsys.readouterr().err
    assert said.startswith("error["), said
    for word in words:
        assert word in said


def test_the_recipe_a_plan_and_a_run_are_shown(plan, tmp_path, capsys) -> None:
    assert run(["plan", "show"]) == 0
    assert capsys.readouterr().out == f"{eight_steps()}\n"
    assert run(["plan", "show", "--yaml"]) == 0
    assert Plan.from_yaml(capsys.readouterr().out) == eight_steps()
    for place in (plan, tmp_path):
        assert run(["plan", "show", str(place), "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown.pop("total_epochs") == 2
        assert shown == Plan.from_yaml(plan).to_plain()


def test_a_plan_is_drawn(plan, tmp_path, capsys) -> None:
    picture = tmp_path / "plan.png"
    assert run(["plan", "show", str(plan), "--plot", str(picture), "--groups", "1"]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    fails(capsys, ["plan", "show", str(plan), "--plot", str(picture)], 73, "exists", "--force")
    fails(capsys, ["plan", "show", str(plan), "--plot", str(tmp_path / "plan.txt")], 2, ".png")
    fails(capsys, ["plan", "show", str(tmp_path / "none.yaml")], 66, "none.yaml")
    fails(capsys, ["plan", "shwo"], 2, "see headstart plan --help")


def test_a_changed_plan_is_a_new_file(plan, tmp_path, capsys) -> None:
    before = plan.read_bytes()
    assert run(["plan", "edit", str(plan), "--set", "phases.1.epochs=4", "--set", "settings.seed=2"]) == 0
    assert "plan-2.yaml" in capsys.readouterr().out
    changed = Plan.from_yaml(tmp_path / "plan-2.yaml")
    assert (changed.phases[0].epochs, changed.settings.seed) == (4, 2)
    assert plan.read_bytes() == before
    out = tmp_path / "own.yaml"
    arguments = ["plan", "edit", str(plan), "--out", str(out), "--set"]
    fails(capsys, [*arguments, "phases.1.epohcs=4"], 78, "did you mean epochs")
    assert not out.exists()
    assert run([*arguments, "phases.1.epochs=3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == str(out)
    fails(capsys, [*arguments, "phases.1.epochs=5"], 73, "exists")
    assert Plan.from_yaml(out).phases[0].epochs == 3


def test_without_a_terminal_there_must_be_something_to_set(plan, capsys) -> None:
    fails(capsys, ["plan", "edit", str(plan)], 2, "--set")


def editor(tmp_path: Path, code: str) -> str:
    script = tmp_path / "editor.py"
    script.write_text(
        f"import sys, pathlib\nfile = pathlib.Path(sys.argv[1])\ntext = file.read_text()\n{code}\n"
    )
    return shlex.join([sys.executable, str(script)])


def test_what_an_editor_leaves_is_checked_and_never_lost(plan, tmp_path) -> None:
    draft, old = tmp_path / "new.draft.yaml", Plan.from_yaml(plan)
    wrong = editor(tmp_path, "file.write_text(text.replace('epochs:', 'epohcs:'))")
    with pytest.raises(ConfigError, match="goes on from") as caught:
        edit_draft(old, draft, wrong)
    assert "did you mean epochs" in str(caught.value)
    assert "epohcs: 2" in draft.read_text()
    right = editor(tmp_path, "file.write_text(text.replace('epohcs: 2', 'epochs: 5'))")
    assert edit_draft(old, draft, right).phases[0].epochs == 5
    assert not draft.exists()
    with pytest.raises(ConfigError, match="ended with 3"):
        edit_draft(old, draft, editor(tmp_path, "sys.exit(3)"))
    assert draft.exists()
    with pytest.raises(ConfigError, match="cannot be run"):
        edit_draft(old, draft, "no-such-editor-here")


def test_a_plan_is_run_with_the_options_of_train(plan, make_folder, tmp_path, capsys) -> None:
    from headstart.models import create_backbone

    weights = tmp_path / f"{ARCH}.safetensors"
    save_tensors(weights, create_backbone(ARCH, from_scratch=True, image_size=32).module.state_dict())
    out = tmp_path / "run"
    arguments = ["plan", "run", str(plan), str(make_folder({"a": 12, "b": 12})), "--weights", str(weights)]
    arguments += ["--arch", ARCH, "--image-size", "32", "--threads", "2", "-q"]
    assert run([*arguments, "--dry-run", "--json"]) == 0
    forecast = json.loads(capsys.readouterr().out)
    assert forecast["pictures_per_second"]["1. only the head"] > 0
    assert forecast["memory_bytes"] > 10e6
    arguments += ["--out", str(out)]
    followed = ["--json", "--epochs", "0.5", "--time", "5m", "--log", "csv,tensorboard"]
    assert run([*arguments, *followed]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert [step["epochs"] for step in steps if step["name"] == "only the head"] == [1]
    assert Plan.from_yaml(out).phases[0].name == "only the head"
    assert (out / "history.csv").read_text().count("only the head") == 1
    assert len(list((out / "tensorboard").iterdir())) == 1
    fails(capsys, [*arguments, "--cycles", "2"], 2, "--cycles")


def test_pictures_grow_in_a_phase_of_the_recipe(make_folder, tmp_path, capsys) -> None:
    path, out = tmp_path / "growing.yaml", tmp_path / "run"
    path.write_text(
        "headstart_plan: 1\nphases:\n"
        "  - name: all\n    epochs: 3\n    schedule: one_cycle\n    learning_rate: 1e-3\n    frozen_to: 0\n"
        "    image_size: 64\n    image_size_schedule: {name: linear, start: 0.5, end: 1}\n"
    )
    pictures = make_folder({"a": 16, "b": 16}, height=70, width=70)
    arguments = ["plan", "run", str(path), str(pictures), "--arch", ARCH, "--from-scratch", "-q", "--json"]
    assert run([*arguments, "--threads", "2", "--image-size", "64", "--out", str(out)]) == 0
    steps = {step["name"]: step["epochs"] for step in json.loads(capsys.readouterr().out)["steps"]}
    assert {name: count for name, count in steps.items() if name.startswith("all")} == {
        "all at 32x32": 1,
        "all at 64x64": 2,
    }
