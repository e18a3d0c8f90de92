"""A walk over a folder: names and stats only, nothing is opened, and what is left out is counted."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Protocol

from headstart.data.classes import natural

# Also the picture formats that are not supported: they are candidates so that the audit names them.
PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff"),
    *(".mpo", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jxl", ".ico", ".tga", ".pgm", ".ppm", ".pnm"),
)

_JUNK = frozenset(
    name.casefold()
    for name in ("__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN", "lost+found")
)


class Entry(Protocol):
    """What a walk asks of an entry of a folder; `os.DirEntry` answers it."""

    @property
    def name(self) -> str:
        """The last part of the path."""

    def is_symlink(self) -> bool:
        """Tell whether it is a link."""

    def inode(self) -> int:
        """Return a number that no other file of the same device has."""


class Found(NamedTuple):
    """A candidate file: its path relative to the root, its (device, inode), reached over a link or not."""

    path: str
    identity: tuple[int, int]
    linked: bool


class Part(NamedTuple):
    """What a folder of class folders holds: candidates by class, and those outside every class."""

    by_class: dict[str, list[Found]]
    loose: list[Found]


def is_junk(name: str) -> bool:
    """Tell whether a name is hidden or one that an operating system leaves behind."""
    return name.startswith(".") or name.casefold() in _JUNK


def has_picture_name(name: str) -> bool:
    """Tell whether a name ends as a picture's does, or has no ending that says otherwise."""
    suffix = os.path.splitext(name)[1].lower()
    # "Mr. Smith 2020" and "img.1" have no suffix in any useful sense.
    return suffix in PICTURE_SUFFIXES or not re.fullmatch(r"\.[a-z][a-z0-9]{0,9}", suffix)


@dataclass
class Walk:
    """One walk over a folder; counts what it leaves out."""

    root: Path
    skipped: Counter[str] = field(default_factory=Counter)
    followed: set[tuple[int, int]] = field(default_factory=set)

    def uncounted(self) -> Walk:
        """Return the same walk, whose counts are its own: for a look ahead."""
        return replace(self, skipped=Counter())

    def entries(self, folder: str) -> tuple[list[Entry], list[Entry]]:
        """Return the folders and the other entries of `folder` (relative to the root), sorted."""
        folders: list[Entry] = []
        files: list[Entry] = []
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

    def candidates(self, folder: str, files: list[Entry], *, linked: bool) -> list[Found]:
        """Return those of a folder's files whose names do not say that they are something else."""
        found = []
        device = self._identity(folder)[0]
        for entry in files:
            if not has_picture_name(entry.name):
                self.skipped[os.path.splitext(entry.name)[1].lower() + " files"] += 1
                continue
            path = _join(folder, entry.name)
            if entry.is_symlink():
                found.append(Found(path, self._identity(path), True))
            else:
                found.append(Found(path, (device, entry.inode()), linked))
        return found

    def pictures(self, folder: str, *, linked: bool = False) -> list[Found]:
        """Return the candidates in `folder` and in all folders below it.

        Links to folders are followed, each target once, and never into a folder that is being walked.
        """
        found: list[Found] = []
        pending = [(folder, linked, self._above(folder))]
        while pending:
            here, by_link, above = pending.pop()
            identity = self._identity(here)
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

    def _identity(self, path: str) -> tuple[int, int]:
        try:
            status = os.stat(self.root / path)
        except OSError:  # counted when it is listed
            return (-1, -1)
        return (status.st_dev, status.st_ino)

    def _above(self, folder: str) -> frozenset[tuple[int, int]]:
        parts = folder.split("/")
        return frozenset(self._identity("/".join(parts[:depth])) for depth in range(len(parts)))

    def part(self, folder: str) -> Part:
        """Return what lies in the folders inside `folder`, and beside them."""
        folders, files = self.entries(folder)
        by_class = {
            entry.name: self.pictures(_join(folder, entry.name), linked=entry.is_symlink())
            for entry in folders
        }
        return Part(by_class, self.candidates(folder, files, linked=False))


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
