"""The training loop.

What `fit` does, and when it calls the callbacks:

    before_fit
    for each epoch:
        before_epoch
        for each batch:
            batch = before_batch(batch)
            set the learning rates for this step
            loss = after_loss(loss(forward(inputs), targets))
            loss.backward()                 (in parts, where asked for or where memory runs out)
            after_backward
            refuse the step if loss or gradients are not finite (a `Rollback` goes back to good weights)
            optimizer.step()
            run.step += 1
            after_step
        before_validate
        metrics = validate()
        after_validate(metrics)
        run.history gets the epoch's row
        after_epoch(row)
    after_fit
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from headstart.environment import process_seconds
from headstart.errors import DataError, DeviceLostError, LostRankError, OutOfMemoryError, UsageError
from headstart.faults import device_lost, is_device_failure, is_out_of_memory
from headstart.training.callbacks import Callback
from headstart.training.checkpointer import in_order
from headstart.training.failures import Moments, StepUnderWay, tell_of_the_end
from headstart.training.gradients import Gradients
from headstart.training.gradients import batch_loss as batch_loss
from headstart.training.guard import Guard, NonFiniteError
from headstart.training.interrupts import AT_ONCE, FAILED, PASSING_REASONS, Interrupts
from headstart.training.losses import Loss
from headstart.training.optim import Rates, set_rates
from headstart.training.rollback import DivergedError, Rollback
from headstart.training.run import Row, Run, Span
from headstart.training.schedules import Schedule
from headstart.training.seeding import own_randomness, seed_step
from headstart.types import Batch, BatchSource

Validate = Callable[[], Mapping[str, float]]


def fit(
    run: Run,
    source: BatchSource,
    *,
    rates: Rates,
    schedule: Schedule,
    epochs: int,
    loss: Loss,
    forward: nn.Module | None = None,
    validate: Validate | None = None,
    callbacks: Sequence[Callback] = (),
    gradient_clip: float | None = None,
    name: str = "",
    step: int = 0,
    resume: bool = False,
) -> Run:
    """Train for `epochs` passes over `source`, and return `run`.

    `rates` has the peak rate of each parameter group (see `group_rates`); `schedule` moves them all.
    `forward` is what is called on a batch's inputs, `run.model` unless given: it may be only the
    part above the frozen line, with activations as inputs. `validate` is called after each epoch;
    its figures (`valid_loss`, `accuracy`, …) go into the history. `gradient_clip` is the largest
    norm of all gradients together. `name` and `step` (of the eight) label the history's rows.
    `resume` goes on within a span that a checkpoint restored, given the same arguments.

    The first Ctrl-C or SIGTERM lets the step finish and returns with `run.stop_reason` set to
    `interrupted`. A loss or gradient that is not finite raises `NonFiniteError` and leaves the last
    finite weights, unless a `Rollback` is among the callbacks. Any other error leaves the run as it was after
    its last whole step, and a `Checkpointer` saves that. Where memory runs out, batches are worked on in
    parts (see `Gradients`). Raises `OutOfMemoryError` where that does not help, and
    `DeviceLostError` when the device fails. Dropout is seeded by (seed, step, rank); torch's random state
    is left as it was.

    Of several processes (`run.ranks`) each calls it with a source that gives its share of each batch. They
    begin with the weights of rank 0, take every step together, and stop at the same one, whichever of them
    was asked to. Raises `LostRankError` where one has ended; the run is then as after its last whole step.
    """
    fitting = _Fit(run, source, rates, loss, forward or run.model, validate, callbacks, gradient_clip)
    fitting.begin(Span(name, step, epochs, len(source), schedule), resume=resume)
    fitting.train()
    return run


class _Fit:
    """One call of `fit`."""

    span: Span
    guard: Guard
    step: StepUnderWay
    gradients: Gradients
    started: float

    def __init__(
        self,
        run: Run,
        source: BatchSource,
        rates: Rates,
        loss: Loss,
        forward: nn.Module,
        validate: Validate | None,
        callbacks: Sequence[Callback],
        gradient_clip: float | None,
    ) -> None:
        if run.optimizer is None:
            raise UsageError("the run has no optimiser", "make one with make_optimizer")
        if len(source) == 0:
            raise DataError("there is nothing to train on: the source gives no batches")
        self.run = run
        self.optimizer = run.optimizer
        self.source = source
        self.rates = rates
        self.loss = loss
        self.forward = forward
        self.validate = validate
        self.ranks = run.ranks
        self.callbacks = in_order([each for each in callbacks if self.ranks.first or not each.first_only])
        self.moments = Moments(run, self.callbacks)
        self.gradient_clip = gradient_clip
        self.device = torch.device(run.device)
        self.parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
        self.interrupts = Interrupts()
        self.rollback = next((each for each in callbacks if isinstance(each, Rollback)), None)

    def begin(self, span: Span, *, resume: bool) -> None:
        restored = self.run.span
        if resume and restored is not None:
            if restored.terms != span.terms:
                raise UsageError(
                    f"the checkpoint is of {restored.epochs} epochs of {restored.batches} batches with "
                    f"{restored.schedule}, not {span.epochs} of {span.batches} with {span.schedule}",
                    "resume with the arguments that the phase began with",
                )
            span = restored
        else:
            self.run.adjustments.rate_factor, self.run.adjustments.rollbacks = 1.0, 0
        # What a callback decided before a restart holds.
        if span is not restored or self.run.stop_reason in PASSING_REASONS:
            self.run.stop_reason = ""
        self.run.span = self.span = span
        self.run.stop_signal = None

    def train(self) -> None:
        run = self.run
        was_training = self.forward.training
        self.forward.train()
        self.optimizer.zero_grad()
        self.guard = Guard(run, self.forward)
        self.step = StepUnderWay(self.guard, self.callbacks)
        self.gradients = Gradients(run, self.forward, self.loss, self.guard.statistics)
        self.gradients.tell_of_parts()
        self.ranks.take_from_first([*run.model.parameters(), *run.model.buffers()])
        with own_randomness(self.device), self.interrupts, self.guard.watching():
            try:
                self._train()
            except BaseException as error:
                self._end(was_training, error)
                raise
            self._end(was_training)

    def _train(self) -> None:
        run = self.run
        try:
            self._each(lambda callback: callback.before_fit(run))
            self.moments.catch_up()
            while self._goes_on():
                if self.train_epoch():
                    self.close_epoch()
        except KeyboardInterrupt:
            if self.interrupts.count > 1:
                raise
            self.span.record(self.guard.flush())
            run.stop_reason = "interrupted"
        except (NonFiniteError, DivergedError, DeviceLostError):
            raise
        except Exception as error:
            if is_device_failure(error):
                run.stop_reason = "device lost"
                raise device_lost(self.device, error) from error
            self._failed(error)
            raise

    def _goes_on(self) -> bool:
        """Whether there is more to do: an epoch whose last step was taken is validated in any case."""
        span = self.span
        trained = span.batches_done == span.batches
        return span.epochs_done < span.epochs and (trained or not self.run.stop_reason)

    def _failed(self, error: Exception) -> None:
        """Leave the run as it was after its last whole step, so that it may be saved.

        Where the optimiser was about to take a step that cannot be: the checkpoint before holds.
        """
        run, span = self.run, self.span
        span.asked = span.asked or run.stop_reason
        lost = isinstance(error, LostRankError)
        run.stop_reason = "interrupted" if lost and not self.step.half_done else FAILED
        if self.step.half_done:
            return
        span.record(self.guard.flush())
        self.step.undo()
        run.failure = None if lost else error

    def _end(self, was_training: bool, error: BaseException | None = None) -> None:
        self.forward.train(was_training)
        if self.interrupts.received is not None:
            whole = self.interrupts.count == 1 and not self.step.half_done
            self.run.stop_reason = "interrupted" if whole else AT_ONCE
            self.run.stop_signal = self.interrupts.received
        tell_of_the_end(self.run, self.callbacks, error)

    def train_epoch(self) -> bool:
        """Train over what is left of the epoch; return False when it was not trained to its end."""
        if self.rollback is not None:
            self.rollback.mark(self.run, self.callbacks)
        try:
            return self._train_epoch()
        except (NonFiniteError, DivergedError) as error:
            if self.rollback is None or not self.rollback.go_back(self.run, self.callbacks, error):
                raise
            assert self.run.span is not None
            self.span = self.run.span
            self.step.end()
            return False

    def _train_epoch(self) -> bool:
        run, span = self.run, self.span
        self.forward.train()
        self.started = time.monotonic()
        self._each(lambda callback: callback.before_epoch(run))
        batches = self.source.epoch(run.epoch, start=span.batches_done)
        try:
            while span.batches_done < span.batches:
                with self._interruptible():
                    batch = self._next(batches)
                samples = self._agree(len(batch))
                if run.stop_reason and not self.ranks.alone:
                    break
                if not samples:
                    span.batches_done += 1
                    continue
                self.train_step(batch, samples)
                if run.stop_reason and self.ranks.alone:
                    break
        finally:
            if isinstance(batches, Generator):
                batches.close()
        self._agree()
        span.record(self.guard.flush())
        if span.batches_done == span.batches and not span.sizes:
            raise DataError("there is nothing to train on: every batch of the epoch was empty")
        return span.batches_done == span.batches

    def _agree(self, samples: int = 0) -> int:
        """Return the samples of all ranks together; what stops one of them stops all, here."""
        if self.ranks.alone:
            return samples
        asked = float(bool(self.run.stop_reason))
        said = self.ranks.table(samples, self.interrupts.received or 0, asked)
        signal = int(said[:, 1].max())
        if signal:
            self.interrupts.heard(signal)
            raise KeyboardInterrupt
        if said[:, 2].any():
            self.run.stop_reason = next(filter(None, self.ranks.said(self.run.stop_reason)))
        return int(said[:, 0].sum())

    def _interruptible(self) -> contextlib.AbstractContextManager[None]:
        """Let a signal end what takes long; of several ranks none may leave it alone."""
        return self.interrupts.allowed() if self.ranks.alone else contextlib.nullcontext()

    def _next(self, batches: Iterator[Batch]) -> Batch:
        try:
            batch = next(batches, None)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"memory ran out while batch {self.span.batches_done} was made ready",
                "take smaller batches (--batch-size) or fewer threads (--threads), or keep decoded pictures "
                "on the disk (--cache disk)",
            ) from error
        if batch is None:
            span = self.span
            raise DataError(f"the source ended after {span.batches_done} of {span.batches} batches")
        return batch

    def train_step(self, batch: Batch, samples: int) -> None:
        """Train on a batch, of which all ranks together have `samples`."""
        run, span = self.run, self.span
        self.step.begin()
        for callback in self.callbacks if len(batch) else ():
            batch = callback.before_batch(run, batch)
        factor = span.schedule.factor(span.done, span.total) * run.adjustments.rate_factor
        set_rates(self.optimizer, self.rates, factor, span.schedule.momentum(span.done, span.total))
        seed_step(self.device, run.seed, run.step, self.ranks.rank)

        loss = self.gradients(batch, run.step, self._after_loss)
        for callback in self.callbacks:
            callback.after_backward(run)
        rate = self.rates[-1] * factor
        known = self.guard.check(loss, self._clipped_norm(), batch, rate)
        self.step.move_weights()
        self._take_step()

        run.step += 1
        span.batches_done += 1
        span.sizes.append(len(batch) if self.ranks.alone else samples)
        span.rates.append(rate)
        span.record(known)
        self.step.end()
        self.moments.after_step()

    def _after_loss(self, loss: Tensor) -> Tensor:
        for callback in self.callbacks:
            loss = callback.after_loss(self.run, loss)
        return loss

    def _take_step(self) -> None:
        try:
            self.optimizer.step()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"memory on {self.device} ran out for the optimiser's own numbers",
                "freeze more of the body (freeze_to), or take --optimizer sgd, which keeps half as many",
            ) from error
        self.optimizer.zero_grad()

    def close_epoch(self) -> None:
        run, span = self.run, self.span
        metrics: dict[str, float] = {}
        if self.validate is not None:
            self._each(lambda callback: callback.before_validate(run))
            with self._interruptible():
                metrics.update(self.validate())
            self._each(lambda callback: callback.after_validate(run, metrics))
        run.history.append(self._row(metrics))
        before = dataclasses.replace(span)
        span.close_epoch()
        run.epoch += 1
        try:
            self.moments.after_epoch()
        except Exception:
            # What was validated (an average of the weights, perhaps) is gone after a restart: it is validated
            # again, for those that have not been told.
            span.reopen_epoch(before)
            run.history.rows.pop()
            run.epoch -= 1
            raise
        self._agree()

    def _row(self, metrics: Mapping[str, float]) -> Row:
        span = self.span
        factor = span.rates[-1] / self.rates[-1]
        return {
            "step": span.step,
            "name": span.name,
            "epoch": span.epochs_done,
            "train_loss": span.train_loss,
            **{name: float(value) for name, value in metrics.items()},
            "time": round(time.monotonic() - self.started, 3),
            "seconds": round(process_seconds(), 3),
            "rates": [rate * factor for rate in self.rates],
            "batch_losses": span.losses,
            "batch_rates": span.rates,
        }

    def _clipped_norm(self) -> Tensor:
        """Return the norm of all gradients together, and bring it down to the limit if there is one."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.gradient_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.gradient_clip, norm)
        return norm

    def _each(self, call: Callable[[Callback], None]) -> None:
        for callback in self.callbacks:
            call(callback)
