"""The few things that a writer of checkpoints asks of a disk, in one place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from headstart.storage import beside, sync_folder


class Disk:
    """Makes, writes, syncs, renames and removes.

    `before` is called ahead of every single call to the system: a subclass that ends the process there,
    or raises `OSError`, or takes notes, shows what a crash, a full disk or a loss of power would leave.
    """

    def before(self, call: str, path: Path) -> None:
        """`call` (`mkdir`, `create`, `write`, `fsync`, `rename`, `fsync-folder`, `remove`) comes next."""

    def make_folder(self, path: Path) -> None:
        """Make a new folder."""
        self.before("mkdir", path)
        path.mkdir()

    def write(self, path: Path, data: bytes) -> None:
        """Write a new file, and wait until it is on the disk.

        A failed `fsync` may have dropped what was not written yet, and a second one would then succeed:
        whoever tries again must write a new file.
        """
        self.before("create", path)
        with open(path, "xb", buffering=0) as stream:
            view = memoryview(data)
            while view:
                self.before("write", path)
                view = view[stream.write(view) :]
            self.before("fsync", path)
            os.fsync(stream.fileno())

    def sync_folder(self, path: Path) -> None:
        """Wait until the names in a folder are on the disk."""
        self.before("fsync-folder", path)
        sync_folder(path)

    def rename(self, old: Path, new: Path) -> None:
        """Give a folder another name beside its own; `new` must not be there."""
        self.before("rename", old)
        os.rename(old, new)

    def remove(self, path: Path) -> None:
        """Remove a folder and all that is in it, at once out of sight; what cannot be removed stays."""
        hidden = beside(path, "old")
        self.before("rename", path)
        os.rename(path, hidden)
        self.before("remove", hidden)
        shutil.rmtree(hidden, ignore_errors=True)
