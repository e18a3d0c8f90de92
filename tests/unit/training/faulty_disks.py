"""Disks that fail, that end the process, and that remember what would be there after a loss of power."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from headstart.training.disk import Disk


class Counting(Disk):
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def before(self, call: str, path: Path) -> None:
        self.calls.append(call)


class Ending(Counting):
    """Ends the process before call number `at`, as a kill would: nothing is cleared up."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def before(self, call: str, path: Path) -> None:
        if len(self.calls) == self.at:
            os._exit(9)
        super().before(call, path)


class Failing(Counting):
    """Raises an error of the system at call number `at`; at every call from there on, if it is `full`."""

    def __init__(self, at: int, number: int, *, full: bool = False) -> None:
        super().__init__()
        self.at, self.number, self.full = at, number, full

    def before(self, call: str, path: Path) -> None:
        super().before(call, path)
        place = len(self.calls) - 1
        if place == self.at or (self.full and place > self.at and call in ("create", "write", "mkdir")):
            raise OSError(self.number, os.strerror(self.number))


@dataclass
class File:
    """What was written, and how much of it was synced."""

    content: bytes = b""
    synced: bytes = b""


@dataclass
class Folder:
    """The names as the system shows them, and as they are on the disk."""

    shown: dict[str, File | Folder] = field(default_factory=dict)
    synced: dict[str, File | Folder] = field(default_factory=dict)


class PowerLoss(Disk):
    """Does what is asked, and keeps a model of what a loss of power would leave of it below `root`.

    Of a file only what was synced, of a folder only the names that were there when it was synced; or,
    with `names_first`, every name, with files that are empty where they were not synced: both are what
    file systems do. After each call `on_call` is told.
    """

    def __init__(self, root: Path, *, syncs: bool = True) -> None:
        self.root, self.syncs = root, syncs
        self.top = Folder()
        self.moments = 0
        self.on_call = lambda: None

    def _folder(self, path: Path) -> Folder:
        node = self.top
        for part in path.relative_to(self.root).parts:
            found = node.shown[part]
            assert isinstance(found, Folder)
            node = found
        return node

    def _done(self) -> None:
        self.moments += 1
        self.on_call()

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        self._folder(path.parent).shown[path.name] = Folder()
        self._done()

    def write(self, path: Path, data: bytes) -> None:
        super().write(path, data)
        file = File()
        self._folder(path.parent).shown[path.name] = file
        self._done()
        file.content = data[: len(data) // 2]
        self._done()
        file.content = data
        self._done()
        if self.syncs:
            file.synced = data
        self._done()

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        if self.syncs:
            folder = self._folder(path)
            folder.synced = dict(folder.shown)
        self._done()

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        names = self._folder(old.parent).shown
        names[new.name] = names.pop(old.name)
        self._done()

    def remove(self, path: Path) -> None:
        super().remove(path)
        self._folder(path.parent).shown.pop(path.name)
        self._done()

    def leave(self, into: Path, *, names_first: bool, node: Folder | None = None) -> None:
        """Write what a loss of power would leave now below `into`."""
        node = self.top if node is None else node
        into.mkdir(parents=True)
        for name, found in (node.shown if names_first else node.synced).items():
            if isinstance(found, Folder):
                self.leave(into / name, names_first=names_first, node=found)
            else:
                (into / name).write_bytes(found.synced)
