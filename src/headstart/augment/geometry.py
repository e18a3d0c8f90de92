"""Geometry as 3 x 3 matrices: flips, turns, zooms, perspective, crops.

Every function takes one value for each of B samples and returns float64 (B, 3, 3) matrices, or a
single number and returns one matrix (3, 3). They act on columns (x, y, 1) and map a place in the
*output* to the place in the *input* that is seen there. Coordinates are centred and in units of half
the longer side of the view: x to the right, y down, and the view lies within -1 … 1. So a turn is a
turn whatever the view's shape. The output of one is the input of the next: with `first @ second` the
picture is changed by `first`, then by `second`. Each function gives the identity where its value is
0 (a zoom: 1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrices = NDArray[np.float64]

_QUARTER_COSINES = np.array([1.0, 0.0, -1.0, 0.0])
_QUARTER_SINES = np.array([0.0, 1.0, 0.0, -1.0])
_CORNERS = np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
# From the square -1 … 1 to the square 0 … 1.
_TO_UNIT_SQUARE = np.array([[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0, 1]])


def identity(count: int) -> Matrices:
    """Return `count` identity matrices, (B, 3, 3)."""
    return np.tile(np.eye(3), (count, 1, 1))


def _numbers(value: ArrayLike) -> Any:
    return value if isinstance(value, float | int) else np.asarray(value, np.float64)


def matrix(*rows: tuple[Any, Any, Any]) -> Matrices:
    """Return matrices from their entries, each a number or an array (B,): (B, rows, 3) or (rows, 3)."""
    if np.ndarray not in {type(entry) for row in rows for entry in row}:
        return np.array(rows, np.float64)
    entries = np.broadcast_arrays(*(entry for row in rows for entry in row))
    return np.stack(entries, axis=-1, dtype=np.float64).reshape(*entries[0].shape, len(rows), 3)


def flip_horizontal(flipped: ArrayLike) -> Matrices:
    """Mirror left and right where `flipped` is true."""
    mirrored = 1.0 - 2.0 * _numbers(flipped)
    return matrix((mirrored, 0, 0), (0, 1, 0), (0, 0, 1))


def dihedral(element: ArrayLike) -> Matrices:
    """Apply one of the eight symmetries of the square: `element` in 0 … 7.

    `element % 4` quarter turns counter-clockwise; from 4 on, mirrored left and right afterwards.
    """
    number = np.asarray(element, np.int64)
    cosine, sine = _QUARTER_COSINES[number % 4], _QUARTER_SINES[number % 4]
    mirrored = 1.0 - 2.0 * (number >= 4)
    return matrix((cosine * mirrored, -sine, 0), (sine * mirrored, cosine, 0), (0, 0, 1))


def rotate(degrees: ArrayLike) -> Matrices:
    """Turn the picture counter-clockwise by `degrees`."""
    angle = np.deg2rad(_numbers(degrees))
    cosine, sine = np.cos(angle), np.sin(angle)
    return matrix((cosine, -sine, 0), (sine, cosine, 0), (0, 0, 1))


def zoom(factor: ArrayLike) -> Matrices:
    """Enlarge the picture by `factor`, above 0; 1 changes nothing."""
    seen = 1.0 / _numbers(factor)
    return matrix((seen, 0, 0), (0, seen, 0), (0, 0, 1))


def squish(stretch: ArrayLike) -> Matrices:
    """Stretch the picture's width by exp(`stretch`) against its height, by enlarging one of the two."""
    value = _numbers(stretch)
    across, down = np.exp(-np.maximum(value, 0.0)), np.exp(np.minimum(value, 0.0))
    return matrix((across, 0, 0), (0, down, 0), (0, 0, 1))


def shear(right: ArrayLike, down: ArrayLike) -> Matrices:
    """Slant the picture: what lies 1 below the centre is seen from `right` further right, and so on."""
    return matrix((1, _numbers(right), 0), (_numbers(down), 1, 0), (0, 0, 1))


def symmetric_warp(horizontal: ArrayLike, vertical: ArrayLike) -> Matrices:
    """View the picture from the side and from above, as if the camera had moved.

    With `horizontal` = m, inside (-1, 1), the view's left edge shows 1 + m of the picture's half
    height and its right edge 1 - m, while both stay where they are; `vertical` likewise for the top
    and the bottom edge. It is the exact perspective between those two trapezoids.
    """
    across, along = _numbers(horizontal), _numbers(vertical)
    first = matrix((1, 0, across), (0, 1.0 - across**2, 0), (across, 0, 1))
    second = matrix((1.0 - along**2, 0, 0), (0, 1, along), (0, along, 1))
    return first @ second


def perspective(moved: ArrayLike) -> Matrices:
    """View the picture through the perspective that moves the four corners of the square -1 … 1.

    `moved` (…, 4, 2): how far to the right and down the place lies that is seen at the top left, top
    right, bottom right and bottom left corner. The four must stay a convex quadrilateral, which they do
    below 1. Source: Heckbert, Fundamentals of Texture Mapping and Image Warping, 1989, section 2.2.3.
    """
    corners = np.asarray(moved, np.float64) + _CORNERS
    x, y = np.moveaxis(corners, -1, 0)
    (x0, x1, x2, x3), (y0, y1, y2, y3) = np.moveaxis(x, -1, 0), np.moveaxis(y, -1, 0)
    sum_x, sum_y = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    area = (x1 - x2) * (y3 - y2) - (x3 - x2) * (y1 - y2)
    g = (sum_x * (y3 - y2) - (x3 - x2) * sum_y) / area
    h = ((x1 - x2) * sum_y - sum_x * (y1 - y2)) / area
    to_corners = matrix(
        (x1 - x0 + g * x1, x3 - x0 + h * x3, x0), (y1 - y0 + g * y1, y3 - y0 + h * y3, y0), (g, h, 1)
    )
    return np.asarray(to_corners @ _TO_UNIT_SQUARE)


def shift(right: ArrayLike, down: ArrayLike) -> Matrices:
    """Look further to the right and further down in the picture by these amounts."""
    return matrix((1, 0, _numbers(right)), (0, 1, _numbers(down)), (0, 0, 1))
