"""Rows that name pictures and labels become samples: the checks that lists and tables share."""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from headstart.data.classes import Labels, case_twins, refuse_twins
from headstart.data.presence import present, suggestion
from headstart.data.remote import is_remote
from headstart.data.samples import Samples, shown
from headstart.errors import DataError, InputMissingError, UsageError
from headstart.types import Task

Texts = Sequence[str] | NDArray[np.object_]
Unlabelled = Literal["refuse", "test", "skip"]

# How a split column may spell each part; also whether a row validates, as 1 or true.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "0", "false", "0.0"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "dev", "1", "true", "1.0"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
    "": "",
}

_NEEDS_CARE = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|://")


@dataclass(frozen=True)
class Rules:
    """What becomes of rows that cannot be taken as they are.

    `folder`: put before each name; `suffix`: put behind those that do not end with it. `unlabelled`:
    rows without a label are refused, become the test part, or are skipped and counted; a row that a
    split column puts into test needs none. `skip_missing`: rows whose picture is not there are counted
    rather than refused. `allow_outside`: pictures may lie outside the folder of the data.
    `drop_unseen_classes`: rows of a class (for tags: the tag) that train has not are left out, rather
    than refused.
    """

    folder: str = ""
    suffix: str = ""
    unlabelled: Unlabelled = "refuse"
    skip_missing: bool = False
    allow_outside: bool = False
    drop_unseen_classes: bool = False

    def __post_init__(self) -> None:
        if self.unlabelled not in get_args(Unlabelled):
            raise UsageError(f"unlabelled={self.unlabelled!r} is unknown", "choose refuse, test or skip")


@dataclass(frozen=True, eq=False)
class Rows:
    """What a source says of N pictures, before it is checked.

    `pictures`: paths as written, object (N,). `labels`: fixed, without classes, where the source has none.
    `split` and `group`: text as written, object (N,). `numbers`: what messages call the rows, int64 (N,).
    `columns`: what else is said of each, by name, object (N,).
    """

    pictures: NDArray[np.object_]
    labels: Labels
    numbers: NDArray[np.int64]
    split: NDArray[np.object_] | None = None
    group: NDArray[np.object_] | None = None
    columns: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """Return those rows, in that order."""
        return Rows(
            self.pictures[rows],
            self.labels.take(rows),
            self.numbers[rows],
            None if self.split is None else self.split[rows],
            None if self.group is None else self.group[rows],
            {name: column[rows] for name, column in self.columns.items()},
        )

    def named(self, rows: NDArray[np.int64], count: int = 5) -> str:
        """Return the first of `rows` by number and picture, for messages."""
        listed = [f"row {self.numbers[row]} ({shown(self.pictures[row])})" for row in rows[:count].tolist()]
        return ", ".join(listed) + (", …" if len(rows) > count else "")


def rows_of(
    pictures: Texts,
    labels: Labels,
    *,
    split: Texts | None = None,
    group: Texts | None = None,
    numbers: NDArray[np.int64] | None = None,
    columns: Mapping[str, NDArray[np.object_]] | None = None,
) -> Rows:
    """Make rows from columns of one length; without `numbers` they are called 0, 1 … Raises `UsageError`."""
    count = len(pictures)
    for name, column in (("labels", labels.values), ("split", split), ("group", group)):
        if column is not None and len(column) != count:
            raise UsageError(f"there are {count} pictures and {len(column)} rows of {name}")
    return Rows(
        _objects(pictures),
        labels,
        np.arange(count, dtype=np.int64) if numbers is None else numbers,
        None if split is None else _objects(split),
        None if group is None else _objects(group),
        columns or {},
    )


def _objects(texts: Texts) -> NDArray[np.object_]:
    column = np.empty(len(texts), object)
    column[:] = texts
    return column


