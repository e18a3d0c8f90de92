"""What every augmentation must hold to: a new one is added to the table and inherits these tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from headstart.augment import (
    Augmentation,
    TrainPrepare,
    apply_color,
    color,
    geometry,
    none,
    side_on,
    top_down,
    warp,
)

COUNT = 16


def reach(count: int = COUNT) -> np.ndarray:
    """Values from -1 to 1, none of them 0."""
    return np.linspace(-1, 1, count)


# name: matrices for values in -1 ... 1, where 0 must change nothing.
GEOMETRY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "flip": lambda value: geometry.flip_horizontal(value != 0),
    "dihedral": lambda value: geometry.dihedral(np.rint(np.abs(value) * 7).astype(int)),
    "rotate": lambda value: geometry.rotate(30 * value),
    "zoom": lambda value: geometry.zoom(1 + 0.3 * np.abs(value)),
    "symmetric warp": lambda value: geometry.symmetric_warp(0.2 * value, 0.1 * value),
    "shift": lambda value: geometry.shift(0.1 * value, -0.1 * value),
}
CURVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "brightness": lambda value: color.lighting(0.2 * value, 0 * value),
    "contrast": lambda value: color.lighting(0 * value, 0.2 * value),
}
# name: an augmentation that does this alone, always.
ALONE: dict[str, Augmentation] = {
    "flip": Augmentation(flip_horizontal=True),
    "dihedral": Augmentation(dihedral=True),
    "rotate": Augmentation(max_rotate=30, p_affine=1),
    "zoom": Augmentation(max_zoom=1.5, p_affine=1),
    "symmetric warp": Augmentation(max_warp=0.3, p_affine=1),
    "random crop": Augmentation(random_crop=True),
    "lighting": Augmentation(max_lighting=0.3, p_lighting=1),
    "side-on": side_on(),
    "top-down": top_down(),
}

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", GEOMETRY)
def test_magnitude_zero_is_the_identity_of_the_matrices(name: str) -> None:
    np.testing.assert_array_equal(GEOMETRY[name](np.zeros(COUNT)), geometry.identity(COUNT))


@pytest.mark.parametrize("name", CURVES)
def test_magnitude_zero_is_the_identity_of_the_curves(name: str) -> None:
    (curve, *_) = CURVES[name](np.zeros(COUNT))
    np.testing.assert_array_equal(curve, np.arange(256))
    np.testing.assert_array_equal(apply_color(PICTURE, curve=curve), PICTURE)


def test_magnitude_zero_changes_no_pixel() -> None:
    (matrix, *_) = geometry.identity(1)
    np.testing.assert_array_equal(warp(PICTURE, matrix, (40, 60)), PICTURE)


@pytest.mark.parametrize("name", GEOMETRY)
def test_any_other_magnitude_does_change_something(name: str) -> None:
    assert not np.allclose(GEOMETRY[name](np.array([1.0])), geometry.identity(1))


@pytest.mark.parametrize("name", [*GEOMETRY, *CURVES])
def test_a_sample_is_changed_alike_however_it_is_batched(name: str) -> None:
    make = {**GEOMETRY, **CURVES}[name]
    together = make(reach())
    assert len(together) == COUNT
    for row, value in enumerate(reach()):
        np.testing.assert_array_equal(make(np.array([value]))[0], together[row])


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_can_be_undone_and_stays_in_front_of_the_camera(name: str) -> None:
    for matrix in GEOMETRY[name](reach()):
        assert abs(np.linalg.det(matrix)) > 0.1
        corners = matrix @ np.array([[-1, -1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, 1]], np.float64).T
        assert (corners[2] > 0).all()


@pytest.mark.parametrize("name", ALONE)
def test_draws_are_pure_and_each_sample_s_own(name: str) -> None:
    augmentation = ALONE[name]
    ids = np.arange(COUNT, dtype=np.uint64) * 977
    together = augmentation.draw(3, 5, ids)
    for row, identity in enumerate(ids):
        alone = augmentation.draw(3, 5, [identity])
        for field in dataclasses.fields(together):
            assert getattr(alone, field.name)[0] == getattr(together, field.name)[row]
        np.testing.assert_array_equal(augmentation.geometry(alone)[0], augmentation.geometry(together)[row])
        curves = augmentation.curves(together)
        if curves is not None:
            np.testing.assert_array_equal(augmentation.curves(alone)[0], curves[row])  # type: ignore[index]


@pytest.mark.parametrize("name", ALONE)
def test_epochs_and_samples_differ_and_the_same_again_is_the_same(name: str) -> None:
    prepare = TrainPrepare(ALONE[name], (32, 32), crop_fraction=0.8)
    pixels = {prepare(PICTURE, identity, epoch).tobytes() for identity in range(4) for epoch in range(4)}
    assert len(pixels) >= 2
    assert len({prepare(PICTURE, 3, 3).tobytes() for _ in range(3)}) == 1
    plain = TrainPrepare(none(), (32, 32), crop_fraction=0.8)
    assert len({plain(PICTURE, identity, 0).tobytes() for identity in range(4)}) == 1


@pytest.mark.parametrize("name", ALONE)
def test_pixels_stay_pixels(name: str) -> None:
    for shape in ((1, 1, 3), (3, 200, 3), (40, 60, 3)):
        out = TrainPrepare(ALONE[name], (24, 32))(np.full(shape, 255, np.uint8), 1, 1)
        assert out.shape == (24, 32, 3)
        assert out.dtype == np.uint8
        assert (out == 255).all()
