"""Tables become samples: every way to write one down, and what is said of those that cannot be used."""

from __future__ import annotations

import contextlib
import io
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from headstart.data import Samples, Table, from_frame, read_table, scan_folder
from headstart.data.presence import present
from headstart.errors import DataError, HeadstartError, InputMissingError, UsageError
from headstart.types import Task

MakeFolder = Callable[..., Path]


@pytest.fixture
def root(make_folder: MakeFolder) -> Path:
    """A folder with pictures 0.png … 5.png in `pictures`."""
    return make_folder({"pictures": 6}, name="data")


def written(root: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    path = root / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(root: Path, text: str | bytes, **table: object) -> Samples:
    return read_table(written(root, text), Table(**{"folder": "pictures", **table}))  # type: ignore[arg-type]


def refusal(root: Path, text: str | bytes, **table: object) -> HeadstartError:
    with pytest.raises(HeadstartError) as caught:
        read(root, text, **table)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return caught.value


PLAIN = "image,label\n0.png,cat\n1.png,dog\n2.png,cat\n"


def test_the_first_column_names_the_picture_and_the_second_its_class(root: Path) -> None:
    samples = read(root, PLAIN)
    assert samples.paths == ("pictures/0.png", "pictures/1.png", "pictures/2.png")
    assert samples.label_names() == ["cat", "dog", "cat"]
    assert samples.labels.dtype == np.int64
    assert samples.root == root
    assert samples.skipped == {}
    assert samples.read(0).startswith(b"\x89PNG")


def test_columns_are_found_by_name_or_by_number(root: Path) -> None:
    text = "label,x,image\ncat,1,0.png\ndog,2,1.png\n"
    by_name = read(root, text, image="image", label="label")
    by_number = read(root, text, image=2, label="0")
    assert by_name.fingerprint() == by_number.fingerprint()
    without = read(root, "cat,1,0.png\ndog,2,1.png\n", image=2, label=0, header=False)
    assert without.fingerprint() == by_name.fingerprint()
    error = refusal(root, text, image="imgae")
    assert (error.exit_code, isinstance(error, UsageError)) == (2, True)
    assert "label, x, image" in error.hint
    assert refusal(root, text, image=3).exit_code == 2
    assert refusal(root, "image,label,label\n0.png,a,b\n", label="label").code == "NOT_A_TABLE"


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", ", "),
        PLAIN.rstrip("\n"),
        PLAIN + "\n\n",
        "\n" + PLAIN,
        PLAIN.replace("cat", '"cat"'),
        PLAIN.replace("\n", ",\n"),
    ],
    ids=[
        "BOM",
        "CRLF",
        "CR",
        ";",
        "tab",
        "space",
        "no end",
        "blank end",
        "blank start",
        "quotes",
        "last comma",
    ],
)
def test_the_ways_in_which_programs_write_a_table_make_no_difference(root: Path, text: str) -> None:
    assert read(root, text).fingerprint() == read(root, PLAIN).fingerprint()


def test_labels_are_text(root: Path) -> None:
    samples = read(root, "image,label\n0.png,01\n1.png,1\n2.png,1.0\n3.png,NA\n4.png,nan\n5.png,None\n")
    assert samples.label_names() == ["01", "1", "1.0", "NA", "nan", "None"]
    assert len(samples.classes) == 6


def test_a_quoted_line_break_and_quotes_belong_to_a_label(root: Path) -> None:
    samples = read(root, 'image,label\n0.png,"two\nlines"\n1.png,"say ""a,b"""\n2.png,=1+1\n')
    assert samples.label_names() == ["two\nlines", 'say "a,b"', "=1+1"]
    error = refusal(root, 'image,label\n0.png,"two\nlines"\n9.png,b\n')
    assert "row 3 (pictures/9.png)" in error.message


