"""An error of somebody's code in the middle of training: what it takes to go on from there, to the same bits.

Nothing may be lost that was trained before it, and nothing may be counted twice. Between two steps the run
is whole. Within a step, before the weights move, it is put back to where the step began. And where callbacks
were told of a step or of an epoch and one of them fails, those before it are not told again after a restart.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headstart.training.callbacks import Callback, named_callbacks
from headstart.training.run import Run

if TYPE_CHECKING:
    from headstart.training.guard import Guard

AFTER_STEP, AFTER_EPOCH = "after_step", "after_epoch"

# A traceback of more is that of a recursion without end.
MOST_TRACEBACK = 20_000


class Moments:
    """The two moments that cannot be gone back on, as the weights have moved by then or figures were judged.

    Where a callback fails in one of them, the span notes which, who had been told, and what reason to stop
    one of those had given. After a restart the moment comes again for the others; that of an epoch comes also
    for those that remember nothing, as it would after a kill, since what they had written (the row of a
    history) may have been taken back.
    """

    def __init__(self, run: Run, callbacks: Sequence[Callback]) -> None:
        self._run = run
        self._named = named_callbacks(callbacks)

    def after_step(self) -> None:
        """Tell all callbacks that a step was taken."""
        self._tell(AFTER_STEP, lambda callback: callback.after_step(self._run))

    def after_epoch(self) -> None:
        """Tell all callbacks that an epoch is over."""
        row = self._run.history[-1]
        self._tell(AFTER_EPOCH, lambda callback: callback.after_epoch(self._run, row))

    def catch_up(self) -> None:
        """After a restart: tell those of a step that were not told of it, before the next one is taken."""
        span = self._run.span
        assert span is not None
        if span.broken_off == AFTER_STEP:
            self.after_step()
        elif not span.broken_off:
            self._whole_again()

    def _tell(self, moment: str, tell: Callable[[Callback], None]) -> None:
        span = self._run.span
        assert span is not None
        told = list(span.told) if span.broken_off == moment else []
        try:
            for name, callback in self._named.items():
                if name not in told:
                    tell(callback)
                    told.append(name)
        except Exception:
            if moment == AFTER_EPOCH:
                told = [n for n, each in self._named.items() if n in told and _overrides(each, "state")]
            span.broken_off, span.told = moment, told
            raise
        self._whole_again()

    def _whole_again(self) -> None:
        span = self._run.span
        assert span is not None
        self._run.stop_reason = self._run.stop_reason or span.asked
        span.broken_off, span.told, span.asked = "", [], ""


class StepUnderWay:
    """How far a step has come, and how to leave things as they were before it.

    That can be done until the weights move: batch-norm statistics come from the `guard`, and what callbacks
    remember that may change it in the step was copied when it began. Most callbacks do not, and cost nothing.
    """

    def __init__(self, guard: Guard, callbacks: Sequence[Callback]) -> None:
        hooks = ("before_batch", "after_loss", "after_backward")
        self._guard = guard
        self._remembering = [
            callback
            for callback in callbacks
            if _overrides(callback, "state") and any(_overrides(callback, hook) for hook in hooks)
        ]
        self._states: list[dict[str, Any]] = []
        self._begun = self.half_done = False

    def begin(self) -> None:
        """A step begins."""
        self._guard.remember()
        self._states = [_copied(callback.state()) for callback in self._remembering]
        self._begun = True

    def move_weights(self) -> None:
        """The optimiser takes the step; until it `end`s, it is half done and the run is not whole."""
        self.half_done = True

    def end(self) -> None:
        """The step is taken, or was undone."""
        self._begun = self.half_done = False

    def undo(self) -> None:
        """Leave things as they were before the step, where one has begun."""
        if self._begun and not self.half_done:
            self._guard.put_back()
            for callback, state in zip(self._remembering, self._states, strict=True):
                callback.restore_state(state)
            self.end()


def _overrides(callback: Callback, name: str) -> bool:
    return getattr(type(callback), name) is not getattr(Callback, name)


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in state.items()
    }


def is_finite(run: Run) -> bool:
    """Tell whether the weights, the buffers and what the optimiser remembers are numbers, all of them."""
    tensors: list[Any] = list(run.model.state_dict().values())
    if run.optimizer is not None:
        tensors += [value for entries in run.optimizer.state.values() for value in entries.values()]
    floating = [t for t in tensors if isinstance(t, Tensor) and t.is_floating_point()]
    return all(bool(torch.isfinite(tensor).all()) for tensor in floating)


def tell_of_the_end(run: Run, callbacks: Sequence[Callback], ending: BaseException | None) -> None:
    """Tell all callbacks that training is over, whichever of them fail.

    `ending` is the error that ends training, if one does, and gets a note of each that fails. Without one the
    first that fails is raised at the end: those after it, which may save the run, see it in `run.failure`.
    """
    failed: Exception | None = None
    for callback in callbacks:
        try:
            callback.after_fit(run)
        except Exception as error:
            first = ending or failed
            if first is None:
                failed = run.failure = error
            else:
                first.add_note(f"{type(callback).__name__}.after_fit failed as well: {error}")
    run.failure = None
    if failed is not None:
        raise failed


def failure_of(run: Run) -> dict[str, str] | None:
    """Return the error that is ending a run as JSON can hold it, with its traceback; None for none."""
    error = run.failure
    if error is None:
        return None
    said = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return {"error": said, "traceback": "".join(traceback.format_exception(error))[-MOST_TRACEBACK:]}