def samples_from_rows(root: str | Path, rows: Rows, rules: Rules) -> Samples:
    """Check rows and make the table; `root` is a folder, or the URL of one, that the pictures lie in.

    Rows that say the same twice count once; those of one picture that differ are refused (tags are put
    together). No row is left out without being counted in `skipped`. Raises `DataError` that names the
    first five rows: NO_NAME, OUTSIDE, MISSING_FILES, CONFLICTING_ROWS, BAD_SPLIT, NO_LABEL, UNKNOWN_CLASS,
    ONE_CLASS, TWIN_CLASSES; and `InputMissingError` where there are no rows.
    """
    if not len(rows.pictures):
        raise InputMissingError("there are no rows: the table names no picture", "give one row a picture")
    root, rules = _rooted(root, rules)
    skipped: Counter[str] = Counter()
    rows = replace(rows, pictures=_placed(rows, str(root), rules))
    rows = _without_repeats(rows, skipped)
    rows = _without_missing(rows, str(root), rules, skipped)
    rows, split, notes = settle(rows, rules, skipped)
    paths = tuple(rows.pictures.tolist())
    return Samples(
        root=Path.cwd() if is_remote(str(root)) else Path(root),
        paths=tuple([f"{root}/{path}" for path in paths]) if is_remote(str(root)) else paths,
        labels=rows.labels.values,
        classes=rows.labels.classes,
        split=split,
        task=rows.labels.task,
        group=group_numbers(rows.group),
        names=paths if is_remote(str(root)) else None,
        columns=rows.columns,
        skipped={why: count for why, count in sorted(skipped.items()) if count},
        notes=notes,
    )


def settle(rows: Rows, rules: Rules, skipped: Counter[str]) -> tuple[Rows, NDArray[np.str_], tuple[str, ...]]:
    """Settle the parts, what has no label, and the classes: the rows that stay, their parts, what to say.

    Raises `DataError` BAD_SPLIT, NO_LABEL, UNKNOWN_CLASS, ONE_CLASS, TWIN_CLASSES.
    """
    rows, split = _settle_unlabelled(rows, _splits(rows), rules, skipped)
    notes: list[str] = []
    rows, split = _settle_classes(rows, split, rules, skipped, notes)
    return rows, split, tuple(notes)


def _rooted(root: str | Path, rules: Rules) -> tuple[str | Path, Rules]:
    """Return the root and rules whose folder lies within it: one given elsewhere becomes the root."""
    folder = posixpath.normpath(rules.folder) if rules.folder else "."
    if folder == ".":
        return root, replace(rules, folder="")
    if not _leaves(folder):
        return root, replace(rules, folder=folder)
    if is_remote(str(root)):
        raise UsageError(f"the folder {shown(folder)} is not below {shown(str(root))}", "name one that is")
    return Path(os.path.normpath(Path(root) / folder)), replace(rules, folder="")


def _placed(rows: Rows, root: str, rules: Rules) -> NDArray[np.object_]:
    """Return the pictures' paths relative to the root, with folder and suffix, none outside it."""
    empty = np.flatnonzero(rows.pictures == "")
    if len(empty):
        raise DataError(
            f"{len(empty)} of {len(rows.pictures)} rows name no picture: {rows.named(empty)}",
            "fill in the pictures' names, or remove the rows",
            code="NO_NAME",
        )
    suffix, before = rules.suffix, f"{rules.folder}/" if rules.folder else ""
    written = [os.fspath(text) for text in rows.pictures.tolist()]
    if os.name == "nt":
        written = [text.replace("\\", "/") for text in written]
    if suffix:
        written = [text if text.lower().endswith(suffix.lower()) else text + suffix for text in written]
    care = _NEEDS_CARE.search
    placed = [before + text if not care(text) else _careful(text, before, root) for text in written]
    outside = [] if rules.allow_outside else [row for row, path in enumerate(placed) if _leaves(path)]
    outside += [row for row, path in enumerate(placed) if is_remote(path)]
    if outside:
        named = rows.named(np.array(sorted(set(outside)), np.int64))
        raise DataError(
            f"{len(outside)} of {len(placed)} rows name a picture outside {shown(root)}: {named}",
            "name the folder that holds them all, or allow paths to files elsewhere with --allow-outside",
            code="OUTSIDE",
        )
    return _objects(placed)


def _careful(text: str, before: str, root: str) -> str:
    """Return a path with dots, doubled slashes or a leading slash in its shortest form."""
    if is_remote(text):
        return text
    path = posixpath.normpath(posixpath.join(before, text))
    if path.startswith("/") and not is_remote(root):
        inside = posixpath.relpath(path, Path(root).as_posix())
        return path if _leaves(inside) else inside
    return path


def _leaves(path: str) -> bool:
    drive = os.name == "nt" and bool(os.path.splitdrive(path)[0])
    return path.startswith(("/", "../")) or path == ".." or drive


