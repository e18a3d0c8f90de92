"""Tables that are written part by part and then put together: CSV, and Parquet where pyarrow is installed."""

from __future__ import annotations

import csv
import io
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from headstart.errors import UsageError
from headstart.storage import write_atomic, written_whole

if TYPE_CHECKING:
    from headstart.deploy.predictor import Seen

Columns = Mapping[str, Sequence[Any]]


class CsvTable:
    """UTF-8 with a header; numbers have nine significant digits, unknown ones are empty."""

    suffix = ".csv"

    def write(self, path: Path, columns: Columns) -> None:
        """Write a part, atomically, with the header in its first line."""
        stream = io.StringIO(newline="")
        # Before Python 3.13 the writer leaves a carriage return bare, where readers see a new row.
        texts = (text for values in columns.values() for text in values if isinstance(text, str))
        returns = any("\r" in text for text in (*columns, *texts))
        quoting: Literal[0, 1] = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
        writer = csv.writer(stream, lineterminator="\n", quoting=quoting)
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow([_spelled(value) for value in row])
        # The length of the header stands first: a class may have a line break in its name.
        text = stream.getvalue().encode("utf-8", errors="backslashreplace")
        header = io.StringIO(newline="")
        csv.writer(header, lineterminator="\n", quoting=quoting).writerow(columns)
        length = len(header.getvalue().encode("utf-8", errors="backslashreplace"))
        write_atomic(path, f"{length:08}\n".encode() + text)

    def merge(self, parts: Sequence[Path], out: Path) -> None:
        """Put parts together to one table, atomically."""
        with written_whole(out) as stream:
            for number, part in enumerate(parts):
                with open(part, "rb") as source:
                    length = int(source.read(9))
                    if number:
                        source.seek(length, io.SEEK_CUR)
                    shutil.copyfileobj(source, stream)


class ParquetTable:
    """Parquet: text, float32 for probabilities and features (one list), nothing where a number is unknown."""

    suffix = ".parquet"

    def __init__(self, *, features: bool = False) -> None:
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise UsageError(
                "Parquet needs a package that is not installed: pyarrow",
                'install it with: pip install "headstart[parquet]", or write a .csv',
            ) from error
        self.features = features

    def write(self, path: Path, columns: Columns) -> None:
        """Write a part, atomically."""
        import pyarrow
        import pyarrow.parquet

        arrays = {_text(name): self._array(name, values) for name, values in columns.items()}
        with written_whole(path) as stream:
            pyarrow.parquet.write_table(pyarrow.table(arrays), stream)

    def _array(self, name: str, values: Sequence[Any]) -> Any:
        import pyarrow

        if self.features and name == "features":
            return pyarrow.array(values, pyarrow.list_(pyarrow.float32()))
        if all(isinstance(value, str) for value in values):
            return pyarrow.array([_text(value) for value in values], pyarrow.string())
        return pyarrow.array(values, pyarrow.float32(), from_pandas=True)

    def merge(self, parts: Sequence[Path], out: Path) -> None:
        """Put parts together to one table, atomically; one part is in memory at a time."""
        import pyarrow.parquet

        schema = pyarrow.parquet.read_schema(parts[0])
        with written_whole(out) as stream, pyarrow.parquet.ParquetWriter(stream, schema) as writer:
            for part in parts:
                writer.write_table(pyarrow.parquet.ParquetFile(part).read())


def feature_columns(
    group: Sequence[Seen], table: CsvTable | ParquetTable, count: int
) -> dict[str, list[Any]]:
    """Return what entered the first network's head: `features`, or `f_0`, `f_1`, … in a CSV."""
    rows = [row for seen in group for row in _features_of(seen)]
    if isinstance(table, ParquetTable):
        return {"features": rows}
    nothing = [math.nan] * count
    return {
        f"f_{k}": [(nothing if row is None else row)[k] for row in rows] for k in range(count)
    }  # fmt: skip


def _features_of(seen: Seen) -> list[Any]:
    found: list[Any] = [None] * len(seen.averaged)
    if seen.features is not None and seen.feature_rows is not None:
        places = seen.feature_rows - seen.averaged.rows[0]
        for place, row in zip(places.tolist(), np.asarray(seen.features, np.float32), strict=True):
            found[place] = row
    return found


def _spelled(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else f"{value:.9g}"


def _text(value: str) -> str:
    """Bytes of a path that are not UTF-8 are written as `\\udcXX`."""
    return value.encode("utf-8", errors="backslashreplace").decode("utf-8")
