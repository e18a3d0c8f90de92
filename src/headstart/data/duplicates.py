"""Which pictures are the same one: byte for byte, or nearly; and what that means for labels and parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.data.auditing import Audit
from headstart.data.fingerprints import near_groups
from headstart.data.grouping import Groups, merge_groups, sets_of
from headstart.data.quality import BLANK_CONTRAST


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Which rows hold the same picture: group numbers, int64 (N,), each that of the group's first row.

    `exact`: the files have the same bytes (SHA-256). `near`: they have, or their fingerprints show the
    same picture encoded anew, made smaller, cropped by a pixel or mirrored. A row that could not be
    read is a group of its own; so is, in `near`, a blank one, which is like every other blank one.
    """

    exact: Groups
    near: Groups

    def take(self, rows: NDArray[np.int64]) -> Duplicates:
        """Return the groups of some rows, numbered anew."""
        return Duplicates(merge_groups(self.exact[rows]), merge_groups(self.near[rows]))

    @property
    def exact_copies(self) -> int:
        """How many rows repeat the bytes of an earlier one."""
        return len(self.exact) - len(np.unique(self.exact))

    @property
    def near_copies(self) -> int:
        """How many rows show the picture of an earlier one, and are not byte for byte its copies."""
        return len(self.near) - len(np.unique(self.near)) - self.exact_copies

    @property
    def near_sets(self) -> list[list[int]]:
        """The sets of rows that show one picture and are not all byte for byte the same."""
        return [rows for rows in sets_of(self.near) if len(np.unique(self.exact[rows])) > 1]

    def conflicts(self, labels: NDArray[Any]) -> list[list[int]]:
        """Return the sets of rows that show one picture under different labels; unknown (-1) is no label."""
        known = np.ones(len(labels), np.bool_) if labels.ndim > 1 else labels >= 0
        return [rows for rows in sets_of(self.near, known) if len(np.unique(labels[rows], axis=0)) > 1]

    def leaks(self, split: Sequence[str] | NDArray[np.str_]) -> dict[tuple[str, str], Leak]:
        """Return, for each two parts that share pictures, how many rows of the later one do.

        The keys are ("train", "valid"), ("train", "test") and ("valid", "test"), where there are any.
        """
        parts = np.asarray(split)
        found = {}
        for earlier, later in (("train", "valid"), ("train", "test"), ("valid", "test")):
            rows = np.flatnonzero(parts == later)
            seen = rows[np.isin(self.near[rows], self.near[parts == earlier])]
            exact = np.isin(self.exact[seen], self.exact[parts == earlier])
            if len(seen):
                found[earlier, later] = Leak(int(exact.sum()), int((~exact).sum()), tuple(seen.tolist()))
        return found


@dataclass(frozen=True)
class Leak:
    """How many rows of a part are in another one too: byte for byte, nearly; and which."""

    exact: int
    near: int
    rows: tuple[int, ...]

    @property
    def words(self) -> str:
        """The counts in words: "3 byte for byte, 2 nearly"."""
        counts = ((self.exact, "byte for byte"), (self.near, "nearly"))
        return ", ".join(f"{count} {how}" for count, how in counts if count)


def find_duplicates(audit: Audit) -> Duplicates:
    """Find the rows of an audit that hold the same picture; 100,000 pictures in about five seconds."""
    exact = merge_groups(audit.duplicate_groups())
    first_ones = np.flatnonzero((exact == np.arange(len(exact))) & audit.ok)
    facts = [audit.facts[row] for row in first_ones.tolist()]
    # One of each set of copies stands for all. Blank pictures are all alike, and that says nothing.
    prints = [each.fingerprint if each.contrast >= BLANK_CONTRAST else b"" for each in facts]
    near = np.arange(len(exact), dtype=np.int64)
    near[first_ones] = first_ones[near_groups(prints)]
    return Duplicates(exact, merge_groups(exact, near))
