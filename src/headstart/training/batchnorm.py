"""Batch-norm statistics recomputed from training pictures, for weights that no batch has passed through."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from headstart.errors import UsageError
from headstart.inference import to_device
from headstart.models import Classifier
from headstart.training.callbacks import Callback
from headstart.training.run import Run
from headstart.types import BatchSource


def recalibrate_batch_norm(
    model: nn.Module,
    source: BatchSource,
    *,
    epoch: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Recompute the running means and variances of batch norm over one epoch of `source`.

    `model` takes the source's inputs on the device that its parameters are on: a `Classifier` and its
    pictures, the part above a line and its activations, or any other module. Of a `Classifier`, what is
    frozen in evaluation mode stays as it is, since it is constant. Statistics are averages over all
    batches, each weighing as much as it has samples, instead of the running ones, which the last few
    batches decide; the batches are to mix the classes. Everything but batch norm is in evaluation mode
    meanwhile, as it will be when the statistics are used. A batch of a single sample has no variance and
    is left out. Returns how many batch norms there were; without any, no batch is asked for.

    Averaged weights need it (SWA, arXiv 1803.05407), and all others may gain by it (Wu and Johnson 2021,
    arXiv 2105.07576). Raises `UsageError` where no batch has two samples; then, and whenever it does not
    come to its end, the statistics are as they were.
    """
    norms = _norms(model)
    if not norms:
        return 0
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    with _collecting(model, norms), torch.no_grad():
        seen, done = 0, 0
        for batch in source.epoch(epoch):
            done += len(batch)
            if len(batch) > 1:
                seen += len(batch)
                for norm in norms:
                    norm.momentum = len(batch) / seen
                model(to_device(batch, device)[0])
            if on_progress is not None:
                on_progress(done, source.sample_count)
        if not seen:
            raise UsageError(
                "batch norm cannot be recalibrated: no batch has two pictures", "raise --batch-size"
            )
    return len(norms)


class RecalibrateBatchNorm(Callback):
    """Recomputes batch-norm statistics before each validation; see `recalibrate_batch_norm`.

    So what is validated, and kept where it was best, has the statistics of its own weights. It costs a
    forward pass over `source` for each epoch, and nothing where `model` has no batch norm.
    """

    def __init__(self, model: nn.Module, source: BatchSource) -> None:
        self._model, self._source = model, source

    def before_validate(self, run: Run) -> None:
        """Recompute the statistics."""
        recalibrate_batch_norm(self._model, self._source)


def _norms(model: nn.Module) -> list[_BatchNorm]:
    parts: Sequence[nn.Module] = (model,)
    if isinstance(model, Classifier):
        first = model.frozen_line if model.frozen_batch_norm == "eval" else 0
        parts = tuple(model.stage_modules(first, len(model.stages)).values())
    found = {id(m): m for part in parts for m in part.modules() if isinstance(m, _BatchNorm)}
    return [norm for norm in found.values() if norm.track_running_stats and norm.running_mean is not None]


@contextlib.contextmanager
def _collecting(model: nn.Module, norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Empty the statistics and let these modules alone train; undo it all unless the block ends well."""
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
        yield
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            for name, buffer in buffers.items():
                norm.get_buffer(name).copy_(buffer)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
