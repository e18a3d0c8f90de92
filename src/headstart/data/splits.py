"""Which pictures train, which validate, which test: by a hash of each picture's own id."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.data.grouping import merge_groups
from headstart.data.samples import Samples, shown
from headstart.data.stratify import Tallies, stratify
from headstart.errors import DataError, UsageError
from headstart.types import Task

_MOST_MIXED = 0.05


def split_samples(
    samples: Samples,
    *,
    valid: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    groups: NDArray[np.int64] | None = None,
) -> Samples:
    """Return the samples with every labelled row in "train", "valid" or "test".

    Within each class the pictures are ranked by a hash of (seed, id); the first go to test, the last
    to valid. So the split does not depend on the order of the rows, each part has each class within
    one of its share, and an added picture moves at most one other of its class across each boundary.
    Every class keeps a picture for training, and one of two or more gives at least one to valid. Rows
    of one group (`groups`, else `samples.group`) stay together, and count for the class that most of
    them have. Tags, and groups that hold several classes (more than 5 % of the rows), are split by
    iterative stratification instead (see `stratify`), in the order of the same hashes: each tag then
    has about its share in each part, and keeps a picture for training.

    A train and valid given by the source are kept; where valid is missing it is cut from train. `test`
    is cut first, unless the source has test rows with labels.

    Raises `UsageError` for fractions that leave no training rows and `DataError` (TOO_FEW) when no
    class has two pictures.
    """
    if not (0 <= valid < 1 and 0 <= test < 1 and valid + test < 1):
        raise UsageError(
            f"valid={valid} and test={test} are not parts of one whole",
            "give fractions from 0 up, whose sum is below 1",
        )
    column = _column(samples, groups)
    split = samples.split.copy()
    labelled = _labelled(samples)
    if np.any(labelled & (split == "test")):
        test = 0.0
    if np.any(split == "valid"):
        valid = 0.0
    cuttable = labelled & ((split == "") | (split == "train"))
    split[cuttable] = "train"
    notes: list[str] = []
    if valid or test:
        units = _Units.of(samples, np.flatnonzero(cuttable), column, seed)
        _cut(samples, split, units, (valid, test))
        notes += _not_validated(samples, split, np.flatnonzero(cuttable))
    if valid and not np.any(split == "valid"):
        raise DataError(
            "there are too few pictures to validate: no class has two that differ",
            "add pictures: at least two for each class, better twenty",
            code="TOO_FEW",
        )
    if column is not None:
        notes += _straddling(split, column)
    return samples.with_split(split, notes=tuple(notes))


def split_apart(
    samples: Samples, copies: NDArray[np.int64], *, valid: float = 0.2, test: float = 0.0, seed: int = 0
) -> Samples:
    """Split as `split_samples` does, rows that show one picture (of one number in `copies`) staying together.

    Where no class has two pictures that differ, that leaves nothing to validate with: then copies are split
    like other pictures, and a note says what the scores are worth. Groups that the source gives are kept
    together in any case. Raises as `split_samples` does.
    """
    try:
        return split_samples(
            samples, valid=valid, test=test, seed=seed, groups=merge_groups(samples.group, copies)
        )
    except DataError as error:
        if error.code != "TOO_FEW":
            raise
        try:
            split = split_samples(samples, valid=valid, test=test, seed=seed)
        except DataError:
            raise error from None
    different = len(np.unique(copies))
    what = (
        f"all {len(samples)} pictures are one and the same"
        if different == 1
        else f"no class has two pictures that differ ({len(samples)} pictures, {different} different ones)"
    )
    note = f"{what}: copies train and validate alike, so the scores mean nothing; add other pictures"
    return split.with_split(split.split, notes=(note,))


def folds(
    samples: Samples, k: int, *, seed: int = 0, groups: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return the fold of each row, 0 … k - 1, int64 (N,); -1 for rows without a label.

    Each class (each tag) is spread evenly: without groups its counts in two folds differ by one at
    most. Rows of one group (`groups`, else `samples.group`) are in one fold. Like the split, the folds
    depend on (seed, ids) and not on the order of the rows. Raises `UsageError` for fewer than two
    folds and `DataError` (TOO_FEW) where there are fewer pictures, or groups of them, than folds.
    """
    if k < 2:
        raise UsageError(f"{k} folds are no folds", "give 2 or more, such as 5")
    column = _column(samples, groups)
    units = _Units.of(samples, np.flatnonzero(_labelled(samples)), column, seed)
    if len(units.rows) < k:
        raise DataError(
            f"{len(units.rows)} pictures (or groups of them) cannot be spread over {k} folds",
            "add pictures, or take fewer folds",
            code="TOO_FEW",
        )
    part = stratify(units.tallies, units.sizes, [1 / k] * k, units.order)
    fold = np.full(len(samples), -1, np.int64)
    for members, number in zip(units.rows, part.tolist(), strict=True):
        fold[members] = number
    return fold


