"""CSV and Parquet files and DataFrames become samples."""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.data.classes import Labels, encode_labels, encode_tag_lists, encode_tags, no_labels
from headstart.data.remote import is_remote, read_remote
from headstart.data.rows import Rules, rows_of, samples_from_rows
from headstart.data.samples import Samples, shown
from headstart.errors import DataError, InputMissingError, UsageError
from headstart.types import Task

if TYPE_CHECKING:
    import pandas as pd

Column = str | int

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
MAX_TABLE_BYTES = 4 * 2**30

_YES_AND_NO = {
    **dict.fromkeys(("1", "1.0", "true", "True", "TRUE"), 1),
    **dict.fromkeys(("0", "0.0", "false", "False", "FALSE"), 0),
}


@dataclass(frozen=True)
class Table(Rules):
    """How to read a table: which columns say what, and the rules for its rows.

    Columns are given by name, or by number from 0; those that have a name and no purpose here are kept in
    `Samples.columns`, for slices. `image`: the picture's path. `label`: its class, or
    None where nothing is labelled; with `label_delimiter` its tags, and an empty cell is a picture
    without tags. `one_hot`: columns of 0 and 1, one for each tag, in place of `label`. `split`: train,
    valid or test. `group`: rows of one group stay on one side of a split. `classes`: all classes, in the
    order that is wanted; without, the natural order of their names, or that of the one-hot columns.
    """

    image: Column = 0
    label: Column | None = 1
    label_delimiter: str | None = None
    one_hot: tuple[Column, ...] = ()
    split: Column | None = None
    group: Column | None = None
    classes: tuple[str, ...] | None = None
    header: bool = True
    encoding: str = "utf-8"

    @property
    def wanted(self) -> list[Column]:
        """The columns that are read."""
        label = [] if self.label is None or self.one_hot else [self.label]
        others = [column for column in (self.split, self.group) if column is not None]
        return [self.image, *label, *self.one_hot, *others]


def read_table(
    path: str | os.PathLike[str], table: Table | None = None, *, root: str | Path | None = None
) -> Samples:
    """Read the pictures that a CSV or Parquet file lists; `path` may be a URL.

    The pictures' paths are relative to `root`, by default the table's folder. Cells are text: "01" is not
    "1", and "NA" is a name; space around a label is not part of it. The separator of a CSV is the comma,
    semicolon or tab that its first line has most of. Rows are numbered as a spreadsheet does: the header is
    row 1. Raises `InputMissingError`, `UsageError` for a column that is not there, and `DataError`: NOT_TEXT
    (naming the byte that is not in the encoding), NOT_A_TABLE, and those of `samples_from_rows`.
    """
    chosen, place = table or Table(), os.fspath(path)
    if place.lower().endswith(".parquet"):
        frame = _parquet(_bytes(place), place)
        numbers = np.arange(len(frame), dtype=np.int64)
    else:
        frame = _csv(_bytes(place), place, chosen)
        numbers = frame.index.to_numpy(np.int64)
    if root is None:
        root = place.rsplit("/", 1)[0] if is_remote(place) else Path(place).absolute().parent
    return _samples(frame, chosen, root, numbers, shown(place))


def from_frame(
    frame: pd.DataFrame, table: Table | None = None, *, root: str | os.PathLike[str] = "."
) -> Samples:
    """Read the pictures that a DataFrame lists; their paths are relative to `root`.

    Whole numbers become their digits, missing values are empty, and a categorical label column gives its
    order to the classes. Rows are numbered from 0. Raises as `read_table` does.
    """
    place = os.fspath(root)
    where = place.rstrip("/") if is_remote(place) else Path(place).expanduser().absolute()
    return _samples(frame, table or Table(), where, np.arange(len(frame), dtype=np.int64), "the frame")


def _bytes(place: str) -> bytes:
    if is_remote(place):
        return read_remote(place, most=MAX_TABLE_BYTES)
    try:
        path = Path(place).expanduser()
        if path.is_dir():
            raise InputMissingError(f"{shown(place)} is a folder, not a table", "give a CSV or Parquet file")
        if not path.is_file():
            raise InputMissingError(f"there is no {shown(place)}", "give a CSV or Parquet file")
        return path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputMissingError(f"{shown(place)} cannot be read: {shown(str(error))}") from error


def _parquet(data: bytes, place: str) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_parquet(io.BytesIO(data), engine="pyarrow")
    except ImportError as error:
        raise UsageError(
            "reading Parquet needs pyarrow, which is not installed",
            'install it with: pip install "headstart[parquet]"',
        ) from error
    except (ValueError, OSError) as error:
        what = shown(str(error))[:200]
        raise DataError(
            f"{shown(place)} is not a Parquet file: {what}", "write it again", code="NOT_A_TABLE"
        ) from error
    return frame.reset_index() if any(frame.index.names) else frame


