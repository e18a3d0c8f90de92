"""Geometry as 3 x 3 matrices, one for each sample: flips, turns, zooms, perspective, crops.

Every function takes one value for each of B samples and returns float64 (B, 3, 3) matrices that act
on columns (x, y, 1) and map a place in the *output* to the place in the *input* that is seen there.
Coordinates are centred and in units of half the longer side of the view: x to the right, y down, and
the view lies within -1 … 1. So a turn is a turn whatever the view's shape. The output of one
is the input of the next: with `first @ second` the picture is changed by `first`, then by `second`.
Each function gives the identity where its value is 0 (a zoom: 1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrices = NDArray[np.float64]

_TURNS = np.array([[[1, 0], [0, 1]], [[0, -1], [1, 0]], [[-1, 0], [0, -1]], [[0, 1], [-1, 0]]], np.float64)


def identity(count: int) -> Matrices:
    """Return `count` identity matrices, (B, 3, 3)."""
    return np.tile(np.eye(3), (count, 1, 1))


def flip_horizontal(flipped: ArrayLike) -> Matrices:
    """Mirror left and right where `flipped` (B,) is true."""
    matrices = identity(len(np.asarray(flipped)))
    matrices[:, 0, 0] = np.where(flipped, -1.0, 1.0)
    return matrices


def dihedral(element: ArrayLike) -> Matrices:
    """Apply one of the eight symmetries of the square: `element` (B,) in 0 … 7.

    `element % 4` quarter turns counter-clockwise; from 4 on, mirrored left and right afterwards.
    """
    number = np.asarray(element, np.int64)
    matrices = identity(len(number))
    matrices[:, :2, :2] = _TURNS[number % 4]
    return matrices @ flip_horizontal(number >= 4)


def rotate(degrees: ArrayLike) -> Matrices:
    """Turn the picture counter-clockwise by `degrees` (B,)."""
    angle = np.deg2rad(np.asarray(degrees, np.float64))
    matrices = identity(len(angle))
    matrices[:, 0, 0] = matrices[:, 1, 1] = np.cos(angle)
    matrices[:, 0, 1], matrices[:, 1, 0] = -np.sin(angle), np.sin(angle)
    return matrices


def zoom(factor: ArrayLike) -> Matrices:
    """Enlarge the picture by `factor` (B,), above 0; 1 changes nothing."""
    factor = np.asarray(factor, np.float64)
    matrices = identity(len(factor))
    matrices[:, 0, 0] = matrices[:, 1, 1] = 1.0 / factor
    return matrices


def symmetric_warp(horizontal: ArrayLike, vertical: ArrayLike) -> Matrices:
    """View the picture from the side and from above, as if the camera had moved.

    With `horizontal` = m (B,), inside (-1, 1), the view's left edge shows 1 + m of the picture's half
    height and its right edge 1 - m, while both stay where they are; `vertical` likewise for the top
    and the bottom edge. It is the exact perspective between those two trapezoids.
    """
    across, down = np.asarray(horizontal, np.float64), np.asarray(vertical, np.float64)
    first, second = identity(len(across)), identity(len(down))
    first[:, 0, 2] = first[:, 2, 0] = across
    first[:, 1, 1] = 1.0 - across**2
    second[:, 1, 2] = second[:, 2, 1] = down
    second[:, 0, 0] = 1.0 - down**2
    return first @ second


def shift(right: ArrayLike, down: ArrayLike) -> Matrices:
    """Look further to the right and further down in the picture by these amounts (B,)."""
    matrices = identity(len(np.asarray(right)))
    matrices[:, 0, 2], matrices[:, 1, 2] = right, down
    return matrices
