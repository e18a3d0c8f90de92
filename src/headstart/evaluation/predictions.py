"""Predictions: the one table that every metric, plot and report is a function of."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.errors import ConfigError, InputMissingError, UsageError
from headstart.storage import write_atomic
from headstart.types import Task

if TYPE_CHECKING:
    import pandas

UNPREDICTED = "NO_PREDICTION"
"""The status of a row that was read from a file without figures."""

_FIRST_COLUMNS = ("path", "split", "label", "prediction", "probability")
# What a table has between those and the probabilities where the model decides such things.
_DECISIONS = ("status", "none_of_these", "strangeness", "set")
_SMALLEST_PROBABILITY = 1e-37  # the logarithm of anything smaller says nothing in float32


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says about some pictures, one row each, with the truth where it is known.

    `logits`: float32 (rows, classes), before temperature. `targets`: int64 class numbers (rows,)
    with -1 for unknown, or uint8 (rows, classes) of tags; None where no row has a label.
    `paths` and `split` name the pictures and the part they belong to. `index` holds the row
    numbers in the `Samples` that the rows came from. `status` is empty for a row that was
    predicted, else the reason code for which it was not; such rows are in the table and in no
    metric. `temperature` divides the logits; `thresholds` (classes,) or (rows, classes) decide about
    tags (0.5 each where None). `scaling` (2, classes): what each class's logit is multiplied by after
    that, and what is added. `sets` (rows, classes): the classes that a picture may be of (see
    `conformal`); `strangeness` (rows,): how unlike the pictures the model learned from one is, 0 …, above
    1 none of its classes (see `novelty`).

    Raises `UsageError` where the shapes do not belong together.

    >>> table = Predictions([[2.0, 0.0], [0.5, 1.5]], ("cat", "dog"), targets=[0, 0])
    >>> table.predicted_labels()
    ['cat', 'dog']
    >>> table.confidence.round(2).tolist()
    [0.88, 0.73]
    """

    logits: NDArray[np.float32]
    classes: tuple[str, ...]
    task: Task = Task.SINGLE_LABEL
    targets: NDArray[Any] | None = None
    paths: tuple[str, ...] | None = None
    split: NDArray[np.str_] | None = None
    index: NDArray[np.int64] | None = None
    status: NDArray[np.str_] | None = None
    temperature: float = 1.0
    thresholds: NDArray[np.float64] | None = None
    scaling: NDArray[np.float64] | None = None
    sets: NDArray[np.bool_] | None = None
    strangeness: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        logits = np.asarray(self.logits, dtype=np.float32)
        if logits.ndim != 2 or logits.shape[1] != len(self.classes):
            raise UsageError(f"logits of shape {logits.shape} do not fit {len(self.classes)} classes")
        count = len(logits)
        single = self.task is Task.SINGLE_LABEL
        fixed: dict[str, Any] = {
            "logits": logits,
            "classes": tuple(self.classes),
            "targets": _column(self.targets, "targets", np.int64 if single else np.uint8),
            "paths": None if self.paths is None else tuple(self.paths),
            "split": _column(self.split, "split", np.str_),
            "index": np.arange(count) if self.index is None else _column(self.index, "index", np.int64),
            "status": np.full(count, "") if self.status is None else _column(self.status, "status", np.str_),
            "thresholds": _column(self.thresholds, "thresholds", np.float64),
            "scaling": _column(self.scaling, "scaling", np.float64),
            "sets": _column(self.sets, "sets", np.bool_),
            "strangeness": _column(self.strangeness, "strangeness", np.float64),
        }
        shapes: dict[str, tuple[int, ...]]
        shapes = dict.fromkeys(("split", "index", "status", "strangeness"), (count,))
        shapes |= {"scaling": (2, len(self.classes)), "sets": logits.shape}
        shapes["targets"] = (count,) if single else logits.shape
        each_row = fixed["thresholds"] is not None and fixed["thresholds"].ndim == 2
        shapes["thresholds"] = logits.shape if each_row else (len(self.classes),)
        for name, shape in shapes.items():
            if fixed[name] is not None and fixed[name].shape != shape:
                raise UsageError(f"{name} of shape {fixed[name].shape} do not fit; {shape} is needed")
        if fixed["paths"] is not None and len(fixed["paths"]) != count:
            raise UsageError(f"{len(fixed['paths'])} paths do not fit {count} rows")
        if single and fixed["targets"] is not None and np.any(fixed["targets"] >= len(self.classes)):
            most = fixed["targets"].max()
            raise UsageError(f"a target is {most}, but there are {len(self.classes)} classes")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UsageError(f"temperature {self.temperature} is not a positive number")
        for name, value in fixed.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def rows(self) -> NDArray[np.int64]:
        """The row numbers in the `Samples` that these predictions came from: int64 (rows,)."""
        assert self.index is not None  # set in __post_init__
        return self.index

    @property
    def statuses(self) -> NDArray[np.str_]:
        """The reason code of each row that was not predicted, else empty: str (rows,)."""
        assert self.status is not None  # set in __post_init__
        return self.status

    @cached_property
    def predicted_rows(self) -> NDArray[np.bool_]:
        """Whether each row was predicted, that is, has no error status: bool (rows,)."""
        return np.asarray(self.statuses == "", dtype=np.bool_)

    @cached_property
    def scored_rows(self) -> NDArray[np.bool_]:
        """Whether each row was predicted and has a known truth: bool (rows,)."""
        if self.targets is None:
            return np.zeros(len(self), dtype=np.bool_)
        if self.task is Task.MULTI_LABEL:
            return self.predicted_rows
        return self.predicted_rows & (self.targets >= 0)

    @property
    def scaled_logits(self) -> NDArray[np.float64]:
        """The logits over the temperature, and scaled by class where there is such a scaling."""
        scaled = self.logits.astype(np.float64) / self.temperature
        return scaled if self.scaling is None else scaled * self.scaling[0] + self.scaling[1]

    @cached_property
    def log_probabilities(self) -> NDArray[np.float64]:
        """Logarithms of `probabilities`, float64 (rows, classes), exact where those round to 0."""
        scaled = self.scaled_logits
        if self.task is Task.MULTI_LABEL:
            with np.errstate(invalid="ignore"):
                result = -np.logaddexp(0.0, -scaled)
        else:
            with np.errstate(invalid="ignore"):
                shifted = scaled - scaled.max(axis=1, keepdims=True, initial=-np.inf)
                result = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        result[~self.predicted_rows] = np.nan
        return np.asarray(result)

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """Softmax (tags: sigmoid) of the logits over the temperature, float64 (rows, classes).

        NaN in rows that were not predicted and in rows whose logits are not finite.
        """
        return np.exp(self.log_probabilities)

    @cached_property
    def predicted(self) -> NDArray[Any]:
        """The most probable class, int64 (rows,), -1 where there is none; for tags uint8 decisions.

        Of equally probable classes the first one counts.
        """
        if self.task is Task.MULTI_LABEL:
            thresholds = 0.5 if self.thresholds is None else self.thresholds
            return np.asarray(self.probabilities >= thresholds, dtype=np.uint8)
        if not self.classes:
            return np.full(len(self), -1)
        usable = ~np.isnan(self.probabilities).any(axis=1)
        ranked = self.logits if self.scaling is None else self.scaled_logits
        return np.where(usable, ranked.argmax(axis=1), -1)

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """The probability of the most probable class, float64 (rows,)."""
        return np.asarray(self.probabilities.max(axis=1, initial=0.0))

    @cached_property
    def none_of_these(self) -> NDArray[np.bool_]:
        """Whether each picture is of none of the classes, bool (rows,); False where nothing says so."""
        if self.strangeness is None:
            return np.zeros(len(self), dtype=np.bool_)
        return np.asarray(self.strangeness > 1.0)

    @cached_property
    def loss(self) -> NDArray[np.float64]:
        """The log loss of each row, float64 (rows,), in nats; for tags the mean over the tags.

        NaN where the truth is unknown or the row was not predicted.
        """
        if self.targets is None:
            return np.full(len(self), np.nan)
        if self.task is Task.MULTI_LABEL:
            scaled = self.scaled_logits
            with np.errstate(invalid="ignore"):
                each = np.logaddexp(0.0, np.where(self.targets == 1, -scaled, scaled))
            return np.where(self.scored_rows, each.mean(axis=1), np.nan)
        truth = np.take_along_axis(self.log_probabilities, np.maximum(self.targets, 0)[:, None], axis=1)
        return np.where(self.scored_rows, -truth[:, 0], np.nan)

    def take(self, rows: ArrayLike) -> Predictions:
        """Return the given rows (numbers, or a bool for each row), in the given order."""
        chosen = np.asarray(rows)
        numbers = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64)
        return replace(
            self,
            logits=self.logits[numbers],
            targets=None if self.targets is None else self.targets[numbers],
            paths=None if self.paths is None else tuple(self.paths[row] for row in numbers),
            split=None if self.split is None else self.split[numbers],
            index=self.rows[numbers],
            status=self.statuses[numbers],
            thresholds=_rows_of(self.thresholds, numbers),
            sets=None if self.sets is None else self.sets[numbers],
            strangeness=None if self.strangeness is None else self.strangeness[numbers],
        )

    def part(self, split: str) -> Predictions:
        """Return the rows of one part ("train", "valid", "test"); none where no split is known."""
        if self.split is None:
            return self.take(np.zeros(len(self), dtype=np.bool_))
        return self.take(self.split == split)

    def scored(self) -> Predictions:
        """Return the rows that were predicted and have a known truth."""
        return self if bool(self.scored_rows.all()) else self.take(self.scored_rows)

    def with_temperature(self, temperature: float) -> Predictions:
        """Return the same table with another temperature."""
        return replace(self, temperature=temperature)

    def with_scaling(self, scaling: ArrayLike | None) -> Predictions:
        """Return the same table with another scaling of its classes: (2, classes), or None for none."""
        return replace(self, scaling=None if scaling is None else np.asarray(scaling))

    def with_thresholds(self, thresholds: ArrayLike | None) -> Predictions:
        """Return the same table with other thresholds for its tags: (classes,), or None for 0.5 each."""
        return replace(self, thresholds=None if thresholds is None else np.asarray(thresholds))

    def labels(self) -> list[str]:
        """Return the name of each row's truth; empty where unknown; tags as a JSON list."""
        return self._names(self.targets, self.scored_rows)

    def predicted_labels(self) -> list[str]:
        """Return the name of each row's prediction; empty where there is none; tags as a JSON list."""
        return self._names(self.predicted, self.predicted_rows)

    def _names(self, values: NDArray[Any] | None, known: NDArray[np.bool_]) -> list[str]:
        if values is None:
            return [""] * len(self)
        if self.task is Task.MULTI_LABEL:
            return [_tag_text(row, self.classes) if ok else "" for row, ok in zip(values, known, strict=True)]
        return [
            self.classes[int(value)] if ok and value >= 0 else ""
            for value, ok in zip(values, known, strict=True)
        ]

    def to_frame(self, top: int | None = None) -> pandas.DataFrame:
        """Return a pandas DataFrame with the columns of `to_csv`; figures are NaN where unknown.

        With `top`, the names and probabilities of so many classes, the most probable first, in place of the
        probability of each, and the `status` of each row (see `columns_of`).
        """
        import pandas

        if top is not None:
            from headstart.evaluation.columns import columns_of

            return pandas.DataFrame(columns_of(self, top=top))
        single = self.task is Task.SINGLE_LABEL
        columns: dict[str, Any] = {
            "path": list(self.paths or [""] * len(self)),
            "split": [""] * len(self) if self.split is None else self.split.tolist(),
            "label": self.labels(),
            "prediction": self.predicted_labels(),
            "probability": self.confidence if single else np.full(len(self), np.nan),
        }
        named = {f"p_{name}": self.probabilities[:, number] for number, name in enumerate(self.classes)}
        return pandas.DataFrame({**columns, **self._decisions(), **named})

    def to_csv(self, path: Path) -> None:
        """Write `path,split,label,prediction,probability,p_<class>…` as UTF-8, atomically.

        Probabilities have nine significant digits. Rows that were not predicted keep empty
        figures. Tags are written as JSON lists, and have no single probability. Bytes of a path
        that are not UTF-8 are written as `\\udcXX`.
        """
        stream = io.StringIO(newline="")
        # Before Python 3.13 the writer leaves a carriage return bare, where readers see a new row.
        returns = any("\r" in text for text in (*self.classes, *(self.paths or ())))
        writer = csv.writer(
            stream, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
        )
        decisions = self._decisions()
        writer.writerow([*_FIRST_COLUMNS, *decisions, *(f"p_{name}" for name in self.classes)])
        single = self.task is Task.SINGLE_LABEL
        splits = [""] * len(self) if self.split is None else self.split.tolist()
        words = zip(
            self.paths or [""] * len(self), splits, self.labels(), self.predicted_labels(), strict=True
        )
        decided = zip(*decisions.values(), strict=True) if decisions else iter([()] * len(self))
        every = zip(words, self.probabilities.tolist(), self.confidence.tolist(), decided, strict=True)
        for first, row, best, own in every:
            figures = [_figure(value) for value in row]
            writer.writerow([*first, _figure(best) if single else "", *own, *figures])
        write_atomic(Path(path), stream.getvalue().encode("utf-8", errors="backslashreplace"))

    def _decisions(self) -> dict[str, list[str]]:
        """The columns of `_DECISIONS` that there are, as text."""
        columns: dict[str, list[str]] = {}
        if self.strangeness is not None:
            known = self.predicted_rows
            said = np.where(self.none_of_these, "yes", "no")
            columns["none_of_these"] = np.where(known, said, "").tolist()
            columns["strangeness"] = [_figure(value) for value in self.strangeness.tolist()]
        if self.sets is not None:
            columns["set"] = self.set_labels()
        return columns

    def set_labels(self) -> list[str]:
        """Return the names of each row's set as a JSON list; empty where there is none."""
        if self.sets is None:
            return [""] * len(self)
        rows = zip(self.sets, self.predicted_rows, strict=True)
        return [_tag_text(row, self.classes) if known else "" for row, known in rows]

    @classmethod
    def from_csv(cls, path: Path, *, task: Task = Task.SINGLE_LABEL) -> Predictions:
        """Read what `to_csv` wrote; the logits are the logarithms of the probabilities.

        Of tags, the thresholds are such that they give the decisions in the table.
        Raises `InputMissingError` when it cannot be read, `ConfigError` when it is no such table.
        """
        try:
            text = Path(path).read_bytes().decode("utf-8")
        except OSError as error:
            raise InputMissingError(f"{path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not UTF-8 text: {error.reason}") from error
        lines = list(csv.reader(io.StringIO(text, newline="")))
        header = tuple(lines[0]) if lines else ()
        first = len(_FIRST_COLUMNS)
        while header[first : first + 1] and header[first] in _DECISIONS:
            first += 1
        if header[:5] != _FIRST_COLUMNS or not all(name.startswith("p_") for name in header[first:]):
            wanted = ",".join((*_FIRST_COLUMNS, "p_<class>…"))
            raise ConfigError(f"{path} is not a table of predictions", f"its first line must be {wanted}")
        body = lines[1:]
        for number, line in enumerate(body, start=1):
            if len(line) != len(header):
                raise ConfigError(f"{path}, row {number}: {len(line)} fields, but {len(header)} columns")
        try:
            own = {name: [line[k] for line in body] for k, name in enumerate(header[5:first], start=5)}
            plain = [line[:5] + line[first:] for line in body]
            table = cls._from_fields(plain, tuple(name[2:] for name in header[first:]), task)
            return table._with_decisions(own)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is not a table of predictions: {error}") from error

    @classmethod
    def _from_fields(cls, lines: list[list[str]], classes: tuple[str, ...], task: Task) -> Predictions:
        columns = list(zip(*lines, strict=True)) or [()] * (5 + len(classes))
        numbers = {name: number for number, name in enumerate(classes)}
        empty = np.array([line[5:6] == [""] for line in lines], dtype=np.bool_)
        figures = [[figure or "nan" for figure in line[5:]] for line in lines]
        values = np.array(figures, dtype=np.float64).reshape(len(lines), len(classes))
        targets: NDArray[Any]
        if task is Task.SINGLE_LABEL:
            targets = np.array([numbers[name] if name else -1 for name in columns[2]], dtype=np.int64)
        else:
            targets = np.zeros((len(lines), len(classes)), dtype=np.uint8)
            for row, tags in enumerate(columns[2]):
                targets[row, [numbers[name] for name in json.loads(tags or "[]")]] = 1
        return cls(
            logits=_logits_of(values, task),
            classes=classes,
            task=task,
            targets=targets,
            paths=tuple(columns[0]),
            split=np.array(columns[1], dtype=np.str_),
            status=np.where(empty, UNPREDICTED, ""),
            thresholds=_thresholds_between(values, columns[3], numbers) if task is Task.MULTI_LABEL else None,
        )

    def _with_decisions(self, columns: Mapping[str, Sequence[str]]) -> Predictions:
        numbers = {name: number for number, name in enumerate(self.classes)}
        strangeness, sets = columns.get("strangeness"), None
        codes = columns.get("status", [""] * len(self))
        if "set" in columns:
            sets = np.zeros(self.logits.shape, dtype=np.bool_)
            for row, text in enumerate(columns["set"]):
                sets[row, [numbers[name] for name in json.loads(text or "[]")]] = True
        return replace(
            self,
            status=np.array([code or own for code, own in zip(codes, self.statuses, strict=True)], np.str_),
            sets=sets,
            strangeness=None if strangeness is None else np.array([float(s or "nan") for s in strangeness]),
        )


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """Return the rows of all tables, one after the other.

    Columns that one of the tables lacks are left out; only the truth of classes is kept where one table has
    it, and is unknown (-1) in the others. Raises `UsageError` unless classes, task,
    temperature and thresholds are the same in all.
    """
    if not parts:
        raise UsageError("there is nothing to put together")
    first = parts[0]
    for part in parts[1:]:
        same = (part.classes, part.task, part.temperature) == (first.classes, first.task, first.temperature)
        same = same and _equal(part.thresholds, first.thresholds) and _equal(part.scaling, first.scaling)
        if not same:
            raise UsageError("predictions with other classes, tasks or calibration cannot be put together")
    targets = [part.targets for part in parts if part.targets is not None]
    if targets and first.task is Task.SINGLE_LABEL:
        unknown = [np.full(len(part), -1, targets[0].dtype) for part in parts]
        targets = [
            none if part.targets is None else part.targets for part, none in zip(parts, unknown, strict=True)
        ]
    splits = [part.split for part in parts if part.split is not None]
    paths = [part.paths for part in parts if part.paths is not None]
    sets = [part.sets for part in parts if part.sets is not None]
    strange = [part.strangeness for part in parts if part.strangeness is not None]
    count = len(parts)
    return replace(
        first,
        logits=np.concatenate([part.logits for part in parts]),
        targets=np.concatenate(targets) if len(targets) == count else None,
        paths=tuple(path for part in paths for path in part) if len(paths) == count else None,
        split=np.concatenate(splits) if len(splits) == count else None,
        index=np.concatenate([part.rows for part in parts]),
        status=np.concatenate([part.statuses for part in parts]),
        sets=np.concatenate(sets) if len(sets) == count else None,
        strangeness=np.concatenate(strange) if len(strange) == count else None,
    )


