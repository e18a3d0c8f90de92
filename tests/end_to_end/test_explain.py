"""`headstart explain`: from a model folder and pictures to heat maps on a page."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.augment import EvalPrepare
from headstart.cli.main import run
from headstart.deploy import Manifest, member_of, save_bundle
from headstart.models import create_classifier


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made = create_classifier("test_vit", 2, from_scratch=True, image_size=48)
    member = member_of(made, EvalPrepare((48, 48)), short_side=56, background=(255, 255, 255))
    manifest = Manifest(members=(member,), classes=("cat", "dog"))
    save_bundle(tmp_path / "model", [made], manifest)
    return tmp_path / "model"


def test_heat_maps_are_written_with_a_page_and_printed_as_a_table(
    model: Path, make_folder, tmp_path: Path, capsys
) -> None:
    pictures = make_folder({"some": 3})
    (pictures / "some" / "bad.png").write_bytes(b"no picture")
    before = {path: path.read_bytes() for path in pictures.rglob("*.png")}
    out = tmp_path / "heat"
    assert run(["explain", str(model), str(pictures), "--out", str(out), "--json"]) == 0
    told = capsys.readouterr()
    rows = json.loads(told.out)
    assert [row["status"] == "ok" for row in rows].count(True) == 3
    assert "1 of 4 pictures could not be read" in told.err
    good = [row for row in rows if row["status"] == "ok"]
    assert {row["method"] for row in good} == {"rollout"}
    for row in good:
        assert row["label"] == row["prediction"]
        assert 0 < row["area_of_half"] <= 0.51
        assert np.asarray(Image.open(out / row["overlay"])).shape == (48, 48, 3)
    assert json.loads((out / "explanations.json").read_text("utf-8")) == rows
    assert (out / "index.html").read_text("utf-8").count("<img") == 6
    assert {path: path.read_bytes() for path in pictures.rglob("*.png")} == before

    # Again with another class and method: only with --force, and as CSV.
    again = ["explain", str(model), str(pictures / "some" / "0.png"), "--out", str(out)]
    assert run(again) == 73
    assert run([*again, "--force", "--label", "dog", "--method", "gradcam"]) == 0
    told = capsys.readouterr()
    (row,) = csv.DictReader(io.StringIO(told.out))
    assert (row["label"], row["overlay"]) == ("dog", "overlays/00000-0.png")
    assert "index.html" in told.err
    assert len(list((out / "overlays").iterdir())) == 1


def test_what_cannot_be_explained_is_said_and_leaves_nothing(model: Path, tmp_path: Path, capsys) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    out = tmp_path / "heat"
    assert run(["explain", str(model), str(bad), "--out", str(out)]) == 65
    shutil.rmtree(out)
    assert run(["explain", str(model), str(tmp_path / "nowhere.png"), "--out", str(out)]) == 66
    Image.new("RGB", (60, 60)).save(bad)
    assert run(["explain", str(model), str(bad), "--out", str(out), "--label", "bird"]) == 2
    assert "classes are cat, dog" in capsys.readouterr().err
    assert run(["explain", str(model), str(bad), "--out", str(out), "--method", "lime"]) == 2
    assert not out.exists()
