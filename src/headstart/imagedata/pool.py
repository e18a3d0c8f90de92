"""Features of pictures by content, for data that divide the same pictures in several ways."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class FeaturePool:
    """Keeps in memory what engines gave, picture by picture, so that no fold asks for it again.

    `name` says which view and which weights features belong to; a picture is known by the hash of its
    bytes. `computed` counts the pictures that were put in.
    """

    def __init__(self) -> None:
        self._features: dict[str, dict[str, NDArray[np.float32]]] = {}
        self.computed = 0

    def missing(self, name: str, hashes: Sequence[str]) -> NDArray[np.bool_]:
        """Say of each picture whether its features are not here: bool (pictures,)."""
        known = self._features.get(name, {})
        return np.array([picture not in known for picture in hashes], np.bool_)

    def add(self, name: str, hashes: Sequence[str], features: NDArray[np.float32]) -> None:
        """Keep features (pictures, …)."""
        known = self._features.setdefault(name, {})
        before = len(known)
        known.update(zip(hashes, features, strict=True))
        self.computed += len(known) - before

    def take(self, name: str, hashes: Sequence[str]) -> NDArray[np.float32]:
        """Return the features of pictures that are all here (pictures, …)."""
        known = self._features[name]
        return np.stack([known[picture] for picture in hashes])
