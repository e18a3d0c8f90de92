"""What the weights at the ends of cycles give together: one network of their mean, or several networks.

A soup averages weights and costs nothing to predict with (Wortsman et al. 2022, arXiv 2203.05482); an
ensemble averages probabilities and costs as much as it has members (Huang et al. 2017, arXiv 1704.00109).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headstart.errors import UsageError
from headstart.evaluation import Predictions, average
from headstart.evaluation.calibration import halves_of
from headstart.recipe.interpolation import can_interpolate, unheated
from headstart.recipe.result import StepResult
from headstart.recipe.verdict import gain_in_log_loss, pays, softened
from headstart.training import Phase

if TYPE_CHECKING:
    import torch

    from headstart.recipe.steps import EightSteps

    State = Mapping[str, torch.Tensor]

Recipe = tuple[int, ...]
"""The numbers of the ingredients that a soup is made of, in rising order."""


def soup_of(states: Sequence[State]) -> dict[str, torch.Tensor]:
    """Return the mean of several states of one network; whole numbers are those of the last one.

    Raises `UsageError` where there is none, or where they are of different networks.
    """
    if not states:
        raise UsageError("a soup of nothing", "give the states of one network")
    if not all(can_interpolate(states[0], other) for other in states[1:]):
        raise UsageError("states of different networks cannot be mixed", "give those of the same network")
    return {name: _mean([state[name] for state in states]) for name in states[0]}


def _mean(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    if not tensors[0].is_floating_point():
        return tensors[-1].clone()
    total = tensors[0].double()
    for tensor in tensors[1:]:
        total = total + tensor.to(total.device)
    return (total / len(tensors)).to(tensors[0].dtype)


@dataclass(frozen=True, eq=False)
class Soup:
    """A soup that was chosen greedily: its ingredients, its predictions, and those to judge it by."""

    recipe: Recipe
    valid: Predictions
    judged: Predictions


def greedy_soup(count: int, predict: Callable[[Recipe], Predictions], *, seed: int = 0) -> Soup:
    """Choose among `count` ingredients: the best first, then each that does not make the soup worse.

    `predict` gives the predictions of the validation rows by the mean of some ingredients; it is asked
    once for each soup that is tried, fewer than 4 · `count` of them. Soups are compared by calibrated log
    loss. The choice is made by all rows, and by each half of them for the rows of the other, which
    `judged` holds: a soup would else be judged by the rows that it was made to please.
    """
    if count < 1:
        raise UsageError("a soup of nothing", "give one ingredient or more")
    tasted: dict[Recipe, Predictions] = {}

    def taste(recipe: Recipe) -> Predictions:
        if recipe not in tasted:
            tasted[recipe] = softened(predict(recipe))
        return tasted[recipe]

    first = taste((0,))
    halves = halves_of(first, seed)
    chosen = _choose(count, taste, halves >= 0)
    logits = unheated(taste(chosen))
    for half in (0, 1):
        by_others = _choose(count, taste, halves == 1 - half)
        logits[halves == half] = unheated(taste(by_others))[halves == half]
    whole = taste(chosen)
    judged = replace(whole, logits=logits, temperature=1.0)
    return Soup(chosen, whole.with_temperature(1.0), judged)


def _choose(count: int, taste: Callable[[Recipe], Predictions], rows: NDArray[np.bool_]) -> Recipe:
    """Return the recipe that these rows choose."""

    def loss(recipe: Recipe) -> float:
        of_rows = taste(recipe).loss[rows]
        return float(of_rows.mean()) if len(of_rows) else 0.0

    alone = [loss((number,)) for number in range(count)]
    order = sorted(range(count), key=lambda number: (not np.isfinite(alone[number]), alone[number]))
    chosen: Recipe = (order[0],)
    best = alone[order[0]]
    for number in order[1:]:
        more = tuple(sorted((*chosen, number)))
        value = loss(more)
        if value <= best:
            chosen, best = more, value
    return chosen


# ---- the step of the recipe ----------------------------------------------------------------


def combine_snapshots(
    steps: EightSteps, phase: Phase, before: State, snapshots: Sequence[State], how: str
) -> None:
    """Try what the snapshots of a phase give together with the best model, and keep it if it pays.

    `how`: `soup`, greedily of these and the model before the phase, or `ensemble`. The learner is left at
    the best model.
    """
    best = steps.best
    states = [best.state, *([before] if before is not best.state else []), *snapshots]
    states = [state for state in states if can_interpolate(best.state, state)]
    if len(states) < 2 or best.size != steps.learner.data.image_size:
        return
    started = time.monotonic()
    members: tuple[State, ...] = ()
    if how == "soup":
        reason = "The mean of weights that training has passed through is often better than any of them."
        steps.narrator.step(phase.step, "Soup of snapshots", reason)
        made = greedy_soup(len(states), lambda recipe: _ask(steps, [soup_of([states[n] for n in recipe])]))
        valid, judged = made.valid, made.judged
        state: State = soup_of([states[number] for number in made.recipe])
        what = f"{len(made.recipe)} of {len(states)} ingredients"
    else:
        reason = "Each cycle ends elsewhere; networks that err in other places are right together."
        steps.narrator.step(phase.step, "Ensemble of snapshots", reason)
        members, state = (best.state, *snapshots), best.state
        valid = judged = _ask(steps, members)
        what = f"{len(members)} networks, and as many times the cost of a prediction"
    gain = gain_in_log_loss(best.valid, judged)
    kept, metrics = pays(gain, clearly=how == "ensemble"), steps.measure(valid)
    name = f"{how} of snapshots"
    if kept:
        steps.best = replace(best, valid=valid, state=dict(state), name=name, members=members)
    steps.learner.set_state(steps.best.state)
    steps.record(
        StepResult(
            number=phase.step,
            name=name,
            reason=reason,
            kept=kept,
            outcome=f"{what}; {steps.outcome(metrics, gain, kept, f'the {best.name}')}",
            seconds=time.monotonic() - started,
            metrics=metrics,
            gain=gain,
            gain_accuracy=steps.gain_in_metric(best.valid, judged),
        )
    )


def _ask(steps: EightSteps, states: Sequence[State]) -> Predictions:
    answers = []
    for state in states:
        steps.learner.set_state(state)
        answers.append(steps.learner.predictions("valid"))
    return answers[0] if len(answers) == 1 else average(answers)
