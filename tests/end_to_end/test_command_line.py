"""The command line as a person meets it: what it writes, and what it says when something is wrong."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headstart.cli.main import run

ARCH = "test_resnet"
QUICK = ["--arch", ARCH, "--image-size", "32", "--cycles", "1", "--threads", "2", "--quiet"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from headstart.models import create_backbone
    from headstart.storage import save_tensors

    path = tmp_path_factory.mktemp("weights") / f"{ARCH}.safetensors"
    save_tensors(path, create_backbone(ARCH, from_scratch=True, image_size=32).module.state_dict())
    return path


def tree_hash(folder: Path) -> str:
    content = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        content.update(str(file.relative_to(folder)).encode("utf-8", "surrogateescape"))
        if file.is_file():
            content.update(file.read_bytes())
    return content.hexdigest()


def fails(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, *words: str) -> str:
    """Run, and check the exit code, the one-line error with its code, the hint, and no traceback."""
    capsys.readouterr()
    assert run(arguments) == code
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("error[")]
    assert len(lines) == 1, said
    assert "Traceback" not in said
    for word in words:
        assert word in said
    return said


def test_train_writes_the_whole_run_folder(make_folder, weights, tmp_path, capsys) -> None:
    pictures = make_folder({"ants": 12, "bees & wasps": 12, "мухи": 12}, name="my pictures")
    before = tree_hash(pictures)
    out = tmp_path / "run"
    arguments = ["train", str(pictures), "--weights", str(weights), "--out", str(out), *QUICK, "--json"]
    assert run([*arguments, "--test", "0.2"]) == 0
    summary = json.loads(capsys.readouterr().out)
    for name in ("model/manifest.json", "report.html", "history.jsonl", "predictions.csv", "plan.yaml"):
        assert (out / name).is_file(), name
    card = (out / "model" / "README.md").read_text("utf-8")
    assert f"| `мухи` | {summary['data']['counts']['train']['мухи']} |" in card
    assert "Accuracy" in card
    named = {*(path.name for path in pictures.rglob("*") if path.is_file()), pictures.name, str(tmp_path)}
    assert not [name for name in named if name in card], "a card names no picture and no folder"
    numbers = [step["number"] for step in summary["steps"]]
    assert numbers[0] == 0
    assert {1, 2, 3, 4, 5, 6, 7, 8, 9, 10} <= set(numbers)
    for step in summary["steps"]:
        assert step["reason"]
        assert step["outcome"]
        assert step["seconds"] >= 0
    with open(out / "predictions.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["split"] for row in rows} == {"valid", "test"}
    assert list(rows[0])[:5] == ["path", "split", "label", "prediction", "probability"]
    for row in rows:
        chances = [float(value) for name, value in row.items() if name.startswith("p_")]
        assert abs(sum(chances) - 1) < 1e-5
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert history[0]["name"] == "probe"
    assert {"train_loss", "valid_loss", "accuracy", "time", "seconds"} <= set(history[-1])
    assert tree_hash(pictures) == before, "the pictures were touched"


def test_predict_gives_what_training_wrote_down(make_folder, weights, tmp_path, capsys) -> None:
    pictures = make_folder({"ants": 12, "bees": 12})
    out = tmp_path / "run"
    assert run(["train", str(pictures), "--weights", str(weights), "--out", str(out), *QUICK]) == 0
    capsys.readouterr()
    with open(out / "predictions.csv", encoding="utf-8", newline="") as stream:
        expected = {row["path"]: row for row in csv.DictReader(stream)}
    files = [str(pictures / path) for path in expected]
    assert run(["predict", str(out / "model"), *files, "--json", "--top", "2"]) == 0
    for row, want in zip(json.loads(capsys.readouterr().out), expected.values(), strict=True):
        assert row["classes"][0]["class"] == want["prediction"]
        assert abs(row["classes"][0]["probability"] - float(want["probability"])) < 1e-5


def test_an_unreadable_picture_is_quarantined_named_and_counted(
    make_folder, weights, tmp_path, capsys
) -> None:
    pictures = make_folder({"ants": 12, "bees": 12})
    whole = (pictures / "ants" / "0.png").read_bytes()
    (pictures / "ants" / "torn.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "bees" / "notes.jpg").write_text("not a picture")
    out = tmp_path / "run"
    arguments = ["train", str(pictures), "--weights", str(weights), "--out", str(out), *QUICK, "--json"]
    assert run(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["data"]["quarantined_count"] == 2
    with open(out / "quarantine.csv", encoding="utf-8", newline="") as stream:
        rows = {row["path"]: row["code"] for row in csv.DictReader(stream)}
    assert rows == {"ants/torn.png": "TRUNCATED", "bees/notes.jpg": "NOT_AN_IMAGE"}
    assert run(["predict", str(out / "model"), str(pictures / "bees" / "notes.jpg")]) == 65
    assert run(["predict", str(out / "model"), str(pictures / "bees")]) == 0
    assert "1 of 13 pictures could not be read" in capsys.readouterr().err


def test_odd_names_come_through(make_folder, weights, tmp_path, capsys) -> None:
    names = {"a b": 8, 'quote"s': 8, "line\nbreak": 8, "数字": 8, "=1+1": 8, "<script>": 8}
    pictures = make_folder(names)
    out = tmp_path / "run"
    assert run(["train", str(pictures), "--weights", str(weights), "--out", str(out), *QUICK]) == 0
    with open(out / "predictions.csv", encoding="utf-8", newline="") as stream:
        assert {row["label"] for row in csv.DictReader(stream)} == set(names)
    report = (out / "report.html").read_text("utf-8")
    assert "<script>alert" not in report
    assert "&lt;script&gt;" in report


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (lambda root: root / "missing", 66, ("missing",)),
        (lambda root: root, 66, ("no picture",)),
    ],
)
def test_a_missing_or_empty_folder_is_explained(make, code, words, tmp_path, capsys) -> None:
    (tmp_path / "root").mkdir()
    out = tmp_path / "run"
    said = fails(capsys, ["train", str(make(tmp_path / "root")), "--out", str(out), *QUICK], code)
    assert any(word in said for word in words)
    assert not out.exists(), "a run that cannot begin leaves nothing"


def test_one_class_and_a_class_of_one_picture(make_folder, weights, tmp_path, capsys) -> None:
    fails(
        capsys, ["train", str(make_folder({"ants": 5}, name="one")), "--out", str(tmp_path / "r"), *QUICK], 65
    )
    pictures = make_folder({"ants": 12, "bees": 12, "crab": 1}, name="single")
    out = tmp_path / "run"
    assert run(["train", str(pictures), "--weights", str(weights), "--out", str(out), *QUICK]) == 0


def test_an_existing_out_is_kept_unless_forced(make_folder, weights, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    arguments = ["train", str(make_folder({"a": 8, "b": 8})), "--weights", str(weights), *QUICK]
    fails(capsys, [*arguments, "--out", str(out)], 73, "exists", "--force")
    assert run([*arguments, "--out", str(out), "--force"]) == 0
    assert (out / "precious.txt").read_text() == "mine"


def test_force_never_removes_pictures_that_no_run_wrote(make_folder, weights, tmp_path, capsys) -> None:
    own = make_folder({"pictures/a": 8, "pictures/b": 8, "digits/1": 2, "checkpoint": 2}, name="home")
    before = tree_hash(own)
    arguments = ["train", str(own / "pictures"), "--weights", str(weights), *QUICK, "--force"]
    fails(capsys, [*arguments, "--out", str(own)], 73, "pictures")
    fails(capsys, ["demo", "--out", str(own), "--force", "-q"], 73, "digits")
    assert tree_hash(own) == before
    out = tmp_path / "run"
    assert run([*arguments, "--out", str(out)]) == 0
    (out / "checkpoint").mkdir()
    (out / "checkpoint" / "mine").write_text("kept")
    assert run([*arguments, "--out", str(out)]) == 0
    assert (out / "checkpoint" / "mine").read_text() == "kept"


def test_an_unknown_architecture_names_the_nearest(make_folder, tmp_path, capsys) -> None:
    pictures = make_folder({"a": 8, "b": 8})
    arguments = ["train", str(pictures), "--arch", "resnet43", "--from-scratch", "--out", str(tmp_path / "r")]
    fails(capsys, [*arguments, "--quiet"], 2, "resnet43", "resnet34")


def test_weights_that_do_not_fit_name_the_keys(make_folder, weights, tmp_path, capsys) -> None:
    pictures = make_folder({"a": 8, "b": 8})
    arguments = ["train", str(pictures), "--arch", "test_efficientnet", "--weights", str(weights)]
    fails(capsys, [*arguments, "--quiet", "--out", str(tmp_path / "r")], 78, "conv_stem")


def test_no_network_for_weights_gives_the_three_ways_out(make_folder, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("HEADSTART_WEIGHTS", raising=False)
    pictures = make_folder({"a": 8, "b": 8})
    said = fails(capsys, ["train", str(pictures), "--quiet", "--out", str(tmp_path / "r")], 74)
    for way in ("--weights", "HEADSTART_WEIGHTS", "--from-scratch"):
        assert way in said


def test_a_picture_size_too_small_for_the_network_is_refused(make_folder, tmp_path, capsys) -> None:
    pictures = make_folder({"a": 8, "b": 8})
    arguments = ["train", str(pictures), "--arch", "vgg16_bn", "--from-scratch", "--image-size", "8"]
    fails(capsys, [*arguments, "--quiet", "--out", str(tmp_path / "r")], 2, "8")


def test_flags_out_of_range_are_usage_errors(make_folder, tmp_path, capsys) -> None:
    pictures = str(make_folder({"a": 8, "b": 8}))
    start = ["train", pictures, "--from-scratch", "--arch", ARCH, "--quiet", "--out", str(tmp_path / "r")]
    for flags in (
        ["--image-size", "many"],
        ["--augment", "sideways"],
        ["--mixing", "blend"],
        ["--batch-size", "0"],
        ["--cycles", "0"],
        ["--valid", "1.5"],
        ["--time", "soon"],
        ["--rate-ratio", "low"],
        ["--metric", "acuracy"],
        ["--nonsense"],
    ):
        fails(capsys, [*start, *flags], 2)
        shutil.rmtree(tmp_path / "r", ignore_errors=True)


def test_a_read_only_folder_of_pictures_is_read(make_folder, weights, tmp_path) -> None:
    pictures = make_folder({"a": 8, "b": 8})
    for folder in (pictures, pictures / "a", pictures / "b"):
        folder.chmod(0o555)
    try:
        out = tmp_path / "run"
        assert run(["train", str(pictures), "--weights", str(weights), "--out", str(out), *QUICK]) == 0
    finally:
        for folder in (pictures, pictures / "a", pictures / "b"):
            folder.chmod(0o755)


def test_a_dry_run_forecasts_and_trains_nothing(make_folder, weights, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["train", str(make_folder({"a": 12, "b": 12})), "--weights", str(weights), *QUICK]
    assert run([*arguments, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "head on activations" in said
    assert "Forecast" in said
    assert not (tmp_path / "runs").exists()


def test_a_plan_file_is_followed(make_folder, weights, tmp_path, capsys) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "headstart_plan: 1\nphases:\n"
        "  - {name: only the head, epochs: 1, learning_rate: 0.01, frozen_to: -1, step: 4}\n"
    )
    out = tmp_path / "run"
    arguments = ["train", str(make_folder({"a": 12, "b": 12})), "--weights", str(weights), *QUICK]
    assert run([*arguments, "--plan", str(plan), "--out", str(out), "--json"]) == 0
    names = [step["name"] for step in json.loads(capsys.readouterr().out)["steps"]]
    assert "only the head" in names
    assert "whole network" not in names
    plan.write_text("headstart_plan: 1\nphases:\n  - {name: x, epohcs: 1}\n")
    fails(capsys, [*arguments, "--plan", str(plan), "--out", str(tmp_path / "other")], 78, "epochs")


def test_a_budget_shortens_the_plan(make_folder, weights, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    pictures = make_folder({"a": 40, "b": 40})
    arguments = ["train", str(pictures), "--weights", str(weights), "--arch", ARCH, "--image-size", "32"]
    started = time.monotonic()
    assert run([*arguments, "--cycles", "8", "--time", "12s", "--out", str(out), "--json", "-q"]) == 0
    assert time.monotonic() - started < 30, "255 epochs would take minutes"
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert sum(step["epochs"] for step in steps) < 255


def test_progressive_sizes_end_at_the_largest(make_folder, weights, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    pictures = make_folder({"a": 12, "b": 12}, height=70, width=70)
    arguments = ["train", str(pictures), "--weights", str(weights), "--arch", ARCH, "--cycles", "1", "-q"]
    assert run([*arguments, "--sizes", "32,48", "--out", str(out), "--json"]) == 0
    names = [step["name"] for step in json.loads(capsys.readouterr().out)["steps"]]
    assert any("48x48" in name for name in names)


def test_lr_find_prints_a_table_and_draws_the_curve(make_folder, weights, tmp_path, capsys) -> None:
    plot = tmp_path / "curve.png"
    arguments = ["lr-find", str(make_folder({"a": 20, "b": 20})), "--weights", str(weights), "--arch", ARCH]
    assert run([*arguments, "--image-size", "32", "--plot", str(plot), "-q"]) == 0
    assert "valley" in capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")
    fails(capsys, [*arguments, "--plot", str(plot), "-q"], 73, "exists")


def test_lr_find_tries_rates_on_any_line(make_folder, weights, tmp_path, capsys) -> None:
    plot = tmp_path / "trials.png"
    arguments = ["lr-find", str(make_folder({"a": 20, "b": 20})), "--weights", str(weights), "--arch", ARCH]
    arguments += ["--image-size", "32", "--trials", "--plot", str(plot), "-q"]
    assert run([*arguments, "--frozen-to", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["trials"]
    assert found["why"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert run([*arguments, "--unfrozen", "--force"]) == 0
    assert "take" in capsys.readouterr().out
    fails(capsys, [*arguments, "--unfrozen", "--frozen-to", "1", "--force"], 2, "different things")


def test_doctor_says_what_is_here(capsys, monkeypatch, weights) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HEADSTART_WEIGHTS", str(weights.parent))
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["weights_found"] == [weights.name]
    assert "torch" in found["versions"]


def test_an_altered_bundle_is_refused(make_folder, weights, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    pictures = make_folder({"a": 8, "b": 8})
    assert run(["train", str(pictures), "--weights", str(weights), "--out", str(out), *QUICK]) == 0
    file = out / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    fails(capsys, ["predict", str(out / "model"), str(pictures)], 78, "model.safetensors")


def test_help_is_quick_and_loads_no_torch() -> None:
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from headstart.cli.main import run\n"
        "assert run(['--help']) == 0\n"
        "assert 'torch' not in sys.modules and 'timm' not in sys.modules\n"
        "print('seconds', time.perf_counter() - start, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "train" in done.stdout


def test_ctrl_c_keeps_what_was_trained(make_folder, weights, tmp_path) -> None:
    out = tmp_path / "run"
    pictures = make_folder({"a": 60, "b": 60})
    command = [sys.executable, "-m", "headstart", "train", str(pictures), "--weights", str(weights)]
    command += ["--arch", ARCH, "--image-size", "32", "--cycles", "8", "--epochs", "20", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    history = out / "history.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if history.is_file() and len(history.read_text().splitlines()) >= 4:
            break
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    try:
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert str(out) in said
    assert (out / "model" / "manifest.json").is_file()
    assert (out / "report.html").is_file()
    assert json.loads((out / "summary.json").read_text())["stop_reason"] == "interrupted"
