"""Advice about learning rates: what a rate was found for, and when it is about to be used for something else.

Pure functions of what is known and what is about to be done; each gives lines to say, none if all is well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from headstart.types import Size

# A rate for the whole network this near to the head's counts as the head's.
AS_THE_HEAD = 3.0


class RateWarning(UserWarning):
    """A learning rate is about to be used for what it was not found for; training goes on."""


@dataclass(frozen=True)
class Conditions:
    """What a learning rate holds for.

    `frozen_line` is a stage number (0: everything trains), `image_size` (height, width), `optimizer`
    `adamw` or `sgd`.
    """

    batch_size: int
    frozen_line: int
    image_size: Size
    body: str = ""
    optimizer: str = "adamw"


@dataclass
class RateNotes:
    """What one learner remembers about its rates: where the last one was found, what the head had.

    `found` is the rate of the last `lr_find` or trials, None where they found none; `told` holds what has
    been said, so that nothing is said twice.
    """

    conditions: Conditions | None = None
    found: float | None = None
    head_rate: float | None = None
    told: set[str] = field(default_factory=set)

    def fresh(self, lines: list[str]) -> list[str]:
        """Return the lines that have not been said yet, and remember them."""
        new = [line for line in lines if line not in self.told]
        self.told.update(new)
        return new


def advise(notes: RateNotes, rate: float | None, now: Conditions, *, groups: int, verb: str) -> list[str]:
    """Return what is to be said before a call of `verb`; nothing is said twice.

    `rate` is the one for all `groups` that train, None where the person gave a range or one for each:
    who does that has thought of which layers train, so that a move of the line is then no news.
    """
    lines: list[str] = []
    if rate is not None:
        here = notes.conditions == now and notes.found is not None
        lines = unfrozen_at_head_rate(
            notes.head_rate, rate, training_groups=groups, found_here=here, verb=verb
        )
    before = notes.conditions
    if not lines and before is not None:
        if rate is None:
            before = replace(before, frozen_line=now.frozen_line)
        lines = on_other_conditions(notes.found, before, now)
    return notes.fresh(lines)


def rescaled(rate: float, before: int, now: int, optimizer: str = "adamw") -> float:
    """Return the rate that does at a batch size of `now` what `rate` did at `before`.

    The square root of the ratio for AdamW (Malladi et al., arXiv 2205.10287), the ratio itself for SGD
    (Goyal et al., arXiv 1706.02677).
    """
    return rate * (math.sqrt(now / before) if optimizer == "adamw" else now / before)


def on_other_conditions(found: float | None, before: Conditions, now: Conditions) -> list[str]:
    """Say what has changed since the rate `found` was looked for, and offer what to do."""
    changed = _changes(before, now)
    if not changed:
        return []
    said = f"since the last lr_find {_listed(changed)}: what it found need not suit now; run lr_find() again"
    only_batches = now == replace(before, batch_size=now.batch_size)
    if found is not None and only_batches:
        rate = rescaled(found, before.batch_size, now.batch_size, now.optimizer)
        rule = "square root" if now.optimizer == "adamw" else "ratio"
        said += f", or take {rate:.1e} in place of {found:.1e} (by the {rule} of the batch sizes)"
    return [said]


def _changes(before: Conditions, now: Conditions) -> list[str]:
    changed = []
    if now.body != before.body:
        changed.append(f"the body changed from {before.body} to {now.body}")
    if now.frozen_line != before.frozen_line:
        where = "down, so that more" if now.frozen_line < before.frozen_line else "up, so that fewer"
        changed.append(f"the frozen line moved {where} layers train")
    if now.image_size != before.image_size:
        sizes = ("x".join(map(str, each.image_size)) for each in (before, now))
        changed.append(f"the image size changed from {' to '.join(sizes)}")
    if now.batch_size != before.batch_size:
        changed.append(f"the batch size changed from {before.batch_size} to {now.batch_size}")
    if now.optimizer != before.optimizer:
        changed.append(f"the optimiser changed from {before.optimizer} to {now.optimizer}")
    return changed


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def unfrozen_at_head_rate(
    head_rate: float | None, rate: float, *, training_groups: int, found_here: bool, verb: str = "fit"
) -> list[str]:
    """Say when one rate for several groups is that of a head that was trained alone: the classic mistake.

    `head_rate` is the peak that the head alone was trained at, None if it never was; `rate` the one for
    all `training_groups`; `found_here` whether a finder has looked at this very network, whose rate is
    then a good one for all groups together. On pets the course reports 10.2 % errors for it, where ranges
    of rates gave 6.2 % and less.
    """
    if head_rate is None or training_groups < 2 or found_here or rate * AS_THE_HEAD <= head_rate:
        return []
    # As `fine_tune` of fastai 2 does: half the head's rate, a hundredth of that for the earliest layers.
    high = head_rate / 2
    return [
        f"layers that were frozen are about to train at {rate:.1e}, about the rate of the new head alone "
        f"({head_rate:.1e}): that unlearns what they know; give earlier layers lower rates, such as "
        f"{verb}(…, slice({high / 100:.1e}, {high:.1e})), or run lr_find() now that they train"
    ]
