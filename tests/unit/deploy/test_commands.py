"""`headstart predict`, `pack` and the like, as a person types them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest

from headstart.cli.main import run
from headstart.deploy import read_manifest

from .conftest import CLASSES, Saved

FAST = ["--trusted", "--engine", "eager", "--device", "cpu", "--quiet"]


def test_a_table_is_written_as_csv_or_parquet(saved: Saved, pictures: list[Path], tmp_path: Path) -> None:
    files = [str(path) for path in pictures]
    for name, read in (("a.csv", pd.read_csv), ("a.parquet", pd.read_parquet)):
        out = tmp_path / name
        command = ["predict", str(saved.folder), *files, "--out", str(out), *FAST]
        assert run([*command, "--features"]) == 0
        table = read(out)
        assert table["path"].tolist() == files
        assert {f"p_{label}" for label in CLASSES} <= set(table.columns)
        assert ("features" in table.columns) == name.endswith("parquet")
        assert ("f_0" in table.columns) == name.endswith("csv")
        assert run(command) == 73
        assert run([*command, "--force", "--top", "2"]) == 0
        assert list(read(out).columns)[-2:] == ["prediction_2", "probability_2"]


def test_what_cannot_be_read_has_its_code_and_the_whole_of_it_an_exit_code(
    saved: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    out = tmp_path / "a.csv"
    given = ["predict", str(saved.folder), str(tmp_path / "bad.jpg"), *FAST]
    assert run([*given, "--out", str(out), "--json"]) == 65
    said = capsys.readouterr()
    assert json.loads(said.out) == {"out": str(out), "rows": 1, "unread": 1, "resumed": 0}
    assert "1 of 1 pictures could not be read" in said.err
    assert pd.read_csv(out)["status"].tolist() == ["NOT_AN_IMAGE"]


def test_an_address_is_fetched_only_where_that_is_allowed(
    saved: Saved, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["predict", str(saved.folder), "http://127.0.0.1:9/a.jpg", *FAST]
    assert run(given) == 2
    assert "--allow-urls" in capsys.readouterr().err
    assert run([*given, "--allow-urls"]) == 65
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["status"] == "URL_REFUSED"


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (["--features"], 2, "--features are for a table"),
        (["--engine", "abacus"], 2, "no engine 'abacus'"),
        (["--top", "0", "--out", "x.csv"], 2, "most probable"),
    ],
)
def test_options_without_meaning_are_told(
    saved: Saved, pictures: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path, options: list[str], code: int, named: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(["predict", str(saved.folder), str(pictures[0]), "--device", "cpu", *options]) == code
    assert named in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_packed_and_used_as_one_file(
    saved: Saved, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.headstart"
    assert run(["pack", str(saved.folder), str(out)]) == 0
    assert run(["pack", str(saved.folder), str(out)]) == 73
    assert run(["pack", str(out), str(tmp_path / "again")]) == 0
    assert read_manifest(tmp_path / "again") == read_manifest(out) == saved.manifest
    capsys.readouterr()
    said = []
    for model in (saved.folder, out, tmp_path / "again"):
        assert run(["predict", str(model), str(pictures[0]), *FAST]) == 0
        said.append(capsys.readouterr().out)
    assert len(set(said)) == 1


def test_a_name_that_is_none_on_the_hub_is_told(saved: Saved, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["push", str(saved.folder), "birds"]) == 2
    assert run(["predict", "hf://birds", "a.jpg"]) == 2
    assert "USER/NAME" in capsys.readouterr().err
