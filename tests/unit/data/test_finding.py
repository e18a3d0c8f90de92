"""A check's findings: each fault that is planted is named, and a clean collection has none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.data import (
    Entry,
    Findings,
    PixelCache,
    audit,
    findings,
    scan_folder,
    without_quarantined,
    write_quarantine,
)
from headstart.errors import ConfigError, DataError, InputMissingError
from headstart.imagedata import ImageData

MakeFolder = Callable[..., Path]


def noise(seed: int, height: int = 60, width: int = 80) -> Image.Image:
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def checked(root: Path, **options: object) -> Findings:
    seen = audit(PixelCache(scan_folder(root), short_side=64), threads=0)
    return findings(seen, **options)  # type: ignore[arg-type]


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """Train and valid of two classes of six, with one or two pictures for each thing that can be found."""
    for number, folder in enumerate(("train/a", "train/b", "valid/a", "valid/b")):
        (tmp_path / folder).mkdir(parents=True)
        for each in range(6):
            noise(10 * number + each).save(tmp_path / folder / f"{each}.png")
    a, b = tmp_path / "train" / "a", tmp_path / "train" / "b"
    (a / "copy.png").write_bytes((a / "0.png").read_bytes())
    (b / "other label.png").write_bytes((a / "1.png").read_bytes())
    (tmp_path / "valid" / "a" / "leak.png").write_bytes((a / "2.png").read_bytes())
    noise(3).resize((160, 120), Image.Resampling.BICUBIC).save(a / "larger.jpg", quality=90)
    Image.new("RGB", (50, 40), (9, 9, 9)).save(b / "blank.png")
    noise(100, 20, 25).save(b / "tiny.png")
    noise(101, 40, 200).save(b / "long.png")
    exif = Image.Exif()
    exif[274] = 6
    noise(102).save(b / "turned.jpg", exif=exif)
    noise(103).convert("CMYK").save(b / "cmyk.jpg")
    (b / "text.jpg").write_bytes(b"only a text")
    return tmp_path


def test_each_thing_is_found_where_it_is_and_nothing_else(messy: Path) -> None:
    found = checked(messy)
    names = found.audit.samples.paths
    rows = {each.code: {names[row] for row in each.rows} for each in found.all}
    assert rows == {
        "NOT_AN_IMAGE": {"train/b/text.jpg"},
        "LABEL_CONFLICT": {"train/a/1.png", "train/b/other label.png"},
        "LEAK": {"valid/a/leak.png"},
        "BLANK": {"train/b/blank.png"},
        "DUPLICATE": {"train/a/copy.png", "train/b/other label.png", "valid/a/leak.png"},
        "NEAR_DUPLICATE": {"train/a/3.png", "train/a/larger.jpg"},
        "TINY": {"train/b/tiny.png"},
        "EXTREME_ASPECT": {"train/b/long.png"},
        "ROTATED": {"train/b/turned.jpg"},
        "ODD_MODE": {"train/b/cmyk.jpg"},
    }
    assert [each.code for each in found.faults] == ["NOT_AN_IMAGE", "LABEL_CONFLICT", "LEAK", "BLANK"]
    assert "1 CMYK" in next(each.words for each in found.all if each.code == "ODD_MODE")
    row = names.index("train/b/turned.jpg")
    assert (found.audit.height[row], found.audit.width[row]) == (80, 60)


def test_a_clean_collection_has_no_findings(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 5, "b": 5}, height=48, width=64)
    found = checked(root)
    assert found.all == ()
    assert found.quarantine() == []


def test_imbalance_is_a_remark_from_ten_to_one_on(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 20, "b": 2}, height=48, width=64)
    (remark,) = checked(root).all
    assert (remark.code, remark.fault) == ("IMBALANCE", False)
    assert "a has 20, b 2" in remark.words


def test_the_findings_are_json_without_surprises(messy: Path) -> None:
    content = json.loads(json.dumps(checked(messy).to_dict(), allow_nan=False))
    assert content["pictures"] == content["usable"] + 1
    assert content["leaks"] == [{"of": "valid", "in": "train", "exact": 1, "near": 0}]
    assert content["duplicates"] == {"exact": 3, "near": 1}
    assert content["conflicts"] == [
        [{"path": "train/a/1.png", "label": "a"}, {"path": "train/b/other label.png", "label": "b"}]
    ]
    assert content["resize"]["policy"] == "crop"
    assert content["modes"]["CMYK"] == 1
    assert checked(messy, policy="pad").to_dict()["sizes"]["cut_away"]["pad"]["100"] == 0.0


def test_training_leaves_out_what_the_list_names_and_a_person_did_not_keep(
    messy: Path, tmp_path: Path
) -> None:
    path = tmp_path / "list.csv"
    found = checked(messy)
    write_quarantine(path, found.quarantine())
    text = path.read_text(encoding="utf-8")
    assert text.splitlines()[0] == "path,reason,keep"
    # Someone looks, and finds the blank one to be right.
    path.write_text(text.replace('nearly",', 'nearly",Yes'), encoding="utf-8")
    samples = scan_folder(messy)
    kept = without_quarantined(samples, path)
    assert set(samples.paths) - set(kept.paths) == {
        "train/a/1.png",
        "train/b/other label.png",
        "train/b/text.jpg",
        "valid/a/leak.png",
    }
    assert kept.notes[-1] == "4 pictures left out, as list.csv asks"
    data = ImageData.from_folder(messy, image_size=32, quarantine=path, threads=0)
    assert "4 pictures left out, as list.csv asks" in data.report_lines()
    assert data.audit is not None
    assert len(data.audit.samples) == len(samples) - 4
    assert len(data.audit.bad_rows) == 0


def test_the_quarantine_of_a_run_is_such_a_list(messy: Path, tmp_path: Path) -> None:
    seen = audit(PixelCache(scan_folder(messy), short_side=32), threads=0)
    seen.write_quarantine(tmp_path / "quarantine.csv")
    kept = without_quarantined(seen.samples, tmp_path / "quarantine.csv")
    assert set(seen.samples.paths) - set(kept.paths) == {"train/b/text.jpg"}


def test_names_that_are_hard_to_write_find_their_pictures(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": 3, "b": 3})
    odd = 'odd "name",\n日本.png'
    (root / "a" / "0.png").rename(root / "a" / odd)
    write_quarantine(tmp_path / "list.csv", [Entry(f"a/{odd}", "because")])
    assert len(without_quarantined(scan_folder(root), tmp_path / "list.csv")) == 5


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("path,keep\na/0.png,\na/9.png,\n", DataError, "row 3: there is no picture a/9.png"),
        ("path,keep\na/0.png,maybe\n", ConfigError, "row 2: keep is 'maybe'"),
        ("file\na/0.png\n", ConfigError, "no column named path"),
        ("", ConfigError, "no column named path"),
        (None, InputMissingError, "cannot be read"),
    ],
)
def test_a_list_with_a_fault_is_refused_and_the_row_named(
    make_folder: MakeFolder, tmp_path: Path, text: str | None, error: type[Exception], words: str
) -> None:
    path = tmp_path / "list.csv"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(error, match=words):
        without_quarantined(scan_folder(make_folder({"a": 2, "b": 2})), path)


def test_a_spreadsheet_may_have_written_the_list(make_folder: MakeFolder, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(b"\xef\xbb\xbfPath,note\r\na/0.png,x\r\n\r\n")
    assert len(without_quarantined(scan_folder(make_folder({"a": 2, "b": 2})), path)) == 3
