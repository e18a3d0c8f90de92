"""Losses: logits and targets → one number for each sample. The loop takes their (weighted) mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from headstart.errors import UsageError
from headstart.types import Task

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""A loss: (logits, targets) → a loss for each sample (batch,), or their mean as a scalar."""


def cross_entropy(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of each sample: (batch, classes) and targets → (batch,).

    Targets are class numbers (batch,) or probabilities (batch, classes), as from mixing.
    `label_smoothing` in 0 … 1 spreads that part over all classes (arXiv 1512.00567).
    """
    target = targets.to(logits.device)
    if target.is_floating_point():
        target = target.float()
    return F.cross_entropy(logits.float(), target, reduction="none", label_smoothing=label_smoothing)


def binary_cross_entropy(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean over the tags of each sample's binary cross-entropy: (batch, tags) → (batch,).

    Targets are 0 … 1. `label_smoothing` moves them towards 0.5 by that part.
    """
    target = targets.to(logits.device, torch.float32)
    if label_smoothing:
        target = target * (1 - label_smoothing) + 0.5 * label_smoothing
    return F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none").mean(dim=1)


def loss_for(task: Task, *, label_smoothing: float = 0.0) -> Loss:
    """Return the loss of a task: cross-entropy for one class of several, binary for tags."""
    if not 0 <= label_smoothing < 1:
        raise UsageError(f"label smoothing is {label_smoothing}", "give a number from 0 to below 1")
    of_sample = binary_cross_entropy if task is Task.MULTI_LABEL else cross_entropy

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return of_sample(logits, targets, label_smoothing=label_smoothing)

    return loss
