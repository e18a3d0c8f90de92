"""The options that say where pictures and labels come from, as every command takes them."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import pytest

from headstart.cli.main import run
from headstart.cli.sources import Source
from headstart.data import from_shards, read_table, scan_folder, split_samples, write_shards

ARCH = "test_resnet"
QUICK = ["--arch", ARCH, "--from-scratch", "--image-size", "32", "--threads", "2", "--quiet"]


def fails(capsys, arguments: list[str], code: int, *words: str) -> None:
    capsys.readouterr()
    assert run(arguments) == code
    said = capsys.readouterr().err
    assert said.count("error[") == 1
    assert "Traceback" not in said
    for word in words:
        assert word in said


@pytest.fixture
def table(make_folder) -> Path:
    """Pictures in `data/images`, and tables of their labels beside it."""
    root = make_folder({"images": 16}, name="data")
    with open(root / "labels.csv", "w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["id", "breed", "tags", "part", "site", "wet", "cold"])
        for row in range(16):
            tags = ("head helmet", "head", "")[row % 3]
            part = "valid" if row % 4 == 3 else "train"
            rows.writerow([row, ("pug", "boxer")[row % 2], tags, part, row // 2, row % 2, row % 3 == 0])
    return root


def packed(source: list[str], out: Path, capsys) -> dict:
    capsys.readouterr()
    assert run(["shard", *source, "--out", str(out), "--json", "-q"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_table_in_the_folder_of_the_pictures(table, tmp_path, capsys) -> None:
    names = ["--image-column", "id", "--folder", "images", "--suffix", ".png"]
    columns = ["--label-column", "breed", "--split-column", "part", "--group-column", "site"]
    told = packed([str(table), "--labels", "labels.csv", *names, *columns], tmp_path / "one", capsys)
    assert told["pictures"] == 16
    samples = from_shards(tmp_path / "one")
    assert samples.classes == ("boxer", "pug")
    assert set(samples.split.tolist()) == {"train", "valid"}
    assert samples.group is not None
    packed([str(table / "labels.csv"), *names, *columns], tmp_path / "two", capsys)
    assert from_shards(tmp_path / "two").fingerprint() == samples.fingerprint()
    tags = ["--label-column", "tags", "--label-delimiter", " "]
    packed([str(table), "--labels", "labels.csv", *names, *tags], tmp_path / "three", capsys)
    assert from_shards(tmp_path / "three").counts() == {"head": 11, "helmet": 6}
    packed([str(table), "--labels", "labels.csv", *names, "--one-hot", "wet,cold"], tmp_path / "four", capsys)
    assert from_shards(tmp_path / "four").classes == ("wet", "cold")


def test_faults_of_a_table_are_one_line_with_a_code(table, tmp_path, capsys) -> None:
    start = ["shard", str(table), "--out", str(tmp_path / "out"), "-q"]
    with_labels = [*start, "--labels", "labels.csv", "--image-column", "id", "--label-column", "breed"]
    fails(capsys, with_labels, 65, "error[MISSING_FILES]", "row 2 (0)", "--folder images --suffix .png")
    fails(capsys, [*with_labels, "--folder", "images", "--suffix", ".png", "--unlabelled", "x"], 2)
    fails(capsys, [*start, "--labels", "labels.csv", "--label-column", "bread"], 2, "breed")
    fails(capsys, [*start, "--labels", "none.csv"], 66, "none.csv")
    fails(capsys, [*start, "--suffix", ".png"], 2, "--suffix", "--labels")
    fails(capsys, [*start, "--labels", "labels.csv", "--label-regex", "(x)"], 2, "--label-regex")
    fails(capsys, [*start, "--label-regex", "(x)"], 65, "error[NO_MATCH]", "16 of 16")
    (table / "labels.csv").write_text("id,breed\n../../etc/passwd,pug\n")
    fails(capsys, [*start, "--labels", "labels.csv"], 65, "error[OUTSIDE]", "row 2", "--allow-outside")
    assert not (tmp_path / "out").exists()


def test_training_on_a_table_and_on_its_shards_gives_the_same_model(table, tmp_path, capsys) -> None:
    source = [str(table), "--labels", "labels.csv", "--image-column", "id", "--folder", "images"]
    source += ["--suffix", ".png", "--label-column", "breed"]
    packed(source, tmp_path / "shards", capsys)
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "headstart_plan: 1\nphases:\n"
        "  - {name: head, epochs: 1, learning_rate: 0.01, frozen_to: -1, step: 4}\n"
    )
    tables = {}
    for name, place in (("table", source), ("shards", [str(tmp_path / "shards" / "*.tar")])):
        out = tmp_path / f"run on {name}"
        assert run(["train", *place, *QUICK, "--plan", str(plan), "--out", str(out)]) == 0
        with open(out / "predictions.csv", encoding="utf-8", newline="") as stream:
            tables[name] = list(csv.DictReader(stream))
    assert [row.pop("path") for row in tables["shards"]] == [
        f"shard-00000.tar/{row.pop('path')}" for row in tables["table"]
    ]
    assert tables["shards"] == tables["table"]


def test_a_trial_of_an_archive_finds_a_rate(make_folder, tmp_path, capsys) -> None:
    root = make_folder({"a": 30, "b": 30})
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(root.rglob("*.png")):
            archive.write(path, f"photos/{path.relative_to(root)}")
    start = ["lr-find", str(tmp_path / "photos.zip"), "--limit", "24", "--iterations", "12"]
    assert run([*start, *QUICK, "--plot", str(tmp_path / "curve.png")]) == 0
    assert "valley" in capsys.readouterr().out
    fails(
        capsys, [*start[:3], "3", *QUICK, "--plot", str(tmp_path / "other.png")], 2, "--limit 3", "4 or more"
    )
    fails(capsys, [*start[:3], "0", *QUICK], 2)


def test_a_test_set_of_its_own_is_never_trained_on(make_folder, tmp_path) -> None:
    root = make_folder({"a": 8, "b": 8})
    new = make_folder({".": 3}, name="new")
    samples = Source(str(root), test_set=str(new)).read()
    assert samples.split.tolist() == [""] * 16 + ["test"] * 3
    (tmp_path / "more.csv").write_text("image,label\nnew/0.png,a\nnew/1.png,\n")
    samples = Source(str(root), test_set=str(tmp_path / "more.csv")).read()
    assert samples.labels[samples.rows("test")].tolist() == [0, -1]
    assert split_samples(samples).split.tolist()[16:] == ["test", "test"]


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("photos/", "photos"),
        ("data/labels.csv", "labels"),
        ("photos.zip", "photos"),
        ("shards/part-{000..011}.tar", "part-"),
        ("s3://bucket/shards", "shards"),
        ("*.tar", "pictures"),
    ],
)
def test_a_run_is_called_after_its_pictures(folder: str, name: str) -> None:
    assert Source(folder).run_path.name == name


def test_a_folder_of_class_folders_may_have_a_tar_beside_them(make_folder, tmp_path) -> None:
    root = make_folder({"a": 2, "b": 2})
    write_shards(scan_folder(root), tmp_path / "shards")
    (root / "backup.tar").write_bytes((tmp_path / "shards" / "shard-00000.tar").read_bytes())
    assert Source(str(root)).read().names is None
    assert Source(str(tmp_path / "shards")).read().names is not None


@pytest.mark.parametrize("collection", ["dog_breeds", "helmets"])
def test_real_tables_are_read_and_split_by_the_options(shared: Path, collection: str) -> None:
    root = shared / "data" / collection
    if collection == "dog_breeds":
        source = Source(
            str(root), labels="labels.csv", image_column="id", label_column="breed",
            picture_folder="train", suffix=".jpg",
        )  # fmt: skip
    else:
        source = Source(
            str(root), labels="labels.csv", image_column="image", label_column="tags", label_delimiter=" ",
            picture_folder="images", suffix=".jpg",
        )  # fmt: skip
    split = split_samples(source.read())
    share = len(split.rows("valid")) / len(split)
    assert 0.15 < share < 0.25
    assert len(split) == (1000 if collection == "dog_breeds" else 700)
    assert read_table(root / "labels.csv", source._columns()).ids.tolist() == split.ids.tolist()
