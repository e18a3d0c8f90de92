"""Odd folders, row by row: exit code, reason code and counts, and the folder is byte for byte as it was.

The rows L01 to L46 are those of the reliability plan. `LAYOUTS` are tried here through the command line;
`ELSEWHERE` says which test tries another row.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from headstart.cli.main import run

MakeFolder = Callable[..., Path]
TESTS = Path(__file__).resolve().parents[1]

posix_only = pytest.mark.skipif(os.name != "posix", reason="this system has no such thing")
TRAIN = ("train", "--from-scratch", "--arch", "test_resnet", "--image-size", "32", "--cycles", "1", "-q")
CHECK = ("check",)


@dataclass(frozen=True)
class Layout:
    """How a folder is made, what is run on it, and what must come of it.

    `code`: of the error, "" where the exit code is 0. `says`: words of the error. `has`: of a check's JSON,
    values by their path, as "findings.NOT_AN_IMAGE" or "skipped.broken links".
    """

    make: Callable[[MakeFolder], Path]
    exit: int = 0
    code: str = ""
    says: Sequence[str] = ()
    command: Sequence[str] = CHECK
    has: dict[str, object] = field(default_factory=dict)


def refused(make: Callable[[MakeFolder], Path], exit: int, code: str, *says: str, flags: Sequence[str] = ()):
    return Layout(make, exit, code, says, (*TRAIN, *flags))


def checked(make: Callable[[MakeFolder], Path], **has: object) -> Layout:
    return Layout(make, has={name.replace("__", "."): value for name, value in has.items()})


def with_bad(make: MakeFolder, counts: dict[str, int], bad: Sequence[str]) -> Path:
    root = make(counts)
    for name in bad:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100) + name.encode())
    return root


def junk(make: MakeFolder) -> Path:
    root = make({"a": 2, "b": 2, ".ipynb_checkpoints": 1, ".git/objects": 1, "__MACOSX/a": 1})
    for name in (".DS_Store", "Thumbs.db", "._x.jpg", "desktop.ini"):
        (root / "a" / name).write_bytes(b"junk")
    return root


def renamed(make: MakeFolder, *names: bytes) -> Path:
    root = make({"a": len(names), "b": 2})
    for number, name in enumerate(names):
        os.rename(root / "a" / f"{number}.png", os.fsencode(root / "a") + b"/" + name)
    return root


def linked(make: MakeFolder) -> Path:
    root, outside = make({"a": 2, "b": 1}), make({".": 2}, name="outside")
    (root / "b" / "outside.png").symlink_to(outside / "0.png")
    (root / "b" / "again.png").symlink_to(outside / "0.png")
    (root / "c").symlink_to(outside, target_is_directory=True)
    return root


def looped(make: MakeFolder) -> Path:
    root = make({"a": 2, "b": 1})
    (root / "a" / "up").symlink_to(root / "a", target_is_directory=True)
    return root


def broken(make: MakeFolder) -> Path:
    root = make({"a": 2, "b": 2})
    (root / "b" / "broken.png").symlink_to(root / "gone.png")
    (root / "b" / "self.png").symlink_to(root / "b" / "self.png")
    return root


def special(make: MakeFolder) -> Path:
    root = make({"a": 2, "b": 2, "a/folder.jpg": 0})
    os.mkfifo(root / "a" / "pipe.jpg")
    (root / "a" / "zero.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(root / "a")  # the name of a socket must be short
        try:
            listener.bind("socket.jpg")
        finally:
            os.chdir(here)
    return root


def copied(make: MakeFolder, counts: dict[str, int], one: str, other: str) -> Path:
    root = make(counts)
    (root / other).write_bytes((root / one).read_bytes())
    return root


def sparse(make: MakeFolder) -> Path:
    root = make({"a": 2, "b": 2})
    with open(root / "a" / "huge.jpg", "wb") as stream:
        stream.truncate(2_100_000_000)
    return root


LAYOUTS: dict[str, Layout] = {
    "L01": refused(lambda make: make({"a": 1}) / "missing", 66, "NO_INPUT", "missing"),
    "L02": refused(lambda make: make({"a": 1}) / "a" / "0.png", 66, "NO_INPUT", "is a file, not a folder"),
    "L03": refused(lambda make: make({}), 66, "NO_INPUT", "there are no pictures in", "looked for .jpg"),
    "L04": refused(lambda make: make({"a": 0, "b": 0}), 66, "NO_INPUT", "there are no pictures in", ".jpg"),
    "L05": refused(lambda make: make({"ants": 5}), 65, "ONE_CLASS", "ants", "2 or more"),
    "L06": refused(lambda make: make({"a": 1, "b": 1}), 65, "TOO_FEW", "too few pictures to validate"),
    "L07": refused(
        lambda make: with_bad(make, {"a": 6, "b": 6}, ["bad/1.png"]), 65, "EMPTY_CLASS", "class bad"
    ),
    "L08": refused(
        lambda make: make({"a": 6, "b": 6, "none": 0}), 65, "EMPTY_CLASS", "none", "--drop-empty-classes"
    ),
    "L09": refused(lambda make: make({".": 4}), 65, "NO_CLASS_FOLDERS", "expected one folder for each class"),
    "L10": checked(
        lambda make: make({"a/x/y": 2, "a": 1, "b/z": 2}), pictures=5, classes__a=3, classes__b=2
    ),
    "L11": checked(junk, **{"pictures": 4, "skipped__hidden or system files": 7}),
    "L12": refused(
        lambda make: make({"caf\u00e9": 2, "cafe\u0301": 2}), 65, "TWIN_CLASSES", "encoded in two ways"
    ),
    "L13": checked(lambda make: make({"Cat": 2, "cat": 2}), classes__Cat=2, classes__cat=2),
    "L14": checked(lambda make: renamed(make, b"\xff.jpg", b"x\xfe.png"), usable=4),
    "L15": checked(lambda make: renamed(make, b"%s.png", b"{0}.png", b"$(x).png"), usable=5),
    "L16": checked(linked, **{"usable": 5, "skipped__links to pictures already listed": 2}),
    "L17": checked(looped, **{"usable": 3, "skipped__folder links already followed": 1}),
    "L18": checked(broken, **{"usable": 4, "skipped__broken links": 2}),
    "L19": checked(special, usable=4, findings__NOT_REGULAR=3),
    "L27": checked(lambda make: make({"train/a": 3, "train/b": 3, "valid/b": 2}), splits__valid=2),
    "L28": refused(
        lambda make: make({"train/a": 3, "train/b": 3, "valid/c": 2}), 65, "UNKNOWN_CLASS", "c is in valid"
    ),
    "L29": checked(
        lambda make: copied(
            make, {"train/a": 3, "train/b": 3, "valid/a": 1, "valid/b": 1}, "train/a/0.png", "valid/a/0.png"
        ),
        findings__LEAK=1,
        duplicates__exact=1,
    ),
    "L31": checked(
        lambda make: copied(make, {"a": 3, "b": 3}, "a/0.png", "b/0.png"), findings__LABEL_CONFLICT=2
    ),
    "L40": refused(
        lambda make: with_bad(make, {}, [f"{name}/{number}.png" for name in "ab" for number in range(3)]),
        65, "NO_USABLE_IMAGES", "none of the 6 files is a usable picture",
    ),
    "L41": refused(
        lambda make: with_bad(
            make, {"a": 12, "b": 12}, [f"{name}/bad{number}.png" for name in "ab" for number in range(12)]
        ),
        65, "TOO_MANY_BAD", "24 of 48 pictures cannot be used", "--max-bad 24",
    ),
    "L43": refused(
        lambda make: make({"cat_1": 2, "dog_2": 2, "emu": 7}), 65, "NO_MATCH", "7", "emu/4.png",
        flags=("--label-regex", "^([a-z]+)_"),
    ),
    "L46": checked(sparse, usable=4, findings__TOO_MANY_BYTES=1),
}  # fmt: skip

ELSEWHERE: dict[str, tuple[str, ...]] = {
    "L12": (
        "unit/data/test_layouts.py::test_naughty_names_are_classes_like_any_other",
        "end_to_end/test_command_line.py::test_odd_names_come_through",
    ),
    "L20": ("unit/data/test_layouts.py::test_files_and_folders_that_may_not_be_read_are_counted_and_named",),
    "L21": ("unit/data/test_layouts.py::test_a_read_only_folder_without_a_home_is_read_and_left_alone",),
    **dict.fromkeys(
        ("L22", "L23", "L24"),
        (
            "end_to_end/test_pictures_that_go.py"
            "::test_a_picture_that_goes_or_changes_in_the_run_stops_it_and_is_named",
            "end_to_end/test_pictures_that_go.py"
            "::test_with_on_error_skip_the_run_goes_on_without_them_and_counts_them",
        ),
    ),
    "L30": (
        "unit/data/test_duplicates.py::test_no_near_duplicate_crosses_the_split_and_without_groups_some_would",
    ),
    "L32": ("unit/data/test_duplicates.py::test_files_of_one_md5_are_no_copies",),
    **dict.fromkeys(
        ("L25", "L26"),
        ("unit/recipe/test_resume.py::test_pictures_that_have_changed_are_named_and_nothing_is_done",),
    ),
    "L33": (
        "unit/data/test_layouts.py::test_many_classes_of_one_picture_all_train",
        "reliability/test_large_folders.py::test_twenty_thousand_classes_of_one_picture",
    ),
    "L34": (
        "unit/data/test_layouts.py::test_many_files_in_one_folder_are_listed_in_linear_time",
        "reliability/test_large_folders.py::test_a_hundred_thousand_files_in_one_folder",
    ),
    "L35": ("unit/data/test_layouts.py::test_three_hundred_to_one_is_split_within_each_class",),
    **dict.fromkeys(
        ("L36", "L37"),
        ("unit/test_learner.py::test_a_batch_larger_than_the_training_set_and_a_last_batch_of_one_train",),
    ),
    "L38": ("end_to_end/test_layout_rows.py::test_batches_of_one_train_with_batch_norm",),
    "L39": (
        "end_to_end/test_pictures_that_go.py"
        "::test_pictures_that_are_all_one_train_and_the_scores_are_called_nothing",
    ),
    "L42": (
        "unit/data/test_tables.py::test_the_ways_in_which_programs_write_a_table_make_no_difference",
        "unit/data/test_tables.py::test_missing_pictures_are_counted_and_five_named_by_their_rows",
        "unit/data/test_tables.py::test_rows_that_say_the_same_count_once",
        "unit/data/test_tables.py::test_one_picture_under_two_classes_is_refused_with_both_rows",
        "unit/data/test_tables.py::test_an_empty_label_is_refused_tested_or_skipped",
        "unit/data/test_tables.py::test_labels_are_text",
        "unit/data/test_tables.py::test_no_row_leads_out_of_the_folder_unless_it_may",
        "unit/data/test_tables.py::test_latin_1_is_named_by_its_byte_and_its_line",
        "unit/data/test_tables.py::test_an_empty_table_is_missing_input",
        "unit/data/test_tables.py::test_many_rows_take_linear_time",
        "end_to_end/test_sources_command_line.py::test_faults_of_a_table_are_one_line_with_a_code",
    ),
    "L44": (
        "unit/data/test_layouts.py::test_a_path_of_five_hundred_folders_is_walked",
        "unit/data/test_layouts.py::test_a_path_that_is_too_long_or_has_gone_is_one_clear_line",
        "unit/data/test_scan.py::test_a_relative_path_a_trailing_slash_and_a_home_are_understood",
    ),
    "L45": (
        "end_to_end/test_poor_shell.py::test_a_poor_shell_is_enough_for_a_check",
        "end_to_end/test_poor_shell.py::test_a_poor_shell_is_enough_to_train",
        "unit/data/test_layouts.py::test_a_poor_shell_is_enough",
    ),
}


def tree_hash(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*"), key=os.fsencode):
        status = path.lstat()
        digest.update(os.fsencode(path.relative_to(root)))
        digest.update(f"{status.st_mode} {status.st_size} {status.st_mtime_ns} {status.st_ino}".encode())
        if path.is_file() and not path.is_symlink() and status.st_size < 2**20:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def value_at(content: dict[str, Any], place: str) -> object:
    """What a check says: "findings.X" is the count of finding X, any other a path through the JSON."""
    first, _, rest = place.partition(".")
    if first == "findings":
        return {each["code"]: each["count"] for each in content["findings"]}.get(rest)
    return content[first][rest] if rest else content[first]


@posix_only
@pytest.mark.timeout(120)
@pytest.mark.parametrize("row", LAYOUTS)
def test_a_row_of_the_plan_holds(row: str, make_folder: MakeFolder, tmp_path: Path, capsys) -> None:
    layout = LAYOUTS[row]
    root = layout.make(make_folder)
    before, out = tree_hash(tmp_path), tmp_path / "run"
    where = [] if layout.command == CHECK else ["--out", str(out)]
    assert run([layout.command[0], str(root), *layout.command[1:], *where, "--json"]) == layout.exit
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    said = json.loads(printed.out)
    printed.out.encode("utf-8")
    if layout.exit:
        assert said["error"]["code"] == layout.code
        assert len([line for line in printed.err.splitlines() if line.startswith("error[")]) == 1
        for words in layout.says:
            assert words in said["error"]["message"] + said["error"]["hint"], said
    else:
        assert {place: value_at(said, place) for place in layout.has} == layout.has
        assert said["pictures"] - said["usable"] == sum(
            each["count"] for each in said["findings"] if each["code"] in ("NOT_REGULAR", "TOO_MANY_BYTES")
        )
    assert tree_hash(tmp_path) == before, "something was written"


def test_an_empty_class_may_be_dropped(make_folder: MakeFolder, capsys) -> None:
    assert run(["check", str(make_folder({"a": 2, "b": 2, "none": 0})), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["notes"] == ["left out, since they hold no pictures: none"]


def test_two_names_in_upper_and_lower_case_are_told(make_folder: MakeFolder, capsys) -> None:
    assert run(["check", str(make_folder({"Cat": 2, "cat": 2})), "--json"]) == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert "Cat" in note
    assert "cat" in note


def test_batches_of_one_train_with_batch_norm(make_folder: MakeFolder, tmp_path: Path, capsys) -> None:
    root, out = make_folder({"a": 4, "b": 4}), tmp_path / "run"
    before = tree_hash(root)
    assert run([TRAIN[0], str(root), *TRAIN[1:], "--batch-size", "1", "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["settings"]["batch_size"] == 1
    assert sum(step["epochs"] for step in summary["steps"]) >= 1
    assert tree_hash(root) == before


def test_every_row_of_the_plan_has_a_test() -> None:
    rows = {f"L{number:02}" for number in range(1, 47)}
    assert set(LAYOUTS) | set(ELSEWHERE) == rows
    for row, places in ELSEWHERE.items():
        for place in places:
            file, _, name = place.partition("::")
            tree = ast.parse((TESTS / file).read_text("utf-8"))
            names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert name in names, f"{row}: there is no {place}"
