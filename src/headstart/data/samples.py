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
from headstart.errors import DataError, InputMissingError, StorageError, UsageError
from headstart.storage import content_key, sha256_bytes
from headstart.types import Task

if TYPE_CHECKING:
    import pandas as pd

    from headstart.data.corrections import Corrected

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
    `paths`: '/'-separated; names that are not UTF-8 are kept by surrogate escapes. Or a URL.
    `labels`: int64 (N,), a position in `classes` or -1 where unknown; for tags uint8 (N, classes).
    `split`: "train", "valid", "test", or "" where not yet decided.
    `offset`, `length`: where in the file the picture lies (a member of an archive); None: whole files.
    `group`: int64 (N,); rows of one group stay on one side of a split.
    `names`: what each row is called where its path does not say it: the member of an archive, the path
    within a remote folder. A picture has one name, and so one id, wherever it is packed or copied to.
    `columns`: what else a table says of each row (its camera, say), as text, object (N,), by column name.
    `skipped`: what a scan left out, counted by reason. `notes`: what a person should know. `corrected`: what
    a person's corrections changed, a value for each table of them.
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
    names: tuple[str, ...] | None = None
    columns: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    corrected: tuple[Corrected, ...] = ()

    def __post_init__(self) -> None:
        for name in ("labels", "split", "offset", "length", "group", "names"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.paths):
                raise UsageError(f"column {name} has {len(column)} rows, there are {len(self.paths)} paths")
        for name, column in self.columns.items():
            if len(column) != len(self.paths):
                raise UsageError(f"column {name} has {len(column)} rows, there are {len(self.paths)} paths")

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def ids(self) -> NDArray[np.uint64]:
        """Stable ids, uint64 (N,): a hash of the name, else of the path and the place in the file."""
        texts = [text.encode("utf-8", "surrogateescape") for text in self.names or self.paths]
        if self.names is None and self.offset is not None:
            texts = [b"%b@%d" % pair for pair in zip(texts, self.offset.tolist(), strict=True)]
        # 0.9 s for a million rows, and each row by itself: hashing is most of it.
        hashed = hashlib.blake2b
        digests = b"".join([hashed(text, digest_size=8).digest() for text in texts])
        return np.frombuffer(digests, "<u8").astype(np.uint64)

    def take(self, rows: ArrayLike) -> Samples:
        """Return the samples of `rows` (row numbers or a mask), in that order."""
        numbers = row_numbers(rows, len(self))

        def part(column: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if column is None else column[numbers]

        chosen = numbers.tolist()
        taken = replace(
            self,
            paths=tuple([self.paths[row] for row in chosen]),
            labels=self.labels[numbers],
            split=self.split[numbers],
            offset=part(self.offset),
            length=part(self.length),
            group=part(self.group),
            names=None if self.names is None else tuple([self.names[row] for row in chosen]),
            columns={name: column[numbers] for name, column in self.columns.items()},
        )
        return self._with_known_ids(taken, numbers)

    def _with_known_ids(self, other: Samples, rows: NDArray[np.int64] | slice) -> Samples:
        """Hand on the ids where they are known: to hash a million names twice would cost a second."""
        known = self.__dict__.get("ids")
        if known is not None:
            other.__dict__["ids"] = known[rows]
        return other

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the row numbers of a split: "train", "valid", "test" or "" (undecided)."""
        if split not in (*SPLITS, ""):
            raise UsageError(f"there is no split {split!r}", "the splits are train, valid and test")
        return np.flatnonzero(self.split == split).astype(np.int64)

    def with_split(self, split: ArrayLike, *, notes: tuple[str, ...] = ()) -> Samples:
        """Return the same samples with another `split` column; `notes` are added to the notes."""
        other = replace(self, split=np.asarray(split, "<U5"), notes=self.notes + notes)
        return self._with_known_ids(other, slice(None))

    def with_group(self, group: ArrayLike) -> Samples:
        """Return the same samples with a `group` column."""
        other = replace(self, group=np.asarray(group, np.int64))
        return self._with_known_ids(other, slice(None))

    def file(self, row: int) -> Path:
        """Return the file on disk in which a row's picture lies."""
        return self.root / self.paths[row]

    def place(self, row: int) -> str:
        """Return where a row's picture lies: its path, or that of the archive and the member's name."""
        if self.offset is None or self.names is None:
            return self.paths[row]
        return f"{self.paths[row]}/{self.names[row]}"

    def name(self, row: int) -> str:
        """Return a row's place as one printable line, for messages."""
        return shown(self.place(row))

    def read(self, row: int, *, limits: Limits | None = None) -> bytes:
        """Return the bytes of one picture file (of one member, where there is an offset).

        The file is looked at before it is opened, so that a pipe or a device never blocks. Raises
        `DataError` with code VANISHED, UNREADABLE, NOT_REGULAR, TOO_MANY_BYTES or, where a member's file
        has become shorter, TRUNCATED, naming the file.
        """
        most = (limits or Limits()).file_bytes
        start, size = 0, None
        if self.offset is not None and self.length is not None:
            start, size = int(self.offset[row]), int(self.length[row])
            self._refuse_large(row, size, most)
        if "://" in self.paths[row]:
            data = self._read_remote(row, start, size, most)
        else:
            data = self._read_local(row, start, size, most)
        if size is not None and len(data) < size:
            raise DataError(
                f"{self.name(row)} ends after {len(data):,} of {size:,} bytes",
                "the file has changed: begin again",
                code="TRUNCATED",
            )
        return data

    def _refuse_large(self, row: int, size: int, most: int) -> None:
        if size > most:
            raise DataError(f"{self.name(row)} has {size:,} bytes, more than {most:,}", code="TOO_MANY_BYTES")

    def _read_local(self, row: int, start: int, size: int | None, most: int) -> bytes:
        path = self.file(row)
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{self.name(row)} is not a regular file", code="NOT_REGULAR")
            if size is None:
                self._refuse_large(row, status.st_size, most)
            with open(path, "rb") as stream:
                stream.seek(start)
                return stream.read(status.st_size if size is None else size)
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

    def _read_remote(self, row: int, start: int, size: int | None, most: int) -> bytes:
        from headstart.data.remote import read_remote

        try:
            return read_remote(self.paths[row], start, size, most=most)
        except InputMissingError as error:
            raise DataError(
                f"{self.name(row)} is not there any more: {error.message}", error.hint, code="VANISHED"
            ) from error
        except StorageError as error:
            raise DataError(
                f"{self.name(row)} cannot be read: {error.message}", error.hint, code="UNREADABLE"
            ) from error

    def label_names(self) -> list[str]:
        """Return each row's class name, "" where unknown; for tags, the names joined by spaces."""
        if self.task is Task.MULTI_LABEL:
            rows, columns = np.nonzero(self.labels)
            parts = np.split(columns, np.searchsorted(rows, np.arange(1, len(self))))
            return [" ".join([self.classes[k] for k in tags.tolist()]) for tags in parts[: len(self)]]
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
        """Return the table as a DataFrame: path, label, split, and whatever other columns there are.

        These are group, and for members of archives and remote files name (what the id is made of), offset
        and length, then the table's own. The label is text, "" where unknown; of tags, the names with spaces
        between them.
        """
        import pandas as pd

        columns: dict[str, Any] = {"path": list(self.paths), "label": self.label_names(), "split": self.split}
        for name in ("group", "names", "offset", "length"):
            column = getattr(self, name)
            if column is not None:
                columns["name" if name == "names" else name] = column
        return pd.DataFrame({**self.columns, **columns}, columns=list({**columns, **self.columns}))

    def fingerprint(self) -> str:
        """Return a key that is equal only for the same rows in the same order with the same labels and split.

        The contents of the files are not part of it, nor whether they are packed in an archive.
        """
        columns = (
            self.ids.astype("<u8"),
            self.labels.astype("|u1" if self.task is Task.MULTI_LABEL else "<i8"),
            self.split.astype("<U5"),
        )
        hashes = [sha256_bytes(column.tobytes()) for column in columns]
        return content_key(len(self), hashes, list(self.classes), str(self.task))

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
