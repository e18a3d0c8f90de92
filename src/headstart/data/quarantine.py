"""A list of pictures to leave out: a CSV file that a check writes, a person edits and training obeys."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from headstart.data.samples import Samples
from headstart.errors import ConfigError, DataError, InputMissingError
from headstart.storage import write_atomic

COLUMNS = ("path", "reason", "keep")
_YES = frozenset({"yes", "y", "true", "1", "x", "keep"})
# The codes of pictures that a later scan need not find.
_GONE = frozenset({"VANISHED", "NOT_REGULAR"})
_NO = frozenset({"", "no", "n", "false", "0"})


class Entry(NamedTuple):
    """A picture on the list: its path relative to the root, why it is there, and whether it is kept."""

    path: str
    reason: str
    keep: bool = False


def write_quarantine(path: Path, entries: Iterable[Entry]) -> None:
    """Write the list as CSV: path, reason, keep ("yes", or empty for a picture to leave out)."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows([each.path, each.reason, "yes" if each.keep else ""] for each in entries)
    # Names that are not UTF-8 are escaped: the file itself always is UTF-8.
    write_atomic(path, text.getvalue().encode("utf-8", errors="backslashreplace"))


def without_quarantined(samples: Samples, path: Path) -> Samples:
    """Return the samples without the pictures that a list names and does not keep; a note says how many.

    The list is a CSV file with a column `path` and, if it likes, `keep`: a row that says "yes" there stays
    in. Of other columns only `code` is looked at: one that has VANISHED need not be there. So the
    `quarantine.csv` of a run serves, too. Raises `InputMissingError` where the file cannot be read,
    `ConfigError` where it is no such list, and `DataError` for a row whose picture is not among the
    samples, naming the row.
    """
    rows = {_written(name): row for row, name in enumerate(samples.paths)}
    left_out = np.zeros(len(samples), np.bool_)
    for number, name, keep, gone in _entries(path):
        row = rows.get(name)
        if row is None and gone:
            continue
        if row is None:
            raise DataError(
                f"{path}, row {number}: there is no picture {name} in {samples.root}",
                "correct the path, or delete the row",
                code="NOT_THERE",
            )
        left_out[row] |= not keep
    count = int(left_out.sum())
    kept = samples.take(~left_out)
    note = f"{count} picture{'' if count == 1 else 's'} left out, as {path.name} asks"
    return kept.with_split(kept.split, notes=(note,)) if count else samples


def _entries(path: Path) -> Iterable[tuple[int, str, bool, bool]]:
    """Yield (row number, path, keep, vanished) of a list; the header is row 1, as a spreadsheet counts."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputMissingError(
            f"{path} cannot be read: {error.strerror}", "headstart check DIR --quarantine FILE writes one"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", "save it as CSV in UTF-8") from error
    lines = csv.reader(io.StringIO(text, newline=""))
    header = [name.strip().lower() for name in next(lines, [])]
    if "path" not in header:
        raise ConfigError(f"{path} has no column named path", f"its first line must be {','.join(COLUMNS)}")
    for number, line in enumerate(lines, start=2):
        if not any(line):
            continue
        cells = dict(zip(header, line, strict=False))
        answer = cells.get("keep", "").strip().lower()
        if answer not in _YES | _NO:
            raise ConfigError(
                f"{path}, row {number}: keep is {answer!r}", "write yes to keep the picture, or nothing"
            )
        yield number, cells["path"], answer in _YES, cells.get("code") in _GONE


def _written(path: str) -> str:
    """A path as it stands in the file, where bytes that are not UTF-8 are escaped."""
    return path.encode("utf-8", errors="backslashreplace").decode("utf-8")