def _without_repeats(rows: Rows, skipped: Counter[str]) -> Rows:
    """Keep each picture once; raise where its rows do not say the same."""
    import pandas as pd

    kinds, _ = pd.factorize(rows.pictures)
    firsts = np.unique(kinds, return_index=True)[1].astype(np.int64)
    if len(firsts) == len(kinds):
        return rows
    labels = rows.labels
    if labels.task is Task.MULTI_LABEL:
        together = np.zeros((len(firsts), len(labels.classes)), np.uint8)
        np.maximum.at(together, kinds, labels.values)
        labels = replace(labels, values=together[kinds])
    first = firsts[kinds]
    columns: dict[str, NDArray[Any] | None] = {
        "label": labels.values, "split": rows.split, "group": rows.group
    }  # fmt: skip
    for what, column in columns.items():
        if column is None:
            continue
        differs = column != column[first]
        wrong = np.flatnonzero(differs.any(axis=1) if differs.ndim == 2 else differs)
        if len(wrong):
            raise _conflict(rows, wrong, first, what)
    skipped["repeated rows"] += len(kinds) - len(firsts)
    said = {name: _agreed(column, kinds, first) for name, column in rows.columns.items()}
    return replace(rows, labels=labels, columns=said).take(firsts)


def _agreed(
    column: NDArray[np.object_], kinds: NDArray[np.int64], first: NDArray[np.int64]
) -> NDArray[np.object_]:
    """Return another column, with empty cells for pictures whose rows do not agree: of several boxes, say."""
    torn = np.unique(kinds[column != column[first]])
    return np.where(np.isin(kinds, torn), "", column) if len(torn) else column


def _conflict(rows: Rows, wrong: NDArray[np.int64], first: NDArray[np.int64], what: str) -> DataError:
    row, other = int(wrong[0]), int(first[wrong[0]])
    said = ""
    if what == "label":
        said = f" ({shown(rows.labels.names_of(other))} and {shown(rows.labels.names_of(row))})"
    return DataError(
        f"{len(wrong)} rows give a picture another {what} than an earlier row does: "
        f"{shown(rows.pictures[row])} in rows {rows.numbers[other]} and {rows.numbers[row]}{said}",
        "keep one row for each picture; if pictures have several labels, say what separates them with "
        "--label-delimiter",
        code="CONFLICTING_ROWS",
    )


def _without_missing(rows: Rows, root: str, rules: Rules, skipped: Counter[str]) -> Rows:
    there, paths = present(root, rows.pictures.tolist(), allow_outside=rules.allow_outside)
    rows = replace(rows, pictures=_objects(paths))
    missing = np.flatnonzero(~there)
    if not len(missing):
        return rows
    if not rules.skip_missing or len(missing) == len(there):
        hint = suggestion(root, rows.pictures[missing[0]])
        raise DataError(
            f"{len(missing)} of {len(there)} rows name a picture that is not in {shown(root)}: "
            f"{rows.named(missing)}",
            hint or "put the pictures there, or leave such rows out with --skip-missing",
            code="MISSING_FILES",
        )
    skipped["rows without their picture"] += len(missing)
    return rows.take(np.flatnonzero(there).astype(np.int64))


def _splits(rows: Rows) -> NDArray[np.str_]:
    if rows.split is None:
        return np.full(len(rows.pictures), "", "<U5")
    known = {text: SPLIT_NAMES.get(text.strip().lower()) for text in set(rows.split.tolist())}
    parts = [known[text] for text in rows.split.tolist()]
    bad = np.array([row for row, part in enumerate(parts) if part is None], np.int64)
    if len(bad):
        raise DataError(
            f"{len(bad)} rows have a split that is unknown, first {shown(rows.split[bad[0]])!r}: "
            f"{rows.named(bad)}",
            "write train, valid or test, or 0 and 1 for whether a row validates",
            code="BAD_SPLIT",
        )
    return np.array(parts, "<U5")


