"""Batch norm on several ranks: each batch is normalised by the statistics of all of it, not of a share.

While a network runs within `NormsOfAllRanks.over`, each batch norm in training mode takes the mean and the
variance over the shares of all ranks, and so do its gradients: what one process would compute. No module is
replaced. Torch asks a mode before it calls `torch.nn.functional.batch_norm`, so a network keeps its classes
and the names of its weights, and timm's batch norms, which have an activation inside, are reached as well.
`torch.nn.SyncBatchNorm` does the same for CUDA alone, puts other modules in their place, and hangs where one
rank runs out of memory; the formulas are the ones that it uses (Ioffe and Szegedy, arXiv 1502.03167).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from headstart.errors import UsageError
from headstart.faults import is_out_of_memory
from headstart.processes import Ranks


class OtherRankError(MemoryError):
    """Memory ran out on another rank: the batch is worked on again, in smaller parts, on all of them."""


class NormsOfAllRanks:
    """The batch norms of a network that several ranks train, and what they tell one another.

    All ranks pass through them in the same order, a rank without samples with a stand-in that counts for
    nothing. Where memory runs out on one, it says so in place of its next message, so that all raise:
    that one its own error, the others `OtherRankError`. Hence all messages are of one length.
    """

    def __init__(self, forward: nn.Module, ranks: Ranks, device: torch.device) -> None:
        self._forward, self._ranks = forward, ranks
        found = () if ranks.alone else forward.modules()
        self._norms = [module for module in found if isinstance(module, _BatchNorm)]
        # Set aside now: where memory has run out there may be none for it.
        widest = max((norm.num_features for norm in self._norms), default=0)
        exact = torch.float64 if self._norms else torch.float32
        self._message = torch.zeros(1 + 2 * widest, dtype=exact, device=device)

    @property
    def collect(self) -> bool:
        """Whether any of them collects statistics, so that the ranks have something to tell."""
        return any(norm.training for norm in self._norms)

    @contextlib.contextmanager
    def over(self, rows: Sequence[int]) -> Iterator[None]:
        """Let the network run on parts of a batch of which each rank has so many `rows`.

        One sample has no variance: batch norms then use what they know.
        """
        with statistics_as_they_are(self._forward) if sum(rows) == 1 else _SharedStatistics(self, rows):
            yield

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Work on a batch that counts only if no rank runs out of memory within."""
        try:
            yield
            self.tell()
        except OtherRankError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                self._message.zero_()[0] = 1
                self._ranks.side_by_side(self._message)
            raise

    @property
    def rank(self) -> int:
        """The number of this rank."""
        return self._ranks.rank

    def tell(self, *columns: Tensor) -> tuple[Tensor, ...]:
        """Return what all ranks told: for each column (channels,) a tensor (ranks, channels), float64."""
        sizes = [len(column) for column in columns]
        end = 1 + sum(sizes)
        if end > len(self._message):
            raise UsageError(
                f"a batch norm of {max(sizes)} channels is none of the network's own modules",
                "make it one of torch.nn.BatchNorm's, or train in one process",
            )
        message = self._message.zero_()
        if columns:
            message[1:end] = torch.cat(columns)
        heard = self._ranks.side_by_side(message)
        if bool(heard[:, 0].any()):
            raise OtherRankError("memory ran out on another rank")
        return torch.split(heard[:, 1:end], sizes, dim=1)


