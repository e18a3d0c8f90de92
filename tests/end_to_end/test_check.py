"""`headstart check` as a person meets it: the table, the files it writes, and that training obeys them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.cli.main import run

MakeFolder = Callable[..., Path]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture
def faulty(make_folder: MakeFolder) -> Path:
    root = make_folder({"left": 6, "right": 6}, height=48, width=64)
    (root / "right" / "copy.png").write_bytes((root / "left" / "0.png").read_bytes())
    (root / "left" / "cut.png").write_bytes((root / "left" / "1.png").read_bytes()[:60])
    return root


def test_a_check_says_what_is_wrong_writes_its_files_and_changes_no_picture(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(faulty)
    page, listed, sheet = tmp_path / "check.html", tmp_path / "list.csv", tmp_path / "sheet.jpg"
    files = ["--out", str(page), "--quarantine", str(listed), "--show-augment", str(sheet)]
    assert run(["check", str(faulty), "--image-size", "32", "--quiet", *files]) == 0
    shown = capsys.readouterr().out
    assert "fault  LABEL_CONFLICT         2" in shown
    assert "fault  TRUNCATED              1" in shown
    assert "resize     crop to 32 x 32" in shown
    assert contents(faulty) == before
    with Image.open(sheet) as picture:
        assert (picture.format, picture.width > picture.height) == ("JPEG", True)
    assert "LABEL_CONFLICT" in page.read_text(encoding="utf-8")
    with open(listed, encoding="utf-8", newline="") as stream:
        assert {row["path"] for row in csv.DictReader(stream)} == {
            "left/0.png",
            "left/cut.png",
            "right/copy.png",
        }
    # What is there is not replaced unasked.
    assert run(["check", str(faulty), "--quiet", "--out", str(page)]) == 73
    assert run(["check", str(faulty), "--quiet", "--out", str(page), "--force"]) == 0


def test_strict_fails_where_there_is_a_fault_and_only_there(
    faulty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["check", str(faulty), "--quiet", "--strict", "--json"]) == 65
    content = json.loads(capsys.readouterr().out)
    assert {each["code"] for each in content["findings"] if each["fault"]} == {"LABEL_CONFLICT", "TRUNCATED"}
    (faulty / "right" / "copy.png").unlink()
    (faulty / "left" / "cut.png").unlink()
    assert run(["check", str(faulty), "--quiet", "--strict"]) == 0


def test_training_takes_the_list_and_the_resize_policy(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "list.csv"
    assert run(["check", str(faulty), "--quiet", "--quarantine", str(listed)]) == 0
    flags = ["--arch", "test_resnet", "--from-scratch", "--image-size", "32", "--threads", "1", "--dry-run"]
    assert run(["train", str(faulty), *flags, "--quarantine", str(listed), "--resize", "pad"]) == 0
    said = capsys.readouterr().err
    assert "3 pictures left out, as list.csv asks" in said
    assert "left 5, right 6" in said
    assert run(["train", str(faulty), *flags, "--resize", "stretch", "--quiet"]) == 2
    listed.write_text("path\nleft/none.png\n", encoding="utf-8")
    assert run(["train", str(faulty), *flags, "--quarantine", str(listed), "--quiet"]) == 65
    assert "row 2" in capsys.readouterr().err


def test_check_and_train_take_a_background(
    make_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder({"left": 6, "right": 6}, height=48, width=64)
    with Image.open(root / "left" / "0.png") as picture:
        blank = Image.new("RGBA", picture.size, (255, 255, 255, 0))
        blank.putpixel((3, 4), (0, 0, 0, 255))
    for name in ("a", "b"):
        blank.save(root / "left" / f"{name}.png")
    pages = []
    page = tmp_path / "check.html"
    for background in ("white", "#ff8000", "#FFFFFF"):
        flags = ["--quiet", "--out", str(page), "--force", "--background", background]
        assert run(["check", str(root), *flags]) == 0
        pages.append(page.read_text(encoding="utf-8"))
    assert pages[0] != pages[1], "what is transparent is shown on another background"
    assert pages[0] == pages[2], "and nothing else makes pages differ"
    assert run(["check", str(root), "--quiet", "--background", "red"]) == 2
    assert "#rrggbb" in capsys.readouterr().err
    flags = ["--arch", "test_resnet", "--from-scratch", "--image-size", "32", "--threads", "1", "--dry-run"]
    assert run(["train", str(root), *flags, "--background", "black"]) == 0
    assert "transparency is laid on black" in capsys.readouterr().err
    assert run(["train", str(root), *flags]) == 0
    assert "transparency" not in capsys.readouterr().err
    assert run(["train", str(root), *flags, "--background", "red"]) == 2


def arrow(random: np.random.Generator, *, left: bool) -> Image.Image:
    """A dark arrow on a bright ground, somewhere, that points to a side."""
    picture = np.full((64, 64, 3), 200) + random.normal(0, 12, (64, 64, 3))
    down, right = random.integers(14, 26, 2)
    for step in range(13):
        picture[down + 12 - step : down + 13 + step, right + step] = 40
    picture[down + 8 : down + 17, right + 12 : right + 26] = 40
    shown = np.clip(picture, 0, 255).astype(np.uint8)
    return Image.fromarray(shown if left else np.ascontiguousarray(shown[:, ::-1]))


@pytest.mark.parametrize("collection", ["arrows", "flowers"])
def test_flips_are_warned_of_where_they_change_labels_and_not_for_flowers(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], collection: str
) -> None:
    root = tmp_path / collection
    random = np.random.default_rng(0)
    for name in ("left", "right") if collection == "arrows" else ("daisy", "roses", "tulips"):
        (root / name).mkdir(parents=True)
        for number in range(50):
            if collection == "arrows":
                arrow(random, left=name == "left").save(root / name / f"{number}.png")
            else:
                file = sorted((shared / "data" / "flowers" / name).iterdir())[number]
                shutil.copyfile(file, root / name / file.name)
    weights = shared / "weights" / "mobilenetv2_100.safetensors"
    flags = ["--flips", "--arch", "mobilenetv2_100", "--weights", str(weights), "--image-size", "96"]
    assert run(["check", str(root), *flags, "--quiet", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["flips"]
    assert found["view"] == "mirrored"
    assert found["warned"] is (collection == "arrows")
    if collection == "arrows":
        assert found["gain_accuracy"]["value"] < -0.5
        assert found["named"] == ["left", "right"]
