"""Losses: logits and targets → one number for each sample. The loop takes their (weighted) mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from headstart.errors import UsageError
from headstart.training.plan import LOSSES
from headstart.training.values import unknown_name
from headstart.types import Task

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""A loss: (logits, targets) → a loss for each sample (batch,), or their mean as a scalar."""

GAMMA = 2.0
BETA = 0.999


def cross_entropy(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Return the cross-entropy of each sample: (batch, classes) and targets → (batch,).

    Targets are class numbers (batch,) or probabilities (batch, classes), as from mixing.
    `label_smoothing` in 0 … 1 spreads that part over all classes (arXiv 1512.00567). `weights`
    (classes,): how much each class counts, once more after the mean over the samples: see
    `class_weights`.
    """
    target = targets.to(logits.device)
    if target.is_floating_point():
        target = target.float()
    return F.cross_entropy(
        logits.float(), target, weight=weights, reduction="none", label_smoothing=label_smoothing
    )


def binary_cross_entropy(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Return the mean over the tags of each sample's binary cross-entropy: (batch, tags) → (batch,).

    Targets are 0 … 1. `label_smoothing` moves them towards 0.5 by that part. `weights` (2, tags): how
    much each tag counts where it is absent, and where it is there: see `tag_weights`.
    """
    target = _tags(logits, targets, label_smoothing)
    if weights is None:
        return F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none").mean(dim=1)
    values = logits.float()
    there, absent = F.softplus(-values), F.softplus(values)
    return (weights[1] * target * there + weights[0] * (1 - target) * absent).mean(dim=1)


def focal(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma: float = GAMMA,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy of each sample, less of it where the sample is easy: (batch,).

    Each class adds (1 - p)^gamma · t · -log p, where p is its probability and t its target; the rest
    is as for `cross_entropy`, which gamma 0 gives. Source: Lin et al., arXiv 1708.02002.
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    target = _distribution(targets, log_p, label_smoothing)
    losses = -target * _power(-torch.expm1(log_p), gamma) * log_p
    return (losses if weights is None else losses * weights).sum(dim=1)


def binary_focal(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma: float = GAMMA,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the mean over the tags of the binary focal loss (arXiv 1708.02002): (batch, tags) → (batch,).

    A tag adds (1 - p)^gamma · -log p where it is there, and p^gamma · -log(1 - p) where it is not; the
    rest is as for `binary_cross_entropy`.
    """
    values = logits.float()
    target = _tags(logits, targets, label_smoothing)
    there = target * _power(values.neg().sigmoid(), gamma) * F.softplus(-values)
    absent = (1 - target) * _power(values.sigmoid(), gamma) * F.softplus(values)
    if weights is not None:
        there, absent = weights[1] * there, weights[0] * absent
    return (there + absent).mean(dim=1)


def _power(share: Tensor, gamma: float) -> Tensor:
    # At 0 the slope of a power below 1 is infinite, and infinity times nothing no number.
    return share.clamp_min(torch.finfo(share.dtype).tiny) ** gamma if gamma else torch.ones_like(share)


def _distribution(targets: Tensor, like: Tensor, label_smoothing: float) -> Tensor:
    """Return targets as probabilities (batch, classes), smoothed."""
    target = targets.to(like.device)
    spread = target.float() if target.is_floating_point() else F.one_hot(target, like.shape[1]).float()
    return spread * (1 - label_smoothing) + label_smoothing / like.shape[1] if label_smoothing else spread


def _tags(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    target = targets.to(logits.device, torch.float32)
    return target * (1 - label_smoothing) + 0.5 * label_smoothing if label_smoothing else target


# ---- how often the classes are there -------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LabelCounts:
    """How often each class, or tag, is there in the training rows: `there` (classes,), of `rows`."""

    there: NDArray[np.int64]
    rows: int

    @classmethod
    def of(cls, labels: ArrayLike, class_count: int) -> LabelCounts:
        """Count class numbers (rows,), -1 for unknown, or tags as 0 and 1 (rows, tags).

        >>> LabelCounts.of([0, 0, 2, -1], 3).there.tolist()
        [2, 0, 1]
        """
        values = np.asarray(labels)
        if values.ndim == 2:
            return cls(np.count_nonzero(values, axis=0), len(values))
        known = values[values >= 0]
        return cls(np.bincount(known, minlength=class_count), len(known))


def class_weights(counts: LabelCounts, *, beta: float = BETA) -> NDArray[np.float64]:
    """Return how much each class counts, (classes,): the mean over the training rows is 1.

    The weight of a class of n pictures is proportional to (1 - beta) / (1 - beta^n): to 1 / n for rare
    classes, while of more than about 1 / (1 - beta) pictures the further ones bring nothing new. Source:
    the class-balanced loss of Cui et al., arXiv 1901.05555. A class that never occurs counts as one
    with a single picture.
    """
    return _balanced(counts.there, beta)


def tag_weights(counts: LabelCounts, *, beta: float = BETA) -> NDArray[np.float64]:
    """Return how much each tag counts where it is absent and where it is there, (2, tags).

    For each tag the two are balanced as `class_weights` does with two classes.
    """
    both = np.stack([counts.rows - counts.there, counts.there])
    return np.stack([_balanced(both[:, tag], beta) for tag in range(both.shape[1])], axis=1)


def _balanced(counts: NDArray[np.int64], beta: float) -> NDArray[np.float64]:
    if not 0 <= beta < 1:
        raise UsageError(f"beta is {beta}", "give a number from 0 (no balance) to below 1")
    weights = (1 - beta) / (1 - beta ** np.maximum(counts, 1))
    total = counts.sum()
    return np.asarray(weights / ((weights * counts).sum() / total if total else weights.mean()))


def logit_shifts(counts: LabelCounts, task: Task) -> NDArray[np.float64]:
    """Return what is added to the logits in training, (classes,): the logarithm of the share of each class.

    For tags the logarithm of the odds. The network then learns what makes the classes differ and not
    how often they come, so that without the addition rare classes are found as well as frequent ones.
    Source: Menon et al., arXiv 2007.07314, with tau = 1.
    """
    there = np.maximum(counts.there, 1).astype(np.float64)
    if task is Task.MULTI_LABEL:
        return np.asarray(np.log(there) - np.log(np.maximum(counts.rows - counts.there, 1)))
    return np.asarray(np.log(there / there.sum()))


# ---- the loss of a plan --------------------------------------------------------------------


class _Constant:
    """A small tensor that is sent once to each device that asks for it."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._known = {torch.device("cpu"): torch.from_numpy(values).float()}

    def on(self, device: torch.device) -> Tensor:
        if device not in self._known:
            self._known[device] = self._known[torch.device("cpu")].to(device)
        return self._known[device]


def loss_for(
    task: Task,
    name: str = "auto",
    *,
    label_smoothing: float = 0.0,
    counts: LabelCounts | None = None,
    balanced: bool = False,
) -> Loss:
    """Return a loss by its name: `auto` is cross-entropy for one class of several, binary for tags.

    The others are `cross_entropy`, `binary_cross_entropy`, `focal`, `class_balanced` (that of the task,
    weighted by `class_weights`) and `logit_adjusted` (that of the task, with `logit_shifts`). `balanced`
    weighs any of them by class. Raises `ConfigError` for an unknown name, `UsageError` for one without
    meaning for the task, for what needs `counts` without them, and for two kinds of balance at once.
    """
    if not 0 <= label_smoothing < 1:
        raise UsageError(f"label smoothing is {label_smoothing}", "give a number from 0 to below 1")
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    tags = task is Task.MULTI_LABEL
    if name == ("cross_entropy" if tags else "binary_cross_entropy"):
        wanted = "tags" if tags else "pictures of one class each"
        raise UsageError(f"the loss {name} has no meaning for {wanted}", "leave the loss out: auto")
    adjusted, weighted = name == "logit_adjusted", balanced or name == "class_balanced"
    if adjusted and balanced:
        raise UsageError("logit adjustment balances the classes already", "choose it or a balance, not both")
    if (adjusted or weighted) and counts is None:
        raise UsageError(f"the loss {name} needs to know how often the classes are there", "give counts")
    plain = (binary_focal if tags else focal) if name == "focal" else binary_cross_entropy if tags else None
    of_sample = partial(plain or cross_entropy, label_smoothing=label_smoothing)
    if counts is not None and adjusted:
        return _shifted(of_sample, _Constant(logit_shifts(counts, task)))
    if counts is not None and weighted:
        return _weighted(of_sample, _Constant(tag_weights(counts) if tags else class_weights(counts)))
    return of_sample


def _shifted(of_sample: Callable[..., Tensor], shifts: _Constant) -> Loss:
    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return of_sample(logits.float() + shifts.on(logits.device), targets)

    return loss


def _weighted(of_sample: Callable[..., Tensor], weights: _Constant) -> Loss:
    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return of_sample(logits, targets, weights=weights.on(logits.device))

    return loss
