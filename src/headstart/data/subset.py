"""A few of many samples, for a quick trial."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headstart.data.samples import Samples
from headstart.errors import UsageError
from headstart.types import Task


def limit_samples(samples: Samples, limit: int, *, seed: int = 0) -> Samples:
    """Return at most `limit` samples, in their order, with each class and part in its share.

    Within each class of each part the pictures are ranked by a mix of (seed, id) and the first are taken:
    the same ones whatever the order of the rows, and a larger limit takes those of a smaller one too, as
    long as the shares grow. Of each class two are kept where it has two. Raises `UsageError` where the
    limit has no room for that.
    """
    if limit >= len(samples):
        return samples
    strata = _strata(samples)
    sizes = np.bincount(strata)
    least = np.minimum(sizes, 2)
    if limit < least.sum():
        raise UsageError(
            f"--limit {limit} has no room for two pictures of each class",
            f"give {least.sum()} or more: there are {len(sizes)} classes, counted for each part",
        )
    wanted = _shares(sizes, least, limit)
    ranked = np.lexsort((_mixed(samples.ids, seed), strata))
    place = np.arange(len(ranked)) - np.concatenate([[0], np.cumsum(sizes)])[strata[ranked]]
    rows = np.sort(ranked[place < wanted[strata[ranked]]])
    return samples.take(rows).with_split(
        samples.split[rows], notes=(f"a trial with {len(rows):,} of {len(samples):,} pictures",)
    )


def _strata(samples: Samples) -> NDArray[np.int64]:
    """Return a number for each row, equal for rows of one part and one label, from 0 on without gaps."""
    labels = samples.labels
    if samples.task is Task.MULTI_LABEL:
        # Combinations of tags may be as many as there are pictures: the rarest tag stands for them.
        rarity = np.append(np.argsort(np.argsort(labels.sum(axis=0, dtype=np.int64), kind="stable")), -1)
        ranks = np.where(labels > 0, rarity[:-1], len(rarity))
        labels = ranks.min(axis=1) if labels.shape[1] else np.zeros(len(samples), np.int64)
    parts = np.unique(samples.split, return_inverse=True)[1].reshape(-1)
    both = parts.astype(np.int64) * (int(labels.max(initial=0)) + 2) + labels + 1
    return np.unique(both, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _shares(sizes: NDArray[np.int64], least: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """Return how many to take of each stratum: its share, `least` or more, `limit` together."""
    wanted = np.maximum(least, np.floor(sizes * (limit / sizes.sum())).astype(np.int64))
    while wanted.sum() > limit:  # small classes took more than their share: the largest give it back
        spare = np.where(wanted > least, wanted / sizes, -1)
        over = wanted.sum() - limit
        givers = np.lexsort((np.arange(len(sizes)), -spare))[: max(1, min(over, int((spare > 0).sum())))]
        wanted[givers] -= 1
    left = limit - wanted.sum()
    fraction = np.where(wanted < sizes, sizes * (limit / sizes.sum()) - wanted, -np.inf)
    for stratum in np.lexsort((np.arange(len(sizes)), -fraction))[:left].tolist():
        wanted[stratum] += 1
    return np.asarray(np.minimum(wanted, sizes), np.int64)


def _mixed(ids: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Return a well-mixed number for each id (the finaliser of SplitMix64, Steele et al. 2014)."""
    golden = 0x9E3779B97F4A7C15
    mixed = ids + np.uint64((seed + 1) * golden % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
