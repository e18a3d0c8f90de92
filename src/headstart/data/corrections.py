"""A table of corrections: what cleaning suggests, a person decides and training obeys.

A CSV file with the columns of `COLUMNS`, of which `action`, `path` and `apply` must be there. A row whose
`apply` is empty is not decided, and changes nothing. `yes` (or `accept`) does what the row suggests:
`relabel` gives the picture the label in `suggested`, `remove` and `duplicate` leave it out. `no` (or `keep`)
leaves it as it is. Whatever was suggested, `remove` leaves it out, and `relabel` gives it the label in
`suggested`. Several tags stand in one cell, with `|` between them; `(no tags)` stands for none. The picture
itself is never touched.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headstart.data.samples import Samples, shown
from headstart.errors import ConfigError, DataError, HeadstartError, InputMissingError
from headstart.storage import content_key, write_atomic
from headstart.types import Task

COLUMNS = ("action", "path", "label", "suggested", "confidence", "reason", "group", "apply")
ACTIONS = ("relabel", "remove", "duplicate")
NO_TAGS = "(no tags)"
BETWEEN_TAGS = "|"
MAX_BYTES = 2**30

_YES = frozenset({"yes", "y", "true", "1", "x", "accept"})
_KEEP = frozenset({"no", "n", "false", "0", "keep"})
# A spreadsheet takes what begins so for a formula; an apostrophe before it says that it is text.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Suggestion(NamedTuple):
    """A row of the table: what to do with a picture, why, and what a person said to it.

    `confidence`: how probable `suggested` is, as text. `group`: the same for pictures that are one.
    """

    action: str
    path: str
    label: str = ""
    suggested: str = ""
    confidence: str = ""
    reason: str = ""
    group: str = ""
    apply: str = ""


class Correction(NamedTuple):
    """What a person decided: `what` is keep, relabel or remove; `row` is the row's number in the table."""

    row: int
    path: str
    what: str
    label: str
    suggested: str


class Corrected(NamedTuple):
    """What a table of corrections changed; `key` is equal for the same decisions.

    `elsewhere`: how many rows are about pictures that are there, but not among those that are used.
    """

    file: str
    key: str
    relabelled: int
    left_out: int
    kept: int
    elsewhere: int

    @property
    def words(self) -> str:
        """What was done, in one line."""
        counts = (
            (self.relabelled, "relabelled"),
            (self.left_out, "left out"),
            (self.kept, "kept as they are"),
        )
        done = ", ".join(f"{count} {what}" for count, what in counts if count) or "nothing changed"
        rest = f"; {self.elsewhere} rows are about pictures that are not used here" if self.elsewhere else ""
        return f"{done}, as {shown(self.file)} asks{rest}"


