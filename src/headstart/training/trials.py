"""Short trials: a few steps at each of some rates, each from the same weights, on the same batches.

The finder takes one step at each rate, which does not show what many steps at one of them do: where a
network starts from a head at its optimum, the loss can hardly fall, its small rises drown in the noise
between batches, and a rate that wrecks the network looks like one that does nothing. A trial is paired: the
loss of each batch is compared with the loss of *that* batch at the weights (and with the dropout) that all
trials start from, which takes the noise between batches out.

In spirit successive halving (Jamieson and Talwalkar, arXiv 1502.07943): a rate that does harm is given up
at once, so that nearly all steps go to those that are worth it.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from headstart.errors import UsageError
from headstart.training.losses import Loss
from headstart.training.optim import Rates
from headstart.training.rehearsal import Rehearsal, endless, rehearsing
from headstart.training.run import Run
from headstart.types import Batch, BatchSource

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A factor of three apart: nearer ones are not told apart by so few steps.
CANDIDATES = tuple(1e-5 * 3**power for power in range(8))
FEWEST_STEPS = 4
# Two steps in a row that cost this part of the loss more: no later ones will make it good.
GIVE_UP = 0.5
# A rate is harmless when it adds at most this part to the loss, and half its standard error. Heads at their
# optimum, 96 px, trials of eight steps: with the whole error allowed, flowers got 2.7e-4, which cost
# 0.05 ± 0.03 of a loss of 0.59 after an epoch; with none, catsdogs got 1e-5, which changes nothing (n = 1).
HARMLESS = 0.05
# A head at its optimum starts at next to nothing, of which a part is nothing still.
SMALL_LOSS = 0.1


@dataclass(frozen=True)
class Trial:
    """What `steps` steps at one `rate` did.

    `change` is the mean difference to the loss of the same batch at the start, over the later half of
    the steps, `error` the standard error of that, and `cost` the mean over all steps; `given_up` where
    the trial ended early because the rate did harm: `change` and `cost` are then those of its last two
    steps.
    """

    rate: float
    steps: int
    change: float
    error: float
    cost: float
    given_up: bool = False


@dataclass(frozen=True, eq=False)
class TrialsResult:
    """What the trials showed: the `trials` by rising rate, and the mean loss that they `start` from.

    `rate` is the one to train with, `low` and `high` the range in which no rate was clearly worse; all
    are None where no rate helped or was harmless. `helps` says whether the loss clearly fell; `why` says
    in words what was chosen, or why nothing was. `pictures` counts the training steps' pictures.
    """

    start: float
    trials: tuple[Trial, ...]
    rate: float | None
    low: float | None
    high: float | None
    helps: bool
    why: str
    pictures: int = 0

    @property
    def range(self) -> slice | None:
        """`slice(low, high)`, as `fit` takes it, or None."""
        return None if self.low is None else slice(self.low, self.high)

    def plot(self) -> Figure:
        """Return a figure of the loss after each trial over the rate, with the one that was chosen."""
        from headstart.evaluation import plot_lr_find

        seen = [trial for trial in self.trials if math.isfinite(trial.change)]
        losses = [self.start + trial.change for trial in seen]
        figure = plot_lr_find([trial.rate for trial in seen], losses, chosen=self.rate)
        figure.axes[0].set_xlabel(f"learning rate\n{textwrap.fill(self.why, 72)}")
        return figure


def try_rates(
    run: Run,
    source: BatchSource,
    *,
    loss: Loss,
    forward: nn.Module | None = None,
    rates: Rates | None = None,
    candidates: Sequence[float] = CANDIDATES,
    steps: int = 8,
) -> TrialsResult:
    """Train `steps` steps at each candidate rate, the highest first, always from where the run stands.

    The rate rises over the first half of a trial: AdamW's first steps are as long as any, whatever the
    gradients' size, and what they cost a whole phase makes good. The lowest are not tried where
    two in a row did no better than a harmless one above them. `rates` gives the
    proportions between the groups; the last group's rate is the one that is tried. All is put back bit by
    bit, also after an error or Ctrl-C; nothing is written to disk.

    Raises `UsageError` for fewer than four steps, or candidates that are not above 0.
    """
    if steps < FEWEST_STEPS or not candidates or not all(0 < rate < math.inf for rate in candidates):
        raise UsageError(
            f"cannot try {len(candidates)} rates for {steps} steps each",
            f"give rates above 0 and at least {FEWEST_STEPS} steps",
        )
    tried: list[Trial] = []
    with rehearsing(run, loss, forward=forward, rates=rates) as rehearsal:
        batches = list(islice(endless(source, run.epoch, run.ranks), steps))
        base = rehearsal.losses(batches)
        for rate in sorted(set(candidates), reverse=True):
            with rehearsal.undone():
                tried.append(_try(rehearsal, batches, base, rate))
            if _lower_is_no_better(tried, _allowed(float(np.mean(base)))):
                break
    pictures = sum(len(batch) for trial in tried for batch in batches[: trial.steps])
    pictures = int(run.ranks.table(pictures).sum())
    return choose(float(np.mean(base)), sorted(tried, key=lambda trial: trial.rate), pictures)


def _try(rehearsal: Rehearsal, batches: Sequence[Batch], base: Sequence[float], rate: float) -> Trial:
    warm_up = len(batches) / 2
    most = GIVE_UP * max(float(np.mean(base)), SMALL_LOSS)
    changes: list[float] = []
    for number, batch in enumerate(batches):
        now = rehearsal.gradient(batch, number, rate * min(1.0, (number + 1) / warm_up))
        changes.append(now - base[number])
        if not math.isfinite(now) or min(changes[-2:]) > most:
            lost = _finite_mean(changes[-2:])
            return Trial(rate, number + 1, lost, 0.0, lost, given_up=True)
        rehearsal.move()
    later = np.array(changes[len(changes) // 2 :])
    error = float(later.std(ddof=1) / math.sqrt(len(later)))
    # The first step is taken at the weights that all start from: its difference is none.
    return Trial(rate, len(batches), float(later.mean()), error, float(np.mean(changes[1:])))


def _finite_mean(values: Sequence[float]) -> float:
    mean = float(np.mean(values))
    return mean if math.isfinite(mean) else math.inf


def _allowed(start: float) -> float:
    return HARMLESS * max(start, SMALL_LOSS)


def _is_harmless(trial: Trial, allowed: float) -> bool:
    return not trial.given_up and max(trial.change, trial.cost) <= allowed + trial.error / 2


def _lower_is_no_better(tried: Sequence[Trial], allowed: float) -> bool:
    """Whether of trials by falling rate the last two did no better than a harmless one before them."""
    whole = [trial for trial in tried if not trial.given_up]
    before = [trial.change for trial in whole[:-2] if _is_harmless(trial, allowed)]
    return bool(before) and min(before) <= min(trial.change for trial in whole[-2:]) + allowed


def choose(start: float, trials: Sequence[Trial], pictures: int = 0) -> TrialsResult:
    """Choose a rate from trials by rising rate: what `try_rates` does with what it saw."""
    allowed = _allowed(start)
    whole = [trial for trial in trials if not trial.given_up]
    best = min(whole, key=lambda trial: trial.change, default=None)
    if best is not None and best.change < -2 * best.error and best.change < -allowed:
        near = [t for t in whole if t.change <= best.change + math.hypot(t.error, best.error)]
        why = f"in trials the loss fell most, by {-best.change:.2g} from {start:.2g}"
        return TrialsResult(start, tuple(trials), best.rate, near[0].rate, near[-1].rate, True, why, pictures)
    harmless = [trial for trial in whole if _is_harmless(trial, allowed)]
    if not harmless:
        why = f"every rate tried, from {trials[0].rate:.0e} on, made the loss of {start:.2g} clearly worse"
        return TrialsResult(start, tuple(trials), None, None, None, False, why, pictures)
    chosen = harmless[-1]
    above = next((t for t in trials if t.rate > chosen.rate), None)
    more = "" if above is None else f"; at {above.rate:.1e} it rises by {max(above.change, above.cost):.2g}"
    why = f"the highest rate in trials that leaves the loss of {start:.2g} as it is{more}"
    return TrialsResult(
        start, tuple(trials), chosen.rate, harmless[0].rate, chosen.rate, False, why, pictures
    )
