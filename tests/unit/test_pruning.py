"""What was not used for longest goes first, and whole."""

from __future__ import annotations

import os
from pathlib import Path

from headstart.pruning import drop_least_recent, mark_used


def write(folder: Path, name: str, size: int, when: int) -> Path:
    path = folder / name
    path.write_bytes(bytes(size))
    os.utime(path, (when, when))
    return path


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_files_of_one_stem_are_kept_and_deleted_together(tmp_path: Path) -> None:
    write(tmp_path, "a.pixels", 100, 1)
    write(tmp_path, "a.index", 1, 9)  # the newest of them counts for both
    write(tmp_path, "b.pixels", 100, 5)
    write(tmp_path, "b.index", 1, 5)
    drop_least_recent(tmp_path, 202)
    assert left(tmp_path) == {"a.pixels", "a.index", "b.pixels", "b.index"}
    drop_least_recent(tmp_path, 201)
    assert left(tmp_path) == {"a.pixels", "a.index"}


def test_what_is_marked_as_used_stays(tmp_path: Path) -> None:
    old = write(tmp_path, "old.bin", 10, 1)
    write(tmp_path, "new.bin", 10, 2)
    mark_used(old)
    drop_least_recent(tmp_path, 10)
    assert left(tmp_path) == {"old.bin"}


def test_a_folder_that_is_not_there_is_no_matter(tmp_path: Path) -> None:
    drop_least_recent(tmp_path / "none", 0)
    mark_used(tmp_path / "none")
    assert left(tmp_path) == set()
