"""Keeps a folder of files that can be made again below a size."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def mark_used(path: Path) -> None:
    """Make a file the most recently used of its folder."""
    with contextlib.suppress(OSError):  # a cache that is read-only still serves
        os.utime(path)


def drop_least_recent(folder: Path, budget_bytes: int) -> None:
    """Delete the least recently used files of `folder` until the rest takes at most `budget_bytes`."""
    with contextlib.suppress(OSError):  # another process may be pruning, too
        files = [(file.stat(), file) for file in folder.iterdir() if file.is_file()]
        held = 0
        for status, file in sorted(files, key=lambda entry: entry[0].st_mtime_ns, reverse=True):
            held += status.st_size
            if held > budget_bytes:
                file.unlink(missing_ok=True)