def test_missing_pictures_are_counted_and_five_named_by_their_rows(root: Path) -> None:
    text = "image,label\n" + "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(3, 16))
    error = refusal(root, text)
    assert (error.code, error.exit_code) == ("MISSING_FILES", 65)
    assert error.message.startswith("10 of 13 rows")
    for number in range(6, 11):
        assert f"row {number - 1} (pictures/{number}.png)" in error.message
    assert "11.png" not in error.message
    samples = read(root, text, skip_missing=True)
    assert (len(samples), samples.skipped) == (3, {"rows without their picture": 10})
    assert refusal(root, "image,label\n8.png,a\n9.png,b\n", skip_missing=True).code == "MISSING_FILES"


def test_what_names_lack_is_suggested(root: Path) -> None:
    assert "--suffix .png" in refusal(root, "image,label\n0,a\n1,b\n").hint
    assert "--folder pictures --suffix .png" in refusal(root, "image,label\n0,a\n1,b\n", folder="").hint
    assert len(read(root, "image,label\n0,a\n1.png,b\n", suffix=".png")) == 2


def test_rows_that_say_the_same_count_once(root: Path) -> None:
    samples = read(root, PLAIN + "0.png,cat\n./0.png,cat\n")
    assert len(samples) == 3
    assert samples.skipped == {"repeated rows": 2}


def test_one_picture_under_two_classes_is_refused_with_both_rows(root: Path) -> None:
    error = refusal(root, PLAIN + "0.png,dog\n")
    assert (error.code, error.exit_code) == ("CONFLICTING_ROWS", 65)
    assert "pictures/0.png in rows 2 and 5 (cat and dog)" in error.message
    split = "image,label,split\n0.png,a,train\n1.png,b,train\n0.png,a,valid\n"
    assert "split" in refusal(root, split, split="split").message


def test_rows_of_one_picture_with_several_tags_are_put_together(root: Path) -> None:
    samples = read(root, "image,tags\n0.png,a\n1.png,b\n0.png,b c\n", label_delimiter=" ")
    assert samples.label_names() == ["a b c", "b"]
    assert samples.skipped == {"repeated rows": 1}


def test_an_empty_label_is_refused_tested_or_skipped(root: Path) -> None:
    text = PLAIN + "3.png,\n4.png,  \n"
    error = refusal(root, text)
    assert (error.code, error.exit_code) == ("NO_LABEL", 65)
    assert "2 of 5 rows" in error.message
    assert "row 5 (pictures/3.png), row 6 (pictures/4.png)" in error.message
    tested = read(root, text, unlabelled="test")
    assert tested.split.tolist() == ["", "", "", "test", "test"]
    assert tested.labels.tolist() == [0, 1, 0, -1, -1]
    skipped = read(root, text, unlabelled="skip")
    assert (len(skipped), skipped.skipped) == (3, {"rows without a label": 2})
    assert refusal(root, "image,label\n0.png,\n1.png,\n", unlabelled="test").code == "NO_LABEL"
    with pytest.raises(UsageError, match="refuse, test or skip"):
        Table(unlabelled="guess")  # type: ignore[arg-type]


def test_a_row_of_the_test_part_needs_no_label(root: Path) -> None:
    text = "image,label,part\n0.png,a,train\n1.png,b,Train\n2.png,a,VAL\n3.png,,test\n"
    samples = read(root, text, split="part")
    assert samples.split.tolist() == ["train", "train", "valid", "test"]
    assert samples.labels.tolist() == [0, 1, 0, -1]
    bad = refusal(root, text.replace("VAL", "fold 2"), split="part")
    assert (bad.code, "row 4" in bad.message, "'fold 2'" in bad.message) == ("BAD_SPLIT", True, True)


def test_a_column_may_say_whether_a_row_validates(root: Path) -> None:
    samples = read(root, "image,label,is_valid\n0.png,a,False\n1.png,b,0\n2.png,b,True\n", split="is_valid")
    assert samples.split.tolist() == ["train", "train", "valid"]


