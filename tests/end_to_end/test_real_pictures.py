"""The whole way on real pictures with a real pretrained body, and the demo that needs neither."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from headstart.cli.main import run


@pytest.fixture
def few(shared: Path, tmp_path: Path) -> Path:
    """Forty cats and forty dogs as class folders, linked, and ten pictures without a label."""
    root = tmp_path / "pets"
    for kind in ("cats", "dogs"):
        (root / kind).mkdir(parents=True)
        for file in sorted((shared / "data" / "catsdogs" / "train" / kind).iterdir())[:40]:
            (root / kind / file.name).symlink_to(file)
    return root


def test_cats_and_dogs_go_all_the_way(few: Path, shared: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(few), "--arch", "mobilenetv2_100", "--weights", str(shared / "weights")]
    arguments += ["--image-size", "96", "--cycles", "1", "--test", "0.2", "--out", str(out), "--json", "-q"]
    assert run(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["final"]["test"]["accuracy"]["value"] >= 0.75
    assert summary["final"]["test"]["accuracy"]["low"] > 0.4
    assert {step["number"] for step in summary["steps"]} >= set(range(9))
    # A new process, another program: the same figures from the bundle alone.
    with open(out / "predictions.csv", encoding="utf-8", newline="") as stream:
        expected = {str(few / row["path"]): float(row["p_cats"]) for row in csv.DictReader(stream)}
    code = (
        "import headstart as hs, json, sys\n"
        f"found = hs.load({str(out / 'model')!r}).predict({list(expected)!r})\n"
        "print(json.dumps([float(row[0]) for row in found.probabilities]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for got, wanted in zip(json.loads(done.stdout), expected.values(), strict=True):
        assert abs(got - wanted) < 1e-4
    report = (out / "report.html").read_text("utf-8")
    assert "http://" not in report.replace("http://www.w3.org", "")
    assert "<script" not in report


def test_the_demo_carries_digits_over(tmp_path: Path, capsys) -> None:
    assert run(["demo", "--out", str(tmp_path / "demo"), "--json", "-q"]) == 0
    summary = json.loads(capsys.readouterr().out)
    steps = {step["name"]: step for step in summary["steps"]}
    assert steps["whole network"]["kept"]
    assert summary["final"]["test"]["accuracy"]["value"] > 0.9
    assert (tmp_path / "demo" / "body" / "test_resnet.safetensors").is_file()
    assert summary["settings"]["weights"].endswith("test_resnet.safetensors")