def table_text(suggestions: Iterable[Suggestion]) -> str:
    """Return the table as spreadsheets write CSV: a mark of UTF-8 first, lines that end in CR LF."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\r\n")
    table.writerow(COLUMNS)
    table.writerows([_guarded(cell) for cell in each] for each in suggestions)
    return "\N{ZERO WIDTH NO-BREAK SPACE}" + text.getvalue()


def write_suggestions(path: Path, suggestions: Iterable[Suggestion]) -> None:
    """Write the table; cells that a spreadsheet would take for formulas get an apostrophe before them."""
    # Names that are not UTF-8 are escaped: the file itself always is UTF-8.
    write_atomic(path, table_text(suggestions).encode("utf-8", errors="backslashreplace"))


def read_suggestions(path: Path) -> list[tuple[int, Suggestion]]:
    """Read a table with its row numbers, as a spreadsheet counts: the header is row 1; blank lines are none.

    The separator is the comma, semicolon or tab that the header has most of. Raises `InputMissingError`
    where the file cannot be read and `ConfigError` where it is no such table, naming the row.
    """
    header, lines = _lines(path)
    missing = [name for name in ("action", "path", "apply") if name not in header]
    if missing:
        raise ConfigError(
            f"{path} has no column named {missing[0]}", f"its first line must be {','.join(COLUMNS)}"
        )
    rows = []
    for number, line in lines:
        cells = dict(zip(header, map(_unguarded, line), strict=False))
        row = Suggestion(**{name: cells.get(name, "") for name in COLUMNS})
        rows.append(
            (number, row._replace(action=row.action.strip().lower(), apply=row.apply.strip().lower()))
        )
    return rows


def read_corrections(path: Path) -> list[Correction]:
    """Return what is decided in a table; raises as `read_suggestions` does, and for unknown words."""
    decided = []
    for number, row in read_suggestions(path):
        what = _decided(row, f"{path}, row {number}")
        if what is None:
            continue
        if not row.path:
            raise ConfigError(
                f"{path}, row {number}: no picture is named", "fill in the path, or delete the row"
            )
        if what == "relabel" and not row.suggested.strip():
            raise ConfigError(
                f"{path}, row {number}: there is no label to give to {shown(row.path)}",
                "write the right label under suggested"
                + (f", or {NO_TAGS} where it has none" if BETWEEN_TAGS in row.label else ""),
            )
        decided.append(Correction(number, row.path, what, row.label, row.suggested))
    return decided


def with_corrections(samples: Samples, path: Path) -> Samples:
    """Return the samples as a table of corrections wants them; `samples.corrected` and a note say how many.

    What is relabelled keeps its place and part. The same decisions again change nothing. Rows about pictures
    that are there but not among the samples (left out before, or beyond a limit) are counted and pass.

    Raises `InputMissingError` and `ConfigError` as `read_corrections` does, and `DataError` that names the
    row: NOT_THERE for a picture that is not there, UNKNOWN_CLASS for a label that no picture has,
    CONFLICTING_ROWS where two rows decide differently about one picture, STALE_LABEL where a picture to
    relabel has neither the label that the row says it had nor the new one; and EMPTY_CLASS where no picture
    of a class is left.
    """
    decided = read_corrections(path)
    key = content_key(sorted({(each.path, each.what, each.suggested.strip()) for each in decided}))
    if any(each.key == key for each in samples.corrected):
        return samples
    return _Applying(samples, path).done(decided, key)


class _Applying:
    """One table applied to samples."""

    def __init__(self, samples: Samples, path: Path) -> None:
        self.samples, self.path = samples, path
        self.labels = samples.labels.copy()
        self.left_out = np.zeros(len(samples), np.bool_)
        self.counts = dict.fromkeys(("relabelled", "left_out", "kept", "elsewhere"), 0)
        self._seen: dict[str, tuple[Correction, str]] = {}

    def done(self, decided: list[Correction], key: str) -> Samples:
        for each in decided:
            if not self._repeats(each):
                self._apply(each)
        corrected = Corrected(self.path.name, key, **self.counts)
        changed = replace(self.samples, labels=self.labels, corrected=(*self.samples.corrected, corrected))
        kept = changed.take(~self.left_out)
        self._refuse_empty(kept)
        return kept.with_split(kept.split, notes=(corrected.words,) if decided else ())

    def _repeats(self, each: Correction) -> bool:
        """Whether an earlier row decided the same of this picture; raises where it decided differently."""
        outcome = each.suggested.strip() if each.what == "relabel" else ""
        first, before = self._seen.setdefault(each.path, (each, outcome))
        if first is each:
            return False
        if (first.what, before) == (each.what, outcome):
            return True
        raise DataError(
            f"{self.path}, rows {first.row} and {each.row} decide differently about {shown(each.path)}: "
            f"{_in_words(first)}, and {_in_words(each)}",
            "empty the cell under apply in one of them",
            code="CONFLICTING_ROWS",
        )

    def _apply(self, each: Correction) -> None:
        row = self._rows.get(each.path)
        if row is None:
            if each.path not in self._there:
                raise self._fault(
                    each,
                    f"there is no picture {shown(each.path)} in {self.samples.root}",
                    "correct the path, or delete the row",
                    "NOT_THERE",
                )
            self.counts["elsewhere"] += 1
        elif each.what == "keep":
            self.counts["kept"] += 1
        elif each.what == "remove":
            self.left_out[row] = True
            self.counts["left_out"] += 1
        else:
            self._relabel(each, row)

    def _relabel(self, each: Correction, row: int) -> None:
        label = self._label(each, each.suggested)
        now = self.labels[row]
        if each.label and not np.array_equal(now, label) and label_cell(self.samples, row) != each.label:
            raise self._fault(
                each,
                f"{shown(each.path)} has the label {shown(label_cell(self.samples, row)) or '(none)'} now, "
                f"not {shown(each.label)}",
                "the labels have changed since: clean again, or empty the row's cell under label",
                "STALE_LABEL",
            )
        self.labels[row] = label
        self.counts["relabelled"] += 1

    def _label(self, each: Correction, text: str) -> NDArray[Any] | int:
        """The number of the class that a cell names; of tags, 0 and 1 for each."""
        if self.samples.task is Task.SINGLE_LABEL:
            return self._class(each, text)
        tags = np.zeros(len(self.samples.classes), np.uint8)
        if text.strip() != NO_TAGS:
            tags[[self._class(each, name) for name in text.split(BETWEEN_TAGS)]] = 1
        return tags

    def _class(self, each: Correction, name: str) -> int:
        known = self._classes.get(written(name), self._classes.get(written(name).strip()))
        if known is not None:
            return known
        raise self._fault(
            each,
            f"class {shown(name)} is unknown",
            f"the classes are {', '.join(map(shown, self.samples.classes[:12]))}"
            + (", …" if len(self.samples.classes) > 12 else ""),
            "UNKNOWN_CLASS",
        )

    def _refuse_empty(self, kept: Samples) -> None:
        before, after = self.samples.counts(), kept.counts()
        empty = [name for name, count in before.items() if count and not after[name]]
        if empty:
            raise DataError(
                f"{self.path} leaves no picture of class {', '.join(map(shown, empty[:5]))}",
                "keep one, or leave the class out of the pictures",
                code="EMPTY_CLASS",
            )

    def _fault(self, each: Correction, message: str, hint: str, code: str) -> DataError:
        return DataError(f"{self.path}, row {each.row}: {message}", hint, code=code)

    @cached_property
    def _rows(self) -> Mapping[str, int]:
        return {written(self.samples.place(row)): row for row in range(len(self.samples))}

    @cached_property
    def _classes(self) -> Mapping[str, int]:
        return {written(name): number for number, name in enumerate(self.samples.classes)}

    @cached_property
    def _there(self) -> frozenset[str]:
        """All pictures in the folder, used or not: listed, since no path is made of what a file says."""
        from headstart.data.scan import list_pictures

        try:
            return frozenset(map(written, list_pictures(self.samples.root)[1]))
        except HeadstartError:
            return frozenset()


def label_cell(samples: Samples, row: int) -> str:
    """Return a row's label as a cell of the table: a class, tags with `|` between, "" where unknown."""
    if samples.task is Task.SINGLE_LABEL:
        label = int(samples.labels[row])
        return written(samples.classes[label]) if label >= 0 else ""
    return tags_cell(samples.classes, samples.labels[row])


