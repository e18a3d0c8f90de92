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
        lambda count: geometry.squish(np.zeros(count)),
        lambda count: geometry.shear(np.zeros(count), np.zeros(count)),
        lambda count: geometry.perspective(np.zeros((count, 4, 2))),
    ],
    ids=["flip", "dihedral", "rotate", "zoom", "warp", "shift", "squish", "shear", "perspective"],
)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_magnitude_zero_is_the_identity(matrices: Callable[[int], np.ndarray], count: int) -> None:
    np.testing.assert_array_equal(matrices(count), geometry.identity(count))


@given(st.lists(st.floats(-0.5, 0.5), min_size=8, max_size=8))
def test_a_perspective_shows_the_moved_corners_at_the_corners(moves: list[float]) -> None:
    moved = np.array(moves).reshape(4, 2)
    matrix = geometry.perspective(moved)
    for corner, move in zip([(-1, -1), (1, -1), (1, 1), (-1, 1)], moved, strict=True):
        x, y, w = matrix @ (*corner, 1.0)
        np.testing.assert_allclose((x / w, y / w), np.array(corner) + move, atol=1e-9)


def test_a_symmetric_warp_is_the_perspective_between_its_trapezoids() -> None:
    m = 0.2
    (warp,) = geometry.symmetric_warp([m], [0.0])
    moved = np.array([[0, -m], [0, m], [0, -m], [0, m]])
    general = geometry.perspective(moved)
    np.testing.assert_allclose(warp, general / general[2, 2], atol=1e-12)


def test_a_squish_enlarges_one_side_and_so_shows_nothing_beyond() -> None:
    wide, tall = geometry.squish([0.3, -0.3])
    np.testing.assert_allclose(np.diag(wide), [np.exp(-0.3), 1, 1])
    np.testing.assert_allclose(np.diag(tall), [1, np.exp(-0.3), 1])


def test_one_number_gives_the_matrix_that_an_array_gives() -> None:
    for make, values in (
        (geometry.rotate, (7.3,)),
        (geometry.zoom, (1.3,)),
        (geometry.squish, (0.2,)),
        (geometry.dihedral, (5,)),
        (geometry.flip_horizontal, (True,)),
        (geometry.shear, (0.3, -0.2)),
        (geometry.symmetric_warp, (0.1, -0.2)),
        (geometry.shift, (0.1, 0.2)),
    ):
        one, many = make(*values), make(*([value] * 9 for value in values))
        assert one.shape == (3, 3)
        np.testing.assert_array_equal(np.tile(one, (9, 1, 1)), many)
