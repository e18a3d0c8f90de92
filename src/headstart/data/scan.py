"""Folders and lists of files become samples: names and stats only, nothing is opened."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from headstart.data.samples import Samples, shown
from headstart.errors import DataError, InputMissingError

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation"),
    "test": ("test",),
}

# Also the picture formats that are not supported: they are candidates so that the audit names them.
PICTURE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .gif .webp .bmp .dib .tif .tiff .mpo .avif "
    ".heic .heif .jp2 .j2k .jxl .ico .tga .pbm .pgm .ppm .pnm .pcx".split()
)

_JUNK = frozenset(
    name.casefold()
    for name in ("__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN", "lost+found")
)

LAYOUT_HINT = "expected one folder for each class, or train/ and valid/ with one folder for each class inside"


class Found(NamedTuple):
    """A candidate file: its path relative to the root, its (device, inode), reached over a link or not."""

    path: str
    identity: tuple[int, int]
    linked: bool


def natural(name: str) -> tuple[list[str | int], str]:
    """Return a sort key under which "class 9" comes before "class 10", whatever the case."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], name


def is_junk(name: str) -> bool:
    """Tell whether a name is hidden or one that an operating system leaves behind."""
    return name.startswith(".") or name.casefold() in _JUNK


def has_picture_name(name: str) -> bool:
    """Tell whether a name ends as a picture's does, or has no ending that says otherwise."""
    suffix = os.path.splitext(name)[1].lower()
    # "Mr. Smith 2020" and "img.1" have no suffix in any useful sense.
    return suffix in PICTURE_SUFFIXES or not re.fullmatch(r"\.[a-z][a-z0-9]{0,9}", suffix)


