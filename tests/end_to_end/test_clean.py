"""`headstart clean` on real pictures with planted faults: what it finds, and what training makes of it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from headstart import recipe
from headstart.cli.main import run
from headstart.data import Suggestion, write_suggestions
from headstart.evaluation import label_doubts
from headstart.imagedata import ImageData
from headstart.recipe import Body, Narrator, Origin, eight_steps, prepare_folder
from headstart.recipe.clock import Clock
from headstart.recipe.journal import Journal
from headstart.recipe.outoffold import frozen_body, out_of_fold
from headstart.recipe.steps import EightSteps

MakeFolder = Callable[..., Path]

CLASSES = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
OF_EACH, FLIPPED, COPIES = 40, 10, 30


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        file.relative_to(folder).as_posix(): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def begun(root: Path, out: Path, body: Body) -> Path:
    """The folder of a run that was begun on these pictures, without a step of training."""
    options = {"path": str(root), "largest_size": None, "seed": 0}
    data = ImageData.from_folder(root)
    steps = EightSteps(
        data,
        eight_steps(),
        body,
        prepare_folder(out, root),
        Narrator(),
        clock=Clock(),
        origin=Origin("folder", options),
    )
    steps.folder.begin()
    Journal.begin(steps)
    return out


@dataclass(frozen=True)
class Planted:
    """Pictures with planted faults: which labels are wrong and what they should be, and the copies."""

    root: Path
    run: Path
    body: Body
    flipped: dict[str, str]
    copies: frozenset[str]
    conflicts: frozenset[str]

    def rows(self) -> list[dict[str, str]]:
        with open(self.run / "clean" / "suggestions.csv", encoding="utf-8-sig", newline="") as stream:
            return list(csv.DictReader(stream))


def copy_of(file: Path, target: Path, number: int) -> None:
    """A picture as it comes back from elsewhere: encoded anew, half the size, mirrored; or all of these."""
    with Image.open(file) as picture:
        if number % 4 in (1, 3):
            picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
        if number % 4 in (2, 3):
            picture = ImageOps.mirror(picture)
        picture.save(target, "JPEG", quality=60)


@pytest.fixture(scope="module")
def planted(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    folder = tmp_path_factory.mktemp("planted")
    random, root = np.random.default_rng(0), folder / "pictures"
    places = [(name, number) for name in CLASSES for number in range(OF_EACH)]
    chosen = random.choice(len(places), FLIPPED + COPIES, replace=False).tolist()
    flips, originals = set(chosen[:FLIPPED]), chosen[FLIPPED:]
    flipped: dict[str, str] = {}
    where: dict[int, Path] = {}
    for name in CLASSES:
        (root / name).mkdir(parents=True)
    for place, (name, number) in enumerate(places):
        file = sorted((shared / "data" / "flowers" / name).iterdir())[number]
        label = name
        if place in flips:
            label = CLASSES[(CLASSES.index(name) + int(random.integers(1, 5))) % 5]
            flipped[f"{label}/{file.name}"] = name
        where[place] = root / label / file.name
        shutil.copyfile(file, where[place])
    copies, conflicts = set(), set()
    for number, place in enumerate(originals):
        label = where[place].parent.name
        if number < 3:
            label = CLASSES[(CLASSES.index(label) + 1) % 5]
        target = root / label / f"copy_{number}.jpg"
        copy_of(where[place], target, number)
        copies.add(target.relative_to(root).as_posix())
        if number < 3:
            conflicts.add(target.relative_to(root).as_posix())
    body = Body("mobilenetv2_100", shared / "weights")
    before = contents(root)
    path = begun(root, folder / "run", body)
    assert run(["clean", str(path), "--quiet"]) == 0
    assert contents(root) == before, "no picture is touched"
    return Planted(root, path, body, flipped, frozenset(copies), frozenset(conflicts))


def test_flipped_labels_come_first_and_where_none_is_flipped_these_pictures_are_nothing_special(
    planted: Planted,
) -> None:
    data = ImageData.from_folder(planted.root)
    data, engine, identity = frozen_body(data, planted.body)
    parts = [data.activations(split, engine, identity) for split in ("train", "valid")]
    features = np.concatenate([np.asarray(part.features, np.float32) for part in parts])
    samples = data.samples.take(np.concatenate([part.index for part in parts]))
    assert data.duplicates is not None
    groups = data.duplicates.near[np.concatenate([part.index for part in parts])]
    rows = [row for row, path in enumerate(samples.paths) if path in planted.flipped]
    truth = samples.labels.copy()
    truth[rows] = [samples.classes.index(planted.flipped[samples.paths[row]]) for row in rows]
    first = round(0.1 * len(samples))

    def found(labels: np.ndarray) -> int:
        table = out_of_fold(features, replace(samples, labels=labels), groups=groups)
        return len(np.intersect1d(label_doubts(table).order[:first], rows))

    assert found(samples.labels) >= 0.8 * FLIPPED
    assert found(truth) <= 0.4 * FLIPPED


def test_flipped_labels_are_suggested_with_the_class_that_they_had(planted: Planted) -> None:
    suggested = {row["path"]: row["suggested"] for row in planted.rows() if row["action"] == "relabel"}
    right = [path for path, name in planted.flipped.items() if suggested.get(path) == name]
    assert len(right) >= 0.7 * FLIPPED


def test_all_copies_are_found_and_no_picture_has_two_rows(planted: Planted) -> None:
    rows = planted.rows()
    assert len({row["path"] for row in rows}) == len(rows)
    groups: dict[str, set[str]] = {}
    for row in rows:
        if row["action"] == "duplicate":
            groups.setdefault(row["group"], set()).add(row["path"])
    # Of each pair one stays, the larger: it is the copy that is suggested, or of a conflict either.
    found = set().union(*groups.values())
    assert len(groups) >= COPIES
    assert planted.copies - planted.conflicts <= found
    for path in planted.conflicts:
        conflict = [row for row in rows if row["action"] == "duplicate" and "labelled" in row["reason"]]
        assert any(path in (row["path"], *row["reason"].split()) or path in row["reason"] for row in conflict)
    assert all(row["apply"] == "" for row in rows), "nothing is decided before a person does"


def test_the_page_and_the_thumbnails_stand_beside_the_table(planted: Planted) -> None:
    folder, rows = planted.run / "clean", planted.rows()
    html = (folder / "index.html").read_text("utf-8")
    data = json.loads(html.partition('id="data">')[2].partition("</script>")[0])
    assert [row[1] for row in data["rows"]] == [row["path"] for row in rows]
    for number in range(2, len(rows) + 2):
        with Image.open(folder / "pictures" / f"{number}.jpg") as picture:
            assert max(picture.size) <= 288
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    assert summary["suggestions"]["duplicate"] >= COPIES
    assert {each["name"] for each in summary["classes"]} == set(CLASSES)


def test_cleaning_again_keeps_what_was_decided(planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["clean", str(planted.run), "--quiet"]) == 73
    assert "--force" in capsys.readouterr().err
    table = planted.run / "clean" / "suggestions.csv"
    rows = [Suggestion(**row) for row in planted.rows()]
    decided = [
        rows[0]._replace(apply="keep"),
        rows[1]._replace(apply="relabel", suggested="roses"),
        *rows[2:],
    ]
    write_suggestions(table, decided)
    (planted.run / "clean" / "notes.txt").write_text("mine", encoding="utf-8")
    assert run(["clean", str(planted.run), "--quiet", "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["suggestions"]["relabel"] > 0
    assert [Suggestion(**row) for row in planted.rows()] == decided
    assert (planted.run / "clean" / "notes.txt").read_text("utf-8") == "mine"
    write_suggestions(table, rows)


def test_training_obeys_the_table(
    make_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, root = tmp_path / "decided.csv", make_folder({"left": 8, "right": 8}, height=40, width=48)
    write_suggestions(
        table,
        [
            Suggestion("relabel", "left/0.png", "left", "right", apply="yes"),
            *(Suggestion("duplicate", f"right/{number}.png", "right", apply="yes") for number in (1, 2)),
        ],
    )
    flags = ["--arch", "test_resnet", "--from-scratch", "--image-size", "32", "--threads", "1", "--dry-run"]
    assert run(["train", str(root), *flags, "--corrections", str(table)]) == 0
    said = capsys.readouterr().err
    assert "1 relabelled, 2 left out, as decided.csv asks" in said
    assert "left 7, right 7" in said
    write_suggestions(table, [Suggestion("remove", "right/none.png", apply="yes")])
    assert run(["train", str(root), *flags, "--corrections", str(table)]) == 65
    assert "row 2" in capsys.readouterr().err


def test_what_to_label_next_is_chosen_from_a_folder(planted: Planted, shared: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    for name in CLASSES[:3]:
        for file in sorted((shared / "data" / "flowers" / name).iterdir())[60:64]:
            shutil.copyfile(file, pool / f"{name}_{file.name}")
    (pool / "broken.jpg").write_bytes(b"\xff\xd8\xffnothing")
    before = contents(pool)
    result = recipe.clean(planted.run, unlabelled_pictures=pool, count=5, force=True, narrator=Narrator())
    assert contents(pool) == before
    assert result.to_label is not None
    assert (len(result.to_label.rows), result.to_label.among, result.rises) == (5, 12, ())
    with open(result.folder / "label_next.csv", encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert all((pool / row["path"]).is_file() and row["guess"] in CLASSES for row in rows)


def test_a_run_from_scratch_or_with_data_of_its_own_says_what_to_do(
    make_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder({"left": 6, "right": 6}, height=40, width=48)
    path = begun(root, tmp_path / "run", Body("test_resnet", None, from_scratch=True))
    assert run(["clean", str(path), "--quiet"]) == 2
    assert "--from-scratch" in capsys.readouterr().err
    assert run(["clean", str(tmp_path / "none"), "--quiet"]) == 66
