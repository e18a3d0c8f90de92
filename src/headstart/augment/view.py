"""Where the view lies in the picture: the matrix from output pixels to input pixels."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.augment import geometry
from headstart.augment.draws import Column
from headstart.augment.warp import Policy
from headstart.errors import UsageError
from headstart.types import Size


def view_matrix(
    picture: tuple[Column, Column],
    size: Size,
    change: NDArray[np.float64],
    *,
    policy: Policy = "crop",
    crop_fraction: float = 1.0,
    place: tuple[Column, Column] = (0.0, 0.0),
    turned: Column = False,
    zoom: Column = 1.0,
    window: tuple[Column, Column] | None = None,
) -> NDArray[np.float64]:
    """Return the matrix from output pixels to input pixels: the view's place, and the change in it.

    `picture`, `size`: (height, width) of the input and the output. `change`: 3 x 3 in the view's own
    coordinates (see `geometry`). `place`: where the crop lies within what is free, -1 … 1 to the right
    and down; `zoom` (part of `change`) and `turned` (by an odd number of quarters) say how much is free.
    `window`: the (height, width) in input pixels that the view shows, instead of what the policy says.
    For B pictures everything but `size` may be an array (B, …), and so is the result.
    """
    height, width = size
    unit = max(size) / 2
    rows, columns = _rows_and_columns(size, turned)
    if window is not None:
        down, across = window[0] / rows, window[1] / columns
    else:
        # Input pixels for one output pixel.
        down, across = picture[0] / rows, picture[1] / columns
        if policy == "crop":
            down = across = np.minimum(down, across) * crop_fraction
        elif policy == "pad":
            down = across = np.maximum(down, across)
        elif policy != "squish":
            raise UsageError(f"there is no resize policy {policy!r}", "the policies are crop, squish and pad")
    free_right = np.maximum(0.0, picture[1] - columns * across / zoom) / 2
    free_down = np.maximum(0.0, picture[0] - rows * down / zoom) / 2
    middle_x = (picture[1] - 1) / 2 + place[0] * free_right
    middle_y = (picture[0] - 1) / 2 + place[1] * free_down
    to_picture = geometry.matrix((unit * across, 0, middle_x), (0, unit * down, middle_y), (0, 0, 1))
    return np.asarray(to_picture @ change @ _to_view(height, width))


def _rows_and_columns(size: Size, turned: Column) -> tuple[Column, Column]:
    """Return the view's (height, width) in the directions of the picture."""
    height, width = size
    if isinstance(turned, np.ndarray):
        return np.where(turned, width, height), np.where(turned, height, width)
    return (width, height) if turned else (height, width)


@lru_cache(maxsize=64)
def _to_view(height: int, width: int) -> NDArray[np.float64]:
    unit = max(height, width) / 2
    return np.array(
        [[1 / unit, 0, -(width - 1) / 2 / unit], [0, 1 / unit, -(height - 1) / 2 / unit], [0, 0, 1]]
    )


def crop_window(
    picture: tuple[Column, Column], size: Size, areas: Column, ratios: Column, *, turned: Column = False
) -> tuple[Column, Column]:
    """Return the (height, width) of a random-resized crop: of the first of some tries that fits.

    `areas`, `ratios` (…, tries): shares of the picture's area, and ratios of width to height relative to
    the view's. Where no try fits, the largest crop whose ratio is the nearest to those that were tried.
    """
    rows, columns = _rows_and_columns(size, turned)
    height, width = (np.asarray(side, np.float64)[..., None] for side in picture)
    aspect = np.asarray(columns / rows)[..., None] * np.asarray(ratios)
    area = height * width * np.asarray(areas)
    tall, wide = np.sqrt(area / aspect), np.sqrt(area * aspect)
    fits = (tall <= height) & (wide <= width)
    first = fits.argmax(axis=-1)[..., None]
    nearest = np.clip(width / height, aspect.min(-1, keepdims=True), aspect.max(-1, keepdims=True))
    fallback_tall, fallback_wide = np.minimum(height, width / nearest), np.minimum(width, height * nearest)
    found = fits.any(axis=-1, keepdims=True)
    return (
        np.where(found, np.take_along_axis(tall, first, -1), fallback_tall)[..., 0],
        np.where(found, np.take_along_axis(wide, first, -1), fallback_wide)[..., 0],
    )


def describe_matrix(matrix: NDArray[np.float64]) -> list[str]:
    """Return a matrix as three lines of text."""
    return ["  ".join(f"{entry:10.5g}" for entry in row) for row in np.asarray(matrix, Any).tolist()]
