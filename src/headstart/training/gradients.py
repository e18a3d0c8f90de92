"""The gradients of a batch: at once, or of parts of it that add up to the same."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from headstart.errors import DataError, LostRankError, UsageError
from headstart.faults import in_parts, part_size
from headstart.inference import to_device
from headstart.training.losses import Loss
from headstart.training.precision import autocast_for
from headstart.training.run import Run
from headstart.training.seeding import seed_step
from headstart.training.synchronised import NormsOfAllRanks, statistics_as_they_are
from headstart.types import Batch

# As torch's GradScaler: the scale doubles after so many steps that went well, and halves after one that
# did not. After twenty in a row it is not the scale that is wrong.
_GROWTH_STEPS = 2000
_MOST_OVERFLOWS = 20
_DIMENSIONS = 5

OnLoss = Callable[[Tensor], Tensor]


class Statistics:
    """The buffers of modules in training mode (batch norm's means and variances), kept to be put back.

    `slots` is how many steps back one can go.
    """

    def __init__(self, forward: nn.Module, *, slots: int = 1) -> None:
        training = [module for module in forward.modules() if module.training]
        self._buffers = [buffer for module in training for buffer in module.buffers(recurse=False)]
        # A batch norm has those of all ranks already; see `NormsOfAllRanks`.
        others = [module for module in training if not isinstance(module, _BatchNorm)]
        self._own = [buffer for module in others for buffer in module.buffers(recurse=False)]
        self._copies = [[buffer.clone() for buffer in self._buffers] for _ in range(slots)]

    def __len__(self) -> int:
        return len(self._buffers)

    def weighed(self, share: float) -> list[Tensor]:
        """Return those of this rank's share of a batch weighed by it, to be added up over all ranks."""
        return [(b if b.is_floating_point() else b.float()) * share for b in self._own]

    def take(self, averages: Sequence[Tensor]) -> None:
        """Take what `weighed` gave, added up, in their place; counts are whole numbers again."""
        for buffer, average in zip(self._own, averages, strict=True):
            buffer.copy_(average if buffer.is_floating_point() else average.round())

    def remember(self, step: int) -> None:
        """Keep them as they are before step `step`."""
        if self._buffers:
            with torch.no_grad():
                torch._foreach_copy_(self._copies[step % len(self._copies)], self._buffers)

    def put_back(self, step: int) -> None:
        """Make them what they were before step `step`."""
        if self._buffers:
            with torch.no_grad():
                torch._foreach_copy_(self._buffers, self._copies[step % len(self._copies)])


class Gradients:
    """Puts the gradient of a batch's mean loss into the parameters that `run.optimizer` has.

    A batch is taken at once, or in parts of `run.micro_batch` samples whose gradients add up to that of
    the whole: rates, order and effective batch stay what they are. Where memory runs out the parts are
    halved and the *same* batch is worked on again, from the statistics and the random state that it
    began with; `run.adjustments.fits` remembers the size. A batch norm in training mode normalises each
    part by the part's own statistics; all else is exact. A loss that gives one number for a batch must
    be the plain mean over its samples.

    In float16 the loss is scaled so that small gradients survive; where the scaled ones overflow, the
    scale is halved and the same batch is worked on again.

    Of several ranks each has its share of the batch, which may be empty: gradients and losses are added up
    over all of them, weighed by how many samples (or what weight) each share has, once for a step. Where
    memory runs out on one, all take the smaller parts from the next step on. A batch norm in training mode
    takes the statistics of all shares together (see `NormsOfAllRanks`), or of the parts that the ranks work
    on at the same time; where memory runs out on one, all work on the batch again.
    """

    def __init__(self, run: Run, forward: nn.Module, loss: Loss, statistics: Statistics) -> None:
        assert run.optimizer is not None
        self._run, self._forward, self._loss, self._statistics = run, forward, loss, statistics
        self._device = torch.device(run.device)
        self._parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
        self._trained = sum(p.numel() for p in self._parameters)
        self._ranks = run.ranks
        self._norms = NormsOfAllRanks(forward, run.ranks, self._device)
        self._sizes: list[int] = []
        self._in_use: list[bool] = []

    def __call__(self, batch: Batch, step: int, on_loss: OnLoss | None = None) -> Tensor:
        """Return the mean loss of the batch, a scalar without gradients; the gradients start from none.

        `step` seeds the draws and names the statistics that were remembered. `on_loss` is given the mean
        loss of each part and returns it, or another in its place.
        """
        if self._run.precision == "float16":
            return self._in_float16(batch, step, on_loss)
        return self._of_all_ranks(batch, step, on_loss, 1.0)

    def loss_of(self, batch: Batch, step: int) -> Tensor:
        """Return the mean loss of the batch, in the same parts, and leave the gradients alone."""
        with torch.no_grad():
            return self._of_all_ranks(batch, step, None, 1.0)

    def tell_of_parts(self) -> None:
        """Say, once in a run, what parts and shares mean for batch norms that collect statistics."""
        size, notices = self._run.micro_batch, self._run.adjustments.notices
        said = []
        if size is not None:
            said.append(
                f"batch norm takes the statistics of {size} samples at a time, as the micro-batch asks"
            )
        if self._norms.collect:
            said.append(f"batch norm takes the statistics of all {self._ranks.count} ranks together")
        notices += [notice for notice in said if len(self._statistics) and notice not in notices]

    def _of_all_ranks(self, batch: Batch, step: int, on_loss: OnLoss | None, scale: float) -> Tensor:
        if self._ranks.alone:
            return self._whole(batch, step, on_loss, scale)
        share = self._share_of(batch)
        moves = torch.is_grad_enabled()
        try:
            if share or self._norms.collect:
                loss = self._whole(batch, step, on_loss, scale * share) * share
            else:
                loss = torch.zeros((), device=self._device)
            gradients = self._gradients() if moves else []
            averages = self._statistics.weighed(share) if moves else []
            self._ranks.add_up([loss, *gradients, *averages])
        except LostRankError:
            self._statistics.put_back(step)
            raise
        if moves:
            self._statistics.take(averages)
        return loss

    def _share_of(self, batch: Batch) -> float:
        """Return what part of the loss of all ranks that of this batch is; agree on what fits in memory."""
        fits, key = self._run.adjustments.fits, self._key(batch)
        weight = float(len(batch)) if batch.weight is None else _weight_of(batch)
        weights, known, sizes = self._ranks.table(weight, fits.get(key, math.inf), len(batch)).T
        self._sizes = [int(size) for size in sizes]
        smallest = float(known.min())
        if smallest < fits.get(key, math.inf):
            fits[key] = int(smallest)
            self._tell(fits[key], len(batch))
        total = float(weights.sum())
        if total == 0:
            raise DataError("every sample of a batch has the weight 0", "give at least one of them a weight")
        return weight / total

    def _gradients(self) -> list[Tensor]:
        """Return the gradients, those of an empty share included, of what the loss depends on."""
        if not self._in_use:
            has = [float(parameter.grad is not None) for parameter in self._parameters]
            self._in_use = [bool(column.any()) for column in self._ranks.table(*has).T]
        found = []
        for parameter, used in zip(self._parameters, self._in_use, strict=True):
            if used:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                found.append(parameter.grad)
        return found

    def _key(self, batch: Batch) -> str:
        shape = "x".join(str(side) for side in batch.inputs.shape[1:])
        return f"training {self._trained} of {shape}"

    def _whole(self, batch: Batch, step: int, on_loss: OnLoss | None, scale: float) -> Tensor:
        together = self._norms.collect

        def work(parts: list[Batch]) -> Tensor:
            if together:
                return self._add_up_together(batch, parts, on_loss, scale)
            return self._add_up(parts, on_loss, scale)

        def before_retry(size: int) -> None:
            self._start_again(step)
            self._tell(size, len(batch))

        return in_parts(
            work,
            batch,
            self._device,
            fits=self._run.adjustments.fits,
            key=self._key(batch),
            most=self._run.micro_batch,
            longest=max(self._sizes) if together else None,
            before_retry=before_retry,
        )

    def _add_up(self, parts: list[Batch], on_loss: OnLoss | None, scale: float) -> Tensor:
        total: Tensor | None = None
        for part, share in zip(parts, _shares(parts), strict=True):
            if share == 0:
                continue
            loss = batch_loss(self._run, self._forward, self._loss, part)
            if on_loss is not None:
                loss = on_loss(loss)
            factor = share * scale
            if loss.requires_grad:
                torch.autograd.backward(loss if factor == 1 else loss * factor)
            part_of_loss = loss.detach() if share == 1 else loss.detach() * share
            total = part_of_loss if total is None else total + part_of_loss
        if total is None:
            raise DataError("every sample of a batch has the weight 0", "give at least one of them a weight")
        return total

    def _add_up_together(
        self, batch: Batch, parts: list[Batch], on_loss: OnLoss | None, scale: float
    ) -> Tensor:
        """As `_add_up`, part by part with the other ranks, whose batch norms wait for what these say."""
        total = torch.zeros((), device=self._device)
        shares = _shares(parts) if scale else [0.0] * len(parts)
        longest, fits = max(self._sizes), self._run.adjustments.fits
        size = part_size(longest, fits=fits, key=self._key(batch), most=self._run.micro_batch)
        stand_in = self._stand_in(batch)
        with self._norms.together():
            for number, start in enumerate(range(0, longest, size)):
                rows = [min(size, max(0, samples - start)) for samples in self._sizes]
                has = rows[self._ranks.rank] > 0
                part, share = (parts[number], shares[number]) if has else (stand_in, 0.0)
                around = self._norms.over(rows)
                if share:
                    loss = batch_loss(self._run, self._forward, self._loss, part, around=around)
                    loss = loss if on_loss is None else on_loss(loss)
                    total = total + loss.detach() * share
                else:
                    # Nothing of the loss is this rank's.
                    inputs, _ = to_device(part, self._device)
                    loss = _logits(self._run, self._forward, inputs, around).sum()
                if loss.requires_grad:
                    torch.autograd.backward(loss * (share * scale))
        return total

    def _stand_in(self, batch: Batch) -> Batch:
        """Return one sample of zeros like those of the batch, which an empty share need not show."""
        shape = batch.inputs.shape[1:]
        floating = batch.inputs.dtype not in (np.uint8, torch.uint8)
        if 0 in self._sizes:
            sides = (*shape, *[0] * (_DIMENSIONS - len(shape)))
            said = self._ranks.table(len(shape), floating, *sides)[int(np.argmax(self._sizes))]
            shape = tuple(int(side) for side in said[2 : 2 + int(said[0])])
            floating = bool(said[1])
        inputs = np.zeros((1, *shape), np.float32 if floating else np.uint8)
        return Batch(inputs, np.zeros(1, np.int64), np.zeros(1, np.int64))

    def _start_again(self, step: int) -> None:
        assert self._run.optimizer is not None
        self._run.optimizer.zero_grad()
        self._statistics.put_back(step)
        seed_step(self._device, self._run.seed, step, self._ranks.rank)

    def _tell(self, size: int, whole: int) -> None:
        normed = "; batch norm takes the statistics of each part" if len(self._statistics) else ""
        self._run.adjustments.notices.append(
            f"memory ran out: batches of {whole} are now worked on {size} samples at a time, "
            f"at the same rates and in the same order{normed}"
        )

    def _in_float16(self, batch: Batch, step: int, on_loss: OnLoss | None) -> Tensor:
        adjustments = self._run.adjustments
        for attempt in range(_MOST_OVERFLOWS + 1):
            loss = self._of_all_ranks(batch, step, on_loss, adjustments.loss_scale)
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            torch._foreach_mul_(gradients, 1 / adjustments.loss_scale)
            norm = torch.nn.utils.get_total_norm(gradients)
            known = torch.stack([loss.float(), norm.float().to(loss.device)]).tolist()
            # A loss that is not finite is none that a smaller scale would mend.
            if all(map(math.isfinite, known)) or not math.isfinite(known[0]) or attempt == _MOST_OVERFLOWS:
                break
            adjustments.loss_scale /= 2
            adjustments.scaled_steps = 0
            self._start_again(step)
        adjustments.scaled_steps += 1
        if adjustments.scaled_steps >= _GROWTH_STEPS:
            adjustments.loss_scale *= 2
            adjustments.scaled_steps = 0
        return loss


def batch_loss(
    run: Run,
    forward: nn.Module,
    loss: Loss,
    batch: Batch,
    *,
    around: contextlib.AbstractContextManager[None] | None = None,
) -> Tensor:
    """Return the mean loss of a batch, a float32 scalar with gradients, at the run's precision.

    `around`: what the network runs in, where the batch is but a share of one. Raises `DataError` for class
    numbers that the network has no output for, and for targets that are not finite.
    """
    inputs, targets = to_device(batch, run.device)
    if around is None:
        around = statistics_as_they_are(forward) if len(batch) == 1 else contextlib.nullcontext()
    logits = _logits(run, forward, inputs, around)
    _check_targets(batch, logits)
    losses = loss(logits, targets)
    if batch.weight is None:
        return losses.mean()
    if losses.ndim == 0:
        raise UsageError("a loss that gives one number cannot weigh samples", "give one loss for each sample")
    weight = torch.as_tensor(batch.weight, dtype=losses.dtype, device=losses.device)
    return (losses * weight).sum() / weight.sum()


def _logits(
    run: Run, forward: nn.Module, inputs: Tensor, around: contextlib.AbstractContextManager[None]
) -> Tensor:
    with around, autocast_for(run.device, run.precision):
        logits: Tensor = forward(inputs)
    return logits


def _check_targets(batch: Batch, logits: Tensor) -> None:
    """Refuse targets out of range before a CUDA kernel does, which would end the process' use of it."""
    targets = batch.targets
    if isinstance(targets, Tensor):
        if targets.device.type != "cpu":
            return
        targets = targets.numpy()
    if not targets.size:
        return
    if targets.dtype.kind == "f":
        # The sum is not finite where one of them is not: one pass, and no more where all is well.
        if math.isfinite(float(targets.sum())):
            return
        bad, expected = ~np.isfinite(targets), "finite numbers"
    elif targets.ndim == 1 and logits.ndim == 2:
        classes = logits.shape[1]
        if int(targets.min()) >= 0 and int(targets.max()) < classes:
            return
        bad, expected = (targets < 0) | (targets >= classes), f"class numbers from 0 to {classes - 1}"
    else:
        return
    rows = np.flatnonzero(bad.reshape(len(targets), -1).any(1))
    if len(rows):
        row = int(rows[0])
        raise DataError(
            f"row {int(batch.index[row])} has the target {targets[row].tolist()}, which is out of range",
            f"targets must be {expected}",
            code="BAD_TARGET",
        )


def _shares(parts: Sequence[Batch]) -> list[float]:
    """Return what part of the whole batch's loss the mean loss of each part is."""
    if len(parts) == 1:
        return [1.0]
    if parts[0].weight is None:
        counts = [float(len(part)) for part in parts]
    else:
        counts = [_weight_of(part) for part in parts]
    total = sum(counts) or 1.0
    return [count / total for count in counts]


def _weight_of(batch: Batch) -> float:
    return float(torch.as_tensor(batch.weight).double().sum())
