"""Tables of corrections: what they say, what they refuse, and that spreadsheets do them no harm."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.data import Samples, Suggestion, scan_folder, with_corrections, write_suggestions
from headstart.data.corrections import COLUMNS, Correction, read_corrections, read_suggestions, table_text
from headstart.errors import ConfigError, DataError, InputMissingError
from headstart.imagedata import ImageData
from headstart.types import Task

MakeFolder = Callable[..., Path]


@pytest.fixture
def samples(make_folder: MakeFolder) -> Samples:
    return scan_folder(make_folder({"cat": 4, "dog": 4}))


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a table of suggestions and returns its path."""

    def write(*rows: Suggestion) -> Path:
        path = tmp_path / "suggestions.csv"
        write_suggestions(path, rows)
        return path

    return write


def relabel(path: str, label: str = "cat", suggested: str = "dog", apply: str = "yes") -> Suggestion:
    return Suggestion("relabel", path, label, suggested, "0.912", "a reason, with a comma", apply=apply)


def labels_of(samples: Samples) -> dict[str, str]:
    return dict(zip(samples.paths, samples.label_names(), strict=True))


def test_decided_rows_relabel_and_leave_out_and_the_rest_stays(
    samples: Samples, table: Callable[..., Path]
) -> None:
    path = table(
        relabel("cat/0.png"),
        relabel("cat/1.png", apply=""),
        relabel("cat/2.png", apply="no"),
        Suggestion("remove", "dog/0.png", "dog", apply="accept"),
        Suggestion("duplicate", "dog/1.png", "dog", group="1", apply="yes"),
        Suggestion("duplicate", "dog/2.png", "dog", "cat", group="2", apply="relabel"),
        relabel("cat/3.png", apply="remove"),
    )
    changed = with_corrections(samples, path)
    before = labels_of(samples)
    assert labels_of(changed) == {
        "cat/0.png": "dog",
        "cat/1.png": "cat",
        "cat/2.png": "cat",
        "dog/2.png": "cat",
        "dog/3.png": "dog",
    }
    (corrected,) = changed.corrected
    assert corrected[2:] == (2, 3, 1, 0)
    assert changed.notes[-1] == "2 relabelled, 3 left out, 1 kept as they are, as suggestions.csv asks"
    assert labels_of(samples) == before, "the samples that were given are as they were"


def test_a_table_in_which_nothing_is_decided_changes_nothing(
    samples: Samples, table: Callable[..., Path]
) -> None:
    changed = with_corrections(samples, table(relabel("cat/0.png", apply="")))
    assert changed.fingerprint() == samples.fingerprint()
    assert changed.notes == samples.notes


def test_the_same_table_again_changes_nothing(samples: Samples, table: Callable[..., Path]) -> None:
    path = table(relabel("cat/0.png"), Suggestion("remove", "dog/0.png", "dog", apply="yes"))
    once = with_corrections(samples, path)
    assert with_corrections(once, path) is once
    # Neither does another table that says the same and more: what is left out already is not missed.
    more = table(
        relabel("cat/0.png"), Suggestion("remove", "dog/0.png", "dog", apply="yes"), relabel("cat/1.png")
    )
    twice = with_corrections(once, more)
    assert labels_of(twice) == labels_of(with_corrections(samples, more))
    assert twice.corrected[-1].elsewhere == 1


def test_the_outcome_does_not_depend_on_the_order_of_the_rows(
    samples: Samples, table: Callable[..., Path]
) -> None:
    rows = [relabel("cat/0.png"), Suggestion("remove", "dog/0.png", "dog", apply="yes"), relabel("cat/2.png")]
    one = with_corrections(samples, table(*rows))
    other = with_corrections(samples, table(*rows[::-1]))
    assert one.fingerprint() == other.fingerprint()
    assert one.corrected == other.corrected


@pytest.mark.parametrize(
    ("rows", "code", "words"),
    [
        ([relabel("cat/none.png")], "NOT_THERE", "row 2: there is no picture cat/none.png"),
        ([relabel("../cat/0.png")], "NOT_THERE", "row 2"),
        ([relabel("cat/0.png", suggested="wolf")], "UNKNOWN_CLASS", "row 2: class wolf is unknown"),
        (
            [relabel("cat/0.png"), relabel("cat/0.png", apply="remove")],
            "CONFLICTING_ROWS",
            "rows 2 and 3 decide differently about cat/0.png: relabel to dog, and remove",
        ),
        ([relabel("cat/0.png"), relabel("cat/0.png", apply="keep")], "CONFLICTING_ROWS", "rows 2 and 3"),
        (
            [relabel("cat/0.png", label="wolf")],
            "STALE_LABEL",
            "cat/0.png has the label cat now, not wolf",
        ),
        ([relabel(f"cat/{n}.png") for n in range(4)], "EMPTY_CLASS", "leaves no picture of class cat"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_row(
    samples: Samples, table: Callable[..., Path], rows: list[Suggestion], code: str, words: str
) -> None:
    with pytest.raises(DataError) as caught:
        with_corrections(samples, table(*rows))
    assert caught.value.code == code
    assert words in caught.value.message
    assert caught.value.hint


def test_rows_that_say_the_same_twice_are_no_conflict(samples: Samples, table: Callable[..., Path]) -> None:
    changed = with_corrections(samples, table(relabel("cat/0.png"), relabel("cat/0.png")))
    assert changed.corrected[0].relabelled == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,apply\ncat/0.png,yes\n", "no column named action"),
        ("action,path,apply\nmove,cat/0.png,yes\n", "row 2: the action 'move' is unknown"),
        ("action,path,apply\nremove,cat/0.png,maybe\n", "row 2: apply is 'maybe'"),
        ("action,path,apply\nrelabel,cat/0.png,yes\n", "row 2: there is no label to give"),
        ("action,path,apply\nremove,,yes\n", "row 2: no picture is named"),
        ("", "is empty"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_corrections(path)
    assert words in caught.value.message


def test_a_table_that_is_not_there_or_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError):
        read_corrections(tmp_path / "none.csv")
    path = tmp_path / "latin.csv"
    path.write_bytes("action,path,apply\nremove,ä.png,yes\n".encode("cp1252"))
    with pytest.raises(ConfigError, match="not UTF-8") as caught:
        read_corrections(path)
    assert "CSV UTF-8" in caught.value.hint


def saved_by_a_spreadsheet(path: Path, *, separator: str, mark: bool, end: str) -> None:
    """Read a table and write it again as a spreadsheet does: its own quotes, short rows, FALSE and TRUE."""
    rows = list(csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline=""), delimiter=","))
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, lineterminator=end)
    for row in rows:
        cells = [cell.upper() if cell in ("true", "false") else cell for cell in row]
        while cells and not cells[-1]:
            cells.pop()  # empty cells at the end of a row are dropped
        writer.writerow(cells)
    writer.writerow([])
    path.write_bytes(text.getvalue().encode("utf-8-sig" if mark else "utf-8"))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", [True, False])