def average(parts: Sequence[Predictions], weights: Sequence[float] | None = None) -> Predictions:
    """Return the ensemble: its logits are the logarithm of the mean probability (tags: its logit).

    Each table counts with its own temperature and scaling; the result has neither, nor sets. A row that
    any of them could not predict stays unpredicted. Raises `UsageError` unless all hold the same rows.
    """
    if not parts:
        raise UsageError("there is nothing to average")
    first = parts[0]
    for part in parts[1:]:
        check_same_rows(first, part)
    shares = np.ones(len(parts)) if weights is None else np.asarray(weights, dtype=np.float64)
    if shares.shape != (len(parts),) or np.any(shares < 0) or shares.sum() <= 0:
        raise UsageError(f"{len(parts)} predictions need as many weights of at least 0, not {weights}")
    shares = shares / shares.sum()
    mean = sum(share * part.probabilities for share, part in zip(shares, parts, strict=True))
    status = first.statuses
    for part in parts[1:]:
        status = np.where(status == "", part.statuses, status)
    logits = _logits_of(np.asarray(mean), first.task)
    return replace(first, logits=logits, status=status, temperature=1.0, scaling=None, sets=None)


def check_same_rows(one: Predictions, other: Predictions) -> None:
    """Raise `UsageError` unless both tables hold the same rows, classes and truth, in one order."""
    if one.classes != other.classes or one.task is not other.task:
        raise UsageError("the predictions are about different classes")
    if len(one) != len(other):
        raise UsageError(f"the predictions have different rows: {len(one)} and {len(other)}")
    if not np.array_equal(one.rows, other.rows) or not _equal(one.targets, other.targets):
        raise UsageError("the predictions are about different pictures, or in another order")


