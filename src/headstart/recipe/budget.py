"""A budget of time, divided over the phases of a plan before they begin.

Whoever goes first would else take all: the head would have its full length, and the whole network, which
comes last and gains most, what happens to be left. So every phase is measured first, and gets its least;
what is left after that is shared out in proportion to what each would take in full. When a phase begins,
what is left by then is divided anew over it and those that follow, by the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headstart.processes import current
from headstart.recipe.clock import spoken
from headstart.recipe.stepcost import StepCost, measure_step
from headstart.training import Phase
from headstart.types import Size

if TYPE_CHECKING:
    from headstart.imagedata import ImageData
    from headstart.learner import Learner
    from headstart.recipe.steps import EightSteps

# Seconds of a budget that are kept for the model and the report.
LEAST_RESERVE = 5.0
# And at most this share of it for a last look at the pictures: strangers, heat, slices, a map.
LAST_LOOK = 0.15
# Of each part so many pictures are looked at again.
LOOKED_AT = 1000
# Fewer steps than this are no phase: a rate that rises over a quarter of them has hardly left the ground.
FEWEST_STEPS = 10
# Looking at a picture costs about a third of training on it.
LOOKING = 1 / 3
# The finder on a whole network ends where the loss rises: after 16 to 26 of 30 steps (n = 8, six sets). On a
# head it takes 59 to 100 of 100.
SWEPT = 2 / 3


@dataclass(frozen=True)
class Cost:
    """What a phase takes: `lengths`, the epochs that its schedule can have, rising; and its seconds.

    `epoch`: seconds of an epoch, with the validation after it; `once`: of what comes once, the finder and
    judging what was trained. `epoch` is inf where no time was left to measure.
    """

    name: str
    lengths: tuple[int, ...]
    epoch: float
    once: float = 0.0
    step: StepCost | None = None

    def of(self, epochs: int) -> float:
        """Seconds of the phase with so many epochs; none at all takes none."""
        return self.once + epochs * self.epoch if epochs else 0.0

    @property
    def least(self) -> float:
        """Seconds of the shortest that it can be."""
        return self.of(self.lengths[0])

    @property
    def whole(self) -> float:
        """Seconds in full length."""
        return self.of(self.lengths[-1])


def divide(costs: Sequence[Cost], seconds: float) -> list[int]:
    """Return the epochs of each phase, one of its `lengths`, or 0 where it is left out.

    Together they take at most `seconds`. All are as long as the plan has them where there is time for it.
    Else each has its least, and of what is left the part that its length above that is of all of them. Where
    not even the least of all fits, the last phase comes first, then the others in their order.
    """
    first = [len(costs) - 1, *range(len(costs) - 1)] if costs else []
    left, kept = seconds, set()
    for number in first:
        if costs[number].least <= left:
            left -= costs[number].least
            kept.add(number)
    wanted = sum(costs[number].whole - costs[number].least for number in kept)
    part = min(1.0, left / wanted) if wanted > 0 else 1.0
    epochs = [0] * len(costs)
    for number in kept:
        cost = costs[number]
        # A full length must not fail for the last bit of a sum.
        share = cost.lengths[0] + part * (cost.lengths[-1] - cost.lengths[0]) + 1e-9
        epochs[number] = max(length for length in cost.lengths if length <= share)
        left -= cost.of(epochs[number]) - cost.least
    _use_up(costs, epochs, left, [number for number in first if number in kept])
    return epochs


def _use_up(costs: Sequence[Cost], epochs: list[int], left: float, order: Sequence[int]) -> None:
    """Give what whole epochs have left over to those that become longer by it, in turn."""
    grown = True
    while grown:
        grown = False
        for number in order:
            cost = costs[number]
            longer = next((length for length in cost.lengths if length > epochs[number]), None)
            if longer is not None and (more := cost.of(longer) - cost.of(epochs[number])) <= left:
                epochs[number], left, grown = longer, left - more, True


def told(costs: Sequence[Cost], epochs: Sequence[int], seconds: float) -> str:
    """Return in one line how a budget is divided, and why a phase is left out."""
    parts = []
    for cost, count in zip(costs, epochs, strict=True):
        if count:
            parts.append(f"{cost.name} {count} of {cost.lengths[-1]} epochs ({spoken(cost.of(count))})")
        else:
            parts.append(f"{cost.name} left out ({why_not(cost)})")
    return f"{spoken(max(0.0, seconds))} for training: {'; '.join(parts)}"


def why_not(cost: Cost) -> str:
    """Return why a phase is left out."""
    if math.isinf(cost.epoch):
        return "no time was left to measure it"
    count = cost.lengths[0]
    return f"its least, {count} epoch{'s' if count > 1 else ''}, takes {spoken(cost.least)}"


def lengths_of(phase: Phase, steps_per_epoch: int) -> tuple[int, ...]:
    """Return the numbers of epochs that a phase can be cut to, rising, its own last.

    >>> from headstart.training import sgdr
    >>> lengths_of(Phase("whole", 7, sgdr(cycles=3, cycle_mult=2)), 50)
    (1, 3, 7)
    """
    found = [phase]
    while found[-1].epochs > 1:
        found.append(_shorter(found[-1]))
    enough = [each.epochs for each in reversed(found) if each.epochs * steps_per_epoch >= FEWEST_STEPS]
    return tuple(enough) or (phase.epochs,)


def cut_to(phase: Phase, epochs: int) -> Phase:
    """Return the phase cut to one of its `lengths_of`."""
    while phase.epochs > epochs:
        phase = _shorter(phase)
    return phase


def _shorter(phase: Phase) -> Phase:
    return phase.scaled((phase.epochs - 1) / phase.epochs)


def cost_of(learner: Learner, phase: Phase, step: StepCost, *, known: set[tuple[int, Size]]) -> Cost:
    """Return what a phase costs whose `step` was measured at its line and size.

    `known`: the groups below the line and the sizes for which a rate is found before; this one's is added.
    """
    data = learner.data
    epoch = step.seconds * data.steps_per_epoch
    counts = {split: len(data.rows(split)) for split in ("train", "valid", "test")}
    looking = LOOKING * epoch / max(1, counts["train"])
    whole = phase.frozen_to == 0
    validating = looking * counts["valid"] if whole else 0.0
    # Judged are the end of a phase and, of the whole network, points on the way there; in the end all views.
    views = 1 + len(data.views) + (3 if whole else 0)
    judging = looking * (counts["valid"] + counts["test"]) * views
    finder, place = 0.0, (phase.frozen_to, data.image_size)
    if phase.learning_rate is None and place not in known:
        finder = step.seconds * (SWEPT * max(30, min(100, data.steps_per_epoch)) if whole else 100)
        known.add(place)
    lengths = lengths_of(phase, data.steps_per_epoch)
    return Cost(phase.name, lengths, epoch + validating, finder + judging, step)


def last_look(data: ImageData, costs: Sequence[Cost], budget: float) -> float:
    """Return the seconds of a budget that are kept for looking at the pictures once more at the end."""
    steps = [cost.step.seconds for cost in costs if cost.step is not None]
    each = LOOKING * max(steps, default=0.0) / max(1, data.batch_size)
    pictures = sum(min(LOOKED_AT, len(data.rows(split))) for split in ("train", "valid"))
    return min(LAST_LOOK * budget, each * pictures)


def at_phase(learner: Learner, phase: Phase) -> None:
    """Move the line and the size to where a phase has them."""
    learner.freeze_to(phase.frozen_to)
    if phase.image_size is not None and phase.image_size != learner.data.image_size:
        learner.set_data(learner.data.resize(phase.image_size))


def within_budget(steps: EightSteps, phase: Phase) -> Phase | None:
    """Cut the phase to its share of what is left of the budget; None, and a word why, where it has none.

    The learner is at the line and the size of the phase, and is left there.
    """
    if steps.clock.budget is None:
        return phase
    begins = not steps.costs
    if begins:
        steps.costs = _measured(steps)
        at_phase(steps.learner, phase)
    costs = [cost for number, cost in steps.costs.items() if number >= steps.phases_done]
    kept = LEAST_RESERVE + last_look(steps.learner.data, costs, steps.clock.budget)
    left = current().of_first(steps.clock.left(kept))
    epochs = divide(costs, left)
    if begins:
        steps.narrator.say(f"  {told(costs, epochs, left)}")
    own, count = costs[0], epochs[0]
    if not count:
        steps.narrator.say(f"  {phase.name} is left out: {why_not(own)}, {spoken(max(0.0, left))} left")
        return None
    # Whatever the forecast was worth: what follows keeps its least.
    following = sum(cost.least for cost, each in zip(costs[1:], epochs[1:], strict=True) if each)
    steps.reserve = kept + own.once + following
    cut = "" if count == phase.epochs else f", cut from {phase.epochs} to keep the budget"
    steps.narrator.say(f"  {phase.name}: {count} × {spoken(own.epoch)} ({own.step}){cut}")
    return cut_to(phase, count)


def _measured(steps: EightSteps) -> dict[int, Cost]:
    """Measure a few steps of each phase that is to come, all undone, while there is time for it."""
    costs: dict[int, Cost] = {}
    known: set[tuple[int, Size]] = set()
    for number, phase in enumerate(steps.plan.phases):
        if number < steps.phases_done:
            continue
        if current().of_first(steps.clock.left(LEAST_RESERVE)) <= 0:
            costs[number] = Cost(phase.name, lengths_of(phase, steps.data.steps_per_epoch), math.inf)
            continue
        at_phase(steps.learner, phase)
        learner = steps.learner.precompute() if phase.precompute else steps.learner
        costs[number] = cost_of(learner, phase, measure_step(learner), known=known)
    return costs
