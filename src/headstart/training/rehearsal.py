"""Steps of training that are taken to look, and undone: what the finder and the trials are made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from headstart.errors import DataError, UsageError
from headstart.processes import Ranks
from headstart.training.gradients import Gradients, Statistics
from headstart.training.losses import Loss
from headstart.training.optim import Rates, set_rates
from headstart.training.run import Run
from headstart.training.seeding import own_randomness, seed_step
from headstart.training.snapshot import untouched
from headstart.types import Batch, BatchSource


class Rehearsal:
    """Takes steps as `fit` would, one at a time and at any rate; see `rehearsing`.

    Step `number` draws (dropout) as step `run.step + number` of the run will, so that two rehearsals of
    the same batch differ by their weights alone.
    """

    def __init__(self, run: Run, network: nn.Module, loss: Loss, proportions: Rates) -> None:
        assert run.optimizer is not None
        self._run, self._network = run, network
        self._optimizer, self._proportions = run.optimizer, proportions
        self._statistics = Statistics(network)
        self._gradients = Gradients(run, network, loss, self._statistics)

    def losses(self, batches: list[Batch]) -> list[float]:
        """Return the loss of each batch, one a step, in training mode and without moving."""
        with self.undone(), torch.no_grad():
            return [
                float(self._gradients.loss_of(batch, self._begun(number)))
                for number, batch in enumerate(batches)
            ]

    def gradient(self, batch: Batch, number: int, rate: float) -> float:
        """Return the loss of a batch and leave its gradients; `rate`, of the last group, is for the step."""
        set_rates(self._optimizer, self._proportions, rate)
        self._optimizer.zero_grad()
        return float(self._gradients(batch, self._begun(number)))

    def move(self) -> None:
        """Let the optimiser take the step whose gradients are there."""
        self._optimizer.step()

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Undo at the end what is done within: weights, optimiser and all are as before."""
        with untouched(self._run, self._network):
            yield

    def _begun(self, number: int) -> int:
        """Let step `number` begin as it will in the run, and return the run's number of it."""
        step = self._run.step + number
        seed_step(torch.device(self._run.device), self._run.seed, step, self._run.ranks.rank)
        self._statistics.remember(step)
        return step


@contextmanager
def rehearsing(
    run: Run, loss: Loss, *, forward: nn.Module | None = None, rates: Rates | None = None
) -> Iterator[Rehearsal]:
    """Give a `Rehearsal`, and put everything back bit by bit at the end, also after an error or Ctrl-C.

    Everything: weights, buffers, gradients, optimiser, modes and random states (Python, NumPy, torch).
    `rates` gives the proportions between the groups (see `group_rates`). Raises `UsageError` when the
    run has no optimiser, or another number of groups.
    """
    if run.optimizer is None:
        raise UsageError("the run has no optimiser", "make one with make_optimizer")
    network = forward or run.model
    groups = 1 + max(group["number"] for group in run.optimizer.param_groups)
    if rates is not None and len(rates) < groups:
        raise UsageError(f"{len(rates)} learning rates for {groups} parameter groups")
    proportions = [rate / rates[-1] for rate in rates] if rates else [1.0] * groups
    with untouched(run, network), own_randomness(torch.device(run.device)):
        network.train()
        yield Rehearsal(run, network, loss, proportions)


def endless(source: BatchSource, epoch: int, ranks: Ranks) -> Iterator[Batch]:
    """Yield the batches of `epoch` and of those after it; raises `DataError` where there are none.

    Batches that are empty on all `ranks` are left out.
    """
    if len(source) == 0:
        raise DataError("there is nothing to train on: the source gives no batches")
    while True:
        empty = True
        for batch in source.epoch(epoch):
            if ranks.table(len(batch)).any():
                empty = False
                yield batch
        if empty:
            raise DataError("there is nothing to train on: every batch of the epoch was empty")
        epoch += 1