def test_groups_are_numbered_and_an_empty_one_is_a_group_of_its_own(root: Path) -> None:
    text = "image,label,site\n0.png,a,x\n1.png,b,y\n2.png,a,x\n3.png,b,\n4.png,a,\n"
    group = read(root, text, group="site").group
    assert group is not None
    assert group[0] == group[2]
    assert len(set(group.tolist())) == 4


def test_tags_are_cut_at_the_delimiter_and_none_is_a_valid_negative(root: Path) -> None:
    samples = read(root, "image,tags\n0.png,b a\n1.png,\n2.png,a  a\n", label_delimiter=" ")
    assert samples.task is Task.MULTI_LABEL
    assert samples.classes == ("a", "b")
    assert samples.labels.dtype == np.uint8
    assert samples.labels.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert len(samples) == 3
    assert refusal(root, PLAIN, label_delimiter="").exit_code == 2


def test_one_hot_columns_are_tags_in_the_order_given(root: Path) -> None:
    text = "image,z,a\n0.png,1,0\n1.png,0,0\n2.png,True,1.0\n"
    samples = read(root, text, one_hot=("z", "a"))
    assert samples.classes == ("z", "a")
    assert samples.labels.tolist() == [[1, 0], [0, 0], [1, 1]]
    error = refusal(root, text.replace("1.png,0", "1.png,-1"), one_hot=("z", "a"))
    assert (error.code, "row 3" in error.message) == ("BAD_TAG", True)


def test_a_class_that_only_validates_is_explained_and_may_be_left_out(root: Path) -> None:
    text = "image,label,split\n0.png,a,train\n1.png,b,train\n2.png,zebra,valid\n3.png,a,valid\n"
    error = refusal(root, text, split="split")
    assert (error.code, error.exit_code) == ("UNKNOWN_CLASS", 65)
    assert "zebra is in valid but not in train: row 4" in error.message
    assert "--drop-unseen-classes" in error.hint
    samples = read(root, text, split="split", drop_unseen_classes=True)
    assert samples.classes == ("a", "b")
    assert samples.skipped == {"rows of classes that train has not": 1}
    assert "zebra" in samples.notes[0]
    tags = read(root, text, split="split", drop_unseen_classes=True, label_delimiter="|")
    assert (len(tags), tags.classes) == (4, ("a", "b"))


def test_given_classes_keep_their_order_and_refuse_others(root: Path) -> None:
    assert read(root, PLAIN, classes=("dog", "cat")).labels.tolist() == [1, 0, 1]
    assert refusal(root, PLAIN, classes=("dog", "fox")).code == "UNKNOWN_CLASS"


def test_classes_are_in_natural_order(root: Path) -> None:
    samples = read(root, "image,label\n0.png,class 10\n1.png,class 9\n2.png,Apple\n")
    assert samples.classes == ("Apple", "class 9", "class 10")


def test_one_class_twins_and_an_unnamed_picture_are_refused(root: Path) -> None:
    assert refusal(root, "image,label\n0.png,a\n1.png,a\n").code == "ONE_CLASS"
    assert refusal(root, "image,label\n0.png,caf\u00e9\n1.png,cafe\u0301\n").code == "TWIN_CLASSES"
    error = refusal(root, PLAIN + ",dog\n")
    assert (error.code, "row 5" in error.message) == ("NO_NAME", True)
    assert "differ only in case" in read(root, PLAIN + "3.png,Cat\n").notes[0]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../x.png", "..", "//etc/passwd"])
def test_no_row_leads_out_of_the_folder_unless_it_may(root: Path, name: str) -> None:
    error = refusal(root, PLAIN + f"{name},dog\n", folder="pictures/" if name[0] == "/" else "")
    assert (error.code, error.exit_code) == ("OUTSIDE", 65)
    assert "row 5" in error.message
    assert "--allow-outside" in error.hint


