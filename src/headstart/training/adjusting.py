"""Callbacks that change how the optimiser steps: scheduled weight decay and momentum, rates on a plateau."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from headstart.errors import UsageError
from headstart.training.callbacks import Callback
from headstart.training.monitor import cost
from headstart.training.optim import set_decay, set_momentum
from headstart.training.run import Row, Run
from headstart.training.schedules import Schedule


class Scheduled(Callback):
    """Moves weight decay and momentum along schedules of their own, as the rates move along theirs.

    `weight_decay` and `momentum` are the peaks, which their schedule multiplies; None leaves what the
    loop sets. Parameters with at most one dimension have no weight decay, here as elsewhere. Both are
    pure functions of progress, so there is nothing to remember.
    """

    def __init__(
        self,
        *,
        weight_decay: float | None = None,
        weight_decay_schedule: Schedule | None = None,
        momentum: float | None = None,
        momentum_schedule: Schedule | None = None,
    ) -> None:
        self.weight_decay, self.weight_decay_schedule = weight_decay, weight_decay_schedule or Schedule()
        self.momentum, self.momentum_schedule = momentum, momentum_schedule or Schedule()

    def after_backward(self, run: Run) -> None:
        """Set both for the step that is about to be taken."""
        assert run.optimizer is not None
        assert run.span is not None
        done, total = run.span.done, run.span.total
        if self.weight_decay is not None:
            set_decay(run.optimizer, self.weight_decay * self.weight_decay_schedule.factor(done, total))
        if self.momentum is not None:
            set_momentum(run.optimizer, self.momentum * self.momentum_schedule.factor(done, total))


class ReduceOnPlateau(Callback):
    """Lowers the rates of all groups to `factor` of what the schedule gives, once nothing gets better.

    After `patience` epochs without a `monitor` better by `min_delta`, and again after as many more, but
    not below `lowest` of the schedule's rates. A phase starts anew. The history has the rates that were
    used.
    """

    def __init__(
        self,
        patience: int = 2,
        factor: float = 0.1,
        *,
        monitor: str = "valid_loss",
        min_delta: float = 0.0,
        lowest: float = 1e-4,
    ) -> None:
        if patience < 1:
            raise UsageError(f"a patience of {patience} epochs", "give 1 or more")
        if not 0 < factor < 1:
            raise UsageError(f"rates reduced to {factor} of themselves", "give a factor between 0 and 1")
        self.patience, self.factor, self.lowest = patience, factor, lowest
        self.monitor, self.min_delta = monitor, min_delta
        self._begin()

    def _begin(self) -> None:
        self.scale = 1.0
        self.best = math.inf
        self.waited = 0
        self._scaled_step: int | None = None

    def before_fit(self, run: Run) -> None:
        """Forget other phases; after a restart within this one nothing is forgotten."""
        if run.span is not None and run.span.done == 0:
            self._begin()

    def after_backward(self, run: Run) -> None:
        """Lower the rates that the schedule gave for this step, once."""
        if self.scale == 1.0 or self._scaled_step == run.step:
            return
        assert run.optimizer is not None
        self._scaled_step = run.step
        for group in run.optimizer.param_groups:
            group["lr"] *= self.scale

    def after_step(self, run: Run) -> None:
        """Write down the rate that was used."""
        if self.scale != 1.0 and run.span is not None:
            run.span.rates[-1] *= self.scale

    def after_epoch(self, run: Run, row: Row) -> None:
        """Count the epochs that brought nothing."""
        value = cost(row, self.monitor)
        if value < self.best - self.min_delta or (math.isinf(self.best) and math.isfinite(value)):
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.scale, self.waited = max(self.lowest, self.scale * self.factor), 0

    def state(self) -> dict[str, Any]:
        """Return the scale, the best figure so far and how long nothing was better."""
        best = self.best if math.isfinite(self.best) else None
        return {"scale": self.scale, "best": best, "waited": self.waited}

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.scale, self.waited = float(state["scale"]), int(state["waited"])
        self.best = math.inf if state["best"] is None else float(state["best"])