def _settle_unlabelled(
    rows: Rows, split: NDArray[np.str_], rules: Rules, skipped: Counter[str]
) -> tuple[Rows, NDArray[np.str_]]:
    if rows.labels.fixed and not rows.labels.classes:
        return rows, split
    missing = rows.labels.missing & (split != "test")
    if not missing.any():
        return rows, split
    if rules.unlabelled == "test":
        return rows, np.where(missing, "test", split).astype("<U5")
    if rules.unlabelled == "refuse":
        raise DataError(
            f"{int(missing.sum())} of {len(missing)} rows have no label: "
            f"{rows.named(np.flatnonzero(missing).astype(np.int64))}",
            "fill the labels in, or let such rows be predicted with --unlabelled test or left out with "
            "--unlabelled skip",
            code="NO_LABEL",
        )
    skipped["rows without a label"] += int(missing.sum())
    kept = np.flatnonzero(~missing).astype(np.int64)
    return rows.take(kept), split[kept]


def _settle_classes(
    rows: Rows, split: NDArray[np.str_], rules: Rules, skipped: Counter[str], notes: list[str]
) -> tuple[Rows, NDArray[np.str_]]:
    """Check the classes; those that no row has any more go away, unless they were given."""
    labels = rows.labels
    if labels.fixed and not labels.classes:
        return rows, split
    if not labels.classes:
        raise DataError("no row has a label", "name the column that holds the labels", code="NO_LABEL")
    refuse_twins(labels.classes)
    if not labels.fixed:
        labels = labels.only(labels.counts() > 0)
    learnable = (split == "train") | (split == "")  # what is undecided may still train
    unseen = (labels.counts(learnable) == 0) & (labels.counts() > 0)
    if unseen.any():
        seen_in = _refuse_unseen if not rules.drop_unseen_classes else _drop_unseen
        return seen_in(replace(rows, labels=labels), split, unseen, rules, skipped, notes)
    _refuse_few(labels)
    notes += case_twins(labels.classes)
    return replace(rows, labels=labels), split


def _refuse_unseen(
    rows: Rows, split: NDArray[np.str_], unseen: NDArray[np.bool_], *_: object
) -> tuple[Rows, NDArray[np.str_]]:
    where = np.flatnonzero(_has_any(rows.labels, unseen)).astype(np.int64)
    names = [name for name, alone in zip(rows.labels.classes, unseen.tolist(), strict=True) if alone]
    raise DataError(
        f"class {', '.join(map(shown, names[:5]))} is in {split[where[0]]} but not in train: "
        f"{rows.named(where)}",
        "nothing could learn it: move a picture of it to train, or leave it out with --drop-unseen-classes",
        code="UNKNOWN_CLASS",
    )


def _drop_unseen(
    rows: Rows,
    split: NDArray[np.str_],
    unseen: NDArray[np.bool_],
    rules: Rules,
    skipped: Counter[str],
    notes: list[str],
) -> tuple[Rows, NDArray[np.str_]]:
    names = [name for name, alone in zip(rows.labels.classes, unseen.tolist(), strict=True) if alone]
    notes.append(f"left out, since train has none of it: class {', '.join(map(shown, names[:5]))}")
    if rows.labels.task is Task.SINGLE_LABEL:
        gone = _has_any(rows.labels, unseen)
        skipped["rows of classes that train has not"] += int(gone.sum())
        kept = np.flatnonzero(~gone).astype(np.int64)
        rows, split, labels = rows.take(kept), split[kept], rows.labels.take(kept)
    else:
        labels = rows.labels
    rows = replace(rows, labels=replace(labels.only(~unseen), fixed=True))
    return _settle_classes(rows, split, rules, skipped, notes)


def _has_any(labels: Labels, classes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if labels.task is Task.MULTI_LABEL:
        return np.asarray(labels.values[:, classes].any(axis=1))
    return np.asarray(np.append(classes, False)[labels.values], np.bool_)


def _refuse_few(labels: Labels) -> None:
    least = 1 if labels.task is Task.MULTI_LABEL else 2
    if len(labels.classes) < least:
        raise DataError(
            f"there is only one class, {shown(''.join(labels.classes))}: a classifier needs 2 or more",
            "give pictures of another class, or name the column that holds the labels",
            code="ONE_CLASS",
        )


def group_numbers(texts: NDArray[np.object_] | None) -> NDArray[np.int64] | None:
    """Return a number for each group; a row without one is a group of its own."""
    if texts is None:
        return None
    import pandas as pd

    numbers = np.asarray(pd.factorize(texts)[0], np.int64)
    alone = np.flatnonzero(texts == "")
    numbers[alone] = len(texts) + alone
    return numbers
