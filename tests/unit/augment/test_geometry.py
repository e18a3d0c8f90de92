"""Geometry: what each matrix does to the places that one knows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.augment import geometry

SMALL = st.floats(-0.5, 0.5)


def seen(matrix: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """The place in the picture that the place (x, y) of the view shows."""
    u, v, w = matrix @ (x, y, 1.0)
    return (u / w, v / w)


def test_a_flip_shows_the_right_on_the_left() -> None:
    flipped, plain = geometry.flip_horizontal([True, False])
    assert seen(flipped, -1, 0.5) == (1, 0.5)
    assert seen(plain, -1, 0.5) == (-1, 0.5)


def test_a_positive_turn_is_counter_clockwise() -> None:
    (matrix,) = geometry.rotate([90.0])
    # y points down: what was on the right is now at the top.
    np.testing.assert_allclose(seen(matrix, 0, -1), (1, 0), atol=1e-12)


def test_a_zoom_shows_less_of_the_picture() -> None:
    (matrix,) = geometry.zoom([2.0])
    assert seen(matrix, 1, -1) == (0.5, -0.5)


def test_a_shift_looks_further() -> None:
    (matrix,) = geometry.shift([0.25], [-0.5])
    assert seen(matrix, 0, 0) == (0.25, -0.5)


@given(SMALL)
def test_a_warp_keeps_the_edges_places_and_changes_their_lengths(magnitude: float) -> None:
    (matrix,) = geometry.symmetric_warp([magnitude], [0.0])
    for side, half in ((-1, 1 + magnitude), (1, 1 - magnitude)):
        for y in (-1, 0, 1):
            np.testing.assert_allclose(seen(matrix, side, y), (side, y * half), atol=1e-12)
    (turned,) = geometry.symmetric_warp([0.0], [magnitude])
    np.testing.assert_allclose(seen(turned, 1, -1), (1 + magnitude, -1), atol=1e-12)


@given(SMALL, SMALL, st.floats(-1, 1), st.floats(-1, 1))
def test_a_warp_never_turns_the_view_inside_out(across: float, down: float, x: float, y: float) -> None:
    (matrix,) = geometry.symmetric_warp([across], [down])
    assert (matrix @ (x, y, 1.0))[2] > 0.1


def test_the_eight_symmetries_are_a_group() -> None:
    elements = geometry.dihedral(np.arange(8))
    assert len({element.round(6).tobytes() for element in elements + 0.0}) == 8
    for first in elements:
        for second in elements:
            assert any(np.array_equal(first @ second, element) for element in elements)
    assert sorted(np.linalg.det(elements).round().tolist()) == [-1] * 4 + [1] * 4


def test_the_symmetries_turn_as_rotations_do_and_mirror_afterwards() -> None:
    elements = geometry.dihedral(np.arange(8))
    np.testing.assert_allclose(elements[:4], geometry.rotate([0.0, 90.0, 180.0, 270.0]), atol=1e-12)
    np.testing.assert_array_equal(elements[4:], elements[:4] @ geometry.flip_horizontal([True] * 4))


@pytest.mark.parametrize(
    "matrices",
    [
        lambda count: geometry.flip_horizontal(np.zeros(count, np.bool_)),
        lambda count: geometry.dihedral(np.zeros(count, np.int64)),
        lambda count: geometry.rotate(np.zeros(count)),
        lambda count: geometry.zoom(np.ones(count)),
        lambda count: geometry.symmetric_warp(np.zeros(count), np.zeros(count)),
        lambda count: geometry.shift(np.zeros(count), np.zeros(count)),
    ],
    ids=["flip", "dihedral", "rotate", "zoom", "warp", "shift"],
)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_magnitude_zero_is_the_identity(matrices: Callable[[int], np.ndarray], count: int) -> None:
    np.testing.assert_array_equal(matrices(count), geometry.identity(count))
