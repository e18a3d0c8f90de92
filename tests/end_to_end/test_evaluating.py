"""From a trained run to figures with intervals, a report of them, and a comparison; on the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from headstart.cli.main import main
from headstart.evaluation import Predictions

QUICK = ("--arch", "test_resnet", "--from-scratch", "--image-size", "32", "--device", "cpu", "--threads", "1")


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0)


@pytest.fixture
def pictures(make_folder) -> Path:  # type: ignore[no-untyped-def]
    return make_folder({"cat": 70, "dog": 70}, height=40, width=48)


def test_a_run_is_evaluated_compared_and_predicts_what_it_decided(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train = ["train", str(pictures), *QUICK, "--epochs", "1", "--valid", "0.5", "-q"]
    assert run([*train, "--out", str(first)]) == 0
    assert run([*train, "--out", str(second), "--augment", "none"]) == 0
    summary = json.loads((first / "summary.json").read_text())
    assert {"scaling", "sets", "none_of_these"} <= set(summary)
    assert summary["sets"]["coverage"]["value"] > 0.6
    assert summary["none_of_these"]["turned_away"]["value"] < 0.4

    capsys.readouterr()
    assert run(["compare", str(first), str(second)]) == 0
    told = capsys.readouterr().out
    assert "70 validation pictures that both kept aside" in told
    assert "2 against 1, by accuracy:" in told
    assert run(["compare", str(first), str(second), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == 70

    out = tmp_path / "judged"
    evaluate = ["evaluate", str(first), str(pictures), "--trusted", "--device", "cpu", "--threads", "1", "-q"]
    assert run([*evaluate, "--tta", "multi-scale", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pictures"] == 140
    assert found["tta"]["policy"] == "multi-scale"
    assert found["tta"]["cost"] > 0
    assert {"accuracy", "roc_auc", "log_loss", "expected_calibration_error"} <= set(found["figures"])
    assert all(set(value) == {"value", "low", "high"} for value in found["figures"].values())
    assert [each["class"] for each in found["classes"]] == ["cat", "dog"]
    assert (out / "report.html").is_file()
    assert {each["column"] for each in found["slices"]} == {"brightness", "contrast"}
    assert json.loads((out / "summary.json").read_text())["slices"] == found["slices"]
    assert 20 <= len(json.loads((out / "embedding.json").read_text())["rows"]) <= 140
    assert list(out.glob("pictures/*_heat.jpg"))
    assert Predictions.from_csv(out / "predictions.csv").sets is not None
    assert run(["compare", str(out), str(out)]) == 0
    assert "cannot tell with 140 pictures" in capsys.readouterr().out

    assert run([*evaluate, "--metric", "matthews"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("matthews")
    assert run([*evaluate, "--out", str(first)]) == 73
    assert run([*evaluate, "--out", str(out)]) == 73
    (out / "pictures" / "999_heat.jpg").write_bytes(b"of an earlier one")
    asked = ["--metric", "accuracy", "--slice", "contrast"]
    assert run([*evaluate, "--out", str(out), "--force", *asked]) == 0
    assert not (out / "pictures" / "999_heat.jpg").exists()
    told = capsys.readouterr().out
    assert "contrast" in told
    assert "brightness" not in told
    assert run([*evaluate, "--slice", "camera"]) == 2
    said = capsys.readouterr()
    assert "there is no column 'camera'" in said.err
    assert said.out == ""
    assert run([*evaluate, "--tta", "sideways"]) == 2
    assert "course-2018" in capsys.readouterr().err

    assert run(["predict", str(first), str(pictures / "cat"), "--trusted", "--tta", "none"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert {row["none_of_these"] for row in rows} <= {"yes", "no"}
    assert all(row["prediction"] in json.loads(row["set"]) for row in rows)


def test_runs_that_share_no_picture_are_refused(
    make_folder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],  # type: ignore[no-untyped-def]
) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        pictures = make_folder({"cat": 2, "dog": 2}, name=f"{name}-pictures")
        table = Predictions(
            [[1.0, 0.0], [0.0, 1.0]], ("cat", "dog"), targets=[0, 1], paths=("cat/0.png", "dog/0.png")
        )
        table.to_csv(folder / "predictions.csv")
        (folder / "summary.json").write_text(json.dumps({"data": {"root": str(pictures)}}))
    assert run(["compare", str(tmp_path / "one"), str(tmp_path / "two")]) == 2
    error = capsys.readouterr().err
    assert "share no picture" in error
    assert "headstart evaluate" in error
