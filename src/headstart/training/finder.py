"""The learning-rate finder: train for a moment at ever higher rates, look, and undo all of it.

Smith, arXiv 1506.01186; the suggestions are those of fastai 2.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn

from headstart.errors import UsageError
from headstart.training.losses import Loss
from headstart.training.optim import Rates
from headstart.training.rehearsal import endless, rehearsing
from headstart.training.run import Run
from headstart.types import BatchSource

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = NDArray[np.float64]
# The part of the search that is cut from its end, and the interval of `slide` (5 and 15 steps of 100).
TAIL = 0.05
INTERVAL = 0.15
FEWEST_POINTS = 10
# Below this part of itself the loss has not moved enough to tell a good rate from a bad one.
FLAT = 0.01
# A head at the optimum of its own training pictures starts at a loss of next to nothing (5e-4), of
# which four times is nothing still: below this loss no rise is counted as one.
SMALL_LOSS = 0.1


@dataclass(frozen=True, eq=False)
class FinderResult:
    """What the finder saw: `rates`, raw `losses` and `smoothed` losses, one for each step.

    `suggestions` has a rate, or None, for each of `valley`, `steep`, `minimum` and `slide`; all are
    None where the curve says nothing, and `note` then says why. `rises` is the first rate at which
    the loss clearly rises again, None if it never does: a step must stay well below. `low` and `high`
    are where a tenth and half of the fall are done: rates for the earliest layers and for the head.
    """

    rates: Curve
    losses: Curve
    smoothed: Curve
    suggestions: Mapping[str, float | None] = field(default_factory=dict)
    rises: float | None = None
    note: str = ""
    low: float | None = None
    high: float | None = None

    @property
    def range(self) -> slice | None:
        """`slice(low, high)`, which every `fit` takes for its rates; None where the curve says nothing."""
        return None if self.low is None else slice(self.low, self.high)

    @property
    def valley(self) -> float | None:
        """The middle of the longest stretch in which the loss falls; the usual choice."""
        return self.suggestions.get("valley")

    @property
    def steep(self) -> float | None:
        """Where the loss falls fastest."""
        return self.suggestions.get("steep")

    @property
    def minimum(self) -> float | None:
        """A tenth of the rate with the lowest loss."""
        return self.suggestions.get("minimum")

    @property
    def slide(self) -> float | None:
        """The left end of the last interval over which the slope of the loss changes little."""
        return self.suggestions.get("slide")

    def plot(self) -> Figure:
        """Return a figure of the smoothed loss over the rate, with the suggestions."""
        from headstart.evaluation import plot_lr_find

        rates, losses, smoothed = (curve.tolist() for curve in (self.rates, self.losses, self.smoothed))
        figure = plot_lr_find(rates, losses, smoothed, self.suggestions)
        if self.note:
            figure.suptitle(self.note, fontsize="medium")  # above the legend, which stands on the axes
        return figure


def lr_find(
    run: Run,
    source: BatchSource,
    *,
    loss: Loss,
    forward: nn.Module | None = None,
    rates: Rates | None = None,
    start: float = 1e-7,
    end: float = 10.0,
    iterations: int = 100,
    stop_factor: float = 4.0,
) -> FinderResult:
    """Train `iterations` steps at rates from `start` to `end`, and put everything back.

    The rate grows by the same factor at each step; the search stops early when the loss is not
    finite or, smoothed, above `stop_factor` times its best (taken as at least 0.1). `rates` gives
    the proportions between the groups (see `group_rates`); the last group's rate is the one that is
    searched. Weights,
    buffers, gradients, optimiser, modes and random states (Python, NumPy, torch) are bit by bit
    what they were, also after an error or Ctrl-C. Nothing is written to disk.
    """
    if not (0 < start < end) or iterations < 2:
        raise UsageError(f"cannot search from {start} to {end} in {iterations} steps")
    tried: list[float] = []
    losses: list[float] = []
    smoother = _Smoother(smoothing_for(iterations))
    with rehearsing(run, loss, forward=forward, rates=rates) as rehearsal:
        for step, batch in zip(range(iterations), endless(source, run.epoch, run.ranks), strict=False):
            tried.append(start * (end / start) ** (step / iterations))
            losses.append(rehearsal.gradient(batch, step, tried[-1]))
            if not math.isfinite(losses[-1]):
                break
            if smoother.add(losses[-1]) > stop_factor * max(smoother.best, SMALL_LOSS):
                break
            rehearsal.move()
    return judge(np.array(tried), np.array(losses), iterations)


def smoothing_for(iterations: int) -> float:
    """Return the weight of the past in the running mean: 0.98 for 100 steps, less for fewer."""
    return float(0.98 ** (100 / iterations))


class _Smoother:
    """A running mean that does not remember its start at zero."""

    def __init__(self, beta: float) -> None:
        self.beta = beta
        self.average = 0.0
        self.weight = 0.0
        self.best = math.inf

    def add(self, value: float) -> float:
        self.average = self.beta * self.average + (1 - self.beta) * value
        self.weight = self.beta * self.weight + (1 - self.beta)
        smoothed = self.average / self.weight
        self.best = min(self.best, smoothed)
        return smoothed


def judge(rates: Curve, losses: Curve, iterations: int) -> FinderResult:
    """Smooth a curve, and suggest rates or say why not: what `lr_find` does with what it saw."""
    beta = smoothing_for(iterations)
    smoother = _Smoother(beta)
    smoothed = np.array([smoother.add(float(value)) for value in losses])
    chosen = slice(iterations // 10, max(0, len(rates) - round(TAIL * iterations)))
    used_rates, used = rates[chosen], smoothed[chosen]
    finite = np.isfinite(used)
    if not finite.all():
        used_rates, used = used_rates[: finite.argmin()], used[: finite.argmin()]
    names = ("valley", "steep", "minimum", "slide")
    if len(used) < FEWEST_POINTS:
        note = f"the loss left its course after {len(losses)} of {iterations} steps: start at a lower rate"
        return FinderResult(rates, losses, smoothed, dict.fromkeys(names), None, note)
    first_at = iterations // 10
    lowest_at = first_at + int(used.argmin())
    spread = _spread(losses[: lowest_at + 1])
    errors = [spread * _standard_error(beta, position + 1) for position in (first_at, lowest_at)]
    note = _why_not(used, math.hypot(*errors))
    suggestions = dict.fromkeys(names) if note else _suggestions(used_rates, used, iterations)
    low, high = (None, None) if note else _falling_range(used_rates, used)
    rises = _rises(rates, smoothed, lowest_at, errors[1])
    return FinderResult(rates, losses, smoothed, suggestions, rises, note, low, high)


def _falling_range(rates: Curve, losses: Curve) -> tuple[float, float]:
    """Return the rates at which a tenth and half of the whole fall are done for good, before the minimum."""
    until = int(losses.argmin()) + 1
    first, lowest = float(losses[0]), float(losses[until - 1])
    low, high = (
        int(np.flatnonzero(losses[:until] > first - part * (first - lowest)).max(initial=0))
        for part in (0.1, 0.5)
    )
    return float(rates[low]), float(rates[max(high, low + 1)])


def _spread(losses: Curve) -> float:
    """Return how much single losses jump, by their differences, so that a trend does not count."""
    if len(losses) < 2:
        return 0.0
    return float(np.median(np.abs(np.diff(losses)))) / (0.6745 * math.sqrt(2))


def _standard_error(beta: float, count: int) -> float:
    """Return that of the running mean of `count` independent figures with spread 1."""
    return math.sqrt((1 - beta) / (1 + beta) * (1 + beta**count) / (1 - beta**count))


def _why_not(used: Curve, error: float) -> str:
    first, lowest = float(used[0]), float(used.min())
    fell = first - lowest
    if fell < FLAT * abs(first):
        return f"the loss hardly moves at any rate (it fell by {100 * fell / max(abs(first), 1e-12):.2g} %)"
    if fell < 3 * error:
        return f"the loss is too noisy to read: it fell by {fell:.2g}, give or take {error:.2g}"
    return ""


def _rises(rates: Curve, smoothed: Curve, lowest_at: int, error: float) -> float | None:
    lowest = float(smoothed[lowest_at])
    clearly = lowest + max(3 * error, 0.05 * max(abs(lowest), SMALL_LOSS))
    above = np.flatnonzero(~(smoothed[lowest_at:] <= clearly))
    return float(rates[lowest_at + above[0]]) if len(above) else None


def _suggestions(rates: Curve, losses: Curve, iterations: int) -> dict[str, float | None]:
    slopes = np.diff(losses) / np.diff(np.log(rates))
    return {
        "valley": _valley(rates, losses),
        "steep": float(rates[slopes.argmin()]),
        "minimum": float(rates[losses.argmin()]) / 10,
        "slide": _slide(rates, losses, iterations),
    }


def _valley(rates: Curve, losses: Curve) -> float:
    """Return the rate in the middle third of the longest falling subsequence."""
    lengths: Sequence[int] = _falling_lengths(losses)
    last = int(np.argmax(lengths))
    first = max(0, last - lengths[last])
    third = (last - first) / 3
    return float(rates[first + int(third) + int(third / 2)])


def _falling_lengths(losses: Curve) -> list[int]:
    """Return for each point the length of the longest falling subsequence that ends there."""
    lengths = [1] * len(losses)
    for i in range(1, len(losses)):
        lengths[i] = 1 + max((lengths[j] for j in range(i) if losses[i] < losses[j]), default=0)
    return lengths


def _slide(rates: Curve, losses: Curve, iterations: int) -> float | None:
    """Return the left end of the last interval at whose two ends the loss falls about as fast."""
    width, threshold = max(1, round(INTERVAL * iterations)), 0.5 / iterations
    if len(losses) < width + 2:
        return None
    slopes = np.gradient(losses)
    right, left = -1, -1 - width
    rate = rates[left]
    while left >= -len(losses) and abs(slopes[right] - slopes[left]) > threshold:
        rate = rates[left]
        right, left = right - 1, left - 1
    return float(rate)


def seconds_per_step(
    run: Run,
    source: BatchSource,
    *,
    loss: Loss,
    forward: nn.Module | None = None,
    rates: Rates | None = None,
    steps: int = 5,
) -> float:
    """Measure `steps` training steps, after two to warm up; the run is left as it was, bit by bit."""

    def train(count: int) -> None:
        lr_find(run, source, loss=loss, forward=forward, rates=rates, start=1e-8, end=1e-7, iterations=count)

    train(2)
    started = time.monotonic()
    train(steps)
    return (time.monotonic() - started) / steps
