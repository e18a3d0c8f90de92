"""What a check of a collection found: plain facts for a table, for JSON, for a page and for a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headstart.data.auditing import Audit
from headstart.data.duplicates import Duplicates, Leak, find_duplicates
from headstart.data.grouping import sets_of
from headstart.data.quality import BLANK_CONTRAST, EXTREME_ASPECT, TINY_SIDE, flagged, modes
from headstart.data.quarantine import Entry
from headstart.data.samples import shown
from headstart.data.shapes import Policy, Shapes, choose_policy
from headstart.types import Size

SCHEMA = 1

IMBALANCE = 10.0
"""From it on, most pictures of a class over fewest, a class count is worth a remark."""

_WORDS = {
    "BLANK": f"blank, or nearly: brightness varies by less than {BLANK_CONTRAST:g} of 255",
    "TINY": f"tiny: a side below {TINY_SIDE} pixels",
    "EXTREME_ASPECT": f"very long: one side {EXTREME_ASPECT:g} times the other, or more",
    "ROTATED": "stored turned, and set upright as their EXIF says",
    "ODD_MODE": "stored in other ways than 8-bit colour or grey, and turned into it",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found: a code, how many pictures, what it is in words, and which rows.

    `fault`: it harms training or flatters its score, and should be looked at; else it is good to know.
    """

    code: str
    count: int
    words: str
    rows: tuple[int, ...] = ()
    fault: bool = False


