"""Training while somebody deletes, replaces and cuts the pictures, and on pictures that are all one."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from headstart.cli import training
from headstart.cli.main import run
from headstart.recipe import Narrator

MakeFolder = Callable[..., Path]

ARCH = "test_resnet"
QUICK = ["--arch", ARCH, "--image-size", "32", "--cycles", "1", "--quiet", "--cache", "none", "--json"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from headstart.models import create_backbone
    from headstart.storage import save_tensors

    path = tmp_path_factory.mktemp("weights") / f"{ARCH}.safetensors"
    save_tensors(path, create_backbone(ARCH, from_scratch=True, image_size=32).module.state_dict())
    return path


class Saboteur(Narrator):
    """Changes the pictures when the step that trains on augmented ones begins; keeps what it is told."""

    def __init__(self, change: Callable[[], None]) -> None:
        self.change, self.said, self.steps = change, list[str](), list[int]()

    def step(self, number: int, name: str, reason: str) -> None:
        if number >= 4 and not any(known >= 4 for known in self.steps):
            self.change()
        self.steps.append(number)

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture
def sabotage(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], Saboteur]:
    """A function that lets a change happen in the middle of the next run of `train`."""

    def prepare(change: Callable[[], None]) -> Saboteur:
        told = Saboteur(change)
        monkeypatch.setattr(training, "narrator_for", lambda quiet: told)
        return told

    return prepare


def delete(file: Path) -> None:
    file.unlink()


def replace(file: Path) -> None:
    other = file.with_name("1.png" if file.name != "1.png" else "2.png")
    file.write_bytes(other.read_bytes())


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:50])


@pytest.mark.parametrize(
    ("spoil", "code"), [(delete, "VANISHED"), (replace, "CHANGED"), (truncate, "CHANGED")],
    ids=["deleted", "replaced", "truncated"],
)  # fmt: skip
def test_a_picture_that_goes_or_changes_in_the_run_stops_it_and_is_named(
    make_folder: MakeFolder, weights: Path, tmp_path: Path, capsys, sabotage, spoil, code
) -> None:
    root = make_folder({"train/ants": 12, "train/bees": 12, "valid/ants": 4, "valid/bees": 4})
    told = sabotage(lambda: spoil(root / "train" / "ants" / "3.png"))
    arguments = ["train", str(root), "--weights", str(weights), "--out", str(tmp_path / "run"), *QUICK]
    assert run(arguments) == 75
    said = capsys.readouterr()
    assert json.loads(said.out)["error"]["code"] == code
    assert f"error[{code}]: train/ants/3.png" in said.err
    assert "Traceback" not in said.err
    assert told.steps[-1] >= 4


@pytest.mark.parametrize("threads", ["1", "8"])
def test_with_on_error_skip_the_run_goes_on_without_them_and_counts_them(
    make_folder: MakeFolder, weights: Path, tmp_path: Path, capsys, sabotage, threads
) -> None:
    root = make_folder({"train/ants": 12, "train/bees": 12, "valid/ants": 6, "valid/bees": 6})

    def change() -> None:
        delete(root / "train" / "ants" / "3.png")
        truncate(root / "train" / "bees" / "4.png")
        replace(root / "valid" / "bees" / "5.png")

    told = sabotage(change)
    out = tmp_path / "run"
    arguments = ["train", str(root), "--weights", str(weights), "--out", str(out), *QUICK]
    assert run([*arguments, "--on-error", "skip", "--threads", threads]) == 0
    summary = json.loads(capsys.readouterr().out)
    lost = {"train/ants/3.png": "VANISHED", "train/bees/4.png": "CHANGED", "valid/bees/5.png": "CHANGED"}
    assert {each["path"]: each["code"] for each in summary["data"]["lost"]} == lost
    assert (summary["data"]["lost_count"], summary["data"]["quarantined_count"]) == (3, 0)
    line = "3 pictures went or changed during the run and were left out: 2 CHANGED, 1 VANISHED"
    assert line in told.said
    with open(out / "quarantine.csv", encoding="utf-8", newline="") as stream:
        assert {row["path"]: row["code"] for row in csv.DictReader(stream)} == lost
    with open(out / "predictions.csv", encoding="utf-8", newline="") as stream:
        rows = {row["path"]: row for row in csv.DictReader(stream)}
    assert len(rows) == 12
    assert math.isfinite(summary["final"]["valid"]["log_loss"]["value"])
    assert "pictures went or changed during the run and were left out" in (out / "report.html").read_text(
        "utf-8"
    )


def test_a_disk_that_goes_is_not_skipped(
    make_folder: MakeFolder, weights: Path, tmp_path: Path, capsys, sabotage
) -> None:
    root = make_folder({"ants": 12, "bees": 12})
    sabotage(lambda: [file.unlink() for file in root.rglob("*.png")])
    arguments = ["train", str(root), "--weights", str(weights), "--out", str(tmp_path / "run"), *QUICK]
    assert run([*arguments, "--on-error", "skip"]) == 75
    assert "error[TOO_MANY_LOST]" in capsys.readouterr().err


def test_pictures_that_are_all_one_train_and_the_scores_are_called_nothing(
    make_folder: MakeFolder, weights: Path, tmp_path: Path, capsys, sabotage
) -> None:
    root = make_folder({"ants": 10, "bees": 10})
    for file in root.rglob("*.png"):
        file.write_bytes((root / "ants" / "0.png").read_bytes())
    told = sabotage(lambda: None)
    out = tmp_path / "run"
    assert run(["train", str(root), "--weights", str(weights), "--out", str(out), *QUICK]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert any("all 20 pictures are one and the same" in line for line in told.said)
    assert any("all 20 pictures are one and the same" in line for line in summary["data"]["notes"])
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    for row in history:
        assert math.isfinite(row["train_loss"]), row
        assert math.isfinite(row["valid_loss"]), row
    assert abs(summary["final"]["valid"]["log_loss"]["value"] - math.log(2)) < 0.05
    page = (out / "report.html").read_text("utf-8").replace("\xa0", " ")
    assert "all 20 pictures are one and the same" in page
    assert "4 pictures to validate or test with are among those that trained" in page
    assert "were kept on one side" not in page
