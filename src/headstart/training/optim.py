"""Discriminative learning rates, and optimisers whose state survives a move of the frozen line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from headstart.errors import UsageError

Rates = Sequence[float]


def group_rates(rate: float | slice | Sequence[float], group_count: int, ratio: float = 10.0) -> list[float]:
    """Return one peak learning rate for each parameter group, earliest layers first.

    A number: the same for all. `slice(low, high)`: geometric from the first group to the last.
    `slice(high)`: `high` for the last group and `high / ratio` for all others (the course: 10).
    A sequence: one for each group; its length must match. Frozen groups count too.

    Raises `UsageError` for anything else, and for rates that are not finite and above 0.
    """
    if group_count < 1:
        raise UsageError(f"{group_count} parameter groups", "there must be at least one")
    if isinstance(rate, slice):
        rates = _slice_rates(rate, group_count, ratio)
    elif isinstance(rate, Sequence):
        rates = [_as_rate(number) for number in rate]
        if len(rates) != group_count:
            raise UsageError(
                f"{len(rates)} learning rates for {group_count} parameter groups",
                "give one rate for each group, one for all, or slice(low, high)",
            )
    else:
        rates = [_as_rate(rate)] * group_count
    return rates


def _slice_rates(rate: slice, count: int, ratio: float) -> list[float]:
    if rate.step is not None or rate.stop is None:
        raise UsageError(f"{rate} is not a range of learning rates", "write slice(low, high) or slice(high)")
    high = _as_rate(rate.stop)
    if rate.start is None:
        return [high / ratio] * (count - 1) + [high]
    low = _as_rate(rate.start)
    if count == 1:
        return [high]
    return [low * (high / low) ** (number / (count - 1)) for number in range(count - 1)] + [high]


def layer_decay(rate: float, group_count: int, decay: float = 0.75) -> tuple[float, ...]:
    """Return a rate for each group: `rate` for the head, and `decay` times less for each group below.

    Meant for one group a stage (`Classifier.set_groups("stage")`): 0.65 … 0.75 for small transformers,
    0.8 … 0.9 for convolutional networks. Source: ELECTRA (Clark et al. 2020, arXiv 2003.10555), for
    pictures BEiT (Bao et al. 2021, arXiv 2106.08254). Raises `UsageError` unless `decay` is in 0 … 1
    (not 0), and for a rate that is none.
    """
    if not 0 < decay <= 1:
        raise UsageError(f"a layer decay of {decay}", "give a number above 0, up to 1, such as 0.75")
    high = _as_rate(rate)
    return tuple(high * decay ** (group_count - 1 - number) for number in range(group_count))


def _as_rate(number: Any) -> float:
    try:
        value = float(number)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value > 0) or isinstance(number, bool):
        raise UsageError(f"{number!r} is not a learning rate", "give a finite number above 0, such as 1e-3")
    return value


def make_optimizer(
    parameter_groups: Sequence[Sequence[nn.Parameter]],
    rates: Rates,
    *,
    name: str = "adamw",
    weight_decay: float = 0.01,
    momentum: float = 0.9,
) -> torch.optim.Optimizer:
    """Return AdamW or SGD over `parameter_groups`, with a learning rate for each.

    A group may be empty (it is frozen). Weight decay is decoupled for `adamw` (betas 0.9 and 0.99,
    eps 1e-5, as in fastai 2), an L2 term for `sgd`; parameters with at most one dimension have none.
    A parameter that occurs twice is trained once, in its first group. With no parameter at all
    `UsageError` is raised.
    """
    groups = _torch_groups(parameter_groups, rates, weight_decay)
    if not groups:
        raise UsageError("nothing can be trained: every parameter is frozen", "unfreeze at least the head")
    # The fused kernels take one pass over memory; they are also told on the device to skip a step.
    fused = _can_fuse(groups)
    if name == "adamw":
        return torch.optim.AdamW(groups, betas=(momentum, 0.99), eps=1e-5, fused=fused)
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=momentum, fused=fused)
    raise UsageError(f"unknown optimizer {name!r}", "choose adamw or sgd")


def move_line(
    optimizer: torch.optim.Optimizer,
    parameter_groups: Sequence[Sequence[nn.Parameter]],
    rates: Rates,
    *,
    weight_decay: float = 0.01,
) -> None:
    """Give `optimizer` the parameters that train now; those that stay keep their state.

    Called after the frozen line has moved. Momentum and other settings stay as they were.
    """
    groups = _torch_groups(parameter_groups, rates, weight_decay)
    if not groups:
        raise UsageError("nothing can be trained: every parameter is frozen", "unfreeze at least the head")
    kept = {id(parameter) for group in groups for parameter in group["params"]}
    for parameter in [p for p in optimizer.state if id(p) not in kept]:
        del optimizer.state[parameter]
    settings = {key: value for key, value in optimizer.param_groups[0].items() if key not in groups[0]}
    optimizer.param_groups.clear()
    for group in groups:
        optimizer.add_param_group({**settings, **group})


def set_rates(
    optimizer: torch.optim.Optimizer, rates: Rates, factor: float, momentum: float | None = None
) -> None:
    """Set each group's learning rate to `factor` times its peak, and the momentum.

    Without `momentum` it is the one that the optimiser was made with.
    """
    for group in optimizer.param_groups:
        group["lr"] = rates[group["number"]] * factor
    if momentum is None:
        defaults = optimizer.defaults
        momentum = defaults["betas"][0] if "betas" in defaults else defaults["momentum"]
    set_momentum(optimizer, momentum)


def set_momentum(optimizer: torch.optim.Optimizer, momentum: float) -> None:
    """Set the momentum of all groups: Adam's first beta, or that of SGD."""
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def set_decay(optimizer: torch.optim.Optimizer, weight_decay: float) -> None:
    """Set the weight decay of all groups of matrices; parameters with at most one dimension have none."""
    for group in optimizer.param_groups:
        if any(parameter.ndim > 1 for parameter in group["params"]):
            group["weight_decay"] = weight_decay


def _torch_groups(
    parameter_groups: Sequence[Sequence[nn.Parameter]], rates: Rates, weight_decay: float
) -> list[dict[str, Any]]:
    """Return torch's parameter groups: for each of ours one with and one without weight decay."""
    if len(rates) != len(parameter_groups):
        raise UsageError(f"{len(rates)} learning rates for {len(parameter_groups)} parameter groups")
    seen: set[int] = set()
    groups: list[dict[str, Any]] = []
    for number, (parameters, rate) in enumerate(zip(parameter_groups, rates, strict=True)):
        fresh = []
        for parameter in parameters:
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                fresh.append(parameter)
        matrices = [parameter for parameter in fresh if parameter.ndim > 1]
        vectors = [parameter for parameter in fresh if parameter.ndim <= 1]
        for members, decay in ((matrices, weight_decay), (vectors, 0.0)):
            if members:
                groups.append({"params": members, "lr": rate, "weight_decay": decay, "number": number})
    return groups


def _can_fuse(groups: Sequence[dict[str, Any]]) -> bool:
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