def _column(values: Any, name: str, dtype: Any) -> Any:
    if values is None:
        return None
    try:
        return np.asarray(values, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} cannot be read as {np.dtype(dtype).name}: {error}") from error


def _equal(one: NDArray[Any] | None, other: NDArray[Any] | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


def _logits_of(probabilities: NDArray[np.float64], task: Task) -> NDArray[np.float32]:
    floored = np.maximum(probabilities, _SMALLEST_PROBABILITY)
    logits = np.log(floored)
    if task is Task.MULTI_LABEL:
        logits = logits - np.log(np.maximum(1.0 - probabilities, _SMALLEST_PROBABILITY))
    return np.asarray(logits, dtype=np.float32)


def _rows_of(
    thresholds: NDArray[np.float64] | None, numbers: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    return thresholds if thresholds is None or thresholds.ndim == 1 else thresholds[numbers]


def _thresholds_between(
    probabilities: NDArray[np.float64], texts: Sequence[str], numbers: dict[str, int]
) -> NDArray[np.float64]:
    """Return thresholds (tags,) that lie between the tags that were said and those that were not.

    0.5 where that does, else the middle between the two; 0.5 too where none does.
    """
    said = np.zeros(probabilities.shape, dtype=np.bool_)
    for row, tags in enumerate(texts):
        said[row, [numbers[name] for name in json.loads(tags or "[]")]] = True
    known = ~np.isnan(probabilities)
    low = np.where(known & ~said, probabilities, 0.0).max(axis=0, initial=0.0)
    high = np.where(known & said, probabilities, 1.0).min(axis=0, initial=1.0)
    evenly = (low < 0.5) & (high >= 0.5)
    return np.where(evenly | (low >= high), 0.5, (low + high) / 2)


def _figure(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.9g}"


def _tag_text(row: NDArray[Any], classes: tuple[str, ...]) -> str:
    return json.dumps([classes[number] for number in np.flatnonzero(row)], ensure_ascii=False)
