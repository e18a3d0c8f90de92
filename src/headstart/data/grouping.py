"""Rows that belong together: groups, joined from pairs and from several columns."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

Groups = NDArray[np.int64]


def merge_groups(*columns: NDArray[Any] | None) -> Groups:
    """Return the finest grouping that keeps together what any column does, int64 (N,).

    Two rows are in one group where a chain of rows joins them, neighbours having the same number in one
    of the columns. Negative numbers join nothing, nor does a column that is None. Each group's number is
    that of its first row.
    """
    given = [np.asarray(column) for column in columns if column is not None]
    joined = [np.zeros((0, 2), np.int64)]
    for column in given:
        rows = np.flatnonzero(column >= 0)
        _, first, which = np.unique(column[rows], return_index=True, return_inverse=True)
        joined.append(np.stack([rows[first][which.reshape(-1)], rows], axis=1))
    return joined_groups(np.concatenate(joined), len(given[0]) if given else 0)


class Joined:
    """Groups that grow as pairs of rows are joined (union-find); each is numbered by its first row."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def _root(self, row: int) -> int:
        parent = self._parent
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    def join(self, pairs: NDArray[np.int64]) -> None:
        """Put the two rows of each pair into one group; (pairs, 2)."""
        for one, other in pairs[pairs[:, 0] != pairs[:, 1]].tolist():
            low, high = sorted((self._root(one), self._root(other)))
            self._parent[high] = low

    @property
    def groups(self) -> Groups:
        """The group of each row, int64 (count,)."""
        groups = np.array(self._parent, np.int64)
        while True:
            further = groups[groups]
            if np.array_equal(further, groups):
                return groups
            groups = further


def joined_groups(pairs: NDArray[np.int64], count: int) -> Groups:
    """Return the groups that pairs of rows make among `count` rows, int64 (count,).

    Each group's number is that of its first row, so the order of the pairs makes no difference.
    """
    joined = Joined(count)
    joined.join(pairs)
    return joined.groups


def sets_of(groups: Groups, rows: NDArray[np.bool_] | None = None) -> list[list[int]]:
    """Return the groups of two rows or more, as lists of row numbers; only those of the mask `rows`."""
    members: dict[int, list[int]] = defaultdict(list)
    chosen = range(len(groups)) if rows is None else np.flatnonzero(rows).tolist()
    for row in chosen:
        members[int(groups[row])].append(row)
    return [each for each in members.values() if len(each) > 1]
