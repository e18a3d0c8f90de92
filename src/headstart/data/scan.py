"""Folders and lists of files become samples: names and stats only, nothing is opened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from headstart.data.classes import case_twins, refuse_twins
from headstart.data.samples import Samples, shown
from headstart.data.walk import PICTURE_SUFFIXES, Found, Part, Walk
from headstart.errors import DataError, InputMissingError

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation"),
    "test": ("test",),
}

LAYOUT_HINT = "expected one folder for each class, or train/ and valid/ with one folder for each class inside"


def _existing(path: str | os.PathLike[str], what: str) -> Path:
    """Return `path` as an absolute path; raise `InputMissingError` when there is nothing."""
    text = os.fspath(path)
    try:
        full = Path(text).expanduser().absolute()
    except (OSError, RuntimeError) as error:  # no current folder, no such user
        raise InputMissingError(f"{shown(text)} cannot be found: {shown(str(error))}") from error
    try:
        os.stat(full)
    except (OSError, ValueError) as error:
        reason = "there is no" if isinstance(error, FileNotFoundError) else "it is not possible to read"
        raise InputMissingError(f"{reason} {shown(str(full))}", f"give {what}") from error
    return full


def scan_folder(
    path: str | os.PathLike[str], *, drop_empty_classes: bool = False, drop_unseen_classes: bool = False
) -> Samples:
    """List the pictures of a folder that has one folder for each class.

    Either the classes lie directly in `path` (every row's split is ""), or in `train` (`training`),
    with `valid` (`val`, `validation`) and `test` beside it; `test` may also hold pictures without
    classes. A class is the first level below; deeper folders belong to it. Classes are those of
    `train` in natural order, and the other parts are matched to them by name. Hidden and system
    files, and files whose suffix says that they are not pictures, are left out and counted. Nothing is
    opened: whether a file really is a picture, the audit finds out.

    Raises `InputMissingError` when there is no such folder or nothing in it that could be a picture,
    and `DataError` when the classes make no sense: fewer than two, an empty one (unless
    `drop_empty_classes`), one that only `valid` or `test` has (unless `drop_unseen_classes`, which leaves
    it out and counts it), two names that look the same.
    """
    root = _existing(path, "a folder of pictures")
    if not root.is_dir():
        raise InputMissingError(f"{shown(str(path))} is a file, not a folder", LAYOUT_HINT)
    return scan(Walk(root), drop_empty_classes=drop_empty_classes, drop_unseen_classes=drop_unseen_classes)


def scan(walk: Walk, *, drop_empty_classes: bool = False, drop_unseen_classes: bool = False) -> Samples:
    """Read the layout of what `walk` walks over, as `scan_folder` does."""
    names = [entry.name for entry in walk.uncounted().entries("")[0]]
    folders = _split_folders(walk, names)
    found = {split: walk.part(folder) for split, folder in folders.items()}
    if "" not in folders:
        walk.skipped["folders beside train"] = len(names) - len(folders)
        walk.skipped["pictures beside train"] = len(walk.candidates("", walk.entries("")[1], linked=False))
    return _assemble(walk, found, folders, drop_empty_classes, drop_unseen_classes)


def _split_folders(walk: Walk, names: list[str]) -> dict[str, str]:
    """Return the folder of each split, or {"": ""} where the folders in the root are classes."""
    folders: dict[str, str] = {}
    for split, allowed in SPLIT_FOLDERS.items():
        matching = [name for name in names if name.casefold() in allowed]
        if len(matching) > 1:
            raise DataError(
                f"{' and '.join(map(shown, matching))} both look like the {split} part",
                "leave one of them, or move the other out of the folder",
            )
        if matching:
            folders[split] = matching[0]
    others = len(names) - len(folders)
    if "train" not in folders:
        if folders and not others:
            raise DataError(f"there is {' and '.join(folders.values())} but no train folder", LAYOUT_HINT)
        return {"": ""}
    has_classes = bool(walk.uncounted().entries(folders["train"])[0])
    # Without folders inside, and beside others, "train" is a class that happens to have this name.
    return {"": ""} if others and not has_classes else folders


def _assemble(
    walk: Walk,
    found: dict[str, Part],
    folders: dict[str, str],
    drop_empty_classes: bool,
    drop_unseen_classes: bool,
) -> Samples:
    """Make the table from what was found in each split."""
    first = next(iter(found))  # "train", or "" for all
    _refuse_nothing(walk, found[first], folders[first])
    notes: list[str] = []
    classes = _classes(found[first].by_class, drop_empty_classes, notes)
    by_split = {split: part.by_class for split, part in found.items()}
    unlabelled = found["test"].loose if "test" in found else []
    if "test" in found and not set(by_split["test"]) & set(classes):
        unlabelled = unlabelled + [row for rows in by_split.pop("test").values() for row in rows]
        notes.append(f"{shown(folders['test'])} has no class folders: its pictures count as unlabelled")
    refuse_twins(name for by_class in by_split.values() for name in by_class)
    if drop_unseen_classes:
        by_split = _without_unknown(walk, by_split, classes)
    _refuse_unknown(by_split, classes)
    if len(classes) < 2:
        raise DataError(
            f"there is only one class, {shown(classes[0])}: a classifier needs 2 or more",
            LAYOUT_HINT,
            code="ONE_CLASS",
        )
    notes += case_twins(classes)
    walk.skipped["pictures outside a class folder"] = sum(
        len(part.loose) for split, part in found.items() if split != "test"
    )
    rows = [
        (row, label, split)
        for split, by_class in by_split.items()
        for label, name in enumerate(classes)
        for row in by_class.get(name, [])
    ]
    rows += [(row, -1, "test") for row in unlabelled]
    rows = _without_repeated_links(rows, walk.skipped)
    return Samples(
        root=walk.root,
        paths=tuple(row.path for row, _, _ in rows),
        labels=np.array([label for _, label, _ in rows], np.int64),
        classes=classes,
        split=np.array([split for _, _, split in rows], "<U5"),
        skipped={why: count for why, count in sorted(walk.skipped.items()) if count},
        notes=tuple(notes),
    )


def _refuse_nothing(walk: Walk, part: Part, folder: str) -> None:
    """Raise where no class has a picture."""
    if any(part.by_class.values()):
        return
    where = shown(str(walk.root / folder))
    if part.loose:
        raise DataError(
            f"{where} holds {len(part.loose)} pictures but no class folders",
            LAYOUT_HINT,
            code="NO_CLASS_FOLDERS",
        )
    raise InputMissingError(
        f"there are no pictures in {where}" + _left_out(walk.skipped),
        f"looked for {', '.join(PICTURE_SUFFIXES[:6])}, …; {LAYOUT_HINT}",
    )


def _left_out(skipped: Counter[str]) -> str:
    counted = ", ".join(f"{count} {shown(why)}" for why, count in sorted(skipped.items()) if count)
    return f" (left out: {counted})" if counted else ""


def _classes(by_class: dict[str, list[Found]], drop_empty: bool, notes: list[str]) -> tuple[str, ...]:
    empty = [name for name, rows in by_class.items() if not rows]
    if empty and not drop_empty:
        raise DataError(
            f"class {', '.join(map(shown, empty[:5]))} has no pictures",
            "put pictures there, remove the folder, or leave such folders out with --drop-empty-classes",
            code="EMPTY_CLASS",
        )
    if empty:
        notes.append(f"left out, since they hold no pictures: {', '.join(map(shown, empty))}")
    return tuple(name for name in by_class if by_class[name])


def _without_unknown(
    walk: Walk, found: dict[str, dict[str, list[Found]]], classes: tuple[str, ...]
) -> dict[str, dict[str, list[Found]]]:
    known = frozenset(classes)
    unknown = [len(rows) for part in found.values() for name, rows in part.items() if name not in known]
    walk.skipped["pictures of classes that train has not"] = sum(unknown)
    return {
        split: {name: rows for name, rows in part.items() if name in known} for split, part in found.items()
    }


def _refuse_unknown(found: dict[str, dict[str, list[Found]]], classes: tuple[str, ...]) -> None:
    known = frozenset(classes)  # a look through a tuple of 20,000 names for each takes 1.8 s
    for split, by_class in found.items():
        unknown = [name for name, rows in by_class.items() if rows and name not in known]
        if split not in ("", "train") and unknown:
            raise DataError(
                f"class {', '.join(map(shown, unknown[:5]))} is in {split} but not in train",
                f"classes are matched by name, and train has {', '.join(map(shown, classes[:8]))}; put "
                "pictures of it there too, or leave it out with --drop-unseen-classes",
                code="UNKNOWN_CLASS",
            )


def _without_repeated_links(
    rows: list[tuple[Found, int, str]], skipped: Counter[str]
) -> list[tuple[Found, int, str]]:
    """Drop the links to pictures that the table has already, under their own name or another link."""
    seen = {row.identity for row, _, _ in rows if not row.linked}
    kept = []
    for item in rows:
        row = item[0]
        if row.linked and row.identity in seen:
            skipped["links to pictures already listed"] += 1
            continue
        seen.add(row.identity)
        kept.append(item)
    return kept


def list_pictures(path: str | os.PathLike[str]) -> tuple[Path, list[str], Counter[str]]:
    """List all that could be a picture in a folder and below: the root, the paths, what was left out.

    Raises `InputMissingError` when there is no such folder or nothing in it.
    """
    root = _existing(path, "a folder of pictures")
    if not root.is_dir():
        raise InputMissingError(f"{shown(str(path))} is a file, not a folder", "give a folder of pictures")
    walk = Walk(root)
    rows = _without_repeated_links([(row, -1, "") for row in walk.pictures("")], walk.skipped)
    if not rows:
        raise InputMissingError(
            f"there are no pictures in {shown(str(root))}" + _left_out(walk.skipped),
            f"looked for {', '.join(PICTURE_SUFFIXES[:6])}, …",
        )
    return root, [row.path for row, _, _ in rows], walk.skipped


def from_paths(paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str]) -> Samples:
    """List pictures without labels, for prediction: files as given, folders with all below them.

    Raises `InputMissingError` for a path that is not there, and when no picture is found at all.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    names: list[str] = []
    skipped: Counter[str] = Counter()
    for path in given:
        full = _existing(path, "files or folders of pictures")
        text = Path(path).expanduser().as_posix()
        if not full.is_dir():
            names.append(text)
            continue
        walk = Walk(full)
        names += [str(Path(text, row.path).as_posix()) for row in walk.pictures("")]
        skipped.update(walk.skipped)
    if not names:
        listed = ", ".join(shown(os.fspath(path)) for path in given[:3])
        raise InputMissingError(
            f"there are no pictures in {listed or 'an empty list'}" + _left_out(skipped),
            "give picture files, or folders that hold some",
        )
    return Samples(
        root=Path.cwd(),
        paths=tuple(names),
        labels=np.full(len(names), -1, np.int64),
        classes=(),
        split=np.full(len(names), "", "<U5"),
        skipped=dict(sorted(skipped.items())),
    )
