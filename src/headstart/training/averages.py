"""Averages of the weights along the way: validated and kept in place of the weights that train.

Training goes on from its own weights, untouched: the average stands in for them from `before_validate`
to `after_validate`, and `run.average` holds it until the next epoch, or the end, for those who keep what
was judged.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from headstart.errors import UsageError
from headstart.training.batchnorm import recalibrate_batch_norm
from headstart.training.callbacks import Callback, changing
from headstart.training.interrupts import PASSING_REASONS
from headstart.training.run import Run
from headstart.types import BatchSource

# Reasons to stop after which a run goes on elsewhere, from the very weights that it stopped at.
_UNFINISHED = (*PASSING_REASONS, "diverged", "device lost")


class _Average(Callback):
    """What the averages share: the numbers, in float32, and putting them in and out of the network.

    Averaged are the parameters that train and the buffers of floating point; whole numbers stay.
    """

    def __init__(self) -> None:
        self.count = 0
        self._average: dict[str, Tensor] = {}
        self._aside: dict[str, Tensor] = {}
        self._placed = False

    @abstractmethod
    def after_step(self, run: Run) -> None:
        """Take the weights into the average, where their time has come."""

    def before_fit(self, run: Run) -> None:
        """Begin anew with each phase; after a restart within one go on from the average that was saved."""
        run.average, self._aside = None, {}
        if run.span is None or run.span.done == 0:
            self.count, self._average = 0, {}

    def before_epoch(self, run: Run) -> None:
        """Forget what the validation of the epoch before saw."""
        run.average = None

    def before_validate(self, run: Run) -> None:
        """Let the average stand in for the weights, which are kept bit by bit."""
        if not self.count:
            return
        if run.average is not None:
            raise UsageError("two averages of the weights cannot both be validated", "keep one of the two")
        targets = changing(run)
        self._aside = {name: tensor.detach().clone() for name, tensor in targets.items()}
        self._write(run, targets)
        run.average = {name: tensor.detach().clone() for name, tensor in targets.items()}

    def after_validate(self, run: Run, metrics: dict[str, float]) -> None:
        """Put the weights that train back, bit by bit."""
        self._put_back(run)

    def after_fit(self, run: Run) -> None:
        """Leave the average in the network, unless the run is to go on from where it stopped."""
        self._put_back(run)
        span = run.span
        over = span is not None and (span.done >= span.total or bool(run.stop_reason))
        if self.count and over and run.stop_reason not in _UNFINISHED:
            targets = changing(run)
            if run.average is None:
                self._write(run, targets)
            else:
                _copy(run.average, targets)
        run.average = None

    def _write(self, run: Run, targets: Mapping[str, Tensor]) -> None:
        _copy(self._average, targets)
        self._complete(run)

    def _complete(self, run: Run) -> None:
        """Finish what averaging alone does not give."""

    def _put_back(self, run: Run) -> None:
        if self._aside:
            _copy(self._aside, changing(run))
            self._aside = {}

    def _blend(self, run: Run, share: float) -> None:
        """Move the average by `share` of the way to the weights as they are."""
        targets = {name: t.detach() for name, t in changing(run).items() if t.is_floating_point()}
        if not self.count:
            self._average = {name: t.to(torch.float32, copy=True) for name, t in targets.items()}
            self._placed = True
            return
        if self._average.keys() != targets.keys():
            raise UsageError(
                "the average is of other parameters than those that train now",
                "move the frozen line between two phases, not within one",
            )
        if not self._placed:
            self._average = {name: t.to(targets[name].device) for name, t in self._average.items()}
            self._placed = True
        torch._foreach_lerp_(
            list(self._average.values()), [targets[name].float() for name in self._average], share
        )

    def state(self) -> dict[str, Any]:
        """Return the average, and how many weights went into it."""
        return {"count": self.count, **{f"average.{name}": t for name, t in self._average.items()}}

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Take back the average."""
        prefix = "average."
        self.count = state["count"]
        self._average = {
            name.removeprefix(prefix): tensor.clone()
            for name, tensor in state.items()
            if name.startswith(prefix)
        }
        self._placed = False


def _copy(values: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            targets[name].copy_(value)


class EMA(_Average):
    """The exponential moving average of the weights, after every step.

    After t steps of a phase it keeps min(`decay`, (1 + t) / (10 + t)) of itself, so that it does not
    remember the start for long; with 0.99 it is of about the last hundred steps. Batch-norm statistics
    are averaged alike. Source: Polyak and Juditsky 1992; the warm-up is that of TensorFlow's
    `ExponentialMovingAverage`. Raises `UsageError` for a decay that is not in 0 … 1.
    """

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise UsageError(f"a decay of {decay}", "give a number from 0 to below 1, such as 0.99")
        self.decay = decay

    def before_fit(self, run: Run) -> None:
        """Begin with the weights that the phase begins with."""
        super().before_fit(run)
        if not self.count:
            self._blend(run, 1.0)
            self.count = 1

    def after_step(self, run: Run) -> None:
        """Move a little towards the weights of this step."""
        steps = self.count - 1
        self._blend(run, 1 - min(self.decay, (1 + steps) / (10 + steps)))
        self.count += 1


class SWA(_Average):
    """The plain mean of the weights at the ends of cycles (of epochs, where the schedule has one cycle).

    Weights count from `start` of the phase on (0 … 1). No batch has passed through averaged weights:
    with `model` and `source` (see `recalibrate_batch_norm`) batch-norm statistics are computed anew from
    the source before each validation and at the end, else they are averaged as well, which is right where
    they are held fixed. Source: Izmailov et al., arXiv 1803.05407.
    """

    def __init__(
        self, start: float = 0.0, *, model: nn.Module | None = None, source: BatchSource | None = None
    ) -> None:
        super().__init__()
        if not 0 <= start < 1:
            raise UsageError(f"a mean from {start} of the phase on", "give a number from 0 to below 1")
        if (model is None) != (source is None):
            raise UsageError("batch norm is recalibrated with a model and a source", "give both, or neither")
        self.start, self._model, self._source = start, model, source

    def after_step(self, run: Run) -> None:
        """Take the weights in where a cycle, or an epoch, ends."""
        span = run.span
        if span is None or span.batches_done < span.batches or span.done < self.start * span.total:
            return
        if span.at_cycle_end or len(span.schedule.cycle_ends()) == 1:
            self._blend(run, 1 / (self.count + 1))
            self.count += 1

    def _complete(self, run: Run) -> None:
        if self._model is not None and self._source is not None:
            recalibrate_batch_norm(self._model, self._source)
