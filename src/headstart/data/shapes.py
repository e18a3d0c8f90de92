"""The sizes and shapes of a collection: what they suggest, and what cutting to one size takes away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.types import Size

Policy: TypeAlias = Literal["crop", "squish", "pad"]
Floats: TypeAlias = NDArray[np.float64]

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Those that are reported: least, 5 %, quarter, middle, three quarters, 95 %, most."""

SUGGESTED_SIZES = (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 384)
"""Sides that suit the usual bodies: multiples of 32, by which they reduce a picture."""

MOST_CUT = 0.5
ALIKE = 1.25


@dataclass(frozen=True, eq=False)
class Shapes:
    """Heights and widths of whole pictures, upright, int64 (N,), all positive."""

    height: NDArray[np.int64]
    width: NDArray[np.int64]

    @property
    def short_side(self) -> NDArray[np.int64]:
        """The shorter side of each picture, int64 (N,)."""
        return np.minimum(self.height, self.width)

    @property
    def aspect(self) -> Floats:
        """Width over height, float64 (N,)."""
        return np.asarray(self.width / self.height, np.float64)

    def suggested_size(self) -> int:
        """Return the largest usual training size for which nine in ten pictures have the pixels.

        At most 384: beyond it time grows faster than accuracy does, and the pretrained weights were
        made for 224 to 288. Start smaller, and grow (progressive resizing).
        """
        enough = float(np.quantile(self.short_side, 0.1)) if len(self.height) else 224.0
        return max((size for size in SUGGESTED_SIZES if size <= enough), default=SUGGESTED_SIZES[0])

    def cut_away(self, size: Size, *, policy: Policy = "crop", crop_fraction: float = 0.875) -> Floats:
        """Return the share of each picture that evaluation does not see, 0 … 1, float64 (N,).

        With `crop`, the largest window of the shape of `size` (height, width) is taken, and of it the
        middle `crop_fraction` of each side; with `squish` and `pad` nothing is cut.
        """
        if policy != "crop":
            return np.zeros(len(self.height))
        return 1.0 - kept_by_shape(self.aspect, size) * crop_fraction**2

    def to_dict(self, size: Size, *, policy: Policy, crop_fraction: float) -> dict[str, Any]:
        """Return quantiles, histograms, the suggested size and what is cut away, as JSON can hold it."""
        if not len(self.height):
            return {}
        cut = {
            each: quantiles(self.cut_away(size, policy=each, crop_fraction=crop_fraction), digits=3)
            for each in ("crop", policy)
        }
        columns = {"width": self.width, "height": self.height, "short_side": self.short_side}
        return {
            "quantiles": {name: quantiles(column) for name, column in columns.items()}
            | {"aspect": quantiles(self.aspect, digits=3)},
            "histograms": {name: histogram(column) for name, column in columns.items()}
            | {"aspect": histogram(self.aspect)},
            "suggested_size": self.suggested_size(),
            "cut_away": cut,
        }


def kept_by_shape(aspect: Floats, size: Size) -> Floats:
    """Return the share of pictures of these aspects (width / height) that a window of `size` can hold."""
    ratio = np.asarray(aspect, np.float64) / (size[1] / size[0])
    return np.asarray(np.minimum(ratio, 1.0 / ratio))


def choose_policy(shapes: Shapes, size: Size) -> tuple[Policy, str]:
    """Return how pictures should be brought to `size` (height, width), and why, in one line.

    `crop` keeps shapes true and things large, and is what pretrained weights were evaluated with; of
    photographs (3:2, 4:3) it takes a quarter to a third, mostly background: a probe on mobilenetv2_100
    at 128 pixels had 86.9 % on 160 flowers, by squish 80.6 % and by pad 84.4 %, and on 300 cats and dogs
    96.0, 93.3 and 93.3 %. Where more than a quarter of the pictures would lose more than half of
    themselves (beyond 2:1 for a square), what is to be seen is itself often cut. Then, where pictures
    are shaped alike (nine in ten within a quarter of the middle one's aspect), `squish` stretches all of
    them the same way, which a network can learn, and wastes no pixel; where they differ, so that things
    would be stretched this way in one and that way in another,
    `pad` leaves them as they are.
    """
    if not len(shapes.height):
        return "crop", "crop: there are no sizes to judge by"
    lost = 1.0 - kept_by_shape(shapes.aspect, size)
    many = float(np.mean(lost > MOST_CUT))
    shape = f"{size[0]} x {size[1]}"
    if many <= 0.25:
        middle = float(np.median(lost))
        lose = f"the middle picture loses {middle:.0%}, and {many:.0%} of all lose more than half"
        return "crop", f"crop to {shape}: {lose}"
    middle_aspect = float(np.median(shapes.aspect))
    away = np.maximum(shapes.aspect / middle_aspect, middle_aspect / shapes.aspect)
    reason = f"a crop would take more than half of {many:.0%} of the pictures"
    if float(np.quantile(away, 0.9)) <= ALIKE:
        return "squish", f"squish to {shape}: {reason}, and they are shaped alike"
    return "pad", f"pad to {shape}: {reason}, and their shapes differ"


def quantiles(values: ArrayLike, *, digits: int = 0) -> dict[str, float]:
    """Return `QUANTILES` of values, by their percentage ("0", "5", … "100"), rounded."""
    found = np.quantile(np.asarray(values, np.float64), QUANTILES)
    return {
        f"{100 * share:.0f}": round(float(value), digits)
        for share, value in zip(QUANTILES, found, strict=True)
    }


def histogram(values: ArrayLike, *, bins: int = 24) -> dict[str, list[float]]:
    """Return a histogram in equal steps: `edges` (bins + 1) and `counts` (bins).

    It reaches from the 0.5 % to the 99.5 % quantile; what lies beyond counts in the first or last bin, so
    that one odd picture does not press all others into one bin.
    """
    given = np.asarray(values, np.float64)
    low, high = (float(edge) for edge in np.quantile(given, (0.005, 0.995)))
    if high - low < 1e-6 * high:
        low, high = 0.9 * low, 1.1 * high
    counts, edges = np.histogram(np.clip(given, low, high), bins=bins, range=(low, high))
    return {
        "edges": [round(float(edge), 4) for edge in edges],
        "counts": [int(count) for count in counts],
    }
