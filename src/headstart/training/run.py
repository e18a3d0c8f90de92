"""`Run`: the only thing that training changes; and `History`, what it leaves behind."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias, overload

import torch
from torch import nn

from headstart.errors import ConfigError, InputMissingError, UsageError
from headstart.processes import Ranks, current
from headstart.training.adjustments import Adjustments
from headstart.training.precision import resolve_precision
from headstart.training.schedules import Schedule

Row: TypeAlias = dict[str, Any]
"""An epoch: its losses, metrics, seconds and rates."""

_SMOOTHING = 0.98
MAX_HISTORY_BYTES = 256 * 2**20


class History(Sequence[Row]):
    """One row for each epoch, oldest first.

    `history[-1]` is a row, `history[2:]` a history, `history["valid_loss"]` a column (None where a
    row has no such value) and `history[-1, "valid_loss"]` one value.

    >>> history = History([{"epoch": 0, "valid_loss": 0.5}, {"epoch": 1, "valid_loss": 0.25}])
    >>> history["valid_loss"], history[-1, "epoch"]
    ([0.5, 0.25], 1)
    """

    def __init__(self, rows: Sequence[Row] = ()) -> None:
        self.rows: list[Row] = list(rows)

    def append(self, row: Row) -> None:
        """Add the row of an epoch that has ended; a figure that is not finite becomes None."""
        self.rows.append({name: _storable(value) for name, value in row.items()})

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @overload
    def __getitem__(self, key: int) -> Row: ...
    @overload
    def __getitem__(self, key: slice) -> History: ...
    @overload
    def __getitem__(self, key: str) -> list[Any]: ...
    @overload
    def __getitem__(self, key: tuple[int | slice, str]) -> Any: ...
    def __getitem__(self, key: int | slice | str | tuple[int | slice, str]) -> Any:
        if isinstance(key, tuple):
            rows, name = key
            return self.rows[rows].get(name) if isinstance(rows, int) else self[rows][name]
        if isinstance(key, str):
            return [row.get(key) for row in self.rows]
        return History(self.rows[key]) if isinstance(key, slice) else self.rows[key]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, History) and self.rows == other.rows

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def from_jsonl(cls, path: Path) -> History:
        """Read what `HistoryWriter` wrote; a torn last line (a killed process) is left out."""
        try:
            with open(path, "rb") as stream:
                data = stream.read(MAX_HISTORY_BYTES + 1)
        except OSError as error:
            raise InputMissingError(f"{path} cannot be read: {error.strerror}") from error
        if len(data) > MAX_HISTORY_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_HISTORY_BYTES} bytes")
        rows = []
        lines = data.split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                if number == len(lines):
                    break
                raise ConfigError(f"{path}, line {number}, is not JSON") from error
            if not isinstance(row, dict):
                raise ConfigError(f"{path}, line {number}, is not a row of a history")
            rows.append(row)
        return cls(rows)


def _storable(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_storable(entry) for entry in value]
    return value


@dataclass
class Span:
    """The stretch of training under way: one schedule over some epochs, and how far it has come.

    `step` is the number in the eight-step recipe (0 elsewhere); `batches` are those of an epoch.
    `losses`, `sizes` and `rates` (that of the last group) belong to the epoch under way. Where an error
    broke off the telling of callbacks, `broken_off` names the moment, `told` those that had been told of it,
    and `asked` is the reason to stop that one of them gave; see `headstart.training.failures`.
    """

    name: str
    step: int
    epochs: int
    batches: int
    schedule: Schedule
    epochs_done: int = 0
    batches_done: int = 0
    losses: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    average: float = 0.0
    weight: float = 0.0
    broken_off: str = ""
    told: list[str] = field(default_factory=list)
    asked: str = ""

    @property
    def terms(self) -> tuple[int, int, Schedule]:
        """What must be the same for training to go on: epochs, batches of an epoch, schedule."""
        return (self.epochs, self.batches, self.schedule)

    @property
    def done(self) -> int:
        """The steps done so far."""
        return self.epochs_done * self.batches + self.batches_done

    @property
    def total(self) -> int:
        """The steps of the whole stretch."""
        return self.epochs * self.batches

    @property
    def train_loss(self) -> float:
        """The mean loss of the samples that the epoch has seen so far."""
        seen = self.sizes[: len(self.losses)]
        if not seen:
            return math.nan
        return math.fsum(loss * size for loss, size in zip(self.losses, seen, strict=True)) / sum(seen)

    @property
    def smoothed_loss(self) -> float:
        """The running mean of the losses, for the eye; it does not remember its start at zero."""
        return self.average / self.weight if self.weight else math.nan

    @property
    def at_cycle_end(self) -> bool:
        """True when a cycle of the schedule ends where the stretch stands (to half a step)."""
        return any(abs(end * self.total - self.done) < 0.5 for end in self.schedule.cycle_ends())

    def record(self, losses: Sequence[float]) -> None:
        """Take note of the losses of steps, in order, and smooth them for the eye."""
        for loss in losses:
            self.losses.append(loss)
            self.average = _SMOOTHING * self.average + (1 - _SMOOTHING) * loss
            self.weight = _SMOOTHING * self.weight + (1 - _SMOOTHING)

    def close_epoch(self) -> None:
        """Go on to the next epoch."""
        self.epochs_done += 1
        self.batches_done = 0
        self.losses, self.sizes, self.rates = [], [], []

    def reopen_epoch(self, before: Span) -> None:
        """Stand again as `before`, a copy from ahead of `close_epoch`."""
        self.epochs_done, self.batches_done = before.epochs_done, before.batches_done
        self.losses, self.sizes, self.rates = before.losses, before.sizes, before.rates

    def to_plain(self) -> dict[str, Any]:
        """Return the span as JSON can hold it."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        plain["schedule"] = self.schedule.to_plain()
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Span:
        """Return the span that `to_plain` gave."""
        return cls(**{**plain, "schedule": Schedule.from_plain(plain["schedule"])})


@dataclass(eq=False)
class Run:
    """A model in training, and all that changes while it trains.

    `step` and `epoch` count optimiser steps and whole epochs since the run began, over all phases.
    `precision` is resolved when the run is made (`auto` → what the device is fast at). `span` is the
    phase under way, or the last one. `stop_reason` is empty unless training ended before its time:
    `interrupted` (and then `stop_signal` has the signal's number), `ended at once` (by a second signal),
    `non-finite loss`, `diverged`, `device lost`, `failed` (by any other error), or what a callback wrote
    there, which is how a callback stops training. `failure` is the error that is ending training, while
    callbacks are told of the end, if what was trained until then is whole. `average` holds what stood in for
    the weights in the last validation, where an average did, until the next epoch begins. `micro_batch`: how
    many samples are worked on at once at most, None for whole batches. `ranks`: the processes that train
    this model together.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer | None = None
    seed: int = 0
    device: torch.device | str = "cpu"
    precision: str = "auto"
    step: int = 0
    epoch: int = 0
    history: History = field(default_factory=History)
    span: Span | None = None
    stop_reason: str = ""
    stop_signal: int | None = None
    failure: Exception | None = None
    average: Mapping[str, torch.Tensor] | None = None
    micro_batch: int | None = None
    adjustments: Adjustments = field(default_factory=Adjustments)
    ranks: Ranks = field(default_factory=current)

    def __post_init__(self) -> None:
        if self.micro_batch is not None and self.micro_batch < 1:
            raise UsageError(f"a micro-batch of {self.micro_batch} samples", "give 1 or more")
        self.device = torch.device(self.device)
        self.precision = resolve_precision(self.device, self.precision)
