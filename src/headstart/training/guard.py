"""The guard against losses and gradients that are not finite: they never reach the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headstart.errors import HeadstartError
from headstart.inference import to_device
from headstart.training.gradients import Statistics
from headstart.training.precision import autocast_for
from headstart.training.run import Run
from headstart.types import Batch

# Beyond this the square of a step is no float32 any more, and an optimiser would keep infinities.
LARGEST_STEP = 1e18


class NonFiniteError(HeadstartError):
    """A loss or a gradient is infinite or not a number; the weights are those before that step."""

    code = "NON_FINITE"
    exit_code = 65

    def __init__(self, message: str, hint: str, *, step: int, epoch: int, index: list[int]) -> None:
        super().__init__(message, hint)
        self.step = step
        self.epoch = epoch
        self.index = index


@dataclass(frozen=True)
class _Pending:
    """A step whose numbers (loss, gradient norm × rate) are still on their way from the device."""

    values: Tensor
    ready: torch.cuda.Event | None
    step: int
    batches_done: int
    rate: float
    batch: Batch

    def read(self) -> tuple[float, float]:
        if self.ready is not None:
            self.ready.synchronize()
        loss, reach = self.values.tolist()
        return loss, reach


class Guard:
    """Checks every step before the optimiser takes it, and gives the losses as numbers.

    On a CPU a bad step is refused at once. On a CUDA device, where asking for a number stops the
    queue, the fused optimiser is told *on the device* to skip this and all later steps, and the
    number is read one step later. Either way weights, optimiser state and batch-norm statistics are
    those before the bad step.
    """

    def __init__(self, run: Run, forward: nn.Module, *, deferred: bool | None = None) -> None:
        assert run.optimizer is not None
        self._run = run
        self._forward = forward
        self._optimizer = run.optimizer
        fused = bool(run.optimizer.defaults.get("fused"))
        on_device = fused and torch.device(run.device).type == "cuda"
        self._deferred = on_device if deferred is None else deferred
        self.statistics = Statistics(forward, slots=2 if self._deferred else 1)
        self._pending: _Pending | None = None
        self._skip: Tensor | None = None

    def remember(self) -> None:
        """Keep the batch-norm statistics as they are before this step."""
        self.statistics.remember(self._run.step)

    def put_back(self) -> None:
        """Leave things as they were before the step under way, which another error broke off."""
        self.statistics.put_back(self._run.step)
        self._optimizer.zero_grad()

    def check(self, loss: Tensor, norm: Tensor, batch: Batch, rate: float) -> list[float]:
        """Refuse the step if `loss` is not finite or the gradient `norm` is, at this rate, out of range.

        Returns the losses that are known by now, in order.

        Raises `NonFiniteError` for this step, or (on a CUDA device) for the one before.
        """
        reach = norm.detach().float().to(loss.device) * max(1.0, rate)
        values = torch.stack([loss.detach().float(), reach])
        earlier = self._pending
        self._pending = self._send(values, batch, rate)
        if self._deferred:
            self._tell_optimizer(values)
            return self._settle(earlier)
        return self.flush()

    def flush(self) -> list[float]:
        """Return the losses that were not known yet; raises as `check` does."""
        pending, self._pending = self._pending, None
        return self._settle(pending)

    @contextmanager
    def watching(self) -> Iterator[Guard]:
        """Let the optimiser take every step again at the end."""
        try:
            yield self
        finally:
            if self._skip is not None:
                del self._optimizer.found_inf  # type: ignore[attr-defined]
                del self._optimizer.grad_scale  # type: ignore[attr-defined]

    def _send(self, values: Tensor, batch: Batch, rate: float) -> _Pending:
        span = self._run.span
        assert span is not None
        ready = None
        if values.device.type == "cuda":
            values = values.to("cpu", non_blocking=True)
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record()
        return _Pending(values, ready, self._run.step, span.batches_done, rate, batch)

    def _tell_optimizer(self, values: Tensor) -> None:
        """Set torch's own switch by which a gradient scaler makes fused optimisers skip a step."""
        good = torch.isfinite(values[0]) & (values[1] <= LARGEST_STEP)
        bad = (~good).float()
        self._skip = bad if self._skip is None else torch.maximum(self._skip, bad)
        self._optimizer.found_inf = self._skip  # type: ignore[attr-defined]
        self._optimizer.grad_scale = None  # type: ignore[attr-defined]

    def _settle(self, pending: _Pending | None) -> list[float]:
        if pending is None:
            return []
        loss, reach = pending.read()
        if math.isfinite(loss) and reach <= LARGEST_STEP:
            return [loss]
        layer = self._first_bad_layer(pending, loss)
        self._go_back_to(pending)
        raise self._error(pending, loss, layer)

    def _go_back_to(self, pending: _Pending) -> None:
        span = self._run.span
        assert span is not None
        self.statistics.put_back(pending.step)
        self._optimizer.zero_grad()
        self._pending = None
        if self._skip is not None:
            self._skip.zero_()
        self._run.step, span.batches_done = pending.step, pending.batches_done
        del span.sizes[pending.batches_done :], span.rates[pending.batches_done :]
        self._run.stop_reason = "non-finite loss"

    def _first_bad_layer(self, pending: _Pending, loss: float) -> str:
        """Return where numbers stop being finite, in words; "" where that cannot be told."""
        if not math.isfinite(loss):
            return first_bad_output(self._run, self._forward, pending.batch)
        # On a device the gradients of the step after it have taken their place.
        if self._deferred:
            return ""
        names = [
            name
            for name, parameter in self._run.model.named_parameters()
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
        ]
        return f"the gradient of {names[-1]}" if names else ""

    def _error(self, pending: _Pending, loss: float, layer: str) -> NonFiniteError:
        finite = math.isfinite(loss)
        what = "the gradient is not finite" if finite else f"the loss is {loss}"
        index = [int(row) for row in pending.batch.index]
        rows = ", ".join(str(row) for row in index[:8])
        more = f" and {len(index) - 8} more" if len(index) > 8 else ""
        scale = ""
        if self._run.precision == "float16" and finite:
            scale = f", loss scale {self._run.adjustments.loss_scale:.3g}"
        return NonFiniteError(
            f"{what} at step {pending.step} (epoch {self._run.epoch}, learning rate "
            f"{pending.rate:.3g}{scale}, rows {rows}{more}{'; first ' + layer if layer else ''}); "
            "the weights are those before that step",
            "train in bfloat16 or float32 (--precision)"
            if scale
            else "lower the learning rate (lr_find suggests one), or look at those rows",
            step=pending.step,
            epoch=self._run.epoch,
            index=index,
        )


def first_bad_output(run: Run, forward: nn.Module, batch: Batch) -> str:
    """Return the first module whose output is not finite for a batch, in words; "" where none is.

    Runs the batch once more, without gradients; statistics of batch norms move.
    """
    found: list[str] = []

    def looking_at(name: str) -> Callable[[nn.Module, object, object], None]:
        def look(module: nn.Module, inputs: object, output: object) -> None:
            if not found and isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                found.append(f"the output of {name}" if name else "the output of the network")

        return look

    inputs, _ = to_device(batch, run.device)
    if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
        return "the input"
    hooks = [module.register_forward_hook(looking_at(name)) for name, module in forward.named_modules()]
    try:
        # A compiled network does not call its modules one by one.
        with (
            torch.compiler.set_stance("force_eager"),
            torch.no_grad(),
            autocast_for(run.device, run.precision),
        ):
            forward(inputs)
    except (RuntimeError, ValueError):  # the error to report is the one that is being explained
        return ""
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "the loss"
