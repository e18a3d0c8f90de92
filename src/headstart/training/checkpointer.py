"""The callback that writes checkpoints, at a bounded cost, and bears a disk that is full."""

from __future__ import annotations

import math
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from headstart.errors import HeadstartError, OutputError, StorageError, UsageError
from headstart.training.callbacks import Callback
from headstart.training.checkpoint import Found, save_checkpoint
from headstart.training.disk import Disk
from headstart.training.failures import is_finite
from headstart.training.run import Row, Run, Span

DEFAULT_SECONDS = 300.0
# Of the time that a run takes, at most so much goes into checkpoints: where they are slow and epochs
# quick, not every epoch gets one. What a kill costs is at most the time between two of them.
MOST_OF_TIME = 0.03
MOST_MISSES = 3

Extra = Callable[[], tuple[Mapping[str, Any], Mapping[str, Tensor]]]


class Checkpointer(Callback):
    """Writes a checkpoint into `folder` at the end of an epoch, every `seconds`, and when broken off.

    At the end of an epoch and every `seconds`: unless checkpoints would then take more than
    `most_of_time` of all time. With `steps`, after every so many steps, whatever it costs. The newest
    `keep` whole ones stay, and of those that were written the one with the least `monitor`, if it is
    finite. `extra` is asked for what else is to be kept (what JSON can hold, and tensors). `run_id`
    tells the checkpoints of one run from another's.

    Broken off: by a signal, or by an error of a source, transform, loss, metric or callback. What was trained
    until then is saved if it is finite, the error and its traceback with it, and a note on the error says
    where; training goes on from there to the same bits once the fault is gone.

    Where a checkpoint cannot be written, `warn` gets one line with the space that is needed and free,
    the earlier ones are untouched, and training goes on; the third miss in a row raises `StorageError`
    (or `OutputError`, where writing is refused).
    """

    first_only = True

    def __init__(
        self,
        folder: str | Path,
        *,
        steps: int | None = None,
        seconds: float = DEFAULT_SECONDS,
        keep: int = 2,
        monitor: str = "valid_loss",
        most_of_time: float = MOST_OF_TIME,
        extra: Extra | None = None,
        run_id: str = "",
        warn: Callable[[str], None] | None = None,
        disk: Disk | None = None,
    ) -> None:
        if steps is not None and steps < 1:
            raise UsageError(f"a checkpoint every {steps} steps", "give a number from 1 up")
        if seconds <= 0 or keep < 1:
            raise UsageError(f"seconds={seconds} and keep={keep} are out of range", "both must be above 0")
        self.folder = Path(folder)
        self.steps, self.seconds, self.keep, self.monitor = steps, seconds, keep, monitor
        self.most_of_time, self.extra, self.run_id = most_of_time, extra, run_id
        self.facts: dict[str, Any] = {}
        self.written = self.misses = 0
        self._warn = warn or (lambda text: warnings.warn(text, stacklevel=2))
        self._disk = disk
        self._watched: tuple[Callback, ...] = ()
        self._known: set[str] = set()
        self._best, self._best_name = math.inf, ""
        self._cost = 0.0
        self._newest: tuple[Any, ...] = ()
        self._last = time.monotonic()

    def watch(self, callbacks: Sequence[Callback]) -> None:
        """Save the states of these callbacks from now on."""
        self._watched = tuple(callbacks)

    def take_over(self, found: Found) -> None:
        """Go on from a checkpoint: it is whole, and it knows which of those before it was the best."""
        self._known.add(found.path.name)
        span = found.state["span"]
        rows = len(found.state["history"])
        self._newest = _place(found.state["step"], rows, None if span is None else Span.from_plain(span))
        best = found.extra.get("best_checkpoint")
        if best is not None:
            self._best, self._best_name = float(best["value"]), str(best["name"])

    def after_step(self, run: Run) -> None:
        """Save where the time for it has come."""
        due = self.steps is not None and run.step % self.steps == 0
        if due or (self._waited() >= self.seconds and self._affordable()):
            self.save(run)

    def after_epoch(self, run: Run, row: Row) -> None:
        """Save, where that does not cost too much."""
        if not self._affordable():
            return
        figure = row.get(self.monitor)
        value = math.inf if figure is None else float(figure)
        saved = self.save(run, best=value < self._best)
        if saved is not None and value < self._best:
            self._best, self._best_name = value, saved.name

    def after_fit(self, run: Run) -> None:
        """Save where a signal or an error ended training: it goes on from this very step."""
        if run.failure is not None:
            self._keep_until(run.failure, run)
        elif run.stop_reason == "interrupted":
            self.save(run)

    def _keep_until(self, error: Exception, run: Run) -> None:
        """Save what was trained until an error, and note on it where; nothing here hides that error."""
        if self.misses >= MOST_MISSES or not run.ranks.first:
            return
        try:
            if not is_finite(run):
                error.add_note(f"not saved, as its weights are not finite: step {run.step}")
            elif _place(run.step, len(run.history), run.span) == self._newest or self.save(run) is not None:
                error.add_note(
                    f"all until step {run.step} is kept in {self.folder}: resume goes on from there"
                )
        except Exception as other:  # of a disk, of the memory, of somebody's `state`: the first one counts
            error.add_note(f"step {run.step} could not be saved: {other}")

    def save(self, run: Run, *, best: bool = False) -> Path | None:
        """Write a checkpoint now; return its folder, or None where that failed or another rank writes it.

        `best`: the best one until now need not be kept. Raises `StorageError` or `OutputError` at the
        third failure in a row.
        """
        if not run.ranks.first:
            return None
        started = time.monotonic()
        plain, tensors = ({}, {}) if self.extra is None else self.extra()
        known_best = {"name": self._best_name, "value": self._best} if self._best_name else None
        try:
            path = save_checkpoint(
                self.folder,
                run,
                callbacks=self._watched,
                extra={**self.facts, **plain, "best_checkpoint": known_best},
                extra_tensors=tensors,
                run_id=self.run_id,
                keep=self.keep,
                known=self._known,
                spare=() if best else (self._best_name,),
                disk=self._disk,
            )
        except (StorageError, OutputError) as error:
            self._miss(error, run, tensors)
            return None
        finally:
            # A miss is paid for like a checkpoint: the next try comes when one would.
            self._last = time.monotonic()
            self._cost = max(self._cost / 2, self._last - started)
        self.written += 1
        self.misses = 0
        self._newest = _place(run.step, len(run.history), run.span)
        return path

    def _waited(self) -> float:
        return time.monotonic() - self._last

    def _affordable(self) -> bool:
        return self._cost <= self.most_of_time * self._waited()

    def _miss(self, error: HeadstartError, run: Run, tensors: Mapping[str, Tensor]) -> None:
        self.misses += 1
        needed = _bytes_of(run, self._watched, tensors)
        free = _free(self.folder)
        text = (
            f"no checkpoint at step {run.step}: {error.message} (about {_megabytes(needed)} are needed, "
            f"{_megabytes(free)} are free)"
        )
        if self.misses >= MOST_MISSES:
            raise type(error)(
                f"{text}; {self.misses} in a row, so training stops", error.hint or "free some disk space"
            ) from error
        self._warn(f"{text}; training goes on, and the checkpoints before it are untouched")