def test_pictures_elsewhere_are_read_where_that_is_allowed(root: Path, make_folder: MakeFolder) -> None:
    other = make_folder({".": 1}, name="other")
    text = f"image,label\npictures/0.png,a\n{other}/0.png,b\n"
    assert refusal(root, text, folder="").code == "OUTSIDE"
    samples = read(root, text, folder="", allow_outside=True)
    assert samples.read(1).startswith(b"\x89PNG")
    inside = read(root, f"image,label\n0.png,a\n{root}/pictures/1.png,b\n", allow_outside=False)
    assert inside.paths == ("pictures/0.png", "pictures/1.png")
    assert refusal(root, PLAIN + "http://host/x.png,a\n", allow_outside=True).code == "OUTSIDE"


def test_a_folder_beside_the_table_becomes_the_root(root: Path, make_folder: MakeFolder) -> None:
    make_folder({".": 3}, name="beside")
    samples = read(root, PLAIN, folder="../beside")
    assert (samples.root.name, samples.paths[0]) == ("beside", "0.png")
    assert (
        refusal(root, "image,label\n../data/pictures/0.png,a\n1.png,b\n", folder="../beside").code
        == "OUTSIDE"
    )


def test_slashes_of_another_system_are_understood(root: Path) -> None:
    samples = read(root, "image,label\npictures\\0.png,a\npictures\\1.png,b\n", folder="")
    assert samples.paths == ("pictures/0.png", "pictures/1.png")
    there, _ = present(str(root), ["..\\data\\pictures\\0.png"])
    assert not there.any()


def test_latin_1_is_named_by_its_byte_and_its_line(root: Path) -> None:
    data = "image,label\n0.png,cat\n1.png,caf\u00e9\n".encode("latin-1")
    error = refusal(root, data)
    assert (error.code, error.exit_code) == ("NOT_TEXT", 65)
    assert "byte 0xe9 in line 3" in error.message
    assert "--encoding latin-1" in error.hint
    assert read(root, data, encoding="latin-1").classes == ("caf\u00e9", "cat")
    assert "UTF-16" in refusal(root, PLAIN.encode("utf-16")).message
    assert len(read(root, PLAIN.encode("utf-16"), encoding="utf-16")) == 3
    assert refusal(root, PLAIN, encoding="martian").exit_code == 2


def test_an_empty_table_is_missing_input(root: Path) -> None:
    for text in ("", "image,label\n", "image,label\n\n\n", "\n"):
        error = refusal(root, text)
        assert error.exit_code in (2, 66), text
    assert refusal(root, "image,label\n").exit_code == 66
    with pytest.raises(InputMissingError):
        read_table(root / "no.csv")
    with pytest.raises(InputMissingError, match="folder"):
        read_table(root)


@pytest.mark.parametrize(
    "text", [PLAIN + "3.png,a,b\n", "image,label\n0.png,a,b\n", PLAIN + '3.png,"a\n', "image,label\n0.png\n"]
)
def test_rows_that_are_no_rows_are_named_and_never_a_traceback(root: Path, text: str) -> None:
    assert refusal(root, text).exit_code in (2, 65)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.one_of(
        st.binary(max_size=80), st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))
    )
)
def test_no_bytes_raise_anything_but_our_errors(root: Path, data: bytes) -> None:
    for start in (b"", b"image,label\n", PLAIN.encode()):
        with contextlib.suppress(UsageError, DataError, InputMissingError):
            read(root, start + data, skip_missing=True)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), min_size=6, max_size=6))
def test_any_class_name_survives_a_csv(root: Path, names: list[str]) -> None:
    labels = [name.strip() or "x" for name in names]
    labels = [label.replace("\r", "") or "x" for label in labels]
    frame = pd.DataFrame({"image": [f"{n}.png" for n in range(6)], "label": labels})
    text = io.StringIO(newline="")
    frame.to_csv(text, index=False, lineterminator="\n")
    assume(len({unicodedata.normalize("NFC", label.strip()) for label in labels}) > 1)
    assume(len({unicodedata.normalize("NFC", label.strip()) for label in labels}) == len(set(labels)))
    samples = read(root, "\ufeff" + text.getvalue())
    assert samples.label_names() == [label.strip() for label in labels]