class _SharedStatistics(TorchFunctionMode):
    """Within it, batch norm in training mode takes the statistics of the rows of all ranks."""

    def __init__(self, norms: NormsOfAllRanks, rows: Sequence[int]) -> None:
        super().__init__()
        self.norms, self.rows = norms, rows

    @property
    def counts(self) -> bool:
        """Whether this rank has rows of its own, and not a stand-in."""
        return self.rows[self.norms.rank] > 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch; batch norm in our own way."""
        if function is nn.functional.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        inputs: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Do as the function of this name does, over all ranks: (samples, channels, …) to the same."""
        if not training:
            return nn.functional.batch_norm(
                inputs, running_mean, running_var, weight, bias, False, momentum, eps
            )
        count = sum(self.rows) * (inputs[0, 0].numel())
        mean, variance = self._moments(inputs.detach())
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            # What is kept is the unbiased one, as everywhere in torch.
            running_var.lerp_((variance * (count / (count - 1))).to(running_var.dtype), momentum)
        normalised: Tensor = _Normalise.apply(inputs, weight, bias, mean, variance, eps, count, self)
        return normalised

    @torch.no_grad()
    def _moments(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance (biased) of each channel over the rows of all ranks.

        From those of each rank: the mean of the variances plus the variance of the means.
        """
        own = _exact(inputs)
        variance, mean = torch.var_mean(own, _all_but_channels(inputs), correction=0)
        means, variances = self.norms.tell(mean, variance)
        share = means.new_tensor(self.rows).unsqueeze(1) / sum(self.rows)
        mean = (share * means).sum(0)
        variance = (share * (variances + (means - mean).square())).sum(0)
        return mean.to(own.dtype), variance.to(own.dtype)


class _Normalise(torch.autograd.Function):
    """Normalise by statistics that depend on the inputs of all ranks: the gradients know of that."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        count: int,
        shared: _SharedStatistics,
    ) -> Tensor:
        """Return the inputs, normalised, scaled and shifted."""
        ctx.save_for_backward(inputs, weight, mean, variance)
        ctx.eps, ctx.count, ctx.shared = eps, count, shared
        return nn.functional.batch_norm(inputs, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of inputs, weight and bias; those of the latter two are this rank's part."""
        inputs, weight, mean, variance = ctx.saved_tensors
        axes, shape = _all_but_channels(inputs), [1, -1, *[1] * (inputs.dim() - 2)]
        scale = torch.rsqrt(variance + ctx.eps)
        gradient = _exact(upstream)
        normalised = (_exact(inputs) - mean.view(shape)) * scale.view(shape)
        along, sums = (gradient * normalised).sum(axes), gradient.sum(axes)
        of_inputs = None
        if ctx.needs_input_grad[0]:
            every_along, every_sum = (
                (told.sum(0) / ctx.count).to(along.dtype).view(shape)
                for told in ctx.shared.norms.tell(along, sums)
            )
            steep = scale if weight is None else scale * weight
            if ctx.shared.counts:
                of_inputs = (gradient - every_sum - normalised * every_along) * steep.view(shape)
                of_inputs = of_inputs.to(inputs.dtype)
            else:
                of_inputs = torch.zeros_like(inputs)
        of_weight = along.to(weight.dtype) if ctx.needs_input_grad[1] else None
        of_bias = sums.to(inputs.dtype if weight is None else weight.dtype)
        return of_inputs, of_weight, of_bias if ctx.needs_input_grad[2] else None, *[None] * 5


def _exact(values: Tensor) -> Tensor:
    """Return values in the precision that statistics are computed in: at least float32."""
    return values if values.dtype == torch.float64 else values.float()


def _all_but_channels(values: Tensor) -> list[int]:
    return [axis for axis in range(values.dim()) if axis != 1]


@contextlib.contextmanager
def statistics_as_they_are(forward: nn.Module) -> Iterator[None]:
    """One sample has no variance: batch norms use what they know, and the step still counts."""
    norms = [module for module in forward.modules() if isinstance(module, _BatchNorm) and module.training]
    try:
        for norm in norms:
            norm.eval()
        yield
    finally:
        for norm in norms:
            norm.train()


def collects_statistics(forward: nn.Module) -> bool:
    """Tell whether a network, once it trains, has a batch norm that collects statistics."""
    before = forward.training
    forward.train()
    found = any(module.training for module in forward.modules() if isinstance(module, _BatchNorm))
    forward.train(before)
    return found