def tags_cell(classes: tuple[str, ...], tags: NDArray[Any]) -> str:
    """Return tags (0 and 1 for each class) as a cell of the table."""
    return BETWEEN_TAGS.join(written(classes[tag]) for tag in np.flatnonzero(tags).tolist()) or NO_TAGS


def written(text: str) -> str:
    """Return a name as it stands in the file, where bytes that are not UTF-8 are escaped."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def _decided(row: Suggestion, where: str) -> str | None:
    """What a row decides: keep, relabel or remove; None where it is not decided."""
    if row.action not in ACTIONS:
        raise ConfigError(f"{where}: the action {row.action!r} is unknown", f"write {', '.join(ACTIONS)}")
    if row.apply in _YES:
        return "relabel" if row.action == "relabel" else "remove"
    if row.apply in _KEEP:
        return "keep"
    if row.apply in ("", "relabel", "remove"):
        return row.apply or None
    raise ConfigError(
        f"{where}: apply is {row.apply!r}",
        "write yes to do as suggested, keep, remove or relabel; nothing leaves it undecided",
    )


def _in_words(each: Correction) -> str:
    return f"{each.what} to {shown(each.suggested)}" if each.what == "relabel" else each.what


def _lines(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Return the names of the columns, and the rows that are not blank, with their numbers."""
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_BYTES:,} bytes", "give a table of corrections")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputMissingError(
            f"{path} cannot be read: {error.strerror}", "headstart clean RUN writes one"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", "save it as CSV UTF-8") from error
    first = text.lstrip("\r\n").split("\n", 1)[0]
    separator = max(",;\t", key=first.count)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        # Rows are counted as a spreadsheet does: a cell with a line break in it is one row.
        rows = list(enumerate(table, start=1))
    except csv.Error as error:
        raise ConfigError(f"{path} is not a table: {error}", "save it as CSV UTF-8 again") from error
    filled = [(number, line) for number, line in rows if any(line)]
    if not filled:
        raise ConfigError(f"{path} is empty", f"its first line must be {','.join(COLUMNS)}")
    return [name.strip().lower() for name in filled[0][1]], iter(filled[1:])


def _guarded(cell: str) -> str:
    return f"'{cell}" if cell.lstrip("'").startswith(_FORMULA) else cell


def _unguarded(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA) else cell
