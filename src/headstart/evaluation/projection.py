"""A map of pictures: many features each become a place on a plane, near each other where they are alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.errors import UsageError

MOST_FOR_TSNE = 5000
_MOST_FOR_AUTO = 2000
_FEWEST_FOR_TSNE = 20
_DIRECTIONS = 50
_PERPLEXITY = 30.0
PROJECTIONS = ("auto", "pca", "tsne")


def project(features: ArrayLike, *, method: str = "auto", seed: int = 0) -> NDArray[np.float64]:
    """Return a place on a plane for each row of features, float64 (rows, 2).

    `features`: (rows, …), flattened. `pca`: the two directions of the largest variance; `tsne`: t-SNE (van
    der Maaten & Hinton 2008) of the first 50 of them, begun from the first two, which keeps neighbours
    together and says nothing of large distances; `auto`: t-SNE for 20 to 2,000 rows, else PCA. The same seed
    gives the same map. Raises `UsageError` for another method, for features that are not finite, and for
    more than 5,000 rows or fewer than 20 by t-SNE.
    """
    if method not in PROJECTIONS:
        raise UsageError(f"there is no projection {method!r}", f"choose from {', '.join(PROJECTIONS)}")
    values = np.asarray(features, dtype=np.float64)
    values = values.reshape(len(values), int(np.prod(values.shape[1:])))
    if not np.isfinite(values).all():
        raise UsageError("some features are not finite", "the network has diverged: load a good checkpoint")
    if method == "auto":
        method = "tsne" if _FEWEST_FOR_TSNE <= len(values) <= _MOST_FOR_AUTO else "pca"
    if method == "tsne" and not _FEWEST_FOR_TSNE <= len(values) <= MOST_FOR_TSNE:
        raise UsageError(
            f"t-SNE of {len(values)} pictures",
            f"take {_FEWEST_FOR_TSNE} to {MOST_FOR_TSNE} of them, or the projection pca",
        )
    directions = _principal(values, _DIRECTIONS if method == "tsne" else 2, seed)
    return _neighbours(directions, seed) if method == "tsne" else directions[:, :2]


def _principal(values: NDArray[np.float64], count: int, seed: int) -> NDArray[np.float64]:
    """Return the coordinates along the directions of the largest variance, (rows, 2 or more)."""
    from sklearn.decomposition import PCA

    most = min(count, *values.shape)
    found = np.zeros((len(values), max(most, 2)))
    # A constant has no direction; scikit-learn would divide by its variance.
    if most and np.ptp(values, axis=0).any():
        solver = "randomized" if min(values.shape) > 4 * most else "full"
        found[:, :most] = PCA(most, svd_solver=solver, random_state=seed).fit_transform(values)
    return found


def _neighbours(directions: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE

    spread = float(directions[:, 0].std()) or 1.0
    # As scikit-learn's own start by PCA does, and Kobak & Berens 2019 advise.
    start = np.ascontiguousarray(directions[:, :2] / spread * 1e-4, dtype=np.float32)
    perplexity = min(_PERPLEXITY, (len(directions) - 1) / 3)
    found = TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(directions)
    return np.asarray(found, np.float64)
