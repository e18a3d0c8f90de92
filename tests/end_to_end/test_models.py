"""`headstart models`: what is listed without a network, and a probe of several bodies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headstart.cli.main import run
from headstart.storage import save_tensors

SMALL = ("test_resnet", "test_vit")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of two small bodies, and no others anywhere."""
    from headstart.models import create_backbone

    monkeypatch.delenv("HEADSTART_WEIGHTS", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    for name in SMALL:
        body = create_backbone(name, from_scratch=True, image_size=32).module
        save_tensors(tmp_path / "weights" / f"{name}.safetensors", body.state_dict())
    return tmp_path / "weights"


def test_bodies_are_listed_and_it_is_said_how_to_get_the_others(weights: Path, capsys) -> None:
    assert run(["models", "--weights", str(weights), "--no-measure", "--quiet"]) == 0
    said = capsys.readouterr().out
    rows = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert " here " in rows["test_resnet"]
    assert " hub " in rows["resnet34"]
    assert rows["resnet34"].rstrip().endswith("resnet50")
    assert "apache-2.0" in rows["resnet34"]
    assert "frozen" not in said, "nothing was measured"
    assert "HEADSTART_WEIGHTS" in said


def test_what_a_body_costs_is_measured_and_told_as_json(weights: Path, capsys) -> None:
    arguments = ["models", "--arch", "test_resnet", "--weights", str(weights), "--json", "--quiet"]
    assert run(arguments) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["cost"]["frozen_rate"] > 0
    assert row["cost"]["training_bytes"] > 4 * row["cost"]["weight_bytes"]
    assert row["weights"].endswith("test_resnet.safetensors")
    assert run(arguments[:-2]) == 0
    assert "MB" in capsys.readouterr().out


def test_several_bodies_are_probed_and_one_without_weights_is_told(
    weights: Path, make_folder, tmp_path: Path, capsys
) -> None:
    pictures = make_folder({"cats": 12, "dogs": 12}, height=40, width=48)
    plot = tmp_path / "plots" / "models.png"
    command = ["models", "--probe", str(pictures), "--image-size", "32", "--plot", str(plot), "--quiet"]
    command += ["--weights", str(weights), "--threads", "2"]
    assert run([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["arch"] for row in told["bodies"]} == set(SMALL), "those that are at hand"
    for row in told["bodies"]:
        assert 0 <= row["probe"]["low"] <= row["probe"]["value"] <= row["probe"]["high"] <= 1
        assert row["neighbours"]["value"] >= 0
        assert row["cost"]["frozen_rate"] > 0
    assert plot.read_bytes().startswith(b"\x89PNG")

    assert run(command) == 73, "the plot is there already"
    assert "--force" in capsys.readouterr().err
    assert run([*command, "--force", "--arch", "test_resnet,resnet34"]) == 0
    said = capsys.readouterr().out
    assert "test_resnet" in said
    assert "resnet34: the folder" in said
    assert run([*command, "--force", "--arch", "resnet34"]) == 66
    assert run([*command, "--force", "--arch", "resnet35"]) == 2
    assert run([*command, "--force", "--arch", "resnet34,"]) == 2