def _csv(data: bytes, place: str, table: Table) -> pd.DataFrame:
    """Return the cells as text; raise where the bytes are no text or the rows no table."""
    import pandas as pd

    data = _as_utf8(data, place, table.encoding)
    # The first megabyte tells the columns; text of the whole would take four bytes a letter.
    head = data[: 1 << 20].decode("utf-8", "ignore")
    first_line = head.lstrip("\r\n").splitlines()[0] if head.strip("\r\n") else ""
    separator = max(",;\t", key=first_line.count)
    lines = csv.reader(io.StringIO(head, newline=""), delimiter=separator)
    try:
        names = next((line for line in lines if line), [])
        following = next((line for line in lines if line), [])
    except csv.Error as error:
        raise DataError(f"{shown(place)}: {error}", "save it as CSV again", code="NOT_A_TABLE") from error
    if not names:
        raise InputMissingError(f"{shown(place)} is empty", "give a header and one row for each picture")
    if len(following) > len(names) and any(following[len(names) :]):
        raise DataError(
            f"{shown(place)} has {len(following)} cells in row 2 and {len(names)} in row 1",
            "put quotes around cells that hold the separator",
            code="NOT_A_TABLE",
        )
    width = max(len(names), len(following))
    pictures = _found(names if table.header else range(width), table.image, shown(place))
    try:
        frame = pd.read_csv(
            io.BytesIO(data),
            encoding="utf-8",
            sep=separator,
            header=None,
            names=list(range(width)),
            # Labels, parts and groups repeat: as categories each text is held once.
            dtype={column: "category" if column != pictures else object for column in range(width)},
            na_filter=False,
            skip_blank_lines=False,
        ).astype(object)
    except (ValueError, pd.errors.ParserError) as error:
        what = shown(str(error).removeprefix("Error tokenizing data. ").strip())
        raise DataError(
            f"{shown(place)} is not a table: {what}",
            "look at that line: every row needs the same number of cells, and every quote its end",
            code="NOT_A_TABLE",
        ) from error
    # Rows are called by their numbers, so blank lines are dropped only after these are given.
    frame.index += 1
    maybe_blank = frame[0].isin(["", np.nan])
    if maybe_blank.any():
        blank = frame[maybe_blank].isin(["", np.nan]).all(axis=1)
        frame = frame.drop(index=blank.index[blank])
    if table.header and len(frame):
        frame = frame.iloc[1:]
        frame.columns = pd.Index([*names, *[""] * (width - len(names))], dtype=object)
    return frame


def _as_utf8(data: bytes, place: str, encoding: str) -> bytes:
    """Return the bytes as UTF-8 without a mark at the start; raise where they are not in the encoding."""
    try:
        name = codecs.lookup(encoding).name
    except LookupError:
        raise UsageError(f"the encoding {encoding!r} is unknown", "use utf-8, latin-1, cp1252 …") from None
    if name == "utf-8" and data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise DataError(
            f"{shown(place)} is UTF-16, not UTF-8",
            "save it as UTF-8, or say --encoding utf-16",
            code="NOT_TEXT",
        )
    try:
        text = data.decode(name)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{shown(place)} is not {encoding}: byte 0x{data[error.start]:02x} in line {line} "
            f"(offset {error.start})",
            "save it as UTF-8, or say how it is encoded, such as --encoding latin-1",
            code="NOT_TEXT",
        ) from error
    return (data if name == "utf-8" else text.encode()).removeprefix(codecs.BOM_UTF8)


def _samples(
    frame: pd.DataFrame, table: Table, root: str | Path, numbers: NDArray[np.int64], place: str
) -> Samples:
    columns = [_found(frame.columns, column, place) for column in table.wanted]
    if not len(frame):
        raise InputMissingError(f"{place} has no rows", "give one row for each picture")
    texts = [_text(frame.iloc[:, column]) for column in columns]
    after_labels = len(texts) - (table.split is not None) - (table.group is not None)
    rows = rows_of(
        texts[0],
        _labels(frame, columns[1:after_labels], texts[1:after_labels], table, numbers),
        split=None if table.split is None else texts[after_labels],
        group=None if table.group is None else texts[-1],
        numbers=numbers,
        columns=_others(frame, columns, table),
    )
    return samples_from_rows(root, rows, table)


