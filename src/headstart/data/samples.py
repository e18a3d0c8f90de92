"""Samples: the table that every source of pictures becomes."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.data.limits import Limits
from headstart.errors import DataError, UsageError
from headstart.storage import content_key
from headstart.types import Task

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "valid", "test")

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def shown(text: str) -> str:
    """Return a path or a name as one printable line: control characters and bad bytes escaped."""
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)


def row_numbers(rows: ArrayLike, count: int) -> NDArray[np.int64]:
    """Return `rows` (row numbers, or a mask) of a table of `count` rows as row numbers, int64."""
    chosen = np.asarray(rows)
    numbers = np.arange(count, dtype=np.int64)
    return np.asarray(numbers[chosen if chosen.size else chosen.astype(np.int64)], np.int64)


@dataclass(frozen=True, eq=False)
class Samples:
    """Pictures and what is known about them: frozen columns of one length N.

    `root`: the folder that `paths` are relative to.
    `paths`: '/'-separated; names that are not UTF-8 are kept by surrogate escapes.
    `labels`: int64 (N,), a position in `classes` or -1 where unknown; for tags uint8 (N, classes).
    `split`: "train", "valid", "test", or "" where not yet decided.
    `offset`, `length`: where in the file the picture lies (a member of an archive); None: whole files.
    `group`: int64 (N,); rows of one group stay on one side of a split.
    `skipped`: what a scan left out, counted by reason. `notes`: what a person should know.
    """

    root: Path
    paths: tuple[str, ...]
    labels: NDArray[Any]
    classes: tuple[str, ...]
    split: NDArray[np.str_]
    task: Task = Task.SINGLE_LABEL
    offset: NDArray[np.int64] | None = None
    length: NDArray[np.int64] | None = None
    group: NDArray[np.int64] | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("labels", "split", "offset", "length", "group"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.paths):
                raise UsageError(f"column {name} has {len(column)} rows, there are {len(self.paths)} paths")

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def ids(self) -> NDArray[np.uint64]:
        """Stable ids, uint64 (N,): a hash of the relative path (and of the place in the file)."""
        offsets = [0] * len(self) if self.offset is None else self.offset.tolist()
        digests = (
            hashlib.blake2b(
                os.fsencode(path) + (b"" if self.offset is None else b"@%d" % offset), digest_size=8
            ).digest()
            for path, offset in zip(self.paths, offsets, strict=True)
        )
        return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)

    def take(self, rows: ArrayLike) -> Samples:
        """Return the samples of `rows` (row numbers or a mask), in that order."""
        numbers = row_numbers(rows, len(self))

        def part(column: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if column is None else column[numbers]

        return replace(
            self,
            paths=tuple(self.paths[row] for row in numbers.tolist()),
            labels=self.labels[numbers],
            split=self.split[numbers],
            offset=part(self.offset),
            length=part(self.length),
            group=part(self.group),
        )

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the row numbers of a split: "train", "valid", "test" or "" (undecided)."""
        if split not in (*SPLITS, ""):
            raise UsageError(f"there is no split {split!r}", "the splits are train, valid and test")
        return np.flatnonzero(self.split == split).astype(np.int64)

    def with_split(self, split: ArrayLike, *, notes: tuple[str, ...] = ()) -> Samples:
        """Return the same samples with another `split` column; `notes` are added to the notes."""
        return replace(self, split=np.asarray(split, "<U5"), notes=self.notes + notes)

    def with_group(self, group: ArrayLike) -> Samples:
        """Return the same samples with a `group` column."""
        return replace(self, group=np.asarray(group, np.int64))

    def file(self, row: int) -> Path:
        """Return the file in which a row's picture lies."""
        return self.root / self.paths[row]

    def name(self, row: int) -> str:
        """Return a row's path as one printable line, for messages."""
        return shown(self.paths[row])

    def read(self, row: int, *, limits: Limits | None = None) -> bytes:
        """Return the bytes of one picture file (of one member, where there is an offset).

        The file is looked at before it is opened, so that a pipe or a device never blocks. Raises
        `DataError` with code VANISHED, UNREADABLE, NOT_REGULAR or TOO_MANY_BYTES, naming the file.
        """
        limits = limits or Limits()
        path = self.file(row)
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{self.name(row)} is not a regular file", code="NOT_REGULAR")
            start, size = 0, status.st_size
            if self.offset is not None and self.length is not None:
                start, size = int(self.offset[row]), int(self.length[row])
            if size > limits.file_bytes:
                raise DataError(
                    f"{self.name(row)} has {size:,} bytes, more than {limits.file_bytes:,}",
                    code="TOO_MANY_BYTES",
                )
            with open(path, "rb") as stream:
                stream.seek(start)
                return stream.read(size)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(
                f"{self.name(row)} is not there any more",
                "do not move the pictures while they are used",
                code="VANISHED",
            ) from error
        except OSError as error:
            raise DataError(
                f"{self.name(row)} cannot be read: {error.strerror}", code="UNREADABLE"
            ) from error

    def label_names(self) -> list[str]:
        """Return each row's class name, "" where unknown; for tags, the names joined by spaces."""
        if self.task is Task.MULTI_LABEL:
            return [" ".join(self.classes[k] for k in np.flatnonzero(tags)) for tags in self.labels]
        return [self.classes[label] if label >= 0 else "" for label in self.labels.tolist()]

    def counts(self, split: str | None = None) -> dict[str, int]:
        """Return the number of pictures of each class, over all rows or those of one split."""
        labels = self.labels if split is None else self.labels[self.rows(split)]
        if self.task is Task.MULTI_LABEL:
            numbers = labels.sum(axis=0, dtype=np.int64)
        else:
            numbers = np.bincount(labels[labels >= 0], minlength=len(self.classes))
        return dict(zip(self.classes, numbers.tolist(), strict=True))

    def to_frame(self) -> pd.DataFrame:
        """Return the table as a DataFrame: path, label, split, and group where there is one."""
        import pandas as pd

        columns: dict[str, Any] = {"path": list(self.paths), "label": self.label_names(), "split": self.split}
        if self.group is not None:
            columns["group"] = self.group
        return pd.DataFrame(columns)

    def fingerprint(self) -> str:
        """Return a key that is equal only for the same rows in the same order with the same labels and split.

        The contents of the files are not part of it.
        """
        rows = list(zip(self.paths, self.labels.tolist(), self.split.tolist(), strict=True))
        offsets = None if self.offset is None else self.offset.tolist()
        return content_key(rows, offsets, list(self.classes), str(self.task))

    def describe(self) -> str:
        """Return one line about the data: how many pictures, classes, splits, and what was left out."""
        text = f"{len(self):,} picture{'' if len(self) == 1 else 's'}"
        if self.classes:
            counts = self.counts()
            text += f" in {len(self.classes)} classes"
            if len(counts) <= 8:
                text += " (" + ", ".join(f"{shown(name)} {count}" for name, count in counts.items()) + ")"
            else:
                text += f" of {min(counts.values())} to {max(counts.values())} pictures"
        parts = [f"{name} {len(self.rows(name)):,}" for name in SPLITS if len(self.rows(name))]
        if parts:
            text += ": " + ", ".join(parts)
        if self.skipped:
            text += "; left out: " + ", ".join(f"{count} {shown(why)}" for why, count in self.skipped.items())
        return text
