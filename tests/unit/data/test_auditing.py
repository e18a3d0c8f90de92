"""The audit: each picture's verdict, nothing substituted, and the folder left as it was."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headstart.data import Audit, PixelCache, audit, scan_folder
from headstart.errors import DataError

MakeFolder = Callable[..., Path]


def look(root: Path, **options: object) -> Audit:
    return audit(PixelCache(scan_folder(root), short_side=16), **options)  # type: ignore[arg-type]


def contents(root: Path) -> dict[str, tuple[bytes, int]]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def bad(make_folder: MakeFolder) -> Path:
    """Two classes of six, four files of the first being bad in four ways."""
    root = make_folder({"a": 6, "b": 6})
    whole = (root / "a" / "0.png").read_bytes()
    (root / "a" / "0.png").write_bytes(b"")
    (root / "a" / "1.png").rename(root / "a" / "text.jpg")
    (root / "a" / "text.jpg").write_bytes(b"only a text")
    (root / "a" / "2.png").write_bytes(whole[: len(whole) // 2])
    (root / "a" / "3.png").rename(root / "a" / 'odd "name"\n, 日本.png')
    (root / "a" / 'odd "name"\n, 日本.png').write_bytes(b"<svg></svg>")
    return root


EXPECTED = {
    "a/0.png": "EMPTY_FILE",
    "a/2.png": "TRUNCATED",
    "a/text.jpg": "NOT_AN_IMAGE",
    'a/odd "name"\n, 日本.png': "UNSUPPORTED_FORMAT",
}


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_bad_pictures_are_recorded_with_their_reasons(bad: Path, threads: int) -> None:
    done = look(bad, threads=threads)
    codes = dict(zip(done.samples.paths, done.codes.tolist(), strict=True))
    assert {path: code for path, code in codes.items() if code} == EXPECTED
    assert done.ok.sum() == 8
    assert done.counts() == dict.fromkeys(EXPECTED.values(), 1)
    assert done.samples.take(done.ok).counts() == {"a": 2, "b": 6}
    row = done.samples.paths.index("b/0.png")
    data = done.samples.file(row).read_bytes()
    assert done.sha256[row] == hashlib.sha256(data).hexdigest()
    assert (done.height[row], done.width[row], done.bytes[row]) == (24, 32, len(data))
    done.check_usable()


def test_an_audit_fills_the_cache_and_each_file_is_read_once(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = PixelCache(scan_folder(make_folder({"a": 3, "b": 3})), short_side=16)
    assert audit(cache).ok.all()
    assert cache.used_bytes == 6 * 24 * 32 * 3
    monkeypatch.setattr(os, "stat", None)  # whoever reads a file asks for its size first
    assert cache.pixels(0).shape == (24, 32, 3)


def test_the_folder_is_left_byte_for_byte_as_it_was(bad: Path, tmp_path: Path) -> None:
    before = contents(bad)
    done = look(bad)
    done.write_quarantine(tmp_path / "quarantine.csv")
    assert contents(bad) == before


def test_a_read_only_folder_is_audited(bad: Path) -> None:
    folders = [bad, bad / "a", bad / "b"]
    for folder in folders:
        folder.chmod(0o500)
    try:
        assert look(bad).ok.sum() == 8
    finally:
        for folder in folders:
            folder.chmod(0o700)


def test_the_quarantine_lists_each_bad_file(bad: Path, tmp_path: Path) -> None:
    done = look(bad)
    done.write_quarantine(tmp_path / "quarantine.csv")
    with open(tmp_path / "quarantine.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[:4] == ["path", "code", "bytes", "sha256"]
    assert {row["path"]: row["code"] for row in rows} == EXPECTED
    empty = next(row for row in rows if row["code"] == "EMPTY_FILE")
    assert empty["sha256"] == hashlib.sha256(b"").hexdigest()


@pytest.mark.skipif(os.name != "posix", reason="names are text there")
def test_a_name_that_is_not_utf_8_is_quarantined_in_a_file_that_is(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    root = make_folder({"a": 2, "b": 2})
    with open(os.fsencode(root / "a") + b"/\xff.jpg", "wb") as stream:
        stream.write(b"text")
    look(root).write_quarantine(tmp_path / "q.csv")
    assert "a/\\udcff.jpg" in (tmp_path / "q.csv").read_text(encoding="utf-8")


def test_progress_counts_to_the_end(make_folder: MakeFolder) -> None:
    seen: list[tuple[int, int]] = []
    look(make_folder({"a": 3, "b": 2}), threads=2, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 5) for number in range(1, 6)]


def test_an_interrupted_audit_stops(make_folder: MakeFolder) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look(make_folder({"a": 30, "b": 30}), threads=2, on_progress=interrupt)


def test_pictures_of_the_same_bytes_are_one_group(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3})
    same = (root / "a" / "0.png").read_bytes()
    (root / "a" / "1.png").write_bytes(same)
    (root / "b" / "2.png").write_bytes(same)
    (root / "a" / "2.png").write_bytes(b"")
    (root / "b" / "0.png").unlink()
    done = look(root)
    groups = done.duplicate_groups()
    assert groups.dtype == np.int64
    assert groups[0] == groups[1] == groups[-1]
    assert len(set(groups.tolist())) == 3
    assert done.duplicates == 2


def test_files_that_cannot_be_read_are_no_copies_of_each_other(make_folder: MakeFolder) -> None:
    cache = PixelCache(scan_folder(make_folder({"a": 3, "b": 3})), short_side=16)
    for row in (0, 1):
        cache.samples.file(row).unlink()
    done = audit(cache)
    assert done.counts() == {"VANISHED": 2}
    assert len(set(done.duplicate_groups().tolist())) == 6


def spoil(root: Path, count: int) -> None:
    for path in sorted(root.rglob("*.png"))[:count]:
        path.write_bytes(b"bad")


def test_too_many_bad_files_stop_unless_they_are_allowed(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 15, "b": 15})
    spoil(root, 10)
    look(root).check_usable()
    spoil(root, 11)
    done = look(root)
    with pytest.raises(DataError, match="11 of 30") as caught:
        done.check_usable()
    assert (caught.value.code, caught.value.exit_code) == ("TOO_MANY_BAD", 65)
    assert "--max-bad 11" in caught.value.hint
    assert "11 NOT_AN_IMAGE" in caught.value.message
    done.check_usable(max_bad=11)
    with pytest.raises(DataError):
        done.check_usable(max_bad=10)


def test_a_class_whose_pictures_are_all_bad_is_named(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3})
    spoil(root, 3)
    with pytest.raises(DataError, match="class a ") as caught:
        look(root).check_usable()
    assert caught.value.code == "EMPTY_CLASS"


def test_a_class_that_has_bad_pictures_only_in_train_is_named_though_valid_has_good_ones(
    make_folder: MakeFolder,
) -> None:
    root = make_folder({"train/a": 2, "train/b": 2, "valid/a": 2, "valid/b": 2})
    spoil(root, 2)
    with pytest.raises(DataError, match="class a "):
        look(root).check_usable()


def test_no_good_picture_at_all_is_said_before_anything_else(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 2, "b": 2})
    spoil(root, 4)
    with pytest.raises(DataError) as caught:
        look(root).check_usable(max_bad=100)
    assert caught.value.code == "NO_USABLE_IMAGES"
