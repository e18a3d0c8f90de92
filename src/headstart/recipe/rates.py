"""How fast a phase learns: the finder, and the ratio between groups."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from headstart.recipe.result import StepResult
from headstart.training import Phase

if TYPE_CHECKING:
    from headstart.recipe.steps import EightSteps
    from headstart.training import FinderResult

DEFAULT_RATE = 1e-3
LOWEST_RATE = 5e-4
HIGHEST_RATE = 1e-2
# The whole network goes on from a head at its optimum, and a sweep of one step at each rate does not
# show what a hundred steps at one of them do. Trials of a few steps at each rate (`learn.try_rates`) see
# only the harm that the first steps do: the demo stayed at 92.3 % at their 2.7e-4, and came to
# 95.8 % at this limit (n = 1). What goes too far may be taken back by mixing the weights (ADR 11).
HIGHEST_WHOLE_TIMES_RATIO = 3e-3
BELOW_RISE = 5.0
# Of the way from guessing to perfect: so far, and the body needs little change.
NEARLY_THERE = 0.9


def choose_ratio(steps: EightSteps) -> float:
    """Return how many times lower each earlier group's rate is than the next, and say why."""
    started = time.monotonic()
    skill = 0.0 if steps.first is None else steps.first.skill
    if steps.rate_ratio is not None:
        ratio, why = steps.rate_ratio, "as asked for"
    elif skill >= NEARLY_THERE:
        ratio = 10.0
        why = f"frozen features alone go {skill:.0%} of the way from guessing to perfect"
    else:
        ratio = 3.0
        why = f"frozen features alone go only {skill:.0%} of the way: the body must change more"
    reason = "Early layers see edges and colours, which any pictures share: they need the least change."
    steps.narrator.step(6, "Lower rates for earlier groups", reason)
    outcome = f"each group at 1/{ratio:g} of the rate of the next ({why})"
    steps.record(StepResult(6, "Lower rates", reason, None, outcome, time.monotonic() - started))
    return ratio


def with_rates(steps: EightSteps, phase: Phase, ratio: float) -> Phase:
    """Return the phase with a rate for each group, found where the plan leaves it open.

    The finder runs once for each line and size: a rate stays good while these stay.
    """
    if phase.learning_rate is not None:
        return phase
    place = (steps.learner.model.frozen_line, steps.learner.data.image_size)
    if place not in steps.found_rates:
        steps.found_rates[place] = _find_rate(steps, phase, ratio)
    rate, groups = steps.found_rates[place], len(steps.learner.model.group_starts)
    rates = tuple(rate * ratio ** (number + 1 - groups) for number in range(groups))
    return replace(phase, learning_rate=rates)


def _find_rate(steps: EightSteps, phase: Phase, ratio: float) -> float:
    whole = phase.frozen_to == 0
    reason = "The highest rate at which the loss still clearly improves."
    title = "Learning-rate finder" + (", again" if steps.finders else "")
    step = 7 if whole and not steps.body.from_scratch else 2
    steps.narrator.step(step, title, reason)
    started = time.monotonic()
    groups = len(steps.learner.model.group_starts)
    learner = steps.learner.precompute() if phase.precompute else steps.learner
    # With the whole network each step costs; an epoch of them, or thirty, must do.
    found = learner.lr_find(
        [ratio ** (number + 1 - groups) for number in range(groups)],
        iterations=max(30, min(100, steps.data.steps_per_epoch)) if whole else 100,
        start=1e-6 if whole else 1e-7,
    )
    settled = whole and not steps.body.from_scratch
    rate, why = _choose_rate(found, HIGHEST_WHOLE_TIMES_RATIO / ratio if settled else HIGHEST_RATE)
    steps.finders.append(
        {
            "step": step,
            "title": f"{title}: {phase.name}",
            "rates": found.rates.tolist(),
            "losses": found.losses.tolist(),
            "smoothed": found.smoothed.tolist(),
            "suggestions": dict(found.suggestions),
            "chosen": rate,
            "note": why,
        }
    )
    outcome = f"{rate:.1e} for the head: {why}"
    steps.record(StepResult(step, title, reason, None, outcome, time.monotonic() - started))
    return rate


def _choose_rate(found: FinderResult, highest: float) -> tuple[float, str]:
    """Return the rate for the head, at most `highest`, and why.

    From the probe's optimum the loss can often only rise; then the rate stays well below that.
    """
    if found.valley is not None and LOWEST_RATE <= found.valley <= HIGHEST_RATE:
        rate, why = found.valley, "the valley of the curve"
    elif found.rises is not None:
        rate = min(HIGHEST_RATE, max(LOWEST_RATE, found.rises / BELOW_RISE))
        why = f"the loss rises from {found.rises:.1e} on, so {rate / found.rises:.2g} of that"
    else:
        rate, why = DEFAULT_RATE, f"the default, since {found.note or 'the curve has no valley'}"
    if rate > highest:
        return highest, f"{why}, at most {highest:.1e} where a head is at its optimum"
    return rate, why
