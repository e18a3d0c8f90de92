"""Callbacks: what a run calls at ten moments; and those that stop, keep and write."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from headstart.errors import OutputError, StorageError, UsageError
from headstart.training.monitor import cost, lower_is_better
from headstart.training.run import Row, Run
from headstart.types import Batch


class Callback:
    """Ten moments of training; a subclass overrides those it cares for.

    `run` is the run under way: `run.span` says how far it has come, and writing a reason into
    `run.stop_reason` ends training after the step. What a callback must remember to go on after a
    restart, it gives from `state` and takes back in `restore_state`. After a restart `before_fit` comes
    again, and within an epoch `before_epoch`; where validation had been broken off, so do its moments.

    Of several processes each calls its callbacks: a batch and its loss are then its own share, gradients,
    weights and metrics those of all. One that writes or prints sets `first_only`: rank 0 alone calls it.
    """

    first_only: ClassVar[bool] = False

    def before_fit(self, run: Run) -> None:
        """Training begins, or goes on after a restart."""

    def before_epoch(self, run: Run) -> None:
        """An epoch begins; the network is in training mode."""

    def before_batch(self, run: Run, batch: Batch) -> Batch:
        """A batch is about to be used; return it, or another in its place."""
        return batch

    def after_loss(self, run: Run, loss: Tensor) -> Tensor:
        """The loss of the batch is known, a scalar; return it, or another in its place.

        Where a batch is worked on in parts it is called for each part, with the part's mean loss.
        """
        return loss

    def after_backward(self, run: Run) -> None:
        """The gradients are there and may be changed; the weights have not moved yet."""

    def after_step(self, run: Run) -> None:
        """The weights have moved; `run.step` counts the step."""

    def before_validate(self, run: Run) -> None:
        """The epoch's last step is done and validation begins."""

    def after_validate(self, run: Run, metrics: dict[str, float]) -> None:
        """Validation is done; `metrics` may be added to."""

    def after_epoch(self, run: Run, row: Row) -> None:
        """The epoch is over and `row` is in the history."""

    def after_fit(self, run: Run) -> None:
        """Training is over: done, stopped, or failed."""

    def state(self) -> dict[str, Any]:
        """Return what must survive a restart: tensors, and what JSON can hold."""
        return {}

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""


def named_callbacks(callbacks: Sequence[Callback]) -> dict[str, Callback]:
    """Return callbacks by name: the class, and of a class that is there several times `Name 2`, `Name 3` …"""
    named: dict[str, Callback] = {}
    for callback in callbacks:
        kind = type(callback).__name__
        number = 1 + sum(type(other).__name__ == kind for other in named.values())
        named[kind if number == 1 else f"{kind} {number}"] = callback
    return named


