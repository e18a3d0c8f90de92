"""The training loop.

What `fit` does, and when it calls the callbacks:

    before_fit
    for each epoch:
        before_epoch
        for each batch:
            batch = before_batch(batch)
            set the learning rates for this step
            loss = after_loss(loss(forward(inputs), targets))
            loss.backward()
            after_backward
            refuse the step if loss or gradients are not finite
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
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from headstart.environment import process_seconds
from headstart.errors import DataError, UsageError
from headstart.inference import to_device
from headstart.training.callbacks import Callback
from headstart.training.checkpointer import in_order
from headstart.training.guard import Guard
from headstart.training.interrupts import AT_ONCE, PASSING_REASONS, Interrupts
from headstart.training.losses import Loss
from headstart.training.optim import Rates, set_rates
from headstart.training.precision import autocast_for
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
    finite weights. Dropout is seeded by (seed, step); torch's random state is left as it was.
    """
    fitting = _Fit(run, source, rates, loss, forward or run.model, validate, callbacks, gradient_clip)
    fitting.begin(Span(name, step, epochs, len(source), schedule), resume=resume)
    fitting.train()
    return run


def batch_loss(run: Run, forward: nn.Module, loss: Loss, batch: Batch) -> Tensor:
    """Return the mean loss of a batch, a float32 scalar with gradients, at the run's precision."""
    inputs, targets = to_device(batch, run.device)
    alone = _statistics_as_they_are(forward) if len(batch) == 1 else contextlib.nullcontext()
    with alone, autocast_for(run.device, run.precision):
        logits = forward(inputs)
    losses = loss(logits, targets)
    if batch.weight is None:
        return losses.mean()
    if losses.ndim == 0:
        raise UsageError("a loss that gives one number cannot weigh samples", "give one loss for each sample")
    weight = torch.as_tensor(batch.weight, dtype=losses.dtype, device=losses.device)
    return (losses * weight).sum() / weight.sum()


@contextlib.contextmanager
def _statistics_as_they_are(forward: nn.Module) -> Iterator[None]:
    """One sample has no variance: batch norms use what they know, and the step still counts."""
    norms = [
        module
        for module in forward.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    ]
    try:
        for norm in norms:
            norm.eval()
        yield
    finally:
        for norm in norms:
            norm.train()


class _Fit:
    """One call of `fit`."""

    span: Span
    guard: Guard
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
        self.callbacks = in_order(callbacks)
        self.gradient_clip = gradient_clip
        self.device = torch.device(run.device)
        self.parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
        self.interrupts = Interrupts()

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
        # What a callback decided before a restart holds.
        if span is not restored or self.run.stop_reason in PASSING_REASONS:
            self.run.stop_reason = ""
        self.run.span = self.span = span
        self.run.stop_signal = None

    def train(self) -> None:
        run, span = self.run, self.span
        was_training = self.forward.training
        self.forward.train()
        self.optimizer.zero_grad()
        self.guard = Guard(run, self.forward)
        with own_randomness(self.device), self.interrupts, self.guard.watching():
            try:
                self._each(lambda callback: callback.before_fit(run))
                while span.epochs_done < span.epochs and not run.stop_reason:
                    if self.train_epoch():
                        self.close_epoch()
            except KeyboardInterrupt:
                if self.interrupts.count > 1:
                    raise
                span.record(self.guard.flush())
                run.stop_reason = "interrupted"
            finally:
                self.forward.train(was_training)
                if self.interrupts.received is not None:
                    once = self.interrupts.count == 1
                    run.stop_reason = "interrupted" if once else AT_ONCE
                    run.stop_signal = self.interrupts.received
                self._each(lambda callback: callback.after_fit(run))

    def train_epoch(self) -> bool:
        """Train over what is left of the epoch; return False when training stops before its end."""
        run, span = self.run, self.span
        self.forward.train()
        self.started = time.monotonic()
        self._each(lambda callback: callback.before_epoch(run))
        batches = self.source.epoch(run.epoch, start=span.batches_done)
        try:
            while span.batches_done < span.batches:
                with self.interrupts.allowed():
                    batch = next(batches, None)
                if batch is None:
                    raise DataError(f"the source ended after {span.batches_done} of {span.batches} batches")
                if not len(batch):
                    span.batches_done += 1
                    continue
                self.train_step(batch)
                if run.stop_reason:
                    break
        finally:
            if isinstance(batches, Generator):
                batches.close()
        span.record(self.guard.flush())
        if span.batches_done == span.batches and not span.sizes:
            raise DataError("there is nothing to train on: every batch of the epoch was empty")
        return span.batches_done == span.batches

    def train_step(self, batch: Batch) -> None:
        run, span = self.run, self.span
        for callback in self.callbacks:
            batch = callback.before_batch(run, batch)
        factor = span.schedule.factor(span.done, span.total)
        set_rates(self.optimizer, self.rates, factor, span.schedule.momentum(span.done, span.total))
        seed_step(self.device, run.seed, run.step)
        self.guard.remember()

        loss = batch_loss(run, self.forward, self.loss, batch)
        for callback in self.callbacks:
            loss = callback.after_loss(run, loss)
        torch.autograd.backward(loss)
        self._each(lambda callback: callback.after_backward(run))
        rate = self.rates[-1] * factor
        known = self.guard.check(loss, self._clipped_norm(), batch, rate)
        self.optimizer.step()
        self.optimizer.zero_grad()

        run.step += 1
        span.batches_done += 1
        span.sizes.append(len(batch))
        span.rates.append(rate)
        span.record(known)
        self._each(lambda callback: callback.after_step(run))

    def close_epoch(self) -> None:
        run, span = self.run, self.span
        metrics: dict[str, float] = {}
        if self.validate is not None:
            self._each(lambda callback: callback.before_validate(run))
            with self.interrupts.allowed():
                metrics.update(self.validate())
            self._each(lambda callback: callback.after_validate(run, metrics))
        run.history.append(self._row(metrics))
        span.close_epoch()
        run.epoch += 1
        self._each(lambda callback: callback.after_epoch(run, run.history[-1]))

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
