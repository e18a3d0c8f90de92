"""Folders as large as the rows L33 and L34 of the reliability plan say: `make reliability`.

The same layouts are tried in a tenth of their size with the unit tests.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(3600)

MOST_BYTES = 2 * 2**30


def png(number: int) -> bytes:
    """A picture of 3 x 2 pixels that no other number has, in some 90 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    colours = struct.pack(">I", number * 2654435761 % 2**32)
    rows = b"\0" + colours + bytes(5) + b"\0" + bytes(5) + colours
    header = struct.pack(">IIBBBBB", 3, 2, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


MEASURE = """
import json, resource, sys, time
from headstart.data import PixelCache, audit, find_duplicates, scan_folder, split_apart
from headstart.errors import DataError

steps, began = {}, time.perf_counter()
def step(name, run):
    start = time.perf_counter()
    result = run()
    steps[name] = round(time.perf_counter() - start, 2)
    return result

samples = step("scan", lambda: scan_folder(sys.argv[1]))
cache = PixelCache(samples, short_side=16, mode="none")
seen = step("audit", lambda: audit(cache, threads=2))
copies = step("duplicates", lambda: find_duplicates(seen))
try:
    split = step("split", lambda: split_apart(samples, copies.near))
    refusal, rows, notes = "", {name: len(split.rows(name)) for name in ("train", "valid")}, split.notes
except DataError as error:
    refusal, rows, notes = error.code, {}, ()
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"pictures": len(samples), "classes": len(samples.classes), "bad": len(seen.bad_rows),
                  "same": copies.exact_copies, "rows": rows, "refusal": refusal, "notes": notes,
                  "seconds": steps, "megabytes": most // 2**20}))
"""


def measured(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    import json

    environment = os.environ | {"HEADSTART_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(root)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    with capsys.disabled():
        print(f"\n{found}")
    assert found["megabytes"] * 2**20 < MOST_BYTES
    assert (found["bad"], found["same"]) == (0, 0)
    return found


@pytest.mark.parametrize("count", [2_000, 20_000])
def test_twenty_thousand_classes_of_one_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    for number in range(count):
        folder = tmp_path / "pictures" / f"class {number}"
        folder.mkdir(parents=True)
        (folder / "x.png").write_bytes(png(number))
    found = measured(tmp_path / "pictures", tmp_path, capsys)
    assert found["classes"] == found["pictures"] == count
    assert found["refusal"] == "TOO_FEW"
    (tmp_path / "pictures" / "class 0" / "y.png").write_bytes(png(count))
    found = measured(tmp_path / "pictures", tmp_path, capsys)
    assert found["rows"] == {"train": count, "valid": 1}
    assert "too few pictures to validate on, all used for training" in found["notes"][0]
    assert found["seconds"]["scan"] < count / 500


@pytest.mark.parametrize("count", [10_000, 100_000])
def test_a_hundred_thousand_files_in_one_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    for name, first, last in (("a", 0, count), ("b", count, count + 10)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(first, last):
            (tmp_path / "pictures" / name / f"{number}.png").write_bytes(png(number))
    found = measured(tmp_path / "pictures", tmp_path, capsys)
    assert found["pictures"] == count + 10
    assert sum(found["rows"].values()) == count + 10
    assert found["seconds"]["scan"] < count / 2_000
