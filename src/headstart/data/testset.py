"""A test set of its own, with labels or without, beside the pictures to learn from."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.data.classes import encode_labels
from headstart.data.remote import is_remote
from headstart.data.samples import Samples, shown
from headstart.data.scan import list_pictures
from headstart.errors import DataError, UsageError
from headstart.types import Task


def read_test_set(path: str | os.PathLike[str], classes: tuple[str, ...]) -> Samples:
    """List a folder of test pictures: labelled where its folders are called as classes, else without labels.

    Raises `InputMissingError` where there are none, and `DataError` UNKNOWN_CLASS where only some of its
    folders are called as classes are.
    """
    root, paths, skipped = list_pictures(path)
    tops = [path.split("/", 1)[0] if "/" in path else "" for path in paths]
    labelled = any(top in classes for top in tops)
    labels = encode_labels(tops if labelled else [""] * len(paths), classes)
    return Samples(
        root=root,
        paths=tuple(paths),
        labels=labels.values,
        classes=classes,
        split=np.full(len(paths), "test", "<U5"),
        skipped={why: count for why, count in sorted(skipped.items()) if count},
    )


def with_test_set(samples: Samples, test: Samples) -> Samples:
    """Return `samples` with the rows of `test` behind them, as their test part.

    Classes are matched by name. Ids of `samples` stay as they are; those of `test` are made of the name of
    its folder too, so that "1.jpg" here and "1.jpg" there are two pictures. Raises `UsageError` where there
    is a test part already, and `DataError` UNKNOWN_CLASS for a class that `samples` has not, NO_LABEL for
    pictures without tags where tags are learned.
    """
    if np.any(samples.split == "test"):
        raise UsageError("there is a test part already", "leave one of the two test sets out")
    root, (here, there) = _common(samples, test)
    names = [
        *(samples.names or samples.paths),
        *(f"{test.root.name}/{name}" for name in test.names or test.paths),
    ]
    places = _places(samples), _places(test)
    whole = samples.offset is None and test.offset is None
    return replace(
        samples,
        root=root,
        paths=(*here, *there),
        names=tuple(names),
        labels=np.concatenate([samples.labels, _matched(samples, test)]),
        split=np.concatenate([samples.split, np.full(len(test), "test", "<U5")]),
        offset=None if whole else np.concatenate([places[0][0], places[1][0]]),
        length=None if whole else np.concatenate([places[0][1], places[1][1]]),
        group=None if samples.group is None else _grouped(samples.group, test),
        columns=_columns(samples, test),
        notes=(*samples.notes, *test.notes),
    )


def _columns(samples: Samples, test: Samples) -> dict[str, NDArray[np.object_]]:
    """Return the other columns of both; cells of a column that one of them has not are empty."""
    names = list({**samples.columns, **test.columns})
    empty = [np.full(len(part), "", object) for part in (samples, test)]
    return {
        name: np.concatenate([samples.columns.get(name, empty[0]), test.columns.get(name, empty[1])])
        for name in names
    }


def _matched(samples: Samples, test: Samples) -> NDArray[Any]:
    """Return the test labels as positions in the classes of `samples`."""
    if samples.task is Task.MULTI_LABEL and test.task is not Task.MULTI_LABEL:
        raise DataError(
            "the test set has no tags: without them a picture would count as one that has none",
            "give a table of its tags, or predict it afterwards with headstart predict",
            code="NO_LABEL",
        )
    if samples.task is not test.task:
        raise UsageError("the test set has tags, the pictures to learn from have classes")
    unknown = [name for name in test.classes if name not in samples.classes and test.counts()[name]]
    if unknown:
        raise DataError(
            f"class {', '.join(map(shown, unknown[:5]))} is in the test set but not in train",
            f"classes are matched by name; train has {', '.join(map(shown, samples.classes[:8]))}",
            code="UNKNOWN_CLASS",
        )
    position = {name: number for number, name in enumerate(samples.classes)}
    numbers = np.array([position.get(name, -1) for name in test.classes], np.int64)
    if samples.task is Task.SINGLE_LABEL:
        return np.asarray(np.append(numbers, -1)[test.labels], np.int64)
    labels = np.zeros((len(test), len(samples.classes)), np.uint8)
    known = numbers >= 0
    labels[:, numbers[known]] = test.labels[:, known]
    return labels


def _common(samples: Samples, test: Samples) -> tuple[Path, tuple[list[str], list[str]]]:
    """Return a folder that holds both, and the paths relative to it."""
    if samples.root == test.root:
        return samples.root, (list(samples.paths), list(test.paths))
    root = Path(os.path.commonpath([samples.root, test.root]))

    def moved(part: Samples) -> list[str]:
        before = Path(os.path.relpath(part.root, root)).as_posix()
        return [path if is_remote(path) or before == "." else f"{before}/{path}" for path in part.paths]

    return root, (moved(samples), moved(test))


def _places(samples: Samples) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return offset and length of each row: those of whole files are their sizes."""
    if samples.offset is not None and samples.length is not None:
        return samples.offset, samples.length
    sizes = np.zeros(len(samples), np.int64)
    for row, path in enumerate(samples.paths):
        if is_remote(path):
            raise UsageError("remote pictures and archives cannot be put together", "pack both into shards")
        file = samples.file(row)
        sizes[row] = file.stat().st_size if file.is_file() else 0
    return np.zeros(len(samples), np.int64), sizes


def _grouped(group: NDArray[np.int64], test: Samples) -> NDArray[np.int64]:
    """Return the groups of both; those of the test set are its own."""
    after = int(group.max(initial=-1)) + 1
    own = (
        np.arange(len(test), dtype=np.int64) if test.group is None else test.group - test.group.min(initial=0)
    )
    return np.concatenate([group, after + own])