def test_a_frame_is_read_as_a_table_is(root: Path) -> None:
    frame = pd.DataFrame(
        {"image": ["0.png", "1.png", "2.png"], "label": ["cat", "dog", "cat"]}, index=[5, 5, 9]
    )
    assert (
        from_frame(frame, Table(folder="pictures"), root=root).fingerprint()
        == read(root, PLAIN).fingerprint()
    )
    numbers = frame.assign(label=[1.0, np.nan, 2.0])
    assert from_frame(numbers, Table(folder="pictures", unlabelled="test"), root=root).classes == ("1", "2")
    with pytest.raises(DataError, match=r"row 1 \(pictures/1\.png\)"):
        from_frame(numbers, Table(folder="pictures"), root=root)
    ordered = frame.assign(label=pd.Categorical(["a", "b", "a"], ["z", "b", "a"]))
    assert from_frame(ordered, Table(folder="pictures"), root=root).classes == ("b", "a")
    tags = frame.assign(label=[["a", "b"], [], ["b"]])
    assert from_frame(tags, Table(folder="pictures"), root=root).label_names() == ["a b", "", "b"]


def test_a_table_of_samples_comes_back_from_its_own_frame(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 3, "train/b": 2, "valid/a": 1, "test": 2})
    samples = scan_folder(root)
    again = from_frame(samples.to_frame(), Table(image="path", label="label", split="split"), root=root)
    assert again.fingerprint() == samples.fingerprint()
    without = Table(image="path", label="label", unlabelled="test")
    assert from_frame(samples.to_frame(), without, root=root).fingerprint() != samples.fingerprint()


def test_parquet_is_read_and_damage_named(root: Path) -> None:
    frame = pd.DataFrame({"image": ["0.png", "1.png", "2.png"], "label": ["cat", "dog", "cat"]})
    frame.to_parquet(root / "labels.parquet")
    samples = read_table(root / "labels.parquet", Table(image="image", label="label", folder="pictures"))
    assert samples.fingerprint() == read(root, PLAIN).fingerprint()
    data = (root / "labels.parquet").read_bytes()
    for damaged in (b"", b"PAR1", data[:-9], b"image,label\n", data[:40] + b"\xff" * 60 + data[100:]):
        (root / "bad.parquet").write_bytes(damaged)
        with pytest.raises(DataError) as caught:
            read_table(root / "bad.parquet", Table(folder="pictures"))
        assert caught.value.code == "NOT_A_TABLE"


def test_a_remote_table_and_its_pictures_are_read(root: Path) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    for path in (root / "pictures").iterdir():
        files.pipe(f"/bucket/pictures/{path.name}", path.read_bytes())
    files.pipe("/bucket/labels.csv", PLAIN.encode())
    try:
        samples = read_table("memory://bucket/labels.csv", Table(folder="pictures"))
        local = read(root, PLAIN)
        assert samples.ids.tolist() == local.ids.tolist()
        assert samples.fingerprint() == local.fingerprint()
        assert samples.read(1) == local.read(1)
        assert samples.name(0) == "memory://bucket/pictures/0.png"
        files.rm("/bucket/pictures/1.png")
        with pytest.raises(DataError) as caught:
            samples.read(1)
        assert caught.value.code == "VANISHED"
        with pytest.raises(DataError, match="row 3"):
            read_table("memory://bucket/labels.csv", Table(folder="pictures"))
        with pytest.raises(InputMissingError):
            read_table("memory://bucket/none.csv")
        with pytest.raises(UsageError, match="nonsense"):
            read_table("nonsense://bucket/none.csv")
    finally:
        files.rm("/bucket", recursive=True)


def test_many_rows_take_linear_time(tmp_path: Path) -> None:
    count = 100_000
    (tmp_path / "p").mkdir()
    frame = pd.DataFrame({"image": [f"{n}.jpg" for n in range(count)], "label": np.arange(count) % 1000})
    frame.to_csv(tmp_path / "labels.csv", index=False)
    started = time.process_time()
    with pytest.raises(DataError, match="100000 of 100000"):
        read_table(tmp_path / "labels.csv", Table(folder="p"))
    # 0.9 s on a loaded core; a stat and a message for each would be many more.
    assert time.process_time() - started < 10


