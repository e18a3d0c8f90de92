"""None of these: pictures that are unlike all that the model learned from, by what enters its head.

Most of what known pictures differ in lies in a few directions; what a strange picture has beside those is
large (Wang et al. 2022, arXiv 2203.10807, its residual part). Measured with mobilenetv2_100 and the limit
that turns away 5 % of held-out pictures, mean of three seeds; flowers against aerial, catsdogs, ants_bees:

| by | flowers turned away | aerial | catsdogs | ants_bees |
|---|---|---|---|---|
| the energy of the logits (Liu et al. 2020) | 4 % | 43 % | 35 % | 18 % |
| the fifth nearest neighbour, unit length (Sun et al. 2022) | 5 % | 98 % | 67 % | 19 % |
| the residual, features as they come | 5 % | 56 % | 93 % | 59 % |
| the residual, each pool at unit length | 4 % | 100 % | 99 % | 28 % |

Bees sit on flowers. The last way also turned away 99 % and more of the other sets for models of catsdogs and
of aerial, so it is the one that is used; its numbers take 0.7 MB for 2,560 features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.errors import UsageError
from headstart.evaluation.metrics import Interval, wilson
from headstart.evaluation.scores import Floats

RATE = 0.05
"""The share of known pictures that is turned away."""

# Directions that known pictures may differ in. Of flowers 32 turned away 98 % of catsdogs, 64 99 %.
MOST_AXES = 64
ROWS_FOR_AN_AXIS = 4
FEWEST_ROWS = 40
"""So many held-out pictures are needed: of fewer, 5 % are not two."""

# A feature that hardly varies would count for nearly everything: no spread is below this share of the median.
LEAST_SPREAD = 0.05
AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Novelty:
    """How far a picture's features lie outside of what known ones span, and from where on that is too far.

    `mean` and `scale` (features,) standardise; `axes` (features, k) are the directions that known pictures
    differ in; `blocks`: how many parts of the features are brought to unit length each (two for
    concatenated pools). `limit`: the distance from which on a picture is of none of the classes; `rate`: the
    share of known pictures beyond it.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    axes: NDArray[np.float32]
    blocks: int
    limit: float
    rate: float

    @property
    def feature_count(self) -> int:
        """How many features a picture has."""
        return len(self.mean)

    def distances(self, features: ArrayLike) -> Floats:
        """Return how far the features (rows, features) lie outside: float64 (rows,), 0 …"""
        rows = np.asarray(features, np.float32)
        rows = rows.reshape(len(rows), -1)
        if rows.shape[1] != self.feature_count:
            raise UsageError(f"{rows.shape[1]} features, but {self.feature_count} are known")
        parts = [rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE)]
        return np.concatenate([np.zeros(0), *(self._distances(part) for part in parts)])

    def _distances(self, rows: NDArray[np.float32]) -> Floats:
        standard = (_unit(rows, self.blocks) - self.mean) * self.scale
        outside = standard - (standard @ self.axes) @ self.axes.T
        return np.asarray(np.linalg.norm(outside, axis=1), np.float64)

    def strangeness(self, features: ArrayLike) -> Floats:
        """Return the distances over the limit, float64 (rows,): above 1 none of the classes."""
        return self.distances(features) / self.limit

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what a bundle keeps in a file of its own."""
        blocks = np.array([self.blocks], np.int64)
        return {"mean": self.mean, "scale": self.scale, "axes": self.axes, "blocks": blocks}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], *, limit: float, rate: float) -> Novelty:
        """Read what `to_arrays` gave; raises `UsageError` for whatever does not belong together."""
        if set(arrays) != {"mean", "scale", "axes", "blocks"}:
            raise UsageError(f"it holds {', '.join(sorted(arrays))[:200]}")
        mean, scale, axes, blocks = (arrays[name] for name in ("mean", "scale", "axes", "blocks"))
        count = len(mean) if mean.ndim == 1 else 0
        fits = mean.shape == scale.shape == (count,) and axes.ndim == 2 and len(axes) == count
        floats = all(part.dtype == np.float32 and np.isfinite(part).all() for part in (mean, scale, axes))
        whole = blocks.shape == (1,) and blocks.dtype == np.int64 and blocks[0] in (1, 2)
        if not (count and fits and floats and whole) or count % int(blocks[0]):
            raise UsageError("its numbers do not belong together")
        return cls(mean, scale, axes, int(blocks[0]), limit, rate)


@dataclass(frozen=True, eq=False)
class NoveltyReport:
    """A rule for what is none of these, and what it does to known pictures that it was not fitted to.

    `turned_away`: their share, with Wilson's 95 % interval, each half by the limit of the other.
    """

    novelty: Novelty
    turned_away: Interval

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {
            "rate": self.novelty.rate,
            "limit": self.novelty.limit,
            "turned_away": self.turned_away.to_dict(),
        }


def fit_novelty(
    known: ArrayLike, held_out: ArrayLike, *, blocks: int = 1, rate: float = RATE, seed: int = 0
) -> NoveltyReport | None:
    """Learn what known pictures span, and from where on a held-out one is turned away.

    `known` (rows, features): features of training pictures; `held_out`: of pictures that the model was not
    trained on, whose share `rate` is to lie beyond the limit. None where they are too few to tell (below
    40), or where features do not vary. Raises `UsageError` for features that do not match or are not
    finite.
    """
    rows, others = (_matrix(part) for part in (known, held_out))
    if rows.shape[1] != others.shape[1] or rows.shape[1] % blocks:
        raise UsageError(f"features {rows.shape} and {others.shape} do not match")
    if len(others) < FEWEST_ROWS or len(rows) < ROWS_FOR_AN_AXIS:
        return None
    unit = _unit(rows, blocks)
    mean, spread = unit.mean(0, dtype=np.float64), unit.std(0, dtype=np.float64)
    if not (spread > 0).any():
        return None
    scale = 1.0 / (spread + LEAST_SPREAD * np.median(spread[spread > 0]))
    standard = ((unit - mean) * scale).astype(np.float32)
    count = min(MOST_AXES, len(rows) // ROWS_FOR_AN_AXIS, rows.shape[1] - 1)
    axes = _axes(standard, max(0, count))
    plain = Novelty(mean.astype(np.float32), scale.astype(np.float32), axes, blocks, 1.0, rate)
    distances = plain.distances(others)
    limit = _limit(distances, rate)
    if not limit > 0:
        return None
    half = np.random.default_rng(seed).permutation(len(distances)) % 2 == 0
    beyond = sum(int((distances[own] > _limit(distances[~own], rate)).sum()) for own in (half, ~half))
    share = Interval(beyond / len(distances), *wilson(beyond, len(distances)))
    return NoveltyReport(replace(plain, limit=limit), share)


def _limit(distances: Floats, rate: float) -> float:
    """The distance beyond which a new picture lies in `rate` of the cases: a conformal quantile."""
    place = math.ceil((len(distances) + 1) * (1 - rate))
    return float(np.sort(distances)[min(place, len(distances)) - 1])


def _axes(standard: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The `count` directions in which the rows (rows, features) vary most, orthonormal: (features, count)."""
    rows, width = standard.shape
    gram = standard @ standard.T if rows < width else standard.T @ standard
    values, vectors = np.linalg.eigh(gram.astype(np.float64))
    kept = np.argsort(-values)[:count]
    kept = kept[values[kept] > 1e-6 * max(float(values[-1]), 1e-30)]
    chosen = vectors[:, kept]
    axes = standard.T @ chosen / np.sqrt(values[kept]) if rows < width else chosen
    return np.ascontiguousarray(axes, np.float32)


def _matrix(features: ArrayLike) -> NDArray[np.float32]:
    rows = np.asarray(features, np.float32)
    rows = rows.reshape(len(rows), -1)
    if not np.isfinite(rows).all():
        raise UsageError("features are not finite", "look at the weights of the body")
    return rows


def _unit(rows: NDArray[np.float32], blocks: int) -> NDArray[np.float32]:
    parts = rows.reshape(len(rows), blocks, -1)
    length = np.linalg.norm(parts, axis=2, keepdims=True)
    return np.asarray((parts / np.maximum(length, 1e-12)).reshape(rows.shape), np.float32)
