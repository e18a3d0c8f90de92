"""Going back to the last good weights, at a third of the rate, when training has left its course."""

from __future__ import annotations

import copy
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from headstart.errors import HeadstartError
from headstart.training.callbacks import Callback
from headstart.training.guard import NonFiniteError
from headstart.training.run import Run, Span

ATTEMPTS = 3
SLOWER = 3.0
# The medians of so many losses are compared: single batches, however odd, decide nothing.
FIRST, RECENT = 10, 20
FAR_ABOVE = 2.0
# Small batches wander about the loss of guessing for a while: so far above it all is well.
IN_COURSE = 1.25


class DivergedError(HeadstartError):
    """The loss has long been far above where it began."""

    code = "DIVERGED"
    exit_code = 65


def has_diverged(first: Sequence[float], recent: Sequence[float], guess: float) -> bool:
    """Tell whether a phase has left its course.

    `first` are its first losses (up to 10), `recent` its last ones: the median of 20 must lie above
    twice the median of the first, and above twice `guess`, the loss of a network that knows nothing. A
    phase that starts at an optimum may rise to many times its first loss and still be in its course.
    """
    return len(recent) >= RECENT and statistics.median(recent) > FAR_ABOVE * _level(first, guess)


def _level(first: Sequence[float], guess: float) -> float:
    return max(statistics.median(first), guess) if first else guess