@pytest.mark.parametrize("collection", ["dog_breeds", "helmets"])
def test_the_tables_of_real_collections_are_read(shared: Path, collection: str) -> None:
    table = {
        "dog_breeds": Table(image="id", label="breed", folder="train", suffix=".jpg"),
        "helmets": Table(image="image", label="tags", label_delimiter=" ", folder="images", suffix=".jpg"),
    }[collection]
    samples = read_table(shared / "data" / collection / "labels.csv", table)
    assert (len(samples), len(samples.classes)) == {"dog_breeds": (1000, 120), "helmets": (700, 2)}[
        collection
    ]
    assert samples.skipped == {}
    assert all(samples.read(row)[:3] == b"\xff\xd8\xff" for row in range(0, len(samples), 100))


def test_columns_without_a_purpose_are_kept_for_slices_and_follow_their_rows(root: Path) -> None:
    text = (
        "image,camera,label,split,patient,\n"
        "0.png,old,cat,train,p1,x\n1.png,new,dog,train,p2,x\n2.png,,cat,valid,p1,x\n3.png,new,dog,valid,p2,x\n"
    )
    samples = read(root, text, label="label", split="split", group="patient")
    assert {name: cells.tolist() for name, cells in samples.columns.items()} == {
        "camera": ["old", "new", "", "new"],
        "patient": ["p1", "p2", "p1", "p2"],
    }
    assert samples.take([3, 0]).columns["camera"].tolist() == ["new", "old"]
    assert samples.with_split(["train"] * 4).columns["camera"].tolist() == ["old", "new", "", "new"]
    frame = samples.to_frame()
    assert frame.columns.tolist() == ["path", "label", "split", "group", "camera", "patient"]
    plain = read(root, text, label="label", split="split", group="patient").fingerprint()
    assert plain == samples.fingerprint()


def test_cells_of_pictures_whose_rows_do_not_agree_are_empty(root: Path) -> None:
    text = "image,label,camera,box\n0.png,cat,old,1\n0.png,cat,old,2\n1.png,dog,new,3\n2.png,cat,new,4\n"
    samples = read(root, text)
    assert samples.skipped == {"repeated rows": 1}
    assert samples.columns["camera"].tolist() == ["old", "new", "new"]
    assert samples.columns["box"].tolist() == ["", "3", "4"]


def test_columns_of_a_frame_are_text_and_what_is_no_cell_is_left_out(root: Path) -> None:
    frame = pd.DataFrame(
        {
            "image": ["0.png", "1.png"],
            "label": ["cat", "dog"],
            "floor": [1.0, np.nan],
            "vector": [np.zeros(3), np.ones(3)],
            3: ["x", "y"],
        }
    )
    samples = from_frame(frame, Table(folder="pictures"), root=root)
    assert {name: cells.tolist() for name, cells in samples.columns.items()} == {
        "floor": ["1", ""],
        "3": ["x", "y"],
    }


def test_a_test_set_brings_its_columns_or_has_empty_ones(root: Path) -> None:
    from headstart.data import with_test_set

    learned = read(root, "image,label,camera\n0.png,cat,old\n1.png,dog,new\n")
    tested = read(root, "image,label,site\n2.png,cat,north\n", classes=("cat", "dog"))
    tested = tested.with_split(["test"])
    both = with_test_set(learned, tested)
    assert both.columns["camera"].tolist() == ["old", "new", ""]
    assert both.columns["site"].tolist() == ["", "", "north"]


def test_a_column_of_another_length_is_refused(root: Path) -> None:
    from dataclasses import replace

    with pytest.raises(UsageError, match="column camera has 1 rows"):
        replace(read(root, PLAIN), columns={"camera": np.array(["x"], object)})
