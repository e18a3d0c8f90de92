"""Keeps a folder of files that can be made again below a size."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from pathlib import Path


def mark_used(path: Path) -> None:
    """Make a file the most recently used of its folder."""
    with contextlib.suppress(OSError):  # a cache that is read-only still serves
        os.utime(path)


def drop_least_recent(folder: Path, budget_bytes: int) -> None:
    """Delete the least recently used files of `folder` until the rest takes at most `budget_bytes`.

    Files of one stem (`a.onnx`, `a.json`) are used, kept and deleted together.
    """
    together: defaultdict[str, list[tuple[os.stat_result, Path]]] = defaultdict(list)
    with contextlib.suppress(OSError):  # another process may be pruning, too
        for file in folder.iterdir():
            if file.is_file():
                together[file.stem].append((file.stat(), file))
    held = 0
    for group in sorted(together.values(), key=_last_used, reverse=True):
        held += sum(status.st_size for status, _ in group)
        if held > budget_bytes:
            for _, file in group:
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)


def _last_used(group: list[tuple[os.stat_result, Path]]) -> int:
    return max(status.st_mtime_ns for status, _ in group)
