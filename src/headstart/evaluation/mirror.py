"""Does mirroring change what a picture shows? The evidence, from plain and mirrored predictions."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from headstart.errors import UsageError
from headstart.evaluation.metrics import Gain, paired
from headstart.evaluation.predictions import Predictions, check_same_rows
from headstart.types import Task

LEAST_FALL = 0.02
"""A fall of accuracy below it is no reason to warn, as a probe that saw plain pictures knows them a bit
better. With mobilenetv2_100 at 160 pixels it fell by 1.2 points on flowers, rose by 2.0 on bees."""
LEAST_SHARE = 0.2
LEAST_PICTURES = 3
SURE = 0.01

_SIDED = frozenset(
    {"left", "right", "clockwise", "counterclockwise", "anticlockwise", "lefthand", "righthand"}
)
_MOST_EXACT = 1000


@dataclass(frozen=True)
class Swap:
    """A class whose pictures are called another one once they are changed.

    Of `count` pictures that were called rightly, `lost` no longer are; `becomes` is what most of those
    are called. `chance`: how probable that is where the change makes no difference (sign test).
    """

    label: str
    becomes: str
    lost: int
    count: int
    chance: float


@dataclass(frozen=True)
class MirrorFindings:
    """What a change of the pictures ("mirrored", "turned") does to their labels, by the evidence.

    `gain`: of accuracy, with its paired interval; where the change does harm it is negative. `swaps`:
    the classes that become another one, most pictures first. `named`: class names that speak of sides,
    or are digits or letters; they add words to a warning, and never cause one.
    """

    view: str
    gain: Gain
    swaps: tuple[Swap, ...] = ()
    named: tuple[str, ...] = ()

    @property
    def warned(self) -> bool:
        """Whether the evidence says that the change alters labels."""
        return self.gain.high < -LEAST_FALL or bool(self.swaps)

    @property
    def lines(self) -> list[str]:
        """What to tell a person: nothing where the change does no harm."""
        if not self.warned:
            return []
        fall, low, high = (-100 * value for value in (self.gain.value, self.gain.high, self.gain.low))
        lines = [
            f"{self.view} pictures are not what they were: "
            f"accuracy falls by {fall:.1f} points ({low:.1f} to {high:.1f} at 95 %)"
        ]
        lines += [
            f"  {each.label} becomes {each.becomes}: {each.lost} of {each.count} pictures"
            for each in self.swaps[:5]
        ]
        if self.named:
            lines.append(f"  as the names of the classes suggest: {', '.join(self.named[:8])}")
        lines.append(f"  augment without them: a picture that is {self.view} has another label")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {
            "view": self.view,
            "warned": self.warned,
            "gain_accuracy": self.gain.to_dict(),
            "swaps": [vars(each) for each in self.swaps],
            "named": list(self.named),
        }


def mirror_check(plain: Predictions, mirrored: Predictions, *, view: str = "mirrored") -> MirrorFindings:
    """Compare what a model that saw plain pictures says of them, and of the same ones mirrored or turned.

    Both tables hold the same rows; fit the model on plain pictures only, and ask it about others than
    those. A warning needs one of two things. Either accuracy falls by more than two points, with the
    whole 95 % interval of the paired bootstrap. Or some class loses at least a fifth of the pictures that
    were called rightly, and at least three, more than chance explains: an exact sign test of those lost
    against those won, at one in a hundred over all classes together (Bonferroni). Tags are judged by the
    first alone, by the share of decisions that are right. Raises `UsageError` where the rows differ, or
    none has a label.
    """
    check_same_rows(plain, mirrored)
    if not (plain.scored_rows & mirrored.scored_rows).any():
        raise UsageError("no picture with a label was predicted, so there is nothing to compare")
    swaps = _swaps(plain, mirrored) if plain.task is Task.SINGLE_LABEL else ()
    return MirrorFindings(view, paired(plain, mirrored, "accuracy"), swaps, sided_names(plain.classes))


def refuse_mirrored(plain: Predictions, mirrored: Predictions) -> None:
    """Raise `UsageError` where mirrored pictures show other classes, by the evidence of `mirror_check`.

    Both tables hold the same rows; those of which neither has a label say nothing.
    """
    if not (plain.scored_rows & mirrored.scored_rows).any():
        return
    found = mirror_check(plain, mirrored)
    if found.warned:
        raise UsageError(
            " ".join(line.strip() for line in found.lines[:2]),
            "average views without mirror images: --tta multi-scale",
        )


def sided_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the class names that speak of a side, or are single digits or letters.

    Letters count only where all classes are letters or digits: "a" and "b" name many things.
    """
    if classes and all(re.fullmatch(r"[0-9]|[A-Za-z]", name) for name in classes):
        return tuple(classes)
    words = {name: set(re.split(r"[^a-z]+", name.lower())) for name in classes}
    return tuple(name for name, found in words.items() if found & _SIDED)


def _swaps(plain: Predictions, mirrored: Predictions) -> tuple[Swap, ...]:
    usable = plain.scored_rows & mirrored.scored_rows
    before, after = plain.take(usable), mirrored.take(usable)
    truth = np.asarray(before.targets)
    right, still = before.predicted == truth, after.predicted == truth
    present = np.unique(truth)
    found = []
    for label in present.tolist():
        rows = truth == label
        lost = rows & right & ~still
        count, won = int((rows & right).sum()), int((rows & ~right & still).sum())
        fell = int(lost.sum())
        chance = sign_test(fell, won)
        if fell - won < max(LEAST_PICTURES, LEAST_SHARE * count) or chance > SURE / len(present):
            continue
        becomes = int(np.bincount(after.predicted[lost], minlength=len(plain.classes)).argmax())
        found.append(Swap(plain.classes[label], plain.classes[becomes], fell, count, chance))
    return tuple(sorted(found, key=lambda each: (-each.lost, each.label)))


def sign_test(more: int, fewer: int) -> float:
    """Return the chance of `more` or more of all, where each of the `more + fewer` falls either way alike.

    Exact up to 1,000 in all, then by the normal approximation with continuity correction.
    """
    total = more + fewer
    if total > _MOST_EXACT:
        return 1.0 - NormalDist(total / 2, math.sqrt(total) / 2).cdf(more - 0.5)
    return float(sum(math.comb(total, count) for count in range(more, total + 1)) / 2**total)
