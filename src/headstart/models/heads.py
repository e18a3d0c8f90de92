"""Heads: pooled features → one number per class."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from headstart.errors import UsageError


def concat_pool(features: torch.Tensor, *, channels_last: bool = False) -> torch.Tensor:
    """Return the maximum and the mean of a feature map over its positions, side by side.

    (batch, channels, height, width), or (batch, height, width, channels) with `channels_last`, to
    (batch, 2 · channels): the maxima first, as in the course.
    """
    over = (1, 2) if channels_last else (2, 3)
    return torch.cat([features.amax(over), features.mean(over)], 1)


def linear_head(feature_count: int, class_count: int) -> nn.Linear:
    """Return one linear layer, drawn small (0.01), with no bias at first.

    Its optimum on frozen features is a logistic regression, which can be found exactly and put in
    (linear probing, then fine-tuning: arXiv 2202.10054).
    """
    head = nn.Linear(feature_count, class_count)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


def course_head(
    feature_count: int, class_count: int, *, hidden: Sequence[int] = (512,), ps: float = 0.5
) -> nn.Sequential:
    """Return the head of the course: (batch norm, dropout, linear, ReLU) per hidden width, and a last one.

    `ps` in 0 … 1 is the last dropout; those before have half of it. Kaiming-normal weights, as in
    fastai 0.7. Raises `UsageError` for other values of `ps` and widths below one.
    """
    if not 0 <= ps < 1:
        raise UsageError(f"ps is {ps}", "dropout is a share from 0 up to (not including) 1")
    if any(width < 1 for width in hidden):
        raise UsageError(f"hidden widths are {tuple(hidden)}", "give whole numbers from 1 on")
    widths = [feature_count, *hidden, class_count]
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise(widths)):
        is_last = number == len(widths) - 2
        linear = nn.Linear(before, after)
        nn.init.kaiming_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [nn.BatchNorm1d(before), nn.Dropout(ps if is_last else ps / 2), linear]
        if not is_last:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def make_head(
    head: str | nn.Module,
    feature_count: int,
    class_count: int,
    *,
    hidden: Sequence[int] = (512,),
    ps: float = 0.5,
) -> nn.Module:
    """Return the head of that name, `linear` or `course`; a module is returned as it is.

    Raises `UsageError` for another name.
    """
    if isinstance(head, nn.Module):
        return head
    if head == "linear":
        return linear_head(feature_count, class_count)
    if head == "course":
        return course_head(feature_count, class_count, hidden=hidden, ps=ps)
    raise UsageError(f"there is no head {head!r}", "heads are 'linear' and 'course', or a module")