@dataclass(frozen=True, eq=False)
class _Units:
    """What is moved as one: a row, or all rows of a group.

    `rows`: their row numbers. `ranks`: the least of their rows' hashes. `tallies`: how many of their rows
    have each label.
    """

    rows: list[list[int]]
    ranks: list[bytes]
    tallies: Tallies

    @classmethod
    def of(
        cls, samples: Samples, rows: NDArray[np.int64], groups: NDArray[np.int64] | None, seed: int
    ) -> _Units:
        ids = samples.ids.tolist()
        members: dict[int, list[int]] = defaultdict(list)
        for row in rows.tolist():
            members[row if groups is None else int(groups[row])].append(row)
        units = list(members.values())
        number = np.repeat(np.arange(len(units)), [len(unit) for unit in units])
        flat = np.array([row for unit in units for row in unit], np.int64)
        if samples.task is Task.MULTI_LABEL:
            place, label = np.nonzero(samples.labels[flat])
            tallies = Tallies.of(number[place], label, len(units))
        else:
            tallies = Tallies.of(number, samples.labels[flat], len(units))
        return cls(units, [min(_rank(seed, ids[row]) for row in unit) for unit in units], tallies)

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.array([len(unit) for unit in self.rows], np.int64)

    @property
    def order(self) -> list[int]:
        return sorted(range(len(self.rows)), key=lambda unit: self.ranks[unit])

    @property
    def mixed(self) -> float:
        """The share of the rows whose unit has rows of another class."""
        return float(self.sizes[self.tallies.several].sum() / max(1, self.sizes.sum()))