def _others(frame: pd.DataFrame, used: Sequence[int], table: Table) -> dict[str, NDArray[np.object_]]:
    """Return the cells of the columns that say something else, by name; groups may be asked about, too.

    Columns of arrays or pictures, and those whose name is missing or not the only one of its kind, are not.
    """
    import pandas as pd

    if not table.header:
        return {}
    names = [str(name) for name in frame.columns]
    purposes = used if table.group is None else used[:-1]
    others = [
        column
        for column, name in enumerate(names)
        if column not in purposes and name and names.count(name) == 1
    ]
    return {
        names[column]: _text(frame.iloc[:, column])
        for column in others
        if pd.api.types.is_scalar(frame.iloc[0, column])
    }


def _found(columns: Iterable[object], column: Column, place: str) -> int:
    """Return the position of a column that is given by name or number."""
    names = [str(name) for name in columns]
    if names.count(str(column)) > 1:
        raise DataError(
            f"{place} has {names.count(str(column))} columns called {shown(str(column))}",
            "rename one, or give the column's number",
            code="NOT_A_TABLE",
        )
    if str(column) in names:
        return names.index(str(column))
    try:
        number = int(column)
    except ValueError:
        number = -1
    if not 0 <= number < len(names):
        raise UsageError(
            f"{place} has no column {shown(str(column))}",
            f"its columns are {', '.join(map(shown, names[:12]))}" if names else "the table is empty",
        )
    return number


def _text(column: pd.Series[Any]) -> NDArray[np.object_]:
    """Return a column's cells as text; missing ones are empty, whole numbers are their digits."""
    import pandas as pd

    if pd.api.types.is_float_dtype(column.dtype):
        values = column.to_numpy(np.float64, na_value=np.nan)
        # Whole numbers become floats in pandas as soon as one of them is missing.
        if np.all(np.isnan(values) | (values == np.rint(values))):
            column = column.astype("Int64")
    cells = column.to_numpy(object)
    empty = np.asarray(pd.isna(cells), np.bool_)
    texts = np.empty(len(cells), object)
    texts[:] = [cell if type(cell) is str else _spelled(cell) for cell in cells.tolist()]
    texts[empty] = ""
    return texts


def _spelled(cell: object) -> str:
    return os.fspath(cell) if isinstance(cell, Path) else str(cell)


def _labels(
    frame: pd.DataFrame,
    columns: Sequence[int],
    texts: Sequence[NDArray[np.object_]],
    table: Table,
    numbers: NDArray[np.int64],
) -> Labels:
    import pandas as pd

    if table.one_hot:
        return _one_hot([str(frame.columns[column]) for column in columns], texts, numbers)
    if not columns:
        return no_labels(len(frame))
    classes, column = table.classes, frame.iloc[:, columns[0]]
    if classes is None and isinstance(column.dtype, pd.CategoricalDtype) and table.label_delimiter is None:
        used = set(texts[0].tolist())
        classes = tuple(name for name in map(str, column.dtype.categories) if name in used)
    lists = _lists(column)
    if lists is not None:
        return encode_tag_lists(lists, classes)
    if table.label_delimiter is not None:
        return encode_tags(texts[0].tolist(), table.label_delimiter, classes)
    return encode_labels([text.strip() for text in texts[0].tolist()], classes)


def _lists(column: pd.Series[Any]) -> list[list[str]] | None:
    """Return the cells of a column of lists of tags, or None where it is none."""
    cells = column.to_numpy(object).tolist()
    kinds = (list, tuple, set, frozenset, np.ndarray)
    if not any(isinstance(cell, kinds) for cell in cells):
        return None
    return [[str(tag) for tag in cell] if isinstance(cell, kinds) else [] for cell in cells]


def _one_hot(
    names: Sequence[str], texts: Sequence[NDArray[np.object_]], row_numbers: NDArray[np.int64]
) -> Labels:
    values = np.zeros((len(texts[0]), len(names)), np.uint8)
    for column, (name, cells) in enumerate(zip(names, texts, strict=True)):
        numbers = np.array([_YES_AND_NO.get(cell.strip(), -1) for cell in cells.tolist()], np.int64)
        bad = np.flatnonzero(numbers < 0)
        if len(bad):
            raise DataError(
                f"column {shown(name)} has {shown(cells[bad[0]])!r} in row {row_numbers[bad[0]]} "
                f"({len(bad)} such cells): neither 0 nor 1",
                "write 1 where the picture has the tag and 0 where not",
                code="BAD_TAG",
            )
        values[:, column] = numbers
    return Labels(values, tuple(names), Task.MULTI_LABEL, fixed=True)