class EarlyStop(Callback):
    """Stops when `patience` whole cycles of the schedule brought no better validation loss.

    A cycle starts at a high rate, where the loss is rightly worse: only whole cycles are compared.
    A schedule without restarts is one cycle and is never stopped. `monitor` is any figure of the
    history (a metric is better when higher, a loss or an error when lower); what is not more than
    `min_delta` better is not better.
    """

    def __init__(self, monitor: str = "valid_loss", *, patience: int = 1, min_delta: float = 0.0) -> None:
        if patience < 1:
            raise UsageError(f"a patience of {patience} cycles", "give 1 or more")
        self.monitor = monitor
        self.patience, self.min_delta = patience, min_delta
        self._begin()

    def _begin(self) -> None:
        self.best: float | None = None
        self.best_of_cycle = math.inf
        self.waited = 0

    def before_fit(self, run: Run) -> None:
        """Forget other phases; after a restart within this one nothing is forgotten."""
        if run.span is not None and run.span.done == 0:
            self._begin()

    def after_epoch(self, run: Run, row: Row) -> None:
        """Compare at the end of a cycle."""
        self.best_of_cycle = min(self.best_of_cycle, cost(row, self.monitor))
        if run.span is None or not run.span.at_cycle_end:
            return
        if self.best is None or self.best_of_cycle < self.best - self.min_delta:
            self.best, self.waited = self.best_of_cycle, 0
        else:
            self.waited += 1
            if self.waited >= self.patience and run.span.done < run.span.total:
                run.stop_reason = f"early stop: {self.monitor} has not improved for {self._cycles()}"
        self.best_of_cycle = math.inf

    def _cycles(self) -> str:
        return "a whole cycle" if self.patience == 1 else f"{self.patience} whole cycles"

    def state(self) -> dict[str, Any]:
        """Return the best figures so far."""
        judged = self.best is not None
        best = _finite(self.best) if self.best is not None else None
        of_cycle = _finite(self.best_of_cycle)
        return {"judged": judged, "best": best, "best_of_cycle": of_cycle, "waited": self.waited}

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Take back the best figures so far."""
        self.best = _or_infinity(state["best"]) if state["judged"] else None
        self.best_of_cycle = _or_infinity(state["best_of_cycle"])
        self.waited = int(state["waited"])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else value


class KeepBest(Callback):
    """Keeps in memory a copy of what trains, as it was at the epoch with the best validation loss.

    What trains: parameters with `requires_grad`, and all buffers; where an average of the weights was
    validated in their place, it is what is kept. `restore` puts it back bit by bit.
    `monitor` is any figure of the history; of a metric the highest is the best.
    """

    def __init__(self, monitor: str = "valid_loss") -> None:
        self.monitor = monitor
        self.best = math.inf
        self.epoch: int | None = None
        self._kept: dict[str, Tensor] = {}

    def after_epoch(self, run: Run, row: Row) -> None:
        """Copy the weights if this epoch is the best so far; a loss that is not finite never is."""
        value = cost(row, self.monitor)
        best = self.best if lower_is_better(self.monitor) else -self.best
        if value < (math.inf if self.epoch is None else best):
            self.best, self.epoch = float(row[self.monitor]), run.epoch
            judged = run.average or {}
            self._kept = {
                name: judged.get(name, tensor).detach().clone() for name, tensor in changing(run).items()
            }

    def restore(self, run: Run) -> bool:
        """Put the best weights back into `run.model`; return False where there are none."""
        targets = {**dict(run.model.named_parameters()), **dict(run.model.named_buffers())}
        with torch.no_grad():
            for name, kept in self._kept.items():
                targets[name].copy_(kept)
        return bool(self._kept)

    def state(self) -> dict[str, Any]:
        """Return the best figure, its epoch and the weights."""
        weights = {f"kept.{name}": tensor for name, tensor in self._kept.items()}
        return {"best": _finite(self.best), "epoch": self.epoch, **weights}

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Take back the best figure, its epoch and the weights."""
        self.best, self.epoch = _or_infinity(state["best"]), state["epoch"]
        self._kept = {
            name.removeprefix("kept."): tensor for name, tensor in state.items() if name.startswith("kept.")
        }


def changing(run: Run) -> dict[str, Tensor]:
    """Return what training changes, by name: parameters with `requires_grad`, and all buffers."""
    trained = {name: p for name, p in run.model.named_parameters() if p.requires_grad}
    return {**trained, **dict(run.model.named_buffers())}


class HistoryWriter(Callback):
    """Appends each epoch's row to a JSON-lines file as soon as the epoch is over.

    `extra` is added to every row. A failing disk raises `StorageError`, a refusal `OutputError`.
    """

    first_only = True

    def __init__(self, path: Path, extra: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.extra = dict(extra or {})

    def after_epoch(self, run: Run, row: Row) -> None:
        """Append one line and wait until it is on the disk."""
        line = json.dumps({**row, **self.extra}, ensure_ascii=True, allow_nan=False) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as stream:
                stream.write(line.encode("ascii"))
                stream.flush()
                os.fsync(stream.fileno())
        except PermissionError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror}") from error
        except OSError as error:
            raise StorageError(f"{self.path} could not be written: {error.strerror}") from error
