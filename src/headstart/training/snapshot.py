"""Leave no trace: put back, bit by bit, all that a piece of training has changed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from headstart.training.run import Run


@contextmanager
def untouched(run: Run, *more: nn.Module) -> Iterator[None]:
    """Give back weights, buffers, gradients, modes, optimiser, loss scale and random states as they were.

    Covers `run.model`, the modules in `more` and `run.optimizer`, and the global generators of
    Python, NumPy and torch (on the CPU), whether the block ends well or by an exception.
    """
    roots = (run.model, *more)
    modules = {id(module): module for root in roots for module in root.modules()}.values()
    modes = [(module, module.training) for module in modules]
    parameters = list({id(p): p for root in roots for p in root.parameters()}.values())
    buffers = list({id(b): b for root in roots for b in root.buffers()}.values())
    tensors: list[Tensor] = [*parameters, *buffers]
    copies = [tensor.detach().clone() for tensor in tensors]
    gradients = [None if p.grad is None else p.grad.detach().clone() for p in parameters]
    put_back_optimizer = _optimizer_memory(run.optimizer) if run.optimizer is not None else None
    scale = run.adjustments.loss_scale, run.adjustments.scaled_steps
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, copy in zip(tensors, copies, strict=True):
                tensor.copy_(copy)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for module, training in modes:
            module.training = training
        if put_back_optimizer is not None:
            put_back_optimizer()
        run.adjustments.loss_scale, run.adjustments.scaled_steps = scale
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])


def _optimizer_memory(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Return a function that puts the optimiser's state and settings back."""
    state = {
        parameter: {
            name: value.clone() if isinstance(value, Tensor) else value for name, value in entries.items()
        }
        for parameter, entries in optimizer.state.items()
    }
    groups = optimizer.param_groups
    settings = [{key: value for key, value in group.items() if key != "params"} for group in groups]

    def put_back() -> None:
        optimizer.state.clear()
        optimizer.state.update(state)
        for group, kept in zip(groups, settings, strict=True):
            group.update(kept)

    return put_back