@dataclass
class _Walk:
    """One walk over a folder; counts what it leaves out."""

    root: Path
    skipped: Counter[str] = field(default_factory=Counter)
    followed: set[tuple[int, int]] = field(default_factory=set)

    def entries(self, folder: str) -> tuple[list[os.DirEntry[str]], list[os.DirEntry[str]]]:
        """Return the folders and the other entries of `folder` (relative to the root), sorted."""
        folders, files = [], []
        try:
            with os.scandir(self.root / folder) as listing:
                found = sorted(listing, key=lambda entry: natural(entry.name))
        except OSError:
            self.skipped["unreadable folders"] += 1
            return [], []
        for entry in found:
            if is_junk(entry.name):
                self.skipped["hidden or system files"] += 1
            elif entry.is_symlink() and not os.path.exists(entry.path):
                self.skipped["broken links"] += 1
            elif entry.is_dir():
                folders.append(entry)
            else:
                files.append(entry)
        return folders, files

    def candidates(self, folder: str, files: list[os.DirEntry[str]], *, linked: bool) -> list[Found]:
        """Return those of a folder's files whose names do not say that they are something else."""
        found = []
        device = os.stat(self.root / folder).st_dev if files else 0
        for entry in files:
            if not has_picture_name(entry.name):
                self.skipped[os.path.splitext(entry.name)[1].lower() + " files"] += 1
                continue
            if entry.is_symlink():
                status = entry.stat()
                identity, by_link = (status.st_dev, status.st_ino), True
            else:
                identity, by_link = (device, entry.inode()), linked
            found.append(Found(_join(folder, entry.name), identity, by_link))
        return found

    def pictures(self, folder: str, *, linked: bool = False) -> list[Found]:
        """Return the candidates in `folder` and in all folders below it.

        Links to folders are followed, each target once, and never into a folder that is being walked.
        """
        found: list[Found] = []
        pending = [(folder, linked, frozenset[tuple[int, int]]())]
        while pending:
            here, by_link, above = pending.pop()
            try:
                status = os.stat(self.root / here)
            except OSError:
                self.skipped["unreadable folders"] += 1
                continue
            identity = (status.st_dev, status.st_ino)
            if by_link and (identity in above or identity in self.followed):
                self.skipped["folder links already followed"] += 1
                continue
            if by_link:
                self.followed.add(identity)
            folders, files = self.entries(here)
            found += self.candidates(here, files, linked=by_link)
            inside = above | {identity}
            pending += [
                (_join(here, entry.name), by_link or entry.is_symlink(), inside)
                for entry in reversed(folders)
            ]
        return found

    def classes_in(self, folder: str) -> dict[str, list[Found]]:
        """Return the candidates of each folder inside `folder`; files beside them are counted."""
        folders, files = self.entries(folder)
        loose = self.candidates(folder, files, linked=False)
        if loose:
            self.skipped["pictures outside a class folder"] += len(loose)
        return {
            entry.name: self.pictures(_join(folder, entry.name), linked=entry.is_symlink())
            for entry in folders
        }


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _existing(path: str | os.PathLike[str], what: str) -> Path:
    """Return `path` as an absolute path; raise `InputMissingError` when there is nothing."""
    text = os.fspath(path)
    try:
        full = Path(text).expanduser().absolute()
        os.stat(full)
    except (OSError, ValueError, RuntimeError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        raise InputMissingError(
            f"{shown(text)} {shown(reason)}", f"give {what}; looked for in {shown(os.curdir)}"
        ) from error
    return full


def scan_folder(path: str | os.PathLike[str], *, drop_empty_classes: bool = False) -> Samples:
    """List the pictures of a folder that has one folder for each class.

    Either the classes lie directly in `path` (every row's split is ""), or in `train` (`training`),
    with `valid` (`val`, `validation`) and `test` beside it; `test` may also hold pictures without
    classes. A class is the first level below; deeper folders belong to it. Classes are those of
    `train` in natural order, and the other parts are matched to them by name. Hidden and system
    files, and files whose suffix says that they are not pictures, are left out and counted. Nothing is
    opened: whether a file really is a picture, the audit finds out.

    Raises `InputMissingError` when there is no such folder or nothing in it that could be a picture,
    and `DataError` when the classes make no sense: fewer than two, an empty one (unless
    `drop_empty_classes`), one that only `valid` or `test` has, two names that look the same.
    """
    root = _existing(path, "a folder of pictures")
    if not root.is_dir():
        raise InputMissingError(f"{shown(str(path))} is a file, not a folder", LAYOUT_HINT)
    walk = _Walk(root)
    folders, files = walk.entries("")
    names = [entry.name for entry in folders]
    parts = _split_parts(walk, names)
    if parts is None:
        by_class = walk.classes_in("")
        _refuse_flat(walk, by_class, files)
        found = {"": by_class}
    else:
        walk.skipped.update({"folders beside train": len(names) - len(parts)})
        found = {split: walk.classes_in(folder) for split, folder in parts.items()}
    return _assemble(walk, found, parts or {}, drop_empty_classes)


def _split_parts(walk: _Walk, names: list[str]) -> dict[str, str] | None:
    """Return the folder of each split, or None where the folders are classes."""
    parts: dict[str, str] = {}
    for split, allowed in SPLIT_FOLDERS.items():
        matching = [name for name in names if name.casefold() in allowed]
        if len(matching) > 1:
            raise DataError(
                f"{' and '.join(map(shown, matching))} both look like the {split} part",
                "leave one of them, or move the other out of the folder",
            )
        if matching:
            parts[split] = matching[0]
    others = len(names) - len(parts)
    if "train" not in parts:
        if parts and not others:
            raise DataError(f"there is {' and '.join(parts.values())} but no train folder", LAYOUT_HINT)
        return None
    quiet = _Walk(walk.root)
    folders, files = quiet.entries(parts["train"])
    if folders:
        return parts
    if others:  # a class that happens to be called "train"
        return None
    if quiet.candidates(parts["train"], files, linked=False):
        raise DataError(
            f"{shown(parts['train'])} holds pictures but no class folders", LAYOUT_HINT, code="NO_CLASS_FOLDERS"
        )
    return parts


def _refuse_flat(
    walk: _Walk, by_class: dict[str, list[Found]], files: list[os.DirEntry[str]]
) -> None:
    loose = sum(has_picture_name(entry.name) for entry in files)
    if loose and not any(by_class.values()):
        raise DataError(
            f"{shown(str(walk.root))} holds {loose} pictures but no class folders",
            LAYOUT_HINT,
            code="NO_CLASS_FOLDERS",
        )


def _assemble(
    walk: _Walk, found: dict[str, dict[str, list[Found]]], parts: dict[str, str], drop_empty_classes: bool
) -> Samples:
    """Make the table from what was found: {split: {class: candidates}}."""
    labelled = dict(found)
    first = "train" if parts else ""
    if not any(found[first].values()):
        raise InputMissingError(
            f"there are no pictures in {shown(str(walk.root))}{_where(parts)}"
            + _left_out(walk.skipped),
            f"looked for {', '.join(sorted(PICTURE_SUFFIXES)[:6])}, …; " + LAYOUT_HINT,
        )
    notes: list[str] = []
    classes = _classes(found[first], drop_empty_classes, notes)
    unlabelled: list[Found] = []
    if "test" in parts:
        unlabelled = _unlabelled_test(walk, labelled, parts["test"], classes, notes)
    _refuse_unknown(labelled, classes)
    _refuse_twins(name for by_class in labelled.values() for name in by_class)
    if len(classes) < 2:
        raise DataError(
            f"there is only one class, {shown(classes[0])}: a classifier needs 2 or more",
            LAYOUT_HINT,
            code="ONE_CLASS",
        )
    notes += _case_twins(classes)
    rows = [
        (row, classes.index(name), split)
        for split, by_class in labelled.items()
        for name in classes
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


def _where(parts: dict[str, str]) -> str:
    return f"/{shown(parts['train'])}" if parts else ""


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


def _unlabelled_test(
    walk: _Walk,
    labelled: dict[str, dict[str, list[Found]]],
    folder: str,
    classes: tuple[str, ...],
    notes: list[str],
) -> list[Found]:
    """Return the pictures of `test` that have no class: those directly in it, or all of them."""
    _, files = _Walk(walk.root).entries(folder)
    loose = _Walk(walk.root).candidates(folder, files, linked=False)
    walk.skipped["pictures outside a class folder"] -= len(loose)
    by_class = labelled["test"]
    if by_class and not set(by_class) & set(classes):
        notes.append(f"{shown(folder)} has folders, but none of a class: its pictures count as unlabelled")
        loose += [row for rows in labelled.pop("test").values() for row in rows]
    return loose


def _refuse_unknown(found: dict[str, dict[str, list[Found]]], classes: tuple[str, ...]) -> None:
    for split, by_class in found.items():
        unknown = [name for name, rows in by_class.items() if rows and name not in classes]
        if split not in ("", "train") and unknown:
            _refuse_twins([*classes, *unknown])
            raise DataError(
                f"class {', '.join(map(shown, unknown[:5]))} is in {split} but not in train",
                f"classes are matched by name; train has {', '.join(map(shown, classes[:8]))}",
                code="UNKNOWN_CLASS",
            )


def _refuse_twins(names: Iterable[str]) -> None:
    """Raise for names that differ only in how their accents are encoded."""
    seen: dict[str, str] = {}
    for name in names:
        twin = seen.setdefault(unicodedata.normalize("NFC", name), name)
        if twin != name:
            raise DataError(
                f"two classes are both called {shown(name)}, with accents encoded in two ways",
                f"rename one: {ascii(twin)} and {ascii(name)}",
                code="TWIN_CLASSES",
            )


def _case_twins(classes: tuple[str, ...]) -> list[str]:
    seen: dict[str, str] = {}
    notes = []
    for name in classes:
        twin = seen.setdefault(name.casefold(), name)
        if twin != name:
            notes.append(f"{shown(twin)} and {shown(name)} differ only in case and are two classes")
    return notes


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
        walk = _Walk(full)
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