def in_order(callbacks: Sequence[Callback]) -> tuple[Callback, ...]:
    """Return callbacks with those that write checkpoints last: what others do at a moment is then in them.

    Each of these is told of all the others.
    """
    writers = [callback for callback in callbacks if isinstance(callback, Checkpointer)]
    others = [callback for callback in callbacks if not isinstance(callback, Checkpointer)]
    for writer in writers:
        writer.watch(others)
    return (*others, *writers)


def _place(step: int, rows: int, span: Span | None) -> tuple[Any, ...]:
    """Return how far a run has come, the same where two checkpoints of it would hold the same."""
    far = () if span is None else (span.name, span.epochs_done, span.batches_done, *span.told)
    return (step, rows, *far)


def _bytes_of(run: Run, callbacks: Sequence[Callback], tensors: Mapping[str, Tensor]) -> int:
    found = [*run.model.state_dict().values(), *tensors.values()]
    if run.optimizer is not None:
        found += [v for entries in run.optimizer.state.values() for v in entries.values()]
    found += [value for callback in callbacks for value in callback.state().values()]
    return sum(value.nbytes for value in found if isinstance(value, Tensor))


def _free(folder: Path) -> int:
    existing = next((place for place in (folder, *folder.parents) if place.is_dir()), Path("."))
    try:
        return shutil.disk_usage(existing).free
    except OSError:
        return 0


def _megabytes(count: int) -> str:
    return f"{count / 2**20:.1f} MB"
