"""Pictures that went, or changed, after they were looked at: counted and named, and in no batch any more."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from headstart.errors import HeadstartError, StoppedError

OnError: TypeAlias = Literal["stop", "skip"]
ON_ERROR = get_args(OnError)


class _Loss(NamedTuple):
    code: str
    message: str


class Lost:
    """The rows, of N, whose files are no longer what they were when they were audited.

    A row that is lost once stays so, whether its file comes back or not: what is said of a row does not
    change in the middle of a run. At most `most` rows may be lost, and of each part (`split`, (N,)) at least
    one row stays: a disk that has gone is no reason to train on nothing. Safe to use from many threads.
    """

    def __init__(self, split: NDArray[np.str_], most: int) -> None:
        self._split = split
        self._most = most
        self._losses: dict[int, _Loss] = {}
        self._left = Counter(split.tolist())
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._losses)

    def __contains__(self, row: int) -> bool:
        return row in self._losses

    def note(self, row: int, error: HeadstartError) -> None:
        """Count a row as lost, for the reason that `error` gives.

        Raises `StoppedError` (TOO_MANY_LOST) where it is one too many.
        """
        with self._lock:
            if row not in self._losses:
                self._losses[row] = _Loss(error.code, error.message)
                self._left[str(self._split[row])] -= 1
            part = str(self._split[row])
            if len(self._losses) > self._most or not self._left[part]:
                raise self._too_many(part, error)

    def _too_many(self, part: str, error: HeadstartError) -> StoppedError:
        counts = ", ".join(f"{count} {code}" for code, count in self.counts().items())
        rest = "" if self._left[part] else f", and none is left of the part {part!r}"
        return StoppedError(
            f"{len(self)} of {len(self._split)} pictures went or changed while they were used "
            f"({counts}){rest}; the last: {error.message}",
            f"look at the disk; so many are borne with --max-bad {max(len(self), self._most)}",
            code="TOO_MANY_LOST",
        )

    @property
    def rows(self) -> NDArray[np.int64]:
        """The row numbers of the lost pictures, ascending."""
        return np.array(sorted(self._losses), np.int64)

    def codes(self) -> dict[int, str]:
        """Return the reason code of each lost row: VANISHED, CHANGED or another, by row number."""
        return {row: loss.code for row, loss in sorted(self._losses.items())}

    def message(self, row: int) -> str:
        """Return the reason in words, naming the file."""
        return self._losses[row].message

    def counts(self) -> dict[str, int]:
        """Return how many rows have each reason code, most frequent first."""
        return dict(Counter(loss.code for loss in self._losses.values()).most_common())

    def lines(self) -> list[str]:
        """Return what to tell a person: how many, why, and the first five; nothing where none is lost."""
        if not self._losses:
            return []
        counts = ", ".join(f"{count} {code}" for code, count in self.counts().items())
        noun = "picture" if len(self) == 1 else "pictures"
        first = [f"  {self.message(row)}" for row in self.rows[:5].tolist()]
        return [f"{len(self)} {noun} went or changed during the run and were left out: {counts}", *first]
