"""Class names: their order, the checks on them, and labels as text turned into numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.data.samples import shown
from headstart.errors import DataError, UsageError
from headstart.types import Task


def natural(name: str) -> tuple[list[str | int], str]:
    """Return a sort key under which "class 9" comes before "class 10", whatever the case."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], name


def refuse_twins(names: Iterable[str]) -> None:
    """Raise `DataError` TWIN_CLASSES for names that differ only in how their accents are encoded."""
    seen: dict[str, str] = {}
    for name in names:
        twin = seen.setdefault(unicodedata.normalize("NFC", name), name)
        if twin != name:
            raise DataError(
                f"two classes are both called {shown(name)}, with accents encoded in two ways",
                f"rename one: {twin!a} and {name!a}",
                code="TWIN_CLASSES",
            )


def case_twins(classes: Iterable[str]) -> list[str]:
    """Return a note for each pair of classes that differ only in case."""
    seen: dict[str, str] = {}
    notes = []
    for name in classes:
        twin = seen.setdefault(name.casefold(), name)
        if twin != name:
            notes.append(f"{shown(twin)} and {shown(name)} differ only in case and are two classes")
    return notes


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of N rows as numbers.

    `values`: int64 (N,), a position in `classes` or -1 where there is none; for tags uint8
    (N, classes). `fixed`: the classes were given, so that those without rows stay.
    """

    values: NDArray[Any]
    classes: tuple[str, ...]
    task: Task = Task.SINGLE_LABEL
    fixed: bool = False

    def take(self, rows: NDArray[np.int64]) -> Labels:
        """Return the labels of `rows`, over the same classes."""
        return replace(self, values=self.values[rows])

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Where there is no label, bool (N,); no tags are a label of their own."""
        if self.task is Task.MULTI_LABEL:
            return np.zeros(len(self.values), np.bool_)
        return np.asarray(self.values < 0)

    def counts(self, rows: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Return how many of `rows` (a mask) have each class, int64 (classes,)."""
        values = self.values if rows is None else self.values[rows]
        if self.task is Task.MULTI_LABEL:
            return np.asarray(values.sum(axis=0, dtype=np.int64))
        return np.bincount(values[values >= 0], minlength=len(self.classes)).astype(np.int64)

    def only(self, keep: NDArray[np.bool_]) -> Labels:
        """Return the labels over the classes that `keep` (a mask) names; labels of others go away."""
        classes = tuple(name for name, kept in zip(self.classes, keep.tolist(), strict=True) if kept)
        if self.task is Task.MULTI_LABEL:
            return replace(self, values=np.ascontiguousarray(self.values[:, keep]), classes=classes)
        numbers = np.where(keep, np.cumsum(keep) - 1, -1).astype(np.int64)
        return replace(self, values=np.append(numbers, -1)[self.values], classes=classes)

    def names_of(self, row: int) -> str:
        """Return one row's label in words, for messages."""
        if self.task is Task.MULTI_LABEL:
            return " ".join(self.classes[k] for k in np.flatnonzero(self.values[row])) or "(no tags)"
        return self.classes[self.values[row]] if self.values[row] >= 0 else "(no label)"


def _distinct(texts: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """Return the number of each text's kind, and the kinds in order of appearance."""
    import pandas as pd

    codes, kinds = pd.factorize(np.array(texts, dtype=object))
    return np.asarray(codes, np.int64), [str(kind) for kind in kinds]


def _order(found: Iterable[str], classes: Sequence[str] | None) -> tuple[str, ...]:
    """Return the classes in natural order, or those given, which must hold all that were found."""
    if classes is None:
        return tuple(sorted(set(found), key=natural))
    if len(set(classes)) < len(classes):
        raise UsageError("a class is given twice", "give each class once")
    unknown = sorted(set(found) - set(classes), key=natural)
    if unknown:
        raise DataError(
            f"class {', '.join(map(shown, unknown[:5]))} is not among the {len(classes)} that were given",
            f"the given classes are {', '.join(map(shown, classes[:8]))}",
            code="UNKNOWN_CLASS",
        )
    return tuple(classes)


def encode_labels(texts: Sequence[str], classes: Sequence[str] | None = None) -> Labels:
    """Turn one label a row, as text ("" where there is none), into numbers.

    Nothing about a label is changed, so that "01" and "1" are two classes. The classes are in natural order
    of their names, or `classes` as given. Raises `DataError` UNKNOWN_CLASS for a label that is not among the
    given ones.
    """
    codes, names = _distinct(texts)
    order = _order((name for name in names if name), classes)
    position = {name: number for number, name in enumerate(order)}
    numbers = np.array([position.get(name, -1) for name in names], np.int64)
    values = numbers[codes] if len(codes) else np.zeros(0, np.int64)
    return Labels(values, order, fixed=classes is not None)


def encode_tags(texts: Sequence[str], delimiter: str, classes: Sequence[str] | None = None) -> Labels:
    """Turn text that holds a row's tags, separated by `delimiter`, into 0 and 1 for each tag.

    Space around a tag is not part of it. Empty text is a row with no tags, a valid negative. The order is as
    in `encode_labels`.
    """
    if not delimiter:
        raise UsageError("the label delimiter is empty", "give what separates the tags, such as ' ' or ','")
    codes, kinds = _distinct(texts)
    tags = [[tag.strip() for tag in kind.split(delimiter)] for kind in kinds]
    by_kind = encode_tag_lists(tags, classes)
    return by_kind.take(codes)


def encode_tag_lists(rows: Sequence[Sequence[str]], classes: Sequence[str] | None = None) -> Labels:
    """Turn a list of tags for each row into 0 and 1 for each tag, as `encode_tags` does."""
    order = _order((tag for row in rows for tag in row if tag), classes)
    position = {name: number for number, name in enumerate(order)}
    values = np.zeros((len(rows), len(order)), np.uint8)
    for number, row in enumerate(rows):
        values[number, [position[tag] for tag in row if tag]] = 1
    return Labels(values, order, Task.MULTI_LABEL, fixed=classes is not None)


def no_labels(count: int) -> Labels:
    """Return the labels of rows that have none and need none: pictures to predict."""
    return Labels(np.full(count, -1, np.int64), (), fixed=True)
