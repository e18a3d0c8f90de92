"""Between the model before a phase and the one after it: which mixture of the two is kept.

Training on few pictures goes too far in some directions and well in others. With fixed batch norm the
network before and the one after lie in one basin, and a point between them is often better than both:
Wortsman et al. 2021, "Robust fine-tuning of zero-shot models" (WiSE-FT), arXiv 2109.01903.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headstart.errors import UsageError
from headstart.evaluation import Predictions
from headstart.evaluation.calibration import halves_of
from headstart.evaluation.predictions import check_same_rows
from headstart.recipe.result import StepResult
from headstart.recipe.verdict import gain_in_log_loss, softened
from headstart.training import Phase

if TYPE_CHECKING:
    import torch

    from headstart.recipe.steps import EightSteps

ALPHAS = (0.25, 0.5, 0.75, 1.0)
"""How far each candidate is on the way from the model before (0) to the trained one (1)."""

SURE = 2.0
"""How many standard errors of its gain are taken off a candidate's, before candidates are compared."""


@dataclass(frozen=True, eq=False)
class Choice:
    """Which of several candidates is best, and an honest table of what choosing so gives.

    `number`: the candidate that all rows together choose. `judged`: each row as the candidate predicts
    it that the *other* half of the rows chose; over-confidence is taken from it already, so its
    temperature is 1. Whether the choice pays is to be asked of `judged`, never of the candidate itself.
    """

    number: int
    judged: Predictions


def cross_fitted_choice(
    candidates: Sequence[Predictions], *, before: Predictions | None = None, seed: int = 0
) -> Choice:
    """Choose the candidate with the lowest calibrated log loss; of equals the first.

    With `before`, the predictions that are to be improved on, the one whose gain on them is surest: the
    mean less twice its standard error is the highest. Far from the start a gain may be larger and yet not
    be told from chance.

    `candidates` are the predictions of the same rows. Each is softened by one temperature of 1 or more,
    as steps are judged, then halves of the rows, even within each class, choose for each other. Raises
    `UsageError` where there is no candidate, or where their rows differ.
    """
    if not candidates:
        raise UsageError("there is nothing to choose from")
    first = candidates[0]
    for other in candidates[1:]:
        check_same_rows(first, other)
    tables = [softened(table) for table in candidates]
    losses = np.stack([table.loss for table in tables])
    if before is not None:
        check_same_rows(first, before)
        losses = losses - softened(before).loss
    spread = 0.0 if before is None else SURE
    halves = halves_of(first, seed)
    number = _lowest(losses, spread)
    if len(candidates) == 1:
        return Choice(0, tables[0])
    logits = unheated(tables[number])
    for half in (0, 1):
        chosen = _lowest(losses[:, halves == 1 - half], spread)
        logits[halves == half] = unheated(tables[chosen])[halves == half]
    return Choice(number, replace(tables[number], logits=logits, temperature=1.0))


def _lowest(losses: NDArray[np.float64], spread: float) -> int:
    """The candidate (row) with the lowest mean, plus `spread` standard errors of it.

    One that is not finite anywhere it should be never is.
    """
    scored = ~np.isnan(losses).all(axis=0)
    known = losses[:, scored] if scored.any() else np.zeros((len(losses), 1))
    with np.errstate(invalid="ignore"):
        means = known.mean(axis=1) + spread * known.std(axis=1) / math.sqrt(known.shape[1])
    return int(np.argmin(np.where(np.isfinite(means), means, np.inf)))


def unheated(table: Predictions) -> NDArray[np.float32]:
    """Return the logits over their temperature, as a table of temperature 1 would have them."""
    return np.asarray(table.logits.astype(np.float64) / table.temperature, np.float32)


def interpolated(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], alpha: float
) -> dict[str, torch.Tensor]:
    """Return the state `alpha` of the way from `before` (0) to `after` (1), both ends bit for bit.

    Parameters and buffers of floating point are mixed; whole numbers (how many batches a batch norm has
    seen) are those of the nearer end. Raises `UsageError` unless `can_interpolate`.
    """
    if not can_interpolate(before, after):
        raise UsageError("two states of different networks cannot be mixed", "give two of the same network")
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is {alpha}", "give a number from 0 (before) to 1 (after)")
    nearer = after if alpha >= 0.5 else before
    return {
        name: start.lerp(after[name], alpha) if start.is_floating_point() else nearer[name].clone()
        for name, start in before.items()
    }


def can_interpolate(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> bool:
    """Say whether two states have the same names and shapes; positions for another size have not."""
    return before.keys() == after.keys() and all(
        tensor.shape == after[name].shape and tensor.dtype == after[name].dtype
        for name, tensor in before.items()
    )


@dataclass(frozen=True, eq=False)
class Mixture:
    """What a phase gave: the learner's predictions of the validation rows, and those it is judged by."""

    valid: Predictions
    judged: Predictions


def mix_with_best(steps: EightSteps, phase: Phase, trained: Predictions) -> Mixture:
    """Leave the learner at the surest point on the way from the best model before to the trained one.

    Where the trained one is clearly better as it is, it stays.

    `trained` are the validation predictions of the learner as it stands; every other point costs one
    evaluation of the validation rows. A phase of the head alone, a network from scratch, an interrupted
    run and two networks of different shapes are left as they are.
    """
    learner, before = steps.learner, steps.best
    after = learner.state()
    alone = phase.frozen_to != 0 or steps.body.from_scratch or bool(steps.stop_reason)
    if alone or not can_interpolate(before.state, after):
        return Mixture(trained, trained)
    if gain_in_log_loss(before.valid, trained).verdict == "better":
        return Mixture(
            trained, trained
        )  # what is clearly better as it is needs no choice, and no rows spent on one
    started = time.monotonic()
    candidates = []
    for alpha in ALPHAS[:-1]:
        learner.set_state(interpolated(before.state, after, alpha))
        candidates.append(learner.predictions("valid"))
    choice = cross_fitted_choice([*candidates, trained], before=before.valid)
    alpha = ALPHAS[choice.number]
    learner.set_state(interpolated(before.state, after, alpha))
    steps.record(
        StepResult(
            number=phase.step,
            name=f"{phase.name}, part of the way",
            reason="Training goes too far on few pictures: a point on the way there is often better.",
            kept=None,
            outcome=_told(alpha, before.name),
            seconds=time.monotonic() - started,
        )
    )
    return Mixture([*candidates, trained][choice.number], choice.judged)


def _told(alpha: float, name: str) -> str:
    tried = ", ".join(f"{value:g}" for value in ALPHAS)
    if alpha == 1:
        return f"the trained weights as they are: no point between them and the {name} is better ({tried})"
    return (
        f"weights {alpha:g} of the way from the {name} to the trained ones: of {tried} the surest gain in "
        "calibrated log loss, judged on rows that did not choose"
    )
