"""Explanations: a picture as a network saw it, what it said, and where it found that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import UsageError
from headstart.types import Pixels

STRONGEST = 0.65
"""How much of the picture the hottest place covers."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """One picture: what was said of it, and the heat that speaks for `label`.

    `index`: its row. `label` is the class (or tag) that is explained, by default the one that was predicted;
    `probability` is that of `label`. `truth`: empty where unknown. `view`: the picture as the network saw
    it, uint8 (height, width, 3), and `heat` of the same size, float32, 0 … 1; both None where `status` says
    why the picture could not be read. `method`: how the heat was found.
    """

    path: str
    index: int
    label: str = ""
    probability: float = float("nan")
    prediction: str = ""
    truth: str = ""
    method: str = ""
    status: str = ""
    view: Pixels | None = None
    heat: NDArray[np.float32] | None = None

    @property
    def area_of_half(self) -> float:
        """The smallest share of the view, 0 … 1, that holds half of the heat; NaN where there is none.

        About 0.2 to 0.4 for a thing that fills the picture; near 0.01 for a mark in a corner.
        """
        return float("nan") if self.heat is None else area_of_half(self.heat)

    @property
    def hottest(self) -> tuple[float, float]:
        """Where the heat is highest: (right, down) as shares of the view; NaN where there is none."""
        if self.heat is None or not self.heat.any():
            return (float("nan"), float("nan"))
        row, column = np.unravel_index(int(self.heat.argmax()), self.heat.shape)
        return (float((column + 0.5) / self.heat.shape[1]), float((row + 0.5) / self.heat.shape[0]))

    def overlay(self) -> Pixels:
        """Return the view with the heat laid over it; raises `UsageError` where there is no heat."""
        if self.view is None or self.heat is None:
            raise UsageError(f"there is no heat map of {self.path or self.index}: {self.status or 'no heat'}")
        return overlay(self.view, self.heat)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields but the pixels, for JSON; None for what is unknown."""
        right, down = self.hottest
        return {
            "path": self.path,
            "status": self.status or "ok",
            "label": self.label or None,
            "probability": _known(self.probability),
            "prediction": self.prediction or None,
            "truth": self.truth or None,
            "method": self.method or None,
            "area_of_half": _known(self.area_of_half),
            "hottest": None if np.isnan(right) else [round(right, 4), round(down, 4)],
        }


def overlay(picture: Pixels, heat: NDArray[np.float32]) -> Pixels:
    """Return a picture (height, width, 3) with heat (height, width), 0 … 1, laid over it in colours.

    What is cold stays as it is. Raises `UsageError` where the sizes differ.
    """
    from matplotlib import colormaps

    if picture.shape[:2] != heat.shape:
        raise UsageError(f"heat of {heat.shape} does not fit a picture of {picture.shape[:2]}")
    # From green to red: the ends of the map, blue and nearly black, would read as cold.
    colours = 255 * colormaps["turbo"](0.4 + 0.48 * heat)[..., :3]
    share = STRONGEST * heat[..., None]
    return np.asarray(np.rint((1 - share) * picture + share * colours), np.uint8)


def share_of_heat(heat: NDArray[np.float32], place: NDArray[np.bool_]) -> float:
    """Return the share of the heat, 0 … 1, that lies on a place (bool, as large); NaN without heat."""
    total = float(heat.sum(dtype=np.float64))
    return float(heat[place].sum(dtype=np.float64)) / total if total > 0 else float("nan")


def area_of_half(heat: NDArray[np.float32]) -> float:
    """Return the smallest share of the places that holds half of the heat, 0 … 1; NaN without heat."""
    total = float(heat.sum(dtype=np.float64))
    if not total > 0:
        return float("nan")
    gathered = np.cumsum(np.sort(heat, axis=None)[::-1], dtype=np.float64)
    return float((np.searchsorted(gathered, total / 2) + 1) / heat.size)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)