@dataclass(frozen=True, eq=False)
class Findings:
    """What a check found out about the pictures of an audit.

    `size` and `policy`: what they are brought to and how, `reason` in words; `crop_fraction` as for
    evaluation. Every row number is one of `audit.samples`.
    """

    audit: Audit
    duplicates: Duplicates
    size: Size
    policy: Policy
    reason: str
    crop_fraction: float = 0.875

    @cached_property
    def shapes(self) -> Shapes:
        """The sizes of the pictures that can be used."""
        return Shapes(self.audit.height[self.audit.ok], self.audit.width[self.audit.ok])

    @cached_property
    def flags(self) -> dict[str, NDArray[np.int64]]:
        """The rows that each flag of `quality` holds for."""
        return flagged(self.audit.facts, self.audit.ok)

    @cached_property
    def conflicts(self) -> list[list[int]]:
        """The sets of rows that show one picture under different labels."""
        return self.duplicates.conflicts(self.audit.samples.labels)

    @cached_property
    def leaks(self) -> dict[tuple[str, str], Leak]:
        """What the parts that the source gives share; empty where it gives none."""
        return self.duplicates.leaks(self.audit.samples.split)

    @cached_property
    def all(self) -> tuple[Finding, ...]:
        """Everything that was found, faults first; nothing that did not occur."""
        found = [*self._unusable(), *self._copies(), *self._flagged(), *self._classes()]
        return tuple(sorted(found, key=lambda each: not each.fault))

    @property
    def faults(self) -> tuple[Finding, ...]:
        """Those findings that harm training or flatter its score."""
        return tuple(each for each in self.all if each.fault)

    def _unusable(self) -> Iterator[Finding]:
        for code, count in self.audit.counts().items():
            rows = np.flatnonzero(self.audit.codes == code).tolist()
            yield Finding(code, count, "cannot be used, and are left out", tuple(rows), fault=True)

    def _copies(self) -> Iterator[Finding]:
        names = self.audit.samples.label_names()
        if self.conflicts:
            rows = tuple(row for each in self.conflicts for row in each)
            pairs = Counter(tuple(sorted({names[row] for row in each})) for each in self.conflicts)
            most = ", ".join(" and ".join(map(shown, pair)) for pair, _ in pairs.most_common(3))
            words = f"one picture under different labels, in {len(self.conflicts)} sets: {most}"
            yield Finding("LABEL_CONFLICT", len(rows), words, rows, fault=True)
        for (earlier, later), leak in self.leaks.items():
            words = f"of {later} are in {earlier} too ({leak.words}): its score flatters"
            yield Finding("LEAK", len(leak.rows), words, leak.rows, fault=True)
        copies = self.duplicates
        again = [row for each in sets_of(copies.exact) for row in each[1:]]
        alike = [row for each in copies.near_sets for row in each]
        for code, count, how, members in (
            ("DUPLICATE", copies.exact_copies, "byte for byte", again),
            ("NEAR_DUPLICATE", copies.near_copies, "nearly", alike),
        ):
            if count:
                words = f"{how} the same as another one; a split keeps copies on one side"
                yield Finding(code, count, words, tuple(members))

    def _flagged(self) -> Iterator[Finding]:
        for flag, rows in self.flags.items():
            if len(rows):
                words = _WORDS[flag]
                if flag == "ODD_MODE":
                    words += f": {self._odd_modes()}"
                yield Finding(flag, len(rows), words, tuple(rows.tolist()), fault=flag == "BLANK")

    def _odd_modes(self) -> str:
        odd = Counter(self.audit.facts[row].mode for row in self.flags["ODD_MODE"].tolist())
        return ", ".join(f"{count} {mode}" for mode, count in odd.most_common())

    def _classes(self) -> Iterator[Finding]:
        counts = {name: count for name, count in self.class_counts.items() if count}
        if len(counts) > 1 and max(counts.values()) >= IMBALANCE * min(counts.values()):
            few, many = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
            words = f"{shown(many)} has {counts[many]}, {shown(few)} {counts[few]}: look at balanced accuracy"
            yield Finding("IMBALANCE", counts[few], words)

    @property
    def class_counts(self) -> dict[str, int]:
        """How many pictures that can be used each class has."""
        return self.audit.samples.take(self.audit.ok).counts()

    def quarantine(self) -> list[Entry]:
        """Return the list of pictures to look at, in the order of the rows; see `data.quarantine`.

        What cannot be used, blank pictures, pictures under several labels and those of valid or test that
        an earlier part has too are proposed to be left out; other copies are listed and kept.
        """
        near = {row: each for each in sets_of(self.duplicates.near) for row in each}
        copies = {row for each in sets_of(self.duplicates.near) for row in each[1:]}
        conflicting = {row for each in self.conflicts for row in each}
        leaking = {row for leak in self.leaks.values() for row in leak.rows}
        blank = set(self.flags["BLANK"].tolist())
        listed = []
        for row in sorted({*copies, *conflicting, *leaking, *blank, *self.audit.bad_rows.tolist()}):
            path, keep = self.audit.samples.paths[row], False
            if not self.audit.ok[row]:
                reason = f"{self.audit.codes[row]}: {shown(self.audit.messages[row])}"
            elif row in conflicting:
                reason = self._same_as("LABEL_CONFLICT", row, near[row])
            elif row in leaking:
                reason = self._same_as("LEAK", row, near[row])
            elif row in copies:
                exact = self.duplicates.exact
                first = next(other for other in near[row] if other != row)
                code = "DUPLICATE" if exact[row] == exact[first] else "NEAR_DUPLICATE"
                reason, keep = self._same_as(code, row, near[row]), True
            else:
                reason = "BLANK: one colour, or nearly"
            listed.append(Entry(path, reason, keep))
        return listed

    def _same_as(self, code: str, row: int, rows: list[int]) -> str:
        names = [self.audit.samples.name(other) for other in rows if other != row]
        return f"{code}: the same picture as {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"

    def to_dict(self, *, most_rows: int = 1000) -> dict[str, Any]:
        """Return everything as JSON can hold it; of each finding at most `most_rows` pictures by name."""
        samples, audit = self.audit.samples, self.audit
        names = samples.label_names()
        return {
            "schema": SCHEMA,
            "root": shown(str(samples.root)),
            "pictures": len(samples),
            "usable": int(audit.ok.sum()),
            "task": str(samples.task),
            "classes": {shown(name): count for name, count in self.class_counts.items()},
            "splits": {
                part: len(samples.rows(part))
                for part in ("train", "valid", "test")
                if len(samples.rows(part))
            },
            "skipped": dict(samples.skipped),
            "notes": [shown(note) for note in samples.notes],
            "findings": [
                {
                    "code": each.code,
                    "fault": each.fault,
                    "count": each.count,
                    "words": each.words,
                    "pictures": [samples.name(row) for row in each.rows[:most_rows]],
                }
                for each in self.all
            ],
            "conflicts": [
                [{"path": samples.name(row), "label": shown(names[row])} for row in rows]
                for rows in self.conflicts[:most_rows]
            ],
            "duplicates": {"exact": self.duplicates.exact_copies, "near": self.duplicates.near_copies},
            "leaks": [
                {"of": later, "in": earlier, "exact": leak.exact, "near": leak.near}
                for (earlier, later), leak in self.leaks.items()
            ],
            "modes": modes(audit.facts, audit.ok),
            "formats": dict(Counter(audit.facts[row].format for row in np.flatnonzero(audit.ok).tolist())),
            "sizes": self.shapes.to_dict(self.size, policy=self.policy, crop_fraction=self.crop_fraction),
            "resize": {
                "policy": self.policy,
                "reason": self.reason,
                "size": list(self.size),
                "crop_fraction": self.crop_fraction,
            },
        }


def findings(
    audit: Audit,
    *,
    size: Size = (224, 224),
    policy: Policy | Literal["auto"] = "auto",
    crop_fraction: float = 0.875,
    duplicates: Duplicates | None = None,
) -> Findings:
    """Judge an audit: what harms training, what is good to know, and how pictures should be cut to `size`.

    `policy`: "auto" chooses by the shapes (see `choose_policy`). `duplicates`: where they were found
    already.
    """
    shapes = Shapes(audit.height[audit.ok], audit.width[audit.ok])
    chosen, reason = choose_policy(shapes, size) if policy == "auto" else (policy, f"{policy}, as asked")
    copies = find_duplicates(audit) if duplicates is None else duplicates
    return Findings(audit, copies, size, chosen, reason, crop_fraction)
