"""The nearest neighbours: what the frozen features say of a picture without any fit at all.

Cosine similarity, and a vote of the nearest that weighs exp(similarity / temperature), as in DINO (Caron
et al. 2021, arXiv 2104.14294, after Wu et al. 2018, arXiv 1805.01978). Beside the probe it says what kind
of features these are: where neighbours do nearly as well, classes lie apart and a few pictures would do.
Needs no torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.errors import UsageError

Floats = NDArray[np.float32]

# DINO's best number of neighbours and its temperature. Of small sets fewer are taken: see `neighbours_of`.
NEIGHBOURS = 20
TEMPERATURE = 0.07
# Rows whose similarities to all known ones are held at once: 1024 x 50,000 float32 take 200 MB.
AT_ONCE = 1024


def neighbours_of(targets: NDArray[Any]) -> int:
    """Return how many neighbours vote: at most 20, and not more than a class has on average."""
    classes = targets.shape[1] if targets.ndim == 2 else len(np.unique(targets))
    return int(max(1, min(NEIGHBOURS, len(targets) // max(1, classes), len(targets))))


def knn_logits(
    known: ArrayLike,
    targets: ArrayLike,
    class_count: int,
    asked: ArrayLike,
    *,
    neighbours: int | None = None,
    temperature: float = TEMPERATURE,
) -> Floats:
    """Return logits (rows, classes) for `asked` (rows, features) by the nearest of `known`.

    `targets` are class numbers (known,), or tags as 0 and 1 (known, tags). The logits are those of the
    votes' shares: for classes their logarithm, so that softmax gives the shares back; for tags log-odds.
    One vote in all is spread evenly over the classes (for tags: over yes and no), so that none is
    impossible. Standardised features would weigh what hardly varies as much as the rest: here they are
    centred on the mean of `known` and taken at unit length. Raises `UsageError` for arrays that do not
    match and for features that are not finite.
    """
    rows, labels, wanted = np.asarray(known, np.float32), np.asarray(targets), np.asarray(asked, np.float32)
    rows, wanted = rows.reshape(len(rows), -1), wanted.reshape(len(wanted), -1)
    tags = labels.ndim == 2
    if not len(rows) or labels.shape not in ((len(rows),), (len(rows), class_count)):
        raise UsageError(f"features {rows.shape} and targets {labels.shape} do not match")
    if rows.shape[1] != wanted.shape[1]:
        raise UsageError(f"features of {rows.shape[1]} and of {wanted.shape[1]} numbers do not match")
    if not (np.isfinite(rows).all() and np.isfinite(wanted).all()):
        raise UsageError("features are not finite", "look at the weights of the body")
    count = min(len(rows), neighbours or neighbours_of(labels))
    marks = labels.astype(np.float32) if tags else np.eye(class_count, dtype=np.float32)[labels]
    centre = rows.mean(0, dtype=np.float64).astype(np.float32)
    bank = _unit(rows - centre)
    votes = np.concatenate(
        [
            _votes(_unit(wanted[start : start + AT_ONCE] - centre) @ bank.T, marks, count, temperature)
            for start in range(0, max(1, len(wanted)), AT_ONCE)
        ]
    )
    # One more vote than there are neighbours, spread evenly.
    if tags:
        shares = (count * votes + 0.5) / (count + 1)
        return np.asarray(np.log(shares) - np.log1p(-shares), np.float32)
    return np.asarray(np.log((count * votes + 1 / class_count) / (count + 1)), np.float32)


def _unit(rows: Floats) -> Floats:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12), np.float32)


def _votes(similarity: Floats, marks: Floats, count: int, temperature: float) -> Floats:
    """The share of the votes for each class (rows, classes), by the `count` most similar."""
    nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    closeness = np.take_along_axis(similarity, nearest, axis=1)
    weight = np.exp((closeness - closeness.max(1, keepdims=True, initial=-1)) / temperature)
    weight /= weight.sum(1, keepdims=True)
    return np.asarray(np.einsum("rk,rkc->rc", weight, marks[nearest]), np.float32)