class Rollback(Callback):
    """Lets `fit` go back when a loss is not finite, or has diverged, and go on at a third of the rate.

    It goes back to the start of the last epoch that began in good course: weights, buffers, optimiser,
    history and what the other callbacks remember, bit by bit; the order of the pictures is the same
    again. Each time `run.adjustments` gets a notice. After `attempts` times in one phase it goes back
    once more and `fit` raises. `guess` is the loss of a network that knows nothing: ln(classes), or
    ln 2 for tags. The copy takes as much memory as what trains, with its optimiser; it lies on the CPU.
    """

    def __init__(self, *, guess: float = 1.0, attempts: int = ATTEMPTS) -> None:
        self.guess, self.attempts = guess, attempts
        self._first: list[float] = []
        self._recent: list[float] = []
        self._read = 0
        self._tensors: dict[str, Tensor] = {}
        self._plain: dict[str, Any] = {}

    # ---- the course of the loss --------------------------------------------------------------

    def before_fit(self, run: Run) -> None:
        """Forget other phases; after a restart within this one nothing is forgotten."""
        if run.span is not None and run.span.done == 0:
            self._forget()

    def before_epoch(self, run: Run) -> None:
        """Begin with the epoch's first loss."""
        if run.span is not None and run.span.batches_done == 0:
            self._read = 0

    def after_step(self, run: Run) -> None:
        """Take note of the losses; raise `DivergedError` when they have left their course."""
        span = run.span
        assert span is not None
        fresh = span.losses[self._read :]
        self._read = len(span.losses)
        for loss in fresh:
            if len(self._first) < FIRST:
                self._first.append(loss)
        self._recent = [*self._recent, *fresh][-RECENT:]
        if (
            fresh
            and fresh[-1] > FAR_ABOVE * self.guess
            and has_diverged(self._first, self._recent, self.guess)
        ):
            run.stop_reason = "diverged"
            now, began = statistics.median(self._recent), statistics.median(self._first)
            raise DivergedError(
                f"the loss has diverged: {now:.3g} at step {run.step} (epoch {run.epoch}, learning rate "
                f"{span.rates[-1]:.3g}), {began:.3g} where the phase began",
                "lower the learning rate (lr_find suggests one)",
            )

    def _in_course(self) -> bool:
        if not self._recent:
            return True
        return statistics.median(self._recent) <= IN_COURSE * _level(self._first, self.guess)

    def _forget(self) -> None:
        self._first, self._recent, self._read = [], [], 0
        self._tensors, self._plain = {}, {}

    # ---- going back --------------------------------------------------------------------------

    def mark(self, run: Run, callbacks: Sequence[Callback]) -> None:
        """Keep a copy of the run where an epoch begins in good course; `fit` calls this."""
        span = run.span
        assert span is not None
        if span.done == 0:
            self._forget()
        if span.batches_done or (self._plain and not self._in_course()):
            return
        tensors = {name: _copied(tensor) for name, tensor in _live(run).items()}
        states: dict[str, dict[str, Any]] = {}
        for key, callback in self._others(callbacks):
            state = callback.state()
            for name, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"{key} {name}"] = _copied(value)
            plain = {name: value for name, value in state.items() if not isinstance(value, Tensor)}
            states[key] = copy.deepcopy(plain)
        self._tensors = tensors
        self._plain = {
            "step": run.step,
            "epoch": run.epoch,
            "rows": len(run.history),
            "span": copy.deepcopy(span.to_plain()),
            "callbacks": states,
            "first": list(self._first),
            "recent": list(self._recent),
        }

    def go_back(self, run: Run, callbacks: Sequence[Callback], error: NonFiniteError | DivergedError) -> bool:
        """Put the run back to the mark; return False when that has been done too often. `fit` calls this."""
        if not self._plain:
            return False
        self._restore(run, callbacks)
        adjustments = run.adjustments
        if adjustments.rollbacks >= self.attempts:
            adjustments.notices.append(
                f"{error.message}; given up after {adjustments.rollbacks} attempts at lower rates: "
                f"the weights are those where epoch {run.epoch} began"
            )
            return False
        adjustments.rollbacks += 1
        adjustments.rate_factor /= SLOWER
        run.stop_reason = ""
        adjustments.notices.append(
            f"{error.message}; back to where epoch {run.epoch} began, at a third of the rate "
            f"({adjustments.rollbacks} of at most {self.attempts} times)"
        )
        return True

    def _restore(self, run: Run, callbacks: Sequence[Callback]) -> None:
        plain = self._plain
        with torch.no_grad():
            _drop_new_state(run, self._tensors)
            for name, tensor in _live(run).items():
                tensor.copy_(self._tensors[name])
        for key, callback in self._others(callbacks):
            if key in plain["callbacks"]:
                callback.restore_state({**copy.deepcopy(plain["callbacks"][key]), **self._tensors_of(key)})
        run.step, run.epoch = plain["step"], plain["epoch"]
        del run.history.rows[plain["rows"] :]
        run.span = Span.from_plain(copy.deepcopy(plain["span"]))
        self._first, self._recent, self._read = list(plain["first"]), list(plain["recent"]), 0

    def _others(self, callbacks: Sequence[Callback]) -> Iterator[tuple[str, Callback]]:
        """Yield the other callbacks under names that are the same after a restart with more of them."""
        seen: Counter[str] = Counter()
        for callback in callbacks:
            kind = type(callback).__name__
            if callback is not self:
                yield f"callback {kind} {seen[kind]}", callback
                seen[kind] += 1

    def _tensors_of(self, key: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(f"{key} "): _copied(tensor)
            for name, tensor in self._tensors.items()
            if name.startswith(f"{key} ")
        }

    # ---- surviving a restart -----------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the course of the loss and the mark."""
        course = {"first": self._first, "recent": self._recent, "read": self._read}
        return {"course": course, "mark": self._plain, **self._tensors}

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Take back the course of the loss and the mark."""
        course = state["course"]
        self._first, self._recent, self._read = list(course["first"]), list(course["recent"]), course["read"]
        self._plain = dict(state["mark"])
        self._tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _live(run: Run) -> dict[str, Tensor]:
    """What changes in training: parameters that train, buffers, and the optimiser's tensors, by name."""
    assert run.optimizer is not None
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    trained = {f"model {name}": p for name, p in run.model.named_parameters() if p.requires_grad}
    buffers = {f"model {name}": buffer for name, buffer in run.model.named_buffers()}
    optimizer = {
        f"optimizer {names[id(parameter)]} {entry}": value
        for parameter, entries in run.optimizer.state.items()
        for entry, value in entries.items()
        if isinstance(value, Tensor)
    }
    return {**trained, **buffers, **optimizer}


def _drop_new_state(run: Run, kept: Mapping[str, Tensor]) -> None:
    """Take from the optimiser what it had not at the mark; it then begins anew, as it did there."""
    assert run.optimizer is not None
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    for parameter, entries in list(run.optimizer.state.items()):
        name = names[id(parameter)]
        if any(f"optimizer {name} {entry}" not in kept for entry in entries):
            del run.optimizer.state[parameter]


def guess_loss(classes: int, *, tags: bool) -> float:
    """Return the loss of a network that knows nothing: ln(classes), or ln 2 for tags."""
    return math.log(2) if tags else math.log(max(2, classes))