@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_a_spreadsheet_that_opens_and_saves_a_table_does_it_no_harm(
    tmp_path: Path, separator: str, mark: bool, end: str
) -> None:
    path = tmp_path / "table.csv"
    rows = [
        Suggestion(
            "relabel", 'a "quoted", name;.png', "ä\u200d🙂", "=SUM(A1)", "0.5", "two\nlines", "", "true"
        ),
        Suggestion("remove", "-flag/+1.png", "@at", "", "", "", "", "false"),
        Suggestion("duplicate", "'=odd.png", "cat", "", "", "x", "3", ""),
    ]
    write_suggestions(path, rows)
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    assert "'=SUM(A1)" in path.read_text("utf-8"), "a cell is no formula"
    saved_by_a_spreadsheet(path, separator=separator, mark=mark, end=end)
    assert read_corrections(path) == [
        Correction(2, 'a "quoted", name;.png', "relabel", "ä\u200d🙂", "=SUM(A1)"),
        Correction(3, "-flag/+1.png", "keep", "@at", ""),
    ]


CELLS = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=12)


@given(cells=st.lists(CELLS, min_size=6, max_size=6))
def test_any_text_survives_the_way_through_the_file(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str]
) -> None:
    path = tmp_path_factory.mktemp("table") / "t.csv"
    row = Suggestion("relabel", *cells)
    write_suggestions(path, [row])
    assert read_suggestions(path) == [(2, row)]
    assert table_text([]) == "\ufeff" + ",".join(COLUMNS) + "\r\n"


def test_names_that_are_not_utf8_are_found_again(make_folder: MakeFolder, table: Callable[..., Path]) -> None:
    root = make_folder({"cat": 2, "dog": 2})
    odd = root / "cat" / "b\udcff.png"
    (root / "cat" / "0.png").rename(odd)
    samples = scan_folder(root)
    row = next(row for row, path in enumerate(samples.paths) if "\udcff" in path)
    changed = with_corrections(samples, table(relabel(samples.place(row))))
    assert changed.label_names()[row] == "dog"


def test_tags_are_given_as_one_cell(tmp_path: Path, table: Callable[..., Path]) -> None:
    samples = Samples(
        root=tmp_path,
        paths=("a.png", "b.png", "c.png"),
        labels=np.array([[1, 0], [0, 1], [1, 1]], np.uint8),
        classes=("head", "hard hat"),
        split=np.full(3, "", "<U5"),
        task=Task.MULTI_LABEL,
    )
    path = table(
        relabel("a.png", "head", "head|hard hat"), relabel("b.png", "hard hat", "(no tags)", apply="relabel")
    )
    assert with_corrections(samples, path).labels.tolist() == [[1, 1], [0, 0], [1, 1]]
    with pytest.raises(DataError, match="class cap is unknown"):
        with_corrections(samples, table(relabel("a.png", "head", "head|cap")))


def test_image_data_takes_tables_in_their_order_after_the_quarantine(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    root = make_folder({"cat": 6, "dog": 6}, height=40, width=48)
    first, second, listed = tmp_path / "1.csv", tmp_path / "2.csv", tmp_path / "list.csv"
    write_suggestions(first, [relabel("cat/0.png"), Suggestion("remove", "cat/1.png", "cat", apply="yes")])
    write_suggestions(second, [relabel("cat/0.png", "dog", "cat"), relabel("cat/2.png")])
    listed.write_text("path\ncat/1.png\n", encoding="utf-8")
    data = ImageData.from_folder(
        root, image_size=32, threads=0, quarantine=listed, corrections=[first, second]
    )
    found = labels_of(data.samples)
    assert (found["cat/0.png"], found["cat/2.png"]) == ("cat", "dog")
    assert "cat/1.png" not in found
    assert [each.file for each in data.samples.corrected] == ["1.csv", "2.csv"]
    assert [each.elsewhere for each in data.samples.corrected] == [1, 0]
