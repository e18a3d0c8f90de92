"""Which pictures train, which validate, which test: by a hash of each picture's own id."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from headstart.data.samples import Samples, shown
from headstart.errors import DataError, UsageError
from headstart.types import Task


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
    of one group (`groups`, else `samples.group`) stay together; a group counts for the class of its
    first row. A train and valid given by the source are kept; where valid is missing it is cut from
    train. `test` is cut first, unless the source has test rows with labels. Tags are stratified by
    their combination.

    Raises `UsageError` for fractions that leave no training rows and `DataError` (TOO_FEW) when no
    class has two pictures.
    """
    if not (0 <= valid < 1 and 0 <= test < 1 and valid + test < 1):
        raise UsageError(
            f"valid={valid} and test={test} are not parts of one whole",
            "give fractions from 0 up, whose sum is below 1",
        )
    column = samples.group if groups is None else np.asarray(groups, np.int64)
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
        notes += _cut(samples, split, np.flatnonzero(cuttable), column, (valid, test), seed)
    if valid and not np.any(split == "valid"):
        raise DataError(
            "there are too few pictures to validate: no class has two that differ",
            "add pictures: at least two for each class, better twenty",
            code="TOO_FEW",
        )
    if column is not None:
        notes += _straddling(split, column)
    return samples.with_split(split, notes=tuple(notes))


def _labelled(samples: Samples) -> NDArray[np.bool_]:
    if samples.task is Task.MULTI_LABEL:
        return np.ones(len(samples), np.bool_)
    return np.asarray(samples.labels >= 0)


def _rank(seed: int, identity: int) -> bytes:
    return hashlib.blake2b(identity.to_bytes(8, "little"), key=str(seed).encode(), digest_size=8).digest()


def _cut(
    samples: Samples,
    split: NDArray[np.str_],
    rows: NDArray[np.int64],
    groups: NDArray[np.int64] | None,
    shares: tuple[float, float],
    seed: int,
) -> list[str]:
    """Move rows from train to valid and test, in place; return what should be said."""
    valid, test = shares
    ids = samples.ids.tolist()
    units: dict[int, list[int]] = defaultdict(list)
    for row in rows.tolist():
        units[row if groups is None else int(groups[row])].append(row)
    strata: dict[bytes, list[tuple[bytes, list[int]]]] = defaultdict(list)
    for members in units.values():
        rank = min(_rank(seed, ids[row]) for row in members)
        strata[samples.labels[members[0]].tobytes()].append((rank, members))
    for ranked in strata.values():
        members_in_order = [members for _, members in sorted(ranked)]
        total = sum(map(len, members_in_order))
        to_test = _prefix(members_in_order, total * test, spare=2 if valid else 1, least=3 if valid else 2)
        rest = members_in_order[to_test:]
        to_valid = _prefix(rest[::-1], total * valid, spare=1, least=2)
        for name, chosen in (("test", members_in_order[:to_test]), ("valid", rest[len(rest) - to_valid :])):
            for members in chosen:
                split[members] = name
    return _keep_every_class_in_train(
        samples, split, rows, np.arange(len(samples)) if groups is None else groups
    )


def _prefix(units: list[list[int]], ideal: float, *, spare: int, least: int) -> int:
    """Return how many leading units come nearest to `ideal` rows, leaving `spare` units.

    At least one is taken where there are `least` units or more and something is to be taken.
    """
    if not ideal or len(units) < least:
        return 0
    sizes = np.concatenate([[0], np.cumsum([len(unit) for unit in units])])
    nearest = int(np.argmin(np.abs(sizes - ideal)))
    return min(max(1, nearest), len(units) - spare)


def _keep_every_class_in_train(
    samples: Samples, split: NDArray[np.str_], rows: NDArray[np.int64], groups: NDArray[np.int64]
) -> list[str]:
    """Bring classes back that the cut left without training rows, in place; name those not validated."""
    if samples.task is Task.MULTI_LABEL:
        return []
    present = samples.labels[rows]
    training = set(samples.labels[rows[split[rows] == "train"]].tolist())
    for label in sorted(set(present.tolist()) - training):
        whole_groups = np.isin(groups[rows], groups[rows[present == label]])
        split[rows[whole_groups]] = "train"
    validating = set(samples.labels[split == "valid"].tolist())
    single = [samples.classes[k] for k in sorted(set(present.tolist()) - validating)]
    if not single or not validating:
        return []
    names = ", ".join(map(shown, single[:5])) + (", …" if len(single) > 5 else "")
    return [f"too few pictures to validate on, all used for training: class {names}"]


def _straddling(split: NDArray[np.str_], groups: NDArray[np.int64]) -> list[str]:
    """Say how many rows of valid and test belong to a group that train has too."""
    training = np.unique(groups[split == "train"])
    notes = []
    for name in ("valid", "test"):
        shared = int(np.isin(groups[split == name], training).sum())
        if shared:
            notes.append(f"{name} has {shared} pictures that train has too: its score flatters")
    return notes