def _column(samples: Samples, groups: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    chosen = samples.group if groups is None else groups
    return None if chosen is None else merge_groups(chosen)


def _labelled(samples: Samples) -> NDArray[np.bool_]:
    if samples.task is Task.MULTI_LABEL:
        return np.ones(len(samples), np.bool_)
    return np.asarray(samples.labels >= 0)


def _rank(seed: int, identity: int) -> bytes:
    return hashlib.blake2b(identity.to_bytes(8, "little"), key=str(seed).encode(), digest_size=8).digest()


def _cut(samples: Samples, split: NDArray[np.str_], units: _Units, shares: tuple[float, float]) -> None:
    """Move rows from train to valid and test, in place."""
    if samples.task is Task.MULTI_LABEL or units.mixed > _MOST_MIXED:
        parts = _by_label(units, shares)
    else:
        parts = _by_rank(units, shares)
    _keep_every_label_in_train(units, parts)
    for name in ("valid", "test"):
        for unit in np.flatnonzero(parts == name).tolist():
            split[units.rows[unit]] = name


def _by_rank(units: _Units, shares: tuple[float, float]) -> NDArray[np.str_]:
    """Cut each class at its ranks; return the part of each unit."""
    valid, test = shares
    parts = np.full(len(units.rows), "train", "<U5")
    sizes = units.sizes
    strata: dict[int, list[int]] = defaultdict(list)
    most = units.tallies.most.tolist()
    for unit in units.order:
        strata[most[unit]].append(unit)
    for ranked in strata.values():
        total = int(sizes[ranked].sum())
        to_test = _prefix(sizes[ranked], total * test, spare=2 if valid else 1, least=3 if valid else 2)
        rest = ranked[to_test:]
        to_valid = _prefix(sizes[rest[::-1]], total * valid, spare=1, least=2)
        parts[ranked[:to_test]] = "test"
        parts[rest[len(rest) - to_valid :]] = "valid"
    return parts


def _by_label(units: _Units, shares: tuple[float, float]) -> NDArray[np.str_]:
    """Hand the units out by iterative stratification; return the part of each."""
    valid, test = shares
    names = np.array(["train", "valid", "test"], "<U5")
    part = stratify(units.tallies, units.sizes, (1 - valid - test, valid, test), units.order)
    # A part that is to have something has one unit at least, from those whose labels train can spare.
    for number, share in ((1, valid), (2, test)):
        if share and not np.any(part == number):
            in_train = units.tallies.totals(part == 0)
            spare = [unit for unit in units.order if part[unit] == 0 and _spared(units, unit, in_train)]
            part[spare[-1:]] = number
    return np.asarray(names[part])


def _spared(units: _Units, unit: int, in_train: Counter[int]) -> bool:
    return all(in_train[label] > count for label, count in units.tallies.labels(unit))


def _prefix(sizes: NDArray[np.int64], ideal: float, *, spare: int, least: int) -> int:
    """Return how many leading units come nearest to `ideal` rows, leaving `spare` units.

    At least one is taken where there are `least` units or more and something is to be taken.
    """
    if not ideal or len(sizes) < least:
        return 0
    sums = np.concatenate([[0], np.cumsum(sizes)])
    nearest = int(np.argmin(np.abs(sums - ideal)))
    return min(max(1, nearest), len(sizes) - spare)


def _keep_every_label_in_train(units: _Units, parts: NDArray[np.str_]) -> None:
    """Bring units back whose labels the cut left without a training row, in place: the smallest, by rank."""
    in_train = units.tallies.totals(parts == "train")
    for label in sorted(units.tallies.totals(np.ones(len(parts), np.bool_))):
        if in_train[label]:
            continue
        holders = units.tallies.holders(label).tolist()
        back = min(holders, key=lambda unit: (len(units.rows[unit]), units.ranks[unit]))
        parts[back] = "train"
        in_train.update(dict(units.tallies.labels(back)))


def _not_validated(samples: Samples, split: NDArray[np.str_], rows: NDArray[np.int64]) -> list[str]:
    """Name the classes that train has and valid has not."""
    if samples.task is Task.MULTI_LABEL:
        validating = samples.labels[split == "valid"].sum(0) > 0
        present = samples.labels[rows].sum(0) > 0
    else:
        validating = np.isin(np.arange(len(samples.classes)), samples.labels[split == "valid"])
        present = np.isin(np.arange(len(samples.classes)), samples.labels[rows])
    single = [samples.classes[k] for k in np.flatnonzero(present & ~validating).tolist()]
    if not single or not validating.any():
        return []
    names = ", ".join(map(shown, single[:5])) + (", …" if len(single) > 5 else "")
    return [f"too few pictures to validate on, all used for training: class {names}"]


def _straddling(split: NDArray[np.str_], groups: NDArray[np.int64]) -> list[str]:
    """Say how many rows of valid and test belong to a group that train has too."""
    training = np.unique(groups[split == "train"])
    shared = {name: int(np.isin(groups[split == name], training).sum()) for name in ("valid", "test")}
    return [
        f"{name} has {count} pictures that train has too, or others of their group: its score flatters"
        for name, count in shared.items()
        if count
    ]
