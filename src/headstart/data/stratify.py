"""Handing units out to parts so that every label has its share in each."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Tallies:
    """How many pictures of each unit have each label, where any have: entries sorted by unit and label.

    A unit is a picture, or several that stay together. `label`, `count`: int64 (entries,); those of unit
    u are `starts[u]` … `starts[u + 1]` (units + 1,). A table of all labels would not fit: 20,000 pictures
    of 20,000 classes make 400 million cells.
    """

    label: NDArray[np.int64]
    count: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, unit: NDArray[np.int64], label: NDArray[np.int64], units: int) -> Tallies:
        """Count pairs of a unit and a label, one for each picture and label of its."""
        width = int(label.max()) + 1 if len(label) else 1
        keys, count = np.unique(unit * np.int64(width) + label, return_counts=True)
        starts = np.searchsorted(keys // width, np.arange(units + 1)).astype(np.int64)
        return cls(keys % width, count.astype(np.int64), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def labels(self, unit: int) -> list[tuple[int, int]]:
        """Return the (label, count) of a unit."""
        span = slice(int(self.starts[unit]), int(self.starts[unit + 1]))
        return list(zip(self.label[span].tolist(), self.count[span].tolist(), strict=True))

    @property
    def unit(self) -> NDArray[np.int64]:
        """The unit of each entry, int64 (entries,)."""
        return np.asarray(np.repeat(np.arange(len(self)), np.diff(self.starts)), np.int64)

    @property
    def several(self) -> NDArray[np.bool_]:
        """Whether each unit has more than one label, bool (units,)."""
        return np.asarray(np.diff(self.starts) > 1)

    @property
    def most(self) -> NDArray[np.int64]:
        """The most frequent label of each unit, the lowest of equals, -1 for none, int64 (units,)."""
        order = np.lexsort((self.label, -self.count, self.unit))
        found: NDArray[np.int64] = np.full(len(self), -1, np.int64)
        some = np.diff(self.starts) > 0
        found[some] = self.label[order][self.starts[:-1][some]]
        return found

    def holders(self, label: int) -> NDArray[np.int64]:
        """Return the units that have a label, int64."""
        return np.asarray(self.unit[self.label == label], np.int64)

    def totals(self, units: NDArray[np.bool_]) -> Counter[int]:
        """Return how many pictures of the chosen units have each label, where any have."""
        chosen = units[self.unit]
        sums = np.bincount(self.label[chosen], weights=self.count[chosen])
        return Counter({label: int(sums[label]) for label in np.flatnonzero(sums).tolist()})


def stratify(
    tallies: Tallies, sizes: NDArray[np.int64], shares: Sequence[float], order: Sequence[int]
) -> NDArray[np.int64]:
    """Return the part that each unit goes to, int64 (units,): iterative stratification.

    `sizes` (units,): how many pictures a unit has. `shares`: what each part is to have, with a sum of
    one. `order`: the units' numbers, in the order in which they are handed out.

    Of all labels the one with the fewest pictures left comes next, as it leaves the least choice; each
    of its units goes where the label is missed most, then where pictures are missed most (Sechidis,
    Tsoumakas & Vlahavas 2011, ECML; with the first part in place of a random one where all is equal).
    Larger units go first, since what remains can then make up for them. With units of one picture and
    one label, each label is within one picture of its share in each part.
    """
    first_large = sorted(order, key=lambda unit: -int(sizes[unit]))
    labels = {unit: tallies.labels(unit) for unit in first_large}
    left = tallies.totals(np.ones(len(tallies), np.bool_))
    wanted = {label: [count * share for share in shares] for label, count in left.items()}
    missing = [float(sizes.sum()) * share for share in shares]
    holders: dict[int, list[int]] = {label: [] for label in left}
    for unit in first_large:
        for label, _ in labels[unit]:
            holders[label].append(unit)
    part = np.full(len(tallies), -1, np.int64)

    # The rarest label first; what is taken for it changes what is left of others.
    queue = [(count, label) for label, count in left.items()]
    heapq.heapify(queue)

    def give(unit: int, desire: Sequence[float]) -> None:
        # Rounded, so that sums which are equal but for their order are equal.
        chosen = max(range(len(shares)), key=lambda each: (round(desire[each], 6), round(missing[each], 6)))
        part[unit] = chosen
        missing[chosen] -= int(sizes[unit])
        for label, count in labels[unit]:
            wanted[label][chosen] -= count
            left[label] -= count
            if len(labels[unit]) > 1:
                heapq.heappush(queue, (left[label], label))

    while queue:
        count, label = heapq.heappop(queue)
        if count == left[label]:
            for unit in holders.pop(label, []):
                if part[unit] < 0:
                    give(unit, wanted[label])
    for unit in first_large:  # those without a label
        if part[unit] < 0:
            give(unit, missing)
    return part
